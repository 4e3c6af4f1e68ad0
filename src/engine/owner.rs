//! The runs that this node drives, in memory: causes in, appends to the lane, exchanges out.
//!
//! Everything here happens under one lock and without waiting; whatever waits is a task that comes
//! back with a cause. A run is changed only in [`Engine::pump`].

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::breaker::{Breaker, Health};
use super::checkpoint::Conversation;
use super::view::{span_of, status_of};
use super::{Engine, Point, Status, Wrong};
use crate::machine::{
    Cause, Env, Flags, Kind, MessageKind, Policy, RunId, Sealed, Shard, Timestamp, Turn,
};
use crate::machine::{Message, Run};
use crate::outbound::Life;
use crate::telemetry;

/// A run that nothing can wake for so long leaves memory.
pub(super) const HORIZON: Duration = Duration::from_mins(1);

/// What is to be looked at when its moment comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wake {
    /// A run.
    Run(RunId),
    /// The breaker of an endpoint.
    Breaker(i32),
}

/// A lease group that this node holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tenure {
    /// Counts the holders of the group.
    pub(super) term: i32,
    /// When it was claimed, in cluster time.
    pub(super) since: Timestamp,
}

/// What this node drives.
pub(super) struct Owner {
    /// Runs in memory.
    pub(super) runs: HashMap<RunId, Entry>,
    /// Runs that are being read, and whether mail has come for them since.
    pub(super) loading: HashMap<RunId, bool>,
    /// When to look at which run again. May hold moments that no longer matter.
    pub(super) timers: BTreeSet<(Timestamp, Wake)>,
    /// The groups held, by number.
    pub(super) tenures: Vec<Option<Tenure>>,
    /// By endpoint.
    pub(super) breakers: HashMap<i32, Breaker>,
    /// Runs that wait for a limit, oldest first; some may not any more.
    pub(super) queued: VecDeque<RunId>,
    /// Hosts that calls go to, with what is open there.
    pub(super) hosts: HashMap<String, super::calls::Host>,
    /// Runs whose status is not in the lists yet, and since when it has been so.
    pub(super) unlisted: HashMap<RunId, Unlisted>,
    /// Inline budgets that a 413 has lowered, by deployment.
    pub(super) budgets: HashMap<i32, usize>,
    /// Deployments to which lines do not get through, and until when that is believed.
    pub(super) fallbacks: HashMap<i32, super::lines::Fallback>,
    /// Monotonic time until which the lease is certain.
    pub(super) lease_until: Duration,
    /// No new exchanges: the node is leaving.
    pub(super) leaving: bool,
    /// Something was to be done for a run, and the lease had passed.
    pub(super) missed: bool,
    /// Runs that are being created, with their first epoch lent to this memory, and the term in
    /// which it was: nobody else reads them in meanwhile.
    pub(super) lent: HashMap<RunId, i32>,
    /// Gates whose runs come back into memory, page by page.
    pub(super) returns: HashMap<i64, super::gates::Return>,
    /// Runs that were dropped with an append that may be recorded yet: what was issued of their
    /// epochs is not known.
    pub(super) unsure: HashSet<RunId>,
}

/// A status that lists do not show yet.
#[derive(Debug, Clone)]
pub(super) struct Unlisted {
    pub(super) status: Status,
    pub(super) since: Timestamp,
    pub(super) attention: Option<Vec<u8>>,
    pub(super) fingerprint: Option<uuid::Uuid>,
}

/// A run in memory, and what is under way for it.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Entry {
    pub(super) run: Run,
    /// What is in force for it.
    pub(super) policy: Policy,
    /// The append that the lane has. While there is one, causes queue.
    pub(super) in_flight: Option<Arc<Sealed>>,
    /// What has happened and is not applied yet.
    pub(super) queue: VecDeque<Cause>,
    /// Its moment in `timers`.
    pub(super) timer: Option<Timestamp>,
    /// It waits for its endpoint's breaker.
    pub(super) gated: bool,
    /// Since when.
    pub(super) gated_at: Timestamp,
    /// It waits for a limit.
    pub(super) queued: bool,
    /// Its way through the limits, where there are any and it has begun.
    pub(super) way: Option<Box<super::flow::Way>>,
    /// Attempts of its tasks wait for their endpoint's breaker.
    pub(super) gated_work: bool,
    /// Calls of it wait until their host has room.
    pub(super) gated_calls: bool,
    /// The epoch of the exchange that was sent last.
    pub(super) sent: i32,
    /// The endpoint whose breaker counts an exchange of this run as open.
    pub(super) admitted: Option<i32>,
    /// What lists were last told.
    pub(super) status: Status,
    /// History entries are being recorded; the next rows wait, so that who follows the history
    /// never meets an entry that is older than what it has seen.
    pub(super) telling: bool,
    /// Checkpoints of the last exchange that had some.
    pub(super) talk: Option<Box<Conversation>>,
    /// What interrupts the silence of its open exchange.
    pub(super) life: Arc<Life>,
    /// The longest silence of its last exchange.
    pub(super) silence: Duration,
    /// The open exchange is to be asked to finish.
    pub(super) leaving: bool,
    /// What the history is told of an exchange that has ended without a terminal field, if that was
    /// not how it may end.
    pub(super) parting: Option<bytes::Bytes>,
    /// The last epoch whose late checkpoint was noted.
    pub(super) noted: i32,
}

