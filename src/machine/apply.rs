//! What a cause does to a run: the one place where the future of a run is decided.
//!
//! [`Run::apply`] changes the run at once and leaves the rows that make the change durable in
//! `run.next`. Nothing that follows from it may be shown before those rows are committed.

use std::time::Duration;

use bytes::Bytes;

use super::attempts::AttemptEnd;
use super::body::{Act, Attention, Limits, Policy, to_bytes};
use super::draft::Draft;
use super::op::{Answer, StepError};
use super::row::{Append, Attributes, Flags, HistoryEntry, Kind, Message, OpKind, Row};
use super::run::{End, Reason, Run, Turn};
use super::step::StepState;
use super::talk::{Report, Talk};
use super::time::Timestamp;
use super::tree::{Standing, Tree};

/// Epochs that may be issued past the last row without recording one.
pub const EPOCH_ROOM: i32 = 15;
/// How far a new owner jumps, so that it clears whatever the last one issued.
pub const EPOCH_BLOCK: i32 = 16;
/// Take-overs in a row without a settled step after which a run is suspected to kill its nodes.
const NODE_KILLER: u32 = 10;
/// Answers in a row without progress after which a run is paused.
pub(super) const NO_PROGRESS: u32 = 3;
/// Ends refused for unseen signals after which the run stops accepting.
pub(super) const REFUSED_ENDS: u32 = 2;
/// How long a handler may compensate after a cancel, unless the cancel says otherwise.
pub const CANCEL_GRACE: Duration = Duration::from_mins(1);

/// All that is impure, passed in.
#[derive(Debug, Clone, Copy)]
pub struct Env<'a> {
    /// Not earlier than the true cluster time: deadlines are computed from it.
    pub now: Timestamp,
    /// Not later than the true cluster time: deadlines are fired by it.
    pub past: Timestamp,
    /// Chance in [0, 1).
    pub jitter: f64,
    /// What is in force for this run.
    pub policy: &'a Policy,
    /// Limits of runs.
    pub limits: &'a Limits,
    /// A run that nothing can wake for so long leaves memory.
    pub horizon: Duration,
}

/// All that can happen to a run.
#[derive(Debug, Clone)]
pub enum Cause {
    /// The owner is free to invoke it, on this deployment.
    Free {
        /// The deployment.
        dep: i32,
    },
    /// The handler answered 200 with a well-formed answer.
    Answered {
        /// The fence of the exchange.
        epoch: i32,
        /// What it says.
        answer: Answer,
        /// How long the exchange took, in milliseconds.
        ms: i32,
    },
    /// A checkpoint, or a line, of an exchange that goes on.
    Reported(Report),
    /// The handler answered 202: it works on, and will be heard of at least once in a lease.
    Held {
        /// The fence of the exchange.
        epoch: i32,
        /// How long it may be silent.
        lease: Duration,
    },
    /// The exchange is over and has not said how its turn ends.
    Left {
        /// The fence of the exchange.
        epoch: i32,
        /// How it ended, in words.
        detail: String,
    },
    /// The exchange failed.
    Faulted {
        /// The fence of the exchange.
        epoch: i32,
        /// How.
        fault: Fault,
    },
    /// Messages of the inbox, in order.
    Drained(Vec<Message>),
    /// An attempt of a task or call has come to its end, or a task to its 202.
    AttemptEnded {
        /// Its step.
        step: String,
        /// Which, from 1.
        attempt: u32,
        /// How.
        end: AttemptEnd,
        /// How long it took, in milliseconds.
        ms: i32,
    },
    /// Whoever does a task gave a sign of life.
    Beat {
        /// Its step.
        step: String,
        /// How far it is, JSON.
        details: Option<Bytes>,
    },
    /// Time has passed.
    Tick,
    /// An operator lets the ended run go on.
    Reopened {
        /// Who and why.
        act: Act,
        /// When it is timed out from now on.
        deadline: Option<Timestamp>,
    },
    /// An append with an end lost because messages had come: here they are. The owner has set
    /// `drained` to the counter of accepted messages that it read with them, for a repeat of
    /// what is recorded may be counted and be in the inbox no more.
    GateLost {
        /// The append that lost.
        append: Append,
        /// What is in the inbox.
        messages: Vec<Message>,
    },
}

