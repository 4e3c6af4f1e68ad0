//! Which events a subscriber wants: fields that must be equal to given values, found by a hash.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// The most fields that one subscriber may name.
const MOST_FIELDS: usize = 8;
/// The longest path, in bytes.
const LONGEST_PATH: usize = 256;

/// Fields of an event, such as `data.order.id` or `source`, and the JSON scalar that each must be.
///
/// Strings are equal by their characters, whatever their escapes; numbers as they are written:
/// `1` and `1.0` are not equal, and no digit is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Matching(BTreeMap<String, String>);

/// The parts of an event that can be asked for.
#[derive(Debug, Clone, Copy)]
pub struct Matched<'a> {
    /// Who published it.
    pub source: &'a str,
    /// Its data, JSON.
    pub data: &'a RawValue,
}

impl Matching {
    /// Reads an object of paths and scalars. The error says which path and what is wrong.
    pub fn parse(raw: &RawValue) -> Result<Self, String> {
        let fields: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(raw.get()).map_err(|_| {
                "must be an object of field paths and values, such as {\"data.order\": 42}"
                    .to_owned()
            })?;
        if fields.len() > MOST_FIELDS {
            return Err(format!("names {} fields; the limit is {MOST_FIELDS}", fields.len()));
        }
        let mut wanted = BTreeMap::new();
        for (path, value) in fields {
            if path.len() > LONGEST_PATH || path.chars().any(char::is_control) {
                let what = "is over 256 bytes long or has control characters";
                return Err(format!("a field path {what}"));
            }
            if !is_of_event(&path) {
                return Err(format!("`{path}` is no field of an event: use `source` or `data.…`"));
            }
            let value = scalar(&value).ok_or_else(|| {
                format!("`{path}` must be equal to a string, a number, true, false or null")
            })?;
            wanted.insert(path, value);
        }
        Ok(Self(wanted))
    }

    /// The same, and what is at a path of an input must be at `path` of the event. None: there is
    /// no scalar there.
    #[must_use]
    pub fn and_same(mut self, path: &str, of: &Path, input: &RawValue) -> Option<Self> {
        self.0.insert(path.to_owned(), scalar(of.found_in(input)?)?);
        Some(self)
    }

    /// The paths, one a line.
    #[must_use]
    pub fn paths(&self) -> String {
        self.0.keys().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// What an event must hash to at these paths.
    #[must_use]
    pub fn hash(&self) -> [u8; 16] {
        digest(self.0.iter().map(|(path, value)| (path.as_str(), value.as_str())))
    }

    /// What `event` hashes to at `paths` (one a line); none where it has not all of them as scalars.
    #[must_use]
    pub fn hash_of(paths: &str, event: Matched<'_>) -> Option<[u8; 16]> {
        let mut found = Vec::new();
        for path in paths.lines() {
            let value = match path.strip_prefix("data.") {
                Some(rest) => scalar(inside(event.data, rest)?)?,
                None => serde_json::to_string(event.source).ok()?,
            };
            found.push((path, value));
        }
        Some(digest(found.iter().map(|(path, value)| (*path, value.as_str()))))
    }

    /// Whether an event is wanted.
    #[must_use]
    pub fn holds(&self, event: Matched<'_>) -> bool {
        Self::hash_of(&self.paths(), event) == Some(self.hash())
    }
}

/// Whether a path is one of an event: `source` or below `data`.
#[must_use]
pub fn is_of_event(path: &str) -> bool {
    path == "source" || path.strip_prefix("data.").is_some_and(|rest| !rest.is_empty())
}

/// A field of a run's input, such as `input.customer.id`; `input` is all of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Path(String);

impl TryFrom<String> for Path {
    type Error = String;

    fn try_from(path: String) -> Result<Self, String> {
        if path.len() > LONGEST_PATH || path.chars().any(char::is_control) {
            return Err("a path is over 256 bytes long or has control characters".to_owned());
        }
        if path != "input" && path.strip_prefix("input.").is_none_or(str::is_empty) {
            return Err(format!("`{path}` is no field of an input: use `input.…`"));
        }
        Ok(Self(path))
    }
}

impl Path {
    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is there; none: nothing.
    #[must_use]
    pub fn found_in<'a>(&self, input: &'a RawValue) -> Option<&'a RawValue> {
        match self.0.strip_prefix("input.") {
            Some(rest) => inside(input, rest),
            None => Some(input),
        }
    }

    /// What is there, as text: a string by its characters, another scalar as it is written, nothing
    /// and null as nothing, everything else and what is over 256 bytes long as its hash.
    #[must_use]
    pub fn value_in(&self, input: &RawValue) -> String {
        let Some(found) = self.found_in(input).map(RawValue::get).filter(|json| *json != "null")
        else {
            return String::new();
        };
        let plain = match found.as_bytes().first() {
            Some(b'"') => serde_json::from_str(found).ok(),
            Some(b'{' | b'[') | None => None,
            Some(_) => Some(found.to_owned()),
        };
        // Postgres has no text with a zero in it.
        let fits = |text: &String| text.len() <= LONGEST_PATH && !text.contains('\0');
        plain.filter(fits).unwrap_or_else(|| {
            let hash = Sha256::digest(found.as_bytes());
            hash[..16].iter().fold("#".to_owned(), |text, byte| format!("{text}{byte:02x}"))
        })
    }
}

