//! Endpoints: register, read, change, delete.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa::ToSchema;

use super::ApiState;
use super::acts::{ActRequest, reason};
use super::auth::{Deployer, Reader};
use super::catalogue::Code;
use super::endpoint_request::{
    EndpointRequest, PatchEndpointRequest, check_secret, read, read_patch,
};
use super::endpoint_shapes::{
    EndpointBody, EndpointHealthBody, ProbeBody, ProbeStageBody, RegisteredBody, RotatedBody,
};
use super::fields;
use super::forward::{endpoint_ref, no_endpoint};
use super::page::{Cut, Page};
use super::problem::Problem;
use super::request::{At, Headers, Params, Sent, at_hand, is_asked_for};
use crate::engine::{
    Caller, Change, Deleted, EndpointView, Patched, RegisterOutcome, Registered, RunsPolicy,
};

/// Register an endpoint, or a new deployment of it.
///
/// The answer tells how the handler answered, stage by stage, with a fix in words for each failure.
/// The same content again changes nothing.
#[utoipa::path(
    post, path = "/v1/endpoints", tag = "endpoints",
    request_body(content = EndpointRequest, content_type = "application/json"),
    responses(
        (status = 201, description = "Registered; `secret` is shown this once", body = RegisteredBody, headers(
            ("Location" = String, description = "The endpoint"))),
        (status = 200, description = "A known endpoint; or, with `dry_run`, only the probe", body = RegisteredBody),
    ),
    extensions(("x-problems" = json!(["probe-failed", "function-in-use"])))
)]
pub(super) async fn register_endpoint(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    let registration = fields::read(&sent.0, |f| read(f, &caller.by))?;
    registered(state.engine.register_endpoint(&caller.namespace, registration).await?)
}

/// What a registration is answered with.
pub(super) fn registered(outcome: RegisterOutcome) -> Result<Response, Problem> {
    match outcome {
        RegisterOutcome::Registered(registered) => Ok(created(*registered)),
        RegisterOutcome::DryRun(probe, change, replays) => {
            Ok(Json(RegisteredBody::dry_run(probe, change, replays)).into_response())
        }
        RegisterOutcome::ProbeFailed(probe) => {
            let failed = probe.iter().find(|s| s.ok == Some(false));
            let detail = failed.map_or_else(
                || "The handler did not tell its functions.".to_owned(),
                |s| format!("{}: {}", s.name, s.detail),
            );
            let probe: Vec<ProbeStageBody> = probe.into_iter().map(Into::into).collect();
            Err(Problem::new(Code::ProbeFailed, detail).with("probe", probe))
        }
        RegisterOutcome::DropsFunctions(functions, runs) => {
            let detail = format!("Live runs need: {}.", functions.join(", "));
            Err(Problem::new(Code::FunctionInUse, detail)
                .with("functions", functions)
                .with("runs", runs))
        }
    }
}

fn created(registered: Registered) -> Response {
    let status =
        if registered.change == Change::Created { StatusCode::CREATED } else { StatusCode::OK };
    let etag = etag(&registered.endpoint);
    let location = format!("/v1/endpoints/{}", registered.endpoint.id);
    let location = HeaderValue::try_from(location).expect("ids are letters and digits");
    let headers = [(header::ETAG, etag), (header::LOCATION, location)];
    (status, headers, Json(RegisteredBody::from(registered))).into_response()
}

fn etag(endpoint: &EndpointView) -> HeaderValue {
    HeaderValue::try_from(format!("\"{}\"", endpoint.version)).expect("a number in quotes")
}

/// The endpoint that a path names.
pub(super) async fn find(
    state: &ApiState,
    caller: &Caller,
    name: &str,
) -> Result<EndpointView, Problem> {
    let found = state.engine.endpoint(&caller.namespace, &endpoint_ref(name)).await?;
    found.ok_or_else(no_endpoint)
}

/// The version that `If-Match` asks for, if the endpoint has it.
fn if_match(headers: &HeaderMap, endpoint: &EndpointView) -> Result<Option<i64>, Problem> {
    match is_asked_for(headers, &etag(endpoint)) {
        None => Ok(None),
        Some(true) => Ok(Some(endpoint.version)),
        Some(false) => Err(stale()),
    }
}

fn stale() -> Problem {
    Problem::new(Code::PreconditionFailed, "The endpoint is not at the version in `If-Match`.")
}

pub(super) fn with_etag(endpoint: EndpointView) -> Response {
    ([(header::ETAG, etag(&endpoint))], Json(EndpointBody::from(endpoint))).into_response()
}

