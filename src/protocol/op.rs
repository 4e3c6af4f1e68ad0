//! Reads one op of an answer: strict about fields, byte-exact about payloads.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::BadAnswer;
use super::call::Call;
use super::form::{Form, MAX_DEPTH, Odd, clip, text, too_deep};
use super::names::{valid_name, valid_step_id, valid_tag};
use crate::machine::time::parse_duration;
use crate::machine::{
    Again, Ask, Limits, Moment, ObjectName, Op, OpKind, Outcome, RetrySpec, StepError,
};

/// Every field of every op that this version knows; the ones met most often first.
const NAMES: &[&str] = &[
    "op",
    "id",
    "value",
    "ms",
    "error",
    "for",
    "name",
    "timeout",
    "attempt",
    "input_hash",
    "retry",
    "until",
    "heartbeat",
    "level",
    "message",
    "fields",
    "function",
    "input",
    "key",
    "detach",
    "delay",
    "on_parent_close",
    "if_running",
    "tags",
    "run",
    "signal",
    "payload",
    "reason",
    "event",
    "match",
    "lookback",
    "data",
    "task",
    "limit",
    "request",
    "ok",
    "state",
    "stream",
    "update",
    "object",
];
const OP: usize = 0;
pub(super) const ID: usize = 1;
pub(super) const VALUE: usize = 2;
const MS: usize = 3;
const ERROR: usize = 4;
const FOR: usize = 5;
const NAME: usize = 6;
pub(super) const TIMEOUT: usize = 7;
const ATTEMPT: usize = 8;
const INPUT_HASH: usize = 9;
const RETRY: usize = 10;
const UNTIL: usize = 11;
const HEARTBEAT: usize = 12;
const LEVEL: usize = 13;
const MESSAGE: usize = 14;
const FIELDS: usize = 15;
pub(super) const FUNCTION: usize = 16;
pub(super) const INPUT: usize = 17;
pub(super) const KEY: usize = 18;
pub(super) const DETACH: usize = 19;
pub(super) const DELAY: usize = 20;
pub(super) const ON_PARENT_CLOSE: usize = 21;
pub(super) const IF_RUNNING: usize = 22;
pub(super) const TAGS: usize = 23;
pub(super) const RUN: usize = 24;
pub(super) const SIGNAL: usize = 25;
pub(super) const PAYLOAD: usize = 26;
pub(super) const REASON: usize = 27;
pub(super) const EVENT: usize = 28;
pub(super) const MATCH: usize = 29;
pub(super) const LOOKBACK: usize = 30;
pub(super) const DATA: usize = 31;
const TASK: usize = 32;
const LIMIT: usize = 33;
const REQUEST: usize = 34;
const OK: usize = 35;
const STATE: usize = 36;
const STREAM: usize = 37;
const UPDATE: usize = 38;
const OBJECT: usize = 39;

/// Bytes of the state of a compacted journal: it is sent with every invocation, as the input is.
const LONGEST_STATE: usize = 1 << 20;

/// Bytes of an input hash; any digest in hex is shorter.
const LONGEST_HASH: usize = 256;

/// The answer's bytes, and what may be in them.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) body: &'a Bytes,
    pub(super) limits: &'a Limits,
}

impl Source<'_> {
    /// A payload as a slice of the answer, within the limits. `what` is for messages.
    pub(super) fn keep(
        self,
        raw: &RawValue,
        step: Option<&str>,
        what: &str,
    ) -> Result<Bytes, BadAnswer> {
        let json = raw.get().as_bytes();
        let limit = self.limits.value_bytes;
        let named = || (step.map(clip), what.to_owned());
        if json.len() > limit {
            let (step, what) = named();
            return Err(BadAnswer::TooLarge { step, what, bytes: json.len(), limit });
        }
        if too_deep(json) {
            let (step, what) = named();
            return Err(BadAnswer::TooDeep { step, what, limit: MAX_DEPTH });
        }
        Ok(self.body.slice_ref(json))
    }

    /// A step error or run-level error, within the limits.
    pub(super) fn error(
        self,
        raw: &RawValue,
        step: Option<&str>,
        malformed: impl Fn(String) -> BadAnswer,
    ) -> Result<StepError, BadAnswer> {
        self.keep(raw, step, "error")?;
        if !raw.get().starts_with('{') {
            let detail = "`error` must be an object such as {\"type\": \"…\", \"message\": \"…\"}";
            return Err(malformed(detail.to_owned()));
        }
        let form: ErrorForm = serde_json::from_str(raw.get())
            .map_err(|e| malformed(format!("in `error`: {}", clip(&without_place(&e)))))?;
        Ok(StepError {
            kind: form.kind.unwrap_or_else(|| "Error".to_owned()),
            message: form.message.unwrap_or_default(),
            stack: form.stack,
            data: form.data,
            retry: form.retry.unwrap_or_default(),
            after_ms: form.after_ms,
            attempts: None,
        })
    }
}