impl Entry {
    /// The position that the next message of its inbox should have.
    pub(super) fn next_pos(&self) -> i32 {
        let queued = self.queue.iter().filter_map(|cause| match cause {
            Cause::Drained(messages) => messages.last().map(|m| m.pos),
            _ => None,
        });
        queued.fold(self.run.drained, i32::max) + 1
    }

    /// Something of it is on its way to the database, or waits for that.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.is_some() || !self.queue.is_empty()
    }

    /// Its endpoint cannot be called now.
    pub(super) fn keep_back(&mut self, now: Timestamp) {
        self.gated = true;
        self.gated_at = now;
    }

    pub(super) fn new(run: Run, policy: Policy) -> Self {
        Self {
            run,
            policy,
            in_flight: None,
            queue: VecDeque::new(),
            timer: None,
            gated: false,
            gated_at: Timestamp::default(),
            queued: false,
            way: None,
            gated_work: false,
            gated_calls: false,
            sent: 0,
            admitted: None,
            status: Status::Scheduled,
            telling: false,
            talk: None,
            life: super::checkpoint::new_life(),
            silence: super::catalog::INVOCATION_TIMEOUT,
            leaving: false,
            parting: None,
            noted: 0,
        }
    }
}

impl Owner {
    pub(super) fn new() -> Self {
        Self {
            runs: HashMap::new(),
            loading: HashMap::new(),
            timers: BTreeSet::new(),
            tenures: vec![None; usize::from(crate::machine::id::GROUPS)],
            breakers: HashMap::new(),
            queued: VecDeque::new(),
            hosts: HashMap::new(),
            unlisted: HashMap::new(),
            budgets: HashMap::new(),
            fallbacks: HashMap::new(),
            lease_until: Duration::ZERO,
            leaving: false,
            missed: false,
            lent: HashMap::new(),
            returns: HashMap::new(),
            unsure: HashSet::new(),
        }
    }

    /// The tenure of a shard's group, if this node holds it.
    pub(super) fn tenure(&self, shard: Shard) -> Option<Tenure> {
        self.tenures[usize::from(shard.group())]
    }

    /// Forgets a run: it is parked, ended, or another node's.
    pub(super) fn forget(&mut self, id: RunId) -> Option<Entry> {
        let entry = self.runs.remove(&id)?;
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, Wake::Run(id)));
        }
        if let Some(endpoint) = entry.admitted
            && let Some(breaker) = self.breakers.get_mut(&endpoint)
        {
            breaker.ended(id, &Health::Unknown, entry.run.last_at);
        }
        Some(entry)
    }
}

impl Engine {
    /// Applies what has happened to a run, records what follows, and lets it go on.
    pub(super) fn pump(&self, owner: &mut Owner, id: RunId) {
        if owner.lease_until <= self.clock().mono() {
            // Another node may drive it by now. The tick that renews the lease looks at it again,
            // the tick that says whose it is drops it.
            owner.missed = true;
            return;
        }
        let Some(entry) = owner.runs.get_mut(&id) else { return };
        if entry.in_flight.is_some() || entry.telling {
            return;
        }
        let policy = entry.policy.clone();
        let env = self.env(&policy);
        while let Some(cause) = entry.queue.pop_front() {
            self.apply(entry, cause, &env);
            if entry.run.ended() || entry.run.continues() {
                // Its gate decides first.
                break;
            }
        }
        let decided = !entry.run.ended() && !entry.run.continues();
        if decided && entry.run.next_wake(env.past).is_some_and(|at| at <= env.past) {
            self.apply(entry, Cause::Tick, &env);
        }
        self.begin_attempts(owner, id, &env);
        let Some(entry) = owner.runs.get(&id) else { return };
        if entry.run.wants_exchange(env.past) && !owner.leaving && !entry.gated && !entry.queued {
            self.invoke(owner, id, &env);
        }
        let Some(entry) = owner.runs.get_mut(&id) else { return };
        if !entry.gated && !entry.queued && !entry.run.wants_exchange(env.past) {
            entry.run.settle_down(&env);
        }
        if self.record(entry, id) {
            self.note_status(owner, id, env.past);
            return;
        }
        self.acknowledge(entry);
        self.keep_history(entry, id);
        if let Turn::Open { epoch, .. } = entry.run.turn
            && entry.sent != epoch
        {
            entry.sent = epoch;
            entry.leaving = false;
            self.send_exchange(owner, id);
        }
        self.note_status(owner, id, env.past);
        self.rest(owner, id, &env);
    }

