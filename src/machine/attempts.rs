//! Work that the gateway does for a step, attempt by attempt: tasks and calls.
//!
//! A step's `asked` and `tried` rows say what is wanted; which attempt is out is known to this
//! memory alone. Whoever loads the run anew sends the same attempt again.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;

use super::apply::{Env, Refusal};
use super::body::{Attention, to_bytes};
use super::draft::Draft;
use super::op::{Again, StepError};
use super::retry::RetrySpec;
use super::row::{Kind, Message, MessageKind, OpKind};
use super::run::{Mail, Reason, Run};
use super::step::{Step, StepState};
use super::time::Timestamp;
use super::turn::tried;
use super::works::{Open, Work};

/// Details of signs of life are recorded at most once in so long.
const BEAT_EVERY: Duration = Duration::from_secs(10);

/// How an attempt came out.
#[derive(Debug, Clone)]
pub enum AttemptEnd {
    /// The step has its value.
    Value(Bytes),
    /// It failed; the step's policy says whether another follows.
    Failed(StepError),
    /// A task was accepted with 202.
    Held,
    /// It never began, or the endpoint is unhealthy: it counts as none.
    Unburnt,
}

/// An attempt that is to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptDue {
    /// The step.
    pub step: String,
    /// Task or call.
    pub op: OpKind,
    /// Which attempt, from 1.
    pub attempt: u32,
}

impl OpKind {
    /// Whether the gateway itself does the work, in attempts.
    #[must_use]
    pub const fn is_work(self) -> bool {
        matches!(self, Self::Task | Self::Call)
    }
}

impl Run {
    /// The attempts that may begin now: they were asked for by a row before `before`, which is
    /// committed; their moment has come; their limit has room.
    #[must_use]
    pub fn attempts_due(&self, past: Timestamp, before: i32) -> Vec<AttemptDue> {
        let mut due = Vec::new();
        if self.paused.is_some() || self.ended() {
            return due;
        }
        let mut begun: HashMap<&str, u32> = HashMap::new();
        for n in self.works.idle.range(..before) {
            let Some(id) = self.pending.get(n) else { continue };
            let (Some(step), Some(work)) = (self.steps.get(id), self.works.get(id)) else {
                continue;
            };
            if matches!(step.state, StepState::Trying { due, .. } if due > past) {
                continue;
            }
            let task = work.terms.task.as_deref();
            let others = task.and_then(|task| begun.get(task)).copied().unwrap_or(0);
            if !self.works.has_room(work, others) {
                continue;
            }
            if let Some(task) = task {
                *begun.entry(task).or_default() += 1;
            }
            due.push(AttemptDue { step: id.clone(), op: step.op, attempt: step.attempts + 1 });
        }
        due
    }

    /// An attempt's request goes out.
    pub fn attempt_out(&mut self, step: &str) {
        if let Some(n) = self.place_of(step) {
            self.works.turn(step, n, |work| work.open = Open::Out);
        }
    }

    /// Whether the callback address settles this task: an attempt was answered 202, or may be
    /// just now.
    #[must_use]
    pub fn is_called_back(&self, step: &str) -> bool {
        self.works.get(step).is_some_and(|work| work.accepted || work.open == Open::Out)
    }

    /// Whether a pending step is a task or call.
    pub(super) fn is_work(&self, n: i32) -> bool {
        self.pending.get(&n).is_some_and(|id| self.works.get(id).is_some())
    }

    /// Where a step stands in `pending`.
    pub(super) fn place_of(&self, step: &str) -> Option<i32> {
        match self.steps.get(step).map(|s| &s.state)? {
            StepState::Asked { n, .. }
            | StepState::Trying { n, .. }
            | StepState::Begun { n, .. } => Some(*n),
            StepState::Settled { .. } | StepState::Closed => None,
        }
    }

    /// When a task or call does something next: an attempt begins, or time is up.
    pub(super) fn next_work(&self, past: Timestamp) -> Option<Timestamp> {
        if self.paused.is_some() {
            return None;
        }
        let next = self.works.idle.iter().filter_map(|n| {
            match self.steps.get(self.pending.get(n)?).map(|s| &s.state)? {
                StepState::Trying { due, .. } if *due > past => Some(*due),
                _ => None,
            }
        });
        next.chain(self.works.next_expiry()).min()
    }