/// How an exchange failed.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Counts as an attempt, and is tried again.
    Retry {
        /// What happened, in words.
        detail: String,
        /// The HTTP status, if one came.
        status: Option<u16>,
        /// What `Retry-After` asked for, clamped.
        after: Option<Duration>,
    },
    /// What a plain function was posted has failed: another attempt by the policy of its steps, or
    /// the end.
    Post {
        /// How; its `retry` says whether another attempt makes sense.
        error: Box<StepError>,
        /// The HTTP status, if one came.
        status: Option<u16>,
        /// What `Retry-After` asked for, clamped.
        after: Option<Duration>,
    },
    /// Costs no attempt; the breaker of the endpoint decides when it is tried again.
    Unhealthy {
        /// What happened, in words.
        detail: String,
    },
    /// Costs no attempt and is tried again at once (a smaller body, an owner that went away).
    Again,
    /// Cannot be cured by trying again: the run is paused.
    Pause(Attention),
}

/// Why a cause does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The exchange is not the open one.
    StaleEpoch,
    /// The step waits for no such attempt: it has settled, or is at another.
    StaleAttempt,
    /// The run has ended.
    Ended,
    /// Nothing is due, or something stands in the way.
    NotDue,
}

impl Run {
    /// Decides what `cause` does.
    pub fn apply(&mut self, cause: Cause, env: &Env<'_>) -> Result<(), Refusal> {
        if self.ended() && !matches!(cause, Cause::GateLost { .. } | Cause::Reopened { .. }) {
            return Err(Refusal::Ended);
        }
        self.listened = env.policy.listened;
        match cause {
            Cause::Free { dep } => self.open(dep, env),
            Cause::Answered { epoch, answer, ms } => {
                let seen = self.close_open(epoch)?;
                self.answered(answer, ms, seen, env);
                Ok(())
            }
            Cause::Reported(report) => self.reported(report, env),
            Cause::Held { epoch, lease } => self.hold(epoch, lease, env),
            Cause::Left { epoch, detail } => self.left(epoch, detail, env),
            Cause::Faulted { epoch, fault } => {
                self.close_open(epoch)?;
                self.faulted(fault, env);
                Ok(())
            }
            Cause::Drained(messages) => {
                self.drain(&messages, env);
                Ok(())
            }
            Cause::AttemptEnded { step, attempt, end, ms } => {
                self.attempt_ended(&step, attempt, end, ms, env)
            }
            Cause::Beat { step, details } => self.task_beats(&step, details, env),
            Cause::Tick => self.tick(env),
            Cause::Reopened { act, deadline } => self.reopen(&act, deadline, env),
            Cause::GateLost { append, messages } => self.gate_lost(append, &messages, env),
        }
    }

    /// Whether the run wants an exchange now. Breakers and limits are the owner's business.
    #[must_use]
    pub fn wants_exchange(&self, now: Timestamp) -> bool {
        self.paused.is_none()
            && self.behind.is_none()
            && !self.continues()
            && matches!(self.turn, Turn::Due { not_before, .. } if not_before <= now)
    }

    /// The next moment at which time alone changes something; none if it never does. It may
    /// have come already: then a tick is due.
    #[must_use]
    pub fn next_wake(&self, past: Timestamp) -> Option<Timestamp> {
        let mut at = self.latest_end();
        let mut sooner = |t: Timestamp| at = Some(at.map_or(t, |a| a.min(t)));
        match &self.turn {
            Turn::Due { not_before, .. } if self.paused.is_none() && self.behind.is_none() => {
                sooner(*not_before);
            }
            Turn::Held { until, .. } => sooner(*until),
            Turn::Due { .. } | Turn::Open { .. } | Turn::Waiting { .. } => {}
            Turn::Ended { .. } => return at,
        }
        if matches!(self.turn, Turn::Waiting { .. }) || self.listens() {
            // What was due and did not satisfy the tree will not satisfy it by waiting.
            let looked = self.looked.min(past);
            let mut timers = self.timers.range((looked, i32::MAX)..);
            if let Some((due, _)) = timers.find(|(_, n)| !self.is_work(*n)) {
                sooner(*due);
            }
        }
        if let Some(due) = self.next_work(past) {
            sooner(due);
        }
        at
    }

