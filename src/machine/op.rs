//! What a handler's answer says, already checked for form: ops and the terminal field.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::body::ObjectName;
use super::id::UpdateId;
use super::outgoing::Errand;
use super::retry::RetrySpec;
use super::row::OpKind;
use super::time::Timestamp;
use super::tree::Tree;

/// A handler's answer: what it reports and asks for, and how the turn ends.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// In the order written.
    pub ops: Vec<Op>,
    /// None where the answer has no terminal field.
    pub terminal: Option<Terminal>,
}

/// The field that ends a turn.
#[derive(Debug, Clone)]
pub enum Terminal {
    /// The run completed; the bytes are its output.
    Result(Bytes),
    /// The run's code failed.
    Error(StepError),
    /// Suspended until the tree is satisfied.
    Await(Tree),
    /// Record and invoke again at once.
    Yield,
    /// Continue as new, with this input.
    Continue(Bytes),
}

/// One thing that a handler reports or asks for.
#[derive(Debug, Clone)]
pub enum Op {
    /// Work done in the handler.
    Run {
        /// The step.
        id: String,
        /// How it ended.
        outcome: Outcome,
        /// How long the handler says it took.
        ms: i32,
        /// The retry policy of this step, over the function's.
        retry: Option<RetrySpec>,
        /// What the handler says identifies the step's input.
        input_hash: Option<String>,
    },
    /// An at-most-once step is about to run.
    Start {
        /// The step.
        id: String,
    },
    /// Something that settles later.
    Ask {
        /// The step.
        id: String,
        /// What is asked for.
        ask: Ask,
        /// The op as it came, kept as the row's body.
        raw: Bytes,
    },
    /// The steps under it are done with: they are no longer sent.
    Scope {
        /// The step, and with a slash behind it what those under it begin with.
        id: String,
        /// Its value, JSON.
        value: Bytes,
    },
    /// The waiting sender of an update is answered.
    Reply {
        /// The step.
        id: String,
        /// Which update.
        update: UpdateId,
        /// What it is answered: JSON, `{"value": …}` or `{"error": …}`.
        answer: Bytes,
    },
    /// What is settled is not sent any more, and this (JSON) in its place.
    Compact(Bytes),
    /// The run's custom status (JSON; null clears it).
    Status(Bytes),
    /// Tags to merge; none removes one.
    Tags(Vec<(String, Option<String>)>),
    /// A field of the run's object, or of one of its locks, is set, or with none taken away.
    Set {
        /// Whose; none: the run's own.
        object: Option<ObjectName>,
        /// Which.
        field: String,
        /// JSON.
        value: Option<Bytes>,
    },
    /// A piece of an output stream.
    Chunk {
        /// Which one.
        stream: String,
        /// JSON.
        data: Bytes,
    },
    /// A line for the run's log.
    Log {
        /// `debug`, `info`, `warn` or `error`.
        level: String,
        /// The text.
        message: String,
        /// More, as a JSON object.
        fields: Option<Bytes>,
    },
}

/// An op that settles later.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Until a moment, or for a time from now.
    Sleep(Moment),
    /// The oldest untaken signal of a name.
    Signal {
        /// Its name.
        name: String,
        /// Settles as `timed-out` after this.
        timeout: Option<Duration>,
    },
    /// Somebody settles it through the callback address.
    Callback {
        /// Settles as `timed-out` after this.
        timeout: Option<Duration>,
        /// Settles as `timed-out` when no sign of life came for this long.
        heartbeat: Option<Duration>,
    },
    /// Something of another run.
    Other(Box<Errand>),
    /// The gateway does it, in attempts: a task or a call.
    Work {
        /// Which of the two.
        op: OpKind,
        /// Over the function's policy.
        retry: Option<RetrySpec>,
    },
}

/// A moment as a handler gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// From when the op is recorded.
    For(Duration),
    /// Absolute.
    Until(Timestamp),
}

/// How a step ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// With a value: JSON bytes as they came.
    Value(Bytes),
    /// With an error.
    Error(StepError),
}

/// What a step's error asks of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Again {
    /// The step's retry policy applies.
    #[default]
    Default,
    /// The step has failed.
    Never,
    /// The run is paused.
    Pause,
}

/// A step error, or a run-level error.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepError {
    /// The kind of error, such as `SmtpError`.
    #[serde(rename = "type", default = "unnamed")]
    pub kind: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// A stack trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// Whatever the handler adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// Whether another attempt makes sense.
    #[serde(default, skip_serializing)]
    pub retry: Again,
    /// When to try again, in milliseconds from now.
    #[serde(default, skip_serializing)]
    pub after_ms: Option<u64>,
    /// How many attempts were made; set by the gateway.
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
}

impl PartialEq for StepError {
    fn eq(&self, other: &Self) -> bool {
        let asks = |e: &Self| (e.retry, e.after_ms);
        asks(self) == asks(other) && self.to_bytes() == other.to_bytes()
    }
}

fn unnamed() -> String {
    "Error".to_owned()
}

impl StepError {
    /// An error that the gateway itself makes, such as `timed-out`.
    #[must_use]
    pub fn of_gateway(kind: &str, message: impl Into<String>) -> Self {
        Self {
            kind: kind.to_owned(),
            message: message.into(),
            stack: None,
            data: None,
            retry: Again::Never,
            after_ms: None,
            attempts: None,
        }
    }

    /// As it is recorded and shown.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("strings and raw JSON serialise").into()
    }
}

impl Op {
    /// The step that it is about, if any.
    #[must_use]
    pub fn step(&self) -> Option<&str> {
        match self {
            Self::Run { id, .. }
            | Self::Start { id }
            | Self::Ask { id, .. }
            | Self::Scope { id, .. }
            | Self::Reply { id, .. } => Some(id),
            Self::Compact(_)
            | Self::Status(_)
            | Self::Tags(_)
            | Self::Set { .. }
            | Self::Chunk { .. }
            | Self::Log { .. } => None,
        }
    }
}
