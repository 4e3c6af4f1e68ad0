//! What an acknowledgement tells a handler of its run: all that it does not know yet.

use std::time::Duration;

use bytes::Bytes;

use super::Error;
use super::checkpoint::INLINE;
use crate::machine::{Heard, Limits, Run, StepState, Timestamp};
use crate::protocol::{self, Acknowledgement, CancelNotice, Pending, write_acknowledgement};

/// What the handler is told: everything that it does not know yet.
pub(super) fn acknowledgement(
    run: &mut Run,
    n: i32,
    heard: &Heard,
    budget: Option<Duration>,
    (open, past): (bool, Timestamp),
    limits: &Limits,
) -> Bytes {
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut known = run.talk.told;
    if budget.is_none() {
        // On lines the handler is not sent back what it sent itself.
        for seq in &heard.own {
            known += i32::from(*seq == known + 1);
        }
    }
    let (settled, upto) = run.shown.after(known, INLINE);
    // What it sent and was settled otherwise, longer ago than it needs to be told of.
    for seq in heard.again.iter().filter(|seq| **seq <= run.talk.told && run.shown.reaches(**seq)) {
        let part = run.shown.after(seq - 1, 0).0;
        if !part.is_empty() {
            parts.push(part);
        }
    }
    if !settled.is_empty() {
        parts.push(settled);
    }
    let due: Vec<&str> = run.come_due(past).collect();
    let pending = trying(run, &heard.trying, &due);
    let inbox = inbox_of(run);
    let acknowledgement = write_acknowledgement(&Acknowledgement {
        ack: Some(n).filter(|n| *n > 0),
        upto,
        settled: &parts,
        pending: &pending,
        due: &due,
        budget_ms: budget.map(|b| u64::try_from(b.as_millis()).unwrap_or(u64::MAX)),
        inbox: &inbox,
        cancel: cancel_of(run),
        suspend: run.talk.leaving && open && budget.is_some(),
        long: open && run.is_long(limits),
    });
    let (acknowledgement, transport) = if budget.is_some() {
        (acknowledgement, "checkpoint")
    } else {
        let mut line = protocol::on_one_line(acknowledgement);
        line.push(b'\n');
        (line, "duplex")
    };
    metrics::counter!("stepwell_invocation_sent_bytes_total", "transport" => transport)
        .increment(acknowledgement.len() as u64);
    if open {
        run.told(upto, past);
    }
    acknowledgement.into()
}

/// How steps stand that an acknowledgement shows as waiting for their next attempt.
fn trying<'a>(run: &'a Run, ids: &'a [String], due: &[&str]) -> Vec<Pending<'a>> {
    let shown = ids.iter().filter(|id| !due.contains(&id.as_str())).filter_map(|id| {
        let step = run.steps.get(id)?;
        let StepState::Trying { due, error, .. } = &step.state else { return None };
        let retry = Some((step.attempts, error.as_ref(), *due));
        Some(Pending { id, op: step.op, started: false, retry })
    });
    shown.collect()
}

/// The signals that were accepted and not taken.
pub(super) fn inbox_of(run: &Run) -> Vec<(&str, u32)> {
    run.inbox().map(|(name, count)| (name, u32::try_from(count).unwrap_or(u32::MAX))).collect()
}

/// The cancel, as a handler is told of it.
pub(super) fn cancel_of(run: &Run) -> Option<CancelNotice<'_>> {
    let cancel = run.cancel.as_ref()?;
    Some(CancelNotice { reason: cancel.reason.as_deref(), deadline: cancel.deadline })
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
