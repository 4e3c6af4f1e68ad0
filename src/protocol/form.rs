//! Reads a JSON object into known slots without copying; says what is unknown or given twice.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The deepest nesting of a user's JSON value, counted from the value itself.
pub const MAX_DEPTH: usize = 64;

/// Whether JSON text nests deeper than [`MAX_DEPTH`]. The text must be valid JSON otherwise.
#[must_use]
pub fn too_deep(json: &[u8]) -> bool {
    // That many brackets need that many bytes; most values are shorter.
    if json.len() <= 2 * MAX_DEPTH {
        return false;
    }
    let (mut depth, mut text, mut escaped) = (0usize, false, false);
    for byte in json {
        if text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => text = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The most fields that a [`Form`] can know.
const SLOTS: usize = 48;

/// What is wrong with an object's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Odd {
    /// A field that the form does not know.
    Unknown(String),
    /// A field that is there twice.
    Twice(String),
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "unknown field {name:?}"),
            Self::Twice(name) => write!(f, "field {name:?} is given twice"),
        }
    }
}

/// An object's fields, each as raw text in the slot of its name.
pub(super) struct Form<'a> {
    slots: [Option<&'a RawValue>; SLOTS],
    /// The first field that does not belong.
    pub(super) odd: Option<Odd>,
}

impl<'a> Form<'a> {
    /// Reads one object. `names` (48 at most) give the slots their order.
    pub(super) fn read(names: &'static [&'static str], json: &'a str) -> serde_json::Result<Self> {
        debug_assert!(names.len() <= SLOTS, "a form has {SLOTS} slots");
        let mut from = serde_json::Deserializer::from_str(json);
        let form = FormSeed(names).deserialize(&mut from)?;
        from.end()?;
        Ok(form)
    }

    /// What the slot holds; a JSON null is something.
    pub(super) const fn get(&self, slot: usize) -> Option<&'a RawValue> {
        self.slots[slot]
    }
}

struct FormSeed(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for FormSeed {
    type Value = Form<'de>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Form<'de>, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FormSeed {
    type Value = Form<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Form<'de>, M::Error> {
        let mut form = Form { slots: [None; SLOTS], odd: None };
        while let Some(key) = map.next_key_seed(KeySeed(self.0))? {
            match key {
                Ok(slot) => {
                    let value = map.next_value()?;
                    if form.slots[slot].replace(value).is_some() && form.odd.is_none() {
                        form.odd = Some(Odd::Twice(self.0[slot].to_owned()));
                    }
                }
                Err(name) => {
                    map.next_value::<IgnoredAny>()?;
                    form.odd.get_or_insert(Odd::Unknown(name));
                }
            }
        }
        Ok(form)
    }
}

struct KeySeed(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Result<usize, String>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_identifier(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Result<usize, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|known| *known == name).ok_or_else(|| clip(name)))
    }
}

/// The text of a raw JSON string.
pub(super) fn text(raw: &RawValue) -> Result<Cow<'_, str>, &'static str> {
    let json = raw.get();
    let Some(inner) = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Err("must be a string");
    };
    if inner.contains('\\') {
        return serde_json::from_str(json).map(Cow::Owned).map_err(|_| "is not Unicode text");
    }
    Ok(Cow::Borrowed(inner))
}

/// The beginning of a text, for messages: an answer's author decides how long names are.
pub(super) fn clip(text: &str) -> String {
    const CHARS: usize = 80;
    match text.char_indices().nth(CHARS) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_strings() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(!too_deep(nested(64).as_bytes()));
        assert!(too_deep(nested(65).as_bytes()));
        let objects = format!("{}1{}", r#"{"a":"#.repeat(65), "}".repeat(65));
        assert!(too_deep(objects.as_bytes()));
        let brackets_in_text = format!(r#"["{}", "\"{}\\"]"#, "[".repeat(200), "{".repeat(200));
        assert!(!too_deep(brackets_in_text.as_bytes()));
        let wide = format!("[{}[]]", "[],".repeat(1000));
        assert!(!too_deep(wide.as_bytes()));
    }

    #[test]
    fn null_is_there_and_strangers_are_named() {
        let form = Form::read(&["a", "b"], r#"{"a": null, "c": [1], "c": 2}"#).expect("an object");
        assert_eq!(form.get(0).map(RawValue::get), Some("null"));
        assert!(form.get(1).is_none());
        assert_eq!(form.odd, Some(Odd::Unknown("c".to_owned())));
        let form = Form::read(&["a"], r#"{"a": 1, "\u0061": 2}"#).expect("an object");
        assert_eq!(form.odd, Some(Odd::Twice("a".to_owned())));
        assert!(Form::read(&["a"], "[]").is_err());
        assert!(Form::read(&["a"], "{} x").is_err());
    }
}
