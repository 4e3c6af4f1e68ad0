//! The protocol's rules, one by one, on the machine and its database in memory.

use super::fixtures::World;
use crate::machine::*;

mod answers;
mod compaction;
mod endings;
mod generations;
mod messages;
mod objects;
mod operator;
mod plain;
mod steps;
mod waking;

const NOW: &str = "{\"by\":\"op\"}";

fn invoked() -> World {
    let mut w = World::new();
    w.pump();
    w
}

fn settled(w: &World, id: &str) -> Option<bool> {
    match w.run.steps.get(id).map(|s| &s.state) {
        Some(StepState::Settled { ok, .. }) => Some(*ok),
        _ => None,
    }
}

fn retry() -> Fault {
    Fault::Retry { detail: "connection refused".to_owned(), status: None, after: None }
}
