//! What the metrics counted in each of the last moments, kept in memory: the curves of the last hour
//! and of the last day.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::machine::Timestamp;

/// Counters that are kept, each with the label that tells its parts apart.
const COUNTERS: [(&str, Option<&str>); 4] = [
    (STARTED, None),
    (ENDED, Some("status")),
    (INVOCATIONS, Some("outcome")),
    (ATTEMPTS, Some("outcome")),
];
/// Times that are kept.
const TIMES: [&str; 3] = [INVOCATION_SECONDS, RUN_SECONDS, LIMIT_SECONDS];

/// Runs that were started.
pub const STARTED: &str = "stepwell_runs_started_total";
/// Runs that ended, by status.
pub const ENDED: &str = "stepwell_runs_ended_total";
/// Invocations, by outcome.
pub const INVOCATIONS: &str = "stepwell_invocations_total";
/// Attempts of tasks and calls, by outcome.
pub const ATTEMPTS: &str = "stepwell_attempts_total";
/// How long invocations took.
pub const INVOCATION_SECONDS: &str = "stepwell_invocation_seconds";
/// How long runs took.
pub const RUN_SECONDS: &str = "stepwell_run_seconds";
/// How long runs waited for limits.
pub const LIMIT_SECONDS: &str = "stepwell_limit_wait_seconds";

/// Counts by the name of a metric and the value of its label.
type Counts = BTreeMap<(&'static str, String), u64>;

/// What the metrics say at a moment, as far as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    counts: Counts,
    /// By the name of a histogram: the upper bound of each bucket as it is written, and how many were
    /// at most so long.
    times: BTreeMap<&'static str, Vec<(String, u64)>>,
}

impl Totals {
    /// Reads them from Prometheus text. What is not kept, or not understood, is passed over.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut totals = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Some(value) = whole(value) else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            if let Some((name, label)) = COUNTERS.iter().find(|(known, _)| *known == name) {
                let part = label.map_or(Some(""), |label| labelled(labels, label));
                let Some(part) = part else { continue };
                *totals.counts.entry((name, part.to_owned())).or_default() += value;
            } else if let Some(name) = name.strip_suffix("_bucket")
                && let Some(name) = TIMES.iter().find(|known| **known == name)
                && let Some(bound) = labelled(labels, "le")
            {
                totals.times.entry(name).or_default().push((bound.to_owned(), value));
            }
        }
        totals
    }

    /// What was counted since. A counter that went back began anew.
    fn since(&self, earlier: &Self) -> Counted {
        let counts = self.counts.iter().map(|(part, now)| {
            let before = earlier.counts.get(part).copied().unwrap_or_default();
            (part.clone(), now.checked_sub(before).unwrap_or(*now))
        });
        let times = self.times.iter().map(|(name, now)| {
            let before = earlier.times.get(name).map_or(&[][..], Vec::as_slice);
            (*name, apart(now, before))
        });
        Counted {
            counts: counts.filter(|(_, n)| *n > 0).collect(),
            times: times.filter(|(_, all)| all.iter().any(|n| *n > 0)).collect(),
        }
    }
}

/// A count is a whole number, however it is written.
fn whole(text: &str) -> Option<u64> {
    text.parse().ok().or_else(|| text.strip_suffix(".0")?.parse().ok())
}

/// The value of a label; those that are kept have no quotes in them.
fn labelled<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut parts = labels.trim_end_matches('}').split(',');
    parts.find_map(|part| part.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

/// How many fell into each bucket alone, since `before`.
fn apart(now: &[(String, u64)], before: &[(String, u64)]) -> Vec<u64> {
    let same = before.len() == now.len() && before.iter().zip(now).all(|(b, n)| b.1 <= n.1);
    let mut below = 0;
    let each = now.iter().enumerate().map(|(i, (_, upto))| {
        let upto = if same { upto - before[i].1 } else { *upto };
        let alone = upto.saturating_sub(below);
        below = upto;
        alone
    });
    each.collect()
}

/// What was counted between two moments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Counted {
    counts: Counts,
    times: BTreeMap<&'static str, Vec<u64>>,
}

