//! Floor 1: candidate code driven against a recorded run, in memory, without side effects
//! (`docs/protocol.md`, section 8). Knows the machine's and the protocol's words and no I/O: whoever
//! drives it sends what [`Replay::invocation`] writes and hands in what comes back.

mod canonical;
mod drive;
mod recorded;

pub use drive::{Divergence, Replay, Report};
pub use recorded::{End, NotAnExport, Recorded, Step};
