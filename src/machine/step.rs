//! What memory keeps of one named entry of a run's journal.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::outgoing::Close;
use super::row::OpKind;
use super::time::{Timestamp, duration};
use super::written::{json, micros};

/// One named entry of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its op: a step never changes it.
    #[serde(skip)]
    pub op: OpKind,
    /// Failed attempts so far.
    pub attempts: u32,
    /// When the first attempt was reported.
    #[serde(with = "micros::option")]
    pub first: Option<Timestamp>,
    /// How it stands.
    pub state: StepState,
}

/// How a step stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum StepState {
    /// Asked for, settles later.
    Asked {
        /// What was asked.
        ask: AskKept,
        /// The row that asked.
        n: i32,
        /// When.
        #[serde(with = "micros")]
        at: Timestamp,
        /// When it settles by itself.
        #[serde(with = "micros::option")]
        due: Option<Timestamp>,
    },
    /// An attempt failed, another follows.
    Trying {
        /// The row of the attempt.
        n: i32,
        /// When the next one is due.
        #[serde(with = "micros")]
        due: Timestamp,
        /// The last error, JSON.
        #[serde(with = "json")]
        error: Bytes,
    },
    /// An at-most-once step that may run in this epoch.
    Begun {
        /// The row that began it.
        n: i32,
        /// The last epoch that may report it.
        licence: i32,
    },
    /// Settled for ever.
    Settled {
        /// Its place in commit order.
        seq: i32,
        /// The row that settled it.
        n: i32,
        /// Whether it has a value.
        ok: bool,
    },
    /// Under a closed scope: done with, and not shown any more.
    Closed,
}

/// What is kept of an op that settles later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AskKept {
    /// The name of a signal or an event.
    pub name: Option<String>,
    /// A callback's longest silence.
    #[serde(with = "duration::option")]
    pub heartbeat: Option<Duration>,
    /// A callback's longest wait, however many signs of life it gives.
    #[serde(with = "duration::option")]
    pub timeout: Option<Duration>,
    /// What was asked of another run: the child's id, or the message's.
    pub of: Option<Uuid>,
    /// What becomes of a child when its step is given up.
    pub on_close: Option<Close>,
}