/// What was counted up to a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Point {
    at: Timestamp,
    over: Duration,
    counted: Counted,
    /// Live runs by status; none: nobody looked, or there were too many.
    live: Option<BTreeMap<String, u64>>,
}

/// Moments at an even pace, the last so many of them.
#[derive(Debug)]
struct Ring {
    step: Duration,
    most: usize,
    last: Option<(Timestamp, Totals)>,
    points: VecDeque<Point>,
}

impl Ring {
    const fn new(step: Duration, most: usize) -> Self {
        Self { step, most, last: None, points: VecDeque::new() }
    }

    fn take(&mut self, now: Timestamp, totals: &Totals, live: Option<&BTreeMap<String, u64>>) {
        let Some((since, before)) = &self.last else {
            self.last = Some((now, totals.clone()));
            return;
        };
        // On a grid that all nodes have.
        let over = now.since(*since);
        if over.is_zero() || place(*since, self.step) == place(now, self.step) {
            return;
        }
        let counted = totals.since(before);
        self.points.push_back(Point { at: now, over, counted, live: live.cloned() });
        if self.points.len() > self.most {
            self.points.pop_front();
        }
        self.last = Some((now, totals.clone()));
    }

    fn curves(&self) -> Curves {
        let mut curves = Curves {
            step: self.step,
            at: self.points.iter().map(|p| p.at).collect(),
            over: self.points.iter().map(|p| p.over).collect(),
            counts: BTreeMap::new(),
            times: BTreeMap::new(),
            live: BTreeMap::new(),
        };
        let all = self.points.len();
        for (i, point) in self.points.iter().enumerate() {
            for ((name, part), n) in &point.counted.counts {
                let parts = curves.counts.entry(*name).or_default();
                parts.entry(part.clone()).or_insert_with(|| vec![0; all])[i] = *n;
            }
            for (name, counts) in &point.counted.times {
                let times = curves.times.entry(*name);
                times.or_insert_with(|| vec![None; all])[i] = Some(counts.clone());
            }
            for (status, n) in point.live.iter().flatten() {
                let of = curves.live.entry(status.clone());
                of.or_insert_with(|| vec![None; all])[i] = Some(*n);
            }
        }
        // Where somebody looked, a status that nobody has is one that none has.
        for (i, point) in self.points.iter().enumerate().filter(|(_, p)| p.live.is_some()) {
            for (status, of) in &mut curves.live {
                of[i] = of[i].or_else(|| point.live.as_ref()?.get(status).copied().or(Some(0)));
            }
        }
        curves
    }
}

/// Which step of the grid a moment is in.
fn place(at: Timestamp, step: Duration) -> i64 {
    at.as_millis() / i64::try_from(step.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// What was counted in each moment of a window, a column for each count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Curves {
    /// How far apart the moments are.
    pub step: Duration,
    /// When each ended.
    pub at: Vec<Timestamp>,
    /// How long each was.
    pub over: Vec<Duration>,
    /// Counts by metric and part.
    pub counts: BTreeMap<&'static str, BTreeMap<String, Vec<u64>>>,
    /// By metric: how many fell into each bucket; none: nothing was timed.
    pub times: BTreeMap<&'static str, Vec<Option<Vec<u64>>>>,
    /// Live runs by status; none: not known.
    pub live: BTreeMap<String, Vec<Option<u64>>>,
}

/// Which window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The last hour, by ten seconds.
    Hour,
    /// The last day, by five minutes.
    Day,
}

/// How often the metrics are looked at.
pub const TICK: Duration = Duration::from_secs(10);

/// The moments of both windows.
#[derive(Debug)]
pub struct Series {
    hour: Ring,
    day: Ring,
}

impl Default for Series {
    fn default() -> Self {
        Self { hour: Ring::new(TICK, 360), day: Ring::new(Duration::from_mins(5), 288) }
    }
}

impl Series {
    /// Takes in what the metrics say now.
    pub fn take(&mut self, now: Timestamp, totals: &Totals, live: Option<&BTreeMap<String, u64>>) {
        self.hour.take(now, totals, live);
        self.day.take(now, totals, live);
    }

