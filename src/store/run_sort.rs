//! In which order runs are listed, and a place in that order.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::machine::{RunId, Timestamp};

/// The year 9999: nothing ends later.
const FAR: Timestamp = Timestamp::from_micros(253_370_764_800_000_000);

/// In which order runs are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunSort {
    /// The one that was started last comes first.
    #[default]
    Newest,
    /// The one that was started first comes first.
    Oldest,
    /// Ended runs alone; the one that ended last comes first.
    LastEnded,
    /// Ended runs alone; the one that ended first comes first.
    FirstEnded,
}

impl RunSort {
    /// All, with their words.
    const WORDS: [(&str, Self); 4] = [
        ("-started", Self::Newest),
        ("started", Self::Oldest),
        ("-ended", Self::LastEnded),
        ("ended", Self::FirstEnded),
    ];

    /// As the API writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, sort)| *sort == self).map_or("-started", |(word, _)| word)
    }

    /// Whether it is the order of ends, in which live runs have no place.
    #[must_use]
    pub const fn by_end(self) -> bool {
        matches!(self, Self::LastEnded | Self::FirstEnded)
    }

    /// The place of a run in this order.
    #[must_use]
    pub fn place(self, run: RunId, ended_at: Option<Timestamp>) -> RunPlace {
        RunPlace { run, ended_at: ended_at.filter(|_| self.by_end()) }
    }

    /// What is before all runs.
    pub(super) const fn beginning(self) -> (Uuid, Timestamp) {
        match self {
            Self::Newest | Self::LastEnded => (Uuid::max(), FAR),
            Self::Oldest | Self::FirstEnded => (Uuid::nil(), Timestamp::from_micros(0)),
        }
    }
}

impl FromStr for RunSort {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::WORDS.iter().find(|(word, _)| *word == text);
        found.map(|(_, sort)| *sort).ok_or_else(|| {
            let words = Self::WORDS.map(|(word, _)| format!("`{word}`")).join(", ");
            format!("`{text}` is no order of runs; there are {words}")
        })
    }
}

impl fmt::Display for RunSort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The place of a run in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunPlace {
    /// The run.
    pub run: RunId,
    /// In the order of ends: when it ended.
    pub ended_at: Option<Timestamp>,
}
