//! Reads JSON request bodies field by field, and tells every fault with a JSON pointer.

use std::fmt;
use std::time::Duration;

use axum::body::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::catalogue::Code;
use super::problem::{Fault, Problem};
use crate::machine::time::parse_duration;
use crate::machine::{RetrySpec, Timestamp};

/// How deep a payload may nest.
pub(super) const MAX_DEPTH: usize = 64;

/// How many faults of one object are told.
const MOST_FAULTS: usize = 50;

/// The members of an object as they came, repeats included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        d.deserialize_map(Object)
    }
}

/// An object of a request while it is read. Every reading method takes null for absent, except
/// [`Fields::payload`]; what is never asked for is unknown, and so is a fault.
pub(super) struct Fields<'a> {
    members: Vec<(String, &'a RawValue)>,
    at: String,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
    /// What is never asked for is no fault.
    open: bool,
}

/// Reads a body with `read`, and answers with all its faults if there are any. An empty body is
/// an empty object.
pub(super) fn read<'a, T>(
    body: &'a Bytes,
    read: impl FnOnce(&mut Fields<'a>) -> T,
) -> Result<T, Problem> {
    let members = if body.is_empty() {
        Vec::new()
    } else {
        serde_json::from_slice::<Members<'a>>(body).map_err(|e| not_an_object(&e))?.0
    };
    let mut fields = Fields::new(members, "#".to_owned());
    let value = read(&mut fields);
    let faults = fields.finish();
    if faults.is_empty() { Ok(value) } else { Err(Problem::faults(Code::InvalidRequest, faults)) }
}

/// Reads a body that is an object or a list of them; whether it was a list is told too.
pub(super) fn read_each<'a, T>(
    body: &'a Bytes,
    mut read: impl FnMut(&mut Fields<'a>) -> T,
) -> Result<(Vec<T>, bool), Problem> {
    if body.trim_ascii_start().first() != Some(&b'[') {
        return self::read(body, read).map(|one| (vec![one], false));
    }
    let items: Vec<&'a RawValue> = serde_json::from_slice(body).map_err(|e| not_an_object(&e))?;
    let mut fields = Fields::new(Vec::new(), "#".to_owned());
    let mut all = Vec::with_capacity(items.len());
    for (i, raw) in items.into_iter().enumerate() {
        all.extend(fields.nested(raw, format!("#/{i}"), &mut read));
        if fields.faults.len() >= MOST_FAULTS {
            break;
        }
    }
    let faults = fields.finish();
    if faults.is_empty() {
        Ok((all, true))
    } else {
        Err(Problem::faults(Code::InvalidRequest, faults))
    }
}

/// Reads one object of a list by itself: its faults are its own.
pub(super) fn read_one<'a, T>(
    raw: &'a RawValue,
    at: String,
    read: impl FnOnce(&mut Fields<'a>) -> T,
) -> Result<T, Problem> {
    let mut around = Fields::new(Vec::new(), "#".to_owned());
    let value = around.nested(raw, at, read);
    let faults = around.finish();
    value.filter(|_| faults.is_empty()).ok_or(Problem::faults(Code::InvalidRequest, faults))
}

/// Checks that a body is one JSON text, for where it is a payload itself.
pub(super) fn json(body: &[u8]) -> Result<&RawValue, Problem> {
    let raw: &RawValue = serde_json::from_slice(body).map_err(|e| not_an_object(&e))?;
    match too_deep(raw) {
        None => Ok(raw),
        Some(detail) => Err(Problem::faults(Code::InvalidRequest, vec![Fault::new("#", detail)])),
    }
}

fn not_an_object(error: &serde_json::Error) -> Problem {
    if error.is_data() {
        let faults = vec![Fault::new("#", "must be an object")];
        Problem::faults(Code::InvalidRequest, faults)
    } else {
        Problem::new(Code::MalformedJson, format!("The body is not JSON: {error}."))
    }
}

