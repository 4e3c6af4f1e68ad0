//! Moments in microseconds, and durations as people write them (`90s`, `7d`, `PT30S`).

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

/// A moment: microseconds since the Unix epoch, what Postgres' `timestamptz` can hold exactly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment so many microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The Monday, 00:00 UTC, at or before it.
    #[must_use]
    pub const fn monday(self) -> Self {
        const DAY: i64 = 86_400_000_000;
        let day = self.0.div_euclid(DAY);
        // Day 0 was a Thursday.
        Self((day - (day + 3).rem_euclid(7)) * DAY)
    }

    /// How long from `earlier` until here; zero if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-11-23T09:00:00.000Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{moment:.3}")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<jiff::Timestamp>()
            .map(|t| Self(t.as_microsecond()))
            .map_err(|_| format!("`{text}` is not an RFC 3339 time such as 2026-11-23T09:00:00Z"))
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The longest duration that may be asked for: 100 years.
pub const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

/// Reads `90s`, `1h 30m`, `7d` or ISO 8601 (`PT30S`, `P7D`). A day is 24 hours; months and years,
/// which have no fixed length, are refused.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    // A stranger may have written it: no more than its beginning is told again.
    let shown = &text[..text.char_indices().nth(24).map_or(text.len(), |(at, _)| at)];
    let wrong = || format!("`{shown}` is not a duration such as `90s`, `7d` or `PT30S`");
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    if span.get_months() != 0 || span.get_years() != 0 {
        return Err(format!("`{shown}`: months and years have no fixed length, use days"));
    }
    let length =
        span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    let length = Duration::try_from(length).map_err(|_| format!("`{shown}` is negative"))?;
    if length > LONGEST {
        return Err(format!("`{shown}` is longer than 100 years"));
    }
    Ok(length)
}

/// Writes a duration in the form that [`parse_duration`] reads: `1500ms`, `90s`.
#[must_use]
pub fn format_duration(d: Duration) -> String {
    if !d.subsec_micros().is_multiple_of(1_000) {
        format!("{}us", d.as_micros())
    } else if d.subsec_millis() != 0 {
        format!("{}ms", d.as_millis())
    } else {
        format!("{}s", d.as_secs())
    }
}

/// `#[serde(with = "duration")]` for a field that holds a duration as text.
pub mod duration {
    use super::{Duration, format_duration, parse_duration};

    /// Writes the text form.
    pub fn serialize<S: serde::Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format_duration(*d))
    }

    /// Reads the text form.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(d)?;
        parse_duration(&text).map_err(serde::de::Error::custom)
    }

    /// The same for an optional field.
    pub mod option {
        use super::{Duration, format_duration, parse_duration};

        /// Writes the text form or null.
        #[expect(clippy::ref_option, reason = "the signature serde asks for")]
        pub fn serialize<S: serde::Serializer>(
            d: &Option<Duration>,
            s: S,
        ) -> Result<S::Ok, S::Error> {
            match d {
                Some(d) => s.serialize_str(&format_duration(*d)),
                None => s.serialize_none(),
            }
        }

        /// Reads the text form or null.
        pub fn deserialize<'de, D: serde::Deserializer<'de>>(
            d: D,
        ) -> Result<Option<Duration>, D::Error> {
            let text = <Option<std::borrow::Cow<'de, str>> as serde::Deserialize>::deserialize(d)?;
            text.map(|t| parse_duration(&t).map_err(serde::de::Error::custom)).transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, secs) in [("90s", 90), ("7d", 604_800), ("PT30S", 30), ("1h 30m", 5_400)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(secs)), "{text}");
        }
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        for bad in ["", "5", "soon", "-3s", "P1M", "1000000d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn weeks_begin_on_mondays() {
        let monday = |text: &str| text.parse::<Timestamp>().expect("a time").monday().to_string();
        for at in ["2026-11-23T00:00:00Z", "2026-11-26T12:00:00Z", "2026-11-29T23:59:59.999Z"] {
            assert_eq!(monday(at), "2026-11-23T00:00:00.000Z", "{at}");
        }
        assert_eq!(monday("1970-01-01T00:00:00Z"), "1969-12-29T00:00:00.000Z");
    }

    #[test]
    fn moments_have_milliseconds() {
        let t: Timestamp = "2026-11-23T09:00:00Z".parse().expect("a time");
        assert_eq!(t.to_string(), "2026-11-23T09:00:00.000Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
    }
}
