//! What a journal row means for its run: the same function live, on recovery and in tests.

use std::time::Duration;

use bytes::Bytes;

use super::body::{Act, Attention, Faulted, Noted, Tried};
use super::id::MessageId;
use super::outgoing::Close;
use super::row::{Flags, Kind, MessageKind, OpKind, Row};
use super::run::{AT_ONCE, Buffered, Cancel, Mail, Reason, Run, Turn, Unreadable};
use super::step::{AskKept, Step, StepState};
use super::time::Timestamp;

/// The parts of an `asked` row's body that recovery needs.
#[derive(serde::Deserialize)]
struct AskBody {
    #[serde(default)]
    event: Option<String>,
    name: Option<String>,
    #[serde(default, with = "super::time::duration::option")]
    heartbeat: Option<Duration>,
    #[serde(default, with = "super::time::duration::option")]
    timeout: Option<Duration>,
    #[serde(default)]
    on_parent_close: Option<Close>,
    #[serde(default)]
    detach: Option<bool>,
}

impl AskBody {
    /// What the run keeps of it. `of`: whom it asked.
    fn kept(self, op: OpKind, of: Option<uuid::Uuid>) -> AskKept {
        let Self { name, event, heartbeat, timeout, on_parent_close, detach } = self;
        let name = name.or(event);
        let attached = op == OpKind::Invoke && detach != Some(true);
        let on_close = attached.then(|| on_parent_close.unwrap_or_default());
        AskKept { name, heartbeat, timeout, of, on_close }
    }
}

