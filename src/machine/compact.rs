//! A journal that was compacted: a state in place of the steps that led to it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::apply::Env;
use super::body::to_bytes;
use super::carried::Carried;
use super::draft::Draft;
use super::row::{Flags, Kind, OpKind, Row};
use super::run::{Run, Unreadable};
use super::step::{Step, StepState};
use super::turn::Did;
use super::works::Work;

/// A step that is not settled and outlives the rows that asked for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepCarried {
    /// Its id.
    pub id: String,
    /// Its op, by its code.
    pub op: u8,
    /// The rest of it.
    #[serde(flatten)]
    pub step: Step,
}

impl Run {
    /// Settled steps go, and a state stands for them; what is pending or untaken stays.
    pub(super) fn compact(&mut self, state: &Bytes, did: &mut Did, env: &Env<'_>) {
        if self.state.as_ref() == Some(state)
            && self.steps.keys().all(|id| self.place_of(id).is_some())
        {
            return;
        }
        did.recorded = true;
        let untaken = self.untaken(|_| true);
        let carried = self.carried_compacted(state);
        let body = to_bytes(&carried);
        Draft::new(Kind::Compacted, Flags::HANDLER)
            .due(self.deadline)
            .body(body)
            .put(self, env.now);
        self.carry_over(untaken, Flags::HANDLER | Flags::REF, env);
    }

    /// The steps that are not settled.
    pub(super) fn open_steps(&self) -> Vec<StepCarried> {
        let pending = self.pending.values().filter_map(|id| Some((id, self.steps.get(id)?)));
        pending
            .map(|(id, step)| StepCarried { id: id.clone(), op: step.op as u8, step: step.clone() })
            .collect()
    }

    /// A `compacted` row.
    pub(super) fn compacted(&mut self, row: &Row) -> Result<(), Unreadable> {
        let Carried { created, state, taken, .. } = Carried::of(row)?;
        self.created = created;
        self.state = state.map(|s| Bytes::from(s.get().to_owned()));
        self.steps.retain(|_, s| !matches!(s.state, StepState::Settled { .. } | StepState::Closed));
        let Self { hashes, steps, .. } = self;
        hashes.retain(|id, _| steps.contains_key(id));
        self.shown.compact(row.seq);
        // What nobody took follows.
        self.buffered.clear();
        self.know(taken);
        Ok(())
    }

    /// The open steps of a run that begins with a `compacted` row.
    pub(super) fn take_up(
        &mut self,
        row: &Row,
        open: Vec<StepCarried>,
        works: BTreeMap<String, Work>,
    ) -> Result<(), Unreadable> {
        let unknown = || Unreadable::Body { n: row.n, detail: "unknown op".to_owned() };
        for StepCarried { id, op, mut step } in open {
            step.op = OpKind::from_code(op).ok_or_else(unknown)?;
            let (n, due) = match &step.state {
                // When a task or call settles by itself is known to its work.
                StepState::Asked { n, .. } if step.op.is_work() => (*n, None),
                StepState::Asked { n, due, .. } => (*n, *due),
                StepState::Trying { n, due, .. } => (*n, Some(*due)),
                StepState::Begun { n, .. } => (*n, None),
                StepState::Settled { .. } | StepState::Closed => continue,
            };
            if step.op == OpKind::Event {
                self.listening.insert(id.clone());
            }
            self.pending.insert(n, id.clone());
            self.timers.extend(due.map(|due| (due, n)));
            self.steps.insert(id, step);
        }
        for (id, work) in works {
            let n = self.place_of(&id).ok_or_else(unknown)?;
            self.works.take_up(&id, work, n);
        }
        self.shown.compact(row.seq);
        Ok(())
    }
}
