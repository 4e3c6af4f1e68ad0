//! Acts on many runs. Each is a row that says how far it has come. Whoever claims it writes down a
//! page of runs, acts on each and counts what came of it. Who goes on after a crash is at the very
//! same page; an act that was done already is known by its id, so no run is acted on twice.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::bulk_acts::{Acted, Acting, BulkAction, BulkReason, add_reason};
use super::{Engine, Error, Idempotency, ListedRun, Namespace, RunFilter};
use crate::machine::{BulkId, RunId, Timestamp, to_bytes};
use crate::store::{self, BulkCounts, BulkFilter, BulkRow, BulkStatus, RunCount};

/// How far ahead due rows are looked for, and how often.
const SEARCH: Duration = Duration::from_secs(1);
/// How late a row of another node's shards must be to be taken here.
const OVERDUE: Duration = Duration::from_secs(3);
/// How long who has claimed a page has it.
const CLAIMED: Duration = Duration::from_secs(5);
/// How long one that cannot be read, or whose runs cannot be found, is left alone.
const POISON: Duration = Duration::from_mins(1);
/// How long one is left alone whose runs cannot be reached.
const UNREACHABLE: Duration = Duration::from_secs(1);
/// How many rows are found at once.
const FOUND: i64 = 50;
/// How many a node is at, at a time.
const AT_ONCE: usize = 4;
/// Runs of a page.
const PAGE: i32 = 100;
/// How many runs of a page are acted on at a time.
const TOGETHER: usize = 16;
/// How far the runs that match are counted.
const COUNTED: i64 = 10_000;
/// Runs that a dry run shows.
const SAMPLE: usize = 10;

/// What this node knows of acts on many runs: that one may be due.
#[derive(Debug, Default)]
pub(super) struct Bulks {
    nudge: Notify,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct NewBulk {
    /// Which runs.
    pub filter: RunFilter,
    /// What is done to each.
    pub action: BulkAction,
    /// How many runs a second at most.
    pub rate: u32,
    /// Why, for their histories.
    pub reason: Option<String>,
    /// The idempotency key, if one was sent.
    pub idempotency: Option<Idempotency>,
}

/// What became of asking.
#[derive(Debug, Clone)]
pub enum BulkStarted {
    /// It has begun.
    New(Box<BulkView>),
    /// The same request had been made before.
    Replayed(Box<BulkView>),
}

/// What would be acted on.
#[derive(Debug, Clone)]
pub struct Foreseen {
    /// How many runs match.
    pub expected: RunCount,
    /// The newest of them.
    pub sample: Vec<ListedRun>,
}

/// An act on many runs as it stands.
#[derive(Debug, Clone)]
pub struct BulkView {
    /// Its id.
    pub id: BulkId,
    /// Its namespace's name.
    pub namespace: String,
    /// How it stands.
    pub status: BulkStatus,
    /// Which runs.
    pub filter: RunFilter,
    /// What is done to each.
    pub action: BulkAction,
    /// How many runs a second at most.
    pub rate: u32,
    /// Why.
    pub reason: Option<String>,
    /// Who asked for it.
    pub by: String,
    /// When.
    pub created_at: Timestamp,
    /// When a page was counted last.
    pub updated_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Who aborted it.
    pub ended_by: Option<String>,
    /// How many runs matched when it was asked for.
    pub expected: RunCount,
    /// What came of those it has come to.
    pub counts: BulkCounts,
    /// Why runs were skipped or failed.
    pub reasons: Vec<BulkReason>,
}

/// Which of them.
#[derive(Debug, Clone, Default)]
pub struct BulkSearch {
    /// In one of these; empty: in any.
    pub statuses: Vec<BulkStatus>,
    /// Of one of these, in a word; empty: any.
    pub actions: Vec<String>,
    /// How many, 1 to 200.
    pub limit: usize,
    /// Only those after this one: the list goes from new to old.
    pub after: Option<BulkId>,
}

/// A page of them.
#[derive(Debug, Clone, Default)]
pub struct BulkPage {
    /// New to old.
    pub bulks: Vec<BulkView>,
    /// Where the next page begins.
    pub next: Option<BulkId>,
}

/// What is kept of what was asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    filter: RunFilter,
    action: BulkAction,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// A row that cannot be read: another version may have written it.
fn unreadable(error: &serde_json::Error) -> Error {
    Error::corrupt(&format!("an act on many runs: {error}"))
}

impl Engine {
    /// What an act on these runs would be about.
    pub async fn foresee(&self, ns: &Namespace, filter: RunFilter) -> Result<Foreseen, Error> {
        let expected = self.count_runs(ns, &filter).await?;
        let page = self.list(ns, RunFilter { limit: SAMPLE, ..filter }).await?;
        Ok(Foreseen { expected, sample: page.runs })
    }

