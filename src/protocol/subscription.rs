//! Reads what is about events: the ops `event` and `publish`, and the triggers of functions.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::BadAnswer;
use super::names::valid_name;
use super::op::{DATA, EVENT, ID, LOOKBACK, MATCH, Reader, TIMEOUT, without_place};
use crate::machine::schedule::{Overlap, Spec, Timing};
use crate::machine::time::duration;
use crate::machine::{Ask, Errand, Listen, Matching, Op, Path, is_of_event};

/// The fields of `event`.
pub(super) const EVENT_FIELDS: &[usize] = &[ID, EVENT, MATCH, TIMEOUT, LOOKBACK];
/// The fields of `publish`.
pub(super) const PUBLISH_FIELDS: &[usize] = &[ID, EVENT, DATA];

/// The longest look-back; what an installation keeps may be less.
const LONGEST_LOOKBACK: Duration = Duration::from_hours(7 * 24);

impl Reader<'_> {
    pub(super) fn event(&self) -> Result<Op, BadAnswer> {
        let matching = match self.optional(MATCH) {
            Some(raw) => Matching::parse(raw).map_err(|e| self.bad(format!("`match` {e}")))?,
            None => Matching::default(),
        };
        let lookback = self.duration(LOOKBACK)?.unwrap_or_default();
        if lookback > LONGEST_LOOKBACK {
            return Err(self.bad("`lookback` is over the limit of 7 days"));
        }
        let event = self.name(EVENT, "event")?;
        let timeout = self.duration(TIMEOUT)?;
        let listen = Listen { event, matching, timeout, lookback };
        self.ask(Ask::Other(Box::new(Errand::Listen(listen))))
    }

    pub(super) fn publish(&self) -> Result<Op, BadAnswer> {
        let event = self.name(EVENT, "event")?;
        let data = self.payload(DATA, "data")?;
        self.ask(Ask::Other(Box::new(Errand::Publish { event, data })))
    }
}

/// What starts a function by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// The event's name.
    pub event: String,
    /// Only events whose fields are equal to this.
    pub matching: Matching,
}

/// An event that cancels runs of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelOn {
    event: String,
    matching: Matching,
    same: BTreeMap<String, Path>,
}

/// The most events that cancel the runs of one function.
const MOST_CANCELS: usize = 8;

impl CancelOn {
    /// Reads a function's `cancel_on`. The error says what is wrong.
    pub fn parse_all(raw: &RawValue) -> Result<Vec<Self>, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Form {
            event: String,
            #[serde(rename = "match")]
            matching: Option<Box<RawValue>>,
            #[serde(default)]
            same: BTreeMap<String, Path>,
        }
        let all: Vec<Form> = serde_json::from_str(raw.get())
            .map_err(|e| format!("must be a list of {{\"event\": …}}: {}", without_place(&e)))?;
        if all.len() > MOST_CANCELS {
            return Err(format!("names {} events; the limit is {MOST_CANCELS}", all.len()));
        }
        let read = |form: Form| {
            valid_name(&form.event).map_err(|e| format!("event: {e}"))?;
            let matching = form.matching.as_deref().map(Matching::parse).transpose();
            let matching = matching.map_err(|e| format!("match {e}"))?.unwrap_or_default();
            if form.same.len() > MOST_CANCELS {
                return Err(format!(
                    "same names {} fields; the limit is {MOST_CANCELS}",
                    form.same.len()
                ));
            }
            if let Some(path) = form.same.keys().find(|path| !is_of_event(path)) {
                return Err(format!(
                    "same: `{path}` is no field of an event: use `source` or `data.…`"
                ));
            }
            Ok(Self { event: form.event, matching, same: form.same })
        };
        all.into_iter().map(read).collect()
    }

    /// The event's name.
    #[must_use]
    pub fn event(&self) -> &str {
        &self.event
    }

    /// Which events cancel a run with this input. None: none, for the input has not what they
    /// would have to be equal to.
    #[must_use]
    pub fn of(&self, input: &RawValue) -> Option<Matching> {
        let all = self.matching.clone();
        self.same.iter().try_fold(all, |all, (path, of)| all.and_same(path, of, input))
    }
}

