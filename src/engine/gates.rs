//! Runs that are kept from their handler for long leave memory, and come back in pages when the way
//! is free.
//!
//! A gate is a number in the run's row: an endpoint's, or minus a function's that nobody hosts. A
//! short outage costs nothing; a long one costs a row for each run that it keeps.

use std::collections::VecDeque;
use std::time::Duration;

use super::Engine;
use super::breaker::{Breaker, RAMP};
use super::catalog::{Catalog, NO_ENDPOINT};
use super::owner::Owner;
use crate::machine::{Run, RunId};

/// A run that is kept back for less than this costs no row.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many runs leave memory with one tick at most.
const MOST_LEAVING: usize = 4_000;
/// How many runs come back with one page.
const PAGE: i64 = 256;
/// So many runs that are kept in memory, or on their way there, are enough for now.
const ENOUGH: usize = 256;

/// The runs of one gate come back.
#[derive(Debug, Default)]
pub(super) struct Return {
    /// Up to this one they were fetched.
    after: Option<RunId>,
    /// A page is being read.
    reading: bool,
    /// All of them again, once this pass is over: some may have been missed.
    again: bool,
    /// Whatever the gate says: another one may be theirs now.
    forced: bool,
}

impl Engine {
    /// With every tick: whoever was kept back long enough leaves memory, and who may comes back.
    pub(super) fn keep_gates(&self) {
        let mut owner = self.owner();
        if owner.leaving || owner.lease_until <= self.clock().mono() {
            return;
        }
        let endpoints: Vec<i32> = owner.breakers.keys().copied().collect();
        let mut most = MOST_LEAVING;
        for endpoint in endpoints {
            if endpoint == NO_ENDPOINT || owner.breakers.get(&endpoint).is_some_and(Breaker::parks)
            {
                self.send_off(&mut owner, endpoint, &mut most);
            }
        }
        self.send_off_queued(&mut owner);
        let gates: Vec<i64> = owner.returns.keys().copied().collect();
        for gate in gates {
            self.bring_back(&mut owner, gate);
        }
    }

    /// Lets runs that this endpoint keeps leave memory, but for some that can be its next probe.
    fn send_off(&self, owner: &mut Owner, endpoint: i32, most: &mut usize) {
        let Some(breaker) = owner.breakers.get_mut(&endpoint) else { return };
        let kept = breaker.take_gated();
        let stay = if endpoint == NO_ENDPOINT { 0 } else { RAMP };
        let mut left = VecDeque::with_capacity(kept.len());
        for id in kept {
            let Some(entry) = owner.runs.get(&id) else { continue };
            if left.len() < stay || *most == 0 || !entry.gated || !self.leaves(owner, id) {
                left.push_back(id);
            } else {
                *most -= 1;
            }
        }
        if let Some(breaker) = owner.breakers.get_mut(&endpoint) {
            breaker.keep(left);
        }
    }

    /// Lets a run that is kept back leave memory, now or when what parks it is recorded.
    fn leaves(&self, owner: &mut Owner, id: RunId) -> bool {
        let Some(entry) = owner.runs.get(&id) else { return false };
        let busy = entry.in_flight.is_some() || entry.telling || !entry.queue.is_empty();
        let Some(gate) = self.gate_of(&entry.run).filter(|_| !busy) else { return false };
        let policy = entry.policy.clone();
        let env = self.env(&policy);
        if !entry.run.is_parked_at(gate) && env.past.since(entry.gated_at) < PATIENCE {
            return false;
        }
        let Some(attention) = self.why_parked(owner, &entry.run) else { return false };
        let Some(entry) = owner.runs.get_mut(&id) else { return false };
        if !entry.run.park_at_gate(gate, attention, &env) {
            return false;
        }
        if self.record(entry, id) {
            // It is in no queue: when that is recorded it tries again, and is kept or not.
            entry.gated = false;
            return true;
        }
        let wake = entry.run.next_wake(env.past).filter(|at| *at > env.past);
        self.leave_memory(owner, id, wake, &env);
        true
    }

    /// What keeps this run from its handler, as a number.
    fn gate_of(&self, run: &Run) -> Option<i64> {
        let catalog = self.catalog();
        if let Some((function, deployment)) = catalog.deployment_for(run)
            && !function.paused
        {
            return Some(i64::from(deployment.endpoint.id));
        }
        let mut functions = catalog.recorded.functions.iter();
        let function = functions.find(|f| f.ns == run.ns && f.name == run.created.function)?;
        Some(-i64::from(function.id))
    }