    /// How many runs a list has, counted to a limit.
    pub async fn count_runs(&self, ns: &Namespace, filter: &RunFilter) -> Result<RunCount, Error> {
        match self.recorded_filter(ns, filter.clone(), COUNTED) {
            Some(filter) => Ok(self.store().count_runs(&filter).await?),
            None => Ok(RunCount { count: 0, exact: true }),
        }
    }

    /// Begins to act on all runs of a filter as they are now; runs that are started later are left
    /// alone. When this returns, it is durable and goes on by itself.
    pub async fn begin_bulk(
        &self,
        ns: &Namespace,
        new: NewBulk,
        by: &str,
    ) -> Result<BulkStarted, Error> {
        self.admit()?;
        let (request_key, request_hash) =
            new.idempotency.map_or((None, [0; 32]), |i| (Some(i.key), i.hash));
        if let Some(known) = self.known_bulk(ns, request_key.as_deref(), &request_hash).await? {
            return Ok(known);
        }
        let now = self.clock().upper();
        // Another node may have given a run that is there already a moment that is later by what
        // clocks are unsure of.
        let unsure = now.since(self.clock().lower());
        let before = now + unsure;
        let before = new.filter.started_before.map_or(before, |at| at.min(before));
        let filter = RunFilter { started_before: Some(before), ..new.filter.clone() };
        let expected = self.count_runs(ns, &filter).await?;
        let spec = Spec { filter: new.filter, action: new.action, reason: new.reason };
        let row = BulkRow {
            id: BulkId::on_shard(now, self.any_shard(), crate::clock::chance()),
            ns: ns.id,
            status: BulkStatus::Running,
            action: spec.action.word().to_owned(),
            rate: i32::try_from(new.rate).unwrap_or(i32::MAX),
            created_by: by.to_owned(),
            ended_by: None,
            created_at: now,
            updated_at: now,
            ended_at: None,
            before,
            claim: 0,
            cursor: None,
            page: None,
            page_to: None,
            expected,
            counts: BulkCounts::default(),
            request_key,
            request_hash,
            spec: to_bytes(&spec),
            reasons: Bytes::from_static(b"[]"),
        };
        if !self.store().create_bulk(&row).await? {
            let known = self.known_bulk(ns, row.request_key.as_deref(), &row.request_hash).await?;
            return known.ok_or(Error::IdempotencyInProgress);
        }
        tracing::info!(bulk.id = %row.id, action = row.action, by, "an act on many runs begins");
        self.bulks().nudge.notify_one();
        Ok(BulkStarted::New(Box::new(self.bulk_view(ns, row)?)))
    }

    /// An act on many runs.
    pub async fn bulk(&self, ns: &Namespace, id: BulkId) -> Result<BulkView, Error> {
        let row = self.store().bulk(ns.id, id).await?.ok_or(Error::BulkNotFound(id))?;
        self.bulk_view(ns, row)
    }