    /// The curves of a window.
    #[must_use]
    pub fn curves(&self, window: Window) -> Curves {
        match window {
            Window::Hour => self.hour.curves(),
            Window::Day => self.day.curves(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    fn text(started: u64, ended: u64, buckets: [u64; 3]) -> String {
        let [a, b, all] = buckets;
        format!(
            "# HELP stepwell_runs_started_total Runs.\n\
             stepwell_runs_started_total {started}\n\
             stepwell_runs_ended_total{{status=\"completed\"}} {ended}\n\
             stepwell_runs_ended_total{{status=\"failed\"}} 1\n\
             stepwell_attempts_total{{op=\"task\",outcome=\"failed\"}} 2\n\
             stepwell_attempts_total{{op=\"call\",outcome=\"failed\"}} 3\n\
             stepwell_invocation_seconds_bucket{{le=\"0.001\"}} {a}\n\
             stepwell_invocation_seconds_bucket{{le=\"0.01\"}} {b}\n\
             stepwell_invocation_seconds_bucket{{le=\"+Inf\"}} {all}\n\
             stepwell_invocation_seconds_sum 0.5\n\
             stepwell_something_else{{a=\"b c\"}} 7\n\
             half a line\n"
        )
    }

    #[test]
    fn a_point_has_what_was_counted_since_the_one_before() {
        let mut series = Series::default();
        let live = BTreeMap::from([("queued".to_owned(), 4)]);
        series.take(at(1000), &Totals::read(&text(5, 2, [1, 2, 3])), None);
        series.take(at(1010), &Totals::read(&text(9, 2, [1, 5, 7])), Some(&live));
        series.take(at(1030), &Totals::read(&text(9, 3, [1, 5, 7])), None);
        let hour = series.curves(Window::Hour);
        assert_eq!(hour.at, [at(1010), at(1030)]);
        assert_eq!(hour.over, [10, 20].map(Duration::from_secs));
        assert_eq!(hour.counts[STARTED][""], [4, 0]);
        assert_eq!(hour.counts[ENDED]["completed"], [0, 1]);
        assert_eq!(hour.counts[ENDED].get("failed"), None, "it was there before");
        assert_eq!(hour.counts.get(ATTEMPTS), None);
        assert_eq!(hour.times[INVOCATION_SECONDS], [Some(vec![0, 3, 1]), None]);
        assert_eq!(hour.live["queued"], [Some(4), None]);
        assert!(series.curves(Window::Day).at.is_empty(), "no five minutes have passed");
        assert_eq!(Totals::read(&text(0, 0, [0; 3])).counts[&(ATTEMPTS, "failed".to_owned())], 5);
    }

    #[test]
    fn the_last_hour_is_kept_and_a_counter_that_begins_anew_is_not_negative() {
        let mut series = Series::default();
        for n in 0..500 {
            series.take(at(n * 10), &Totals::read(&text(n.unsigned_abs(), 0, [0; 3])), None);
        }
        series.take(at(5000), &Totals::read(&text(3, 0, [0; 3])), None);
        let hour = series.curves(Window::Hour);
        assert_eq!((hour.at.len(), hour.at[359]), (360, at(5000)));
        assert_eq!(hour.counts[STARTED][""][357..], [1, 1, 3]);
        // The same moment again, or one before it, is no moment.
        series.take(at(5000), &Totals::default(), None);
        series.take(at(4990), &Totals::default(), None);
        assert_eq!(series.curves(Window::Hour).at.len(), 360);
        let day = series.curves(Window::Day);
        assert_eq!(day.at.len(), 16);
        assert_eq!(day.counts[STARTED][""].iter().sum::<u64>(), 480, "up to 4,800 s");
    }

    #[test]
    fn a_status_that_nobody_has_is_one_that_none_has() {
        let mut series = Series::default();
        let live = |status: &str| BTreeMap::from([(status.to_owned(), 1)]);
        series.take(at(0), &Totals::default(), None);
        series.take(at(10), &Totals::default(), Some(&live("queued")));
        series.take(at(20), &Totals::default(), Some(&live("paused")));
        series.take(at(30), &Totals::default(), None);
        let hour = series.curves(Window::Hour);
        assert_eq!(hour.live["queued"], [Some(1), Some(0), None]);
        assert_eq!(hour.live["paused"], [Some(0), Some(1), None]);
    }
}
