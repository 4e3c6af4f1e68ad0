//! Fires schedules: whoever holds a schedule's row decides what is due, starts its runs and writes
//! how it stands now, in one transaction. So no moment comes to two runs and none is lost, whoever
//! dies when.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::faults::Point;
use super::lanes::Line;
use super::{Engine, Error, IfClosed, Start};
use crate::machine::schedule::{By, Decision, Firing, Plan, ScheduleState, Spec, Way};
use crate::machine::{
    Act, Fired, Kind, Message, MessageId, MessageKind, PassedOn, RunId, Said, ScheduleId, Shard,
    Timestamp, to_bytes,
};
use crate::store::{
    self, Accept, Accepted, CreateOutcome, Delivery, LockedSchedule, NewRun, Posted, ScheduleRow,
    Slot, TurnedSchedule,
};

/// How far ahead schedules are looked for.
const SOON: Duration = Duration::from_secs(2);
/// How often they are.
const SEARCH: Duration = Duration::from_secs(1);
/// How late a schedule of another node's shards must be to be fired here.
const OVERDUE: Duration = Duration::from_secs(3);
/// How many are found at once.
const FOUND: i64 = 500;
/// How many are fired in one transaction.
const BATCH: usize = 32;
/// How long to wait where another is at what is due here, or Postgres gave up.
const BUSY: Duration = Duration::from_millis(20);
/// How long one that cannot be read is left alone.
const POISON: Duration = Duration::from_mins(1);

/// What this node knows of schedules: that one may be due earlier than it thinks.
#[derive(Debug, Default)]
pub(super) struct Schedules {
    nudge: Notify,
    /// Those whose row cannot be read, as they were when that was logged.
    unreadable: Mutex<HashSet<ScheduleId>>,
}

/// A schedule under lock, read.
pub(super) struct Held {
    pub(super) row: ScheduleRow,
    pub(super) plan: Plan,
    pub(super) state: ScheduleState,
    pub(super) live: Vec<RunId>,
    /// The last run that completed, if that is new.
    pub(super) result: Option<Bytes>,
    pub(super) now: Timestamp,
    /// There may be more to decide: a start could not be made, or the plan is another.
    pub(super) again: bool,
    /// What had come of it before.
    before: (u64, u64, BTreeMap<String, u64>),
}

/// What a transaction has done, for memory to know once it is committed.
#[derive(Default)]
pub(super) struct Done {
    news: Vec<NewRun>,
    created: Vec<CreateOutcome>,
    accepts: Vec<Accept>,
    accepted: Vec<Accepted>,
    /// How late each firing was.
    late: Vec<Duration>,
    /// Starts, misses, and skips by their reason.
    counts: (u64, u64, BTreeMap<String, u64>),
}

impl Held {
    /// Reads what is under lock.
    pub(super) fn of(locked: LockedSchedule, now: Timestamp) -> Result<Self, String> {
        let LockedSchedule { row, live } = locked;
        let (plan, state) = read(&row)?;
        let before = (state.fired, state.missed, state.skipped.clone());
        Ok(Self { row, plan, state, live, result: None, now, again: false, before })
    }

    /// The key of a firing's run: the same whoever fires it, so that its shard and its place in the
    /// table of keys are too.
    fn key_of(&self, firing: &Firing) -> String {
        let (id, moment) = (self.row.id, firing.moment);
        match (&self.plan.spec.start.key, firing.by) {
            (Some(key), _) => key.clone(),
            (None, By::Schedule | By::Backfill) => format!("{id}/{moment}"),
            (None, By::Trigger) => format!("{id}/trigger/{moment}"),
        }
    }

    /// What it means that another run has the key of a firing's: the moment has had one, or the
    /// key is that of them all.
    const fn why_held(&self) -> &'static str {
        if self.plan.spec.start.key.is_some() { "key-held" } else { "already" }
    }

    /// Decides all that is due.
    pub(super) fn decide(&mut self) -> Decision {
        self.state.decide(&self.plan, &self.live, self.now)
    }

    /// One of its runs has ended.
    fn run_ended(&mut self, run: RunId, said: Said) {
        let Said::Ran { ended, output, error, .. } = said else { return };
        let Some(kind) = Kind::from_code(ended) else { return };
        self.live.retain(|live| *live != run);
        let pauses = self.plan.spec.pause_on_failure;
        self.state.run_ended(run, kind, error.as_deref(), pauses, self.now);
        if kind == Kind::Completed {
            self.result = Some(to_bytes(&PassedOn { run, output }));
        }
    }

    fn refused(&mut self, firing: &Firing, why: &str) {
        self.state.refused(firing, why, self.now);
        self.again = true;
    }

    fn wakes_at(&self, decision: &Decision) -> Option<Timestamp> {
        let more = !self.state.waiting.is_empty() || !self.state.backfills.is_empty();
        if self.again && more {
            return Some(self.now);
        }
        self.state.wakes_at(&self.plan, decision, self.now)
    }

    /// The last run that completed.
    fn last(&self) -> Option<PassedOn> {
        let result = self.result.as_ref().or(self.row.result.as_ref())?;
        serde_json::from_slice(result).ok()
    }
}