    /// A page of them, new to old.
    pub async fn list_bulks(&self, ns: &Namespace, search: BulkSearch) -> Result<BulkPage, Error> {
        let limit = search.limit.max(1);
        let filter = BulkFilter {
            status: search.statuses.iter().map(|s| *s as i16).collect(),
            actions: search.actions,
            after: search.after,
            // One more tells whether there is a next page.
            limit: i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1),
        };
        let mut rows = self.store().bulks(ns.id, &filter).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.id);
        let views = rows.into_iter().map(|row| self.bulk_view(ns, row));
        Ok(BulkPage { bulks: views.collect::<Result<_, _>>()?, next })
    }

    /// Stops one: runs that it has not come to are left alone. The page that is under way is acted
    /// on to its end.
    pub async fn abort_bulk(
        &self,
        ns: &Namespace,
        id: BulkId,
        by: &str,
    ) -> Result<BulkView, Error> {
        let aborted = self.store().abort_bulk(ns.id, id, by, self.clock().upper()).await?;
        let view = self.bulk(ns, id).await?;
        if aborted {
            tracing::info!(bulk.id = %id, by, "an act on many runs is aborted");
        } else if view.status == BulkStatus::Completed {
            return Err(Error::BulkEnded(id));
        }
        Ok(view)
    }

    /// Carries them out, as long as the node lives.
    pub(super) async fn keep_bulks(&self) {
        loop {
            let nudged = self.bulks().nudge.notified();
            let now = self.clock().lower();
            let groups = self.held();
            let found = self.store().due_bulks(&groups, now + SEARCH, now - OVERDUE, FOUND).await;
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(%error, "cannot look for acts on many runs yet");
                    tokio::time::sleep(SEARCH).await;
                    continue;
                }
            };
            let due: Vec<BulkId> =
                found.iter().filter(|(_, at)| *at <= now).map(|(id, _)| *id).collect();
            let turns = futures::stream::iter(due).map(|id| self.turn_bulk(id));
            let turned: Vec<bool> = turns.buffer_unordered(AT_ONCE).collect().await;
            if turned.contains(&true) {
                continue;
            }
            let next = found.iter().map(|(_, at)| *at).find(|at| *at > now);
            tokio::select! {
                () = self.clock().until(next.unwrap_or(now + SEARCH)) => {}
                () = nudged => {}
                () = tokio::time::sleep(SEARCH) => {}
            }
        }
    }

    // --- parts ---------------------------------------------------------------------------------

    /// What the same request has made before.
    async fn known_bulk(
        &self,
        ns: &Namespace,
        key: Option<&str>,
        hash: &[u8; 32],
    ) -> Result<Option<BulkStarted>, Error> {
        let Some(key) = key else { return Ok(None) };
        let Some(row) = self.store().bulk_of_request(ns.id, key).await? else { return Ok(None) };
        if row.request_hash != *hash {
            return Err(Error::IdempotencyKeyReused);
        }
        Ok(Some(BulkStarted::Replayed(Box::new(self.bulk_view(ns, row)?))))
    }

    #[expect(clippy::unused_self, reason = "beside its likes")]
    fn bulk_view(&self, ns: &Namespace, row: BulkRow) -> Result<BulkView, Error> {
        let spec: Spec = serde_json::from_slice(&row.spec).map_err(|e| unreadable(&e))?;
        Ok(BulkView {
            id: row.id,
            namespace: ns.name.clone(),
            status: row.status,
            filter: spec.filter,
            action: spec.action,
            rate: u32::try_from(row.rate).unwrap_or_default(),
            reason: spec.reason,
            by: row.created_by,
            created_at: row.created_at,
            updated_at: row.updated_at,
            ended_at: row.ended_at,
            ended_by: row.ended_by,
            expected: row.expected,
            counts: row.counts,
            reasons: serde_json::from_slice(&row.reasons).map_err(|e| unreadable(&e))?,
        })
    }

    /// Does a page. Returns whether this node had it.
    async fn turn_bulk(&self, id: BulkId) -> bool {
        let (now, until) = (self.clock().lower(), self.clock().upper() + CLAIMED);
        let row = match self.store().claim_bulk(id, now, until).await {
            Ok(Some(row)) => row,
            Ok(None) => return false,
            Err(error) => {
                tracing::debug!(bulk.id = %id, %error, "an act on many runs has to wait");
                return false;
            }
        };
        let leave = match self.do_page(&row).await {
            Ok(()) => return true,
            Err(Error::Unavailable { detail, .. }) => {
                tracing::debug!(bulk.id = %id, detail, "a page of runs has to wait");
                UNREACHABLE
            }
            Err(error) => {
                tracing::error!(bulk.id = %id, %error, "an act on many runs cannot go on");
                POISON
            }
        };
        if let Err(error) = self.store().put_off_bulk(&row, self.clock().upper() + leave).await {
            tracing::debug!(bulk.id = %id, %error, "it is due when the claim is over");
        }
        true
    }

    async fn do_page(&self, row: &BulkRow) -> Result<(), Error> {
        let begun = self.clock().upper();
        let spec: Spec = serde_json::from_slice(&row.spec).map_err(|e| unreadable(&e))?;
        let mut reasons: Vec<BulkReason> =
            serde_json::from_slice(&row.reasons).map_err(|e| unreadable(&e))?;
        let ns = self.catalog().namespace(row.ns).ok_or_else(|| Error::corrupt("no namespace"))?;
        let again = row.page.is_some();
        let page = match &row.page {
            Some(page) => page.clone(),
            None => match self.plan_page(&ns, row, &spec.filter).await? {
                Some(page) => page,
                // Another node has it by now, or it is aborted.
                None => return Ok(()),
            },
        };
        let acting =
            Acting::new(ns, row.id, spec.action, row.created_by.clone(), spec.reason, again);
        let acts = futures::stream::iter(page.clone()).map(|run| self.act_in_bulk(&acting, run));
        let outcomes: Vec<Result<Acted, Error>> = acts.buffered(TOGETHER).collect().await;
        let mut counts = BulkCounts::default();
        for (run, outcome) in page.iter().zip(outcomes) {
            // What was done stays done, and is found so when the page is done again.
            let acted = outcome?;
            counts.matched += 1;
            let (count, word) = match &acted {
                Acted::Done => (&mut counts.done, "done"),
                Acted::Skipped(_) => (&mut counts.skipped, "skipped"),
                Acted::Failed(_) => (&mut counts.failed, "failed"),
            };
            *count += 1;
            metrics::counter!(
                "stepwell_bulk_runs_total", "action" => acting.action.word(), "outcome" => word
            )
            .increment(1);
            add_reason(&mut reasons, *run, acted);
        }
        let share = f64::from(u32::try_from(page.len()).unwrap_or(u32::MAX)) / f64::from(row.rate);
        let next = begun + Duration::from_secs_f64(share);
        let now = self.clock().upper();
        if !self.store().count_bulk(row, now, &counts, &to_bytes(&reasons), next).await? {
            tracing::debug!(bulk.id = %row.id, "another node counts this page");
        }
        Ok(())
    }

    /// The runs that are next, written down; none: this is no longer this node's affair.
    async fn plan_page(
        &self,
        ns: &Namespace,
        row: &BulkRow,
        filter: &RunFilter,
    ) -> Result<Option<Vec<RunId>>, Error> {
        let after = row.cursor.map(|run| filter.sort.place(run, None));
        let filter = RunFilter { started_before: Some(row.before), after, ..filter.clone() };
        let most = i64::from(row.rate.clamp(1, PAGE));
        let mut found = match self.recorded_filter(ns, filter, most + 1) {
            Some(filter) => self.store().list_runs(&filter).await?,
            None => store::RunsFound::default(),
        };
        let most = usize::try_from(most).unwrap_or(1);
        let more = found.runs.len() > most;
        found.runs.truncate(most);
        let page: Vec<RunId> = found.runs.iter().map(|run| run.run).collect();
        let looked_to = found.looked_to.map(|place| place.run);
        let to = if more { page.last().copied() } else { looked_to };
        Ok(self.store().plan_bulk(row, &page, to).await?.then_some(page))
    }
}
