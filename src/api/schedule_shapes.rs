//! Schedules as the API shows them.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::shapes::Payload;
use crate::engine::{ScheduleView, Status, Triggered};
use crate::machine::schedule::{Backfill, By, Came, LastRun, Overlap, Paused, Recent, Timing};
use crate::machine::time::format_duration;
use crate::machine::{DeploymentId, RetrySpec, RunId, ScheduleId, Timestamp};

/// A schedule.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Schedule)]
pub(super) struct ScheduleBody {
    #[schema(value_type = String, example = "sch_01k9c3v5h2e8x8p0m4s6t7w9yz")]
    id: ScheduleId,
    name: String,
    function: String,
    /// The input of its runs, byte for byte; left out of lists.
    #[schema(value_type = Option<serde_json::Value>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Payload>,
    /// It is a trigger in the registration of its function, and is changed there.
    owned: bool,
    /// `active`, `paused` or `finished`: no moment is to come.
    state: &'static str,
    /// Its rule, if it is an expression.
    cron: Option<String>,
    /// Whose clocks it is about.
    time_zone: Option<String>,
    /// Its rule, if it is an interval.
    every: Option<String>,
    /// What the moments of an interval are counted from.
    #[schema(value_type = Option<String>, format = DateTime)]
    anchor: Option<Timestamp>,
    jitter: String,
    /// `skip`, `buffer_one`, `buffer_all`, `cancel_other`, `terminate_other` or `allow_all`.
    overlap: &'static str,
    max_running: u32,
    catchup_window: String,
    #[schema(value_type = Option<String>, format = DateTime)]
    start_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    end_at: Option<Timestamp>,
    limited_actions: Option<u32>,
    /// How many runs it may still start by itself; null: no limit.
    remaining_actions: Option<u32>,
    pause_on_failure: bool,
    /// The key of its runs; null: each has one made of schedule and moment.
    key: Option<String>,
    /// Tags of its runs.
    tags: BTreeMap<String, String>,
    timeouts: ScheduleTimeouts,
    /// Default policy of its runs' steps, over the function's.
    #[schema(value_type = Option<serde_json::Value>)]
    retry: Option<RetrySpec>,
    /// The deployment that its runs start on, instead of the newest.
    #[schema(value_type = Option<String>)]
    version: Option<DeploymentId>,
    /// Null unless it is paused.
    paused: Option<PausedBody>,
    /// The next five moments, as if it were not paused.
    next: Vec<MomentBody>,
    /// What became of the last moments, the newest first.
    recent: Vec<RecentBody>,
    /// Its live runs, the oldest first, at most a thousand; left out of lists.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<Vec<RunId>>,
    /// How many starts wait for a run to end.
    waiting: usize,
    backfills: Vec<BackfillBody>,
    counts: CountsBody,
    /// The last run that ended.
    last: Option<LastRunBody>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// Who created it.
    created_by: String,
    links: ScheduleLinks,
}

/// How long runs of a schedule may take.
#[derive(Debug, Serialize, ToSchema)]
struct ScheduleTimeouts {
    start: Option<String>,
    run: Option<String>,
    invocation: Option<String>,
}

/// That a schedule is paused.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SchedulePaused)]
struct PausedBody {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// The name of an API key, or `gateway` after a failure.
    by: String,
    note: Option<String>,
}

/// A coming moment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScheduleMoment)]
pub(super) struct MomentBody {
    /// The moment that the run is for.
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// When it starts: later by the jitter.
    #[schema(value_type = String, format = DateTime)]
    fires_at: Timestamp,
}

/// What became of a moment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScheduleRecent)]
struct RecentBody {
    /// The moment.
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// When it was decided.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `schedule`, `trigger` or `backfill`.
    by: &'static str,
    #[serde(flatten)]
    came: CameBody,
}

/// What a moment came to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScheduleOutcome)]
struct CameBody {
    /// `started`, `waiting`, `skipped` or `missed`.
    outcome: &'static str,
    /// Why it was skipped: `overlap`, `buffer-full`, `replaced`, `already` (its moment has had a
    /// run), `key-held` (a live run has the `key`), `function-not-found`, `endpoint-draining`,
    /// `deployment-not-found`, `start-refused` (the function has become an object), `quota-exceeded`.
    reason: Option<String>,
    /// The run that was started.
    #[schema(value_type = Option<String>)]
    run: Option<RunId>,
    /// How that run has ended; null: it has not.
    run_status: Option<&'static str>,
}

/// What a trigger came to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScheduleTriggered)]
pub(super) struct TriggeredBody {
    /// Its moment.
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    #[serde(flatten)]
    came: CameBody,
}

/// A backfill that is under way.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScheduleBackfill)]
struct BackfillBody {
    /// All moments up to here are decided.
    #[schema(value_type = String, format = DateTime)]
    upto: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    until: Timestamp,
    /// `buffer_all` or `allow_all`.
    overlap: &'static str,
}

