//! Errors by their kind: runs that failed or paused alike, counted, with the last of them.

use super::{Engine, Error, Fingerprint, Namespace, Status};
use crate::machine::{DeploymentId, RunId, Timestamp};
use crate::store::{ErrorFilter, ErrorRow, HOURS, RunCount};

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
}

/// Which kinds of errors.
#[derive(Debug, Clone, Default)]
pub struct ErrorSearch {
    /// Of these functions; empty: of all.
    pub functions: Vec<String>,
    /// That a run in one of these has; empty: in any.
    pub statuses: Vec<Status>,
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

impl Engine {
    /// A page of kinds of errors, the last seen first.
    pub async fn errors(&self, ns: &Namespace, search: ErrorSearch) -> Result<ErrorPage, Error> {
        let filter = ErrorFilter {
            functions: search.functions,
            fingerprint: None,
            status: search.statuses.iter().map(|s| s.code()).collect(),
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
        let filter = ErrorFilter { fingerprint: Some(which.0), ..ErrorFilter::default() };
        let kinds = self.store().errors(ns.id, &filter).await?;
        let view = self.error_views(ns, kinds).await?.into_iter().next();
        view.ok_or(Error::UnknownFingerprint(which))
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
            deployments: runs.deps.into_iter().filter_map(|dep| catalog.public_of(dep)).collect(),
        };
        Ok(kinds.into_iter().zip(runs).map(view).collect())
    }
}
