//! The moments of a rule: cron in a time zone, or an interval.
//!
//! Cron expressions are about what a clock on the wall shows. Where clocks are changed, the rule is
//! literal:
//!
//! - An expression that names hours (its field of hours is not `*`) fires once for each time that it
//!   names: for a time that is left out (a gap), at the first instant after the gap; for one that is
//!   shown twice (an overlap), the first time.
//! - An expression with `*` for hours is about every hour that passes: it fires whenever a clock shows
//!   a time that it names, which in an overlap is twice, and in a gap not at all.

use std::time::Duration;

use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use super::cron::Cron;
use crate::machine::Timestamp;

/// A rule, ready for use.
#[derive(Debug, Clone, PartialEq)]
pub enum When {
    /// What a clock shows somewhere.
    Cron {
        /// The expression.
        cron: Cron,
        /// Where.
        zone: TimeZone,
    },
    /// So long after one another.
    Every {
        /// How long; at least a second.
        every: Duration,
        /// One of the moments, or what they are counted from: it is none itself.
        anchor: Timestamp,
    },
}

/// The time zone of an IANA name. The names are those of the database in this binary.
pub(super) fn zone_of(name: &str) -> Result<TimeZone, String> {
    let known = !name.is_empty() && name.len() <= 64;
    let found = if known { TimeZone::get(name).ok() } else { None };
    found.ok_or_else(|| {
        let shown: String = name.chars().take(40).collect();
        format!("`{shown}` is no time zone; use a name such as `Europe/Paris` or `UTC`")
    })
}

impl When {
    /// The first moment after `after`; none: there is none before the year 9999.
    #[must_use]
    pub fn after(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every { every, anchor } => {
                let every = i64::try_from(every.as_micros()).ok().filter(|n| *n > 0)?;
                let passed = after.as_micros().saturating_sub(anchor.as_micros());
                let place = passed.div_euclid(every).checked_add(1)?.max(1);
                let next = place.checked_mul(every)?.checked_add(anchor.as_micros())?;
                Some(Timestamp::from_micros(next)).filter(|at| jiff_of(*at).is_some())
            }
            Self::Cron { cron, zone } if cron.every_hour() => passing(cron, zone, after),
            Self::Cron { cron, zone } => named(cron, zone, after),
        }
    }
}

fn jiff_of(at: Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_microsecond(at.as_micros()).ok()
}

fn ours(at: jiff::Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_microsecond())
}

/// The next of the times that an expression names, each once. Where a clock shows what, earlier
/// instants stand for earlier times, so the first time whose instant is later is the next.
fn named(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let at = jiff_of(after)?;
    let mut from = zone.to_datetime(at);
    loop {
        let time = cron.first_from(from)?;
        let ambiguous = zone.to_ambiguous_timestamp(time);
        let instant = match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(time).ok()?,
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(time).ok()?,
            // Read by the clock before the change it lies after it: the change is the last one.
            AmbiguousOffset::Gap { before, .. } => {
                let inside = before.to_timestamp(time).ok()?;
                change_before(zone, inside)?
            }
        };
        if instant > at {
            return Some(ours(instant));
        }
        from = time.checked_add(jiff::Span::new().minutes(1)).ok()?;
    }
}

/// The last change of a zone's clocks up to an instant.
fn change_before(zone: &TimeZone, instant: jiff::Timestamp) -> Option<jiff::Timestamp> {
    let just_after = instant.checked_add(jiff::SignedDuration::from_nanos(1)).ok()?;
    zone.preceding(just_after).next().map(|change| change.timestamp())
}

/// The next instant at which a clock shows a time that an expression names.
fn passing(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let at = jiff_of(after)?;
    let mut from = at.checked_add(jiff::SignedDuration::from_micros(1)).ok()?;
    // From one change of the clocks to the next they run evenly.
    for _ in 0..CHANGES {
        let offset: Offset = zone.to_offset(from);
        let until = zone.following(from).next().map(|change| change.timestamp());
        let time = cron.first_from(offset.to_datetime(from))?;
        let instant = offset.to_timestamp(time).ok()?;
        match until {
            Some(change) if instant >= change => from = change,
            _ => return Some(ours(instant)),
        }
    }
    None
}

/// How many changes of the clocks are looked over: more than lie in the nine years that an
/// expression is looked for, wherever it is.
const CHANGES: usize = 200;