/// A time that starts a function by itself: what its schedule is made of.
#[derive(Debug, Clone)]
pub struct CronTrigger {
    /// Its rule and its policies.
    pub spec: Spec,
    /// The input of its runs, JSON; none: null.
    pub input: Option<Box<RawValue>>,
}

/// A trigger as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    event: Option<String>,
    #[serde(rename = "match")]
    matching: Option<Box<RawValue>>,
    cron: Option<String>,
    input: Option<Box<RawValue>>,
    key: Option<String>,
    overlap: Option<Overlap>,
    #[serde(default, with = "duration::option")]
    jitter: Option<Duration>,
    #[serde(default, with = "duration::option")]
    catchup_window: Option<Duration>,
}

impl Form {
    fn all(raw: &RawValue) -> Result<Vec<Self>, String> {
        serde_json::from_str(raw.get()).map_err(|e| {
            format!("must be a list of {{\"event\": …}} or {{\"cron\": …}}: {}", without_place(&e))
        })
    }

    /// Whether it has what a `cron` trigger alone has.
    const fn is_timed(&self) -> bool {
        self.cron.is_some()
            || self.input.is_some()
            || self.key.is_some()
            || self.overlap.is_some()
            || self.jitter.is_some()
            || self.catchup_window.is_some()
    }
}

impl Trigger {
    /// The event triggers of a function's `triggers`; what else is there (`cron`) is left out. The
    /// error says what is wrong.
    pub fn parse_all(raw: &RawValue) -> Result<Vec<Self>, String> {
        let mut triggers = Vec::new();
        for form in Form::all(raw)? {
            let timed = form.is_timed();
            match (form.event, form.cron) {
                (Some(event), None) if !timed => {
                    valid_name(&event).map_err(|e| format!("event: {e}"))?;
                    let matching = form.matching.as_deref().map(Matching::parse).transpose();
                    let matching = matching.map_err(|e| format!("match {e}"))?;
                    triggers.push(Self { event, matching: matching.unwrap_or_default() });
                }
                (None, Some(_)) if form.matching.is_none() => {}
                _ => {
                    return Err(
                        "a trigger has an `event`, and perhaps a `match`; or a `cron`, and \
                                perhaps `input`, `key`, `overlap`, `jitter`, `catchup_window`"
                            .to_owned(),
                    );
                }
            }
        }
        Ok(triggers)
    }
}

