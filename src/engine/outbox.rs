//! Brings to other runs what runs have said: children are started, signals and cancels passed on,
//! ends told to parents. In order, level-triggered, and once: the transaction that does it takes
//! the outbox row away, and whoever comes second finds it gone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::events::{Event, PATIENCE};
use super::faults::Point;
use super::lanes::Line;
use super::{Engine, Error, Start, lock};
use crate::machine::{
    Act, Addressee, Close, EventId, HistoryEntry, Holder, Message, MessageId, MessageKind,
    OutgoingKind, Parent, RunId, Said, Shard, StepError, Told, to_bytes,
};
use crate::store::{
    self, Accept, Accepted, CreateOutcome, Delivery, NewEvent, NewRun, Posted, Published, Slot,
    Wait,
};
use crate::telemetry::Context;

/// Runs whose outbox is read at once.
const RUNS: usize = 64;
/// How long what cannot be delivered yet, such as a child that waits for who holds its key, is put
/// off, in milliseconds.
const LATER: i32 = 200;
/// How long what cannot be delivered for a reason of its own is left alone, in milliseconds.
const POISON: i32 = 60_000;
/// How long to wait before a delivery that Postgres gave up is tried again.
const BUSY: Duration = Duration::from_millis(20);

/// Runs whose outbox is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<BTreeSet<RunId>>,
    nudge: Notify,
}

/// What delivering one outbox row comes to.
enum Plan {
    /// A child is started.
    Start { new: Box<NewRun>, detach: bool, if_running: Holder },
    /// A message is accepted.
    Accept(Accept),
    /// An event is accepted.
    Publish(NewEvent),
    /// A step waits for an event.
    Listen(Wait),
    /// These steps, or all, do not wait any more.
    Unlisten(Option<Vec<String>>),
    /// Nothing but the answer.
    Refuse(StepError),
    /// Nothing yet: what is needed to know cannot be read.
    Later,
    /// Nothing at all: nobody wants it any more.
    Drop,
}

/// An outbox row, what is to be done with it, and who asked.
struct Job {
    posted: Posted,
    /// Who is to be answered; none: nobody.
    step: Option<String>,
    plan: Plan,
}

impl Job {
    fn slot(&self) -> Slot {
        self.posted.slot
    }

    /// A message whose identity follows from this row.
    fn message(
        &self,
        part: u8,
        kind: MessageKind,
        name: &str,
        body: Bytes,
        at: &Engine,
    ) -> Message {
        let (run, n, k) = self.slot();
        let id = MessageId::of_outgoing(run, n, k, part);
        let at = at.clock().upper();
        Message { pos: 0, id, kind, name: name.to_owned(), body, at, generation: None }
    }

    /// The answer to who asked.
    fn answer(&self, outcome: Result<Box<RawValue>, StepError>, engine: &Engine) -> Option<Accept> {
        let step = self.step.as_deref()?;
        let (run, n, k) = self.slot();
        let of = match (self.posted.kind, self.posted.to) {
            (OutgoingKind::Start, Some(child)) => child.uuid(),
            _ => MessageId::of_outgoing(run, n, k, 0).uuid(),
        };
        let (value, error) = match outcome {
            Ok(value) => (Some(value), None),
            Err(error) => (None, serde_json::value::to_raw_value(&error).ok()),
        };
        let body = to_bytes(&Told { of, value, error });
        let message = self.message(ANSWER, MessageKind::Outcome, step, body, engine);
        Some(Accept { run, ns: self.posted.ns, message, idem: None })
    }
}

/// The parts of an outbox row that have an identity: what it says, the answer, an act on who holds
/// a child's key.
const SAID: u8 = 0;
const ANSWER: u8 = 1;
const UNSEAT: u8 = 2;

impl Engine {
    /// The outbox of these runs is to be looked at.
    pub(super) fn post(&self, runs: impl IntoIterator<Item = RunId>) {
        let mut waiting = lock(&self.outbox().waiting);
        waiting.extend(runs);
        if !waiting.is_empty() {
            self.outbox().nudge.notify_one();
        }
    }

