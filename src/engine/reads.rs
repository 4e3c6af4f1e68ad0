//! Reads of one run's steps, values, logs and signals, and lists of runs: only what is committed.

use bytes::Bytes;

use super::{
    Attempt, Compared, Engine, Error, Fingerprint, JournalEntry, JournalPage, ListedRun, LogItem,
    Namespace, RunFilter, RunPage, SignalItem, SignalState, Status, StepView,
};
use crate::machine::{
    INLINE_VALUE, Kind, LogPart, OpKind, Row, Run, RunId, StepState, Timestamp, Tried,
};
use crate::store::{self, Bound, Place};

/// The place of a log line within the lines of one moment has so many bits in its number.
const LINE_BITS: u32 = 15;
/// The longest page of a list.
const LONGEST_PAGE: usize = 200;

impl Engine {
    /// A run of this namespace: where it is.
    pub(super) async fn place(&self, ns: &Namespace, run: RunId) -> Result<Place, Error> {
        let place = self.store().place(run).await?;
        place.filter(|p| p.ns == ns.id).ok_or(Error::RunNotFound(run))
    }

    /// Steps after `after_seq` in commit order, at most `limit` settled ones; the last page has
    /// the pending ones too.
    pub async fn journal(
        &self,
        ns: &Namespace,
        run: RunId,
        after_seq: i32,
        limit: usize,
    ) -> Result<JournalPage, Error> {
        let place = self.place(ns, run).await?;
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let page = self.store().journal_page(run, place.home, place.gen_n, after_seq, most).await?;
        let last = page.last().map_or(after_seq, |e| e.row.seq);
        let mut entries: Vec<JournalEntry> = page.into_iter().map(settled).collect();
        if entries.len() >= limit {
            let upto = self.store().settled(run, place.home).await?;
            if upto > last {
                return Ok(JournalPage { entries, upto, generation: place.generation });
            }
        }
        let look = |run: &Run| (run.generation, run.seq, pending_of(run));
        let (generation, upto, pending) = self.with_run(ns, run, look).await?;
        if generation != place.generation {
            // It has continued since the page was read.
            return Box::pin(self.journal(ns, run, after_seq, limit)).await;
        }
        // What has settled since the page was read is on the next page, and no longer pending.
        if upto <= last {
            entries.extend(pending);
        }
        Ok(JournalPage { entries, upto: upto.max(last), generation })
    }

    /// One step with its failed attempts; none if the run has no such step.
    pub async fn step(
        &self,
        ns: &Namespace,
        run: RunId,
        step: &str,
    ) -> Result<Option<StepView>, Error> {
        let place = self.place(ns, run).await?;
        Ok(step_of(step, self.store().rows_of_step(run, &place, step).await?))
    }

    /// What of the log, or of an output stream, comes after number `after_n` (-1: from the start),
    /// oldest first.
    pub async fn logs(
        &self,
        ns: &Namespace,
        run: RunId,
        which: LogPart<'_>,
        after_n: i64,
        limit: usize,
    ) -> Result<Vec<LogItem>, Error> {
        let place = self.place(ns, run).await?;
        if place.imported {
            return self.imported_logs(run, which, after_n, limit).await;
        }
        let begun = place.created_at.as_micros();
        let after = (after_n >= 0).then(|| {
            let at = begun.saturating_add(after_n >> LINE_BITS);
            let k = i16::try_from(after_n & ((1 << LINE_BITS) - 1)).unwrap_or(i16::MAX);
            (Timestamp::from_micros(at), k)
        });
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let lines = self.store().logs(run, which, after, most).await?;
        let item = |line: store::StoredLog| {
            let since = line.line.at.as_micros().saturating_sub(begun).max(0);
            let n = (since.min(i64::MAX >> LINE_BITS) << LINE_BITS) | i64::from(line.k.max(0));
            LogItem { n, line: line.line }
        };
        Ok(lines.into_iter().map(item).collect())
    }

    /// The run's signals in the order of their acceptance.
    pub async fn signals(&self, ns: &Namespace, run: RunId) -> Result<Vec<SignalItem>, Error> {
        let place = self.place(ns, run).await?;
        if place.imported {
            return self.imported_signals(run).await;
        }
        let rows = self.store().signals(run, &place).await?;
        // Looked at after the signals: what is untaken in an ended run stays so.
        let listed = self.store().get_run(ns.id, run).await?;
        let ended = listed.and_then(|l| Status::from_code(l.status)).is_some_and(Status::ended);
        let item = |row: store::SignalRow| SignalItem {
            name: row.name,
            at: row.at,
            bytes: row.bytes,
            state: match (&row.step, ended) {
                (Some(_), _) => SignalState::Taken,
                (None, true) => SignalState::Untaken,
                (None, false) => SignalState::Waiting,
            },
            step: row.step,
        };
        Ok(rows.into_iter().map(item).collect())
    }

