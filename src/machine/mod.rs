//! Floor 0: what may happen to a run. Pure: no I/O, no clock, no chance, no async.

mod apply;
mod attempts;
mod body;
mod carried;
mod children;
mod draft;
mod ends;
mod evolve;
mod faults;
mod gate;
pub mod id;
mod listening;
mod mail;
mod matching;
mod op;
mod operator;
mod outgoing;
mod retry;
mod row;
mod run;
mod scope;
mod shown;
mod step;
mod strict;
mod talk;
#[cfg(test)]
mod tests;
pub mod time;
mod tree;
mod turn;

pub use apply::{CANCEL_GRACE, Cause, EPOCH_BLOCK, EPOCH_ROOM, Env, Fault, Refusal};
pub use attempts::{AttemptDue, AttemptEnd, Open, Terms, Work, Works};
pub use body::*;
pub use carried::{CancelCarried, Carried};
pub use gate::AtGate;
pub use id::{
    BadId, DeploymentId, EndpointId, EventId, InvocationId, KeyId, MessageId, NodeId, RunId, Shard,
};
pub use matching::{Matched, Matching};
pub use op::{Again, Answer, Ask, Moment, Op, Outcome, StepError, Terminal};
pub use outgoing::{
    Addressee, Close, Errand, Holder, Invoke, Listen, Outgoing, OutgoingKind, Said, Told,
};
pub use retry::{RetryPolicy, RetrySpec};
pub use row::{
    Append, Attributes, Flags, HistoryEntry, Kind, LogLine, Message, MessageKind, OpKind,
    Placement, Row, Sealed,
};
pub use run::{Buffered, Cancel, End, Mail, Reason, Run, Turn, Unreadable};
pub use shown::{INLINE_VALUE, Shown};
pub use step::{AskKept, Step, StepState};
pub use talk::{Heard, Report, Talk};
pub use time::Timestamp;
pub use tree::{Standing, Tree};
