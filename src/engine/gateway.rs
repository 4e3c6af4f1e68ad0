//! What the gateway is, for those who look after it.

use std::time::Duration;

use super::Engine;
use crate::machine::{Limits, NodeId};

/// The gateway as this node knows it.
#[derive(Debug, Clone)]
pub struct GatewayView {
    /// The node that answers.
    pub node: NodeId,
    /// The nodes that live, with how many groups of runs each drives.
    pub nodes: Vec<(NodeId, usize)>,
    /// How long ended runs are kept.
    pub retention: Duration,
    /// Limits of runs.
    pub limits: Limits,
}

impl Engine {
    /// The gateway as of this node's last heartbeat.
    #[must_use]
    pub fn gateway(&self) -> GatewayView {
        GatewayView {
            node: self.node(),
            nodes: self.cluster().shares(),
            retention: self.0.settings.retention,
            limits: *self.limits(),
        }
    }
}