fn too_deep(raw: &RawValue) -> Option<String> {
    let (mut depth, mut most, mut text, mut escaped) = (0usize, 0, false, false);
    for byte in raw.get().bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => {
                depth += 1;
                most = most.max(depth);
            }
            b'}' | b']' if !text => depth -= 1,
            _ => {}
        }
    }
    (most > MAX_DEPTH).then(|| format!("nests deeper than {MAX_DEPTH}"))
}

/// What `serde_json` says, without the position in a part that the caller cannot see.
fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

impl<'a> Fields<'a> {
    fn new(members: Vec<(String, &'a RawValue)>, at: String) -> Self {
        let mut faults = Vec::new();
        let mut seen = std::collections::HashSet::with_capacity(members.len());
        for (name, _) in &members {
            if !seen.insert(name.as_str()) && faults.len() < MOST_FAULTS {
                faults.push(Fault::new(pointer(&at, name), "is there twice"));
            }
        }
        Self { members, at, known: Vec::new(), faults, open: false }
    }

    fn finish(mut self) -> Vec<Fault> {
        for (name, _) in &self.members {
            if !self.open && !self.known.contains(&name.as_str()) && self.faults.len() < MOST_FAULTS
            {
                let known = self.known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>();
                let detail = match known.as_slice() {
                    [] => "unknown field; this object has none".to_owned(),
                    known => format!("unknown field; there are {}", known.join(", ")),
                };
                self.faults.push(Fault::new(pointer(&self.at, name), detail));
            }
        }
        self.faults
    }

    /// There may be more fields than are asked for.
    pub(super) const fn take_any(&mut self) {
        self.open = true;
    }

    /// Notes a fault of a field.
    pub(super) fn fault(&mut self, name: &str, detail: impl Into<String>) {
        self.faults.push(Fault::new(pointer(&self.at, name), detail));
    }

    /// Takes what was read of a field; absent, and not faulty already, is a fault.
    pub(super) fn need<T>(&mut self, name: &str, value: Option<T>) -> Option<T> {
        let at = pointer(&self.at, name);
        if value.is_none() && !self.faults.iter().any(|f| f.pointer == at) {
            self.faults.push(Fault::new(at, "is needed"));
        }
        value
    }

    /// Whether a field is there and null.
    pub(super) fn is_null(&mut self, name: &'static str) -> bool {
        let null = self.members.iter().any(|(n, raw)| n == name && raw.get() == "null");
        if null {
            self.known.push(name);
        }
        null
    }

    /// Whether a field is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(n, _)| n == name)
    }

    /// Whether nothing is wrong with a field so far.
    pub(super) fn is_sound(&self, name: &str) -> bool {
        let at = pointer(&self.at, name);
        self.faults.iter().all(|f| f.pointer != at)
    }

    /// Whether nothing is wrong with any field so far.
    pub(super) const fn is_faultless(&self) -> bool {
        self.faults.is_empty()
    }

    /// A payload: any JSON, null included, as it came.
    pub(super) fn payload(&mut self, name: &'static str) -> Option<&'a RawValue> {
        self.known.push(name);
        let raw = self.members.iter().find(|(n, _)| n == name).map(|(_, raw)| *raw)?;
        if let Some(detail) = too_deep(raw) {
            self.fault(name, detail);
        }
        Some(raw)
    }

    fn raw(&mut self, name: &'static str) -> Option<&'a RawValue> {
        self.known.push(name);
        let raw = self.members.iter().find(|(n, _)| n == name).map(|(_, raw)| *raw)?;
        (raw.get() != "null").then_some(raw)
    }

    /// A value of a plain type.
    pub(super) fn value<T: Deserialize<'a>>(&mut self, name: &'static str) -> Option<T> {
        let raw = self.raw(name)?;
        match serde_json::from_str(raw.get()) {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(name, in_words(&error));
                None
            }
        }
    }