    /// Lets a run that nothing can wake within the horizon leave memory: records what parks it.
    pub fn settle_down(&mut self, env: &Env<'_>) {
        if self.ended() || !self.next.rows.is_empty() {
            return;
        }
        if matches!(self.turn, Turn::Open { .. } | Turn::Held { .. }) {
            return;
        }
        let wake = self.next_wake(env.past);
        let near = |at: Timestamp| at <= env.now + env.horizon;
        if wake.is_some_and(near) {
            return;
        }
        // Parked already; but an alarm that has gone off, or does soon, for nothing must not go
        // off again and again.
        // And what kept it from its handler is not what it waits for any more.
        let told = self.alarm == wake || !self.alarm.is_some_and(near);
        if self.parked && told && self.gate.is_none() {
            return;
        }
        if let Some(attention) = self.paused.clone() {
            Draft::new(Kind::Paused, Flags::PARK)
                .due(wake)
                .body(to_bytes(&attention))
                .put(self, env.now);
        } else if let Turn::Waiting { tree } = &self.turn
            && !self.wants_signs_of_life()
            && !self.works_on(env.now + env.horizon)
        {
            let body = to_bytes(tree);
            Draft::new(Kind::Waits, Flags::PARK).due(wake).body(body).put(self, env.now);
        }
    }

    /// Takes what is to be appended, if anything: flags that depend on the whole are set here.
    pub fn seal(&mut self) -> Option<Append> {
        if self.next.rows.is_empty() {
            return None;
        }
        let fails = |r: &Row| matches!(r.kind, Kind::Paused | Kind::EndFailed | Kind::TimedOut);
        if self.next.rows.iter().any(fails) {
            self.next.failing = self.failing();
        }
        let terminated = self.next.rows.last().is_some_and(|r| r.kind == Kind::Terminated);
        self.next.drained = if terminated { -1 } else { self.drained };
        let gated = self.ended() || self.continues();
        if self.ended() {
            self.farewell();
            self.tell_of_end();
            let end = self.next.rows.last().map(|r| r.kind).filter(|kind| kind.ends());
            self.next.publication = end.and_then(|end| self.let_go_of_object(end));
        } else {
            self.unlisten();
            self.tell_of_pause();
            self.flip();
            self.next.gate = self.gate.filter(|_| self.parked);
            self.next.placement = self.moved();
        }
        if let Some(head) = self.next.rows.first_mut().filter(|_| gated) {
            head.flags.set(Flags::GATED);
        }
        Some(std::mem::take(&mut self.next))
    }

    /// Sets the flags by which the database learns whether the run is parked and whether it is
    /// closing. The last row that has one counts, and it always says both.
    fn flip(&mut self) {
        let rows = &mut self.next.rows;
        let mut at = rows.iter().rposition(|r| r.flags.has(Flags::PARK));
        let changed = self.parked != self.was_parked || self.closing != self.was_closing;
        if (at.is_some() && !self.parked) || (at.is_none() && changed) {
            // Parking needs a row that says until when; without one the run stays in memory.
            self.parked = false;
            for row in &mut *rows {
                row.flags.clear(Flags::PARK);
            }
            if let Some(last) = rows.last_mut() {
                last.flags.set(Flags::HOT);
            }
            at = rows.len().checked_sub(1);
        }
        if let Some(row) = at.and_then(|at| rows.get_mut(at))
            && self.closing
        {
            row.flags.set(Flags::CLOSING);
        }
        self.was_parked = self.parked;
        self.was_closing = self.closing;
    }

    // --- exchanges ---------------------------------------------------------------------------

