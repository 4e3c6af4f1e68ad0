//! Errors by their kind: runs that failed or paused alike, counted, with the last of them and what
//! people make of them.

use super::{Engine, Error, Fingerprint, Namespace, Status};
use crate::machine::{DeploymentId, RunId, Timestamp};
use crate::store::{ErrorFilter, ErrorMark, ErrorRow, HOURS, RunCount};

/// What people make of a kind of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorState {
    /// Somebody should look.
    Open,
    /// It is mended: open again if a run fails or pauses by it after that.
    Resolved,
    /// Nobody need look, however many runs have it.
    Ignored,
}

impl ErrorState {
    /// All, by their code.
    pub const ALL: [Self; 3] = [Self::Open, Self::Resolved, Self::Ignored];

    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Resolved => "resolved",
            Self::Ignored => "ignored",
        }
    }

    /// As a row has it.
    fn code(self) -> i16 {
        self as i16
    }
}

/// A kind of error.
#[derive(Debug, Clone)]
pub struct ErrorView {
    /// Which.
    pub fingerprint: Fingerprint,
    /// Its function's name.
    pub function: String,
    /// The step that had failed last.
    pub step: Option<String>,
    /// The type of the error, or the code of the pause.
    pub code: String,
    /// The message without what differs from run to run.
    pub message: String,
    /// The message as the first run had it.
    pub example: String,
    /// Runs by their status.
    pub by_status: Vec<(Status, RunCount)>,
    /// When a run had it first.
    pub first_seen: Timestamp,
    /// When the newest run that has it ended or paused.
    pub last_seen: Timestamp,
    /// That run.
    pub run: RunId,
    /// Where its newest runs were invoked last.
    pub deployments: Vec<DeploymentId>,
    /// Runs by the hour of their start, the last hours, the oldest first.
    pub hourly: [i64; HOURS],
    /// What people make of it.
    pub state: ErrorState,
    /// Since when it is resolved or ignored; where it has come back: when it was resolved.
    pub state_at: Option<Timestamp>,
    /// Who did that.
    pub state_by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When it came back after it was resolved.
    pub returned_at: Option<Timestamp>,
}

/// Which kinds of errors.
#[derive(Debug, Clone, Default)]
pub struct ErrorSearch {
    /// Of these functions; empty: of all.
    pub functions: Vec<String>,
    /// That a run in one of these has; empty: in any.
    pub statuses: Vec<Status>,
    /// In one of these states; empty: in any.
    pub states: Vec<ErrorState>,
    /// Seen at this moment or later.
    pub seen_after: Option<Timestamp>,
    /// First seen before this moment.
    pub seen_before: Option<Timestamp>,
    /// How many, 1 to 200.
    pub limit: usize,
    /// Only those after this place in the list.
    pub after: Option<(Timestamp, Fingerprint)>,
}

/// A page of them.
#[derive(Debug, Clone, Default)]
pub struct ErrorPage {
    /// The last seen first.
    pub errors: Vec<ErrorView>,
    /// Where the next page begins.
    pub next: Option<(Timestamp, Fingerprint)>,
}

impl ErrorView {
    /// How many runs have it.
    #[must_use]
    pub fn count(&self) -> RunCount {
        let sum = self.by_status.iter().map(|(_, n)| n.count).sum();
        RunCount { count: sum, exact: self.by_status.iter().all(|(_, n)| n.exact) }
    }
}

fn this_one(which: Fingerprint) -> ErrorFilter {
    ErrorFilter { fingerprint: Some(which.0), ..ErrorFilter::default() }
}

impl Engine {
    /// A page of kinds of errors, the last seen first.
    pub async fn errors(&self, ns: &Namespace, search: ErrorSearch) -> Result<ErrorPage, Error> {
        let filter = ErrorFilter {
            functions: search.functions,
            fingerprint: None,
            status: search.statuses.iter().map(|s| s.code()).collect(),
            states: search.states.iter().map(|s| s.code()).collect(),
        };
        let place = |kind: &ErrorRow| (kind.last_at, kind.fingerprint);
        let mut kinds = self.store().errors(ns.id, &filter).await?;
        kinds.retain(|kind| {
            search.seen_after.is_none_or(|at| kind.last_at >= at)
                && search.seen_before.is_none_or(|at| kind.first_at < at)
                && search.after.is_none_or(|(at, Fingerprint(id))| place(kind) < (at, id))
        });
        let more = kinds.len() > search.limit;
        kinds.truncate(search.limit);
        let last = kinds.last().filter(|_| more).map(place);
        let next = last.map(|(at, id)| (at, Fingerprint(id)));
        Ok(ErrorPage { errors: self.error_views(ns, kinds).await?, next })
    }

    /// A kind of error that a run has.
    pub async fn error(&self, ns: &Namespace, which: Fingerprint) -> Result<ErrorView, Error> {
        let kinds = self.store().errors(ns.id, &this_one(which)).await?;
        let view = self.error_views(ns, kinds).await?.into_iter().next();
        view.ok_or(Error::UnknownFingerprint(which))
    }

    /// Notes what somebody makes of a kind of error that a run has.
    pub async fn mark_error(
        &self,
        ns: &Namespace,
        which: Fingerprint,
        state: ErrorState,
        by: &str,
        reason: Option<&str>,
    ) -> Result<ErrorView, Error> {
        if self.store().errors(ns.id, &this_one(which)).await?.is_empty() {
            return Err(Error::UnknownFingerprint(which));
        }
        // Runs end at the upper end of what their node knows of the time: none that ends from now on,
        // wherever, ends before the lower one.
        let mark = ErrorMark { state: state.code(), at: self.clock().lower(), by, reason };
        if !self.store().mark_error(ns.id, which.0, mark).await? {
            return Err(Error::UnknownFingerprint(which));
        }
        tracing::info!(error.fingerprint = %which, state = state.word(), by, reason, "error marked");
        self.error(ns, which).await
    }

    async fn error_views(
        &self,
        ns: &Namespace,
        kinds: Vec<ErrorRow>,
    ) -> Result<Vec<ErrorView>, Error> {
        if kinds.is_empty() {
            return Ok(Vec::new());
        }
        let runs = self.store().runs_of_errors(ns.id, &kinds, self.clock().upper()).await?;
        let catalog = self.catalog();
        let view = |(kind, runs): (ErrorRow, crate::store::ErrorRuns)| ErrorView {
            fingerprint: Fingerprint(kind.fingerprint),
            function: kind.function,
            step: kind.step,
            code: kind.code,
            message: kind.message,
            example: kind.example,
            by_status: runs
                .by_status
                .into_iter()
                .filter_map(|(code, count)| Some((Status::from_code(code)?, count)))
                .collect(),
            first_seen: kind.first_at,
            last_seen: kind.last_at,
            run: kind.run,
            hourly: runs.hourly,
            state: ErrorState::ALL
                .into_iter()
                .find(|state| state.code() == kind.state)
                .unwrap_or(ErrorState::Open),
            state_at: kind.state_at,
            state_by: kind.state_by,
            reason: kind.reason,
            returned_at: kind.returned_at,
            deployments: runs.deps.into_iter().filter_map(|dep| catalog.public_of(dep)).collect(),
        };
        Ok(kinds.into_iter().zip(runs).map(view).collect())
    }
}
