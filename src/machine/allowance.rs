//! How many of something there may be in a time: a bucket that fills up evenly, in one number.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::time::{Timestamp, format_duration, parse_duration};

/// So many at once, and as many again within the period, at an even pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    count: u32,
    period: Duration,
}

/// The largest number of an allowance.
const MOST: u32 = 1_000_000;
/// Its longest period.
const LONGEST: Duration = Duration::from_hours(24);

impl Allowance {
    /// So many in whole seconds.
    pub fn new(count: u32, period: Duration) -> Result<Self, String> {
        if !(1..=MOST).contains(&count) {
            return Err(format!("the number must be between 1 and {MOST}"));
        }
        if period.subsec_nanos() != 0 || period.is_zero() || period > LONGEST {
            return Err("the period must be whole seconds, from `1s` to `24h`".to_owned());
        }
        Ok(Self { count, period })
    }

    /// How many at once.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// How long an empty bucket takes to fill.
    #[must_use]
    pub const fn period(self) -> Duration {
        self.period
    }

    /// The time of one, in nanoseconds.
    fn interval(self) -> i64 {
        nanos(self.period) / i64::from(self.count)
    }

    /// Takes one at a moment, if there is one.
    pub fn take(self, bucket: &mut Bucket, now: Timestamp) -> Taken {
        let now = now.as_micros().saturating_mul(1_000);
        let full = bucket.0.max(now);
        let after = full + self.interval();
        // A period that is no multiple of its number has a rest, which nobody needs to wait for.
        let room = self.interval() * i64::from(self.count);
        let wait = (after - now) - room;
        if wait > 0 {
            return Taken { granted: false, left: 0, full_in: span(full - now), next: span(wait) };
        }
        bucket.0 = after;
        let left = (room - (after - now)) / self.interval().max(1);
        Taken {
            granted: true,
            left: u32::try_from(left).unwrap_or(self.count),
            full_in: span(after - now),
            next: Duration::ZERO,
        }
    }

    /// Whether there is none to take.
    #[must_use]
    pub fn is_used_up(self, bucket: Bucket, now: Timestamp) -> bool {
        !self.take(&mut { bucket }, now).granted
    }
}

fn nanos(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}

fn span(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, format_duration(self.period))
    }
}

impl serde::Serialize for Allowance {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Allowance {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Allowance {
    type Err = String;

    /// Reads `100/10s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "must be a number and a period, such as `100/10s`".to_owned();
        let (count, period) = text.split_once('/').ok_or_else(wrong)?;
        let count = count.trim().parse().map_err(|_| wrong())?;
        Self::new(count, parse_duration(period.trim())?)
    }
}

/// When a bucket would be full again, in nanoseconds of whose time its owner counts by. One that has never been used
/// is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket(i64);

impl Bucket {
    /// Whether it is full, and so needs not be remembered.
    #[must_use]
    pub fn is_full(self, now: Timestamp) -> bool {
        self.0 <= now.as_micros().saturating_mul(1_000)
    }
}

/// What came of taking one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Whether there was one.
    pub granted: bool,
    /// How many could be taken right after.
    pub left: u32,
    /// When the bucket is full again, if nobody takes any.
    pub full_in: Duration,
    /// When there is one again; zero if there was one.
    pub next: Duration,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_micros(1_764_000_000_000_000 + millis * 1_000)
    }

    #[test]
    fn as_many_at_once_as_it_says_and_then_at_an_even_pace() {
        let allowance: Allowance = "10/5s".parse().expect("it is one");
        let mut bucket = Bucket::default();
        for n in (0..10).rev() {
            let taken = allowance.take(&mut bucket, at(0));
            assert_eq!((taken.granted, taken.left), (true, n));
        }
        let refused = allowance.take(&mut bucket, at(0));
        assert!(!refused.granted && allowance.is_used_up(bucket, at(499)));
        assert_eq!(
            (refused.next, refused.full_in),
            (Duration::from_millis(500), Duration::from_secs(5))
        );
        assert!(allowance.take(&mut bucket, at(500)).granted);
        assert!(!allowance.take(&mut bucket, at(500)).granted);
        assert!(!bucket.is_full(at(5_499)) && bucket.is_full(at(5_500)));
    }

    #[test]
    fn what_it_is_written_as() {
        for (given, shown) in [("100/10s", "100/10s"), ("5 / 1m", "5/60s"), ("1/PT1H", "1/3600s")] {
            assert_eq!(given.parse::<Allowance>().map(|a| a.to_string()).as_deref(), Ok(shown));
        }
        for bad in
            ["", "5", "0/1s", "5/0s", "5/1500ms", "1000001/1s", "-1/1s", "5/48h", "x/1s", "5/x"]
        {
            assert!(bad.parse::<Allowance>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// Whatever the moments, also such as go back: no more than the number and what has come in
        /// meanwhile.
        #[test]
        fn never_more_than_it_says(
            count in 1_u32..2_000,
            seconds in 1_u64..120,
            steps in prop::collection::vec((-20_i64..400, 1_u32..200), 1..40),
        ) {
            let allowance = Allowance::new(count, Duration::from_secs(seconds)).expect("in bounds");
            let (mut bucket, mut now, mut latest, mut granted) = (Bucket::default(), 0, 0, 0_u64);
            for (index, (step, asks)) in steps.into_iter().enumerate() {
                // It is full at the first moment, which is the beginning.
                now += if index == 0 { 0 } else { step };
                latest = latest.max(now);
                for _ in 0..asks {
                    let taken = allowance.take(&mut bucket, at(now));
                    granted += u64::from(taken.granted);
                    prop_assert!(taken.granted || taken.next > Duration::ZERO);
                    prop_assert!(taken.left < count);
                }
            }
            let passed = u64::try_from(latest).unwrap_or_default();
            let come = passed * u64::from(count) / (seconds * 1_000);
            // The time of one is rounded down to nanoseconds.
            prop_assert!(granted <= u64::from(count) + come + 1, "{granted} of {count} + {come}");
        }
    }
}
