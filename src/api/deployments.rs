//! Versions that outlive deploys: deployments with the runs that need them, draining, moving runs
//! from one to another, pruning.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::StatusCode;
use axum::response::Response;
use utoipa::ToSchema;

use super::ApiState;
use super::acts::{ActRequest, reason};
use super::auth::{Deployer, Operator, Reader};
use super::catalogue::Code;
use super::endpoint_shapes::{DeploymentBody, EndpointBody, PrunedBody, RepinnedBody};
use super::endpoints::{find, with_etag};
use super::fields::{self, Fields};
use super::forward::no_endpoint;
use super::page::{Cut, Page};
use super::problem::Problem;
use super::request::{At, Params, Sent, run_id};
use super::shapes::RunBody;
use crate::machine::{Act, DeploymentId};

/// Where runs go.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `read` reads")]
pub(super) struct RepinRequest {
    /// The deployment to go on with (`dep_…`); left out: the newest that has the run's function.
    deployment: Option<String>,
    /// Why, for the runs' history.
    #[schema(max_length = 1024)]
    reason: Option<String>,
}

fn read(f: &mut Fields<'_>, act: &mut Act) -> Option<DeploymentId> {
    act.reason = reason(f);
    f.parsed("deployment", |text| text.parse().map_err(|e| format!("{e}")))
}

/// The deployments of an endpoint, and the live runs that each has.
///
/// A deployment that is `drained` is needed by no live run: its handler can be switched off, and it
/// can be pruned.
#[utoipa::path(
    get, path = "/v1/endpoints/{endpoint}/deployments", tag = "endpoints",
    params(
        ("endpoint" = String, Path, description = "Its id or name"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of deployments, old to new", body = Page<DeploymentBody>,
        headers(("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!(["endpoint-not-found"])))
)]
pub(super) async fn list_deployments(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(name): At<String>,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let cut = Cut::of(&mut params);
    params.finish()?;
    let endpoint = find(&state, &caller, &name).await?;
    let all = state.engine.deployments(&caller.namespace, endpoint.id).await?;
    Ok(cut.page(all, |d| d.id, DeploymentBody::from).answer(&uri))
}

/// Start no more runs at an endpoint; those that are live go on.
///
/// A start is answered with `endpoint-draining`. `enable` ends it. How many runs are left the
/// endpoint's deployments tell.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/drain", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or name")),
    request_body(content = Option<ActRequest>, content_type = "application/json"),
    responses((status = 200, description = "Draining", body = EndpointBody)),
    extensions(("x-problems" = json!(["endpoint-not-found"])))
)]
pub(super) async fn drain_endpoint(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    fields::read(&sent.0, reason)?;
    let endpoint = find(&state, &caller, &name).await?;
    let changed = state.engine.drain_endpoint(&caller.namespace, endpoint.id, &caller.by).await?;
    changed.map(with_etag).ok_or_else(no_endpoint)
}

/// Retire the deployments of an endpoint that no live run needs.
///
/// Runs that ended there keep its id. Registering the same content brings a deployment back.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/prune", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or name")),
    request_body(content = Option<ActRequest>, content_type = "application/json"),
    responses((status = 200, description = "Pruned", body = PrunedBody)),
    extensions(("x-problems" = json!(["endpoint-not-found"])))
)]
pub(super) async fn prune_endpoint(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Json<PrunedBody>, Problem> {
    params.finish()?;
    fields::read(&sent.0, reason)?;
    let endpoint = find(&state, &caller, &name).await?;
    let pruned = state.engine.prune_endpoint(&caller.namespace, endpoint.id, &caller.by).await?;
    Ok(Json(PrunedBody { pruned }))
}

/// Move every live run that stays on a deployment to another.
///
/// Those are the runs of functions that are `pinned`, and those that were put there by hand; the
/// others go on with the newest deployment anyway. They stay where they are moved to. An exchange
/// that is open ends where it is.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/deployments/{deployment}/repin", tag = "endpoints",
    params(
        ("endpoint" = String, Path, description = "Its id or name"),
        ("deployment" = String, Path, description = "The deployment that they are to leave"),
    ),
    request_body(content = Option<RepinRequest>, content_type = "application/json"),
    responses((status = 200, description = "Moved", body = RepinnedBody)),
    extensions(("x-problems" = json!(["endpoint-not-found", "deployment-not-found"])))
)]
pub(super) async fn repin_runs(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At((name, deployment)): At<(String, String)>,
    params: Params,
    sent: Sent,
) -> Result<Json<RepinnedBody>, Problem> {
    params.finish()?;
    let mut act = Act { by: caller.by.clone(), ..Act::default() };
    let to = fields::read(&sent.0, |f| read(f, &mut act))?;
    let endpoint = find(&state, &caller, &name).await?;
    let unknown = || {
        let detail = format!("Endpoint `{}` has no deployment `{deployment}`.", endpoint.name);
        Problem::new(Code::DeploymentNotFound, detail)
    };
    let from = deployment.parse().map_err(|_| unknown())?;
    let ns = &caller.namespace;
    let moved = state.engine.repin_all(ns, endpoint.id, from, to, &act).await?;
    Ok(Json(moved.ok_or_else(unknown)?.into()))
}

/// Put a run on another deployment, from its next invocation on. It stays there.
#[utoipa::path(
    post, path = "/v1/runs/{id}/repin", tag = "runs",
    params(("id" = String, Path, description = "The run")),
    request_body(content = Option<RepinRequest>, content_type = "application/json"),
    responses((status = 202, description = "Recorded", body = RunBody)),
    extensions(("x-problems" = json!(["run-not-found", "function-not-found", "deployment-not-found",
        "invalid-state", "run-ended", "run-ending"])))
)]
pub(super) async fn repin_run(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(id): At<String>,
    params: Params,
    sent: Sent,
) -> Result<(StatusCode, Json<RunBody>), Problem> {
    let run = run_id(&id)?;
    params.finish()?;
    let mut act = Act { by: caller.by.clone(), ..Act::default() };
    let to = fields::read(&sent.0, |f| read(f, &mut act))?;
    let view = state.engine.repin_run(&caller.namespace, run, to, act).await?;
    Ok((StatusCode::ACCEPTED, Json(view.into())))
}
