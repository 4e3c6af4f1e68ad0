//! Messages to runs: signals, callbacks, operators' acts; accepted by any node, taken by the owner.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;

use super::start::IDEMPOTENCY_KEPT;
use super::{
    CallbackOutcome, CallbackSettled, Changes, Engine, Error, Idempotency, Namespace, RunView,
    Signalled, Status,
};
use crate::machine::{
    Act, Cause, DeploymentId, Message, MessageId, MessageKind, OpKind, Run, RunId, StepState,
};
use crate::store::{Accept, Accepted, Idem};

/// How often a run that may have come and gone is looked at again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long the sender of a callback waits to hear whether it settled the step.
const TO_BE_TAKEN: Duration = Duration::from_secs(5);

impl Engine {
    /// Sends a signal to a run. When this returns, it is durable and has its place in the run's
    /// order.
    pub async fn signal(
        &self,
        ns: &Namespace,
        run: RunId,
        name: &str,
        payload: Bytes,
        idempotency: Option<Idempotency>,
        by: &str,
    ) -> Result<Signalled, Error> {
        let _ = by;
        let message = self.message(MessageKind::Signal, name, payload);
        let idem = idempotency.map(|i| self.idem_at(run, i));
        self.send(ns, run, message, idem).await
    }

    /// What is kept of a request to a run.
    pub(super) fn idem_at(&self, run: RunId, idempotency: Idempotency) -> Idem {
        let Idempotency { key, hash } = idempotency;
        Idem { shard: run.shard(), key, hash, expires_at: self.clock().upper() + IDEMPOTENCY_KEPT }
    }

    /// Brings a signal or update to a run that has room for it.
    pub(super) async fn send(
        &self,
        ns: &Namespace,
        run: RunId,
        message: Message,
        idem: Option<Idem>,
    ) -> Result<Signalled, Error> {
        self.admit()?;
        // Who may not see the run may not signal it either.
        let untaken =
            self.with_run(ns, run, |run| run.inbox().map(|(_, c)| c).sum::<usize>()).await?;
        if untaken >= self.limits().untaken {
            return Err(Error::TooManySignals { run, untaken });
        }
        match self.deliver(run, ns.id, message, idem).await? {
            Accepted::At(_) | Accepted::Repeat => Ok(Signalled { replayed: false }),
            Accepted::IdemSame(_) => Ok(Signalled { replayed: true }),
            Accepted::IdemReused => Err(Error::IdempotencyKeyReused),
            Accepted::Closing => Err(Error::RunEnding(run)),
            Accepted::Gone | Accepted::OtherGeneration => Err(Error::RunEnded(run)),
        }
    }