    /// A text that `check` takes.
    pub(super) fn parsed<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text: String = self.value(name)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(detail) => {
                self.fault(name, detail);
                None
            }
        }
    }

    /// A text, or a list of texts, each as `parse` takes it.
    pub(super) fn texts<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let listed = self.raw(name).is_some_and(|raw| raw.get().starts_with('['));
        let texts: Vec<String> = if listed {
            self.value(name).unwrap_or_default()
        } else {
            self.value(name).into_iter().collect()
        };
        let mut values = Vec::with_capacity(texts.len());
        for text in texts {
            match parse(&text) {
                Ok(value) => values.push(value),
                Err(detail) => self.fault(name, detail),
            }
        }
        values
    }

    /// A text of 1 to `most` bytes without control characters.
    pub(super) fn text(&mut self, name: &'static str, most: usize) -> Option<String> {
        self.parsed(name, |text| plain_text(text, most).map(|()| text.to_owned()))
    }

    /// A duration: `90s`, `7d`, `PT30S`.
    pub(super) fn duration(&mut self, name: &'static str) -> Option<Duration> {
        self.parsed(name, parse_duration)
    }

    /// A moment in RFC 3339.
    pub(super) fn moment(&mut self, name: &'static str) -> Option<Timestamp> {
        self.parsed(name, str::parse)
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.parsed(name, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
                let words = words.iter().map(|(w, _)| format!("`{w}`")).collect::<Vec<_>>();
                format!("must be one of {}", words.join(", "))
            })
        })
    }

    /// An object in the object.
    pub(super) fn object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Fields<'a>) -> T,
    ) -> Option<T> {
        let raw = self.raw(name)?;
        let at = pointer(&self.at, name);
        self.nested(raw, at, read)
    }

    /// A list of objects.
    pub(super) fn objects<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&mut Fields<'a>) -> T,
    ) -> Option<Vec<T>> {
        let items: Vec<&'a RawValue> = self.value(name)?;
        let at = pointer(&self.at, name);
        let mut out = Vec::with_capacity(items.len());
        for (i, raw) in items.into_iter().enumerate() {
            out.extend(self.nested(raw, format!("{at}/{i}"), &mut read));
            if self.faults.len() >= MOST_FAULTS {
                break;
            }
        }
        Some(out)
    }

    fn nested<T>(
        &mut self,
        raw: &'a RawValue,
        at: String,
        read: impl FnOnce(&mut Fields<'a>) -> T,
    ) -> Option<T> {
        let Ok(members) = serde_json::from_str::<Members<'a>>(raw.get()) else {
            self.faults.push(Fault::new(at, "must be an object"));
            return None;
        };
        let mut fields = Fields::new(members.0, at);
        let value = read(&mut fields);
        self.faults.extend(fields.finish());
        Some(value)
    }

    /// A retry policy.
    pub(super) fn retry(&mut self, name: &'static str) -> Option<RetrySpec> {
        self.object(name, |f| {
            let spec = RetrySpec {
                max_attempts: f.value("max_attempts"),
                initial: f.duration("initial"),
                factor: f.value("factor"),
                max_interval: f.duration("max_interval"),
                jitter: f.value("jitter"),
                max_elapsed: f.duration("max_elapsed"),
            };
            if let Err((field, detail)) = spec.check() {
                f.fault(field, detail);
            }
            spec
        })
    }
}

/// Checks a name or key: 1 to `most` bytes, no control characters, not `.` or `..`.
pub(super) fn plain_text(text: &str, most: usize) -> Result<(), String> {
    if text.is_empty() {
        Err("must not be empty".to_owned())
    } else if text.len() > most {
        Err(format!("must have at most {most} bytes"))
    } else if text.chars().any(char::is_control) {
        Err("must not have control characters".to_owned())
    } else if text == "." || text == ".." {
        Err("must not be `.` or `..`".to_owned())
    } else {
        Ok(())
    }
}

