//! What failed exchanges do to a run: back-off, a pause when the policy is used up.

use bytes::Bytes;

use super::apply::{EPOCH_ROOM, Env, Fault};
use super::body::{Attention, Faulted, to_bytes};
use super::draft::Draft;
use super::row::{Flags, Kind};
use super::run::{Reason, Run, Turn};
use super::time::Timestamp;

impl Run {
    pub(super) fn faulted(&mut self, fault: Fault, env: &Env<'_>) {
        match fault {
            Fault::Again => {
                self.turn = Turn::Due { reason: Reason::Retry, not_before: env.past };
            }
            Fault::Unhealthy { detail } => {
                self.last_fault = Some(detail);
                self.turn = Turn::Due { reason: Reason::Retry, not_before: env.past };
            }
            Fault::Pause(attention) => {
                self.turn = Turn::Due { reason: Reason::Manual, not_before: env.past };
                self.pause(&attention, env, Flags::HANDLER | Flags::END);
            }
            Fault::Post { error, status, after } => self.post_failed(*error, status, after, env),
            Fault::Retry { detail, status, after } => {
                self.count_fault(&detail, env);
                let next = env.policy.invocation.next(
                    self.faults,
                    self.first_fault,
                    env.now,
                    after,
                    env.jitter,
                );
                let Some(at) = next else {
                    let detail = format!(
                        "{} invocations in a row failed, the last with: {detail}. Mend the \
                         handler, then resume the run.",
                        self.faults
                    );
                    self.pause(&Attention::new("invocations-used-up", detail), env, 0);
                    return;
                };
                let far = at > env.now + env.horizon;
                let recorded = far || self.epoch + 1 > self.row_epoch + EPOCH_ROOM;
                self.back_off(at, &detail, status, recorded, env);
            }
        }
    }

    /// One more exchange has failed in a row.
    pub(super) fn count_fault(&mut self, detail: &str, env: &Env<'_>) {
        if self.faults == 0 {
            self.first_fault = env.now;
        }
        self.faults += 1;
        self.last_fault = Some(detail.to_owned());
        self.turn = Turn::Due { reason: Reason::Retry, not_before: env.past };
    }

    /// The next exchange is due at a moment, and whoever drives the run then knows of it if that is
    /// `recorded`.
    pub(super) fn back_off(
        &mut self,
        at: Timestamp,
        detail: &str,
        status: Option<u16>,
        recorded: bool,
        env: &Env<'_>,
    ) {
        let (at, park) = self.alarm_at(at, env);
        if recorded {
            let body = Faulted { status, ..self.faulted_now(detail) };
            Draft::new(Kind::Fault, park).due(Some(at)).body(to_bytes(&body)).put(self, env.now);
        }
        self.turn = Turn::Due { reason: Reason::Retry, not_before: at };
    }

    pub(super) fn faulted_now(&self, detail: &str) -> Faulted {
        Faulted {
            faults: self.faults,
            failures: self.failures,
            first: self.first_fault,
            detail: detail.chars().take(2_000).collect(),
            status: None,
        }
    }

    pub(super) fn fault_body(&self, detail: &str) -> Bytes {
        to_bytes(&self.faulted_now(detail))
    }

    /// For a back-off until `at`: the flag that parks it if that is far away and no task or call
    /// is done before, and then the moment to wake, for the back-off or for the end of the run.
    pub(super) fn alarm_at(&self, at: Timestamp, env: &Env<'_>) -> (Timestamp, i16) {
        let near = env.now + env.horizon;
        let works = self.works_on(near) || self.next_work(env.past).is_some_and(|work| work < at);
        if at <= near || works {
            return (at, 0);
        }
        (self.latest_end().map_or(at, |end| at.min(end)), Flags::PARK)
    }
}