    /// Gives the lane what is to be recorded of a run; false if there is nothing.
    pub(super) fn record(&self, entry: &mut Entry, id: RunId) -> bool {
        let Some(mut append) = entry.run.seal() else { return false };
        if self.faults().does(Wrong::EndUngated)
            && let Some(head) = append.rows.first_mut()
        {
            head.flags.clear(Flags::GATED);
        }
        let sealed = Arc::new(Sealed { run: id, ns: entry.run.ns, home: entry.run.home, append });
        entry.in_flight = Some(Arc::clone(&sealed));
        self.lanes().append(sealed);
        true
    }

    pub(super) fn apply(&self, entry: &mut Entry, cause: Cause, env: &Env<'_>) {
        let what = match &cause {
            Cause::Answered { epoch, .. }
            | Cause::Faulted { epoch, .. }
            | Cause::Held { epoch, .. }
            | Cause::Left { epoch, .. } => Some(*epoch),
            Cause::Drained(messages) => {
                self.hear_of_turn(&entry.run, messages);
                self.discard_repeats(&entry.run, messages);
                None
            }
            _ => None,
        };
        let cause = match cause {
            Cause::Reported(report) => return Self::hear(entry, report, env),
            other => other,
        };
        if let Cause::Left { epoch, .. } = &cause
            && let Some(data) = entry.parting.take()
            && entry.run.talking() == Some(*epoch)
            && !entry.run.may_leave(*epoch)
        {
            entry.run.note(env.now, *epoch, "invocation.failed", "gateway", data);
        }
        let attempt = match &cause {
            Cause::AttemptEnded { step, attempt, .. } => Some((step.clone(), *attempt)),
            _ => None,
        };
        let before = entry.run.placement();
        let refused = entry.run.apply(cause, env).is_err();
        if entry.run.placement() != before {
            self.rehomed(entry);
        }
        if refused && let Some((step, attempt)) = attempt {
            let epoch = entry.run.row_epoch;
            let data = super::attempts::late(&step, attempt);
            entry.run.note(env.now, epoch, "attempt.late", "gateway", data);
        }
        if refused
            && let Some(epoch) = what
            && entry.talk.as_ref().is_none_or(|t| !(t.over && t.is_of(epoch)))
        {
            metrics::counter!("stepwell_answers_refused_total").increment(1);
            let data = bytes::Bytes::from_static(b"{\"detail\":\"the answer came after its epoch had ended; nothing of it was recorded\"}");
            entry.run.note(env.now, epoch, "invocation.late", "handler", data);
        }
    }

    /// It goes on with another deployment: what is in force there is in force for it, and what kept
    /// it from the last one does not count.
    fn rehomed(&self, entry: &mut Entry) {
        entry.policy = self.catalog().policy_for(&entry.run);
        entry.gated = false;
    }

    /// Messages that the journal has already are deleted by key. One whose row is not committed
    /// yet is left alone: should that append be lost, the message must still be there.
    fn discard_repeats(&self, run: &Run, messages: &[Message]) {
        let rows = &run.next.rows;
        let repeats: Vec<i32> = messages
            .iter()
            .filter(|m| {
                let id = m.id.uuid();
                m.kind == MessageKind::New
                    || (run.seen.contains(&id) && !rows.iter().any(|r| r.refer == Some(id)))
            })
            .map(|m| m.pos)
            .collect();
        if !repeats.is_empty() {
            self.lanes().discard(repeats.into_iter().map(|pos| (run.id, pos)));
        }
    }

