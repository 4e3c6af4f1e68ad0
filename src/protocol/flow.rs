//! What a function says about its flow: how many of its runs may be on their way, how fast they
//! start, which starts are one, which of two runs stays.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::machine::{Path, time::duration};

/// The highest limit.
const MOST: u32 = 100_000;
/// The most limits of one kind that a function may have.
const MOST_LIMITS: usize = 8;
/// How many starts a run may gather.
const GATHERED: std::ops::RangeInclusive<u32> = 2..=1000;
/// The longest period.
const LONGEST: Duration = Duration::from_hours(24 * 31);

/// What a slot covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// An open exchange, task or call: a run that sleeps has none.
    #[default]
    Invocation,
    /// The run from its first invocation to its end.
    Run,
}

/// How many runs may be on their way at once.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// So many.
    pub limit: u32,
    /// For each value at this path of the input.
    #[serde(default)]
    pub key: Option<Path>,
    /// Among runs that wait, values at this path of the input take turns.
    #[serde(default)]
    pub fair: Option<Path>,
    /// What a slot covers.
    #[serde(default)]
    pub per: Per,
    /// A run that another node takes over waits until the exchange that the last node may have left
    /// open has spent its budget.
    #[serde(default)]
    pub strict: bool,
}

/// How many runs may start in a time; the rest wait, or are refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// So many …
    pub limit: u32,
    /// … in so long.
    #[serde(with = "duration")]
    pub period: Duration,
    /// Throttles: how many may start at once after a pause. By default 1: they start at an even pace.
    #[serde(default)]
    pub burst: Option<u32>,
    /// For each value at this path of the input.
    #[serde(default)]
    pub key: Option<Path>,
    /// Throttles: among runs that wait, values at this path of the input take turns.
    #[serde(default)]
    pub fair: Option<Path>,
}

impl Rate {
    /// The time between two that start at an even pace.
    #[must_use]
    pub fn interval(&self) -> Duration {
        (self.period / self.limit.max(1)).max(Duration::from_micros(1))
    }
}

/// Starts that come soon after each other are one: the last.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debounce {
    /// Starts when none has come for so long …
    #[serde(with = "duration")]
    pub period: Duration,
    /// … or so long after the first, whatever comes.
    #[serde(default, with = "duration::option")]
    pub max_wait: Option<Duration>,
    /// For each value at this path of the input.
    #[serde(default)]
    pub key: Option<Path>,
}

/// Starts that come within a time are one run, whose input is the list of theirs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gather {
    /// It begins with so many …
    pub size: u32,
    /// … or so long after the first.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// For each value at this path of the input.
    #[serde(default)]
    pub key: Option<Path>,
}

/// Which run stays where there may be but one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stays {
    /// The older: the start answers with it.
    #[default]
    Skip,
    /// The newer: the older is cancelled first.
    Cancel,
}

/// At most one live run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Singleton {
    /// For each value at this path of the input.
    #[serde(default)]
    pub key: Option<Path>,
    /// Which run stays.
    #[serde(default)]
    pub mode: Stays,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flow {
    /// All must let a run through.
    pub concurrency: Vec<Concurrency>,
    /// Starts over it wait.
    pub throttle: Option<Rate>,
    /// Starts over it are refused.
    pub rate_limit: Option<Rate>,
    /// Starts that are one.
    pub debounce: Option<Debounce>,
    /// Runs of which one stays.
    pub singleton: Option<Singleton>,
    /// Starts that are one run.
    pub gather: Option<Gather>,
}

/// The settings as they came. 0.1.0 kept whatever was in `concurrency`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Given<'a> {
    pub(super) concurrency: Option<&'a RawValue>,
    pub(super) throttle: Option<&'a RawValue>,
    pub(super) rate_limit: Option<&'a RawValue>,
    pub(super) debounce: Option<&'a RawValue>,
    pub(super) singleton: Option<&'a RawValue>,
    pub(super) gather: Option<&'a RawValue>,
}

impl Flow {
    /// Whether runs may have to wait for it.
    #[must_use]
    pub const fn keeps_back(&self) -> bool {
        !self.concurrency.is_empty() || self.throttle.is_some()
    }

