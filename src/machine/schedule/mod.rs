//! Schedules: when runs are started by themselves. Pure: a specification and a moment in, moments and
//! decisions out.
//!
//! [`cron`] reads expressions, [`when`] says which moments there are, [`spec`] is what a user asks
//! for, [`state`] what has come of it, and [`decide`] the rule that leads from one to the next.

mod cron;
mod decide;
mod spec;
mod state;
#[cfg(test)]
mod tests;
mod when;

pub use cron::Cron;
pub use decide::{Decision, Firing, Way};
pub use spec::{Faulty, Overlap, Plan, Spec, StartOptions, Timing};
pub use state::{
    Backfill, By, Came, LastRun, MOST_BACKFILLS, Paused, Recent, ScheduleState, Waiting,
};
pub use when::When;
