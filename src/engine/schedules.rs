//! Schedules as people see and change them. Whatever is changed is changed under the lock of the
//! schedule's row, after what is due by then.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::firing::{Held, read};
use super::{Engine, Error, Namespace};
use crate::machine::schedule::{
    Backfill, By, Came, Decision, MOST_BACKFILLS, Overlap, Plan, ScheduleState, Spec,
};
use crate::machine::{RunId, RunKind, ScheduleId, Timestamp, to_bytes};
use crate::protocol::{CronTrigger, FunctionSpec};
use crate::store::{Delivery, ScheduleChange, ScheduleFilter, ScheduleRow};

/// How often a change is tried when Postgres gives it up.
const TRIES: usize = 5;

/// A schedule that is asked for by id or name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRef {
    /// As an id, if it is one.
    pub id: Option<ScheduleId>,
    /// As it was written.
    pub text: String,
}

/// A schedule to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSchedule {
    /// Its name.
    pub name: String,
    /// The function whose runs it starts.
    pub function: String,
    /// Its rule and its policies.
    pub spec: Spec,
    /// Its interval's anchor was given, and not made up.
    pub anchored: bool,
    /// The input of its runs, JSON.
    pub input: Bytes,
    /// It begins paused.
    pub paused: bool,
    /// Why.
    pub note: Option<String>,
}

/// What a person changes of a schedule; what is none stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SchedulePatch {
    /// Its name.
    pub name: Option<String>,
    /// Its function.
    pub function: Option<String>,
    /// Its specification, as it is to be then.
    pub spec: Option<Spec>,
    /// The input of its runs.
    pub input: Option<Bytes>,
}

/// What a creation led to.
#[derive(Debug, Clone, PartialEq)]
pub enum ScheduleCreated {
    /// A new schedule.
    New(Box<ScheduleView>),
    /// The same one was there.
    Same(Box<ScheduleView>),
}

/// What came of a trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Triggered {
    /// Its moment.
    pub moment: Timestamp,
    /// What became of it.
    pub came: Came,
}

/// A schedule as the API shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleView {
    /// As it is recorded.
    pub row: ScheduleRow,
    /// Its specification.
    pub plan: Plan,
    /// How it stands.
    pub state: ScheduleState,
    /// Its live runs, the oldest first.
    pub running: Vec<RunId>,
    /// Coming moments and when their firings are due.
    pub coming: Vec<(Timestamp, Timestamp)>,
}

/// Which schedules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScheduleSearch {
    /// Functions; empty: all.
    pub functions: Vec<String>,
    /// A part of name or function.
    pub q: Option<String>,
    /// Only schedules after this one.
    pub after: Option<ScheduleId>,
    /// How many at most.
    pub limit: usize,
}

/// A page of schedules, by id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SchedulePage {
    /// The schedules, without their live runs.
    pub schedules: Vec<ScheduleView>,
    /// The last one of this page, if there are more after it.
    pub next: Option<ScheduleId>,
}

/// How many coming moments a schedule shows.
const COMING: usize = 5;

impl ScheduleView {
    /// The word for how it stands.
    #[must_use]
    pub fn word(&self) -> &'static str {
        let over = || {
            self.state.waiting.is_empty()
                && self.state.backfills.is_empty()
                && (self.state.is_spent() || self.coming.is_empty())
        };
        if self.state.paused.is_some() {
            "paused"
        } else if over() {
            "finished"
        } else {
            "active"
        }
    }
}

impl Engine {
    /// Creates a schedule. One of its name that is just the same is as good.
    pub async fn create_schedule(
        &self,
        ns: &Namespace,
        new: NewSchedule,
        by: &str,
    ) -> Result<ScheduleCreated, Error> {
        self.admit()?;
        self.hosted(ns, &new.function, new.spec.start.key.is_some()).await?;
        let (now, chance) = (self.clock().upper(), crate::clock::chance());
        let id = ScheduleId::anywhere(now, chance);
        let mut state = ScheduleState::new(self.clock().lower(), new.spec.limited_actions);
        if new.paused {
            state.pause(now, by, new.note.clone());
        }
        let plan = plan_of(id, new.spec.clone())?;
        let row = ScheduleRow {
            id,
            ns: ns.id,
            name: new.name.clone(),
            function: new.function.clone(),
            owned: false,
            version: 1,
            next_at: state.wakes_at(&plan, &Decision::default(), now),
            created_at: now,
            updated_at: now,
            created_by: by.to_owned(),
            spec: to_bytes(&new.spec),
            input: new.input.clone(),
            state: to_bytes(&state),
            result: None,
        };
        for _ in 0..TRIES {
            if self.store().create_schedule(&row).await? {
                self.nudge_schedules();
                return Ok(ScheduleCreated::New(Box::new(self.schedule_view(row).await?)));
            }
            let Some(there) = self.store().schedule(ns.id, None, &new.name).await? else {
                continue;
            };
            let view = self.schedule_view(there).await?;
            let mut spec = new.spec.clone();
            if !new.anchored {
                spec.keep_anchor(&view.plan.spec);
            }
            let same = view.row.name == new.name
                && view.row.function == new.function
                && view.plan.spec == spec
                && view.row.input == new.input
                && !view.row.owned;
            if same {
                return Ok(ScheduleCreated::Same(Box::new(view)));
            }
            return Err(Error::ScheduleExists { name: new.name, id: view.row.id });
        }
        Err(Error::busy("the schedule of this name keeps changing; try again"))
    }

