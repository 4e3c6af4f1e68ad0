//! Starting runs.

use std::time::Duration;

use super::catalog::{Catalog, Deployment};
use super::events::cancels;
use super::gathers;
use super::objects::Parts;
use super::owner::{Entry, HORIZON, Wake};
use super::{Engine, Error, IfClosed, IfRunning, Signalled, Start, Started, Status};
use crate::machine::{
    Act, Created, Flags, Kind, Message, MessageId, MessageKind, Parent, Row, Run, RunId, RunKind,
    Shard, to_bytes,
};
use crate::store::{self, Accept, CreateOutcome, Idem, NewKey, NewRun};

/// How long an idempotency key is remembered after its request.
pub(super) const IDEMPOTENCY_KEPT: Duration = Duration::from_hours(7 * 24);
/// How many times a start is tried anew when the run that held its key has ended meanwhile.
const KEY_TRIES: usize = 8;

/// What a run takes over from the one that it does again.
pub(super) struct DoneAgain {
    /// That run.
    pub(super) of: RunId,
    /// Its seed, where steps are taken over that may have come of it.
    pub(super) seed: Option<String>,
    /// Steps that are settled from the start, and signals.
    pub(super) mail: Vec<Mail>,
}

/// What is in a run's inbox from the start: kind, name and body.
pub(super) type Mail = (MessageKind, String, bytes::Bytes);

impl Engine {
    /// The shard of a start: of its key, of its idempotency key, or any that this node owns.
    #[must_use]
    pub fn shard_of(
        &self,
        namespace: &str,
        function: &str,
        key: Option<&str>,
        idem: Option<&str>,
    ) -> Shard {
        match (key, idem) {
            (Some(key), _) => Shard::of_key(namespace, function, key),
            (None, Some(idem)) => Shard::of_idempotency_key(namespace, idem),
            (None, None) => self.any_shard(),
        }
    }

    /// A shard of a group that this node holds, if it holds any.
    pub(super) fn any_shard(&self) -> Shard {
        let chance = crate::clock::chance();
        let owner = self.owner();
        let held: Vec<u16> = (0..crate::machine::id::GROUPS)
            .filter(|g| owner.tenures[usize::from(*g)].is_some())
            .collect();
        drop(owner);
        let low = u16::try_from(chance & 0xfff).unwrap_or(0);
        if held.is_empty() {
            return Shard(low);
        }
        let group = held[usize::from(low) % held.len()];
        Shard((group << 4) | u16::try_from((chance >> 16) & 0xf).unwrap_or(0))
    }

    /// Starts a run. When this returns, the run is durable.
    pub async fn start(&self, start: Start) -> Result<Started, Error> {
        self.start_with(start, None).await
    }

    /// The same for a run that does another one again.
    pub(super) async fn start_with(
        &self,
        mut start: Start,
        again: Option<&DoneAgain>,
    ) -> Result<Started, Error> {
        // Who does a run again wants it now.
        let flow = if again.is_none() { self.flow_of(&start) } else { None };
        let mut within = None;
        if let Some((function, flow)) = &flow {
            Self::make_single(&mut start, flow);
            if let Some(debounce) = &flow.debounce {
                return self.debounce(*function, debounce, &start).await;
            }
            if let Some(gather) = &flow.gather {
                return self.gather(*function, gather, &start).await;
            }
            within = Self::rate_of(*function, flow, &start);
        }
        for _ in 0..KEY_TRIES {
            let new = match self.new_run(&start, again) {
                // Another node may have registered it a moment ago.
                Err(Error::FunctionNotFound(_) | Error::DeploymentNotFound(_)) => {
                    self.fresh_catalog().await?;
                    self.new_run(&start, again)?
                }
                new => new?,
            };
            let run = new.run;
            let mut admitted = self.admits(&start, &new).await;
            if let Some(within) = within.take().filter(|_| admitted.is_ok()) {
                admitted = self.is_within(&start, &new, &within).await;
            }
            if let Err(error) = admitted {
                self.owner().lent.remove(&run);
                return Err(error);
            }
            match self.create(new).await? {
                CreateOutcome::Created | CreateOutcome::Queued => {
                    return Ok(Started::New(run));
                }
                CreateOutcome::IdemSame(run) => return Ok(Started::Replayed(run)),
                CreateOutcome::IdemReused => return Err(Error::IdempotencyKeyReused),
                CreateOutcome::KeyHeld { run, status } => {
                    if let Some(started) = self.key_held(&start, run, status).await? {
                        return Ok(started);
                    }
                }
            }
        }
        Err(Error::busy("the run that holds this key keeps changing; try again"))
    }

