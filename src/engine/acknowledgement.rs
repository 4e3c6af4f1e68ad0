//! What the gateway answers to checkpoints and lines.

use std::time::Duration;

use bytes::Bytes;

use super::Error;
use crate::machine::{Heard, Limits, Run, Timestamp};
use crate::protocol;

/// What the handler is told: everything that it does not know yet. Without a budget it is a line;
/// without a number (0) news for who waits.
pub(super) fn acknowledgement(
    run: &mut Run,
    n: i32,
    heard: &Heard,
    budget: Option<Duration>,
    moment: (bool, Timestamp),
    limits: &Limits,
) -> Bytes {
    let n = Some(n).filter(|n| *n > 0);
    let told = protocol::acknowledge(run, n, heard, budget, moment, limits);
    let transport = if budget.is_some() { "checkpoint" } else { "duplex" };
    metrics::counter!("stepwell_invocation_sent_bytes_total", "transport" => transport)
        .increment(told.len() as u64);
    told.into()
}

/// What a line is answered with that was not taken; the exchange is over then.
pub(super) fn problem_line(error: &Error) -> Bytes {
    let (status, code) = match error {
        Error::StaleEpoch => (409, "stale-epoch"),
        Error::RunEnded(_) => (410, "run-ended"),
        Error::RunPaused(_) => (409, "run-paused"),
        Error::CheckpointSkipped { .. } => (422, "checkpoint-skipped"),
        Error::CheckpointReused(_) => (422, "checkpoint-reused"),
        Error::TooLarge(_) => (413, "payload-too-large"),
        Error::Invalid(..) => (422, "invalid-request"),
        _ => (503, "unavailable"),
    };
    let problem = serde_json::json!({"problem": {
        "type": format!("/problems/{code}"), "status": status, "code": code,
        "detail": error.to_string(),
    }});
    let mut line = crate::machine::to_bytes(&problem).to_vec();
    line.push(b'\n');
    line.into()
}
