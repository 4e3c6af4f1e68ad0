//! What a node says of itself: health, readiness, metrics.

use axum::Json;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::Admin;
use super::problem::Problem;

/// How a node stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Health)]
pub(super) struct HealthBody {
    /// `ok`.
    status: &'static str,
    /// Of Stepwell.
    version: &'static str,
}

const OK: HealthBody = HealthBody { status: "ok", version: env!("CARGO_PKG_VERSION") };

/// Whether the process runs.
#[utoipa::path(
    get, path = "/healthz", tag = "node",
    responses((status = 200, description = "It runs", body = HealthBody)),
    security(()),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn healthz() -> Json<HealthBody> {
    Json(OK)
}

/// Whether the node can serve: Postgres is there, migrated, and the node has its leases.
#[utoipa::path(
    get, path = "/readyz", tag = "node",
    responses((status = 200, description = "It can", body = HealthBody)),
    security(()),
    extensions(("x-problems" = json!(["unavailable"])))
)]
pub(super) async fn readyz(State(state): State<ApiState>) -> Result<Json<HealthBody>, Problem> {
    state.engine.ready().await?;
    Ok(Json(OK))
}

/// Prometheus metrics. Where the server is set so, an API key with `admin` is needed.
#[utoipa::path(
    get, path = "/metrics", tag = "node",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain")),
    security((), ("api_key" = [])),
    extensions(("x-problems" = json!(["unavailable", "unauthenticated", "missing-scope", "cross-origin"])))
)]
pub(super) async fn metrics(
    State(state): State<ApiState>,
    request: Request,
) -> Result<Response, Problem> {
    if !state.open_metrics {
        Admin::from_request_parts(&mut request.into_parts().0, &state).await?;
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, state.engine.metrics()).into_response())
}
