//! What a run asks of other runs: children, signals, cancels; and what it tells its parent.

use bytes::Bytes;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::apply::Env;
use super::body::{PASSED_ON, error_in_words, to_bytes};
use super::draft::Draft;
use super::id::{MessageId, RunId, Shard};
use super::op::StepError;
use super::outgoing::{Close, Errand, Outgoing, OutgoingKind, Said, Told};
use super::row::{Flags, Kind, Message};
use super::run::Run;
use super::step::StepState;

/// Which one of the outgoing messages of a run's end is for its schedule.
const TO_SCHEDULE: i16 = -1;

impl Run {
    /// Asks something of another run: the row that says so, and what goes into the outbox with it.
    pub(super) fn send_out(&mut self, id: &str, errand: &Errand, raw: Bytes, env: &Env<'_>) {
        let n = self.n;
        let step = id.to_owned();
        let mut due = None;
        let message = MessageId::of_outgoing(self.id, n, 0, 0).uuid();
        let (kind, to, of, said) = match errand {
            Errand::Invoke(child) => {
                let key = child.key.as_deref();
                let shard =
                    key.map(|key| Shard::of_key(&self.created.namespace, &child.function, key));
                let run = RunId::of_child(self.id, n, env.now, shard);
                let said = Said::Start {
                    step,
                    generation: self.generation,
                    function: child.function.clone(),
                    input: raw_of(&child.input),
                    key: child.key.clone(),
                    detach: child.detach,
                    start_at: child.delay.map(|delay| env.now + delay),
                    on_parent_close: child.on_parent_close,
                    if_running: child.if_running,
                    tags: child.tags.clone(),
                };
                (OutgoingKind::Start, Some(run), run.uuid(), said)
            }
            Errand::Send { to, signal, payload } => {
                let said = Said::Signal {
                    step,
                    to: to.clone(),
                    signal: signal.clone(),
                    payload: raw_of(payload),
                };
                (OutgoingKind::Signal, None, message, said)
            }
            Errand::Listen(listen) => {
                due = listen.timeout.map(|timeout| env.now + timeout);
                (OutgoingKind::Listen, None, message, self.listening_for(step, listen, env))
            }
            Errand::Publish { event, data } => {
                let said = Said::Publish { step, event: event.clone(), data: raw_of(data) };
                (OutgoingKind::Publish, None, message, said)
            }
            Errand::Cancel { run, reason } => {
                let said = Said::Cancel { step: Some(step), reason: reason.clone() };
                (OutgoingKind::Cancel, Some(*run), message, said)
            }
        };
        Draft::new(Kind::Asked, Flags::HANDLER)
            .step(id, errand.op())
            .due(due)
            .body(raw)
            .refer(of)
            .put(self, env.now);
        let body = to_bytes(&said);
        self.next.outbox.push(Outgoing { n, k: 0, kind, to, body });
    }

    /// A step that asked something of another run hears what it came to.
    pub(super) fn take_outcome(&mut self, m: &Message, env: &Env<'_>) {
        let told: Option<Told> = serde_json::from_slice(&m.body).ok();
        let step = self.steps.get(&m.name);
        let op = step.map(|s| s.op).unwrap_or_default();
        let asked = match step.map(|s| &s.state) {
            Some(StepState::Asked { ask, .. }) => ask.of,
            _ => None,
        };
        match told {
            Some(told) if asked == Some(told.of) => {
                let (kind, body) = match (told.value, told.error) {
                    (Some(value), _) => (Kind::Done, bytes_of(&value)),
                    (None, Some(error)) => (Kind::Failed, bytes_of(&error)),
                    (None, None) => (Kind::Done, Bytes::from_static(b"null")),
                };
                Draft::new(kind, 0).step(&m.name, op).body(body).took(m).put(self, env.now);
            }
            _ => Draft::new(Kind::Late, 0).step(&m.name, op).took(m).put(self, env.now),
        }
    }