/// What a handler may send as an error: [`StepError`] and, because handlers pass on errors that
/// they were shown, the `attempts` that the gateway put there. A null is as good as nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorForm {
    #[serde(rename = "type")]
    kind: Option<String>,
    message: Option<String>,
    stack: Option<String>,
    data: Option<Box<RawValue>>,
    retry: Option<Again>,
    after_ms: Option<u64>,
    #[serde(rename = "attempts")]
    _attempts: Option<u32>,
}

/// serde's message without the line and column, which count from within the part that was read, and
/// no longer than one that lists every field: a stranger's field may have any name.
pub(super) fn without_place(e: &serde_json::Error) -> String {
    const CHARS: usize = 400;
    let mut said = e.to_string();
    if let Some(at) = said.rfind(" at line ") {
        said.truncate(at);
    }
    if let Some((at, _)) = said.char_indices().nth(CHARS) {
        said.truncate(at);
        said.push('…');
    }
    said
}

/// One op and where it stands in the answer.
pub(super) struct Reader<'a> {
    pub(super) from: Source<'a>,
    index: usize,
    raw: &'a RawValue,
    pub(super) form: Form<'a>,
}

/// Reads op number `index`.
pub(super) fn read_op(from: Source<'_>, index: usize, raw: &RawValue) -> Result<Op, BadAnswer> {
    let Ok(form) = Form::read(NAMES, raw.get()) else {
        return Err(BadAnswer::Malformed(format!("ops[{index}]: an op is a JSON object")));
    };
    Reader { from, index, raw, form }.read()
}

