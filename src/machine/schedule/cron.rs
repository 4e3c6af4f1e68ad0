//! Cron expressions of five fields, and the civil times that match them.

use std::fmt;
use std::ops::RangeInclusive;

use jiff::ToSpan as _;
use jiff::civil::{Date, DateTime, Time};

/// How far ahead a matching day is looked for. Two leap days are at most eight years apart.
const YEARS: i16 = 9;

/// A cron expression: minute, hour, day of month, month, day of week.
#[derive(Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both fields of days say something: a day needs to match one of them.
    either_day: bool,
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({})", self.text)
    }
}

/// One of the five.
struct Field {
    name: &'static str,
    range: RangeInclusive<u8>,
    names: &'static [&'static str],
    /// The number of the first of `names`.
    first: u8,
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", range: 0..=59, names: &[], first: 0 },
    Field { name: "hour", range: 0..=23, names: &[], first: 0 },
    Field { name: "day of month", range: 1..=31, names: &[], first: 1 },
    Field {
        name: "month",
        range: 1..=12,
        names: &[
            "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
        ],
        first: 1,
    },
    Field {
        name: "day of week",
        range: 0..=7,
        names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
        first: 0,
    },
];

/// What stands for an expression.
const MACROS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Takes a time zone off the front of an expression: `TZ=Europe/Paris 0 9 * * *`.
#[must_use]
pub(super) fn split_zone(text: &str) -> (Option<&str>, &str) {
    let text = text.trim();
    let rest = text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ="));
    match rest {
        None => (None, text),
        Some(rest) => {
            let (zone, expression) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            (Some(zone), expression.trim())
        }
    }
}