/// A JSON pointer in the form of a URI fragment.
fn pointer(at: &str, name: &str) -> String {
    use fmt::Write as _;
    let mut out = format!("{at}/");
    for byte in name.bytes() {
        match byte {
            b'~' => out.push_str("~0"),
            b'/' => out.push_str("~1"),
            b'-' | b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                out.push(char::from(byte));
            }
            other => write!(out, "%{other:02X}").expect("a String takes what is written"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(body: &'static str, f: impl FnOnce(&mut Fields<'_>)) -> Vec<String> {
        let body = Bytes::from_static(body.as_bytes());
        match read(&body, f) {
            Ok(()) => Vec::new(),
            Err(problem) => {
                let json: serde_json::Value =
                    serde_json::from_slice(&problem.body("", "")).expect("JSON");
                assert_eq!(json["code"], "invalid-request");
                json["errors"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|e| format!("{} {}", e["pointer"], e["detail"]).replace('"', ""))
                    .collect()
            }
        }
    }

    #[test]
    fn every_fault_is_told_with_its_place() {
        let got = faults(
            r#"{"retry": {"max_attempts": 0, "inital": "1s"}, "when": "soon", "n": "x", "a/b": 1, "n": 2}"#,
            |f| {
                f.retry("retry");
                f.duration("when");
                f.value::<u8>("n");
            },
        );
        assert_eq!(got.len(), 6, "{got:#?}");
        assert!(got.iter().any(|f| f.starts_with("#/retry/max_attempts must be between")));
        assert!(got.iter().any(|f| f.starts_with("#/retry/inital unknown field; there are")));
        assert!(got.iter().any(|f| f.starts_with("#/when `soon` is not a duration")));
        assert!(got.iter().any(|f| f == "#/n is there twice"));
        assert!(got.iter().any(|f| f.starts_with("#/n invalid type: string")));
        assert!(got.iter().any(|f| f.starts_with("#/a~1b unknown field")));
    }

    #[test]
    fn a_payload_is_what_came() {
        let body = Bytes::from_static(
            b" {\"input\" : { \"n\":3544790567247868102 ,\"f\":1.0,\n\"u\":\"\\u00e9\" } } ",
        );
        let raw = read(&body, |f| f.payload("input").map(|r| r.get().to_owned())).expect("fine");
        assert_eq!(
            raw.expect("there"),
            "{ \"n\":3544790567247868102 ,\"f\":1.0,\n\"u\":\"\\u00e9\" }"
        );
        let body = Bytes::from_static(b"{\"input\":null}");
        let raw = read(&body, |f| f.payload("input").map(RawValue::get)).expect("fine");
        assert_eq!(raw, Some("null"));
    }

    #[test]
    fn depth_counts_brackets_outside_of_texts() {
        let nested =
            |n: usize| format!("{{\"a\":\"[[\\\"[\",\"b\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(json(nested(MAX_DEPTH - 1).as_bytes()).is_ok());
        let problem = json(nested(MAX_DEPTH).as_bytes()).expect_err("one too many");
        assert_eq!(problem.code(), Code::InvalidRequest);
    }

    #[test]
    fn what_is_not_json_is_malformed_and_what_is_no_object_is_invalid() {
        for (body, code) in [
            ("{\"a\":}", Code::MalformedJson),
            ("{} x", Code::MalformedJson),
            ("{\"a\":01}", Code::MalformedJson),
            ("[1]", Code::InvalidRequest),
            ("null", Code::InvalidRequest),
        ] {
            let body = Bytes::from_static(body.as_bytes());
            let problem = read(&body, |_| ()).expect_err("not an object");
            assert_eq!(problem.code(), code, "{body:?}");
        }
        let invalid = Bytes::from_static(b"{\"a\":\"\xff\"}");
        assert_eq!(read(&invalid, |_| ()).expect_err("no text").code(), Code::MalformedJson);
    }
}
