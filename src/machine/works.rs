//! What memory keeps of a run's tasks and calls that are not settled.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::retry::RetrySpec;
use super::row::Row;
use super::time::{Timestamp, duration};
use super::written::{json, micros};

/// An op up to this length is kept in memory until its step settles; a longer one is read again
/// for each attempt.
const KEPT: usize = 4 << 10;

/// The parts of a `task` or `call` that decide when its attempts begin and end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// The task's name.
    pub task: Option<String>,
    /// At most so many open attempts of this task in this run.
    pub limit: Option<u32>,
    /// Over the function's policy.
    pub retry: Option<RetrySpec>,
    /// How long one attempt may take.
    #[serde(default, with = "duration::option")]
    pub timeout: Option<Duration>,
    /// The longest silence after a 202.
    #[serde(default, with = "duration::option")]
    pub heartbeat: Option<Duration>,
    /// For a call: where it goes.
    pub request: Option<Target>,
}

/// Where a call goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The address.
    pub url: String,
}

/// The attempt of a step that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Open {
    /// None is.
    No,
    /// The request is out.
    Out,
    /// It was answered 202 and settles through its callback address.
    Held {
        /// The attempt's own end.
        #[serde(with = "micros::option")]
        bound: Option<Timestamp>,
        /// When it has been silent for too long, or at its end.
        #[serde(with = "micros::option")]
        until: Option<Timestamp>,
    },
}

/// A task or call that is not settled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The row that asked: its body is the op.
    pub n: i32,
    /// When.
    #[serde(with = "micros")]
    pub asked_at: Timestamp,
    /// When its step fails, whatever its attempts do.
    #[serde(with = "micros::option")]
    pub deadline: Option<Timestamp>,
    /// What it says about attempts.
    pub terms: Terms,
    /// The op, if it is short.
    #[serde(with = "json::option")]
    pub raw: Option<Bytes>,
    /// The attempt that is open.
    pub open: Open,
    /// An attempt of it was answered 202: its callback address settles it.
    pub accepted: bool,
    /// The last details that came with a sign of life, as recorded.
    #[serde(with = "json::option")]
    pub beat: Option<Bytes>,
    /// When they were recorded.
    #[serde(with = "micros::option")]
    pub(super) beat_at: Option<Timestamp>,
    /// Details that came since.
    #[serde(skip)]
    pub(super) fresh: Option<Bytes>,
}

impl Work {
    /// When time alone does something to it.
    pub(super) fn expiry(&self) -> Option<Timestamp> {
        let silence = match self.open {
            Open::Held { until, .. } => until,
            Open::No | Open::Out => None,
        };
        self.deadline.into_iter().chain(silence).min()
    }
}

/// The tasks and calls of a run that are not settled.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Works {
    pub(super) by_step: HashMap<String, Work>,
    /// Positions in `pending` of those without an open attempt.
    pub(super) idle: BTreeSet<i32>,
    /// When time alone does something to which.
    pub(super) expiries: BTreeSet<(Timestamp, String)>,
    /// Open attempts by task.
    pub(super) open: HashMap<String, u32>,
    /// Requests that are out.
    pub(super) out: usize,
}

impl Works {
    /// The work of a step that is not settled.
    #[must_use]
    pub fn get(&self, step: &str) -> Option<&Work> {
        self.by_step.get(step)
    }

    /// Whether the limit of this one's task allows another attempt beside those that are open and
    /// `others`.
    pub(super) fn has_room(&self, work: &Work, others: u32) -> bool {
        let open = work.terms.task.as_ref().and_then(|task| self.open.get(task));
        work.terms.limit.is_none_or(|limit| open.copied().unwrap_or(0) + others < limit)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_step.is_empty()
    }

    /// How many requests are out: the run must not leave memory.
    #[must_use]
    pub const fn out(&self) -> usize {
        self.out
    }