    /// Reads the settings. The error says which one, and what is wrong with it.
    pub(super) fn read(given: Given<'_>) -> Result<Self, (&'static str, String)> {
        let mut flow = Self::default();
        if let Some(raw) = given.concurrency {
            flow.concurrency = one("concurrency", raw)?;
            check_concurrency(&flow.concurrency).map_err(|e| ("concurrency", e))?;
        }
        if let Some(raw) = given.throttle {
            let rate = one("throttle", raw)?;
            check_rate(&rate).map_err(|e| ("throttle", e))?;
            flow.throttle = Some(rate);
        }
        if let Some(raw) = given.rate_limit {
            let rate: Rate = one("rate_limit", raw)?;
            check_rate(&rate).map_err(|e| ("rate_limit", e))?;
            if rate.burst.is_some() {
                let detail =
                    "`burst` is for `throttle`: of a rate limit all of `limit` may come at once";
                return Err(("rate_limit", detail.to_owned()));
            }
            if rate.fair.is_some() {
                let detail = "`fair` is for `throttle`: nobody waits at a rate limit";
                return Err(("rate_limit", detail.to_owned()));
            }
            flow.rate_limit = Some(rate);
        }
        if let Some(raw) = given.debounce {
            let debounce: Debounce = one("debounce", raw)?;
            within("period", debounce.period).map_err(|e| ("debounce", e))?;
            if let Some(most) = debounce.max_wait {
                within("max_wait", most).map_err(|e| ("debounce", e))?;
                if most < debounce.period {
                    return Err(("debounce", "`max_wait` is shorter than `period`".to_owned()));
                }
            }
            flow.debounce = Some(debounce);
        }
        if let Some(raw) = given.singleton {
            flow.singleton = Some(one("singleton", raw)?);
        }
        if flow.debounce.is_some() && flow.singleton.is_some() {
            let detail = "not beside `debounce`: a start that waits has no run to skip or cancel";
            return Err(("singleton", detail.to_owned()));
        }
        if let Some(raw) = given.gather {
            flow.gather = Some(one("gather", raw)?);
            flow.check_gather().map_err(|why| ("gather", why))?;
        }
        Ok(flow)
    }

    fn check_gather(&self) -> Result<(), String> {
        let Some(gather) = &self.gather else { return Ok(()) };
        if !GATHERED.contains(&gather.size) {
            return Err(format!(
                "`size` must be between {} and {}",
                GATHERED.start(),
                GATHERED.end()
            ));
        }
        within("timeout", gather.timeout)?;
        for (other, is_there) in [
            ("debounce", self.debounce.is_some()),
            ("singleton", self.singleton.is_some()),
            ("rate_limit", self.rate_limit.is_some()),
        ] {
            if is_there {
                return Err(format!("not beside `{other}`, which is about single starts"));
            }
        }
        Ok(())
    }
}

fn one<'a, T: Deserialize<'a>>(
    field: &'static str,
    raw: &'a RawValue,
) -> Result<T, (&'static str, String)> {
    serde_json::from_str(raw.get()).map_err(|e| (field, e.to_string()))
}

fn check_concurrency(all: &[Concurrency]) -> Result<(), String> {
    if all.len() > MOST_LIMITS {
        return Err(format!("has {} limits; at most {MOST_LIMITS} are possible", all.len()));
    }
    for (index, one) in all.iter().enumerate() {
        in_range(one.limit)?;
        if all[..index].iter().any(|other| other.key == one.key) {
            return Err("has two limits with the same `key`".to_owned());
        }
        check_fair(one.key.as_ref(), one.fair.as_ref())?;
    }
    Ok(())
}

fn check_rate(rate: &Rate) -> Result<(), String> {
    in_range(rate.limit)?;
    within("period", rate.period)?;
    check_fair(rate.key.as_ref(), rate.fair.as_ref())?;
    match rate.burst {
        Some(burst) if burst == 0 || burst > MOST => {
            Err(format!("`burst` must be between 1 and {MOST}"))
        }
        _ => Ok(()),
    }
}

