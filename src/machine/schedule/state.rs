//! What has come of a schedule: up to when it is decided, what waits, what was.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::machine::id::RunId;
use crate::machine::row::Kind;
use crate::machine::time::Timestamp;

/// How many starts may wait.
pub(super) const MOST_WAITING: usize = 1_000;
/// How many backfills may be under way at once.
pub const MOST_BACKFILLS: usize = 10;
/// How much of what was is kept.
const KEPT: usize = 20;

/// What a start comes of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Its moment has come.
    Schedule,
    /// Somebody asked for it.
    Trigger,
    /// Somebody asked for what lies in the past.
    Backfill,
}

impl By {
    /// The word in documents.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Trigger => "trigger",
            Self::Backfill => "backfill",
        }
    }
}

/// A start that waits for a run to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its moment.
    pub moment: Timestamp,
    /// What it comes of.
    pub by: By,
}

/// Moments of the past that are to be fired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    /// All up to here are decided.
    pub upto: Timestamp,
    /// The last that may be one.
    pub until: Timestamp,
    /// All at once, and not one after another.
    pub at_once: bool,
    /// Also those that have had a run.
    pub again: bool,
}

/// That a schedule is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Since when.
    pub at: Timestamp,
    /// By whom: the name of an API key, or `gateway`.
    pub by: String,
    /// Why, if they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What became of a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Came {
    /// A run.
    Started {
        /// Which.
        run: RunId,
        /// The kind of its last row; none: the schedule has not heard of its end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<i16>,
    },
    /// It waits for a run to end.
    Waiting,
    /// No run, and why: a word.
    Skipped(String),
    /// No run: it came too late.
    Missed,
}

/// A moment, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// Which.
    pub moment: Timestamp,
    /// When it was decided.
    pub at: Timestamp,
    /// What it comes of.
    pub by: By,
    /// What became of it.
    pub came: Came,
}

/// The last run that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// Which.
    pub run: RunId,
    /// The kind of its last row.
    pub ended: i16,
    /// When the schedule heard of it.
    pub at: Timestamp,
}

/// What has come of a schedule. Its JSON form is what is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleState {
    /// All moments up to here are decided.
    pub upto: Timestamp,
    /// It starts nothing by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// How many runs it may still start by itself; none: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u32>,
    /// Starts that wait, the next one first.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub waiting: VecDeque<Waiting>,
    /// Backfills that are under way, one after another.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub backfills: VecDeque<Backfill>,
    /// Runs that were told to end to make room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<RunId>,
    /// How many runs it has started.
    #[serde(default)]
    pub fired: u64,
    /// How many moments came to no run because they were too late.
    #[serde(default)]
    pub missed: u64,
    /// How many moments came to no run for other reasons, by the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, u64>,
    /// What became of the last moments, the newest first.
    #[serde(default)]
    pub recent: VecDeque<Recent>,
    /// The last run that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastRun>,
}

impl ScheduleState {
    /// Of a schedule that begins now.
    #[must_use]
    pub const fn new(now: Timestamp, limited_actions: Option<u32>) -> Self {
        Self {
            upto: now,
            paused: None,
            remaining: limited_actions,
            waiting: VecDeque::new(),
            backfills: VecDeque::new(),
            leaving: Vec::new(),
            fired: 0,
            missed: 0,
            skipped: BTreeMap::new(),
            recent: VecDeque::new(),
            last: None,
        }
    }

    /// Moments go by from now on and come to nothing.
    pub fn pause(&mut self, now: Timestamp, by: &str, note: Option<String>) {
        // Who pauses it again has something else to say, but not since when.
        let at = self.paused.as_ref().map_or(now, |paused| paused.at);
        self.paused = Some(Paused { at, by: by.to_owned(), note });
    }

    /// It goes on: what was due meanwhile has gone by.
    pub fn resume(&mut self, now: Timestamp) {
        if self.paused.take().is_some() {
            self.upto = self.upto.max(now);
        }
    }

    /// Its rule is another: what was due by the old one has been decided.
    pub fn retimed(&mut self, now: Timestamp) {
        self.upto = self.upto.max(now);
    }

    /// Whether it has started as many runs as it may.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.remaining == Some(0)
    }

    /// One of its runs has ended.
    pub fn run_ended(
        &mut self,
        run: RunId,
        kind: Kind,
        why: Option<&str>,
        pauses: bool,
        now: Timestamp,
    ) {
        self.leaving.retain(|leaving| *leaving != run);
        for recent in &mut self.recent {
            if let Came::Started { run: of, ended } = &mut recent.came
                && *of == run
            {
                *ended = Some(kind.code());
            }
        }
        self.last = Some(LastRun { run, ended: kind.code(), at: now });
        if pauses && matches!(kind, Kind::EndFailed | Kind::TimedOut) && self.paused.is_none() {
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            let word = if kind == Kind::TimedOut { "timed out" } else { "failed" };
            self.pause(now, "gateway", Some(format!("{run} {word}{why}")));
        }
    }

    /// Writes down what became of a moment.
    pub(super) fn note(&mut self, moment: Timestamp, by: By, at: Timestamp, came: Came) {
        match &came {
            Came::Started { .. } => self.fired += 1,
            Came::Missed => self.missed += 1,
            Came::Skipped(why) => *self.skipped.entry(why.clone()).or_default() += 1,
            Came::Waiting => {}
        }
        let waited = |r: &Recent| r.moment == moment && r.by == by && r.came == Came::Waiting;
        self.recent.iter().position(waited).map(|place| self.recent.remove(place));
        self.recent.push_front(Recent { moment, at, by, came });
        self.recent.truncate(KEPT);
    }

    /// A moment came to nothing: `why` is a word.
    pub(super) fn skip(&mut self, moment: Timestamp, by: By, at: Timestamp, why: &str) {
        self.note(moment, by, at, Came::Skipped(why.to_owned()));
    }
}

impl Backfill {
    /// Of the moments from `start` to `end`, both included.
    #[must_use]
    pub const fn of(start: Timestamp, end: Timestamp, at_once: bool, again: bool) -> Self {
        let upto = Timestamp::from_micros(start.as_micros().saturating_sub(1));
        Self { upto, until: end, at_once, again }
    }
}