/// List endpoints.
#[utoipa::path(
    get, path = "/v1/endpoints", tag = "endpoints",
    params(
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of endpoints", body = Page<EndpointBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn list_endpoints(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let cut = Cut::of(&mut params);
    params.finish()?;
    let all = state.engine.endpoints(&caller.namespace).await?;
    Ok(cut.page(all, |e| e.id, EndpointBody::from).answer(&uri))
}

/// Read an endpoint.
#[utoipa::path(
    get, path = "/v1/endpoints/{endpoint}", tag = "endpoints",
    params(
        ("endpoint" = String, Path, description = "Its id or name"),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` that is at hand"),
    ),
    responses(
        (status = 200, description = "The endpoint", body = EndpointBody, headers(
            ("ETag" = String, description = "Its version"))),
        (status = 304, description = "It is at hand"),
    ),
    extensions(("x-problems" = json!(["endpoint-not-found"])))
)]
pub(super) async fn get_endpoint(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(name): At<String>,
    params: Params,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    params.finish()?;
    let endpoint = find(&state, &caller, &name).await?;
    if let Some(known) = at_hand(&headers, etag(&endpoint)) {
        return Ok(known);
    }
    Ok(with_etag(endpoint))
}

/// Change an endpoint.
///
/// What is left out stays. A header that is null is taken away; others stay. Another `url` is a new
/// deployment with the functions of the one before, for a handler that has moved; new code is
/// registered.
#[utoipa::path(
    patch, path = "/v1/endpoints/{endpoint}", tag = "endpoints",
    params(
        ("endpoint" = String, Path, description = "Its id or name"),
        ("If-Match" = Option<String>, Header, description = "Only this version (`ETag`)"),
    ),
    request_body(content = Option<PatchEndpointRequest>, content_type = "application/json"),
    responses((status = 200, description = "The endpoint as it is now", body = EndpointBody, headers(
        ("ETag" = String, description = "Its version")))),
    extensions(("x-problems" = json!(["endpoint-not-found", "precondition-failed"])))
)]
pub(super) async fn patch_endpoint(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    Headers(headers): Headers,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    let patch = fields::read(&sent.0, read_patch)?;
    let endpoint = find(&state, &caller, &name).await?;
    let version = if_match(&headers, &endpoint)?;
    let (ns, by) = (&caller.namespace, &caller.by);
    match state.engine.patch_endpoint(ns, endpoint.id, version, patch, by).await? {
        Patched::Done(endpoint) => Ok(with_etag(*endpoint)),
        Patched::Stale if version.is_some() => Err(stale()),
        Patched::Stale => Err(no_endpoint()),
    }
}

/// Delete an endpoint.
///
/// `runs` says what becomes of its live runs; without it, an endpoint that has some is not deleted.
#[utoipa::path(
    delete, path = "/v1/endpoints/{endpoint}", tag = "endpoints",
    params(
        ("endpoint" = String, Path, description = "Its id or name"),
        ("runs" = Option<String>, Query, pattern = "^(cancel|park|repin)$", description = "`cancel`, `park` or `repin`"),
        ("If-Match" = Option<String>, Header, description = "Only this version (`ETag`)"),
    ),
    responses((status = 204, description = "Deleted")),
    extensions(("x-problems" = json!(["endpoint-not-found", "endpoint-in-use", "precondition-failed"])))
)]
pub(super) async fn delete_endpoint(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    mut params: Params,
    Headers(headers): Headers,
) -> Result<StatusCode, Problem> {
    let policy = params.one("runs", |word| match word {
        "cancel" => Ok(RunsPolicy::Cancel),
        "park" => Ok(RunsPolicy::Park),
        "repin" => Ok(RunsPolicy::Repin),
        _ => Err("must be `cancel`, `park` or `repin`".to_owned()),
    });
    params.finish()?;
    let endpoint = find(&state, &caller, &name).await?;
    let version = if_match(&headers, &endpoint)?;
    let (ns, by) = (&caller.namespace, &caller.by);
    match state.engine.delete_endpoint(ns, endpoint.id, version, policy, by).await? {
        Deleted::Done => Ok(StatusCode::NO_CONTENT),
        Deleted::Stale if version.is_some() => Err(stale()),
        Deleted::Stale => Err(no_endpoint()),
        Deleted::InUse(runs) => {
            let detail = "The endpoint has live runs; say with `?runs=` what becomes of them.";
            Err(Problem::new(Code::EndpointInUse, detail).with("runs", runs))
        }
    }
}

/// Ask the handler for its manifest again; new content is a new deployment.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/sync", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or name")),
    request_body(content = Option<SyncRequest>, content_type = "application/json"),
    responses((status = 200, description = "In step", body = RegisteredBody)),
    extensions(("x-problems" = json!(["endpoint-not-found", "probe-failed", "function-in-use"])))
)]
pub(super) async fn sync_endpoint(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    let force = fields::read(&sent.0, |f| f.value("force").unwrap_or(false))?;
    let endpoint = find(&state, &caller, &name).await?;
    let (ns, by) = (&caller.namespace, &caller.by);
    let outcome = state.engine.sync_endpoint(ns, endpoint.id, force, by).await?;
    let mut response = registered(outcome.ok_or_else(no_endpoint)?)?;
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

/// A sync.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct SyncRequest {
    /// Go on although functions with live runs are dropped; those are parked.
    force: Option<bool>,
}

/// Take an endpoint out of service: its runs are parked.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/disable", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or name")),
    request_body(content = Option<ActRequest>, content_type = "application/json"),
    responses((status = 200, description = "Disabled", body = EndpointBody)),
    extensions(("x-problems" = json!(["endpoint-not-found"])))
)]
pub(super) async fn disable_endpoint(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    fields::read(&sent.0, reason)?;
    let endpoint = find(&state, &caller, &name).await?;
    let changed = state.engine.disable_endpoint(&caller.namespace, endpoint.id, &caller.by).await?;
    changed.map(with_etag).ok_or_else(no_endpoint)
}

/// Put an endpoint back into service: its runs go on.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/enable", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or name")),
    request_body(content = Option<ActRequest>, content_type = "application/json"),
    responses((status = 200, description = "Enabled", body = EndpointBody)),
    extensions(("x-problems" = json!(["endpoint-not-found"])))
)]
pub(super) async fn enable_endpoint(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    fields::read(&sent.0, reason)?;
    let endpoint = find(&state, &caller, &name).await?;
    let changed = state.engine.enable_endpoint(&caller.namespace, endpoint.id, &caller.by).await?;
    changed.map(with_etag).ok_or_else(no_endpoint)
}

/// A new secret.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct RotateRequest {
    /// A signing secret of your own (`whsec_…`); left out: one is made.
    secret: Option<String>,
}

/// A new signing secret.
///
/// For a while requests are signed with the old one too, so that handlers can change over.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/rotate-secret", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or name")),
    request_body(content = Option<RotateRequest>, content_type = "application/json"),
    responses((status = 200, description = "The new secret, shown this once", body = RotatedBody)),
    extensions(("x-problems" = json!(["endpoint-not-found"])))
)]
pub(super) async fn rotate_secret(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Json<RotatedBody>, Problem> {
    params.finish()?;
    let secret = fields::read(&sent.0, |f| f.parsed("secret", check_secret))?;
    let endpoint = find(&state, &caller, &name).await?;
    let (ns, by) = (&caller.namespace, &caller.by);
    let rotated = state.engine.rotate_secret(ns, endpoint.id, secret, by).await?;
    rotated.map(|r| Json(r.into())).ok_or_else(no_endpoint)
}

/// Call the handler and tell what was seen, stage by stage.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/probe", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "What was seen", body = ProbeBody)),
    extensions(("x-problems" = json!(["endpoint-not-found"])))
)]
pub(super) async fn probe_endpoint(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Json<ProbeBody>, Problem> {
    params.finish()?;
    fields::read(&sent.0, |_| ())?;
    let endpoint = find(&state, &caller, &name).await?;
    let probe = state.engine.probe_endpoint(&caller.namespace, endpoint.id).await?;
    probe.map(|p| Json(p.into())).ok_or_else(no_endpoint)
}

/// How well an endpoint is, as all nodes agree.
///
/// While it is unhealthy nothing is sent to it but one probe at a time, from whichever node; when a
/// probe goes well, its runs go on.
#[utoipa::path(
    get, path = "/v1/endpoints/{endpoint}/health", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "How well it is", body = EndpointHealthBody)),
    extensions(("x-problems" = json!(["endpoint-not-found"])))
)]
pub(super) async fn endpoint_health(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(name): At<String>,
    params: Params,
) -> Result<Json<EndpointHealthBody>, Problem> {
    params.finish()?;
    let health = state.engine.endpoint_health(&caller.namespace, &endpoint_ref(&name)).await?;
    health.map(|h| Json(h.into())).ok_or_else(no_endpoint)
}