    /// Opens an exchange if the endpoint's breaker permits.
    fn invoke(&self, owner: &mut Owner, id: RunId, env: &Env<'_>) {
        let Some(entry) = owner.runs.get_mut(&id) else { return };
        let catalog = self.catalog();
        let host = catalog.deployment_for(&entry.run);
        let Some((_, deployment)) = host.filter(|(function, _)| !function.paused) else {
            // The function is gone, or paused: the run stays gated until that has changed.
            entry.keep_back(env.past);
            owner.breakers.entry(super::catalog::NO_ENDPOINT).or_default().gate(id);
            return;
        };
        let endpoint = deployment.endpoint.id;
        if let Some(before) = entry.admitted.take() {
            // The exchange before has not ended yet, and is none of this run's any more.
            let spoke = entry.talk.as_ref().is_some_and(|t| t.over && t.is_of(entry.sent));
            let health = if spoke { Health::Answered } else { Health::Unknown };
            let breaker = owner.breakers.get_mut(&before);
            if breaker.is_some_and(|b| b.ended(id, &health, env.past)) {
                self.circuit_changed(owner, before);
            }
        }
        if !self.may_pass(owner, id, env) {
            return;
        }
        if !owner.runs.contains_key(&id) {
            return;
        }
        let admitted = self.let_through(owner, &deployment, id, id);
        let Some(entry) = owner.runs.get_mut(&id) else { return };
        if !admitted {
            entry.keep_back(env.past);
            return;
        }
        entry.admitted = Some(endpoint);
        let before = entry.run.placement();
        let opened = entry.run.apply(Cause::Free { dep: deployment.id }, env);
        if entry.run.placement() != before {
            self.rehomed(entry);
        }
        let open = matches!(entry.run.turn, Turn::Open { .. });
        if opened.is_err() || !open {
            entry.admitted = None;
            if let Some(breaker) = owner.breakers.get_mut(&endpoint) {
                breaker.ended(id, &Health::Unknown, env.past);
            }
        }
    }

    /// Nothing is to be done for a run now: sets its timer, or lets it leave memory.
    fn rest(&self, owner: &mut Owner, id: RunId, env: &Env<'_>) {
        let Some(entry) = owner.runs.get_mut(&id) else { return };
        if !entry.queue.is_empty() || entry.in_flight.is_some() || entry.telling {
            return;
        }
        self.give_back(entry, env);
        let wake = entry.run.next_wake(env.past);
        let idle = !matches!(entry.run.turn, Turn::Open { .. } | Turn::Held { .. });
        let working = entry.gated_work || entry.gated_calls || entry.run.works.out() > 0;
        let leave = entry.run.parked && idle && !entry.gated && !entry.queued && !working;
        if let Some(at) = entry.timer.take() {
            owner.timers.remove(&(at, Wake::Run(id)));
        }
        if leave {
            self.leave_memory(owner, id, wake, env);
        } else if let Some(at) = wake
            && let Some(entry) = owner.runs.get_mut(&id)
        {
            // A moment that has passed and changes nothing (a gated run's) needs no timer.
            if at > env.past {
                entry.timer = Some(at);
                self.wake_at(owner, at, Wake::Run(id));
            }
        }
    }

    /// Notes how a run stands, for the lists.
    fn note_status(&self, owner: &mut Owner, id: RunId, past: Timestamp) {
        let Some(entry) = owner.runs.get(&id) else { return };
        let gated = entry.gated || entry.gated_work;
        let parked = if gated { self.why_parked(owner, &entry.run) } else { None };
        let status = status_of(&entry.run, gated, parked.is_some(), past);
        let Some(entry) = owner.runs.get_mut(&id) else { return };
        if status == entry.status || status.ended() {
            if status.ended() {
                owner.unlisted.remove(&id);
            }
            return;
        }
        entry.status = status;
        let attention = super::view::attention_of(&entry.run, parked, status, past);
        let attention = attention.map(|a| crate::machine::to_bytes(&a).to_vec());
        let fingerprint = entry.run.failing().map(|f| f.fingerprint);
        owner.unlisted.insert(id, Unlisted { status, since: past, attention, fingerprint });
    }