    /// Delivers, as long as the node lives.
    pub(super) async fn keep_outbox(&self) {
        let mut line = Line::new(self.clone());
        loop {
            self.outbox().nudge.notified().await;
            loop {
                let some: Vec<RunId> = {
                    let mut waiting = lock(&self.outbox().waiting);
                    let some: Vec<RunId> = waiting.iter().copied().take(RUNS).collect();
                    waiting.retain(|run| !some.contains(run));
                    some
                };
                if some.is_empty() {
                    break;
                }
                match self.store().posted(&some).await {
                    Ok(posted) if posted.is_empty() => {}
                    Ok(posted) => {
                        let runs: HashSet<RunId> = posted.iter().map(|p| p.slot.0).collect();
                        self.deliver_all(&mut line, posted).await;
                        // What was said since, and what did not fit into a page.
                        self.post(runs);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot read the outbox yet");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        self.post(some);
                    }
                }
            }
        }
    }

    async fn deliver_all(&self, line: &mut Line, posted: Vec<Posted>) {
        // In transactions of their own, which lock schedules, or nothing, and no runs.
        let (ran, posted): (Vec<Posted>, Vec<Posted>) =
            posted.into_iter().partition(|p| p.kind == OutgoingKind::Ran);
        let (told, posted): (Vec<Posted>, Vec<Posted>) =
            posted.into_iter().partition(|p| p.kind == OutgoingKind::Tell);
        let mut parts: Vec<Vec<Posted>> =
            [posted, ran, told].into_iter().filter(|part| !part.is_empty()).collect();
        while let Some(mut part) = parts.pop() {
            match self.deliver_part(line, &part).await {
                Ok(()) => {}
                Err(error) if error.is_unavailable() => {
                    line.lost(&error).await;
                    // Whether it is done is not known: what was started is looked for.
                    let mut owner = self.owner();
                    self.bring_in(&mut owner, part.iter().filter_map(|p| p.to));
                    drop(owner);
                    parts.push(part);
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "a delivery has to wait");
                    tokio::time::sleep(BUSY).await;
                    parts.push(part);
                }
                Err(error) if part.len() == 1 => {
                    let (run, n, _) = part[0].slot;
                    tracing::error!(run.id = %run, n, %error, "what a run has said cannot be delivered");
                    if let Err(error) = self.leave_alone(line, part[0].slot).await {
                        line.lost(&error).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, said = part.len(), "Postgres refused a delivery; bisecting");
                    let half = part.split_off(part.len() / 2);
                    parts.extend([half, part]);
                }
            }
        }
    }

    async fn deliver_part(&self, line: &mut Line, part: &[Posted]) -> store::Result<()> {
        if part.iter().all(|p| p.kind == OutgoingKind::Ran) {
            return self.tell_schedules(line, part).await;
        }
        if part.iter().all(|p| p.kind == OutgoingKind::Tell) {
            return self.tell_listeners(line, part).await;
        }
        let mut jobs = Vec::with_capacity(part.len());
        for posted in part {
            jobs.push(self.job(posted.clone()).await);
        }
        self.deliver_jobs(line, jobs).await
    }

    async fn leave_alone(&self, line: &mut Line, slot: Slot) -> store::Result<()> {
        let (mut delivery, _) = line.get().await.delivery(&[slot], &[], &[]).await?;
        delivery.put_off(&[slot], POISON).await?;
        delivery.commit().await
    }

    /// What is to be done with an outbox row.
    async fn job(&self, posted: Posted) -> Job {
        let drop = |posted| Job { posted, step: None, plan: Plan::Drop };
        let said: Said = match serde_json::from_slice(&posted.body) {
            Ok(said) => said,
            Err(error) => {
                tracing::error!(run.id = %posted.slot.0, %error, "what a run has said cannot be read");
                return drop(posted);
            }
        };
        let accept = |kind, name: &str, body, run| {
            let job = Job { posted: posted.clone(), step: None, plan: Plan::Drop };
            let message = job.message(SAID, kind, name, body, self);
            Plan::Accept(Accept { run, ns: posted.ns, message, idem: None })
        };
        let by = format!("run {}", posted.slot.0);
        let (step, plan) = match said {
            Said::Start { ref step, .. } => {
                (Some(step.clone()), self.start_of(&posted, said).await)
            }
            Said::Signal { step, to, signal, payload } => {
                let body = Bytes::from(payload.get().to_owned());
                let plan = match self.addressed(posted.ns, to).await {
                    Ok(Ok(run)) => accept(MessageKind::Signal, &signal, body, run),
                    Ok(Err(error)) => Plan::Refuse(error),
                    Err(_) => Plan::Later,
                };
                (Some(step), plan)
            }
            Said::Cancel { step, reason } => {
                let act = Act { by, reason, ..Act::default() };
                let Some(run) = posted.to else { return drop(posted) };
                (step, accept(MessageKind::Cancel, "", to_bytes(&act), run))
            }
            Said::Publish { step, event, data } => {
                let Some(ns) = self.catalog().namespace(posted.ns) else { return drop(posted) };
                let (run, n, k) = posted.slot;
                let event = Event {
                    name: event,
                    source: run.to_string(),
                    source_id: Some(MessageId::of_outgoing(run, n, k, SAID).to_string()),
                    happened_at: None,
                    data: Bytes::from(data.get().to_owned()),
                };
                (Some(step), Plan::Publish(self.new_event(&ns, event)))
            }
            Said::Listen { step, event, matching, since, taken } => {
                let (run, ns) = (posted.slot.0, posted.ns);
                (None, Plan::Listen(Wait { run, step, ns, event, matching, since, taken }))
            }
            Said::Unlisten { steps } => (None, Plan::Unlisten(steps)),
            Said::Ran { .. } | Said::Tell(_) => (None, Plan::Drop),
            Said::Ended { step, told } => {
                let Some(run) = posted.to else { return drop(posted) };
                (None, accept(MessageKind::Outcome, &step, to_bytes(&told), run))
            }
        };
        Job { posted, step, plan }
    }

    /// The run that a signal is for.
    async fn addressed(&self, ns: i32, to: Addressee) -> Result<Result<RunId, StepError>, Error> {
        let (function, key) = match to {
            Addressee::Run(run) => return Ok(Ok(run)),
            Addressee::Key { function, key } => (function, key),
        };
        let none = || {
            let detail = format!("no run of `{function}` has the key `{key}`");
            StepError::of_gateway("run-not-found", detail)
        };
        let Some(namespace) = self.catalog().namespace(ns) else { return Ok(Err(none())) };
        let found = match self.catalog().function(ns, &function) {
            Some(found) => Some(found),
            None => self.fresh_catalog().await?.function(ns, &function),
        };
        let Some(found) = found else { return Ok(Err(none())) };
        let shard = Shard::of_key(&namespace.name, &function, &key);
        // One that has ended is told apart when the signal is accepted.
        let holder = self.store().run_of_key(ns, found.id, shard, &key).await?;
        Ok(holder.map(|(run, _)| run).ok_or_else(none))
    }

    /// The start of a child.
    async fn start_of(&self, posted: &Posted, said: Said) -> Plan {
        let Said::Start {
            step,
            generation,
            function,
            input,
            key,
            detach,
            start_at,
            on_parent_close,
            if_running,
            tags,
        } = said
        else {
            return Plan::Drop;
        };
        let Some(child) = posted.to else { return Plan::Drop };
        let attached = on_parent_close == Close::Cancel && !detach;
        if attached && posted.generation != Some(generation) {
            // It would be cancelled at once: its parent has ended or continued before it began.
            return Plan::Drop;
        }
        let Some(namespace) = self.catalog().namespace(posted.ns) else { return Plan::Drop };
        let parent_run = posted.slot.0;
        let start = Start {
            key,
            start_at,
            tags,
            traceparent: Some(Context::of_run(parent_run, None).to_string()),
            ..Start::new(namespace, function, input, format!("run {parent_run}"))
        };
        let parent = Parent { run: parent_run, step, detached: detach };
        let new = match self.new_run_of(&start, None, Some((child, Some(parent.clone())))) {
            Err(Error::FunctionNotFound(_)) => match self.fresh_catalog().await {
                Ok(_) => self.new_run_of(&start, None, Some((child, Some(parent)))),
                Err(error) => Err(error),
            },
            new => new,
        };
        match new {
            Ok(new) if new.object.is_some() && if_running != Holder::Fail => {
                let detail = "runs of an object wait for their turn: `if_running` has no meaning";
                Plan::Refuse(StepError::of_gateway("start-refused", detail))
            }
            Ok(new) => match self.beyond_quotas(&start.namespace).await {
                Ok(None) => Plan::Start { new: Box::new(new), detach, if_running },
                Ok(Some(over)) => {
                    self.owner().lent.remove(&new.run);
                    Plan::Refuse(StepError::of_gateway("quota-exceeded", over))
                }
                Err(_) => {
                    self.owner().lent.remove(&new.run);
                    Plan::Later
                }
            },
            Err(Error::Invalid(_, detail)) => {
                Plan::Refuse(StepError::of_gateway("start-refused", detail))
            }
            Err(error @ Error::FunctionNotFound(_)) => {
                Plan::Refuse(StepError::of_gateway("function-not-found", error.to_string()))
            }
            Err(_) => Plan::Later,
        }
    }

    /// Delivers in one transaction, then lets this memory know.
    async fn deliver_jobs(&self, line: &mut Line, jobs: Vec<Job>) -> store::Result<()> {
        let mut jobs = in_order(one_of_each_key(jobs));
        let slots: Vec<Slot> = jobs.iter().map(Job::slot).collect();
        let runs: HashSet<RunId> = jobs.iter().flat_map(touched).collect();
        let runs: Vec<RunId> = runs.into_iter().collect();
        let lent: Vec<RunId> = jobs.iter().filter_map(started).map(|new| new.run).collect();
        let done = async {
            let waits: Vec<Wait> = jobs.iter().filter_map(waits).cloned().collect();
            // Before the transaction that looks for events: who publishes one meanwhile finds it.
            self.store().listen(&waits).await?;
            let starts: Vec<&NewRun> = jobs.iter().filter_map(started).collect();
            let (mut delivery, held) = line.get().await.delivery(&slots, &runs, &starts).await?;
            jobs.retain(|job| held.contains(&job.slot()));
            let done = self.deliver_in(&mut delivery, jobs).await?;
            self.faults().reach(Point::DeliverBefore);
            delivery.commit().await?;
            self.faults().reach(Point::DeliverAfter);
            Ok(done)
        }
        .await;
        let Done { news, created, accepts, accepted, later, events } = match done {
            Ok(done) => done,
            Err(error) => {
                let mut owner = self.owner();
                owner.lent.retain(|run, _| !lent.contains(run));
                return Err(error);
            }
        };
        {
            // What another has delivered meanwhile was lent for nothing.
            let mut owner = self.owner();
            let ours: HashSet<RunId> = news.iter().map(|n| n.run).collect();
            owner.lent.retain(|run, _| ours.contains(run) || !lent.contains(run));
        }
        self.created(&news, &created, true);
        self.accepted(&accepts, &accepted);
        self.send_on(events);
        if !later.is_empty() {
            let engine = self.clone();
            self.spawn(async move {
                let pause = Duration::from_millis(u64::from(LATER.unsigned_abs()) + 20);
                tokio::time::sleep(pause).await;
                engine.post(later.into_iter().map(|slot| slot.0));
            });
        }
        Ok(())
    }

    async fn deliver_in(&self, delivery: &mut Delivery<'_>, jobs: Vec<Job>) -> store::Result<Done> {
        let mut answers: Vec<Accept> = Vec::new();
        let mut finished: Vec<Slot> = jobs.iter().map(Job::slot).collect();
        let mut later: Vec<Slot> = Vec::new();
        let news: Vec<NewRun> = jobs.iter().filter_map(started).cloned().collect();
        let created = delivery.create(&news).await?;
        let mut accepts: Vec<Accept> = Vec::new();
        let mut published: Vec<(&Job, NewEvent)> = Vec::new();
        let mut matched = Vec::new();
        let mut came_to = created.iter();
        for job in &jobs {
            match &job.plan {
                Plan::Start { new, detach, if_running } => match came_to.next() {
                    Some(CreateOutcome::KeyHeld { run: holder, .. }) => {
                        let act = Act {
                            by: format!("run {}", job.slot().0),
                            reason: Some("a new run of the same key was started".to_owned()),
                            ..Act::default()
                        };
                        let kind = match if_running {
                            Holder::UseExisting => {
                                answers.extend(job.answer(Ok(id_of(*holder)), self));
                                continue;
                            }
                            Holder::Fail => {
                                let detail = format!("run {holder} has the key and is live");
                                let error = StepError::of_gateway("run-exists", detail);
                                answers.extend(job.answer(Err(error), self));
                                continue;
                            }
                            Holder::CancelExisting => MessageKind::Cancel,
                            Holder::TerminateExisting => MessageKind::Terminate,
                        };
                        let message = job.message(UNSEAT, kind, "", to_bytes(&act), self);
                        accepts.push(Accept { run: *holder, ns: new.ns, message, idem: None });
                        later.push(job.slot());
                    }
                    _ if *detach => answers.extend(job.answer(Ok(id_of(new.run)), self)),
                    _ => {}
                },
                Plan::Accept(accept) => accepts.push(accept.clone()),
                Plan::Publish(event) => published.push((job, event.clone())),
                Plan::Listen(wait) => {
                    if let Some((event, accept)) = self.caught_up(delivery, wait).await? {
                        matched.push((event, (accept.run, accept.message.name.clone())));
                        accepts.push(accept);
                    }
                }
                Plan::Unlisten(None) => delivery.take_all_waits(job.slot().0).await?,
                Plan::Unlisten(Some(steps)) => {
                    let run = job.slot().0;
                    let waits: Vec<_> = steps.iter().map(|step| (run, step.clone())).collect();
                    delivery.take_waits(&waits).await?;
                }
                Plan::Refuse(error) => answers.extend(job.answer(Err(error.clone()), self)),
                Plan::Later => later.push(job.slot()),
                Plan::Drop => {}
            }
        }
        let accepted = delivery.accept(&accepts).await?;
        let of: HashMap<MessageId, Accepted> =
            accepts.iter().map(|a| a.message.id).zip(accepted.iter().copied()).collect();
        for job in &jobs {
            let Plan::Accept(accept) = &job.plan else { continue };
            let refused = match of.get(&accept.message.id) {
                Some(Accepted::Gone) => {
                    let ended = delivery.ended(accept.ns, &[accept.run]).await?;
                    if ended.contains(&accept.run) {
                        if job.posted.kind == OutgoingKind::Ended {
                            let entry = late(accept);
                            delivery.tell(accept.run, accept.ns, &entry).await?;
                        }
                        Some(("run-ended", format!("run {} has ended", accept.run)))
                    } else {
                        Some(("run-not-found", format!("there is no run {}", accept.run)))
                    }
                }
                Some(Accepted::Closing) => {
                    Some(("run-ended", format!("run {} is ending", accept.run)))
                }
                _ => None,
            };
            let outcome = match refused {
                Some((kind, detail)) => Err(StepError::of_gateway(kind, detail)),
                None => Ok(null()),
            };
            answers.extend(job.answer(outcome, self));
        }
        for (event, reached) in matched {
            delivery.matched(event, &[reached]).await?;
        }
        let (by, new): (Vec<&Job>, Vec<NewEvent>) = published.into_iter().unzip();
        let published = delivery.publish(&new, PATIENCE).await?;
        answers.extend(
            by.iter().zip(&published).filter_map(|(job, p)| job.answer(Ok(id_of(p.id())), self)),
        );
        let events = published.into_iter().map(Published::id).collect();
        let answered = delivery.accept(&answers).await?;
        finished.retain(|slot| !later.contains(slot));
        delivery.remove(&finished).await?;
        delivery.put_off(&later, LATER).await?;
        accepts.extend(answers);
        let accepted = accepted.into_iter().chain(answered).collect();
        Ok(Done { news, created, accepts, accepted, later, events })
    }
}

