//! What a handler is sent of a run: to go on with it, or to answer a question about it.

use super::Engine;
use crate::machine::{DeploymentId, Run, Timestamp};
use crate::protocol::{self, Invocation, Links, Query, RunHead, cancel_of, inbox_of, pending_of};

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
        let pending = pending_of(run, frame.past);
        let inbox = inbox_of(run);
        // What has become of the object of an ended run is not this run's to tell.
        let object = run.object().filter(|_| !run.ended());
        let state = object.map(|_| protocol::write_state(run.object_state()));
        let locked = if run.ended() { Vec::new() } else { run.locked_states() };
        let locks: Vec<_> = locked
            .into_iter()
            .map(|(object, state)| (object, protocol::write_state(state.into_iter())))
            .collect();
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
                schedule: run.created.schedule.as_deref(),
            },
            turn: frame.turn,
            input: run.created.input.get().as_bytes(),
            object: object.zip(state.as_deref()),
            locks: &locks,
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
