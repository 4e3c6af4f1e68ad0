//! What of a run its handler is shown: with an invocation, and with each acknowledgement.

use std::time::Duration;

use super::acknowledgement::{Acknowledgement, on_one_line, write_acknowledgement};
use super::request::{CancelNotice, Pending};
use crate::machine::{Heard, Limits, Run, StepState, Timestamp};

/// How much of the journal an acknowledgement shows at most, in bytes; the rest is in the next.
const INLINE: usize = 1 << 20;

/// What is asked for and not settled. Attempts that are due by `past` are left out, so that the
/// handler makes them.
#[must_use]
pub fn pending_of(run: &Run, past: Timestamp) -> Vec<Pending<'_>> {
    let shown = run.pending.values().filter_map(|id| {
        let step = run.steps.get(id)?;
        let mut shown = Pending { id, op: step.op, started: false, retry: None };
        match &step.state {
            StepState::Trying { due, .. } if *due <= past && !step.op.is_work() => return None,
            StepState::Trying { due, error, .. } => {
                shown.retry = Some((step.attempts, error, *due));
            }
            StepState::Begun { .. } => shown.started = true,
            StepState::Asked { .. } | StepState::Settled { .. } | StepState::Closed => {}
        }
        Some(shown)
    });
    shown.collect()
}

/// The signals that were accepted and not taken.
#[must_use]
pub fn inbox_of(run: &Run) -> Vec<(&str, u32)> {
    run.inbox().map(|(name, count)| (name, u32::try_from(count).unwrap_or(u32::MAX))).collect()
}

/// The cancel, as a handler is told of it.
#[must_use]
pub fn cancel_of(run: &Run) -> Option<CancelNotice<'_>> {
    let cancel = run.cancel.as_ref()?;
    Some(CancelNotice { reason: cancel.reason.as_deref(), deadline: cancel.deadline })
}

/// What a handler is told after a checkpoint (`n`) or, without a number, while it waits: everything
/// that it does not know yet. With `budget` it is the body of an answer, without it a line. Where the
/// exchange is `open`, the run remembers what it has told.
#[must_use]
pub fn acknowledge(
    run: &mut Run,
    n: Option<i32>,
    heard: &Heard,
    budget: Option<Duration>,
    (open, past): (bool, Timestamp),
    limits: &Limits,
) -> Vec<u8> {
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
    let written = write_acknowledgement(&Acknowledgement {
        ack: n,
        upto,
        settled: &parts,
        pending: &trying(run, &heard.trying, &due),
        due: &due,
        budget_ms: budget.map(|b| u64::try_from(b.as_millis()).unwrap_or(u64::MAX)),
        inbox: &inbox_of(run),
        cancel: cancel_of(run),
        suspend: run.talk.leaving && open && budget.is_some(),
        long: open && run.is_long(limits),
    });
    if open {
        run.told(upto, past);
    }
    if budget.is_some() {
        return written;
    }
    let mut line = on_one_line(written);
    line.push(b'\n');
    line
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
