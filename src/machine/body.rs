//! The structured bodies of journal rows, as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::id::{RunId, ScheduleId};
use super::retry::{RetryPolicy, RetrySpec};
use super::schedule::By;
use super::telling::{Hook, Listened};
use super::time::{Timestamp, duration};

/// What a run is to its function, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// Its handler speaks the protocol.
    #[default]
    Function,
    /// Its input is posted, and what comes back is its result.
    Plain,
    /// It has the object of its key to itself, once its turn has come.
    Object,
    /// It reads the object of its key, and waits for nobody.
    Reader,
}

impl RunKind {
    /// In words; but for readers the word in manifests.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Plain => "plain",
            Self::Object => "object",
            Self::Reader => "object, shared",
        }
    }

    /// Whether a run of it is about the object of its key.
    #[must_use]
    pub const fn has_object(self) -> bool {
        matches!(self, Self::Object | Self::Reader)
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
    fn is_function(&self) -> bool {
        *self == Self::Function
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// The function that it is of.
    pub function: String,
    /// Its key.
    pub key: String,
}

/// Body of `created`: what a run was started with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Created {
    /// The function's name.
    pub function: String,
    /// What its function was when it was started.
    #[serde(default, skip_serializing_if = "RunKind::is_function")]
    pub kind: RunKind,
    /// The namespace's name.
    pub namespace: String,
    /// The run's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The objects that it has under its locks, once it has all of them; each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<ObjectName>,
    /// The input, byte for byte.
    pub input: Box<RawValue>,
    /// A handler's deterministic source of chance, 32 hex digits.
    pub seed: String,
    /// First not before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<Timestamp>,
    /// Searchable tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Among runs that wait for the same limit higher ones go first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i16,
    /// How long it may wait for its first invocation.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub start_within: Option<Duration>,
    /// The longest silence of an exchange, over the function's.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub invocation_timeout: Option<Duration>,
    /// The default policy of its steps, over the function's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// The deployment that it was started on by name, and stays on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<i32>,
    /// W3C trace context of the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The run that it does again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<RunId>,
    /// Who started it: the name of the API key, or `local`.
    pub by: String,
    /// The run that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// Whether events were named that cancel it: the tables of events have rows of it from the start.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cancel_on: bool,
    /// The firing of a schedule that it comes of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Box<Fired>>,
    /// Who is told of its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_complete: Vec<Hook>,
    /// When what was said to the run and by it was erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased_at: Option<Timestamp>,
    /// It ended elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
}

/// Who brought a run that had ended elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// When.
    pub at: Timestamp,
    /// The name of the API key, or `local`.
    pub by: String,
}

/// The firing of a schedule that a run comes of, as its handler and people are shown it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fired {
    /// The schedule.
    pub id: ScheduleId,
    /// Its name at the time.
    pub name: String,
    /// The moment that the run is for.
    pub time: Timestamp,
    /// What the firing comes of.
    pub by: By,
    /// The last run of the schedule that had completed.
    #[serde(default)]
    pub last: Option<PassedOn>,
}

/// What a run of a schedule came to, for the runs after it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PassedOn {
    /// The run.
    pub run: RunId,
    /// Its output; left out where it is too big to be passed on.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub output: Option<Box<RawValue>>,
}

/// The biggest output that is passed on to the next run of a schedule.
pub const PASSED_ON: usize = 256 << 10;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_zero(n: &i16) -> bool {
    *n == 0
}

/// The run that started another, and the step that did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The run.
    pub run: RunId,
    /// Its step.
    pub step: String,
    /// It does not wait for the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
}

/// Body of `tried`: a failed attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tried {
    /// Which one, from 1.
    pub attempt: u32,
    /// When the first attempt was reported.
    pub first: Timestamp,
    /// How it failed.
    pub error: Box<RawValue>,
}

/// Body of `fault`: a failed exchange, or a run-level error with another try to come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Faulted {
    /// Consecutive failures of exchanges, this one included.
    pub faults: u32,
    /// Run-level errors so far.
    pub failures: u32,
    /// When the first of the failures in a row happened.
    pub first: Timestamp,
    /// What happened, in words.
    pub detail: String,
    /// The HTTP status, if one came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// Body of `noted`: what a handler says about its run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Noted {
    /// The custom status; absent: unchanged, null: cleared.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub status: Option<Box<RawValue>>,
    /// All tags after the change; absent: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,
    /// The deployment that it is to stay on from now on; absent: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<i32>,
    /// Fields of its object that were set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, Box<RawValue>>,
    /// Fields of its object that were taken away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<String>,
    /// Input hashes of steps of a strict function that were reported first now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hashes: BTreeMap<String, String>,
    /// It goes on with the deployment that this row names, by the rule of its function.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
    /// Who moved it there, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Act>,
}