    fn open(&mut self, dep: i32, env: &Env<'_>) -> Result<(), Refusal> {
        let Turn::Due { reason, .. } = self.turn else { return Err(Refusal::NotDue) };
        if !self.wants_exchange(env.now) {
            return Err(Refusal::NotDue);
        }
        if self.claims >= NODE_KILLER && self.fresh {
            self.pause(
                &Attention::new(
                    "node-killer",
                    format!(
                        "Its node died {NODE_KILLER} times in a row while it was being invoked. \
                         Look at what its handler sends, then resume it."
                    ),
                ),
                env,
                0,
            );
            return Ok(());
        }
        self.before = None;
        self.wake();
        let moves = self.dep != dep;
        self.dep = dep;
        if self.fresh {
            self.fresh = false;
            // Whatever the last owner issued is cleared by a whole block. An epoch of 0 was
            // lent to nobody.
            self.epoch = if self.row_epoch == 0 { 1 } else { self.row_epoch + EPOCH_BLOCK };
            Draft::new(Kind::Claimed, 0).put(self, env.now);
        } else {
            if self.epoch + 1 > self.row_epoch + EPOCH_ROOM {
                let fault = self.fault_body("epochs used up without a row");
                Draft::new(Kind::Fault, 0).due(Some(env.past)).body(fault).put(self, env.now);
            } else if moves {
                self.note_move(env);
            }
            self.epoch += 1;
        }
        self.interrupt(env);
        self.fire(env);
        self.offered = env.past;
        self.talk = Talk::begun(self.epoch, self.seq);
        self.invoked = true;
        self.invocations += 1;
        self.started_at.get_or_insert(env.now);
        self.turn = Turn::Open {
            epoch: self.epoch,
            reason,
            at: env.now,
            unseen: false,
            saw_cancel: self.cancel.is_some(),
        };
        Ok(())
    }

    /// At-most-once steps whose licence has run out have failed.
    fn interrupt(&mut self, env: &Env<'_>) {
        let out: Vec<String> = self
            .pending
            .values()
            .filter(|id| {
                let state = self.steps.get(*id).map(|s| &s.state);
                matches!(state, Some(StepState::Begun { licence, .. }) if *licence < self.epoch)
            })
            .cloned()
            .collect();
        for id in out {
            let error = StepError::of_gateway(
                "step-interrupted",
                "the step had begun when its invocation was lost; whether it ran is not known",
            );
            Draft::new(Kind::Failed, 0)
                .step(&id, OpKind::Run)
                .body(error.to_bytes())
                .put(self, env.now);
        }
    }

    /// The same for what only an open exchange can bring: one that is held has been answered.
    fn close_open(&mut self, epoch: i32) -> Result<Seen, Refusal> {
        match self.turn {
            Turn::Open { .. } => self.close_exchange(epoch),
            _ => Err(Refusal::StaleEpoch),
        }
    }

    // --- time --------------------------------------------------------------------------------

    fn tick(&mut self, env: &Env<'_>) -> Result<(), Refusal> {
        if self.deadline.is_some_and(|at| at <= env.past) {
            let error = StepError::of_gateway("run-timed-out", "the run's deadline has passed");
            self.end(
                End { kind: Kind::TimedOut, body: Some(error.to_bytes()), holdable: false, ms: 0 },
                env,
            );
            return Ok(());
        }
        if self.start_by().is_some_and(|at| at <= env.past) {
            let error = StepError::of_gateway(
                "not-started-in-time",
                "the run was not invoked within `timeouts.start`",
            );
            self.end(
                End { kind: Kind::TimedOut, body: Some(error.to_bytes()), holdable: false, ms: 0 },
                env,
            );
            return Ok(());
        }
        if self.cancel.as_ref().is_some_and(|c| c.deadline <= env.past) {
            self.end(End { kind: Kind::Cancelled, body: None, holdable: false, ms: 0 }, env);
            return Ok(());
        }
        let expired = self.expire_works(env);
        match &self.turn {
            Turn::Waiting { .. } => self.look_at_tree(Reason::Progress, env),
            Turn::Held { until, .. } if *until <= env.past => {
                self.lapse(env);
            }
            _ if self.listens() => self.listen(env),
            _ if expired => {}
            _ => return Err(Refusal::NotDue),
        }
        Ok(())
    }

    /// While waiting: goes on if the tree is satisfied, by what is settled or by what is due, or
    /// if a step's next attempt is due.
    pub(super) fn look_at_tree(&mut self, reason: Reason, env: &Env<'_>) {
        let Turn::Waiting { tree } = &self.turn else { return };
        let goes_on = self.goes_on(tree, env.past);
        self.looked = env.past;
        match goes_on {
            Some(GoesOn::Satisfied) => {
                self.fire(env);
                self.turn = Turn::Due { reason, not_before: env.past };
            }
            Some(GoesOn::Attempt) => {
                self.turn = Turn::Due { reason: Reason::Retry, not_before: env.past };
            }
            None => return,
        }
        self.wake();
    }

