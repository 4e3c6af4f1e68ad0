//! What the machine asks to be recorded: journal rows, the append that holds them, messages.
//!
//! Codes are for ever: a new one needs a higher `cluster.level`.

use bytes::Bytes;
use uuid::Uuid;

use super::fingerprint::Failing;
use super::id::{MessageId, RunId};
use super::objects::Publication;
use super::outgoing::Outgoing;
use super::time::Timestamp;

/// The kind of a journal row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub enum Kind {
    /// Row 0: identity, input, options. Body: [`super::Created`]. `due`: the run's deadline.
    Created = 0,
    /// A step settled with a value. Body: the value's bytes.
    Done = 1,
    /// A step settled with an error. Body: the error object.
    Failed = 2,
    /// An op that settles later. Body: the op as it came. `due`: moment or deadline.
    Asked = 3,
    /// A failed attempt after which another follows. `due`: the next attempt. Body: [`super::Tried`].
    Tried = 4,
    /// An at-most-once step is about to run.
    Begun = 5,
    /// The handler answered 202 and works on.
    Held = 6,
    /// A message that nothing asks for yet. `step`: its name. Body: payload.
    Arrived = 7,
    /// Heartbeat details of a task.
    Beat = 8,
    /// Custom status and tags. Body: [`super::Noted`].
    Noted = 9,
    /// The turn ended with an await, or the run leaves memory. Body: the tree.
    Waits = 10,
    /// First append of a new owner before an exchange.
    Claimed = 11,
    /// A failed exchange that must survive: its back-off is long, or epochs ran out.
    Fault = 12,
    /// A cancel was taken. `due`: the deadline for compensation.
    Cancelling = 13,
    /// The run needs a person. Body: [`super::Attention`].
    Paused = 14,
    /// An operator lets it go on, or hurries it.
    Resumed = 15,
    /// Failed steps are taken back.
    Retaken = 16,
    /// A message that came too late for its step.
    Late = 17,
    /// The journal up to here was replaced by a state.
    Compacted = 18,
    /// A new generation.
    Continued = 19,
    /// The journal goes on in `journal_long`.
    Moved = 20,
    /// An ended run goes on.
    Reopened = 21,
    /// The end: completed. Body: the output. Of any end, `due`: when it was, if the run was imported.
    Completed = 100,
    /// The end: the run's code failed. Body: the error.
    EndFailed = 101,
    /// The end: cancelled.
    Cancelled = 102,
    /// The end: its deadline passed.
    TimedOut = 103,
    /// The end: terminated by an operator.
    Terminated = 104,
}

impl Kind {
    /// All kinds, in the order of their codes.
    pub const ALL: [Self; 27] = [
        Self::Created,
        Self::Done,
        Self::Failed,
        Self::Asked,
        Self::Tried,
        Self::Begun,
        Self::Held,
        Self::Arrived,
        Self::Beat,
        Self::Noted,
        Self::Waits,
        Self::Claimed,
        Self::Fault,
        Self::Cancelling,
        Self::Paused,
        Self::Resumed,
        Self::Retaken,
        Self::Late,
        Self::Compacted,
        Self::Continued,
        Self::Moved,
        Self::Reopened,
        Self::Completed,
        Self::EndFailed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Terminated,
    ];

    /// The code in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The kind of a code, if this version knows it.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.code() == code)
    }

    /// Whether this row ends the run.
    #[must_use]
    pub const fn ends(self) -> bool {
        self as i16 >= 100
    }

    /// Whether this row settles a step (and so takes a `seq`).
    #[must_use]
    pub const fn settles(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// Which op a step came from. Kept in the high byte of a row's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum OpKind {
    /// Work done in the handler (`run` and `start` are one kind).
    #[default]
    Run = 0,
    /// A sleep.
    Sleep = 1,
    /// A signal awaited.
    Signal = 2,
    /// A callback awaited.
    Callback = 3,
    /// A scope closed.
    Scope = 4,
    /// A signal sent to another run.
    Send = 5,
    /// A cancel asked of another run.
    Cancel = 6,
    /// An event published.
    Publish = 7,
    /// A child run.
    Invoke = 8,
    /// An invocation of its own, without a journal.
    Task = 9,
    /// An HTTP request that the gateway makes itself.
    Call = 10,
    /// An event awaited.
    Event = 11,
    /// An update answered.
    Reply = 12,
}