/// What is present is some, null too.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(d).map(Some)
}

/// Why a run does not move: body of `paused`, and `attention` in the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    /// Such as `mismatch`, `no-progress`, `invocations-used-up`, `journal-limit`, `operator`.
    pub code: String,
    /// For people: what happened and what to do.
    pub detail: String,
    /// When the gateway tries again by itself.
    #[serde(default)]
    pub next_attempt_at: Option<Timestamp>,
    /// For a mismatch: what is recorded.
    #[serde(default)]
    pub expected: Option<Box<str>>,
    /// For a mismatch: what the handler said.
    #[serde(default)]
    pub got: Option<Box<str>>,
    /// For a queued run: the limit that it waits for. It is never recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Box<HeldAt>>,
}

/// The limit that a queued run waits for, named as in the list of limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAt {
    /// `concurrency` or `throttle`.
    pub kind: String,
    /// The function whose limit it is.
    pub function: Option<String>,
    /// The endpoint whose limit it is.
    pub endpoint: Option<String>,
    /// The path of its key.
    pub key: Option<String>,
    /// The value at that path.
    pub value: Option<String>,
    /// How many runs go before it, counted up to 10,000.
    pub before: u64,
}

impl Attention {
    /// Without expected and got.
    #[must_use]
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            detail: detail.into(),
            next_attempt_at: None,
            expected: None,
            got: None,
            limit: None,
        }
    }
}

/// An operator's act: body of its message and of the row that it becomes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// Who: the name of an API key, or `local`.
    pub by: String,
    /// Why, if they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For cancel: how long compensation may take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// For resume: the deployment to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<i32>,
    /// Whether this is `retry-now` rather than `resume`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hurry: bool,
}

/// An outcome that no handler reported: body of the message that brings it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settlement {
    /// Who says so.
    pub by: String,
    /// Why, if they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The op of a step that nobody has asked for yet, by its code; left out: it is not settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<u8>,
    /// Whether it is an outcome of the run that this one does again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub copied: bool,
    /// Whether `outcome` is a value.
    pub ok: bool,
    /// The value or the error, byte for byte.
    pub outcome: Box<RawValue>,
}

/// JSON bytes of a body.
///
/// # Panics
/// Never: bodies are strings, numbers and raw JSON.
#[must_use]
pub fn to_bytes(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("bodies are strings, numbers and raw JSON").into()
}

/// What is in force for the runs of a function, from its deployment and the run's own options.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Default of steps.
    pub step: RetryPolicy,
    /// For exchanges that fail.
    pub invocation: RetryPolicy,
    /// For run-level errors.
    pub run: RetryPolicy,
    /// Whether another input hash of a recorded step is a mismatch.
    pub strict: bool,
    /// Of what its namespace's webhooks are told.
    pub listened: Listened,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            step: RetryPolicy::STEP,
            invocation: RetryPolicy::INVOCATION,
            run: RetryPolicy::RUN,
            strict: false,
            listened: Listened::default(),
        }
    }
}

/// Limits of a run; a run that passes one is paused with the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one value.
    pub value_bytes: usize,
    /// Bytes of all values and errors of a run.
    pub journal_bytes: usize,
    /// Steps of a run.
    pub steps: usize,
    /// Signals accepted and not taken.
    pub untaken: usize,
    /// Fields of an object.
    pub object_fields: usize,
    /// Bytes of an object's state, names and values.
    pub object_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            value_bytes: 4 << 20,
            journal_bytes: 64 << 20,
            steps: 20_000,
            untaken: 10_000,
            object_fields: 1_000,
            object_bytes: 1 << 20,
        }
    }
}

/// What every recorded error says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ErrorSaid {
    /// The kind of error.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// For people.
    #[serde(default)]
    pub message: String,
}

/// What a recorded error says, if it is in the form that handlers must use.
#[must_use]
pub fn error_of(body: &[u8]) -> Option<ErrorSaid> {
    serde_json::from_slice(body).ok()
}

/// What a recorded error says for people: `type: message`.
#[must_use]
pub fn error_in_words(body: &[u8]) -> String {
    match error_of(body) {
        Some(said) => format!("{}: {}", said.kind, said.message),
        None => String::from_utf8_lossy(body).chars().take(200).collect(),
    }
}
