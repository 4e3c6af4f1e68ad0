//! Runs of plain functions: their input is posted somewhere, and what comes back is their result. Whoever
//! is posted to knows nothing of runs, so such a run has no steps, nothing holds its end up, and a
//! cancel ends it at once.

use std::time::Duration;

use super::apply::Env;
use super::body::RunKind;
use super::op::{Again, StepError};
use super::row::Kind;
use super::run::{End, Run};

impl Run {
    /// Whether its input is posted as it is.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.created.kind == RunKind::Plain
    }

    /// An attempt has failed. Each one is recorded, so that a crash does not give any back.
    pub(super) fn post_failed(
        &mut self,
        mut error: StepError,
        status: Option<u16>,
        after: Option<Duration>,
        env: &Env<'_>,
    ) {
        let detail = format!("{}: {}", error.kind, error.message);
        self.count_fault(&detail, env);
        error.attempts = Some(self.faults);
        let (attempt, first) = (self.faults, self.first_fault);
        let next = match error.retry {
            Again::Default => env.policy.step.next(attempt, first, env.now, after, env.jitter),
            Again::Never | Again::Pause => None,
        };
        if let Some(at) = next {
            self.back_off(at, &detail, status, true, env);
        } else {
            let body = Some(error.to_bytes());
            self.end(End { kind: Kind::EndFailed, body, holdable: false, ms: 0 }, env);
        }
    }
}