impl OpKind {
    /// The word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Sleep => "sleep",
            Self::Signal => "signal",
            Self::Callback => "callback",
            Self::Scope => "scope",
            Self::Send => "send",
            Self::Cancel => "cancel",
            Self::Publish => "publish",
            Self::Invoke => "invoke",
            Self::Task => "task",
            Self::Call => "call",
            Self::Event => "event",
            Self::Reply => "reply",
        }
    }

    /// The op of a word, if this version knows it.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        (0..=u8::MAX).filter_map(Self::from_code).find(|op| op.word() == word)
    }

    /// The op of a code, if this version knows it.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Run),
            1 => Some(Self::Sleep),
            2 => Some(Self::Signal),
            3 => Some(Self::Callback),
            4 => Some(Self::Scope),
            5 => Some(Self::Send),
            6 => Some(Self::Cancel),
            7 => Some(Self::Publish),
            8 => Some(Self::Invoke),
            9 => Some(Self::Task),
            10 => Some(Self::Call),
            11 => Some(Self::Event),
            12 => Some(Self::Reply),
            _ => None,
        }
    }
}

/// Flags of a row (low byte) and the op of its step (high byte).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub i16);

impl Flags {
    /// From a handler's answer or checkpoint.
    pub const HANDLER: i16 = 1;
    /// Last row of an answer that yields.
    pub const END: i16 = 2;
    /// The run leaves memory: `wake_at := due`, or infinity.
    pub const PARK: i16 = 4;
    /// The run is to be driven: `wake_at := -infinity`.
    pub const HOT: i16 = 8;
    /// Head row only: the append wins only if every accepted message was drained.
    pub const GATED: i16 = 16;
    /// Messages are refused from now on.
    pub const CLOSING: i16 = 32;
    /// The body is in the `arrived` row of the same message.
    pub const REF: i16 = 64;
    /// The outcome is an operator's or another run's: its message is none of the kind that the
    /// step's op waits for.
    pub const BY_HAND: i16 = 128;

    /// Flags of a row that belongs to a step of this op.
    #[must_use]
    pub const fn of(op: OpKind) -> Self {
        Self(((op as u8 as u16) << 8).cast_signed())
    }

    /// Whether all these bits are set.
    #[must_use]
    pub const fn has(self, bits: i16) -> bool {
        self.0 & bits == bits
    }

    /// Sets these bits.
    pub const fn set(&mut self, bits: i16) {
        self.0 |= bits;
    }

    /// Clears these bits.
    pub const fn clear(&mut self, bits: i16) {
        self.0 &= !bits;
    }

    /// The op in the high byte, if this version knows it.
    #[must_use]
    pub const fn op(self) -> Option<OpKind> {
        OpKind::from_code((self.0.cast_unsigned() >> 8) as u8)
    }
}

/// One journal row, as the machine sees it: run, namespace and table are the append's.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Position in the run's log, dense from 0.
    pub n: i32,
    /// What it records.
    pub kind: Kind,
    /// Flags and op.
    pub flags: Flags,
    /// Settled steps of this generation so far, this row included.
    pub seq: i32,
    /// The run's fence.
    pub epoch: i32,
    /// The handler's checkpoint number, 0 for `respond`.
    pub cp: i32,
    /// Milliseconds that the work took, as reported or measured.
    pub ms: i32,
    /// The deployment that was invoked.
    pub dep: i32,
    /// When, in cluster time.
    pub at: Timestamp,
    /// When something is due; see [`Kind`].
    pub due: Option<Timestamp>,
    /// The message that it took.
    pub refer: Option<Uuid>,
    /// The step's id or the message's name; empty where there is none.
    pub step: String,
    /// Opaque bytes; the store adds and strips the format byte.
    pub body: Option<Bytes>,
    /// The inbox position that this row takes away, 0 for none. Not a column of the journal.
    pub pos: i32,
}

/// One transaction of one run: consecutive rows and what goes with them. Wins or loses whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Append {
    /// Rows, dense in `n`; the first decides.
    pub rows: Vec<Row>,
    /// For a gated head: the last inbox position that the run has drained; -1 ends it whatever has come.
    pub drained: i32,
    /// Where it parks the run: what keeps the run out of memory, if something does.
    pub gate: Option<i64>,
    /// Which deployment has the run after this append, where that is not what is recorded.
    pub placement: Option<Placement>,
    /// Custom status and tags after this append, where it changed them.
    pub attributes: Option<Attributes>,
    /// Lines for the run's log.
    pub logs: Vec<LogLine>,
    /// Entries for the history that are no journal rows.
    pub history: Vec<HistoryEntry>,
    /// What is to be said to other runs because of these rows.
    pub outbox: Vec<Outgoing>,
    /// What becomes of the run's object with these rows.
    pub publication: Option<Publication>,
    /// What the run fails or pauses by with these rows.
    pub failing: Option<Failing>,
}