impl CronTrigger {
    /// The `cron` triggers of a function's `triggers`. The error says what is wrong.
    pub fn parse_all(raw: &RawValue) -> Result<Vec<Self>, String> {
        let mut triggers = Vec::new();
        for form in Form::all(raw)? {
            let Some(cron) = form.cron else { continue };
            let named = |(field, detail): (&str, String)| format!("{field} {detail}");
            let timing = Timing::cron(&cron, None).map_err(named)?;
            let mut spec = Spec::of(timing);
            spec.overlap = form.overlap.unwrap_or_default();
            spec.jitter = form.jitter.unwrap_or_default();
            spec.catchup_window = form.catchup_window.unwrap_or(spec.catchup_window);
            if let Some(key) = &form.key {
                super::names::valid_key(key)?;
            }
            spec.start.key = form.key;
            let faults = spec.check().err().into_iter().flatten();
            if let Some(fault) = faults.map(named).next() {
                return Err(fault);
            }
            triggers.push(Self { spec, input: form.input });
        }
        Ok(triggers)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::machine::Limits;
    use crate::protocol::parse_answer;

    fn read(op: &str) -> Result<Errand, String> {
        let body = Bytes::from(format!("{{\"ops\":[{op}]}}"));
        let answer = parse_answer(&body, &Limits::default()).map_err(|e| e.to_string())?;
        match answer.ops.into_iter().next() {
            Some(Op::Ask { ask: Ask::Other(errand), .. }) => Ok(*errand),
            other => panic!("not about an event: {other:?}"),
        }
    }

    // P5.11, P5.16
    #[test]
    fn events_are_asked_for_and_published() {
        let asked = read(
            r#"{"op":"event","id":"paid","event":"order.paid","match":{"data.order":42},
               "timeout":"2d","lookback":"90s"}"#,
        );
        let Ok(Errand::Listen(asked)) = asked else { panic!("{asked:?}") };
        assert_eq!(
            (asked.event.as_str(), asked.matching.paths()),
            ("order.paid", "data.order".into())
        );
        assert_eq!(asked.lookback, Duration::from_secs(90));
        let said = read(r#"{"op":"publish","id":"p","event":"e","data":{"n":  1.0}}"#);
        assert!(matches!(&said, Ok(Errand::Publish { data, .. }) if data == r#"{"n":  1.0}"#));
        for (op, said) in [
            (r#"{"op":"event","id":"e"}"#, "event"),
            (r#"{"op":"event","id":"e","event":"x","match":{"order":1}}"#, "`order`"),
            (r#"{"op":"event","id":"e","event":"x","lookback":"8d"}"#, "7 days"),
            (r#"{"op":"event","id":"e","event":"x","data":1}"#, "unknown field"),
            (r#"{"op":"publish","id":"e","event":"x","match":{}}"#, "unknown field"),
        ] {
            let refused = read(op).expect_err(op);
            assert!(refused.contains(said), "{op}: {refused}");
        }
    }

    #[test]
    fn a_run_is_cancelled_by_what_has_the_same_as_its_input() {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).expect("JSON");
        let on = |json: &str| CancelOn::parse_all(&raw(json));
        let all = on(
            r#"[{"event":"order.cancelled","match":{"source":"shop"},"same":{"data.order":"input.id"}}]"#,
        );
        let all = all.expect("fine");
        let matching = all[0].of(&raw(r#"{"id": 7}"#)).expect("there is an id");
        assert_eq!(matching.paths(), "data.order\nsource");
        let data = raw(r#"{"order": 7}"#);
        assert!(matching.holds(crate::machine::Matched { source: "shop", data: &data }));
        assert!(!matching.holds(crate::machine::Matched { source: "other", data: &data }));
        assert_eq!(all[0].of(&raw(r#"{"id": [7]}"#)), None);
        assert_eq!(all[0].of(&raw("null")), None);
        for (wrong, said) in [
            ("{}", "list"),
            (r#"[{"event":"a","same":{"order":"input.id"}}]"#, "`order`"),
            (r#"[{"event":"a","same":{"data.order":"id"}}]"#, "`id`"),
            (r#"[{"event":"a","where":{}}]"#, "where"),
            (r#"[{"match":{}}]"#, "event"),
        ] {
            let refused = on(wrong).expect_err(wrong);
            assert!(refused.contains(said), "{wrong}: {refused}");
        }
    }

    #[test]
    fn triggers_are_events_or_times() {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).expect("JSON");
        let read = |json: &str| Trigger::parse_all(&raw(json));
        let found =
            read(r#"[{"event":"a"},{"cron":"0 9 * * *"},{"event":"b","match":{"source":"s"}}]"#);
        let found = found.expect("triggers");
        assert_eq!(found.iter().map(|t| t.event.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        for wrong in [
            "{}",
            r#"[{"evnt":"a"}]"#,
            "[{}]",
            r#"[{"event":"a","match":[]}]"#,
            r#"[{"event":"a","jitter":"5m"}]"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let times = |json: &str| CronTrigger::parse_all(&raw(json));
        let found = times(r#"[{"event":"a"},{"cron":"TZ=Europe/Paris 0 9 * * *","jitter":"5m"}]"#);
        let found = found.expect("triggers");
        assert_eq!((found.len(), found[0].spec.jitter), (1, Duration::from_mins(5)));
        let refused = times(r#"[{"cron":"0 25 * * *"}]"#).expect_err("no such hour");
        assert_eq!(refused, "cron hour: 25 is not between 0 and 23");
    }
}