    /// Whether runs of this gate may go on, as far as this node knows.
    fn is_free(&self, owner: &Owner, gate: i64) -> bool {
        let catalog = self.catalog();
        match i32::try_from(gate) {
            Ok(endpoint) if gate > 0 => {
                let there = catalog.recorded.endpoints.iter().any(|e| e.id == endpoint);
                !there || !owner.breakers.get(&endpoint).is_some_and(Breaker::parks)
            }
            _ => catalog
                .recorded
                .functions
                .iter()
                .any(|f| -i64::from(f.id) == gate && f.hosted.is_some() && f.paused.is_none()),
        }
    }

    /// The runs of a gate come back, page by page.
    pub(super) fn come_back(&self, owner: &mut Owner, gate: i64, forced: bool) {
        let pass = owner.returns.entry(gate).or_default();
        pass.again |= pass.reading || pass.after.is_some();
        pass.forced |= forced;
        self.bring_back(owner, gate);
    }

    /// Reads the next page of those who come back, if there is room for it.
    pub(super) fn bring_back(&self, owner: &mut Owner, gate: i64) {
        let Some(pass) = owner.returns.get(&gate) else { return };
        if pass.reading {
            return;
        }
        if !pass.forced && !self.is_free(owner, gate) {
            owner.returns.remove(&gate);
            return;
        }
        let waiting = i32::try_from(gate).ok().and_then(|e| owner.breakers.get(&e));
        if waiting.map_or(0, Breaker::waiting) + owner.loading.len() >= ENOUGH {
            return;
        }
        let Some(pass) = owner.returns.get_mut(&gate) else { return };
        pass.reading = true;
        let (engine, after) = (self.clone(), pass.after);
        self.spawn(async move {
            let page = engine.store().gated_runs(&engine.held(), gate, after, PAGE).await;
            let mut owner = engine.owner();
            let Some(pass) = owner.returns.get_mut(&gate) else { return };
            pass.reading = false;
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(gate, %error, "cannot read the runs of a gate; the next tick will");
                    return;
                }
            };
            let more = i64::try_from(page.len()).is_ok_and(|n| n >= PAGE);
            pass.after = page.last().copied().filter(|_| more);
            if !more && !std::mem::take(&mut pass.again) {
                owner.returns.remove(&gate);
            }
            engine.bring_in(&mut owner, page);
            engine.bring_back(&mut owner, gate);
        });
    }

    /// Level-triggered: runs of these groups that a gate keeps which is free are brought back.
    pub(super) async fn find_gated(&self, groups: &[i16]) {
        let gates = match self.store().gates(groups).await {
            Ok(gates) => gates,
            Err(error) => {
                tracing::warn!(%error, "cannot read the gates; the next round will");
                return;
            }
        };
        let mut owner = self.owner();
        for gate in gates {
            if self.is_free(&owner, gate) {
                self.come_back(&mut owner, gate, false);
            }
        }
    }

    /// Functions have another host: who was kept from the old one is looked at again.
    pub(super) fn hosts_changed(&self, owner: &mut Owner, old: &Catalog, new: &Catalog) {
        for function in &new.recorded.functions {
            let before = old.recorded.function(function.id);
            let was = before.and_then(|f| f.hosted).map(|(endpoint, _)| endpoint);
            let is = function.hosted.map(|(endpoint, _)| endpoint);
            let resumed = before.is_some_and(|f| f.paused.is_some()) && function.paused.is_none();
            if was == is && !resumed {
                continue;
            }
            for gate in was.map(i64::from).into_iter().chain([-i64::from(function.id)]) {
                self.come_back(owner, gate, true);
            }
        }
        for endpoint in &new.recorded.endpoints {
            let was = old.recorded.endpoints.iter().find(|e| e.id == endpoint.id);
            if was.is_some_and(|e| e.version != endpoint.version) {
                self.come_back(owner, endpoint.id.into(), false);
            }
        }
    }

    /// Reads one run into memory that this endpoint keeps, for somebody must be its probe.
    pub(super) fn fetch_prober(&self, endpoint: i32, after: Option<RunId>) {
        let engine = self.clone();
        self.spawn(async move {
            let found = engine.store().gated_runs(&engine.held(), endpoint.into(), after, 1).await;
            let Ok(found) = found else { return };
            let mut owner = engine.owner();
            if let Some(breaker) = owner.breakers.get_mut(&endpoint) {
                // One after the other, and from the beginning again.
                breaker.fetched = found.last().copied();
            }
            if found.is_empty() && after.is_some() {
                drop(owner);
                engine.fetch_prober(endpoint, None);
            } else {
                engine.bring_in(&mut owner, found);
            }
        });
    }
}
