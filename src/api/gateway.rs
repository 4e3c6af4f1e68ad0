//! What the gateway is: its version, its nodes, what it keeps and what it takes.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::Reader;
use super::problem::Problem;
use super::request::Params;
use crate::engine::GatewayView;
use crate::machine::NodeId;
use crate::machine::time::format_duration;

/// A node that lives.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GatewayNode)]
pub(super) struct NodeBody {
    #[schema(value_type = String)]
    id: NodeId,
    /// How many of the 256 groups of runs it drives.
    groups: usize,
}

/// What a run may have.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RunLimits)]
pub(super) struct RunLimitsBody {
    /// Bytes of one value.
    value_bytes: usize,
    /// Bytes of all values and errors of a run.
    journal_bytes: usize,
    /// Steps of a run.
    steps: usize,
    /// Signals that were accepted and nobody has taken.
    untaken_signals: usize,
    /// Fields of an object.
    object_fields: usize,
    /// Bytes of an object's state.
    object_bytes: usize,
}

/// What the gateway is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Gateway)]
pub(super) struct GatewayBody {
    /// Of Stepwell.
    version: &'static str,
    /// The node that answers.
    #[schema(value_type = String)]
    node: NodeId,
    /// The nodes that live, as of the last heartbeat.
    nodes: Vec<NodeBody>,
    /// How long ended runs, their history and logs are kept; they go by whole weeks.
    #[schema(example = "30d")]
    retention: String,
    /// What a run may have.
    limits: RunLimitsBody,
}

impl From<GatewayView> for GatewayBody {
    fn from(GatewayView { node, nodes, retention, limits }: GatewayView) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            node,
            nodes: nodes.into_iter().map(|(id, groups)| NodeBody { id, groups }).collect(),
            retention: format_duration(retention),
            limits: RunLimitsBody {
                value_bytes: limits.value_bytes,
                journal_bytes: limits.journal_bytes,
                steps: limits.steps,
                untaken_signals: limits.untaken,
                object_fields: limits.object_fields,
                object_bytes: limits.object_bytes,
            },
        }
    }
}

/// What the gateway is: version, nodes, retention, limits.
#[utoipa::path(
    get, path = "/v1/gateway", tag = "node",
    responses((status = 200, description = "The gateway", body = GatewayBody)),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn get_gateway(
    State(state): State<ApiState>,
    Reader(_): Reader,
    params: Params,
) -> Result<Json<GatewayBody>, Problem> {
    params.finish()?;
    Ok(Json(state.engine.gateway().into()))
}
