//! What memory keeps of one named entry of a run's journal.

use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::op::Ask;
use super::outgoing::Close;
use super::row::OpKind;
use super::time::Timestamp;

/// One named entry of the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its op: a step never changes it.
    pub op: OpKind,
    /// Failed attempts so far.
    pub attempts: u32,
    /// When the first attempt was reported.
    pub first: Option<Timestamp>,
    /// How it stands.
    pub state: StepState,
}

/// How a step stands.
#[derive(Debug, Clone, PartialEq)]
pub enum StepState {
    /// Asked for, settles later.
    Asked {
        /// What was asked.
        ask: AskKept,
        /// The row that asked.
        n: i32,
        /// When.
        at: Timestamp,
        /// When it settles by itself.
        due: Option<Timestamp>,
    },
    /// An attempt failed, another follows.
    Trying {
        /// The row of the attempt.
        n: i32,
        /// When the next one is due.
        due: Timestamp,
        /// The last error, JSON.
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AskKept {
    /// A signal's name.
    pub name: Option<String>,
    /// A callback's longest silence.
    pub heartbeat: Option<Duration>,
    /// A callback's longest wait, however many signs of life it gives.
    pub timeout: Option<Duration>,
    /// What was asked of another run: the child's id, or the message's.
    pub of: Option<Uuid>,
    /// What becomes of a child when its step is given up.
    pub on_close: Option<Close>,
}

impl AskKept {
    /// What is kept of `ask`.
    #[must_use]
    pub fn of(ask: &Ask) -> Self {
        match ask {
            Ask::Sleep(_) | Ask::Other(_) | Ask::Work { .. } => Self::default(),
            Ask::Signal { name, .. } => Self { name: Some(name.clone()), ..Self::default() },
            Ask::Callback { heartbeat, timeout } => {
                Self { heartbeat: *heartbeat, timeout: *timeout, ..Self::default() }
            }
        }
    }
}
