//! The API's documents, as far as the command line reads them. What it does not know it passes on.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::engine::Status;
use crate::machine::time::Timestamp;

/// A page of a list; items stay as they came.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Page {
    pub(super) data: Vec<Box<RawValue>>,
    #[serde(default)]
    pub(super) next_cursor: Option<String>,
}

/// A run. Words and times stay texts: what this version does not know it still shows.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Run {
    pub(super) id: String,
    #[serde(default)]
    pub(super) function: String,
    #[serde(default)]
    pub(super) key: Option<String>,
    #[serde(default)]
    pub(super) generation: u64,
    #[serde(default)]
    pub(super) deployment: Option<String>,
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) waiting_for: Vec<WaitingFor>,
    #[serde(default)]
    pub(super) attention: Option<Attention>,
    #[serde(default)]
    pub(super) created_at: Option<String>,
    #[serde(default)]
    pub(super) started_at: Option<String>,
    #[serde(default)]
    pub(super) ended_at: Option<String>,
    #[serde(default)]
    pub(super) input: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) output: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) error: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) custom_status: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) tags: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) steps: StepCounts,
    #[serde(default)]
    pub(super) invocations: u64,
}

impl Run {
    /// Whether it has ended, whatever this version thinks of the status's word.
    pub(super) fn ended(&self) -> bool {
        self.ended_at.is_some() || Status::from_word(&self.status).is_some_and(Status::ended)
    }

    pub(super) fn completed(&self) -> bool {
        self.status == Status::Completed.word()
    }

    /// From its creation to its end, if it has ended.
    pub(super) fn took(&self) -> Option<std::time::Duration> {
        let moment = |text: &Option<String>| text.as_ref()?.parse::<Timestamp>().ok();
        Some(moment(&self.ended_at)?.since(moment(&self.created_at)?))
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct StepCounts {
    #[serde(default)]
    pub(super) settled: u64,
    #[serde(default)]
    pub(super) pending: u64,
}

/// One thing that a run waits for.
#[derive(Debug, Deserialize)]
pub(super) struct WaitingFor {
    pub(super) step: String,
    #[serde(default)]
    pub(super) op: String,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) until: Option<String>,
}

/// Why a run does not move.
#[derive(Debug, Deserialize)]
pub(super) struct Attention {
    #[serde(default)]
    pub(super) code: String,
    #[serde(default)]
    pub(super) detail: String,
    #[serde(default)]
    pub(super) next_attempt_at: Option<String>,
    #[serde(default)]
    pub(super) expected: Option<String>,
    #[serde(default)]
    pub(super) got: Option<String>,
}

/// A step in a run's journal.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Entry {
    /// None while it is pending.
    #[serde(default)]
    pub(super) seq: Option<u64>,
    pub(super) id: String,
    #[serde(default)]
    pub(super) op: String,
    #[serde(default)]
    pub(super) value: Option<Box<RawValue>>,
    /// In place of a value that is too big for a list.
    #[serde(rename = "ref", default)]
    pub(super) by_ref: Option<Ref>,
    #[serde(default)]
    pub(super) error: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) attempts: Option<u64>,
    #[serde(default)]
    pub(super) last_error: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) next_attempt_at: Option<String>,
    #[serde(default)]
    pub(super) settled_at: Option<String>,
    #[serde(default)]
    pub(super) ms: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Ref {
    pub(super) bytes: u64,
}

/// A step's or a run's error in one line: its type and message.
pub(super) fn error_line(error: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Brief {
        #[serde(rename = "type", default)]
        kind: String,
        #[serde(default)]
        message: String,
    }
    match serde_json::from_str::<Brief>(error.get()) {
        Ok(brief) if !brief.kind.is_empty() && !brief.message.is_empty() => {
            format!("{}: {}", brief.kind, brief.message)
        }
        Ok(Brief { kind, message }) if !(kind.is_empty() && message.is_empty()) => kind + &message,
        _ => error.get().to_owned(),
    }
}

/// The fields of any JSON object in their order, each value as text: strings without quotes, the
/// rest as JSON. Nothing if it is no object.
pub(super) fn fields(json: &str) -> Vec<(String, String)> {
    struct Ordered(Vec<(String, Box<RawValue>)>);
    impl<'de> Deserialize<'de> for Ordered {
        fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            struct Pairs;
            impl<'de> serde::de::Visitor<'de> for Pairs {
                type Value = Ordered;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("a JSON object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<Ordered, A::Error> {
                    let mut pairs = Vec::new();
                    while let Some(pair) = map.next_entry()? {
                        pairs.push(pair);
                    }
                    Ok(Ordered(pairs))
                }
            }
            d.deserialize_map(Pairs)
        }
    }
    let Ok(Ordered(pairs)) = serde_json::from_str::<Ordered>(json) else { return Vec::new() };
    pairs.into_iter().map(|(name, value)| (name, cell(&value))).collect()
}

/// A JSON value as a table shows it: a string without quotes, null as `-`, the rest as JSON.
pub(super) fn cell(value: &RawValue) -> String {
    match value.get() {
        "null" => "-".to_owned(),
        text if text.starts_with('"') => {
            serde_json::from_str(text).unwrap_or_else(|_| text.to_owned())
        }
        text => super::json_text::compact(text),
    }
}

/// What a probe of an endpoint found: a line for each stage, and what to do about a failure.
pub(super) fn probe_lines(probe: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Stage {
        name: String,
        /// None where an earlier failure kept it from being tried.
        ok: Option<bool>,
        #[serde(default)]
        detail: Option<String>,
        #[serde(default)]
        fix: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Probe {
        Stages(Vec<Stage>),
        Object { stages: Vec<Stage> },
    }
    let Ok(Probe::Stages(stages) | Probe::Object { stages }) = serde_json::from_str(probe) else {
        return vec![probe.to_owned()];
    };
    let mut lines = Vec::new();
    for stage in stages {
        let glyph = match stage.ok {
            Some(true) => "✓",
            Some(false) => "✗",
            None => "-",
        };
        let detail = stage.detail.unwrap_or_default();
        lines.push(format!("{glyph} {:10} {detail}", stage.name).trim_end().to_owned());
        lines.extend(stage.fix.map(|fix| format!("  {fix}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_object_becomes_fields_in_its_order() {
        let found = fields(r#"{"z": "text", "a": null, "n": [1, 3544790567247868102]}"#);
        let expected = [("z", "text"), ("a", "-"), ("n", "[1,3544790567247868102]")];
        assert_eq!(found, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert!(fields("[1]").is_empty());
    }

    #[test]
    fn errors_in_one_line() {
        let line = |text: &str| error_line(&RawValue::from_string(text.to_owned()).unwrap());
        assert_eq!(line(r#"{"type":"SmtpError","message":"no"}"#), "SmtpError: no");
        assert_eq!(line(r#"{"message":"no"}"#), "no");
        assert_eq!(line("3"), "3");
    }

    #[test]
    fn unknown_statuses_are_shown_and_not_taken_for_an_end() {
        let run: Run =
            serde_json::from_str(r#"{"id":"run_1","status":"dreaming","later":1}"#).unwrap();
        assert!(!run.ended() && run.status == "dreaming");
    }
}
