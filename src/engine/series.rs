//! What happened in the last hour and day, as this node counted it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::{Engine, Status, lock};
use crate::machine::{NodeId, Timestamp};
pub use crate::telemetry::series::{Curves, Window};
use crate::telemetry::series::{Series, TICK, Totals};

/// The curves of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCurves {
    /// Which node: another one has counted other runs.
    pub node: NodeId,
    /// What it counted.
    pub curves: Curves,
}

/// What a node has counted so far.
#[derive(Default)]
pub(super) struct Counted(Mutex<Series>);

impl Engine {
    /// Looks at the metrics at an even pace, on a grid that all nodes have.
    pub(super) async fn keep_count(&self) {
        loop {
            let now = self.clock().upper();
            let live = self.live_runs().await;
            let totals = Totals::read(&self.metrics());
            lock(&self.0.counted.0).take(now, &totals, live.as_ref());
            let next = next(now);
            while self.clock().lower() < next {
                self.clock().until(next).await;
            }
        }
    }

    /// Live runs by status, of the whole cluster: one node counts them.
    async fn live_runs(&self) -> Option<BTreeMap<String, u64>> {
        if !self.is_ours_group(0) {
            return None;
        }
        let found = self.store().live_runs().await.ok().flatten()?;
        let word = |(code, runs)| Some((Status::from_code(code)?.word().to_owned(), runs));
        Some(found.into_iter().filter_map(word).collect())
    }

    /// The curves of this node.
    #[must_use]
    pub fn curves(&self, window: Window) -> NodeCurves {
        NodeCurves { node: self.node(), curves: lock(&self.0.counted.0).curves(window) }
    }
}

/// The next moment of the grid.
fn next(now: Timestamp) -> Timestamp {
    let step = i64::try_from(TICK.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros((now.as_micros().div_euclid(step) + 1).saturating_mul(step))
}