    /// A schedule.
    pub async fn schedule(&self, ns: &Namespace, of: &ScheduleRef) -> Result<ScheduleView, Error> {
        let row = self.store().schedule(ns.id, of.id, &of.text).await?;
        let row = row.ok_or_else(|| Error::ScheduleNotFound(of.text.clone()))?;
        self.schedule_view(row).await
    }

    /// A page of schedules.
    pub async fn schedules(
        &self,
        ns: &Namespace,
        search: ScheduleSearch,
    ) -> Result<SchedulePage, Error> {
        let limit = search.limit.max(1);
        let filter = ScheduleFilter {
            functions: search.functions,
            q: search.q.filter(|q| !q.trim().is_empty()),
            after: search.after,
            // One more tells whether there is a next page.
            limit: i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1),
        };
        let mut rows = self.store().schedules(ns.id, &filter).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.id);
        let views = rows.into_iter().map(|row| self.view_without_runs(row));
        Ok(SchedulePage { schedules: views.collect::<Result<_, _>>()?, next })
    }

    /// Coming moments after `from`, at most `count`, each with when its firing is due.
    pub async fn coming(
        &self,
        ns: &Namespace,
        of: &ScheduleRef,
        from: Option<Timestamp>,
        count: usize,
    ) -> Result<Vec<(Timestamp, Timestamp)>, Error> {
        let view = self.schedule(ns, of).await?;
        if view.state.is_spent() {
            return Ok(Vec::new());
        }
        Ok(view.plan.coming(from.unwrap_or_else(|| self.clock().upper()), count))
    }

    /// Changes a schedule.
    pub async fn patch_schedule(
        &self,
        ns: &Namespace,
        of: &ScheduleRef,
        version: Option<i32>,
        patch: SchedulePatch,
    ) -> Result<ScheduleView, Error> {
        if let Some(function) = &patch.function {
            let keyed = match &patch.spec {
                Some(spec) => spec.start.key.is_some(),
                None => self.schedule(ns, of).await?.plan.spec.start.key.is_some(),
            };
            self.hosted(ns, function, keyed).await?;
        }
        if let Some(name) = &patch.name {
            let taken = self.store().schedule(ns.id, None, name).await?;
            let view = self.schedule(ns, of).await?;
            if let Some(taken) = taken.filter(|t| t.id != view.row.id && t.name == *name) {
                return Err(Error::ScheduleExists { name: name.clone(), id: taken.id });
            }
        }
        let change = |held: &mut Held| {
            if held.row.owned {
                return Err(Error::ScheduleOwned { function: held.row.function.clone() });
            }
            let decision = match &patch.spec {
                None => held.decide(),
                Some(spec) => held.respecify(spec)?,
            };
            if let Some(name) = &patch.name {
                held.row.name.clone_from(name);
            }
            if let Some(function) = &patch.function {
                held.row.function.clone_from(function);
            }
            if let Some(input) = &patch.input {
                held.row.input.clone_from(input);
            }
            Ok((decision, Write::All))
        };
        self.change(ns, of, version, change).await
    }

    /// Pauses a schedule: it starts nothing by itself.
    pub async fn pause_schedule(
        &self,
        ns: &Namespace,
        of: &ScheduleRef,
        note: Option<String>,
        by: &str,
    ) -> Result<ScheduleView, Error> {
        let change = |held: &mut Held| {
            let decision = held.decide();
            held.state.pause(held.now, by, note.clone());
            Ok((decision, Write::State))
        };
        self.change(ns, of, None, change).await
    }

    /// Lets a schedule go on: moments that have gone by meanwhile stay without a run.
    pub async fn resume_schedule(
        &self,
        ns: &Namespace,
        of: &ScheduleRef,
    ) -> Result<ScheduleView, Error> {
        let change = |held: &mut Held| {
            held.state.resume(held.now);
            Ok((held.decide(), Write::State))
        };
        self.change(ns, of, None, change).await
    }

    /// Starts a run of a schedule now, as its policy or `overlap` says.
    pub async fn trigger_schedule(
        &self,
        ns: &Namespace,
        of: &ScheduleRef,
        overlap: Option<Overlap>,
    ) -> Result<Triggered, Error> {
        self.admit()?;
        let change = |held: &mut Held| {
            let decision = held.state.trigger(&held.plan, overlap, &held.live, held.now);
            Ok((decision, Write::Nothing))
        };
        let view = self.change(ns, of, None, change).await?;
        let mut recent = view.state.recent.into_iter();
        let found = recent.find(|recent| recent.by == By::Trigger);
        let found = found.ok_or(Error::Internal)?;
        Ok(Triggered { moment: found.moment, came: found.came })
    }

    /// Fires the moments of the past from `start` to `end`.
    pub async fn backfill_schedule(
        &self,
        ns: &Namespace,
        of: &ScheduleRef,
        backfill: Backfill,
    ) -> Result<ScheduleView, Error> {
        self.admit()?;
        let change = |held: &mut Held| {
            if held.state.backfills.len() >= MOST_BACKFILLS {
                let detail =
                    format!("{MOST_BACKFILLS} backfills are under way, which is the limit");
                return Err(Error::Invalid(String::new(), detail));
            }
            held.state.backfills.push_back(backfill.clone());
            Ok((held.decide(), Write::Nothing))
        };
        self.change(ns, of, None, change).await
    }

    /// Deletes a schedule; its runs go on.
    pub async fn delete_schedule(
        &self,
        ns: &Namespace,
        of: &ScheduleRef,
        version: Option<i32>,
    ) -> Result<(), Error> {
        let change = |held: &mut Held| {
            if held.row.owned {
                return Err(Error::ScheduleOwned { function: held.row.function.clone() });
            }
            Ok((Decision::default(), Write::Gone))
        };
        self.change(ns, of, version, change).await.map(drop)
    }

    /// The schedules that are part of the registration of these functions.
    pub(super) fn schedules_of(
        &self,
        ns: &Namespace,
        functions: &[FunctionSpec],
        by: &str,
    ) -> Vec<ScheduleRow> {
        let mut rows = Vec::new();
        for function in functions {
            for trigger in function.cron_triggers().unwrap_or_default() {
                rows.extend(self.owned(ns, &function.name, trigger, by));
            }
        }
        rows
    }

    /// The same registration again: its schedules are there, also where it was registered by a
    /// version that did not know of them.
    pub(super) async fn keep_schedules_of(
        &self,
        ns: &Namespace,
        functions: &[FunctionSpec],
        by: &str,
    ) -> Result<(), Error> {
        let schedules = self.schedules_of(ns, functions, by);
        if !schedules.is_empty() {
            let names: Vec<String> = functions.iter().map(|f| f.name.clone()).collect();
            self.store().own_schedules(ns.id, &names, &schedules).await?;
            self.nudge_schedules();
        }
        Ok(())
    }

    // --- parts ---------------------------------------------------------------------------------

    /// The schedule of a trigger. Its name follows from the trigger, so that the same one is found.
    fn owned(
        &self,
        ns: &Namespace,
        function: &str,
        trigger: CronTrigger,
        by: &str,
    ) -> Option<ScheduleRow> {
        let CronTrigger { spec, input } = trigger;
        let input =
            input.map_or_else(|| Bytes::from_static(b"null"), |i| Bytes::from(i.get().to_owned()));
        let written = to_bytes(&spec);
        let hash = Sha256::new()
            .chain_update(function)
            .chain_update([0])
            .chain_update(&written)
            .chain_update([0])
            .chain_update(&input)
            .finalize();
        let hash = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
        let (now, chance) = (self.clock().upper(), crate::clock::chance());
        let id = ScheduleId::anywhere(now, chance);
        let plan = Plan::of(id, spec).ok()?;
        let state = ScheduleState::new(self.clock().lower(), None);
        Some(ScheduleRow {
            id,
            ns: ns.id,
            name: format!("cron-{}-{hash:08x}", function.replace('/', ".")),
            function: function.to_owned(),
            owned: true,
            version: 1,
            next_at: state.wakes_at(&plan, &Decision::default(), now),
            created_at: now,
            updated_at: now,
            created_by: by.to_owned(),
            spec: written,
            input,
            state: to_bytes(&state),
            result: None,
        })
    }

    /// Refuses a function that nobody hosts, and without a `key` an object, for a moment is no key of
    /// one.
    async fn hosted(&self, ns: &Namespace, name: &str, keyed: bool) -> Result<(), Error> {
        let known = self.catalog().function(ns.id, name);
        let known = match known {
            Some(known) => Some(known),
            None => self.fresh_catalog().await?.function(ns.id, name),
        };
        let function = known.ok_or_else(|| Error::FunctionNotFound(name.to_owned()))?;
        let kind = self.catalog().deployment(function.dep).and_then(|d| d.kind_of(name));
        if !keyed && kind.is_some_and(RunKind::has_object) {
            let detail = format!(
                "`{name}` is an object, whose runs need a key that says of which one: give the \
                 schedule a `key`, or let it start a function that invokes the object"
            );
            return Err(Error::Invalid("/function".to_owned(), detail));
        }
        Ok(())
    }

    fn view_without_runs(&self, row: ScheduleRow) -> Result<ScheduleView, Error> {
        let (plan, state) = read(&row).map_err(|error| {
            tracing::error!(schedule.id = %row.id, error, "a schedule cannot be read");
            Error::Internal
        })?;
        let now = self.clock().upper();
        let coming = if state.is_spent() { Vec::new() } else { plan.coming(now, COMING) };
        Ok(ScheduleView { row, plan, state, running: Vec::new(), coming })
    }

    async fn schedule_view(&self, row: ScheduleRow) -> Result<ScheduleView, Error> {
        let running = self.store().live_of_schedule(row.id).await?;
        Ok(ScheduleView { running, ..self.view_without_runs(row)? })
    }

    /// Changes a schedule under its lock, and does what is due then, in one transaction.
    async fn change(
        &self,
        ns: &Namespace,
        of: &ScheduleRef,
        version: Option<i32>,
        change: impl Fn(&mut Held) -> Result<(Decision, Write), Error>,
    ) -> Result<ScheduleView, Error> {
        let gone = || Error::ScheduleNotFound(of.text.clone());
        for _ in 0..TRIES {
            let row = self.store().schedule(ns.id, of.id, &of.text).await?.ok_or_else(gone)?;
            let held = self.store().hold_schedule(row.id).await?;
            let (delivery, locked) = held.ok_or_else(gone)?;
            if version.is_some_and(|version| version != locked.row.version) {
                return Err(Error::ScheduleStale);
            }
            let id = locked.row.id;
            let mut held = Held::of(locked, self.clock().lower()).map_err(|error| {
                tracing::error!(schedule.id = %id, error, "a schedule cannot be read");
                Error::Internal
            })?;
            let (decision, write) = change(&mut held)?;
            match self.write(delivery, held, decision, write).await {
                Ok(row) => return self.schedule_view(row).await,
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "a change of a schedule is tried again");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::busy("the schedule keeps changing; try again"))
    }

    async fn write(
        &self,
        mut delivery: Delivery<'static>,
        mut held: Held,
        decision: Decision,
        write: Write,
    ) -> crate::store::Result<ScheduleRow> {
        let now = self.clock().upper();
        let id = held.row.id;
        match write {
            Write::Nothing => {}
            Write::State => delivery.touch_schedule(id, now).await?,
            Write::All => {
                let row = &held.row;
                let change = ScheduleChange {
                    id,
                    name: row.name.clone(),
                    function: row.function.clone(),
                    spec: row.spec.clone(),
                    input: row.input.clone(),
                };
                delivery.change_schedule(&change, now).await?;
            }
            Write::Gone => {
                delivery.delete_schedule(id).await?;
                delivery.commit().await?;
                return Ok(held.row);
            }
        }
        if !matches!(write, Write::Nothing) {
            held.row.version += 1;
            held.row.updated_at = now;
        }
        let turned = self.commit_turns(delivery, vec![(held, decision)]).await?;
        let mut held = turned.into_iter().next().expect("one goes in and one comes out");
        held.row.state = to_bytes(&held.state);
        Ok(held.row)
    }
}

impl Held {
    /// Decides what is due by the plan that it has, and has this one from then on.
    fn respecify(&mut self, spec: &Spec) -> Result<Decision, Error> {
        let old = &self.plan.spec;
        let decision = if old.same_times(spec) {
            self.state.decide(&self.plan, &self.live, self.now)
        } else {
            let decision = self.state.decide_at_last(&self.plan, &self.live, self.now);
            self.state.retimed(self.now);
            decision
        };
        if old.limited_actions != spec.limited_actions {
            self.state.remaining = spec.limited_actions;
        }
        self.plan = plan_of(self.row.id, spec.clone())?;
        self.row.spec = to_bytes(spec);
        self.again = true;
        Ok(decision)
    }
}

/// What is written of a schedule beside how it stands.
#[derive(Debug, Clone, Copy)]
enum Write {
    /// Nothing: no person has changed it.
    Nothing,
    /// That a person has changed how it stands.
    State,
    /// All that it is.
    All,
    /// It is deleted.
    Gone,
}

/// A specification, ready for use.
fn plan_of(id: ScheduleId, spec: Spec) -> Result<Plan, Error> {
    Plan::of(id, spec).map_err(|(field, detail)| Error::Invalid(field.to_owned(), detail))
}