    /// What a step has recorded, whole: its value, or an error that is too long to be inlined in
    /// an invocation; none if the run has no such step or it has no value.
    pub async fn value(
        &self,
        ns: &Namespace,
        run: RunId,
        step: &str,
    ) -> Result<Option<Bytes>, Error> {
        let place = self.place(ns, run).await?;
        let rows = self.store().rows_of_step(run, &place, step).await?;
        let last = rows.into_iter().rfind(|r| r.kind.settles() || r.kind == Kind::Retaken);
        let recorded = last.filter(|r| r.kind.settles()).map(|r| (r.kind, r.body));
        Ok(recorded.and_then(|(kind, body)| {
            let body = body.filter(|b| !b.is_empty());
            let body = body.unwrap_or_else(|| Bytes::from_static(b"null"));
            (kind == Kind::Done || body.len() > INLINE_VALUE).then_some(body)
        }))
    }

    /// Checks a handler's bearer token for reading a run: the namespace of the run.
    pub async fn handler(&self, token: &str, run: RunId) -> Result<Namespace, Error> {
        let claims = self.keys().check(token, self.clock().lower()).map_err(|_| Error::BadToken)?;
        if claims.run != run {
            return Err(Error::BadToken);
        }
        let look = |run: &Run| {
            let ns = Namespace { id: run.ns, name: run.created.namespace.clone() };
            (ns, run.epoch)
        };
        let (ns, epoch) = self.with_any_run(run, look).await?;
        // An owner that has just loaded the run may know less than the token says.
        let task = claims.epoch == super::attempts::TASK_EPOCH;
        if claims.epoch < epoch && !task { Err(Error::StaleEpoch) } else { Ok(ns) }
    }

    /// Lists runs, in the order that the filter asks for.
    pub async fn list(&self, ns: &Namespace, filter: RunFilter) -> Result<RunPage, Error> {
        let (limit, sort) = (filter.limit.clamp(1, LONGEST_PAGE), filter.sort);
        // One more tells whether there is a next page.
        let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let Some(filter) = self.recorded_filter(ns, filter, most) else {
            return Ok(RunPage::default());
        };
        let mut found = self.store().list_runs(&filter).await?;
        let more = found.runs.len() > limit;
        found.runs.truncate(limit);
        let catalog = self.catalog();
        let runs: Vec<ListedRun> = found
            .runs
            .into_iter()
            .map(|row| ListedRun {
                id: row.run,
                namespace: ns.name.clone(),
                function: row.function,
                key: row.key,
                generation: row.generation,
                deployment: catalog.public_of(row.dep),
                status: Status::from_code(row.status).unwrap_or(Status::Queued),
                attention: row.attention.and_then(|a| serde_json::from_slice(&a).ok()),
                created_at: row.created_at,
                ended_at: row.ended_at,
                tags: row.tags,
                parent: row.parent,
                schedule: row.schedule,
                fingerprint: row.fingerprint.map(Fingerprint),
            })
            .collect();
        let last = runs.last().map(|run| sort.place(run.id, run.ended_at));
        let next = if more { last } else { found.looked_to };
        Ok(RunPage { runs, next })
    }

    /// A filter as the store knows it, for at most `limit` runs; none: no run can match.
    pub(super) fn recorded_filter(
        &self,
        ns: &Namespace,
        filter: RunFilter,
        limit: i64,
    ) -> Option<store::RunFilter> {
        let catalog = self.catalog();
        let known = catalog.recorded.deployments.iter().map(|d| (d.id, d.public));
        let known = known.chain(catalog.recorded.pruned.iter().copied());
        let wanted: Vec<i32> = known
            .filter(|(_, public)| filter.deployments.contains(public))
            .map(|(id, _)| id)
            .collect();
        if wanted.is_empty() && !filter.deployments.is_empty() {
            return None;
        }
        Some(store::RunFilter {
            ns: ns.id,
            status: filter.statuses.iter().map(|s| s.code()).collect(),
            functions: filter.functions,
            keys: filter.keys,
            tags: filter
                .tags
                .iter()
                .filter(|t| t.how == Compared::Is)
                .map(|t| (t.name.clone(), t.value.clone()))
                .collect(),
            ranges: filter
                .tags
                .iter()
                .filter_map(|t| match t.how {
                    Compared::Is => None,
                    Compared::In(range) => Some(Bound::new(&t.name, range, &t.value)),
                })
                .collect(),
            deployments: wanted,
            started_after: filter.started_after,
            started_before: filter.started_before,
            ended_after: filter.ended_after,
            ended_before: filter.ended_before,
            sort: filter.sort,
            parent: filter.parent,
            schedule: filter.schedule,
            runs: filter.runs,
            fingerprints: filter.fingerprints.into_iter().map(|f| f.0).collect(),
            q: filter.q,
            cursor: filter.after,
            limit,
        })
    }
}