    /// Whether tasks or calls keep the run in memory: requests that are out or go out before
    /// `near`, and tasks whose signs of life are known here alone.
    pub(super) fn works_on(&self, near: Timestamp) -> bool {
        let held =
            |work: &Work| work.terms.heartbeat.is_some() && matches!(work.open, Open::Held { .. });
        let begins = |n: &i32| {
            let Some(id) = self.pending.get(n) else { return false };
            let later = |s: &Step| matches!(s.state, StepState::Trying { due, .. } if due > near);
            // What has no room waits for the end of another, which wakes the run.
            self.works.get(id).is_some_and(|work| self.works.has_room(work, 0))
                && !self.steps.get(id).is_some_and(later)
        };
        self.works.out > 0
            || self.works.idle.iter().any(begins)
            || self.works.by_step.values().any(held)
    }

    /// An attempt of a task or call has come to its end, or to its 202.
    pub(super) fn attempt_ended(
        &mut self,
        step: &str,
        attempt: u32,
        end: AttemptEnd,
        ms: i32,
        env: &Env<'_>,
    ) -> Result<(), Refusal> {
        let known = self.steps.get(step).map(|s| (s.op, s.attempts + 1));
        let (Some(work), Some((op, current))) = (self.works.get(step), known) else {
            return Err(Refusal::StaleAttempt);
        };
        // Sent twice, because the run changed hands: the first 202 counts, and any value.
        let held = matches!(work.open, Open::Held { .. });
        if attempt != current || (held && !matches!(end, AttemptEnd::Value(_))) {
            return Err(Refusal::StaleAttempt);
        }
        // Where it was sent twice the run may have been parked meanwhile: it is to be found for what
        // follows.
        self.wake();
        match end {
            AttemptEnd::Value(value) => {
                Draft::new(Kind::Done, 0).step(step, op).body(value).ms(ms).put(self, env.now);
            }
            AttemptEnd::Failed(error) => self.attempt_failed(step, error, ms, None, env),
            AttemptEnd::Held => self.hold_work(step, ms, env),
            AttemptEnd::Unburnt => {
                if let Some(n) = self.place_of(step) {
                    self.works.turn(step, n, |work| work.open = Open::No);
                }
                return Ok(());
            }
        }
        self.look_at_tree(Reason::Progress, env);
        self.listen(env);
        Ok(())
    }

    /// A task was accepted with 202.
    fn hold_work(&mut self, step: &str, ms: i32, env: &Env<'_>) {
        let Some(work) = self.works.get(step) else { return };
        let spent = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        let bound = work.terms.timeout.map(|t| t.saturating_sub(spent));
        let until = bound.into_iter().chain(work.terms.heartbeat).min().map(|t| env.now + t);
        Draft::new(Kind::Held, 0).step(step, OpKind::Task).due(until).ms(ms).put(self, env.now);
        // Whoever does the work may have been faster than the 202.
        let kept = self.buffered.get(&(Mail::Callback, step.to_owned()));
        let Some(m) = kept.and_then(|queue| queue.front()).cloned() else { return };
        let refer = Took { refer: m.id.uuid(), pos: 0 };
        self.called_back(step, m.kind, m.body, refer, env);
    }

    /// A pending task's callback address was used: it settles the task, is kept while a request
    /// is out whose 202 may be on its way, or comes too late.
    pub(super) fn task_called_back(&mut self, m: &Message, env: &Env<'_>) {
        let Some(work) = self.works.get(&m.name) else { return };
        let held = matches!(work.open, Open::Held { .. });
        // A value is one, whichever attempt it is of; an error ends an attempt that is open.
        if held || (work.accepted && m.kind == MessageKind::CallbackValue) {
            let took = Took { refer: m.id.uuid(), pos: m.pos };
            self.called_back(&m.name, m.kind, m.body.clone(), took, env);
        } else if work.open == Open::Out {
            self.buffer(m, OpKind::Callback, env);
        } else {
            Draft::new(Kind::Late, 0).step(&m.name, OpKind::Task).took(m).put(self, env.now);
        }
    }

    fn called_back(
        &mut self,
        step: &str,
        kind: MessageKind,
        body: Bytes,
        took: Took,
        env: &Env<'_>,
    ) {
        if kind == MessageKind::CallbackError {
            let error = serde_json::from_slice(&body)
                .unwrap_or_else(|e| StepError::of_gateway("malformed-error", e.to_string()));
            self.attempt_failed(step, error, 0, Some(took), env);
        } else {
            took.by(Draft::new(Kind::Done, 0).step(step, OpKind::Task).body(body))
                .put(self, env.now);
        }
    }

