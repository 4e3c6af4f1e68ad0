//! Breakers at work: who may go when one opens or closes, and what the nodes tell each other of it.

use std::time::Duration;

use super::Engine;
use super::breaker::{Breaker, Circuit, Outage, Word};
use super::catalog::{Deployment, NO_ENDPOINT};
use super::owner::{Owner, Wake};
use crate::machine::{NodeId, Run, RunId};
use crate::store;

impl Engine {
    /// Whether the endpoint's breaker lets an exchange through, which it knows as `who`. If not, the
    /// run is kept, and tries again when there may be room.
    pub(super) fn let_through(
        &self,
        owner: &mut Owner,
        deployment: &Deployment,
        who: RunId,
        run: RunId,
    ) -> bool {
        let endpoint = deployment.endpoint.id;
        let breaker = owner.breakers.entry(endpoint).or_default();
        if deployment.is_pull() {
            breaker.pulled();
        }
        if breaker.admit(who) {
            return true;
        }
        breaker.gate(run);
        if deployment.is_pull() {
            self.desks().tell(endpoint);
        }
        if let Some(at) = breaker.next_wake() {
            self.wake_at(owner, at, Wake::Breaker(endpoint));
        }
        false
    }

    /// Gates of this endpoint may have opened: its runs try again.
    pub(super) fn release(&self, owner: &mut Owner, endpoint: i32) {
        self.let_go(owner, endpoint);
        self.see_to_probe(owner, endpoint);
        self.bring_back(owner, i64::from(endpoint));
        self.speak(owner, endpoint);
        // What is due and could not be done now is looked at with the next tick.
        let past = self.clock().lower();
        if let Some(breaker) = owner.breakers.get(&endpoint)
            && let Some(at) = breaker.next_wake().filter(|at| *at > past)
        {
            self.wake_at(owner, at, Wake::Breaker(endpoint));
        }
    }

    /// Hands out what room there is to the runs that are kept.
    fn let_go(&self, owner: &mut Owner, endpoint: i32) {
        // Some of them do not want an exchange any more, or are not here: then there is room for
        // others. Whoever is kept back again is at the end of the queue.
        let mut left = owner.breakers.get(&endpoint).map_or(0, Breaker::waiting);
        while left > 0
            && let Some(breaker) = owner.breakers.get_mut(&endpoint)
        {
            let runs = breaker.released();
            if runs.is_empty() {
                break;
            }
            left = left.saturating_sub(runs.len());
            for id in runs {
                if let Some(entry) = owner.runs.get_mut(&id) {
                    entry.gated = false;
                    entry.gated_work = false;
                    self.pump(owner, id);
                }
            }
        }
    }

    /// The probe that this node has and nobody took goes back; the one that is due is asked for.
    fn see_to_probe(&self, owner: &mut Owner, endpoint: i32) {
        let past = self.clock().lower();
        let Owner { breakers, runs, leaving, lease_until, .. } = owner;
        let Some(breaker) = breakers.get_mut(&endpoint) else { return };
        breaker.give_back(past);
        if *leaving || *lease_until <= self.clock().mono() || !breaker.probe_due(past) {
            return;
        }
        let mut kept = breaker.take_gated();
        kept.retain(|id| runs.get(id).is_some_and(|e| e.gated || e.gated_work));
        breaker.keep(kept);
        if breaker.waiting() > 0 {
            breaker.ask(past);
        } else {
            breaker.nobody(past);
            self.fetch_prober(endpoint, breaker.fetched);
        }
    }

    /// Every breaker is looked at: what kept a run back may have gone with another run.
    pub(super) fn release_what_can(&self, owner: &mut Owner) {
        let endpoints: Vec<i32> = owner.breakers.keys().copied().collect();
        for endpoint in endpoints.into_iter().filter(|e| *e != NO_ENDPOINT) {
            self.release(owner, endpoint);
        }
    }

