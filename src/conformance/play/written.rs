//! What the handler is sent: invocations, and acknowledgements with all that is new to it.

use std::time::Duration;

use bytes::Bytes;

use super::Play;
use crate::clock;
use crate::conformance::Wrong;
use crate::conformance::stage::now;
use crate::machine::{DeploymentId, Heard, InvocationId, Run, StepState};
use crate::protocol::{
    self, Acknowledgement, CancelNotice, Invocation, Links, Pending, RunHead, Transport,
};

/// How long the handler should work on, as an acknowledgement says.
const BUDGET: Duration = Duration::from_secs(41);
/// How much of the journal an acknowledgement shows at most.
const INLINE: usize = 1 << 20;

impl Play<'_> {
    /// Writes the invocation of an epoch, and has its links ready.
    pub(super) fn write(&mut self, epoch: i32, reason: &str) -> Result<(String, Bytes), Wrong> {
        let run = &self.run;
        let (settled, upto) = run.shown.within(self.inline);
        if !settled.starts_with(&self.shown) && !self.shown.starts_with(settled) {
            return Err("the suite itself is wrong: a journal is no prefix of the next".into());
        }
        let token = format!("{:032x}", clock::chance());
        let pending: Vec<Pending<'_>> =
            run.pending.values().filter_map(|id| self.pending(id)).collect();
        let inbox = inbox_of(run);
        let invocation = InvocationId::new(now(), clock::chance());
        let body = protocol::write_invocation(&Invocation {
            function: &run.created.function,
            query: None,
            run: RunHead {
                id: run.id,
                namespace: &run.created.namespace,
                key: None,
                generation: run.generation,
                deployment: DeploymentId::new(run.created_at, 1),
                created_at: run.created_at,
                seed: &run.created.seed,
                tags: &run.tags,
                parent: None,
            },
            turn: protocol::Turn {
                id: invocation,
                epoch,
                attempt: run.faults + 1,
                reason,
                transport: match self.transport {
                    Transport::Checkpoint => Transport::Respond.word(),
                    other => other.word(),
                },
                budget_ms: 55_000,
            },
            input: run.created.input.get().as_bytes(),
            state: run.state.as_deref(),
            settled,
            pending: &pending,
            upto,
            more: upto < run.seq,
            long: run.is_long(&self.limits),
            inbox: &inbox,
            cancel: cancel_of(run),
            links: Links { base: self.stage.links.base(), callback_secret: &self.callback_secret },
            token: &token,
        });
        self.shown = settled.to_vec();
        let lines = matches!(self.transport, Transport::Stream | Transport::Duplex);
        let body = if lines { protocol::on_one_line(body) } else { body };
        let mut shelf = self.stage.links.shelf();
        shelf.token = token;
        shelf.entries = self.entries();
        Ok((invocation.to_string(), body.into()))
    }

    fn pending<'s>(&'s self, id: &'s str) -> Option<Pending<'s>> {
        let step = self.run.steps.get(id)?;
        let mut shown = Pending { id, op: step.op, started: false, retry: None };
        match &step.state {
            StepState::Trying { due, .. } if *due <= self.clock && !step.op.is_work() => {
                return None;
            }
            StepState::Trying { due, error, .. } => {
                shown.retry = Some((step.attempts, error, *due));
            }
            StepState::Begun { .. } => shown.started = true,
            StepState::Asked { .. } | StepState::Settled { .. } | StepState::Closed => {}
        }
        Some(shown)
    }

    /// What a checkpoint is answered with, or a line; without a number it is news for who waits.
    pub(super) fn acknowledgement(&mut self, n: Option<i32>, heard: &Heard) -> Bytes {
        let past = self.clock;
        let open = self.open.as_ref().is_some_and(|o| self.run.talking() == Some(o.epoch));
        let lines = self.transport == Transport::Duplex;
        let run = &mut self.run;
        let mut known = run.talk.told;
        if lines {
            // On lines the handler is not sent back what it sent itself.
            for seq in &heard.own {
                known += i32::from(*seq == known + 1);
            }
        }
        let (settled, upto) = run.shown.after(known, INLINE);
        let mut parts: Vec<&[u8]> = vec![];
        // What it sent and was settled otherwise, longer ago than it needs to be told of.
        for seq in heard.again.iter().filter(|seq| **seq <= run.talk.told) {
            parts.extend(Some(run.shown.after(seq - 1, 0).0).filter(|part| !part.is_empty()));
        }
        parts.extend(Some(settled).filter(|part| !part.is_empty()));
        let due: Vec<&str> = run.come_due(past).collect();
        let tried = heard.trying.iter().filter(|id| !due.contains(&id.as_str()));
        let pending: Vec<Pending<'_>> = tried.filter_map(|id| trying(run, id)).collect();
        let written = protocol::write_acknowledgement(&Acknowledgement {
            ack: n,
            upto,
            settled: &parts,
            pending: &pending,
            due: &due,
            budget_ms: (!lines).then(|| u64::try_from(BUDGET.as_millis()).unwrap_or(u64::MAX)),
            inbox: &inbox_of(run),
            cancel: cancel_of(run),
            suspend: run.talk.leaving && open && !lines,
            long: open && run.is_long(&self.limits),
        });
        if open {
            run.told(upto, past);
        }
        if lines { on_a_line(written) } else { written.into() }
    }

    /// The line that tells of a cancel, if there is one.
    pub(super) fn cancel_line(&self) -> Option<Bytes> {
        cancel_of(&self.run).map(|cancel| protocol::write_cancel_line(&cancel).into())
    }
}

fn on_a_line(json: Vec<u8>) -> Bytes {
    let mut line = protocol::on_one_line(json);
    line.push(b'\n');
    line.into()
}

/// A step that waits for its next attempt.
fn trying<'r>(run: &'r Run, id: &'r str) -> Option<Pending<'r>> {
    let step = run.steps.get(id)?;
    let StepState::Trying { due, error, .. } = &step.state else { return None };
    let retry = Some((step.attempts, error.as_ref(), *due));
    Some(Pending { id, op: step.op, started: false, retry })
}

/// The signals that were accepted and not taken.
fn inbox_of(run: &Run) -> Vec<(&str, u32)> {
    run.inbox().map(|(name, n)| (name, u32::try_from(n).unwrap_or(u32::MAX))).collect()
}

fn cancel_of(run: &Run) -> Option<CancelNotice<'_>> {
    let cancel = run.cancel.as_ref()?;
    Some(CancelNotice { reason: cancel.reason.as_deref(), deadline: cancel.deadline })
}