    /// Sends a signal to the live run of a key; none if there is none.
    #[expect(clippy::too_many_arguments, reason = "all that an address of two parts needs")]
    pub async fn signal_key(
        &self,
        ns: &Namespace,
        function: &str,
        key: &str,
        name: &str,
        payload: Bytes,
        idempotency: Option<Idempotency>,
        by: &str,
    ) -> Result<Option<(RunId, Signalled)>, Error> {
        let known = self.catalog().function(ns.id, function);
        let known = match known {
            Some(known) => Some(known),
            None => self.fresh_catalog().await?.function(ns.id, function),
        };
        let function = known.ok_or_else(|| Error::FunctionNotFound(function.to_owned()))?;
        let shard = crate::machine::Shard::of_key(&ns.name, &function.name, key);
        let holder = self.store().run_of_key(ns.id, function.id, shard, key).await?;
        let Some((run, None)) = holder else { return Ok(None) };
        match self.signal(ns, run, name, payload, idempotency, by).await {
            Ok(signalled) => Ok(Some((run, signalled))),
            Err(Error::RunEnded(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An operator's act: cancel, terminate, pause, resume, retry-now. Returns when the run has
    /// taken it (or, where its owner cannot be asked, when it is durable).
    pub async fn act(
        &self,
        ns: &Namespace,
        run: RunId,
        kind: MessageKind,
        mut act: Act,
        deployment: Option<DeploymentId>,
    ) -> Result<RunView, Error> {
        let view = self.view(ns, run).await?;
        act.deployment = self.deployment_for(&view, deployment)?;
        act.hurry = kind == MessageKind::RetryNow;
        if !changes_it(&view, kind)? {
            return Ok(view);
        }
        self.do_to(ns, run, kind, "", crate::machine::to_bytes(&act)).await
    }

    /// The number of the deployment that an act puts a run on.
    pub(super) fn deployment_for(
        &self,
        view: &RunView,
        deployment: Option<DeploymentId>,
    ) -> Result<Option<i32>, Error> {
        let Some(id) = deployment else { return Ok(None) };
        let catalog = self.catalog();
        let found = catalog.deployment_named(id).filter(|d| d.has(&view.function));
        Ok(Some(found.ok_or(Error::DeploymentNotFound(id))?.id))
    }

    /// The run that a callback's secret is of.
    #[must_use]
    pub fn called_back(&self, secret: &str) -> Option<RunId> {
        self.keys().parse_callback_secret(secret).ok().map(|(run, _)| run)
    }

    /// Settles a callback step from outside, or keeps what came before the step was asked for.
    pub async fn settle(
        &self,
        secret: &str,
        step: &str,
        outcome: CallbackOutcome,
        body: Bytes,
    ) -> Result<CallbackSettled, Error> {
        let (run, generation) =
            self.keys().parse_callback_secret(secret).map_err(|_| Error::BadCallback)?;
        let kind = match outcome {
            CallbackOutcome::Value => MessageKind::CallbackValue,
            CallbackOutcome::Error => MessageKind::CallbackError,
            CallbackOutcome::Heartbeat => {
                self.sign_of_life(run, generation, step, body).await?;
                return Ok(CallbackSettled::Done);
            }
        };
        let ns = self.with_any_run(run, |run| run.ns).await.map_err(|_| Error::BadCallback)?;
        let found = self.find_step(run, generation, step).await?;
        match found {
            Found::Ended => return Err(Error::RunEnded(run)),
            Found::OtherGeneration => return Err(Error::BadCallback),
            Found::OtherOp(op) => return Err(Error::NotACallback(step.to_owned(), op)),
            Found::Settled { ok, recorded } | Found::Kept { ok, recorded } => {
                return told_apart(step, kind, &body, ok, recorded);
            }
            Found::Open => {}
        }
        let mut message = self.message(kind, step, body.clone());
        message.generation = Some(generation);
        let id = message.id;
        let mut changes = self.changes(run);
        let accepted = self.deliver(run, ns, message, None).await?;
        if accepted == Accepted::OtherGeneration {
            return Err(Error::BadCallback);
        }
        if matches!(accepted, Accepted::Closing | Accepted::Gone) {
            // Another of the same may have come first, and the run have ended with it.
            return match self.find_step(run, generation, step).await? {
                Found::Settled { ok, recorded } | Found::Kept { ok, recorded } => {
                    told_apart(step, kind, &body, ok, recorded)
                }
                _ if accepted == Accepted::Closing => Err(Error::RunEnding(run)),
                _ => Err(Error::RunEnded(run)),
            };
        }
        // Two that come at once: the order of the run's inbox decides, and the loser is told.
        let decided = self.taken(run, id, &mut changes);
        let decided = tokio::time::timeout(TO_BE_TAKEN, decided).await;
        if !matches!(decided, Ok(true)) {
            return Ok(CallbackSettled::Accepted);
        }
        match self.find_step(run, generation, step).await? {
            Found::Settled { ok, recorded } | Found::Kept { ok, recorded } => {
                told_apart(step, kind, &body, ok, recorded)
            }
            _ => Ok(CallbackSettled::Done),
        }
    }

    /// Returns true when the run has recorded what it makes of a message that was accepted, here
    /// or on the node that drives it; false if this cannot be seen.
    pub(super) async fn taken(
        &self,
        run: RunId,
        message: MessageId,
        changes: &mut Changes,
    ) -> bool {
        loop {
            if changes.ended().is_some() {
                return true;
            }
            let absent = {
                let owner = self.owner();
                let entry = owner.runs.get(&run);
                if entry
                    .is_some_and(|e| e.in_flight.is_none() && e.run.seen.contains(&message.uuid()))
                {
                    return true;
                }
                entry.is_none() && !owner.loading.contains_key(&run)
            };
            if absent {
                // Not in this memory: not yet, no longer, or another's. Once taken, it has left the
                // inbox.
                match self.store().messages(&[run]).await {
                    Ok(mail) if mail.iter().all(|(_, m)| m.id != message) => return true,
                    Ok(_) => self.bring_in(&mut self.owner(), [run]),
                    Err(_) => return false,
                }
            }
            // Who comes and goes between two looks is not seen coming.
            let _ = tokio::time::timeout(AGAIN, changes.changed()).await;
        }
    }

    pub(super) fn message(&self, kind: MessageKind, name: &str, body: Bytes) -> Message {
        let at = self.clock().upper();
        let id = MessageId::new(at, crate::clock::chance());
        Message { pos: 0, id, kind, name: name.to_owned(), body, at, generation: None }
    }

    pub(super) async fn deliver(
        &self,
        run: RunId,
        ns: i32,
        message: Message,
        idem: Option<Idem>,
    ) -> Result<Accepted, Error> {
        self.accept(Accept { run, ns, message, idem }).await
    }

    /// A batch of messages has been decided: the runs of this node take theirs.
    pub(super) fn accepted(&self, batch: &[Accept], outcomes: &[Accepted]) {
        let mut owner = self.owner();
        let (mut absent, mut behind) = (Vec::new(), Vec::new());
        for (accept, outcome) in batch.iter().zip(outcomes) {
            let Accepted::At(pos) = outcome else { continue };
            metrics::counter!("stepwell_messages_accepted_total").increment(1);
            let Some(entry) = owner.runs.get_mut(&accept.run) else {
                // Who is reading it may have read its inbox already.
                match owner.loading.get_mut(&accept.run) {
                    Some(mail) => *mail = true,
                    None => absent.push(accept.run),
                }
                continue;
            };
            let mut message = accept.message.clone();
            message.pos = *pos;
            // Positions are dense in the order of commits, but other nodes accept too: what came
            // between is read from the inbox.
            let next = entry.next_pos();
            if message.pos == next {
                entry.queue.push_back(Cause::Drained(vec![message]));
                self.pump(&mut owner, accept.run);
            } else if message.pos > next {
                behind.push(accept.run);
            }
        }
        self.bring_in(&mut owner, absent);
        self.fetch_mail(&mut owner, behind);
    }

    /// Reads the inbox of runs in memory; what is not in memory is brought in with its mail.
    pub(super) fn fetch_mail(
        &self,
        owner: &mut super::owner::Owner,
        runs: impl IntoIterator<Item = RunId>,
    ) {
        let (here, absent): (Vec<RunId>, Vec<RunId>) = runs
            .into_iter()
            .collect::<HashSet<_>>()
            .into_iter()
            .partition(|run| owner.runs.contains_key(run));
        self.bring_in(owner, absent);
        if here.is_empty() {
            return;
        }
        let engine = self.clone();
        self.spawn(async move {
            let mail = match engine.store().messages(&here).await {
                Ok(mail) => mail,
                // The next tick finds it again.
                Err(error) => {
                    tracing::warn!(runs = here.len(), %error, "cannot read inboxes yet");
                    return;
                }
            };
            let mut of_run: HashMap<RunId, Vec<Message>> = HashMap::new();
            for (run, message) in mail {
                of_run.entry(run).or_default().push(message);
            }
            let mut owner = engine.owner();
            for (run, messages) in of_run {
                if let Some(entry) = owner.runs.get_mut(&run) {
                    entry.queue.push_back(Cause::Drained(messages));
                    engine.pump(&mut owner, run);
                }
            }
        });
    }

    async fn sign_of_life(
        &self,
        run: RunId,
        generation: i32,
        step: &str,
        body: Bytes,
    ) -> Result<(), Error> {
        match self.find_step(run, generation, step).await? {
            Found::Open => {}
            Found::Ended => return Err(Error::RunEnded(run)),
            Found::OtherOp(op) => return Err(Error::NotACallback(step.to_owned(), op)),
            Found::OtherGeneration => return Err(Error::BadCallback),
            Found::Settled { ok, recorded } | Found::Kept { ok, recorded } => {
                return Err(Error::AlreadySettled { step: step.to_owned(), ok, recorded });
            }
        }
        let details = (!body.is_empty() && body != "null").then_some(body);
        let now = self.clock().upper();
        let mut changes = self.changes(run);
        let until = self.clock().mono() + TO_BE_TAKEN;
        loop {
            {
                let mut owner = self.owner();
                if let Some(entry) = owner.runs.get_mut(&run) {
                    if entry.run.generation != generation {
                        return Ok(());
                    }
                    if entry.run.works.get(step).is_some() {
                        let step = step.to_owned();
                        entry.queue.push_back(Cause::Beat { step, details });
                    } else {
                        entry.run.sign_of_life(step, now);
                    }
                    self.pump(&mut owner, run);
                    return Ok(());
                }
                // A task without a longest silence lets its run leave memory; what it says of
                // itself is kept all the same.
                if details.is_none() || self.clock().mono() >= until {
                    return Ok(());
                }
                self.bring_in(&mut owner, [run]);
            }
            let _ = tokio::time::timeout(AGAIN, changes.changed()).await;
        }
    }

    async fn find_step(&self, run: RunId, generation: i32, step: &str) -> Result<Found, Error> {
        let look = |run: &Run| {
            if run.generation != generation {
                return Looked::Is(Found::OtherGeneration);
            }
            match run.steps.get(step) {
                Some(s) if !matches!(s.op, OpKind::Callback | OpKind::Task) => {
                    Looked::Is(Found::OtherOp(s.op))
                }
                Some(s) => match s.state {
                    StepState::Settled { n, ok, .. } => Looked::At { home: run.home, n, ok },
                    _ if run.ended() => Looked::Is(Found::Ended),
                    // A task is called back once it was accepted with 202, or may be just now.
                    _ if s.op == OpKind::Task && !run.is_called_back(step) => {
                        Looked::Is(Found::OtherOp(s.op))
                    }
                    _ => Looked::Is(Found::Open),
                },
                None if run.ended() => Looked::Is(Found::Ended),
                None => {
                    let early = run
                        .buffered
                        .get(&(crate::machine::Mail::Callback, step.to_owned()))
                        .and_then(|queue| queue.front());
                    Looked::Is(early.map_or(Found::Open, |m| Found::Kept {
                        ok: m.kind == MessageKind::CallbackValue,
                        recorded: m.body.clone(),
                    }))
                }
            }
        };
        let looked = self.with_any_run(run, look).await.map_err(|error| match error {
            Error::RunNotFound(_) => Error::BadCallback,
            error => error,
        })?;
        match looked {
            Looked::Is(found) => Ok(found),
            Looked::At { home, n, ok } => {
                let recorded = self.store().value(run, home, n).await?.unwrap_or_default();
                Ok(Found::Settled { ok, recorded })
            }
        }
    }
}

/// Whether an act changes anything of a run that stands like this, or why it does not fit. The same
/// act again changes nothing and is no error.
pub(super) fn changes_it(view: &RunView, kind: MessageKind) -> Result<bool, Error> {
    let refused = |detail: &str| {
        Err(Error::InvalidState { run: view.id, status: view.status, detail: detail.to_owned() })
    };
    let waits = matches!(
        view.status,
        Status::Retrying | Status::Parked | Status::Queued | Status::Scheduled
    );
    match kind {
        MessageKind::Cancel if view.status == Status::Cancelled => Ok(false),
        MessageKind::Terminate if view.status == Status::Terminated => Ok(false),
        MessageKind::Pause if view.status == Status::Paused => Ok(false),
        _ if view.status.ended() => refused("it has ended"),
        MessageKind::Resume if view.status != Status::Paused => {
            refused("only a paused run can be resumed")
        }
        MessageKind::RetryNow if !waits => refused("nothing of it waits for another attempt"),
        _ => Ok(true),
    }
}

/// The same outcome again is fine; another is told what is recorded.
fn told_apart(
    step: &str,
    kind: MessageKind,
    body: &Bytes,
    ok: bool,
    recorded: Bytes,
) -> Result<CallbackSettled, Error> {
    let same = || recorded == *body || (!ok && same_error(&recorded, body));
    if ok == (kind == MessageKind::CallbackValue) && same() {
        Ok(CallbackSettled::Done)
    } else {
        Err(Error::AlreadySettled { step: step.to_owned(), ok, recorded })
    }
}

/// An error is recorded with how many attempts led to it, and without what it asked for.
fn same_error(recorded: &[u8], sent: &[u8]) -> bool {
    let plain = |json: &[u8]| {
        let mut error: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(json).ok()?;
        for ours in ["attempts", "retry", "after_ms"] {
            error.remove(ours);
        }
        Some(error)
    };
    plain(recorded).is_some_and(|error| plain(sent) == Some(error))
}

enum Looked {
    Is(Found),
    At { home: i16, n: i32, ok: bool },
}

/// How a step stands for a callback.
enum Found {
    /// Asked for, or not asked for yet.
    Open,
    /// An early callback is kept for it.
    Kept { ok: bool, recorded: Bytes },
    /// It is settled.
    Settled { ok: bool, recorded: Bytes },
    /// It is a step of another kind.
    OtherOp(OpKind),
    /// The run has continued as new since.
    OtherGeneration,
    /// The run has ended.
    Ended,
}