impl Run {
    /// Applies one row: what it means for the run, whoever wrote it.
    pub fn evolve(&mut self, row: &Row) -> Result<(), Unreadable> {
        let bad = |detail: &str| Unreadable::Body { n: row.n, detail: detail.to_owned() };
        self.n = row.n + 1;
        self.talk.evolve(row, self.seq);
        self.seq = row.seq;
        self.row_epoch = row.epoch;
        self.dep = row.dep;
        self.last_at = row.at;
        if row.kind != Kind::Asked {
            // There it is whom it asked.
            row.refer.into_iter().for_each(|id| self.took(id, row.at));
        }
        let body = || row.body.clone().unwrap_or_default();
        if row.flags.has(Flags::HANDLER) {
            if row.cp == 0 || self.talking() != Some(row.epoch) {
                self.turn = Turn::Due { reason: Reason::Retry, not_before: AT_ONCE };
            }
            self.invoked = true;
            self.faults = 0;
            self.claims = 0;
        }
        match row.kind {
            Kind::Done | Kind::Failed => {
                self.heard_event(row);
                self.settle(row, &body());
            }
            Kind::Asked => {
                let op = row.flags.op().ok_or_else(|| bad("unknown op"))?;
                let ask = if op.is_work() {
                    self.works
                        .asked(row, &body())
                        .map_err(|e| Unreadable::Body { n: row.n, detail: e.to_string() })?;
                    AskKept::default()
                } else {
                    let kept: AskBody = serde_json::from_slice(&body())
                        .map_err(|e| Unreadable::Body { n: row.n, detail: e.to_string() })?;
                    self.timers.extend(row.due.map(|due| (due, row.n)));
                    kept.kept(op, row.refer)
                };
                let state = StepState::Asked { ask, n: row.n, at: row.at, due: row.due };
                let step = Step { op, attempts: 0, first: None, state };
                if op == OpKind::Event {
                    self.listening.insert(row.step.clone());
                }
                self.pending.insert(row.n, row.step.clone());
                self.steps.insert(row.step.clone(), step);
            }
            Kind::Tried => {
                let tried: Tried = serde_json::from_slice(&body())
                    .map_err(|e| Unreadable::Body { n: row.n, detail: e.to_string() })?;
                let due = row.due.unwrap_or(row.at);
                let op = row.flags.op().ok_or_else(|| bad("unknown op"))?;
                if let Some(message) = row.refer {
                    self.unbuffer(&row.step, op, MessageId::from(message));
                }
                if let Some(n) = self.forget_timer(&row.step) {
                    self.works.tried(row, n);
                }
                self.pending.insert(row.n, row.step.clone());
                self.timers.insert((due, row.n));
                self.steps.insert(
                    row.step.clone(),
                    Step {
                        op,
                        attempts: tried.attempt,
                        first: Some(tried.first),
                        state: StepState::Trying {
                            n: row.n,
                            due,
                            error: Bytes::from(tried.error.get().to_owned()),
                        },
                    },
                );
            }
            Kind::Begun => {
                self.forget_timer(&row.step);
                // A final answer licenses the epoch after its own.
                let licence = row.epoch + i32::from(row.cp == 0);
                let state = StepState::Begun { n: row.n, licence };
                self.pending.insert(row.n, row.step.clone());
                self.steps
                    .entry(row.step.clone())
                    .and_modify(|s| s.state = state.clone())
                    .or_insert(Step { op: OpKind::Run, attempts: 0, first: None, state });
            }
            Kind::Held => {
                if row.step.is_empty() {
                    let until = row.due.unwrap_or(row.at);
                    let lease = until.since(row.at);
                    self.turn = Turn::Held { epoch: row.epoch, until, lease };
                } else if let Some(n) = self.place_of(&row.step) {
                    self.works.held(row, n);
                }
            }
            Kind::Arrived => {
                let mail = match row.flags.op() {
                    Some(OpKind::Callback) => Mail::Callback,
                    _ => Mail::Signal,
                };
                let kind = match (mail, row.due.is_some()) {
                    (Mail::Signal, _) => MessageKind::Signal,
                    // `due` has no other use here: it marks an early callback as an error.
                    (Mail::Callback, false) => MessageKind::CallbackValue,
                    (Mail::Callback, true) => MessageKind::CallbackError,
                };
                let id = MessageId::from(row.refer.unwrap_or_default());
                // What was carried over says when it first came.
                let first = row.due.filter(|_| mail == Mail::Signal && row.flags.has(Flags::REF));
                let message = Buffered { id, kind, body: body(), at: first.unwrap_or(row.at) };
                self.buffered.entry((mail, row.step.clone())).or_default().push_back(message);
            }
            Kind::Noted if row.flags.has(Flags::PARK) => self.kept_back(row)?,
            Kind::Noted => {
                let noted: Noted = serde_json::from_slice(&body())
                    .map_err(|e| Unreadable::Body { n: row.n, detail: e.to_string() })?;
                self.hashes.extend(noted.hashes);
                self.stage(noted.set, noted.unset);
                if let Some(status) = noted.status {
                    let text = status.get();
                    self.custom_status = (text != "null").then(|| Bytes::from(text.to_owned()));
                }
                if let Some(tags) = noted.tags {
                    self.tags = tags;
                }
                self.pin = noted.pin.or(self.pin);
            }
            Kind::Waits => {
                let tree = serde_json::from_slice(&body())
                    .map_err(|e| Unreadable::Body { n: row.n, detail: e.to_string() })?;
                self.turn = Turn::Waiting { tree };
            }
            Kind::Claimed => {
                self.claims += 1;
                self.invoked = true;
            }
            Kind::Fault => {
                let fault: Faulted = serde_json::from_slice(&body())
                    .map_err(|e| Unreadable::Body { n: row.n, detail: e.to_string() })?;
                self.faults = fault.faults;
                self.failures = fault.failures;
                self.first_fault = fault.first;
                self.last_fault = Some(fault.detail);
                self.invoked = true;
                self.claims = 0;
                let not_before = row.due.unwrap_or(row.at);
                self.turn = Turn::Due { reason: Reason::Retry, not_before };
            }
            Kind::Cancelling => {
                let act: Act = serde_json::from_slice(&body()).unwrap_or_default();
                self.cancel =
                    Some(Cancel { reason: act.reason, deadline: row.due.unwrap_or(row.at) });
                // A cancel lets a paused run go on: it is to compensate and end.
                self.paused = None;
                self.turn = Turn::Due { reason: Reason::Cancel, not_before: AT_ONCE };
            }
            Kind::Paused => {
                let attention: Attention = serde_json::from_slice(&body())
                    .map_err(|e| Unreadable::Body { n: row.n, detail: e.to_string() })?;
                if self.paused.replace(attention).is_none() {
                    self.paused_since = Some(row.n);
                }
                // Nothing ends it while a person looks: it accepts messages again.
                self.closing = false;
                self.refused = 0;
                if row.flags.has(Flags::HANDLER) {
                    self.turn = Turn::Due { reason: Reason::Manual, not_before: AT_ONCE };
                }
            }
            Kind::Resumed if !row.step.is_empty() => self.hurried(row),
            Kind::Resumed => self.resume(row),
            Kind::Retaken => self.taken_back(row),
            Kind::Reopened => self.reopened(row),
            Kind::Completed
            | Kind::EndFailed
            | Kind::Cancelled
            | Kind::TimedOut
            | Kind::Terminated => {
                // `due` has no other use here: it tells when a run ended that was imported.
                let at = row.due.unwrap_or(row.at);
                self.turn = Turn::Ended { kind: row.kind, body: row.body.clone(), at };
            }
            Kind::Beat => self.works.beat(row, body()),
            Kind::Late | Kind::Moved => {}
            Kind::Continued => self.continued(row)?,
            Kind::Compacted => self.compacted(row)?,
            Kind::Created => {
                return Err(bad("a row of this kind is not known here"));
            }
        }
        if row.flags.has(Flags::END) && !matches!(row.kind, Kind::Paused) {
            self.turn = Turn::Due { reason: Reason::Yield, not_before: AT_ONCE };
        }
        if row.flags.has(Flags::PARK) {
            self.parked = true;
            self.alarm = row.due;
            self.gate = None;
        }
        if row.flags.has(Flags::HOT) {
            self.parked = false;
            self.gate = None;
        }
        Ok(())
    }