    /// Refuses to start a run where none is started; what is there already is found all the same.
    pub(super) async fn admits(&self, start: &Start, new: &NewRun) -> Result<(), Error> {
        let Err(refusal) = self.admits_to(start, new.dep).await else { return Ok(()) };
        if let Some(idem) = &new.idem
            && self.store().knows_idem(new.ns, idem).await?
        {
            return Ok(());
        }
        if let Some(key) =
            start.key.as_deref().filter(|_| start.if_running == IfRunning::UseExisting)
        {
            let shard = Shard::of_key(&start.namespace.name, &start.function, key);
            let held = self.store().run_of_key(new.ns, new.function_id, shard, key).await?;
            if held.is_some_and(|(_, ended)| ended.is_none()) {
                return Ok(());
            }
        }
        Err(refusal)
    }

    /// Refuses to start a run on a deployment whose endpoint drains, and over a quota.
    pub(super) async fn admits_to(&self, start: &Start, dep: i32) -> Result<(), Error> {
        match self.catalog().deployment(dep).filter(|d| d.endpoint.draining) {
            Some(deployment) => Err(Error::EndpointDraining {
                function: start.function.clone(),
                endpoint: deployment.endpoint.name.clone(),
            }),
            None => self.within_quotas(&start.namespace).await,
        }
    }

    /// Another run has the key. None: it is free by now, try again.
    pub(super) async fn key_held(
        &self,
        start: &Start,
        run: RunId,
        status: Option<i16>,
    ) -> Result<Option<Started>, Error> {
        let ns = &start.namespace;
        let exists =
            |status| Error::RunExists { run, key: start.key.clone().unwrap_or_default(), status };
        if let Some(status) = status {
            return Err(exists(Status::from_code(status).unwrap_or(Status::Failed)));
        }
        let act = Act {
            by: start.by.clone(),
            reason: Some("a new run of the same key was started".to_owned()),
            ..Act::default()
        };
        let (kind, patience) = match start.if_running {
            IfRunning::Fail => {
                let view = self.view(ns, run).await?;
                return Err(exists(view.status));
            }
            IfRunning::UseExisting => {
                if let Some((name, payload)) = &start.signal {
                    let message = self.message(MessageKind::Signal, name, payload.clone());
                    // Kept where a repeat of this start looks first, whatever has the key by then.
                    let idem = self.idem_of(start);
                    match self.send(ns, run, message, idem).await {
                        Ok(Signalled { replayed: true }) => {
                            return Ok(Some(Started::Replayed(run)));
                        }
                        Ok(_) => {}
                        // It has ended meanwhile, and the key is free; or the same request, sent
                        // twice, has led to something else by now.
                        Err(Error::RunEnded(_) | Error::IdempotencyKeyReused) => return Ok(None),
                        Err(error) => return Err(error),
                    }
                }
                return Ok(Some(Started::Existing(run)));
            }
            IfRunning::CancelExisting => {
                (MessageKind::Cancel, crate::machine::CANCEL_GRACE + Duration::from_secs(5))
            }
            IfRunning::TerminateExisting => (MessageKind::Terminate, Duration::from_secs(10)),
        };
        match self.act(ns, run, kind, act, None).await {
            Ok(_) | Err(Error::RunEnded(_) | Error::InvalidState { .. }) => {}
            Err(error) => return Err(error),
        }
        let view = self.wait_end(ns, run, patience).await?;
        if view.status.ended() { Ok(None) } else { Err(exists(view.status)) }
    }

    fn new_run(&self, start: &Start, again: Option<&DoneAgain>) -> Result<NewRun, Error> {
        self.new_run_of(start, again, None)
    }

    /// The same for a child or what an event starts: its id is not ours to choose.
    pub(super) fn new_run_of(
        &self,
        start: &Start,
        again: Option<&DoneAgain>,
        own: Option<(RunId, Option<Parent>)>,
    ) -> Result<NewRun, Error> {
        self.new_run_as(start, again, own, |catalog, deployment, kind| {
            Ok(Parts {
                object: Self::part_of(catalog, start, deployment, kind)?,
                locks: Self::locks_of(catalog, start, deployment)?,
            })
        })
    }

