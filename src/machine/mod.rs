//! Floor 0: what may happen to a run. Pure: no I/O, no clock, no chance, no async.

mod body;
pub mod id;
mod op;
mod retry;
mod row;
pub mod time;
mod tree;

pub use body::*;
pub use id::{
    BadId, DeploymentId, EndpointId, InvocationId, KeyId, MessageId, NodeId, RunId, Shard,
};
pub use op::{Again, Answer, Ask, Moment, Op, Outcome, StepError, Terminal};
pub use retry::{RetryPolicy, RetrySpec};
pub use row::{
    Append, Attributes, Flags, HistoryEntry, Kind, LogLine, Message, MessageKind, OpKind, Row,
    Sealed,
};
pub use time::Timestamp;
pub use tree::{Standing, Tree};