    /// What the end says to others: to the parent how it ended, to the children that they are
    /// cancelled.
    pub(super) fn farewell(&mut self) {
        let Some(end) = self.next.rows.last().filter(|r| r.kind.ends()) else { return };
        let (n, kind, body) = (end.n, end.kind, end.body.clone());
        if let Some(parent) = self.created.parent.as_ref().filter(|p| !p.detached) {
            let told = self.told_of_end(kind, body.as_ref());
            let said = Said::Ended { step: parent.step.clone(), told };
            self.next.outbox.push(Outgoing {
                n,
                k: 0,
                kind: OutgoingKind::Ended,
                to: Some(parent.run),
                body: to_bytes(&said),
            });
        }
        if let Some(fired) = &self.created.schedule {
            let output = body.as_ref().filter(|b| kind == Kind::Completed && b.len() <= PASSED_ON);
            let error = body.as_ref().filter(|_| kind == Kind::EndFailed);
            let said = Said::Ran {
                schedule: fired.id,
                ended: kind.code(),
                output: output.map(raw_of),
                error: error.map(|body| error_in_words(body).chars().take(300).collect()),
            };
            let (k, kind) = (TO_SCHEDULE, OutgoingKind::Ran);
            self.next.outbox.push(Outgoing { n, k, kind, to: None, body: to_bytes(&said) });
        }
        self.let_go(n, "its parent has ended");
        self.listens_no_more(n);
    }

    /// Children that are not to outlive this are cancelled, by row `n`.
    pub(super) fn let_go(&mut self, n: i32, why: &str) {
        let children: Vec<RunId> =
            self.pending.values().filter_map(|id| self.cancellable_child(id)).collect();
        self.cancel_children(n, children, why);
    }

    /// The child of a pending step, if it is to end when its step is given up.
    pub(super) fn cancellable_child(&self, step: &str) -> Option<RunId> {
        match &self.steps.get(step)?.state {
            StepState::Asked { ask, .. } if ask.on_close == Some(Close::Cancel) => {
                ask.of.map(RunId::from)
            }
            _ => None,
        }
    }

    pub(super) fn cancel_children(&mut self, n: i32, children: Vec<RunId>, why: &str) {
        for (k, child) in (1i16..).zip(children) {
            let said = Said::Cancel { step: None, reason: Some(why.to_owned()) };
            let (kind, to) = (OutgoingKind::Cancel, Some(child));
            self.next.outbox.push(Outgoing { n, k, kind, to, body: to_bytes(&said) });
        }
    }

    /// How this run ended, for who waits for it.
    fn told_of_end(&self, kind: Kind, body: Option<&Bytes>) -> Told {
        let of: Uuid = self.id.uuid();
        let own = |kind: &str, message: &str| {
            raw_of(&StepError::of_gateway(kind, format!("{}: {message}", self.id)).to_bytes())
        };
        let error = match kind {
            Kind::Completed => {
                let value = Some(raw_of(&body.cloned().unwrap_or_default()));
                return Told { of, value, error: None };
            }
            Kind::Cancelled => own("run-cancelled", "the run was cancelled"),
            Kind::TimedOut => own("run-timed-out", "the run's deadline has passed"),
            Kind::Terminated => own("run-terminated", "the run was terminated"),
            _ => body.map_or_else(|| own("run-failed", "the run failed"), raw_of),
        };
        Told { of, value: None, error: Some(error) }
    }
}

/// JSON as a part of other JSON; what is empty, or is none, is null.
fn raw_of(json: &Bytes) -> Box<RawValue> {
    let text = std::str::from_utf8(json).ok();
    let raw = text.and_then(|text| RawValue::from_string(text.to_owned()).ok());
    raw.unwrap_or_else(|| serde_json::value::to_raw_value(&()).expect("null is JSON"))
}

fn bytes_of(raw: &RawValue) -> Bytes {
    Bytes::from(raw.get().to_owned())
}