    /// Keeps history entries of a run that has no rows to travel with.
    fn keep_history(&self, entry: &mut Entry, id: RunId) {
        if entry.run.next.history.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut entry.run.next.history);
        entry.telling = true;
        let (engine, ns) = (self.clone(), entry.run.ns);
        self.spawn(async move {
            if let Err(error) = engine.store().add_history(id, ns, &entries).await {
                tracing::warn!(run.id = %id, %error, "history entries are lost");
            }
            let mut owner = engine.owner();
            if let Some(entry) = owner.runs.get_mut(&id) {
                entry.telling = false;
                engine.pump(&mut owner, id);
            }
            drop(owner);
            engine.watchers().tell(id, None);
        });
    }

    /// What the machine may know of the world.
    pub(super) fn env<'a>(&'a self, policy: &'a Policy) -> Env<'a> {
        let clock = self.clock();
        Env {
            now: clock.upper(),
            past: clock.lower(),
            jitter: crate::clock::jitter(),
            policy,
            limits: self.limits(),
            horizon: HORIZON,
        }
    }

    // --- what comes back from the lane ---------------------------------------------------------

    /// A batch of appends has been decided.
    pub(super) fn committed(&self, batch: &[Arc<Sealed>], won: &[bool]) {
        let mut owner = self.owner();
        for (sealed, won) in batch.iter().zip(won) {
            let id = sealed.run;
            let Some(entry) = owner.runs.get_mut(&id) else { continue };
            let ours = entry.in_flight.as_ref().is_some_and(|a| Arc::ptr_eq(a, sealed));
            if !ours {
                continue;
            }
            if !*won {
                let engine = self.clone();
                let sealed = Arc::clone(sealed);
                self.spawn(async move { engine.look_at_lost(sealed).await });
                continue;
            }
            entry.in_flight = None;
            if sealed.append.rows.iter().any(|r| r.kind == Kind::Moved) {
                entry.run.home = 1;
            }
            if !sealed.append.outbox.is_empty() {
                self.post([id]);
            }
            metrics::counter!("stepwell_journal_rows_total")
                .increment(sealed.append.rows.len() as u64);
            self.acknowledge(entry);
            if entry.run.ended() {
                self.finish(&mut owner, id);
            } else {
                self.watchers().tell(id, None);
                self.pump(&mut owner, id);
            }
        }
    }

    /// A run's end is durable: whoever waits for it is told, and it leaves memory.
    fn finish(&self, owner: &mut Owner, id: RunId) {
        self.faults().reach(Point::EndAfter);
        let Some(mut entry) = owner.forget(id) else { return };
        self.give_all_back(&mut entry);
        owner.unlisted.remove(&id);
        let view = self.watchers().watched(id).then(|| self.view_of(&entry.run, false, None));
        self.watchers().tell(id, view);
        if let Turn::Ended { kind, at, .. } = &entry.run.turn {
            let status = Status::from_code(kind.code()).map_or("?", Status::word);
            metrics::counter!("stepwell_runs_ended_total", "status" => status).increment(1);
            metrics::histogram!("stepwell_run_seconds")
                .record(at.since(entry.run.created_at).as_secs_f64());
            tracing::debug!(run.id = %id, status, steps = entry.run.seq, "run ended");
            telemetry::span(|| span_of(&entry.run, status, *at));
        }
        if let Some(endpoint) = entry.admitted {
            self.release(owner, endpoint);
        }
    }

    /// An append lost: because messages had come, or because another owner wrote first.
    async fn look_at_lost(&self, sealed: Arc<Sealed>) {
        let id = sealed.run;
        let loaded = loop {
            match self.store().load(&[id]).await {
                Ok(loaded) => break loaded.into_iter().next(),
                Err(error) => {
                    tracing::warn!(run.id = %id, %error, "cannot look at a lost append yet");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        };
        let mut owner = self.owner();
        let Some(entry) = owner.runs.get_mut(&id) else { return };
        let Some(loaded) = loaded else {
            owner.forget(id);
            return;
        };
        let head = sealed.append.rows.first().map_or(0, |r| r.n);
        let last = loaded.rows.last().map_or(-1, |r| r.n);
        if last == head - 1 && loaded.ended.is_none() {
            // Nobody wrote: the gate was shut because messages had come.
            metrics::counter!("stepwell_ends_gated_total").increment(1);
            entry.in_flight = None;
            let append = sealed.append.clone();
            entry.run.drained = loaded.inbox;
            self.discard_repeats(&entry.run, &loaded.messages);
            let cause = Cause::GateLost { append, messages: loaded.messages };
            let policy = entry.policy.clone();
            let env = self.env(&policy);
            self.apply(entry, cause, &env);
            self.pump(&mut owner, id);
        } else {
            metrics::counter!("stepwell_appends_lost_total").increment(1);
            owner.forget(id);
            // What was issued of its epochs no row may tell.
            owner.unsure.insert(id);
            self.adopt(&mut owner, loaded);
        }
    }
}