    /// Everything that is kept back tries again: the catalog has changed.
    pub(super) fn release_all(&self, owner: &mut Owner) {
        let gated: Vec<RunId> = owner.breakers.values_mut().flat_map(Breaker::take_gated).collect();
        for id in gated {
            if let Some(entry) = owner.runs.get_mut(&id) {
                entry.gated = false;
                entry.gated_work = false;
                self.pump(owner, id);
            }
        }
    }

    /// Whether a gated run is kept back by its endpoint's health.
    pub(super) fn parks(&self, owner: &Owner, run: &Run) -> bool {
        match self.catalog().deployment_for(run) {
            Some((function, _)) if function.paused => true,
            Some((_, d)) => owner.breakers.get(&d.endpoint.id).is_some_and(Breaker::parks),
            None => true,
        }
    }

    /// A circuit has opened or closed: people and the other nodes are to know.
    pub(super) fn circuit_changed(&self, owner: &mut Owner, endpoint: i32) {
        let Some(breaker) = owner.breakers.get(&endpoint) else { return };
        let open = breaker.parks();
        metrics::gauge!("stepwell_circuit_open", "endpoint" => endpoint.to_string())
            .set(f64::from(u8::from(open)));
        if let Circuit::Open(Outage { detail, .. }) = breaker.circuit() {
            tracing::warn!(endpoint, detail, "endpoint is unhealthy: its runs are parked");
        } else {
            tracing::info!(endpoint, "endpoint is healthy again: its runs resume at a ramp");
            self.come_back(owner, i64::from(endpoint), false);
        }
        self.speak(owner, endpoint);
    }

    /// What a tick that began at `begun` has seen of the circuits.
    pub(super) fn hear_circuits(
        &self,
        open: &[store::Health],
        alive: impl Fn(NodeId) -> bool,
        begun: Duration,
    ) {
        let me = self.node();
        let catalog = self.catalog();
        let mut owner = self.owner();
        for row in open {
            if catalog.recorded.endpoints.iter().any(|e| e.id == row.endpoint_id) {
                owner.breakers.entry(row.endpoint_id).or_default();
            }
        }
        let mut changed = Vec::new();
        for (endpoint, breaker) in &mut owner.breakers {
            let row = open.iter().find(|row| row.endpoint_id == *endpoint);
            if breaker.hear(row, me, &alive, begun) {
                changed.push(*endpoint);
            }
        }
        for endpoint in changed {
            self.circuit_changed(&mut owner, endpoint);
        }
        self.release_what_can(&mut owner);
    }

    /// Tells the other nodes what they have not been told, one word after the other.
    fn speak(&self, owner: &mut Owner, endpoint: i32) {
        let Some(breaker) = owner.breakers.get_mut(&endpoint) else { return };
        let Some((word, forgotten)) = breaker.next_word() else { return };
        let engine = self.clone();
        self.spawn(async move {
            let by = engine.node();
            let said = engine.say(endpoint, &word, by).await;
            if let Err(error) = &said {
                tracing::warn!(endpoint, %error, "the other nodes do not know of a circuit yet");
                // It is said again soon, and not at once.
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let mut owner = engine.owner();
            if let Some(breaker) = owner.breakers.get_mut(&endpoint) {
                breaker.spoken(&word, forgotten, said.ok(), by, engine.clock().mono());
                engine.release(&mut owner, endpoint);
            }
        });
    }

    async fn say(&self, endpoint: i32, word: &Word, by: NodeId) -> store::Result<bool> {
        let store = self.store();
        match word {
            Word::Opened { detail, since, next_probe_at } => {
                store.open_circuit(endpoint, detail, *since, *next_probe_at).await
            }
            Word::Ask { read, at } => {
                store.take_probe(endpoint, *read, store::Ticket { by, at: *at }).await
            }
            Word::Failed { ticket, failed, detail, next_probe_at } => {
                store.probe_failed(endpoint, *ticket, *failed, detail, *next_probe_at).await
            }
            Word::Closed { ticket } => store.close_circuit(endpoint, *ticket).await,
        }
    }
}