/// What is at a path of names with dots between them; a number is a place in an array.
fn inside<'a>(json: &'a RawValue, path: &str) -> Option<&'a RawValue> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(n, r)| (n, Some(r)));
    let found: &RawValue = if json.get().starts_with('[') {
        let items: Vec<&RawValue> = serde_json::from_str(json.get()).ok()?;
        items.get(name.parse::<usize>().ok()?).copied()?
    } else {
        let fields: HashMap<String, &RawValue> = serde_json::from_str(json.get()).ok()?;
        fields.get(name).copied()?
    };
    match rest {
        Some(rest) => inside(found, rest),
        None => Some(found),
    }
}

/// A JSON scalar in one way of writing it.
fn scalar(json: &RawValue) -> Option<String> {
    match json.get().as_bytes().first()? {
        b'{' | b'[' => None,
        b'"' => {
            let text: String = serde_json::from_str(json.get()).ok()?;
            serde_json::to_string(&text).ok()
        }
        _ => Some(json.get().to_owned()),
    }
}

fn digest<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> [u8; 16] {
    let mut hash = Sha256::new();
    for (path, value) in fields {
        hash.update(path);
        hash.update([0]);
        hash.update(value);
        hash.update([0]);
    }
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finalize()[..16]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("JSON")
    }

    fn holds(matching: &str, data: &str) -> bool {
        let matching = Matching::parse(&raw(matching)).expect("a matching");
        matching.holds(Matched { source: "shop", data: &raw(data) })
    }

    #[test]
    fn a_path_gives_the_text_of_what_is_there() {
        let at = |path: &str, input: &str| {
            Path::try_from(path.to_owned()).expect("a path").value_in(&raw(input))
        };
        assert_eq!(at("input.tenant", r#"{"tenant": "a\u0063me"}"#), "acme");
        assert_eq!(at("input.n", r#"{"n": 3544790567247868102}"#), "3544790567247868102");
        assert_eq!(at("input.items.1.id", r#"{"items": [{"id": 1}, {"id": true}]}"#), "true");
        assert_eq!(at("input", "\"x\""), "x");
        for nothing in ["{}", "null", "3", r#"{"tenant": null}"#] {
            assert_eq!(at("input.tenant", nothing), "", "{nothing}");
        }
        let long = format!("{{\"tenant\": \"{}\"}}", "x".repeat(300));
        for other in [r#"{"tenant": {"a": 1}}"#, r#"{"tenant": "\u0000"}"#, long.as_str()] {
            let text = at("input.tenant", other);
            assert!(text.starts_with('#') && text.len() == 33, "{text}");
        }
        assert!(Path::try_from("tenant".to_owned()).is_err());
    }

    #[test]
    fn fields_are_equal_or_not() {
        assert!(holds("{}", "null"));
        assert!(holds(r#"{"data.order": 42}"#, r#"{"order": 42, "x": [1]}"#));
        assert!(holds(
            r#"{"data.a.b.1": "z", "source": "shop"}"#,
            r#"{"a": {"b": [0, "\u007a"]}}"#
        ));
        assert!(holds(r#"{"data.id": 3544790567247868102}"#, r#"{"id":3544790567247868102}"#));
        assert!(!holds(r#"{"data.id": 3544790567247868102}"#, r#"{"id":3544790567247868103}"#));
        assert!(!holds(r#"{"data.order": 42}"#, r#"{"order": "42"}"#));
        assert!(!holds(r#"{"data.order": 42}"#, r#"{"order": [42]}"#));
        assert!(!holds(r#"{"data.order": null}"#, "{}"));
        assert!(holds(r#"{"data.order": null}"#, r#"{"order": null}"#));
        assert!(!holds(r#"{"source": "mill"}"#, "{}"));
    }

    #[test]
    fn what_cannot_be_looked_up_is_refused_by_name() {
        for (json, said) in [
            ("[]", "object"),
            (r#"{"order": 1}"#, "`order`"),
            (r#"{"data.": 1}"#, "`data.`"),
            (r#"{"data.x": {}}"#, "`data.x`"),
            (r#"{"data.x\n": 1}"#, "control"),
        ] {
            let refused = Matching::parse(&raw(json)).expect_err(json);
            assert!(refused.contains(said), "{json}: {refused}");
        }
    }
}
