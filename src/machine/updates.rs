//! Updates: signals whose sender waits for an answer.

use bytes::Bytes;

use super::apply::Env;
use super::draft::Draft;
use super::id::UpdateId;
use super::op::StepError;
use super::row::{Flags, Kind, OpKind};
use super::run::Run;

impl Run {
    /// Answers an update. Its row names the update, so that whoever waits finds it; of two answers
    /// the first counts.
    pub(super) fn reply(&mut self, id: &str, update: UpdateId, answer: Bytes, env: &Env<'_>) {
        let row = if self.has_taken(update) {
            Draft::new(Kind::Done, Flags::HANDLER).body(answer).refer(update.uuid())
        } else {
            let detail = format!("no step of this generation has taken an update {update}");
            let error = StepError::of_gateway("update-not-found", detail);
            Draft::new(Kind::Failed, Flags::HANDLER).body(error.to_bytes())
        };
        row.step(id, OpKind::Reply).put(self, env.now);
    }

    /// Whether a step has taken it.
    fn has_taken(&self, update: UpdateId) -> bool {
        let id = update.uuid();
        self.seen.contains(&id) && !self.buffered.values().flatten().any(|m| m.id.uuid() == id)
    }
}