fn check_fair(key: Option<&Path>, fair: Option<&Path>) -> Result<(), String> {
    if fair.is_some() && fair == key {
        let detail = "`fair` must be another path than `key`: \
            all runs that wait at one value of the `key` have it in common";
        return Err(detail.to_owned());
    }
    Ok(())
}

fn in_range(limit: u32) -> Result<(), String> {
    if (1..=MOST).contains(&limit) {
        return Ok(());
    }
    Err(format!("`limit` must be between 1 and {MOST}; to let nobody through, pause the function"))
}

fn within(field: &str, length: Duration) -> Result<(), String> {
    if (Duration::from_millis(1)..=LONGEST).contains(&length) {
        return Ok(());
    }
    Err(format!("`{field}` must be between a millisecond and 31 days"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(field: &str, json: &str) -> Result<Flow, (&'static str, String)> {
        let raw: &RawValue = serde_json::from_str(json).expect("JSON");
        let mut given = Given::default();
        match field {
            "concurrency" => given.concurrency = Some(raw),
            "throttle" => given.throttle = Some(raw),
            "rate_limit" => given.rate_limit = Some(raw),
            "debounce" => given.debounce = Some(raw),
            "gather" => given.gather = Some(raw),
            _ => given.singleton = Some(raw),
        }
        Flow::read(given)
    }

    #[test]
    fn what_is_said_is_read() {
        let flow = read("concurrency", r#"[{"limit": 3, "key": "input.tenant", "per": "run"}]"#);
        let flow = flow.expect("a limit");
        assert_eq!(flow.concurrency[0].limit, 3);
        assert_eq!(flow.concurrency[0].per, Per::Run);
        let flow = read("throttle", r#"{"limit": 10, "period": "1m"}"#).expect("a throttle");
        let throttle = flow.throttle.expect("there");
        assert_eq!(throttle.interval(), Duration::from_secs(6));
        let flow = read("concurrency", r#"[{"limit": 3, "fair": "input.tenant"}]"#);
        let fair = flow.expect("a limit").concurrency[0].fair.clone().expect("a path");
        assert_eq!(fair.as_str(), "input.tenant");
        let flow = read("singleton", r#"{"mode": "cancel"}"#).expect("a singleton");
        assert_eq!(flow.singleton.expect("there").mode, Stays::Cancel);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (field, json, word) in [
            ("concurrency", r#"[{"limit": 0}]"#, "between 1 and"),
            ("concurrency", r#"{"limit": 1}"#, "sequence"),
            ("concurrency", r#"[{"limit": 1, "keys": "x"}]"#, "unknown field"),
            ("concurrency", r#"[{"limit": 1, "key": "tenant"}]"#, "input."),
            ("concurrency", r#"[{"limit": 1}, {"limit": 2}]"#, "same `key`"),
            ("throttle", r#"{"limit": 1, "period": "90d"}"#, "31 days"),
            ("throttle", r#"{"limit": 1, "period": "1s", "burst": 0}"#, "burst"),
            ("rate_limit", r#"{"limit": 1, "period": "1s", "burst": 2}"#, "throttle"),
            ("concurrency", r#"[{"limit": 1, "fair": "tenant"}]"#, "input."),
            ("concurrency", r#"[{"limit": 1, "key": "input.a", "fair": "input.a"}]"#, "another"),
            ("throttle", r#"{"limit": 1, "period": "1s", "fair": {}}"#, "string"),
            ("rate_limit", r#"{"limit": 1, "period": "1s", "fair": "input.a"}"#, "throttle"),
            ("debounce", r#"{"period": "5s", "max_wait": "1s"}"#, "shorter"),
            ("singleton", r#"{"mode": "both"}"#, "both"),
            ("gather", r#"{"size": 1, "timeout": "1s"}"#, "`size`"),
            ("gather", r#"{"size": 1001, "timeout": "1s"}"#, "`size`"),
            ("gather", r#"{"size": 2, "timeout": "32d"}"#, "`timeout`"),
            ("gather", r#"{"size": 2}"#, "timeout"),
        ] {
            let (at, said) = read(field, json).expect_err(json);
            assert_eq!(at, field);
            assert!(said.contains(word), "{json}: {said}");
        }
    }
}