/// The plan and the state of a schedule.
pub(super) fn read(row: &ScheduleRow) -> Result<(Plan, ScheduleState), String> {
    let spec: Spec = serde_json::from_slice(&row.spec).map_err(|e| format!("spec: {e}"))?;
    let plan = Plan::of(row.id, spec).map_err(|(field, detail)| format!("{field}: {detail}"))?;
    let state = serde_json::from_slice(&row.state).map_err(|e| format!("state: {e}"))?;
    Ok((plan, state))
}

impl Engine {
    /// A schedule may be due earlier than was thought.
    pub(super) fn nudge_schedules(&self) {
        self.schedules_known().nudge.notify_one();
    }

    /// Fires, as long as the node lives.
    pub(super) async fn keep_schedules(&self) {
        let mut line = Line::new(self.clone());
        loop {
            let nudged = self.schedules_known().nudge.notified();
            let now = self.clock().lower();
            let groups = self.held();
            let found = self.store().due_schedules(&groups, now + SOON, now - OVERDUE, FOUND).await;
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(%error, "cannot look for schedules yet");
                    tokio::time::sleep(SEARCH).await;
                    continue;
                }
            };
            let due: Vec<ScheduleId> =
                found.iter().filter(|(_, at)| *at <= now).map(|(id, _)| *id).collect();
            if due.is_empty() {
                let next = found.first().map_or(now + SOON, |(_, at)| *at);
                tokio::select! {
                    () = self.clock().until(next) => {}
                    () = nudged => {}
                    () = tokio::time::sleep(SEARCH) => {}
                }
                continue;
            }
            let mut fired = 0;
            for batch in due.chunks(BATCH) {
                fired += self.fire_all(&mut line, batch).await;
            }
            if fired == 0 {
                tokio::time::sleep(BUSY).await;
            }
        }
    }

    /// Fires these. Returns how many there were that nobody else is at.
    async fn fire_all(&self, line: &mut Line, ids: &[ScheduleId]) -> usize {
        let mut parts = vec![ids.to_vec()];
        let mut fired = 0;
        while let Some(mut part) = parts.pop() {
            match self.fire_some(line, &part).await {
                Ok(count) => fired += count,
                // What is due is looked for again.
                Err(error) if error.is_unavailable() => line.lost(&error).await,
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "schedules have to wait");
                    tokio::time::sleep(BUSY).await;
                }
                Err(error) if part.len() == 1 => {
                    let id = part[0];
                    tracing::error!(schedule.id = %id, %error, "a schedule cannot be fired");
                    if let Err(error) = self.leave_schedule_alone(line, id).await {
                        line.lost(&error).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, schedules = part.len(), "Postgres refused; bisecting");
                    let half = part.split_off(part.len() / 2);
                    parts.extend([half, part]);
                }
            }
        }
        fired
    }

    async fn fire_some(&self, line: &mut Line, ids: &[ScheduleId]) -> store::Result<usize> {
        let (mut delivery, locked) = line.get().await.firing(ids).await?;
        let count = locked.len();
        let mut turns = Vec::with_capacity(count);
        let mut left_alone = Vec::new();
        for locked in locked {
            let (id, row) = (locked.row.id, locked.row.clone());
            match Held::of(locked, self.clock().lower()) {
                Ok(mut held) => {
                    let decision = held.decide();
                    turns.push((held, decision));
                }
                Err(error) => {
                    self.cannot_read(id, &error);
                    left_alone.push(self.later(&row));
                }
            }
        }
        delivery.turned(&left_alone).await?;
        self.commit_turns(delivery, turns).await?;
        Ok(count)
    }

    fn cannot_read(&self, id: ScheduleId, error: &str) {
        if super::lock(&self.schedules_known().unreadable).insert(id) {
            tracing::error!(schedule.id = %id, error, "a schedule cannot be read; a newer version may have written it");
        }
    }

    /// A schedule that is left as it is for a while.
    fn later(&self, row: &ScheduleRow) -> TurnedSchedule {
        let next_at = Some(self.clock().upper() + POISON);
        TurnedSchedule { id: row.id, state: row.state.clone(), result: None, next_at }
    }

    async fn leave_schedule_alone(&self, line: &mut Line, id: ScheduleId) -> store::Result<()> {
        let (mut delivery, locked) = line.get().await.firing(&[id]).await?;
        let later: Vec<_> = locked.iter().map(|locked| self.later(&locked.row)).collect();
        delivery.turned(&later).await?;
        delivery.commit().await
    }

    /// Carries out what was decided, commits, and lets this memory know. The schedules as they
    /// stand then.
    pub(super) async fn commit_turns(
        &self,
        mut delivery: Delivery<'_>,
        mut turns: Vec<(Held, Decision)>,
    ) -> store::Result<Vec<Held>> {
        let mut lent = Vec::new();
        let done = async {
            let done = self.turn_all(&mut delivery, &mut turns, &mut lent).await?;
            self.faults().reach(Point::FireBefore);
            delivery.commit().await?;
            self.faults().reach(Point::FireAfter);
            Ok(done)
        }
        .await;
        match done {
            Ok(done) => {
                self.fired(done);
                Ok(turns.into_iter().map(|(held, _)| held).collect())
            }
            Err(error) => {
                self.unlend(&lent, &error);
                Err(error)
            }
        }
    }

    /// What was done is committed.
    fn fired(&self, done: Done) {
        self.created(&done.news, &done.created, true);
        self.accepted(&done.accepts, &done.accepted);
        let (fired, missed, skipped) = done.counts;
        metrics::counter!("stepwell_schedules_fired_total").increment(fired);
        metrics::counter!("stepwell_schedules_missed_total").increment(missed);
        for (reason, count) in skipped {
            metrics::counter!("stepwell_schedules_skipped_total", "reason" => reason)
                .increment(count);
        }
        for late in done.late {
            metrics::histogram!("stepwell_schedule_lateness_seconds").record(late.as_secs_f64());
        }
        self.nudge_schedules();
    }

    /// Starts and ends runs as was decided, and writes how the schedules stand.
    async fn turn_all(
        &self,
        delivery: &mut Delivery<'_>,
        turns: &mut [(Held, Decision)],
        lent: &mut Vec<RunId>,
    ) -> store::Result<Done> {
        let mut done = Done::default();
        let mut of = Vec::new();
        let mut keys = HashSet::new();
        for (place, (held, decision)) in turns.iter_mut().enumerate() {
            for firing in &decision.start {
                match self.run_of(held, firing).await {
                    // A moment may be due and in a backfill too.
                    Ok(new)
                        if new.object.is_none()
                            && !keys.insert((new.function_id, held.key_of(firing))) =>
                    {
                        self.owner().lent.remove(&new.run);
                        held.refused(firing, held.why_held());
                    }
                    Ok(new) => {
                        lent.push(new.run);
                        of.push((place, *firing));
                        done.news.push(new);
                    }
                    Err(why) => held.refused(firing, why),
                }
            }
            for (run, way) in &decision.end {
                done.accepts.push(self.make_end(held, *run, *way));
            }
        }
        done.created = delivery.create(&done.news).await?;
        for (((place, firing), new), outcome) in of.iter().zip(&done.news).zip(&done.created) {
            let held = &mut turns[*place].0;
            match outcome {
                CreateOutcome::Created | CreateOutcome::Queued => {
                    held.state.started(firing, new.run, held.now);
                    if firing.by == By::Schedule {
                        done.late.push(held.now.since(held.plan.fires_at(firing.moment)));
                    }
                }
                _ => held.refused(firing, held.why_held()),
            }
        }
        done.accepted = delivery.accept(&done.accepts).await?;
        let mut turned = Vec::with_capacity(turns.len());
        for (held, decision) in turns.iter() {
            let next_at = held.wakes_at(decision);
            let state = to_bytes(&held.state);
            turned.push(TurnedSchedule {
                id: held.row.id,
                state,
                result: held.result.clone(),
                next_at,
            });
            let (fired, missed, skipped) = &held.before;
            done.counts.0 += held.state.fired - fired;
            done.counts.1 += held.state.missed - missed;
            for (reason, count) in &held.state.skipped {
                let new = count - skipped.get(reason).copied().unwrap_or_default();
                if new > 0 {
                    *done.counts.2.entry(reason.clone()).or_default() += new;
                }
            }
        }
        delivery.turned(&turned).await?;
        Ok(done)
    }

    /// The run of a firing, or the word for why there is none.
    async fn run_of(&self, held: &Held, firing: &Firing) -> Result<NewRun, &'static str> {
        let row = &held.row;
        let start = |namespace| {
            let options = &held.plan.spec.start;
            let input = serde_json::from_slice::<Box<RawValue>>(&row.input);
            Start {
                key: Some(held.key_of(firing)),
                if_closed: if firing.again || options.key.is_some() {
                    IfClosed::Allow
                } else {
                    IfClosed::Reject
                },
                tags: options.tags.clone(),
                start_timeout: options.start_timeout,
                run_timeout: options.run_timeout,
                invocation_timeout: options.invocation_timeout,
                retry: options.retry,
                deployment: options.deployment,
                schedule: Some(Box::new(Fired {
                    id: row.id,
                    name: row.name.clone(),
                    time: firing.moment,
                    by: firing.by,
                    last: held.last(),
                })),
                ..Start::new(
                    namespace,
                    row.function.clone(),
                    input.unwrap_or_else(|_| RawValue::NULL.to_owned()),
                    format!("schedule {}", row.name),
                )
            }
        };
        if self.catalog().function(row.ns, &row.function).is_none() {
            // Another node may have registered it a moment ago.
            drop(self.fresh_catalog().await);
        }
        let catalog = self.catalog();
        let namespace = catalog.namespace(row.ns).ok_or("function-not-found")?;
        let function = catalog.function(row.ns, &row.function).ok_or("function-not-found")?;
        if catalog.deployment(function.dep).is_some_and(|d| d.endpoint.draining) {
            return Err("endpoint-draining");
        }
        let key = held.key_of(firing);
        let shard = Shard::of_key(&namespace.name, &row.function, &key);
        let run = RunId::on_shard(self.clock().upper(), shard, crate::clock::chance());
        if let Ok(Some(_)) = self.beyond_quotas(&namespace).await {
            return Err("quota-exceeded");
        }
        self.new_run_of(&start(namespace), None, Some((run, None))).map_err(|error| match error {
            Error::DeploymentNotFound(_) => "deployment-not-found",
            // It has become an object since.
            Error::Invalid(..) => "start-refused",
            _ => "function-not-found",
        })
    }

    /// The message by which a run makes room for the next.
    fn make_end(&self, held: &Held, run: RunId, way: Way) -> Accept {
        let kind = match way {
            Way::Cancel => MessageKind::Cancel,
            Way::Terminate => MessageKind::Terminate,
        };
        let act = Act {
            by: format!("schedule {}", held.row.name),
            reason: Some("the schedule's next run takes its place".to_owned()),
            ..Act::default()
        };
        let now = self.clock().upper();
        let message = Message {
            pos: 0,
            id: MessageId::new(now, crate::clock::chance()),
            kind,
            name: String::new(),
            body: to_bytes(&act),
            at: now,
            generation: None,
        };
        Accept { run, ns: held.row.ns, message, idem: None }
    }

    /// Tells schedules that runs of theirs have ended, in one transaction with the removal of what
    /// said so, and does what they have waited for.
    pub(super) async fn tell_schedules(
        &self,
        line: &mut Line,
        posted: &[Posted],
    ) -> store::Result<()> {
        let mut told: Vec<(ScheduleId, Slot, Said)> = Vec::with_capacity(posted.len());
        for posted in posted {
            if let Ok(said @ Said::Ran { schedule, .. }) = serde_json::from_slice(&posted.body) {
                told.push((schedule, posted.slot, said));
            } else {
                tracing::error!(run.id = %posted.slot.0, "what a run has said cannot be read");
            }
        }
        let slots: Vec<Slot> = posted.iter().map(|p| p.slot).collect();
        let mut ids: Vec<ScheduleId> = told.iter().map(|(id, ..)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        let (mut delivery, open, locked) = line.get().await.telling(&slots, &ids).await?;
        told.retain(|(_, slot, _)| open.contains(slot));
        let mut turns = Vec::new();
        for locked in locked {
            let id = locked.row.id;
            let mut held = match Held::of(locked, self.clock().lower()) {
                Ok(held) => held,
                Err(error) => {
                    self.cannot_read(id, &error);
                    continue;
                }
            };
            let (mine, others) = told.into_iter().partition(|(of, ..)| *of == id);
            told = others;
            for (_, (run, ..), said) in mine {
                held.run_ended(run, said);
            }
            let decision = held.decide();
            turns.push((held, decision));
        }
        delivery.remove(&slots).await?;
        self.commit_turns(delivery, turns).await?;
        Ok(())
    }
}
