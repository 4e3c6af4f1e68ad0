//! What the handler is sent: invocations, and acknowledgements with all that is new to it.

use std::time::Duration;

use bytes::Bytes;

use super::Play;
use crate::clock;
use crate::conformance::Wrong;
use crate::conformance::stage::now;
use crate::machine::{DeploymentId, Heard, InvocationId};
use crate::protocol::{
    self, Invocation, Links, RunHead, Transport, cancel_of, inbox_of, pending_of,
};

/// How long the handler should work on, as an acknowledgement says.
const BUDGET: Duration = Duration::from_secs(41);

impl Play<'_> {
    /// Writes the invocation of an epoch, and has its links ready.
    pub(super) fn write(&mut self, epoch: i32, reason: &str) -> Result<(String, Bytes), Wrong> {
        let run = &self.run;
        let (settled, upto) = run.shown.within(self.inline);
        if !settled.starts_with(&self.shown) && !self.shown.starts_with(settled) {
            return Err("the suite itself is wrong: a journal is no prefix of the next".into());
        }
        let token = format!("{:032x}", clock::chance());
        let pending = pending_of(run, self.clock);
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
                schedule: None,
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
            object: None,
            locks: &[],
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

    /// What a checkpoint is answered with, or a line; without a number it is news for who waits.
    pub(super) fn acknowledgement(&mut self, n: Option<i32>, heard: &Heard) -> Bytes {
        let open = self.open.as_ref().is_some_and(|o| self.run.talking() == Some(o.epoch));
        let budget = (self.transport != Transport::Duplex).then_some(BUDGET);
        let moment = (open, self.clock);
        protocol::acknowledge(&mut self.run, n, heard, budget, moment, &self.limits).into()
    }

    /// The line that tells of a cancel, if there is one.
    pub(super) fn cancel_line(&self) -> Option<Bytes> {
        cancel_of(&self.run).map(|cancel| protocol::write_cancel_line(&cancel).into())
    }
}
