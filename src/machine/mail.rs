//! What messages do to a run: signals, callbacks, operators' acts.

use std::time::Duration;

use super::apply::{CANCEL_GRACE, Env};
use super::body::{Act, Attention, to_bytes};
use super::draft::Draft;
use super::op::StepError;
use super::row::{Kind, Message, MessageKind, OpKind};
use super::run::{End, Mail, Reason, Run, Turn};
use super::step::StepState;

impl Run {
    pub(super) fn drain(&mut self, messages: &[Message], env: &Env<'_>) {
        for message in messages {
            // What was drained before is known by its id; a new owner reads old positions again.
            self.drained = self.drained.max(message.pos);
            if self.seen.contains(&message.id.uuid()) {
                // It is in the inbox still, perhaps beyond this generation.
                self.took_again(message.id.uuid(), env.now);
                continue;
            }
            self.take(message, env);
            if self.ended() {
                return;
            }
        }
        if self.cancel.is_some() && (!self.invoked || self.is_plain()) {
            // Nobody has anything to compensate. Only now: what came with it is recorded too.
            self.end(End { kind: Kind::Cancelled, body: None, holdable: false, ms: 0 }, env);
            return;
        }
        self.look_at_tree(Reason::Progress, env);
        self.listen(env);
    }

    fn take(&mut self, m: &Message, env: &Env<'_>) {
        match m.kind {
            MessageKind::New => {}
            MessageKind::Signal => {
                if let Turn::Open { unseen, .. } = &mut self.turn {
                    *unseen = true;
                }
                match self.first_asking(&m.name) {
                    Some(id) => {
                        Draft::new(Kind::Done, 0)
                            .step(&id, OpKind::Signal)
                            .body(m.body.clone())
                            .took(m)
                            .put(self, env.now);
                    }
                    None => self.buffer(m, OpKind::Signal, env),
                }
            }
            MessageKind::CallbackValue | MessageKind::CallbackError
                if m.generation.is_some_and(|g| g != self.generation) =>
            {
                // Of a step that is no more; one of this generation may have its name.
                Draft::new(Kind::Late, 0)
                    .step(&m.name, OpKind::Callback)
                    .took(m)
                    .put(self, env.now);
            }
            MessageKind::CallbackValue | MessageKind::CallbackError => {
                let state = self.steps.get(&m.name).map(|s| (s.op, &s.state));
                match state {
                    Some((OpKind::Callback, StepState::Asked { .. })) => self.call_back(m, env),
                    None => self.buffer(m, OpKind::Callback, env),
                    Some((OpKind::Task, StepState::Asked { .. } | StepState::Trying { .. })) => {
                        self.task_called_back(m, env);
                    }
                    Some(_) => {
                        Draft::new(Kind::Late, 0)
                            .step(&m.name, OpKind::Callback)
                            .took(m)
                            .put(self, env.now);
                    }
                }
            }
            MessageKind::Outcome => self.take_outcome(m, env),
            MessageKind::EventMatched => self.take_event(m, env),
            MessageKind::Cancel => self.take_cancel(m, env),
            MessageKind::Pause => {
                if self.paused.is_some() {
                    Draft::new(Kind::Late, 0).took(m).put(self, env.now);
                    return;
                }
                let act: Act = serde_json::from_slice(&m.body).unwrap_or_default();
                let why = act.reason.map(|r| format!(": {r}")).unwrap_or_default();
                let attention = Attention::new("operator", format!("Paused by {}{why}", act.by));
                Draft::new(Kind::Paused, 0).body(to_bytes(&attention)).took(m).put(self, env.now);
            }
            MessageKind::Resume | MessageKind::RetryNow => {
                let mut act: Act = serde_json::from_slice(&m.body).unwrap_or_default();
                act.hurry |= m.kind == MessageKind::RetryNow;
                self.wake();
                Draft::new(Kind::Resumed, 0).body(to_bytes(&act)).took(m).put(self, env.now);
                self.look_at_tree(Reason::Manual, env);
            }
            MessageKind::StepSettled => self.settle_by_hand(m, env),
            MessageKind::StepHurried => self.hurry_step(m, env),
            MessageKind::Repinned => self.repin(m, env),
            MessageKind::Refused => {
                Draft::new(Kind::EndFailed, 0).body(m.body.clone()).took(m).put(self, env.now);
            }
            MessageKind::Terminate => {
                let act: Act = serde_json::from_slice(&m.body).unwrap_or_default();
                let why = act.reason.map(|r| format!(": {r}")).unwrap_or_default();
                let error = StepError::of_gateway(
                    "run-terminated",
                    format!("terminated by {}{why}", act.by),
                );
                Draft::new(Kind::Terminated, 0).body(error.to_bytes()).took(m).put(self, env.now);
            }
        }
    }

    fn take_cancel(&mut self, m: &Message, env: &Env<'_>) {
        if self.cancel.is_some() {
            Draft::new(Kind::Late, 0).took(m).put(self, env.now);
            return;
        }
        let act: Act = serde_json::from_slice(&m.body).unwrap_or_default();
        let deadline = env.now + act.grace_ms.map_or(CANCEL_GRACE, Duration::from_millis);
        self.wake();
        // The exchange that is open has not seen it: whatever it answers is refused.
        Draft::new(Kind::Cancelling, 0)
            .due(Some(deadline))
            .body(m.body.clone())
            .took(m)
            .put(self, env.now);
    }

    /// The pending signal step that asked first for `name`.
    fn first_asking(&self, name: &str) -> Option<String> {
        self.pending
            .values()
            .find(|id| {
                self.steps.get(*id).is_some_and(|s| {
                    s.op == OpKind::Signal
                        && matches!(&s.state, StepState::Asked { ask, .. }
                            if ask.name.as_deref() == Some(name))
                })
            })
            .cloned()
    }

    pub(super) fn buffer(&mut self, m: &Message, op: OpKind, env: &Env<'_>) {
        // `due` marks an early callback as an error: the kind of a row has no room for it.
        let error = (m.kind == MessageKind::CallbackError).then_some(m.at);
        Draft::new(Kind::Arrived, 0)
            .step(&m.name, op)
            .due(error)
            .body(m.body.clone())
            .took(m)
            .put(self, env.now);
    }

    fn call_back(&mut self, m: &Message, env: &Env<'_>) {
        let kind = if m.kind == MessageKind::CallbackValue { Kind::Done } else { Kind::Failed };
        Draft::new(kind, 0)
            .step(&m.name, OpKind::Callback)
            .body(m.body.clone())
            .took(m)
            .put(self, env.now);
    }

    /// Hands the oldest buffered message to a step that has just asked, if there is one.
    pub(super) fn take_buffered(
        &mut self,
        id: &str,
        op: OpKind,
        name: &str,
        flags: i16,
        env: &Env<'_>,
    ) {
        let mail = if op == OpKind::Signal { Mail::Signal } else { Mail::Callback };
        let Some(m) =
            self.buffered.get(&(mail, name.to_owned())).and_then(|queue| queue.front()).cloned()
        else {
            return;
        };
        let kind = if m.kind == MessageKind::CallbackError { Kind::Failed } else { Kind::Done };
        let uuid = m.id.uuid();
        Draft::new(kind, flags).step(id, op).body(m.body).refer(uuid).put(self, env.now);
    }
}
