//! Retry policies: what may be written, what is in force, and when the next attempt is due.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::{Timestamp, duration};

/// A retry policy as it is written: what is left out has the default.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrySpec {
    /// Attempts in all, 1 to 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// The first delay.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub initial: Option<Duration>,
    /// What each delay is multiplied by, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// The longest delay.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub max_interval: Option<Duration>,
    /// The part of a delay that is left to chance, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
    /// No attempt begins later than this after the first.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub max_elapsed: Option<Duration>,
}

impl RetrySpec {
    /// Fills what is left out from `base`.
    #[must_use]
    pub fn over(&self, base: &RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or(base.max_attempts),
            initial: self.initial.unwrap_or(base.initial),
            factor: self.factor.unwrap_or(base.factor),
            max_interval: self.max_interval.unwrap_or(base.max_interval),
            jitter: self.jitter.unwrap_or(base.jitter),
            max_elapsed: self.max_elapsed.or(base.max_elapsed),
        }
    }

    /// What is wrong with it, as (field, reason).
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if !self.max_attempts.is_none_or(|n| (1..=10_000).contains(&n)) {
            return Err(("max_attempts", "must be between 1 and 10000".to_owned()));
        }
        if !self.factor.is_none_or(|f| (1.0..=100.0).contains(&f)) {
            return Err(("factor", "must be between 1 and 100".to_owned()));
        }
        if !self.jitter.is_none_or(|j| (0.0..=1.0).contains(&j)) {
            return Err(("jitter", "must be between 0 and 1".to_owned()));
        }
        Ok(())
    }
}

/// A retry policy in force.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all.
    pub max_attempts: u32,
    /// The first delay.
    pub initial: Duration,
    /// What each delay is multiplied by.
    pub factor: f64,
    /// The longest delay.
    pub max_interval: Duration,
    /// The part of a delay that is left to chance.
    pub jitter: f64,
    /// No attempt begins later than this after the first.
    pub max_elapsed: Option<Duration>,
}

impl RetryPolicy {
    /// PROTOCOL section 5: 10 attempts from 0.5 s by 2 to 60 s.
    pub const STEP: Self = Self {
        max_attempts: 10,
        initial: Duration::from_millis(500),
        factor: 2.0,
        max_interval: Duration::from_mins(1),
        jitter: 0.2,
        max_elapsed: None,
    };
    /// For exchanges that fail: the same form, more patience (about half an hour).
    pub const INVOCATION: Self = Self { max_attempts: 35, ..Self::STEP };
    /// For a run-level error: the run has failed at the first.
    pub const RUN: Self = Self { max_attempts: 1, ..Self::STEP };

    /// The delay after failed attempt number `attempt` (from 1). `chance` is in [0, 1).
    #[must_use]
    pub fn delay(&self, attempt: u32, chance: f64) -> Duration {
        let steps = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let cap = self.max_interval.as_secs_f64();
        let full = (self.initial.as_secs_f64() * self.factor.powi(steps)).min(cap);
        Duration::from_secs_f64(full * (1.0 - self.jitter * chance))
    }

    /// When the attempt after failed attempt number `attempt` is due, or none if the policy is
    /// used up. `asked` is a delay that the other side asked for; it replaces the computed one.
    #[must_use]
    pub fn next(
        &self,
        attempt: u32,
        first: Timestamp,
        now: Timestamp,
        asked: Option<Duration>,
        chance: f64,
    ) -> Option<Timestamp> {
        if attempt >= self.max_attempts {
            return None;
        }
        let at = now + asked.unwrap_or_else(|| self.delay(attempt, chance));
        match self.max_elapsed {
            Some(most) if at > first + most => None,
            _ => Some(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_jitter_only_shortens() {
        let p = RetryPolicy::STEP;
        assert_eq!(p.delay(1, 0.0), Duration::from_millis(500));
        assert_eq!(p.delay(3, 0.0), Duration::from_secs(2));
        assert_eq!(p.delay(10_000, 0.0), Duration::from_mins(1));
        assert!(
            p.delay(3, 0.99) < p.delay(3, 0.0) && p.delay(3, 0.99) > Duration::from_millis(1500)
        );
    }

    #[test]
    fn a_policy_is_used_up_by_count_or_by_time() {
        let now = Timestamp::from_micros(0);
        let p = RetryPolicy { max_attempts: 3, ..RetryPolicy::STEP };
        assert!(p.next(2, now, now, None, 0.0).is_some());
        assert!(p.next(3, now, now, None, 0.0).is_none());
        let p = RetryPolicy { max_elapsed: Some(Duration::from_secs(1)), ..p };
        assert!(p.next(1, now, now, Some(Duration::from_secs(2)), 0.0).is_none());
    }
}
