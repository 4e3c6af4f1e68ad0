//! A run that is kept from its handler leaves memory, and comes back as it was.

use serde::{Deserialize, Serialize};

use super::apply::Env;
use super::body::{Attention, Faulted, to_bytes};
use super::draft::Draft;
use super::row::{Flags, Kind, Row};
use super::run::{Run, Turn, Unreadable};

/// Body of a `noted` row that parks a run which wants an exchange and is kept from it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AtGate {
    /// What keeps it, for people.
    pub attention: Attention,
    /// The failed exchanges in a row that only memory knew of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<Faulted>,
}

impl Run {
    /// Lets a run that wants an exchange leave memory, because `gate` keeps it from one: records
    /// that, unless it is what the database says. Returns false if the run has something else to
    /// do first.
    pub fn park_at_gate(&mut self, gate: i64, attention: Attention, env: &Env<'_>) -> bool {
        // Tasks and calls go on meanwhile, or their time is up.
        let kept =
            matches!(self.turn, Turn::Due { .. }) && self.paused.is_none() && self.works.is_empty();
        if !kept || !self.next.rows.is_empty() || !self.next.history.is_empty() {
            return false;
        }
        // An exchange since then has used an epoch that no row tells of: then it is not parked.
        if !self.is_parked_at(gate) {
            let faults = (self.faults > 0)
                .then(|| self.faulted_now(self.last_fault.as_deref().unwrap_or_default()));
            Draft::new(Kind::Noted, Flags::PARK)
                .due(self.latest_end())
                .body(to_bytes(&AtGate { attention, faults }))
                .put(self, env.now);
            self.gate = Some(gate);
        }
        true
    }

    /// Whether the database says that this gate keeps it out of memory.
    #[must_use]
    pub fn is_parked_at(&self, gate: i64) -> bool {
        self.parked && self.gate == Some(gate)
    }

    /// A row says that the run was kept back. Its turn stays as it was; and whoever wrote this has
    /// outlived the exchanges before it.
    pub(super) fn kept_back(&mut self, row: &Row) -> Result<(), Unreadable> {
        let body = row.body.as_deref().unwrap_or_default();
        let kept: AtGate = serde_json::from_slice(body)
            .map_err(|e| Unreadable::Body { n: row.n, detail: e.to_string() })?;
        if let Some(faults) = kept.faults {
            self.faults = faults.faults;
            self.first_fault = faults.first;
            self.last_fault = Some(faults.detail);
        }
        self.claims = 0;
        Ok(())
    }
}
