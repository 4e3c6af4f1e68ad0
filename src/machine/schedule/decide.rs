//! What a schedule does at a moment: a function of its specification, its state, the time, and which
//! of its runs are live.

use std::time::Duration;

use super::spec::{Overlap, Plan};
use super::state::{By, Came, MOST_WAITING, ScheduleState, Waiting};
use crate::machine::id::RunId;
use crate::machine::time::Timestamp;

/// How many runs one decision starts.
const STARTS: usize = 100;
/// How many moments one decision looks at.
const MOMENTS: usize = 10_000;
/// How often who waits for a run to end looks for itself.
const RECHECK: Duration = Duration::from_mins(1);

/// How a run is made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It may compensate.
    Cancel,
    /// At once.
    Terminate,
}

/// A run to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Firing {
    /// Its moment.
    pub moment: Timestamp,
    /// What it comes of.
    pub by: By,
    /// Also if the moment has had a run.
    pub again: bool,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Runs to be started, in order.
    pub start: Vec<Firing>,
    /// Runs to be ended.
    pub end: Vec<(RunId, Way)>,
    /// There is more to decide right away.
    more: bool,
}

/// How many further runs may be live.
struct Room(usize);

impl Room {
    fn of(plan: &Plan, overlap: Overlap, live: usize) -> Self {
        if overlap == Overlap::AllowAll {
            return Self(usize::MAX);
        }
        let most = usize::try_from(plan.spec.max_running).unwrap_or(usize::MAX);
        Self(most.saturating_sub(live))
    }

    const fn take(&mut self) {
        if self.0 != usize::MAX {
            self.0 -= 1;
        }
    }
}

impl ScheduleState {
    /// Decides all that is due: what waits and may start, moments that have come, backfills. `live`
    /// are its runs that have not ended, the oldest first.
    pub fn decide(&mut self, plan: &Plan, live: &[RunId], now: Timestamp) -> Decision {
        let mut decision = Decision::default();
        self.leaving.retain(|run| live.contains(run));
        self.go_on(plan, live, &mut decision);
        self.due(plan, live, now, true, &mut decision);
        self.fill(plan, live, &mut decision);
        decision
    }

    /// The same before the plan is changed: a moment that has come and is put off by jitter is not
    /// put off any longer, for nobody would know of it after that.
    pub fn decide_at_last(&mut self, plan: &Plan, live: &[RunId], now: Timestamp) -> Decision {
        let mut decision = self.decide(plan, live, now);
        self.due(plan, live, now, false, &mut decision);
        decision
    }

    /// Somebody asks for a run now; `overlap` in place of the schedule's own policy. What became of
    /// it is the newest of `recent`, or a start in the decision.
    pub fn trigger(
        &mut self,
        plan: &Plan,
        overlap: Option<Overlap>,
        live: &[RunId],
        now: Timestamp,
    ) -> Decision {
        let mut decision = self.decide(plan, live, now);
        let overlap = overlap.unwrap_or(plan.spec.overlap);
        self.admit(plan, now, By::Trigger, overlap, live, now, &mut decision);
        decision
    }

    /// When there is something to decide next; none: not before something happens to it.
    #[must_use]
    pub fn wakes_at(&self, plan: &Plan, decision: &Decision, now: Timestamp) -> Option<Timestamp> {
        if decision.more {
            return Some(now);
        }
        let next = if self.paused.is_some() || self.is_spent() {
            None
        } else {
            plan.after(self.upto).map(|moment| plan.fires_at(moment))
        };
        let waits = self.waiting.iter().any(|w| self.may_start(w)) || !self.backfills.is_empty();
        let again = waits.then(|| now + RECHECK);
        next.into_iter().chain(again).min()
    }

    /// A start was made.
    pub fn started(&mut self, firing: &Firing, run: RunId, now: Timestamp) {
        self.note(firing.moment, firing.by, now, Came::Started { run, ended: None });
    }

    /// A start could not be made; `why` is a word.
    pub fn refused(&mut self, firing: &Firing, why: &str, now: Timestamp) {
        self.give_back(firing.by);
        self.skip(firing.moment, firing.by, now, why);
    }

    /// While it is paused only what somebody asked for starts.
    fn may_start(&self, waiting: &Waiting) -> bool {
        self.paused.is_none() || waiting.by != By::Schedule
    }

    /// What waits starts as far as there is room.
    fn go_on(&mut self, plan: &Plan, live: &[RunId], decision: &mut Decision) {
        let mut room = Room::of(plan, plan.spec.overlap, live.len());
        while room.0 > 0 {
            let Some(place) = self.waiting.iter().position(|w| self.may_start(w)) else { return };
            if decision.start.len() >= STARTS {
                decision.more = true;
                return;
            }
            let Some(Waiting { moment, by }) = self.waiting.remove(place) else { return };
            decision.start.push(Firing { moment, by, again: false });
            room.take();
        }
    }

