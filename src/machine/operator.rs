//! What operators do to single steps, to a run's deployment and to a run that has ended.

use super::apply::{Env, Refusal};
use super::body::{Act, Noted, Settlement, to_bytes};
use super::draft::Draft;
use super::row::{Flags, Kind, Message, OpKind, Placement, Row};
use super::run::{AT_ONCE, Reason, Run, Turn};
use super::step::StepState;
use super::time::Timestamp;

impl Run {
    /// A step gets an outcome that no handler reported.
    pub(super) fn settle_by_hand(&mut self, m: &Message, env: &Env<'_>) {
        let Ok(settlement) = serde_json::from_slice::<Settlement>(&m.body) else {
            return self.too_late(m, OpKind::Run, env);
        };
        let op = match self.steps.get(&m.name) {
            Some(step) if matches!(step.state, StepState::Settled { .. }) => {
                return self.too_late(m, step.op, env);
            }
            Some(step) => step.op,
            None => match settlement.op.and_then(OpKind::from_code) {
                Some(op) => op,
                None => return self.too_late(m, OpKind::Run, env),
            },
        };
        let (kind, word) =
            if settlement.ok { (Kind::Done, "completed") } else { (Kind::Failed, "failed") };
        self.wake();
        Draft::new(kind, Flags::BY_HAND)
            .step(&m.name, op)
            .body(settlement.outcome.get().to_owned().into())
            .took(m)
            .put(self, env.now);
        if !settlement.copied {
            let data = serde_json::json!({"step": m.name, "reason": settlement.reason});
            let what = format!("step.{word}_by_hand");
            self.note(env.now, self.row_epoch, &what, &settlement.by, to_bytes(&data));
        }
    }

    /// A step's next attempt is due now; one that has failed for good, in a run that stands still,
    /// is taken back and so is run again.
    pub(super) fn hurry_step(&mut self, m: &Message, env: &Env<'_>) {
        let step = self.steps.get(&m.name).map(|s| (s.op, &s.state));
        let (kind, op) = match step {
            Some((op, StepState::Trying { .. })) => (Kind::Resumed, op),
            Some((op, StepState::Settled { ok: false, .. })) if self.paused.is_some() => {
                (Kind::Retaken, op)
            }
            Some((op, _)) => return self.too_late(m, op, env),
            None => return self.too_late(m, OpKind::Run, env),
        };
        self.wake();
        Draft::new(kind, 0).step(&m.name, op).body(m.body.clone()).took(m).put(self, env.now);
    }

    /// The run goes on with another deployment, from its next invocation on.
    pub(super) fn repin(&mut self, m: &Message, env: &Env<'_>) {
        let act: Act = serde_json::from_slice(&m.body).unwrap_or_default();
        let noted = Noted { pin: act.deployment, act: Some(act), ..Noted::default() };
        Draft::new(Kind::Noted, 0).body(to_bytes(&noted)).took(m).put(self, env.now);
    }

    /// It is about to be invoked on another deployment than before: that is recorded first, so that
    /// whoever asks which deployments are needed, and a new owner, knows of it.
    pub(super) fn note_move(&mut self, env: &Env<'_>) {
        let noted = Noted { moved: true, ..Noted::default() };
        Draft::new(Kind::Noted, 0).body(to_bytes(&noted)).put(self, env.now);
    }

    /// Which deployment it needs, if that is not what the database tells; from now on it will.
    pub(super) fn moved(&mut self) -> Option<Placement> {
        let place = self.placement();
        (self.placed.replace(place) != Some(place)).then_some(place)
    }

    /// Which deployment it needs.
    #[must_use]
    pub fn placement(&self) -> Placement {
        Placement { dep: self.pin.unwrap_or(self.dep), pinned: self.pin.is_some() }
    }

    /// An ended run goes on: failed steps are taken back, the others stay.
    pub(super) fn reopen(
        &mut self,
        act: &Act,
        deadline: Option<Timestamp>,
        env: &Env<'_>,
    ) -> Result<(), Refusal> {
        if !self.ended() {
            return Err(Refusal::NotDue);
        }
        let body = to_bytes(act);
        Draft::new(Kind::Reopened, Flags::HOT).due(deadline).body(body.clone()).put(self, env.now);
        let mut failed: Vec<(i32, String, OpKind)> = self
            .steps
            .iter()
            .filter_map(|(id, step)| match step.state {
                StepState::Settled { seq, ok: false, .. } => Some((seq, id.clone(), step.op)),
                _ => None,
            })
            .collect();
        failed.sort_unstable_by_key(|(seq, ..)| *seq);
        // What went with the end, and would never settle: it is to be asked for anew.
        let gone = self.pending.iter().filter_map(|(n, id)| {
            let step = self.steps.get(id)?;
            let event = step.op == OpKind::Event;
            (event || self.cancellable_child(id).is_some()).then(|| (*n, id.clone(), step.op))
        });
        let gone: Vec<_> = gone.collect();
        for (_, id, op) in failed.into_iter().chain(gone) {
            Draft::new(Kind::Retaken, 0).step(&id, op).body(body.clone()).put(self, env.now);
        }
        Ok(())
    }

    fn too_late(&mut self, m: &Message, op: OpKind, env: &Env<'_>) {
        Draft::new(Kind::Late, 0).step(&m.name, op).took(m).put(self, env.now);
    }

    // --- what the rows mean --------------------------------------------------------------------

    /// A `resumed` row of one step: its next attempt is due.
    pub(super) fn hurried(&mut self, row: &Row) {
        let Some(step) = self.steps.get_mut(&row.step) else { return };
        let StepState::Trying { n, due, .. } = &mut step.state else { return };
        if *due > row.at {
            self.timers.remove(&(*due, *n));
            *due = row.at;
            self.timers.insert((row.at, *n));
        }
    }

    /// A `retaken` row: the step is as if nobody had ever asked for it.
    pub(super) fn taken_back(&mut self, row: &Row) {
        // It may be run with another input now.
        self.hashes.remove(&row.step);
        if let Some(n) = self.forget_timer(&row.step) {
            self.works.gone(&row.step, n);
        }
        if let Some(step) = self.steps.remove(&row.step)
            && let StepState::Settled { seq, .. } = step.state
        {
            self.shown.hide(vec![seq]);
        }
        if matches!(self.turn, Turn::Waiting { .. }) {
            // Its tree may name the step; the handler has to say anew what it waits for.
            self.turn = Turn::Due { reason: Reason::Manual, not_before: AT_ONCE };
        }
    }

    /// A `reopened` row: the end is undone.
    pub(super) fn reopened(&mut self, row: &Row) {
        self.was_reopened = true;
        self.deadline = row.due;
        self.paused = None;
        self.cancel = None;
        self.held_end = None;
        self.closing = false;
        self.faults = 0;
        self.failures = 0;
        self.idle = 0;
        self.refused = 0;
        self.claims = 0;
        self.turn = Turn::Due { reason: Reason::Manual, not_before: AT_ONCE };
    }
}