/// What a delivery has done.
struct Done {
    news: Vec<NewRun>,
    created: Vec<CreateOutcome>,
    accepts: Vec<Accept>,
    accepted: Vec<Accepted>,
    /// What is tried again soon, such as a child that waits for who holds its key.
    later: Vec<Slot>,
    /// What is to be routed now.
    events: Vec<EventId>,
}

const fn started(job: &Job) -> Option<&NewRun> {
    match &job.plan {
        Plan::Start { new, .. } => Some(new),
        _ => None,
    }
}

const fn waits(job: &Job) -> Option<&Wait> {
    match &job.plan {
        Plan::Listen(wait) => Some(wait),
        _ => None,
    }
}

/// Waits are written down before a transaction takes others away: a run's that comes after one that
/// does is left for the next.
fn in_order(jobs: Vec<Job>) -> Vec<Job> {
    let mut taken_away = HashSet::new();
    let mut now = |job: &Job| {
        let run = job.slot().0;
        if matches!(job.plan, Plan::Unlisten(_)) {
            taken_away.insert(run);
        }
        waits(job).is_none() || !taken_away.contains(&run)
    };
    jobs.into_iter().filter(|job| now(job)).collect()
}

/// Runs that will hear of it.
fn touched(job: &Job) -> impl Iterator<Item = RunId> + use<> {
    let target = match &job.plan {
        Plan::Accept(accept) => Some(accept.run),
        Plan::Listen(wait) => Some(wait.run),
        _ => None,
    };
    let silent = matches!(job.plan, Plan::Start { detach: false, .. } | Plan::Drop);
    let asker = job.step.as_ref().filter(|_| !silent).map(|_| job.slot().0);
    target.into_iter().chain(asker)
}

/// No two children of one transaction may be after the same key: the later waits for the next.
fn one_of_each_key(jobs: Vec<Job>) -> Vec<Job> {
    let mut keys = HashSet::new();
    let mut first = |job: &Job| {
        let new = started(job).filter(|n| n.object.is_none());
        let key = new.and_then(|n| Some((n.function_id, n.key.as_ref()?.key.clone())));
        key.is_none_or(|key| keys.insert(key))
    };
    jobs.into_iter().filter(|job| first(job)).collect()
}

/// The end of a child whose parent has ended before it, for the parent's history.
fn late(accept: &Accept) -> HistoryEntry {
    let Message { id, ref name, at, .. } = accept.message;
    let data = serde_json::json!({"step": name, "message": id});
    let (what, by) = ("message.late".to_owned(), "gateway".to_owned());
    HistoryEntry { at, epoch: 0, what, by, data: data.to_string().into() }
}

fn id_of(id: impl std::fmt::Display) -> Box<RawValue> {
    RawValue::from_string(format!("\"{id}\"")).expect("an id is plain text")
}

fn null() -> Box<RawValue> {
    RawValue::from_string("null".to_owned()).expect("null is JSON")
}