    fn settle(&mut self, row: &Row, body: &Bytes) {
        let ok = row.kind == Kind::Done;
        let op = row.flags.op().unwrap_or_default();
        if let Some(message) = row.refer {
            self.unbuffer(&row.step, op, MessageId::from(message));
        }
        if self.was_to_be_tried(row) && matches!(self.turn, Turn::Waiting { .. }) {
            // Whoever drives the run may be on the way to its handler already for that attempt,
            // which no row says; every owner goes there, so that all know the same.
            self.turn = Turn::Due { reason: Reason::Progress, not_before: AT_ONCE };
            self.parked = false;
        }
        if let Some(n) = self.forget_timer(&row.step) {
            self.works.gone(&row.step, n);
        }
        self.shown.push(&row.step, row.seq, op, ok, body);
        self.claims = 0;
        let state = StepState::Settled { seq: row.seq, n: row.n, ok };
        self.steps
            .entry(row.step.clone())
            .and_modify(|s| s.state = state.clone())
            .or_insert(Step { op, attempts: 0, first: None, state });
        if op == OpKind::Scope {
            self.close_under(&row.step);
        }
    }

    /// Whether the handler was due to try the step that this row settles.
    fn was_to_be_tried(&self, row: &Row) -> bool {
        self.steps.get(&row.step).is_some_and(|step| match step.state {
            StepState::Trying { due, .. } => due <= row.at && !step.op.is_work(),
            _ => false,
        })
    }

    fn resume(&mut self, row: &Row) {
        let act: Option<Act> = row.body.as_ref().and_then(|b| serde_json::from_slice(b).ok());
        self.pin = act.and_then(|a| a.deployment).or(self.pin);
        self.paused = None;
        self.faults = 0;
        self.idle = 0;
        self.claims = 0;
        let retry: Vec<(Timestamp, i32)> = self
            .timers
            .iter()
            .copied()
            .filter(|(due, n)| {
                let step = self.pending.get(n).and_then(|id| self.steps.get(id));
                *due > row.at && step.is_some_and(|s| matches!(s.state, StepState::Trying { .. }))
            })
            .collect();
        for (due, n) in retry {
            self.timers.remove(&(due, n));
            self.timers.insert((row.at, n));
            if let Some(step) = self.pending.get(&n).and_then(|id| self.steps.get_mut(id))
                && let StepState::Trying { due, .. } = &mut step.state
            {
                *due = row.at;
            }
        }
        let hurry = || {
            let act: Act = row.body.as_deref().map(serde_json::from_slice)?.ok()?;
            Some(act.hurry)
        };
        match self.turn {
            // A delayed start stays delayed, unless it is this that the operator hurries.
            Turn::Due { reason: Reason::Start, .. } if hurry() != Some(true) => {}
            Turn::Due { .. } => {
                self.turn = Turn::Due { reason: Reason::Manual, not_before: AT_ONCE };
            }
            _ => {}
        }
    }

    /// A step is no longer pending, or its timer is replaced: its place in `pending`.
    pub(super) fn forget_timer(&mut self, id: &str) -> Option<i32> {
        let (n, due) = match self.steps.get(id).map(|s| &s.state) {
            Some(StepState::Asked { n, due, .. }) => (*n, *due),
            Some(StepState::Trying { n, due, .. }) => (*n, Some(*due)),
            Some(StepState::Begun { n, .. }) => (*n, None),
            Some(StepState::Settled { .. } | StepState::Closed) | None => return None,
        };
        self.pending.remove(&n);
        if let Some(due) = due {
            self.timers.remove(&(due, n));
        }
        Some(n)
    }

    /// A step took this message, out of the buffer if it was there.
    fn unbuffer(&mut self, step: &str, op: OpKind, id: MessageId) {
        let asked = match self.steps.get(step).map(|s| &s.state) {
            Some(StepState::Asked { ask, .. }) => ask.name.clone(),
            _ => None,
        };
        let key = match (op, asked) {
            (OpKind::Signal, Some(name)) => (Mail::Signal, name),
            (OpKind::Callback | OpKind::Task, _) => (Mail::Callback, step.to_owned()),
            _ => return,
        };
        if let Some(queue) = self.buffered.get_mut(&key) {
            queue.retain(|m| m.id != id);
            if queue.is_empty() {
                self.buffered.remove(&key);
            }
        }
    }
}