impl Reader<'_> {
    fn read(&self) -> Result<Op, BadAnswer> {
        let op = self.text(OP)?;
        let known: &[usize] = match op.as_ref() {
            "run" => &[ID, VALUE, ERROR, MS, ATTEMPT, INPUT_HASH, RETRY],
            "start" => &[ID],
            "sleep" => &[ID, FOR, UNTIL],
            "signal" => &[ID, NAME, TIMEOUT],
            "callback" => &[ID, TIMEOUT, HEARTBEAT],
            "invoke" => super::errand::INVOKE,
            "send" => super::errand::SEND,
            "cancel" => super::errand::CANCEL,
            "event" => super::subscription::EVENT_FIELDS,
            "publish" => super::subscription::PUBLISH_FIELDS,
            "scope" => &[ID, VALUE],
            "call" => &[ID, REQUEST, RETRY, TIMEOUT, OK],
            "task" => &[ID, TASK, INPUT, RETRY, TIMEOUT, HEARTBEAT, LIMIT],
            "status" | "tags" => &[VALUE],
            "reply" => &[ID, UPDATE, VALUE, ERROR],
            "compact" => &[STATE],
            "chunk" => &[STREAM, DATA],
            "log" => &[LEVEL, MESSAGE, FIELDS],
            "set" => &[OBJECT, KEY, VALUE],
            "unset" => &[OBJECT, KEY],
            other => return Err(self.bad(format!("unknown op {:?}", clip(other)))),
        };
        self.refuse_strangers(&op, known)?;
        match op.as_ref() {
            "run" => self.run(),
            "start" => Ok(Op::Start { id: self.id()? }),
            "sleep" => self.ask(Ask::Sleep(self.moment()?)),
            "signal" => {
                let name = self.text(NAME)?.into_owned();
                valid_name(&name).map_err(|e| self.bad(format!("`name`: {e}")))?;
                self.ask(Ask::Signal { name, timeout: self.duration(TIMEOUT)? })
            }
            "callback" => {
                let (timeout, heartbeat) = (self.duration(TIMEOUT)?, self.duration(HEARTBEAT)?);
                self.ask(Ask::Callback { timeout, heartbeat })
            }
            "invoke" => self.invoke(),
            "send" => self.send(),
            "cancel" => self.cancel(),
            "event" => self.event(),
            "publish" => self.publish(),
            "scope" => self.scope(),
            "call" => self.call(),
            "task" => self.task(),
            "status" => {
                Ok(Op::Status(self.from.keep(self.required(VALUE)?, None, "custom status")?))
            }
            "tags" => self.tags(),
            "reply" => self.reply(),
            "compact" => self.compact(),
            "chunk" => self.chunk(),
            "set" => self.set(),
            "unset" => Ok(Op::Set { object: self.object()?, field: self.field()?, value: None }),
            _ => self.log(),
        }
    }

    fn refuse_strangers(&self, op: &str, known: &[usize]) -> Result<(), BadAnswer> {
        let misplaced = || {
            let slot = (1..NAMES.len()).find(|i| self.form.get(*i).is_some() && !known.contains(i));
            slot.map(|i| Odd::Unknown(NAMES[i].to_owned()))
        };
        let Some(odd) = self.form.odd.clone().or_else(misplaced) else { return Ok(()) };
        let fields: Vec<&str> = known.iter().map(|i| NAMES[*i]).collect();
        Err(self.bad(match odd {
            Odd::Unknown(_) => format!("{odd}; op `{op}` has {}", fields.join(", ")),
            Odd::Twice(_) => odd.to_string(),
        }))
    }

    pub(super) fn bad(&self, detail: impl AsRef<str>) -> BadAnswer {
        let step = self.form.get(ID).and_then(|raw| text(raw).ok());
        let step = step.map(|id| format!(" (step {:?})", clip(&id))).unwrap_or_default();
        BadAnswer::Malformed(format!("ops[{}]{step}: {}", self.index, detail.as_ref()))
    }

    pub(super) fn required(&self, slot: usize) -> Result<&RawValue, BadAnswer> {
        self.form.get(slot).ok_or_else(|| self.bad(format!("missing field {:?}", NAMES[slot])))
    }

    /// A field that may be left out; null is as good as that.
    pub(super) fn optional(&self, slot: usize) -> Option<&RawValue> {
        self.form.get(slot).filter(|raw| raw.get() != "null")
    }

    pub(super) fn text(&self, slot: usize) -> Result<Cow<'_, str>, BadAnswer> {
        let raw = self.required(slot)?;
        text(raw).map_err(|e| self.bad(format!("`{}` {e}", NAMES[slot])))
    }

    pub(super) fn id(&self) -> Result<String, BadAnswer> {
        let id = self.text(ID)?;
        valid_step_id(&id).map_err(|e| self.bad(format!("`id`: {e}")))?;
        Ok(id.into_owned())
    }

    pub(super) fn duration(&self, slot: usize) -> Result<Option<Duration>, BadAnswer> {
        if self.optional(slot).is_none() {
            return Ok(None);
        }
        parse_duration(&self.text(slot)?)
            .map(Some)
            .map_err(|e| self.bad(format!("`{}`: {}", NAMES[slot], clip(&e))))
    }

    fn set(&self) -> Result<Op, BadAnswer> {
        let field = self.field()?;
        let what = format!("value of `{}`", clip(&field));
        let value = self.from.keep(self.required(VALUE)?, None, &what)?;
        Ok(Op::Set { object: self.object()?, field, value: Some(value) })
    }

    /// Which object a field is of, where the run has several.
    fn object(&self) -> Result<Option<ObjectName>, BadAnswer> {
        let Some(raw) = self.optional(OBJECT) else { return Ok(None) };
        let name: ObjectName = serde_json::from_str(raw.get()).map_err(|_| {
            self.bad(
                "`object` must be an object such as {\"function\": \"account\", \"key\": \"ann\"}",
            )
        })?;
        Ok(Some(name))
    }

    /// The name of a field of an object.
    fn field(&self) -> Result<String, BadAnswer> {
        let field = self.text(KEY)?;
        valid_name(&field).map_err(|e| self.bad(format!("`key`: {e}")))?;
        Ok(field.into_owned())
    }

    fn run(&self) -> Result<Op, BadAnswer> {
        let id = self.id()?;
        let outcome = match (self.form.get(VALUE), self.form.get(ERROR)) {
            (Some(_), Some(_)) => {
                return Err(self.bad("a step has `value` or `error`, not both"));
            }
            (None, Some(raw)) => {
                Outcome::Error(self.from.error(raw, Some(&id), |detail| self.bad(detail))?)
            }
            (Some(raw), None) => Outcome::Value(self.from.keep(raw, Some(&id), "value")?),
            (None, None) => Outcome::Value(Bytes::from_static(b"null")),
        };
        if let Some(raw) = self.optional(ATTEMPT)
            && !serde_json::from_str::<u32>(raw.get()).is_ok_and(|n| n > 0)
        {
            return Err(self.bad("`attempt` must be a number from 1"));
        }
        let input_hash = match self.optional(INPUT_HASH) {
            Some(_) => Some(self.text(INPUT_HASH)?.to_string()),
            None => None,
        };
        if input_hash.as_ref().is_some_and(|hash| hash.len() > LONGEST_HASH) {
            return Err(self.bad(format!("`input_hash` is over {LONGEST_HASH} bytes long")));
        }
        Ok(Op::Run { ms: self.millis()?, retry: self.retry()?, input_hash, id, outcome })
    }

    /// What a handler measured; a clock that was set back gives less than nothing.
    fn millis(&self) -> Result<i32, BadAnswer> {
        let Some(raw) = self.optional(MS) else { return Ok(0) };
        let ms: f64 =
            serde_json::from_str(raw.get()).map_err(|_| self.bad("`ms` must be a number"))?;
        #[expect(clippy::cast_possible_truncation, reason = "clamped to what fits")]
        Ok(ms.round().clamp(0.0, f64::from(i32::MAX)) as i32)
    }

    fn retry(&self) -> Result<Option<RetrySpec>, BadAnswer> {
        let Some(raw) = self.optional(RETRY) else { return Ok(None) };
        let spec: RetrySpec = serde_json::from_str(raw.get())
            .map_err(|e| self.bad(format!("in `retry`: {}", without_place(&e))))?;
        spec.check().map_err(|(field, why)| self.bad(format!("`retry.{field}` {why}")))?;
        Ok(Some(spec))
    }

    fn moment(&self) -> Result<Moment, BadAnswer> {
        match (self.duration(FOR)?, self.optional(UNTIL)) {
            (Some(length), None) => Ok(Moment::For(length)),
            (None, Some(_)) => {
                let at = self.text(UNTIL)?.parse();
                at.map(Moment::Until)
                    .map_err(|e: String| self.bad(format!("`until`: {}", clip(&e))))
            }
            (Some(_), Some(_)) => Err(self.bad("a sleep has `for` or `until`, not both")),
            (None, None) => Err(self.bad("a sleep needs `for` or `until`")),
        }
    }

    pub(super) fn ask(&self, ask: Ask) -> Result<Op, BadAnswer> {
        let id = self.id()?;
        let raw = self.from.body.slice_ref(self.raw.get().as_bytes());
        Ok(Op::Ask { id, ask, raw })
    }

    fn scope(&self) -> Result<Op, BadAnswer> {
        let id = self.id()?;
        let value = match self.form.get(VALUE) {
            Some(raw) => self.from.keep(raw, Some(&id), "value")?,
            None => Bytes::from_static(b"null"),
        };
        Ok(Op::Scope { id, value })
    }

    fn task(&self) -> Result<Op, BadAnswer> {
        let name = self.text(TASK)?;
        valid_name(&name).map_err(|e| self.bad(format!("`task`: {e}")))?;
        if let Some(input) = self.form.get(INPUT) {
            self.from.keep(input, Some(&self.id()?), "input")?;
        }
        self.duration(TIMEOUT)?;
        self.duration(HEARTBEAT)?;
        if let Some(raw) = self.optional(LIMIT)
            && !serde_json::from_str::<u32>(raw.get()).is_ok_and(|n| n > 0)
        {
            return Err(self.bad("`limit` must be a number from 1"));
        }
        self.ask(Ask::Work { op: OpKind::Task, retry: self.retry()? })
    }

    fn call(&self) -> Result<Op, BadAnswer> {
        let id = self.id()?;
        self.from.keep(self.required(REQUEST)?, Some(&id), "request")?;
        self.duration(TIMEOUT)?;
        Call::read(self.raw.get().as_bytes()).map_err(|e| self.bad(clip(&e)))?;
        self.ask(Ask::Work { op: OpKind::Call, retry: self.retry()? })
    }

    fn reply(&self) -> Result<Op, BadAnswer> {
        let id = self.id()?;
        let update = self.text(UPDATE)?;
        let update = update.parse().map_err(|_| {
            self.bad(format!("`update` is no id of an update (`upd_…`): {:?}", clip(&update)))
        })?;
        let (word, raw) = match (self.form.get(VALUE), self.form.get(ERROR)) {
            (Some(_), Some(_)) => return Err(self.bad("has `value` or `error`, not both")),
            (None, Some(raw)) => {
                self.from.error(raw, Some(&id), |detail| self.bad(detail))?;
                ("error", raw.get())
            }
            (Some(raw), None) => {
                self.from.keep(raw, Some(&id), "value")?;
                ("value", raw.get())
            }
            (None, None) => ("value", "null"),
        };
        let answer = Bytes::from(format!("{{\"{word}\":{raw}}}"));
        Ok(Op::Reply { id, update, answer })
    }

    fn compact(&self) -> Result<Op, BadAnswer> {
        let raw = self.required(STATE)?;
        let (bytes, limit) = (raw.get().len(), LONGEST_STATE);
        if bytes > limit {
            let what = "state of `compact`".to_owned();
            return Err(BadAnswer::TooLarge { step: None, what, bytes, limit });
        }
        Ok(Op::Compact(self.from.keep(raw, None, "state of `compact`")?))
    }

    fn chunk(&self) -> Result<Op, BadAnswer> {
        let stream = self.text(STREAM)?.into_owned();
        valid_name(&stream).map_err(|e| self.bad(format!("`stream`: {e}")))?;
        let data = self.from.keep(self.required(DATA)?, None, "data of a chunk")?;
        Ok(Op::Chunk { stream, data })
    }

    fn tags(&self) -> Result<Op, BadAnswer> {
        let raw = self.required(VALUE)?;
        self.from.keep(raw, None, "tags")?;
        let tags: BTreeMap<String, Option<String>> = serde_json::from_str(raw.get())
            .map_err(|_| self.bad("`value` must be an object whose values are strings or null"))?;
        for (name, value) in &tags {
            valid_tag(name, value.as_deref().unwrap_or_default()).map_err(|e| self.bad(e))?;
        }
        Ok(Op::Tags(tags.into_iter().collect()))
    }

    fn log(&self) -> Result<Op, BadAnswer> {
        let level = match self.optional(LEVEL) {
            Some(_) => self.text(LEVEL)?,
            None => Cow::Borrowed("info"),
        };
        if !["debug", "info", "warn", "error"].contains(&level.as_ref()) {
            return Err(self.bad("`level` must be one of debug, info, warn, error"));
        }
        self.from.keep(self.required(MESSAGE)?, None, "log message")?;
        // The only character that Postgres cannot keep in a text.
        let message = self.text(MESSAGE)?.replace('\0', "\u{fffd}");
        let fields = match self.optional(FIELDS) {
            None => None,
            Some(raw) if raw.get().starts_with('{') => {
                Some(self.from.keep(raw, None, "log fields")?)
            }
            Some(_) => return Err(self.bad("`fields` must be an object")),
        };
        Ok(Op::Log { level: level.into_owned(), message, fields })
    }
}
