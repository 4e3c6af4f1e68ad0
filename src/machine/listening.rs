//! Steps that wait for events: what the tables of events are told of them, and what comes of it.

use std::time::Duration;

use serde::Deserialize;
use uuid::Uuid;

use super::apply::Env;
use super::body::to_bytes;
use super::draft::Draft;
use super::id::EventId;
use super::outgoing::{Listen, Outgoing, OutgoingKind, Said};
use super::row::{Flags, Kind, Message, OpKind, Row};
use super::run::Run;
use super::step::StepState;

/// An event may be accepted so long before its acceptance is visible to everybody: what was
/// published beside the ask, or within this time before it, counts.
const BESIDE: Duration = Duration::from_secs(1);
/// How many events a run remembers to have taken.
const REMEMBERED: usize = 100;
/// The place of what is said of listeners among what one row says.
const PLACE: i16 = i16::MAX;

/// What stands in place of a step where an event cancels the run. No step has such an id.
const CANCELS: char = '\u{1}';

/// In place of a step: the run is cancelled by what its function's `index`th `cancel_on` names.
#[must_use]
pub fn cancelling(index: usize) -> String {
    format!("{CANCELS}{index}")
}

/// Whether this stands in place of a step because an event cancels the run.
#[must_use]
pub fn is_cancelling(step: &str) -> bool {
    step.starts_with(CANCELS)
}

impl Run {
    /// What is said of a step that begins to wait.
    pub(super) fn listening_for(&self, step: String, listen: &Listen, env: &Env<'_>) -> Said {
        Said::Listen {
            step,
            event: listen.event.clone(),
            matching: listen.matching.clone(),
            since: env.past - (listen.lookback + BESIDE),
            taken: self.events.iter().copied().collect(),
        }
    }

    /// An event has come that a step may wait for.
    pub(super) fn take_event(&mut self, m: &Message, env: &Env<'_>) {
        let step = self.steps.get(&m.name);
        let asked = step
            .is_some_and(|s| s.op == OpKind::Event && matches!(s.state, StepState::Asked { .. }));
        if asked {
            Draft::new(Kind::Done, 0)
                .step(&m.name, OpKind::Event)
                .body(m.body.clone())
                .took(m)
                .put(self, env.now);
        } else {
            Draft::new(Kind::Late, 0).step(&m.name, OpKind::Event).took(m).put(self, env.now);
        }
    }

    /// Whatever has settled otherwise than by an event, or was given up, waits no more: the row
    /// that says so is the last one of this append.
    pub(super) fn unlisten(&mut self) {
        let Some(n) = self.next.rows.last().map(|row| row.n) else { return };
        let steps: Vec<String> =
            self.listening.iter().filter(|id| !self.waits_for_event(id)).cloned().collect();
        if !steps.is_empty() {
            self.listening.retain(|id| !steps.contains(id));
            self.say_unlisten(n, Some(steps));
        }
    }

    /// The run has ended with row `n`.
    pub(super) fn listens_no_more(&mut self, n: i32) {
        if !self.listening.is_empty() || self.created.cancel_on {
            self.say_unlisten(n, None);
        }
    }

    fn say_unlisten(&mut self, n: i32, steps: Option<Vec<String>>) {
        let body = to_bytes(&Said::Unlisten { steps });
        let (k, kind, to) = (PLACE, OutgoingKind::Unlisten, None);
        self.next.outbox.push(Outgoing { n, k, kind, to, body });
    }

    /// After all rows were read: what was said of listeners then is not said again.
    pub(super) fn forget_settled_listeners(&mut self) {
        let mut listening = std::mem::take(&mut self.listening);
        listening.retain(|id| self.waits_for_event(id));
        self.listening = listening;
    }

    fn waits_for_event(&self, id: &str) -> bool {
        self.steps
            .get(id)
            .is_some_and(|s| s.op == OpKind::Event && matches!(s.state, StepState::Asked { .. }))
    }

    // --- what the rows mean --------------------------------------------------------------------

    /// A step has settled: with an event, it is the event's to be remembered.
    pub(super) fn heard_event(&mut self, row: &Row) {
        #[derive(Deserialize)]
        struct Event {
            id: EventId,
        }
        let by_event = row.kind == Kind::Done
            && row.flags.op() == Some(OpKind::Event)
            && row.refer.is_some()
            && !row.flags.has(Flags::BY_HAND);
        if !by_event {
            return;
        }
        // Whoever found the event has taken the step out of the tables.
        self.listening.remove(&row.step);
        let event = row.body.as_ref().and_then(|b| serde_json::from_slice::<Event>(b).ok());
        if let Some(Event { id }) = event {
            self.remember_event(id.uuid());
        }
    }

    fn remember_event(&mut self, id: Uuid) {
        self.events.push_back(id);
        if self.events.len() > REMEMBERED {
            self.events.pop_front();
        }
    }
}
