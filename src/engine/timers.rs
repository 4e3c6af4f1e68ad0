//! Time: one task that sleeps until the next moment of any run or breaker.

use super::owner::{HORIZON, Owner, Wake};
use super::{Engine, Point};
use crate::machine::{Env, RunId, Timestamp};

impl Engine {
    /// Runs until the node stops: looks at each run and breaker when its moment has come.
    pub(super) async fn keep_time(&self) {
        loop {
            let nudged = self.timer_nudge().notified();
            let next = {
                let mut owner = self.owner();
                self.fire(&mut owner);
                owner.timers.first().map(|(at, _)| *at)
            };
            match next {
                Some(at) => {
                    tokio::select! {
                        () = self.clock().until(at) => {}
                        () = nudged => {}
                    }
                }
                None => nudged.await,
            }
        }
    }

    /// Everything whose moment has come.
    pub(super) fn fire(&self, owner: &mut Owner) {
        let past = self.clock().lower();
        let mut absent = Vec::new();
        while let Some((at, what)) = owner.timers.first().copied() {
            if at > past {
                break;
            }
            owner.timers.pop_first();
            match what {
                Wake::Breaker(endpoint) => self.release(owner, endpoint),
                Wake::Run(id) => {
                    self.faults().reach(Point::TimerFire);
                    if let Some(entry) = owner.runs.get_mut(&id) {
                        if entry.timer == Some(at) {
                            entry.timer = None;
                        }
                        self.pump(owner, id);
                    } else {
                        absent.push(id);
                    }
                }
            }
        }
        self.bring_in(owner, absent);
    }

    /// Looks at it then.
    pub(super) fn wake_at(&self, owner: &mut Owner, at: Timestamp, what: Wake) {
        let first = owner.timers.first().is_none_or(|(t, _)| at < *t);
        owner.timers.insert((at, what));
        if first {
            self.nudge_timers();
        }
    }

    /// A run leaves memory; what wakes it soon is kept.
    pub(super) fn leave_memory(
        &self,
        owner: &mut Owner,
        id: RunId,
        wake: Option<Timestamp>,
        env: &Env<'_>,
    ) {
        owner.forget(id);
        if let Some(at) = wake.filter(|at| *at <= env.now + HORIZON) {
            self.wake_at(owner, at, Wake::Run(id));
        }
    }
}