impl Cron {
    /// Reads an expression without a time zone. The error names the field and says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() > 256 {
            return Err("has more than 256 characters".to_owned());
        }
        let expression = match text.strip_prefix('@') {
            None => text,
            Some(word) => {
                let word = word.split_whitespace().next().unwrap_or_default();
                if word == "every" {
                    return Err("`@every` is no cron expression; use `every`".to_owned());
                }
                let found = MACROS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
                found.map(|(_, stands_for)| *stands_for).ok_or_else(|| {
                    let known = MACROS.map(|(name, _)| format!("`{name}`")).join(", ");
                    format!("`{}` is not known; there are {known}", clip(text))
                })?
            }
        };
        let parts: Vec<&str> = expression.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts.as_slice() else {
            return Err(match parts.len() {
                6 => {
                    "has six fields: seconds are not supported; for less than a minute use `every`"
                        .to_owned()
                }
                n => format!(
                    "has {n} field{}; there are five: minute, hour, day of month, month, day of week",
                    if n == 1 { "" } else { "s" }
                ),
            });
        };
        let set = |i: usize, part: &str| FIELDS[i].read(part);
        let (days, mut weekdays) = (set(2, day)?, set(4, weekday)?);
        // Sunday is 0 and 7.
        if weekdays & (1 << 7) != 0 {
            weekdays = (weekdays | 1) & !(1 << 7);
        }
        let any = |part: &str| matches!(part, "*" | "?");
        let cron = Self {
            text: text.to_owned(),
            minutes: set(0, minute)?,
            hours: set(1, hour)?,
            days,
            months: set(3, month)?,
            weekdays,
            either_day: !any(day) && !any(weekday),
        };
        if !cron.ever() {
            return Err(format!("day of month: no such day in the months of `{}`", clip(month)));
        }
        Ok(cron)
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether its field of hours leaves none out: then it is about every hour that passes.
    #[must_use]
    pub(super) const fn every_hour(&self) -> bool {
        self.hours == (1 << 24) - 1
    }

    /// Whether any day can match.
    fn ever(&self) -> bool {
        let longest = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let by_day = (1_u8..=12).zip(longest).any(|(month, length)| {
            self.months & (1 << month) != 0 && (1..=length).any(|d: u8| self.days & (1 << d) != 0)
        });
        by_day || self.either_day
    }

    fn has_day(&self, date: Date) -> bool {
        let day = self.days & (1 << date.day()) != 0;
        let weekday = self.weekdays & (1 << date.weekday().to_sunday_zero_offset()) != 0;
        if self.either_day { day || weekday } else { day && weekday }
    }

    fn has_month(&self, date: Date) -> bool {
        self.months & (1 << date.month()) != 0
    }

    /// The first whole minute from `from` on that matches.
    #[must_use]
    pub(super) fn first_from(&self, from: DateTime) -> Option<DateTime> {
        let whole = from.second() == 0 && from.subsec_nanosecond() == 0;
        let minute = from.with().second(0).subsec_nanosecond(0).build().ok()?;
        let from = if whole { minute } else { minute.checked_add(1.minute()).ok()? };
        let last = from.year().saturating_add(YEARS);
        let mut date = from.date();
        let mut earliest = Some(from.time());
        while date.year() <= last {
            if !self.has_month(date) {
                date = date.last_of_month().tomorrow().ok()?;
                earliest = None;
                continue;
            }
            if self.has_day(date)
                && let Some(time) = self.time_from(earliest.unwrap_or(Time::MIN))
            {
                return Some(date.to_datetime(time));
            }
            earliest = None;
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// The first time of a day, from a whole minute on, that matches.
    fn time_from(&self, from: Time) -> Option<Time> {
        let (mut hour, mut minute) = (from.hour(), from.minute());
        while hour < 24 {
            if self.hours & (1 << hour) != 0 {
                let left = self.minutes >> minute;
                if left != 0 {
                    let minute = minute + i8::try_from(left.trailing_zeros()).ok()?;
                    return Time::new(hour, minute, 0, 0).ok();
                }
            }
            (hour, minute) = (hour + 1, 0);
        }
        None
    }
}

impl Field {
    fn wrong(&self, why: impl fmt::Display) -> String {
        format!("{}: {why}", self.name)
    }

    /// The values of a field, as bits.
    fn read(&self, text: &str) -> Result<u64, String> {
        let mut bits = 0;
        for part in text.split(',') {
            bits |= self.part(part)?;
        }
        Ok(bits)
    }

    fn part(&self, text: &str) -> Result<u64, String> {
        let (range, step) = match text.split_once('/') {
            None => (text, None),
            Some((range, step)) => (range, Some(step)),
        };
        let (low, high) = match range {
            "" => return Err(self.wrong("is empty between commas")),
            "*" | "?" => (*self.range.start(), self.last()),
            _ => {
                if let Some((low, high)) = range.split_once('-') {
                    (self.value(low)?, self.value(high)?)
                } else {
                    let low = self.value(range)?;
                    // `5/15` is from 5 on.
                    (low, if step.is_some() { self.last() } else { low })
                }
            }
        };
        if low > high {
            let detail =
                format!("`{}` runs backwards; write it as two, such as `22-23,0-2`", clip(range));
            return Err(self.wrong(detail));
        }
        let step = match step {
            None => 1,
            Some(text) => match text.parse::<u8>() {
                Ok(n) if n > 0 => n,
                _ => {
                    return Err(
                        self.wrong(format!("`/{}` is no step; it is a number from 1", clip(text)))
                    );
                }
            },
        };
        let values = (low..=high).step_by(usize::from(step));
        Ok(values.fold(0, |bits, value| bits | 1 << value))
    }

    /// The last value that `*` stands for.
    fn last(&self) -> u8 {
        if self.name == "day of week" { 6 } else { *self.range.end() }
    }

    fn value(&self, text: &str) -> Result<u8, String> {
        if let Ok(number) = text.parse::<u8>()
            && text.bytes().all(|b| b.is_ascii_digit())
        {
            if self.range.contains(&number) {
                return Ok(number);
            }
            let (low, high) = (self.range.start(), self.range.end());
            return Err(self.wrong(format!("{number} is not between {low} and {high}")));
        }
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        if let Some(place) = named.and_then(|place| u8::try_from(place).ok()) {
            return Ok(self.first + place);
        }
        let mut letters = text.chars();
        if letters.any(|c| matches!(c, 'L' | 'W' | '#')) && self.name.starts_with("day") {
            return Err(self.wrong(format!("`{}`: `L`, `W` and `#` are not supported", clip(text))));
        }
        let words = match self.names {
            [first, .., last] => format!(" or a name from {first} to {last}"),
            _ => String::new(),
        };
        let (low, high) = (self.range.start(), self.range.end());
        Err(self.wrong(format!("`{}` is no number from {low} to {high}{words}", clip(text))))
    }
}

/// A stranger may have written it: no more than its beginning is told again.
fn clip(text: &str) -> &str {
    &text[..text.char_indices().nth(24).map_or(text.len(), |(at, _)| at)]
}
