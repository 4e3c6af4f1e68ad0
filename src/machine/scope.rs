//! Closed scopes: steps that are done with and no longer sent.

use bytes::Bytes;

use super::apply::Env;
use super::draft::Draft;
use super::row::{Flags, Kind, OpKind};
use super::run::Run;
use super::step::StepState;

impl Run {
    /// Closes a scope: its value is recorded, and what is under it is no longer sent. Children that
    /// nobody can wait for any more are cancelled as at their parent's end.
    pub(super) fn close_scope(&mut self, id: &str, value: Bytes, env: &Env<'_>) {
        let (n, under) = (self.n, format!("{id}/"));
        let pending = self.pending.values().filter(|step| step.starts_with(&under));
        let children = pending.filter_map(|step| self.cancellable_child(step)).collect();
        Draft::new(Kind::Done, Flags::HANDLER)
            .step(id, OpKind::Scope)
            .body(value)
            .put(self, env.now);
        self.cancel_children(n, children, "its parent has closed the scope that asked for it");
    }

    /// The steps under a scope are closed: what is settled is not shown any more, what is pending
    /// is given up.
    pub(super) fn close_under(&mut self, scope: &str) {
        let under = format!("{scope}/");
        let ids: Vec<String> =
            self.steps.keys().filter(|id| id.starts_with(&under)).cloned().collect();
        let mut hidden = Vec::new();
        for id in ids {
            if let Some(n) = self.forget_timer(&id) {
                self.works.gone(&id, n);
            }
            let Some(step) = self.steps.get_mut(&id) else { continue };
            match step.state {
                StepState::Settled { seq, .. } => hidden.push(seq),
                StepState::Closed => continue,
                _ => {}
            }
            step.state = StepState::Closed;
        }
        self.shown.hide(hidden);
    }
}