/// What has come of a schedule in all.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScheduleCounts)]
struct CountsBody {
    /// Runs that it has started.
    started: u64,
    /// Moments that were too late.
    missed: u64,
    /// Moments that came to no run for another reason, by the reason.
    skipped: BTreeMap<String, u64>,
}

/// The last run of a schedule that ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScheduleLastRun)]
struct LastRunBody {
    #[schema(value_type = String)]
    run: RunId,
    status: &'static str,
    #[schema(value_type = String, format = DateTime)]
    ended_at: Timestamp,
}

/// Where more is.
#[derive(Debug, Serialize, ToSchema)]
struct ScheduleLinks {
    #[serde(rename = "self")]
    myself: String,
    /// Its runs.
    runs: String,
    next: String,
}

fn status(kind: i16) -> &'static str {
    Status::from_code(kind).unwrap_or(Status::Failed).word()
}

impl From<Came> for CameBody {
    fn from(came: Came) -> Self {
        let of = |outcome| Self { outcome, reason: None, run: None, run_status: None };
        match came {
            Came::Started { run, ended } => {
                Self { run: Some(run), run_status: ended.map(status), ..of("started") }
            }
            Came::Waiting => of("waiting"),
            Came::Skipped(why) => Self { reason: Some(why), ..of("skipped") },
            Came::Missed => of("missed"),
        }
    }
}

impl From<Triggered> for TriggeredBody {
    fn from(t: Triggered) -> Self {
        Self { time: t.moment, came: t.came.into() }
    }
}

impl From<(Timestamp, Timestamp)> for MomentBody {
    fn from((time, fires_at): (Timestamp, Timestamp)) -> Self {
        Self { time, fires_at }
    }
}

impl From<Paused> for PausedBody {
    fn from(p: Paused) -> Self {
        Self { at: p.at, by: p.by, note: p.note }
    }
}

impl From<Recent> for RecentBody {
    fn from(r: Recent) -> Self {
        Self { time: r.moment, at: r.at, by: By::word(r.by), came: r.came.into() }
    }
}

impl From<Backfill> for BackfillBody {
    fn from(b: Backfill) -> Self {
        let overlap = if b.at_once { Overlap::AllowAll } else { Overlap::BufferAll };
        Self { upto: b.upto, until: b.until, overlap: overlap.word() }
    }
}

impl From<LastRun> for LastRunBody {
    fn from(last: LastRun) -> Self {
        Self { run: last.run, status: status(last.ended), ended_at: last.at }
    }
}

impl ScheduleBody {
    /// The same without what is left out of lists.
    pub(super) fn listed(view: ScheduleView) -> Self {
        let mut body = Self::from(view);
        (body.input, body.running) = (None, None);
        body
    }
}

impl From<ScheduleView> for ScheduleBody {
    fn from(view: ScheduleView) -> Self {
        let state = view.word();
        let ScheduleView { row, plan, state: standing, running, coming } = view;
        let spec = plan.spec;
        let (mut cron, mut time_zone, mut every, mut anchor) = (None, None, None, None);
        match spec.timing {
            Timing::Cron { expression, time_zone: zone } => {
                (cron, time_zone) = (Some(expression), Some(zone));
            }
            Timing::Every { every: length, anchor: from } => {
                (every, anchor) = (Some(format_duration(length)), Some(from));
            }
        }
        let links = ScheduleLinks {
            myself: format!("/v1/schedules/{}", row.id),
            runs: format!("/v1/runs?schedule={}", row.id),
            next: format!("/v1/schedules/{}/next", row.id),
        };
        Self {
            id: row.id,
            name: row.name,
            function: row.function,
            input: Some(Payload(Some(row.input))),
            owned: row.owned,
            state,
            cron,
            time_zone,
            every,
            anchor,
            jitter: format_duration(spec.jitter),
            overlap: spec.overlap.word(),
            max_running: spec.max_running,
            catchup_window: format_duration(spec.catchup_window),
            start_at: spec.start_at,
            end_at: spec.end_at,
            limited_actions: spec.limited_actions,
            remaining_actions: standing.remaining,
            pause_on_failure: spec.pause_on_failure,
            key: spec.start.key,
            tags: spec.start.tags,
            timeouts: ScheduleTimeouts {
                start: spec.start.start_timeout.map(format_duration),
                run: spec.start.run_timeout.map(format_duration),
                invocation: spec.start.invocation_timeout.map(format_duration),
            },
            retry: spec.start.retry,
            version: spec.start.deployment,
            paused: standing.paused.map(Into::into),
            next: coming.into_iter().map(Into::into).collect(),
            recent: standing.recent.into_iter().map(Into::into).collect(),
            running: Some(running),
            waiting: standing.waiting.len(),
            backfills: standing.backfills.into_iter().map(Into::into).collect(),
            counts: CountsBody {
                started: standing.fired,
                missed: standing.missed,
                skipped: standing.skipped,
            },
            last: standing.last.map(Into::into),
            created_at: row.created_at,
            updated_at: row.updated_at,
            created_by: row.created_by,
            links,
        }
    }
}