    /// The same for a run that is to be there although its key or its object is not for it.
    pub(super) fn new_run_beside(&self, start: &Start, run: RunId) -> Result<NewRun, Error> {
        let new =
            self.new_run_as(start, None, Some((run, None)), |_, _, _| Ok(Parts::default()))?;
        Ok(NewRun { key: None, wake_at: None, ..new })
    }

    fn new_run_as(
        &self,
        start: &Start,
        again: Option<&DoneAgain>,
        own: Option<(RunId, Option<Parent>)>,
        parts: impl FnOnce(&Catalog, &Deployment, RunKind) -> Result<Parts, Error>,
    ) -> Result<NewRun, Error> {
        let ns = &start.namespace;
        let catalog = self.catalog();
        let function = catalog
            .function(ns.id, &start.function)
            .ok_or_else(|| Error::FunctionNotFound(start.function.clone()))?;
        let deployment = match start.deployment {
            None => catalog
                .deployment(function.dep)
                .ok_or_else(|| Error::FunctionNotFound(start.function.clone()))?,
            Some(id) => catalog
                .deployment_named(id)
                .filter(|d| d.has(&start.function))
                .ok_or(Error::DeploymentNotFound(id))?,
        };
        let kind = deployment.kind_of(&start.function).unwrap_or_default();
        let Parts { object, locks } = parts(&catalog, &deployment, kind)?;
        let has_objects = object.is_some() || !locks.is_empty();
        let (locks, places) = locks.into_iter().unzip();
        let now = self.clock().upper();
        let idem_key = start.idempotency.as_ref().map(|i| i.key.as_str());
        let shard = self.shard_of(&ns.name, &start.function, start.key.as_deref(), idem_key);
        let (own, parent) = own.unzip();
        let parent = parent.flatten();
        let run = own.unwrap_or_else(|| RunId::on_shard(now, shard, crate::clock::chance()));
        let parent_run = parent.as_ref().map(|p| p.run.uuid());
        let start_at = start.start_at.filter(|at| *at > now);
        let run_timeout = start.run_timeout.or_else(|| deployment.run_timeout(&start.function));
        let since = self.clock().lower();
        let on = deployment.cancel_on(&start.function);
        let waits = cancels(on, (run, ns.id), &start.input, since);
        // Who starts it in another way starts it alone.
        let gathers = !start.gathered && again.is_none() && deployment.gathers(&start.function);
        let created = Created {
            function: start.function.clone(),
            kind,
            namespace: ns.name.clone(),
            key: start.key.clone(),
            locks,
            input: if gathers { gathers::alone(&start.input) } else { start.input.clone() },
            seed: again
                .and_then(|a| a.seed.clone())
                .unwrap_or_else(|| format!("{:032x}", crate::clock::chance())),
            start_at,
            tags: start.tags.clone(),
            priority: start.priority,
            start_within: start.start_timeout.or_else(|| deployment.start_timeout(&start.function)),
            invocation_timeout: start.invocation_timeout,
            retry: start.retry,
            pin: start.deployment.map(|_| deployment.id),
            traceparent: start.traceparent.clone(),
            rerun_of: again.map(|a| a.of),
            by: start.by.clone(),
            parent,
            cancel_on: !waits.is_empty(),
            schedule: start.schedule.clone(),
            on_complete: start.on_complete.clone(),
            erased_at: None,
            imported: None,
        };
        let hot = start_at.is_none_or(|at| at <= now + HORIZON);
        // Who starts later leaves memory until then, and must not seem to have been invoked.
        // Who has an object is read with its state.
        let ours = start_at.is_none() && !has_objects && self.lend(run);
        let mut messages = Vec::new();
        let mut message = |kind, name: String, body| {
            let id = MessageId::new(now, crate::clock::chance());
            messages.push(Message { pos: 0, id, kind, name, body, at: now, generation: None });
        };
        if hot && !ours && !(has_objects && self.drives(run)) {
            // Its owner has to hear of it.
            message(MessageKind::New, String::new(), bytes::Bytes::new());
        }
        for (kind, name, body) in again.iter().flat_map(|a| &a.mail) {
            message(*kind, name.clone(), body.clone());
        }
        if let Some((name, payload)) = &start.signal {
            message(MessageKind::Signal, name.clone(), payload.clone());
        }
        Ok(NewRun {
            run,
            ns: ns.id,
            function_id: function.id,
            dep: deployment.id,
            pinned: start.deployment.is_some(),
            status: if start_at.is_some() { Status::Scheduled } else { Status::Queued }.code(),
            row: Row {
                n: 0,
                kind: Kind::Created,
                flags: Flags::default(),
                seq: 0,
                // An owner that goes on from memory has the first epoch lent by this row.
                epoch: i32::from(ours),
                cp: 0,
                ms: 0,
                dep: deployment.id,
                at: now,
                due: run_timeout.map(|t| now.max(start_at.unwrap_or(now)) + t),
                refer: parent_run,
                step: String::new(),
                body: Some(to_bytes(&created)),
                pos: 0,
            },
            wake_at: start_at.filter(|_| !hot),
            key: start.key.as_ref().map(|key| NewKey {
                key: key.clone(),
                if_closed: match start.if_closed {
                    IfClosed::Allow => store::IfClosed::Allow,
                    IfClosed::AllowIfFailed => store::IfClosed::AllowIfFailed,
                    IfClosed::Reject => store::IfClosed::Reject,
                },
            }),
            idem: self.idem_of(start),
            object,
            locks: places,
            tags: (!start.tags.is_empty())
                .then(|| serde_json::to_string(&start.tags).expect("strings serialise")),
            schedule: start.schedule.as_ref().map(|fired| fired.id),
            waits,
            messages,
        })
    }