    /// Moments that have come, in order.
    fn due(
        &mut self,
        plan: &Plan,
        live: &[RunId],
        now: Timestamp,
        jittered: bool,
        decision: &mut Decision,
    ) {
        if self.paused.is_some() {
            return;
        }
        for looked in 0.. {
            if self.is_spent() {
                return;
            }
            let Some(moment) = plan.after(self.upto) else { return };
            let due = if jittered { plan.fires_at(moment) } else { moment };
            if due > now {
                return;
            }
            if looked >= MOMENTS || decision.start.len() >= STARTS {
                decision.more = true;
                return;
            }
            self.upto = moment;
            if now.since(due) > plan.spec.catchup_window {
                self.note(moment, By::Schedule, now, Came::Missed);
            } else {
                let overlap = plan.spec.overlap;
                self.admit(plan, moment, By::Schedule, overlap, live, now, decision);
            }
        }
    }

    /// Moments of the past, as far as there is room. What waits goes first.
    fn fill(&mut self, plan: &Plan, live: &[RunId], decision: &mut Decision) {
        let mut looked = 0;
        while let Some(backfill) = self.backfills.front() {
            let overlap = if backfill.at_once { Overlap::AllowAll } else { Overlap::BufferAll };
            let mut room = Room::of(plan, overlap, live.len() + decision.start.len());
            let (again, until) = (backfill.again, backfill.until);
            let mut upto = backfill.upto;
            let done = loop {
                let next = plan.unbounded_after(upto).filter(|moment| *moment <= until);
                let Some(moment) = next else { break true };
                if decision.start.len() >= STARTS || looked >= MOMENTS {
                    decision.more = true;
                    break false;
                }
                if room.0 == 0 || (!self.waiting.is_empty() && overlap != Overlap::AllowAll) {
                    break false;
                }
                room.take();
                looked += 1;
                upto = moment;
                decision.start.push(Firing { moment, by: By::Backfill, again });
            };
            if !done {
                if let Some(backfill) = self.backfills.front_mut() {
                    backfill.upto = upto;
                }
                return;
            }
            self.backfills.pop_front();
        }
    }

    /// One moment: a start, a start that waits, or nothing.
    #[expect(clippy::too_many_arguments, reason = "what a decision is made of")]
    fn admit(
        &mut self,
        plan: &Plan,
        moment: Timestamp,
        by: By,
        overlap: Overlap,
        live: &[RunId],
        now: Timestamp,
        decision: &mut Decision,
    ) {
        let firing = Firing { moment, by, again: false };
        let room = Room::of(plan, overlap, live.len() + decision.start.len());
        if overlap == Overlap::AllowAll || (room.0 > 0 && self.waiting.is_empty()) {
            self.spend(by);
            decision.start.push(firing);
            return;
        }
        match overlap {
            Overlap::AllowAll => {}
            Overlap::Skip => self.skip(moment, by, now, "overlap"),
            Overlap::BufferOne if self.waiting.is_empty() => self.wait(firing, now),
            Overlap::BufferAll if self.waiting.len() < MOST_WAITING => self.wait(firing, now),
            Overlap::BufferOne | Overlap::BufferAll => self.skip(moment, by, now, "buffer-full"),
            Overlap::CancelOther => self.make_room(firing, Way::Cancel, live, now, decision),
            Overlap::TerminateOther => self.make_room(firing, Way::Terminate, live, now, decision),
        }
    }

    /// The newest start takes the place of the oldest run, or of one that waits for that place.
    fn make_room(
        &mut self,
        firing: Firing,
        way: Way,
        live: &[RunId],
        now: Timestamp,
        decision: &mut Decision,
    ) {
        if let Some(waiting) = self.waiting.pop_back() {
            self.give_back(waiting.by);
            self.skip(waiting.moment, waiting.by, now, "replaced");
            self.wait(firing, now);
        } else if let Some(run) = live.iter().find(|run| !self.leaving.contains(run)) {
            self.leaving.push(*run);
            decision.end.push((*run, way));
            self.wait(firing, now);
        } else if decision.start.is_empty() {
            self.wait(firing, now);
        } else {
            let replaced = decision.start.remove(0);
            self.give_back(replaced.by);
            self.skip(replaced.moment, replaced.by, now, "replaced");
            self.spend(firing.by);
            decision.start.push(firing);
        }
    }

    fn wait(&mut self, firing: Firing, now: Timestamp) {
        let Firing { moment, by, .. } = firing;
        self.spend(by);
        self.waiting.push_back(Waiting { moment, by });
        self.note(moment, by, now, Came::Waiting);
    }

    /// Only what it starts by itself counts against its limit.
    fn spend(&mut self, by: By) {
        if let (By::Schedule, Some(left)) = (by, &mut self.remaining) {
            *left = left.saturating_sub(1);
        }
    }

    fn give_back(&mut self, by: By) {
        if let (By::Schedule, Some(left)) = (by, &mut self.remaining) {
            *left += 1;
        }
    }
}
