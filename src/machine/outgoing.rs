//! What runs ask of other runs, and what they are told of it: the bodies of outbox rows.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::id::{RunId, ScheduleId};
use super::matching::Matching;
use super::row::OpKind;
use super::telling::Telling;
use super::time::Timestamp;

/// An op that another run is asked by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// Start a child.
    Invoke(Invoke),
    /// Send a signal.
    Send {
        /// To whom.
        to: Addressee,
        /// The signal's name.
        signal: String,
        /// Its payload, JSON.
        payload: Bytes,
    },
    /// Cancel it.
    Cancel {
        /// Which.
        run: RunId,
        /// Why.
        reason: Option<String>,
    },
    /// Wait for an event.
    Listen(Listen),
    /// Publish an event.
    Publish {
        /// Its name.
        event: String,
        /// Its data, JSON.
        data: Bytes,
    },
}

/// An event that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Its name.
    pub event: String,
    /// What its fields must be equal to.
    pub matching: Matching,
    /// Settles as `timed-out` after this.
    pub timeout: Option<Duration>,
    /// Events that were published so long before the ask count too.
    pub lookback: Duration,
}

/// A child run that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoke {
    /// Of which function.
    pub function: String,
    /// JSON, byte for byte.
    pub input: Bytes,
    /// Its key.
    pub key: Option<String>,
    /// The step settles as soon as the child is there.
    pub detach: bool,
    /// First not before so long.
    pub delay: Option<Duration>,
    /// What becomes of it when its parent ends or continues.
    pub on_parent_close: Close,
    /// What becomes of a live run of the same key.
    pub if_running: Holder,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// What becomes of a child when its parent ends or continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Close {
    /// It is cancelled.
    #[default]
    Cancel,
    /// It goes on by itself.
    Abandon,
}

/// What becomes of a live run that has the key of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// The step fails.
    #[default]
    Fail,
    /// It is taken for the child.
    UseExisting,
    /// It is cancelled, and the child starts when it has ended.
    CancelExisting,
    /// It is terminated, and the child starts at once.
    TerminateExisting,
}

/// To whom a signal is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Addressee {
    /// A run.
    Run(RunId),
    /// The live run of a function's key.
    Key {
        /// The function.
        function: String,
        /// The key.
        key: String,
    },
}

impl Errand {
    /// Its op.
    #[must_use]
    pub const fn op(&self) -> OpKind {
        match self {
            Self::Invoke(_) => OpKind::Invoke,
            Self::Send { .. } => OpKind::Send,
            Self::Cancel { .. } => OpKind::Cancel,
            Self::Listen(_) => OpKind::Event,
            Self::Publish { .. } => OpKind::Publish,
        }
    }
}

/// What an outbox row asks for. Codes are for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum OutgoingKind {
    /// Start a child. Body: [`Said::Start`].
    Start = 1,
    /// Signal another run. Body: [`Said::Signal`].
    Signal = 2,
    /// Cancel another run. Body: [`Said::Cancel`].
    Cancel = 3,
    /// Tell the parent of the end. Body: [`Said::Ended`].
    Ended = 4,
    /// Publish an event. Body: [`Said::Publish`].
    Publish = 5,
    /// A step waits for an event. Body: [`Said::Listen`].
    Listen = 6,
    /// Steps that waited for events do so no more. Body: [`Said::Unlisten`].
    Unlisten = 7,
    /// Tell the schedule that started it of the end. Body: [`Said::Ran`].
    Ran = 40,
    /// Tell those outside who listen. Body: [`Said::Tell`].
    Tell = 80,
}

impl OutgoingKind {
    /// The kind of a code, if this version knows it.
    #[must_use]
    pub const fn from_code(code: i16) -> Option<Self> {
        Some(match code {
            1 => Self::Start,
            2 => Self::Signal,
            3 => Self::Cancel,
            4 => Self::Ended,
            5 => Self::Publish,
            6 => Self::Listen,
            7 => Self::Unlisten,
            40 => Self::Ran,
            80 => Self::Tell,
            _ => return None,
        })
    }
}

/// One message of a run to another, recorded with the row that says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The row.
    pub n: i32,
    /// Which one of that row.
    pub k: i16,
    /// What it asks for.
    pub kind: OutgoingKind,
    /// Which run, where that is known.
    pub to: Option<RunId>,
    /// A [`Said`], JSON.
    pub body: Bytes,
}

/// What is said to another run. `step` is who asks; none: nobody waits for an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Said {
    /// Be started.
    Start {
        /// The asking step.
        step: String,
        /// The asking run's generation.
        generation: i32,
        /// The child's function.
        function: String,
        /// Its input.
        input: Box<RawValue>,
        /// Its key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Nobody waits for its end.
        #[serde(default)]
        detach: bool,
        /// First not before this moment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        start_at: Option<Timestamp>,
        /// What becomes of it when its parent ends or continues.
        #[serde(default)]
        on_parent_close: Close,
        /// What becomes of a live run of the same key.
        #[serde(default)]
        if_running: Holder,
        /// Its tags.
        #[serde(default)]
        tags: BTreeMap<String, String>,
    },
    /// A signal.
    Signal {
        /// The asking step.
        step: String,
        /// To whom.
        to: Addressee,
        /// Its name.
        signal: String,
        /// Its payload.
        payload: Box<RawValue>,
    },
    /// Be cancelled.
    Cancel {
        /// The asking step.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A child has ended.
    Ended {
        /// The step that started it.
        step: String,
        /// How it ended.
        told: Told,
    },
    /// An event.
    Publish {
        /// The asking step.
        step: String,
        /// Its name.
        event: String,
        /// Its data.
        data: Box<RawValue>,
    },
    /// A run of a schedule has ended.
    Ran {
        /// The schedule.
        schedule: ScheduleId,
        /// The kind of the run's last row.
        ended: i16,
        /// Its output, if it has one that is not too big to be passed on.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
        output: Option<Box<RawValue>>,
        /// Its error in words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Something that those outside who listen are to know.
    Tell(Telling),
    /// A step waits for an event.
    Listen {
        /// Which step.
        step: String,
        /// The event's name.
        event: String,
        /// What its fields must be equal to.
        matching: Matching,
        /// Events that were published from then on count.
        since: Timestamp,
        /// Events that steps of this run had taken before.
        taken: Vec<Uuid>,
    },
    /// These steps do not wait for events any more.
    Unlisten {
        /// Which; none: no step of the run does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<Vec<String>>,
    },
}

/// What a step that asked something of another run is told. Body of a message of kind `Outcome`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Told {
    /// What was asked: the child's id or the message's, as in the `ref` of the row that asked.
    pub of: Uuid,
    /// The value; absent: there is an error.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub value: Option<Box<RawValue>>,
    /// The error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<RawValue>>,
}

/// What is present is some, null too.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(d).map(Some)
}