/// Which deployment a run needs, for those who ask whether one is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The one that it is pinned to by hand, else the one that it was last invoked on.
    pub dep: i32,
    /// Whether it is pinned by hand.
    pub pinned: bool,
}

/// What lists show and search of a run beside its columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// JSON object of strings, the searchable tags.
    pub tags: String,
    /// The custom status, JSON.
    pub custom_status: Option<Bytes>,
}

/// One `log` op, or one `chunk` of an output stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was recorded.
    pub at: Timestamp,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The text.
    pub message: String,
    /// More fields, JSON; of a chunk its data.
    pub fields: Option<Bytes>,
    /// The output stream that this is a chunk of; none: a line of the log.
    pub stream: Option<String>,
}

/// What of a run's log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogPart<'a> {
    /// Lines.
    Lines,
    /// Chunks of one output stream.
    Stream(&'a str),
    /// Chunks of every output stream.
    Chunks,
    /// All of it.
    All,
}

/// Something that happened to a run and is no journal row: a failed exchange, a late answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// The epoch that it belongs to.
    pub epoch: i32,
    /// Such as `invocation.failed`.
    pub what: String,
    /// Who: `gateway`, `handler`, or an operator.
    pub by: String,
    /// JSON object.
    pub data: Bytes,
}

/// What kind of message reaches a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum MessageKind {
    /// The run was created by a node that does not own its shard.
    New = 0,
    /// A signal; `name` is its name.
    Signal = 1,
    /// A callback with a value; `name` is the step.
    CallbackValue = 2,
    /// A callback with an error; `name` is the step.
    CallbackError = 3,
    /// A request to cancel. Body: [`super::Act`].
    Cancel = 4,
    /// An operator pauses.
    Pause = 5,
    /// An operator resumes.
    Resume = 6,
    /// An operator hurries what is backing off.
    RetryNow = 7,
    /// An operator ends it now.
    Terminate = 8,
    /// An operator settles a step, or it is copied from another run; `name` is the step. Body:
    /// [`super::Settlement`].
    StepSettled = 10,
    /// An operator hurries a step, or takes its failure back; `name` is the step.
    StepHurried = 11,
    /// An operator moves the run to another deployment. Body: [`super::Act`].
    Repinned = 12,
    /// What a step that asked something of another run has come to: a child's end, or what became
    /// of a signal or a cancel on its way. `name` is the step. Body: [`super::Told`].
    Outcome = 9,
    /// An event that a step waits for; `name` is the step. Body: the event.
    EventMatched = 14,
    /// The run was promised before it was known that it cannot be. Body: a step error, its end.
    Refused = 60,
}

impl MessageKind {
    /// The kind of a code, if this version knows it.
    #[must_use]
    pub const fn from_code(code: i16) -> Option<Self> {
        Some(match code {
            0 => Self::New,
            1 => Self::Signal,
            2 => Self::CallbackValue,
            3 => Self::CallbackError,
            4 => Self::Cancel,
            5 => Self::Pause,
            6 => Self::Resume,
            7 => Self::RetryNow,
            8 => Self::Terminate,
            10 => Self::StepSettled,
            11 => Self::StepHurried,
            12 => Self::Repinned,
            9 => Self::Outcome,
            14 => Self::EventMatched,
            60 => Self::Refused,
            _ => return None,
        })
    }
}

/// A message that was accepted for a run and waits in its inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Arrival number at the run.
    pub pos: i32,
    /// Its identity: a repeat has the same.
    pub id: MessageId,
    /// What it is.
    pub kind: MessageKind,
    /// Signal name or step id; empty for operators' acts.
    pub name: String,
    /// Payload or [`super::Act`].
    pub body: Bytes,
    /// When it was accepted.
    pub at: Timestamp,
    /// For a callback: the generation whose step it is about; none: any.
    pub generation: Option<i32>,
}

/// A run and its append, as the store takes them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sealed {
    /// The run.
    pub run: RunId,
    /// Its namespace.
    pub ns: i32,
    /// Where its journal is: 0 in the week's table, 1 in `journal_long`.
    pub home: i16,
    /// What to record.
    pub append: Append,
}