    /// An attempt failed: another follows, or the step has failed.
    fn attempt_failed(
        &mut self,
        step: &str,
        mut error: StepError,
        ms: i32,
        took: Option<Took>,
        env: &Env<'_>,
    ) {
        let Some(Step { op, attempts, .. }) = self.steps.get(step) else { return };
        let Some(work) = self.works.get(step) else { return };
        let (op, attempt, first) = (*op, attempts + 1, work.asked_at);
        error.attempts = Some(attempt);
        let policy = work.terms.retry.unwrap_or_default().over(&env.policy.step);
        let asked = error.after_ms.map(Duration::from_millis);
        let next = match error.retry {
            Again::Never => None,
            Again::Pause => Some(env.now),
            Again::Default => policy.next(attempt, first, env.now, asked, env.jitter),
        };
        if next.is_some()
            && let Some(details) = work.fresh.clone()
        {
            // What the next attempt is told must be recorded before.
            Draft::new(Kind::Beat, 0).step(step, op).body(details).put(self, env.now);
        }
        let draft = match next {
            None => Draft::new(Kind::Failed, 0).body(error.to_bytes()),
            Some(due) => {
                // A run that was parked is to be found for its next attempt.
                self.wake();
                Draft::new(Kind::Tried, 0).due(Some(due)).body(tried(attempt, first, &error))
            }
        };
        let draft = draft.step(step, op).ms(ms);
        match took {
            Some(took) => took.by(draft),
            None => draft,
        }
        .put(self, env.now);
        if error.retry == Again::Pause {
            let detail =
                format!("Step `{step}` asks for a person: {}: {}", error.kind, error.message);
            // As an operator's pause: an exchange that is open goes on.
            let attention = to_bytes(&Attention::new("step-asks", detail));
            Draft::new(Kind::Paused, 0).body(attention).put(self, env.now);
        }
    }

    /// Whoever does a task lives, and may say how far it is.
    pub(super) fn task_beats(
        &mut self,
        step: &str,
        details: Option<Bytes>,
        env: &Env<'_>,
    ) -> Result<(), Refusal> {
        self.task_lives(step, env.now);
        let work = self.works.by_step.get_mut(step).ok_or(Refusal::StaleAttempt)?;
        let Some(details) = details else { return Ok(()) };
        if work.beat_at.is_some_and(|at| env.now < at + BEAT_EVERY) {
            work.fresh = Some(details);
            return Ok(());
        }
        Draft::new(Kind::Beat, 0).step(step, OpKind::Task).body(details).put(self, env.now);
        Ok(())
    }

    /// A task that was accepted is not silent for its heartbeat's length from now.
    pub(super) fn task_lives(&mut self, step: &str, now: Timestamp) {
        let Some(n) = self.place_of(step) else { return };
        self.works.turn(step, n, |work| {
            if let (Some(heartbeat), Open::Held { bound, until }) =
                (work.terms.heartbeat, &mut work.open)
            {
                let silent = now + heartbeat;
                *until = Some(bound.map_or(silent, |end| end.min(silent)));
            }
        });
    }

    /// Settles what took too long, and ends attempts that did; whether there were any.
    pub(super) fn expire_works(&mut self, env: &Env<'_>) -> bool {
        if self.paused.is_some() {
            return false;
        }
        let mut any = false;
        while let Some((at, step)) = self.works.expiries.first().cloned() {
            if at > env.past {
                break;
            }
            any = true;
            if self.works.get(&step).is_none() {
                self.works.expiries.remove(&(at, step));
                continue;
            }
            let over = |work: &Work| work.deadline.is_some_and(|end| end <= env.past);
            if self.works.get(&step).is_some_and(over) {
                let op = self.steps.get(&step).map_or(OpKind::Task, |s| s.op);
                let error = StepError::of_gateway(
                    "timed-out",
                    format!("the {} was not done within its `max_elapsed`", op.word()),
                );
                Draft::new(Kind::Failed, 0)
                    .step(&step, op)
                    .body(error.to_bytes())
                    .put(self, env.now);
            } else {
                let error = StepError {
                    retry: Again::Default,
                    ..StepError::of_gateway(
                        "timed-out",
                        "the task was accepted with 202, and neither an outcome nor a sign of \
                         life came in time",
                    )
                };
                self.attempt_failed(&step, error, 0, None, env);
            }
        }
        any
    }
}

/// The message that a row takes.
#[derive(Clone, Copy)]
struct Took {
    refer: uuid::Uuid,
    pos: i32,
}

impl Took {
    fn by(self, draft: Draft) -> Draft {
        draft.taking(self.refer, self.pos)
    }
}

/// When the step of a task or call fails, whatever its attempts do.
pub(super) fn deadline(retry: Option<RetrySpec>, env: &Env<'_>) -> Option<Timestamp> {
    retry.unwrap_or_default().over(&env.policy.step).max_elapsed.map(|most| env.now + most)
}
