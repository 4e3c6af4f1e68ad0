//! Which runs: what a list may ask for, and what an act on many is about. In JSON it has the words of
//! the API, and is kept in that form.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use uuid::Uuid;

use super::Status;
use crate::machine::{DeploymentId, RunId, ScheduleId, Timestamp};
use crate::store::{Bound, Range};
pub use crate::store::{RunPlace, RunSort};

/// Which runs: repeated means or, different means and; an empty list means all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunFilter {
    /// Their status.
    #[serde(rename = "status", skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<Status>,
    /// Their function.
    #[serde(rename = "function", skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<String>,
    /// Their key.
    #[serde(rename = "key", skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Their tags. The same name twice means or.
    #[serde(rename = "tag", skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<TagTest>,
    /// The deployment they were last invoked on.
    #[serde(rename = "deployment", skip_serializing_if = "Vec::is_empty")]
    pub deployments: Vec<DeploymentId>,
    /// Created at this moment or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_after: Option<Timestamp>,
    /// Created before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_before: Option<Timestamp>,
    /// Ended at this moment or later; a live run has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_after: Option<Timestamp>,
    /// Ended before this moment; a live run has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_before: Option<Timestamp>,
    /// The run that started them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<RunId>,
    /// The schedule that started them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleId>,
    /// These very runs.
    #[serde(rename = "run", skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<RunId>,
    /// Kinds of errors that they failed or are paused by.
    #[serde(rename = "fingerprint", skip_serializing_if = "Vec::is_empty")]
    pub fingerprints: Vec<Fingerprint>,
    /// A part of id, key, function or tag value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// How many, 1 to 200.
    #[serde(skip)]
    pub limit: usize,
    /// In which order.
    #[serde(skip)]
    pub sort: RunSort,
    /// Only runs after this place in the list.
    #[serde(skip)]
    pub after: Option<RunPlace>,
}

impl RunFilter {
    /// Whether it asks for nothing, and so is about all runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { limit, sort, after, .. } = *self;
        *self == Self { limit, sort, after, ..Self::default() }
    }
}

/// Which kind of error: 32 digits of hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub Uuid);

impl FromStr for Fingerprint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let id = if hex { Uuid::try_parse(text).ok() } else { None };
        id.map(Self).ok_or_else(|| "must have 32 digits of hex in small letters".to_owned())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.simple())
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is asked of a tag: `name:value`, or a range such as `amount>=100` or `due<2026-12-01`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagTest {
    /// The tag.
    pub name: String,
    /// How its value compares.
    pub how: Compared,
    /// With what.
    pub value: String,
}

/// How the value of a tag compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// It is this text.
    Is,
    /// It is a number or a moment, and in this range.
    In(Range),
}

impl Compared {
    /// All, with their signs; longer signs before those that they begin with.
    const SIGNS: [(&str, Self); 5] = [
        (":", Self::Is),
        ("<=", Self::In(Range::UpTo)),
        ("<", Self::In(Range::Below)),
        (">=", Self::In(Range::From)),
        (">", Self::In(Range::Above)),
    ];

    fn sign(self) -> &'static str {
        let found = Self::SIGNS.into_iter().find(|(_, how)| *how == self);
        found.map_or(":", |(sign, _)| sign)
    }
}

impl FromStr for TagTest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = "must be `name:value`, or a range: `name>value`, with `>`, `>=`, `<` or `<=`";
        let at = text.find([':', '<', '>']).filter(|at| *at > 0).ok_or(bad)?;
        let (name, rest) = text.split_at(at);
        let (sign, how) =
            Compared::SIGNS.into_iter().find(|(sign, _)| rest.starts_with(sign)).ok_or(bad)?;
        let value = &rest[sign.len()..];
        if how != Compared::Is && !Bound::is_one(value) {
            return Err(format!(
                "`{value}` is no number (such as -12.5) and no moment in UTC (such as 2026-12-01 or \
                 2026-12-01T09:30:00Z), so nothing is {sign} it"
            ));
        }
        Ok(Self { name: name.to_owned(), how, value: value.to_owned() })
    }
}

impl fmt::Display for TagTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.name, self.how.sign(), self.value)
    }
}

impl Serialize for TagTest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TagTest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Status {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        Self::from_word(word).ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|s| s.word()).collect();
            format!("`{word}` is no status; there are {}", words.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_kept_in_the_words_of_the_api() {
        let filter = RunFilter {
            statuses: vec![Status::Failed, Status::TimedOut],
            tags: vec!["customer:c7:8".parse().expect("a tag")],
            started_before: Some(Timestamp::from_micros(1_000_000)),
            ended_after: Some(Timestamp::from_micros(0)),
            q: Some("x".to_owned()),
            ..RunFilter::default()
        };
        let json = serde_json::to_string(&filter).expect("JSON");
        assert_eq!(
            json,
            r#"{"status":["failed","timed_out"],"tag":["customer:c7:8"],"started_before":"1970-01-01T00:00:01.000Z","ended_after":"1970-01-01T00:00:00.000Z","q":"x"}"#
        );
        assert_eq!(serde_json::from_str::<RunFilter>(&json).expect("a filter"), filter);
        assert!(!filter.is_empty());
    }

    #[test]
    fn a_tag_is_compared_as_it_says() {
        for (text, name, how, value) in [
            ("customer:c7", "customer", Compared::Is, "c7"),
            ("a:b>c", "a", Compared::Is, "b>c"),
            ("amount>100", "amount", Compared::In(Range::Above), "100"),
            ("amount>=-1.5", "amount", Compared::In(Range::From), "-1.5"),
            ("due<2026-12-01", "due", Compared::In(Range::Below), "2026-12-01"),
            (
                "due<=2026-12-01T09:30:00.5Z",
                "due",
                Compared::In(Range::UpTo),
                "2026-12-01T09:30:00.5Z",
            ),
        ] {
            let test: TagTest = text.parse().expect(text);
            assert_eq!((test.name.as_str(), test.how, test.value.as_str()), (name, how, value));
            assert_eq!(test.to_string(), text);
        }
        for bad in [
            "amount",
            ":x",
            ">5",
            "a>",
            "a>b",
            "a>=",
            "a<2026-13-01",
            "a<1e5",
            "a<2026-12-01T09:30:00+01:00",
        ] {
            assert!(bad.parse::<TagTest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn where_a_page_is_does_not_count() {
        let sort = RunSort::LastEnded;
        assert!(RunFilter { limit: 50, sort, ..RunFilter::default() }.is_empty());
        assert!(!RunFilter { functions: vec!["f".to_owned()], ..RunFilter::default() }.is_empty());
    }

    #[test]
    fn what_a_newer_version_asks_for_is_not_passed_over() {
        assert!(serde_json::from_str::<RunFilter>(r#"{"colour":["red"]}"#).is_err());
        assert!(serde_json::from_str::<RunFilter>(r#"{"status":["lost"]}"#).is_err());
    }
}