    /// An `asked` row of a task or call.
    pub(super) fn asked(&mut self, row: &Row, body: &Bytes) -> serde_json::Result<()> {
        let terms: Terms = serde_json::from_slice(body)?;
        let work = Work {
            n: row.n,
            asked_at: row.at,
            deadline: row.due,
            terms,
            // A copy: a slice would keep the whole answer that it came in.
            raw: (body.len() <= KEPT).then(|| Bytes::copy_from_slice(body)),
            open: Open::No,
            accepted: false,
            beat: None,
            beat_at: None,
            fresh: None,
        };
        self.expiries.extend(work.expiry().map(|at| (at, row.step.clone())));
        self.idle.insert(row.n);
        self.by_step.insert(row.step.clone(), work);
        Ok(())
    }

    /// What a compacted journal keeps of them.
    pub(super) fn carried(&self) -> BTreeMap<String, Work> {
        self.by_step.iter().map(|(step, work)| (step.clone(), work.clone())).collect()
    }

    /// What a compacted journal kept of one. `n`: its step's place in `pending`.
    pub(super) fn take_up(&mut self, step: &str, work: Work, n: i32) {
        let open = match work.open {
            // Whoever loads a run sends again what was out.
            Open::Out => Open::No,
            open => open,
        };
        self.expiries.extend(work.expiry().map(|at| (at, step.to_owned())));
        self.idle.insert(n);
        self.by_step.insert(step.to_owned(), Work { open: Open::No, ..work });
        self.turn(step, n, |work| work.open = open);
    }

    /// Changes how an attempt of a step stands. `n`: its place in `pending`.
    pub(super) fn turn(&mut self, step: &str, n: i32, change: impl FnOnce(&mut Work)) {
        let Some(work) = self.by_step.get_mut(step) else { return };
        let (was, before) = (work.open, work.expiry());
        change(work);
        let (now, after) = (work.open, work.expiry());
        if before != after {
            self.expiries.extend(after.map(|at| (at, step.to_owned())));
            if let Some(at) = before {
                self.expiries.remove(&(at, step.to_owned()));
            }
        }
        self.out -= usize::from(was == Open::Out);
        self.out += usize::from(now == Open::Out);
        if now == Open::No {
            self.idle.insert(n);
        } else {
            self.idle.remove(&n);
        }
        if (was == Open::No) != (now == Open::No)
            && let Some(task) = &work.terms.task
        {
            let open = self.open.entry(task.clone()).or_default();
            *open = if was == Open::No { *open + 1 } else { open.saturating_sub(1) };
            if *open == 0 {
                self.open.remove(task);
            }
        }
    }

    /// A `tried` row: another attempt follows. `n` was its step's place in `pending`.
    pub(super) fn tried(&mut self, row: &Row, n: i32) {
        self.turn(&row.step, n, |work| work.open = Open::No);
        self.idle.remove(&n);
        self.idle.insert(row.n);
    }

    /// A `held` row of a task.
    pub(super) fn held(&mut self, row: &Row, n: i32) {
        self.turn(&row.step, n, |work| {
            work.accepted = true;
            let spent = Duration::from_millis(u64::try_from(row.ms).unwrap_or(0));
            let bound = work.terms.timeout.map(|t| row.at + t.saturating_sub(spent));
            work.open = Open::Held { bound, until: row.due };
        });
    }

    /// A `beat` row.
    pub(super) fn beat(&mut self, row: &Row, details: Bytes) {
        if let Some(work) = self.by_step.get_mut(&row.step) {
            work.beat = Some(details);
            work.beat_at = Some(row.at);
            work.fresh = None;
        }
    }

    /// The step has settled.
    pub(super) fn gone(&mut self, step: &str, n: i32) {
        self.turn(step, n, |work| {
            work.open = Open::No;
            work.deadline = None;
        });
        self.idle.remove(&n);
        self.by_step.remove(step);
    }

    /// When time alone does something to any of them.
    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.first().map(|(at, _)| *at)
    }
}