/// A settled step as the journal shows it.
fn settled(entry: store::JournalEntry) -> JournalEntry {
    let store::JournalEntry { row, attempts, asked_at } = entry;
    let bytes = row.body.as_ref().map_or(0, Bytes::len);
    let body = Some(row.body.unwrap_or_default());
    let ok = row.kind == Kind::Done;
    JournalEntry {
        seq: Some(row.seq),
        op: row.flags.op().unwrap_or_default(),
        id: row.step,
        value: body.clone().filter(|_| ok),
        error: body.filter(|_| !ok),
        bytes,
        attempts: u32::try_from(attempts).unwrap_or(1),
        asked_at,
        settled_at: Some(row.at),
        ms: row.ms,
        next_attempt_at: None,
        last_error: None,
    }
}

fn pending_of(run: &Run) -> Vec<JournalEntry> {
    run.pending
        .values()
        .filter_map(|id| {
            let step = run.steps.get(id)?;
            let mut entry = pending(id, step.op);
            entry.attempts = step.attempts;
            entry.asked_at = step.first;
            match &step.state {
                StepState::Asked { at, .. } => entry.asked_at = Some(*at),
                StepState::Trying { due, error, .. } => {
                    entry.next_attempt_at = Some(*due);
                    entry.last_error = Some(error.clone());
                }
                StepState::Begun { .. } | StepState::Settled { .. } | StepState::Closed => {}
            }
            Some(entry)
        })
        .collect()
}

fn pending(id: &str, op: OpKind) -> JournalEntry {
    JournalEntry {
        seq: None,
        id: id.to_owned(),
        op,
        value: None,
        error: None,
        bytes: 0,
        attempts: 0,
        asked_at: None,
        settled_at: None,
        ms: 0,
        next_attempt_at: None,
        last_error: None,
    }
}

/// Whether an attempt led to an error.
#[derive(serde::Deserialize)]
struct StepErrorShown {
    attempts: Option<u32>,
}

/// What the rows about one step add up to.
fn step_of(id: &str, rows: Vec<Row>) -> Option<StepView> {
    let mut entry: Option<JournalEntry> = None;
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut asked_at = None;
    for row in rows {
        let op = row.flags.op().unwrap_or_default();
        // Signals that share the step's id as their name, and leases, are rows of other kinds.
        match row.kind {
            Kind::Asked => {
                asked_at = Some(row.at);
                entry = Some(JournalEntry { asked_at, ..pending(id, op) });
            }
            Kind::Tried => {
                let body = row.body.unwrap_or_default();
                let Ok(tried) = serde_json::from_slice::<Tried>(&body) else { continue };
                let error = Bytes::from(tried.error.get().to_owned());
                attempts.push(Attempt { number: tried.attempt, at: row.at, error: error.clone() });
                entry = Some(JournalEntry {
                    attempts: tried.attempt,
                    asked_at: Some(tried.first),
                    ms: row.ms,
                    next_attempt_at: row.due,
                    last_error: Some(error),
                    ..pending(id, op)
                });
            }
            Kind::Retaken => entry = None,
            Kind::Begun => {
                let made = u32::try_from(attempts.len()).unwrap_or(u32::MAX);
                entry = Some(JournalEntry { attempts: made, ..pending(id, op) });
            }
            Kind::Done | Kind::Failed => {
                let made = attempts.last().map_or(0, |a| a.number) + 1;
                // A task or call whose time was up failed by that, and not in an attempt.
                let attempted = || {
                    let error = row.body.as_deref().unwrap_or_default();
                    let error = serde_json::from_slice::<StepErrorShown>(error);
                    error.is_ok_and(|e| e.attempts.is_some())
                };
                if row.kind == Kind::Failed && (op == OpKind::Run || op.is_work() && attempted()) {
                    let error = row.body.clone().unwrap_or_default();
                    attempts.push(Attempt { number: made, at: row.at, error });
                }
                let attempts = i32::try_from(made).unwrap_or(i32::MAX);
                entry = Some(settled(store::JournalEntry { row, attempts, asked_at }));
            }
            _ => {}
        }
    }
    Some(StepView { entry: entry?, attempts })
}
