//! What a handler is sent of a run: to go on with it, or to answer a question about it.

use super::Engine;
use super::acknowledgement::{cancel_of, inbox_of};
use crate::machine::{DeploymentId, Run, StepState, Timestamp};
use crate::protocol::{self, Invocation, Links, Pending, Query, RunHead};

/// What an invocation has beside its run.
pub(super) struct Frame<'a> {
    pub(super) deployment: DeploymentId,
    pub(super) turn: protocol::Turn<'a>,
    /// The settled steps that are sent.
    pub(super) settled: &'a [u8],
    /// The `seq` of the last of them.
    pub(super) upto: i32,
    /// Attempts that are due by then are left out, so that the handler makes them.
    pub(super) past: Timestamp,
    pub(super) token: &'a str,
    /// What is asked about the run.
    pub(super) query: Option<Query<'a>>,
}

impl Engine {
    /// Writes an invocation of a run.
    pub(super) fn invocation(&self, run: &Run, frame: &Frame<'_>) -> Vec<u8> {
        let Frame { past, .. } = *frame;
        let pending: Vec<Pending<'_>> = run
            .pending
            .values()
            .filter_map(|id| {
                let step = run.steps.get(id)?;
                let mut shown = Pending { id, op: step.op, started: false, retry: None };
                match &step.state {
                    // What is due is left out, so that the handler runs it.
                    StepState::Trying { due, .. } if *due <= past && !step.op.is_work() => {
                        return None;
                    }
                    StepState::Trying { due, error, .. } => {
                        shown.retry = Some((step.attempts, error, *due));
                    }
                    StepState::Begun { .. } => shown.started = true,
                    StepState::Asked { .. } | StepState::Settled { .. } | StepState::Closed => {}
                }
                Some(shown)
            })
            .collect();
        let inbox = inbox_of(run);
        let callback = self.keys().callback_secret(run.id, run.generation);
        protocol::write_invocation(&Invocation {
            function: &run.created.function,
            query: frame.query,
            run: RunHead {
                id: run.id,
                namespace: &run.created.namespace,
                key: run.created.key.as_deref(),
                generation: run.generation,
                deployment: frame.deployment,
                created_at: run.created_at,
                seed: &run.created.seed,
                tags: &run.tags,
                parent: run.created.parent.as_ref().map(|p| (p.run, p.step.as_str())),
            },
            turn: frame.turn,
            input: run.created.input.get().as_bytes(),
            state: run.state.as_deref(),
            settled: frame.settled,
            pending: &pending,
            upto: frame.upto,
            more: frame.upto < run.seq,
            long: run.is_long(self.limits()),
            inbox: &inbox,
            cancel: cancel_of(run),
            links: Links { base: self.public_url(), callback_secret: &callback },
            token: frame.token,
        })
    }
}