    /// Why a run that waits for `tree` may go on, if it may.
    pub(super) fn goes_on(&self, tree: &Tree, past: Timestamp) -> Option<GoesOn> {
        let standing = |id: &str| match self.steps.get(id).map(|s| (s.op, &s.state)) {
            // A task's or call's end is recorded when it comes.
            Some((op, StepState::Asked { due: Some(due), .. }))
                if *due <= past && !op.is_work() =>
            {
                if op == OpKind::Sleep {
                    Standing::Value
                } else {
                    Standing::Failed
                }
            }
            _ => self.in_tree(id),
        };
        if tree.standing(&standing) != Standing::Pending {
            return Some(GoesOn::Satisfied);
        }
        let attempt = self.timers.range(..=(past, i32::MAX)).any(|(due, n)| {
            let id = self.pending.get(n);
            let step = id.and_then(|id| self.steps.get(id));
            // The gateway makes the attempts of tasks and calls without the handler.
            let trying = step
                .is_some_and(|s| !s.op.is_work() && matches!(s.state, StepState::Trying { .. }));
            // An attempt that was offered and not made is one that the handler gave up, as new
            // code without that step does, unless it waits for it.
            let offered = *due <= self.offered;
            trying && (!offered || id.is_some_and(|id| tree.steps().contains(&id.as_str())))
        });
        attempt.then_some(GoesOn::Attempt)
    }

    /// Settles what is due by itself, in order of (due, n of the ask).
    pub(super) fn fire(&mut self, env: &Env<'_>) {
        let due: Vec<i32> = self.timers.range(..=(env.past, i32::MAX)).map(|(_, n)| *n).collect();
        for n in due {
            let Some(id) = self.pending.get(&n).cloned() else { continue };
            let Some(step) = self.steps.get(&id) else { continue };
            if !matches!(step.state, StepState::Asked { .. }) {
                continue;
            }
            let op = step.op;
            if op == OpKind::Sleep {
                Draft::new(Kind::Done, 0)
                    .step(&id, op)
                    .body(Bytes::from_static(b"null"))
                    .put(self, env.now);
            } else {
                let error =
                    StepError::of_gateway("timed-out", format!("no {} came in time", op.word()));
                Draft::new(Kind::Failed, 0).step(&id, op).body(error.to_bytes()).put(self, env.now);
            }
        }
    }

    // --- small things ------------------------------------------------------------------------

    /// Pauses the run; an exchange that is open may still answer.
    pub(super) fn pause(&mut self, attention: &Attention, env: &Env<'_>, flags: i16) {
        Draft::new(Kind::Paused, flags | Flags::PARK)
            .due(self.latest_end())
            .body(to_bytes(attention))
            .put(self, env.now);
    }

    /// The run is to be driven: if the database says parked, the next append says otherwise.
    pub(super) fn wake(&mut self) {
        self.parked = false;
    }

    /// Notes something for the history that is no row.
    pub fn note(&mut self, at: Timestamp, epoch: i32, what: &str, by: &str, data: Bytes) {
        // Entries are known by their time and their place within one append; rows are not earlier
        // than what was told before them.
        let mut at = at.max(self.last_at);
        if self.next.history.is_empty() && at <= self.last_note {
            at = self.last_note + Duration::from_micros(1);
            self.last_at = at;
        }
        self.last_note = at;
        self.next.history.push(HistoryEntry {
            at,
            epoch,
            what: what.to_owned(),
            by: by.to_owned(),
            data,
        });
    }

    /// Tags or status changed: lists are to show it.
    pub(super) fn project_attributes(&mut self) {
        self.next.attributes = Some(Attributes {
            tags: serde_json::to_string(&self.tags).expect("strings serialise"),
            custom_status: self.custom_status.clone(),
        });
    }
}

/// Why a run that waits goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GoesOn {
    /// Its tree is satisfied, by what is settled or by what is due.
    Satisfied,
    /// A step's next attempt is due.
    Attempt,
}

/// What an exchange had seen when it was opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Every signal accepted until now.
    pub(super) signals: bool,
    /// The cancel, if there is one.
    pub(super) cancel: bool,
}