    /// What is kept of the request of a start.
    pub(super) fn idem_of(&self, start: &Start) -> Option<Idem> {
        start.idempotency.as_ref().map(|i| Idem {
            // Not the run's: the same key with another run key is to be caught too.
            shard: Shard::of_idempotency_key(&start.namespace.name, &i.key),
            key: i.key.clone(),
            hash: i.hash,
            expires_at: self.clock().upper() + IDEMPOTENCY_KEPT,
        })
    }

    /// Whether this node drives the runs of its shard.
    fn drives(&self, run: RunId) -> bool {
        let owner = self.owner();
        owner.lease_until > self.clock().mono() && owner.tenure(run.shard()).is_some()
    }

    /// Lends the first epoch of a new run to this memory, if this node is to drive it.
    fn lend(&self, run: RunId) -> bool {
        let mut owner = self.owner();
        let holds = owner.lease_until > self.clock().mono();
        let Some(tenure) = owner.tenure(run.shard()).filter(|_| holds) else { return false };
        owner.lent.insert(run, tenure.term);
        true
    }

    /// A batch of starts has been decided: those of this node go on from memory. Not `sure`: they
    /// may have been there for a while.
    pub(super) fn created(&self, news: &[NewRun], outcomes: &[CreateOutcome], sure: bool) {
        let mut owner = self.owner();
        for (new, outcome) in news.iter().zip(outcomes) {
            let lent = owner.lent.remove(&new.run);
            if !matches!(outcome, CreateOutcome::Created | CreateOutcome::Queued) {
                continue;
            }
            metrics::counter!("stepwell_runs_started_total").increment(1);
            if *outcome == CreateOutcome::Queued {
                // It is woken by the end of who has its object, or by its own.
                let soon = self.clock().upper() + HORIZON;
                if let Some(due) = new.row.due.filter(|due| *due <= soon) {
                    self.wake_at(&mut owner, due, Wake::Run(new.run));
                }
                continue;
            }
            if new.wake_at.is_some() {
                continue;
            }
            let Some(tenure) = owner.tenure(new.run.shard()) else {
                if lent.is_some() || new.has_objects() {
                    // Its group went to another node meanwhile, which may have looked for hot runs
                    // before this one was there.
                    let message = self.message(MessageKind::New, "", bytes::Bytes::new());
                    self.lanes().post(Accept { run: new.run, ns: new.ns, message, idem: None });
                }
                continue;
            };
            if !sure || lent != Some(tenure.term) || !new.messages.is_empty() {
                // Nothing was lent to this memory, or another may have driven it since, or mail has
                // come with it: it is read.
                self.bring_in(&mut owner, [new.run]);
                continue;
            }
            if owner.runs.contains_key(&new.run) {
                continue;
            }
            match Run::of_created(new.run, new.ns, &new.row) {
                Ok(run) => {
                    let policy = self.catalog().policy_for(&run);
                    owner.runs.insert(new.run, Entry::new(run, policy));
                    self.pump(&mut owner, new.run);
                }
                Err(error) => tracing::error!(run.id = %new.run, %error, "cannot read own start"),
            }
        }
    }
}
