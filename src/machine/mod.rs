//! Floor 0: what may happen to a run. Pure: no I/O, no clock, no chance, no async.

mod allowance;
mod apply;
mod attempts;
mod body;
mod carried;
mod children;
mod compact;
mod draft;
mod ends;
mod erasing;
mod evolve;
mod faults;
mod fingerprint;
mod gate;
pub mod id;
mod imports;
mod listening;
mod locks;
mod mail;
mod matching;
mod objects;
mod op;
mod operator;
mod outgoing;
mod plain;
mod retry;
mod row;
mod run;
pub mod schedule;
mod scope;
mod shown;
mod step;
mod strict;
mod talk;
mod telling;
#[cfg(test)]
mod tests;
pub mod time;
mod tree;
mod turn;
mod updates;
mod works;
mod written;

pub use allowance::{Allowance, Bucket, Taken};
pub use apply::{CANCEL_GRACE, Cause, EPOCH_BLOCK, EPOCH_ROOM, Env, Fault, Refusal};
pub use attempts::{AttemptDue, AttemptEnd};
pub use body::*;
pub use carried::{CancelCarried, Carried};
pub use compact::StepCarried;
pub use fingerprint::{ErrorKind, Failing};
pub use gate::AtGate;
pub use id::{
    AuditId, BadId, BulkId, DeploymentId, EndpointId, EventId, InvocationId, KeyId, MessageId,
    NodeId, RunId, ScheduleId, Shard, UpdateId, WebhookId,
};
pub use imports::{Import, ImportedAttempt, ImportedOutcome, ImportedStep};
pub use listening::{cancelling, is_cancelling};
pub use locks::field_of_lock;
pub use matching::{Matched, Matching, Path, is_of_event};
pub use objects::{Changes, Publication, State, change, too_large, weight};
pub use op::{Again, Answer, Ask, Moment, Op, Outcome, StepError, Terminal};
pub use outgoing::{
    Addressee, Close, Errand, Holder, Invoke, Listen, Outgoing, OutgoingKind, Said, Told,
};
pub use retry::{RetryPolicy, RetrySpec};
pub use row::{
    Append, Attributes, Flags, HistoryEntry, Kind, LogLine, LogPart, Message, MessageKind, OpKind,
    Placement, Row, Sealed,
};
pub use run::{Buffered, Cancel, End, Mail, Reason, Run, Turn, Unreadable};
pub use shown::{INLINE_VALUE, Shown};
pub use step::{AskKept, Step, StepState};
pub use talk::{Heard, Report, Talk};
pub use telling::{Hook, Listened, Telling};
pub use time::Timestamp;
pub use tree::{Standing, Tree};
pub use works::{Open, Terms, Work, Works};
