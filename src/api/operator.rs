//! The ways out of a pause or a failure: settle or hurry one step, rewind a run, run it again.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::ApiState;
use super::acts::{ActRequest, reason};
use super::auth::{Deployer, Operator};
use super::catalogue::Code;
use super::endpoint_request::{check_secret, check_url, extra_headers};
use super::endpoint_shapes::ReplayBody;
use super::fields::{self, Fields, plain_text};
use super::problem::Problem;
use super::request::{At, Headers, Params, Sent, check_input, idempotency, run_id, traceparent};
use super::shapes::RunBody;
use super::start::REPLAYED;
use crate::engine::{ByHand, Candidate, Rerun, Started};
use crate::machine::{Act, StepError};

/// The longest id of a step, in bytes.
pub(super) const MAX_STEP: usize = 256;
/// Values that one rerun may put in place of recorded ones.
const MAX_EDITS: usize = 1_000;

/// A step's value.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct CompleteStepRequest {
    /// Any JSON up to 4 MiB, recorded byte for byte.
    #[schema(value_type = serde_json::Value)]
    value: serde_json::Value,
    /// Also if no handler has asked for the step yet: then it is recorded as a `run` step, and the
    /// handler finds it done.
    unasked: Option<bool>,
    /// Why, for the run's history.
    #[schema(max_length = 1024)]
    reason: Option<String>,
}

/// A step's failure.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct FailStepRequest {
    error: StepErrorRequest,
    /// Also if no handler has asked for the step yet.
    unasked: Option<bool>,
    /// Why, for the run's history.
    #[schema(max_length = 1024)]
    reason: Option<String>,
}

/// A step error, as a handler would report it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct StepErrorRequest {
    /// The kind of error, by default `Error`.
    r#type: Option<String>,
    message: Option<String>,
    stack: Option<String>,
    /// Any JSON.
    #[schema(value_type = serde_json::Value, required = false)]
    data: serde_json::Value,
}

/// How a run is done again.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct RerunRequest {
    /// Steps that settled before this one are copied with their outcomes; left out: none is.
    #[schema(max_length = 256, min_length = 1)]
    from_step: Option<String>,
    /// In place of the run's input.
    #[schema(value_type = serde_json::Value, required = false)]
    input: serde_json::Value,
    /// Values by step: in place of copied ones, or before the step is asked for.
    #[schema(value_type = Option<std::collections::HashMap<String, serde_json::Value>>)]
    edits: Option<serde_json::Value>,
    /// The deployment to run on (`dep_…`), in place of the newest.
    deployment: Option<String>,
    /// Whether signals that no copied step took are sent to the new run too.
    keep_signals: Option<bool>,
}

/// The acts on single steps, which share one route.
#[derive(utoipa::OpenApi)]
#[openapi(paths(complete_step, fail_step, hurry_step))]
pub(super) struct StepActs;

/// Give a pending step a value, as if its handler or the world had.
///
/// Also a step that no handler has asked for yet, where `unasked` says so. The same value again is
/// no error.
#[utoipa::path(
    post, path = "/v1/runs/{id}/steps/{step}/complete", tag = "runs", operation_id = "complete_step",
    params(
        ("id" = String, Path, description = "The run"),
        ("step" = String, Path, description = "The step; slashes as they are or percent-encoded"),
    ),
    request_body(content = CompleteStepRequest, content_type = "application/json"),
    responses((status = 202, description = "Recorded", body = RunBody)),
    extensions(("x-problems" = json!(["run-not-found", "step-not-found", "invalid-state",
        "already-settled", "run-ended", "run-ending"])))
)]
#[expect(dead_code, reason = "describes a part of `act_on_step`")]
fn complete_step() {}

/// Let a pending step fail for good.
#[utoipa::path(
    post, path = "/v1/runs/{id}/steps/{step}/fail", tag = "runs", operation_id = "fail_step",
    params(
        ("id" = String, Path, description = "The run"),
        ("step" = String, Path, description = "The step; slashes as they are or percent-encoded"),
    ),
    request_body(content = FailStepRequest, content_type = "application/json"),
    responses((status = 202, description = "Recorded", body = RunBody)),
    extensions(("x-problems" = json!(["run-not-found", "step-not-found", "invalid-state",
        "already-settled", "run-ended", "run-ending"])))
)]
#[expect(dead_code, reason = "describes a part of `act_on_step`")]
fn fail_step() {}

/// Try a step now that waits for its next attempt.
///
/// In a paused run also one that has failed for good: its failure is taken back, and when the run
/// is resumed it runs again.
#[utoipa::path(
    post, path = "/v1/runs/{id}/steps/{step}/retry-now", tag = "runs", operation_id = "retry_step_now",
    params(
        ("id" = String, Path, description = "The run"),
        ("step" = String, Path, description = "The step; slashes as they are or percent-encoded"),
    ),
    request_body(content = Option<ActRequest>, content_type = "application/json"),
    responses((status = 202, description = "Recorded", body = RunBody)),
    extensions(("x-problems" = json!(["run-not-found", "step-not-found", "invalid-state",
        "run-ended", "run-ending"])))
)]
#[expect(dead_code, reason = "describes a part of `act_on_step`")]
fn hurry_step() {}

/// What is done with a step.
pub(super) async fn act_on_step(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At((id, path)): At<(String, String)>,
    OriginalUri(uri): OriginalUri,
    params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    let act = uri.path().rsplit('/').next().unwrap_or_default();
    let step = path.strip_suffix(act).and_then(|rest| rest.strip_suffix('/'));
    let (Some(step), "complete" | "fail" | "retry-now") = (step, act) else {
        let detail = "A step can be sent `complete`, `fail` or `retry-now`, behind its id.";
        return Err(Problem::new(Code::NotFound, detail));
    };
    let run = run_id(&id)?;
    params.finish()?;
    plain_text(step, MAX_STEP)
        .map_err(|why| Problem::new(Code::MalformedRequest, format!("The step id {why}.")))?;
    let (ns, by) = (&caller.namespace, caller.by.clone());
    if act == "retry-now" {
        let reason = fields::read(&sent.0, reason)?;
        let act = Act { by, reason, ..Act::default() };
        let view = state.engine.hurry_step(ns, run, step, act).await?;
        return Ok((StatusCode::ACCEPTED, Json(RunBody::from(view))).into_response());
    }
    let ok = act == "complete";
    let (outcome, unasked, reason) = fields::read(&sent.0, |f| {
        let outcome = if ok { value(f) } else { error(f) };
        (outcome, f.value("unasked").unwrap_or(false), reason(f))
    })?;
    let outcome = outcome.unwrap_or_else(|| RawValue::NULL.to_owned());
    let by_hand = ByHand { step: step.to_owned(), ok, outcome, unasked, by, reason };
    let view = state.engine.settle_step(ns, run, by_hand).await?;
    Ok((StatusCode::ACCEPTED, Json(RunBody::from(view))).into_response())
}

fn value(f: &mut Fields<'_>) -> Option<Box<RawValue>> {
    let value = f.payload("value");
    f.need("value", value).map(ToOwned::to_owned)
}

/// The error as it is recorded: without what speaks to a retry policy, for nothing is retried.
fn error(f: &mut Fields<'_>) -> Option<Box<RawValue>> {
    let error: Option<StepError> = f.value("error");
    let error = f.need("error", error)?;
    serde_json::value::to_raw_value(&error).ok()
}

/// Let a run that has failed go on.
///
/// It keeps its id. Failed steps are taken back and run again; successful ones stay. A run that
/// timed out has its whole time anew.
#[utoipa::path(
    post, path = "/v1/runs/{id}/rewind", tag = "runs",
    params(("id" = String, Path, description = "The run")),
    request_body(content = Option<ActRequest>, content_type = "application/json"),
    responses((status = 202, description = "Recorded: the run is live again", body = RunBody)),
    extensions(("x-problems" = json!(["run-not-found", "invalid-state", "run-exists"])))
)]
pub(super) async fn rewind_run(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(id): At<String>,
    params: Params,
    sent: Sent,
) -> Result<(StatusCode, Json<RunBody>), Problem> {
    let run = run_id(&id)?;
    params.finish()?;
    let reason = fields::read(&sent.0, reason)?;
    let act = Act { by: caller.by, reason, ..Act::default() };
    let view = state.engine.rewind(&caller.namespace, run, act).await?;
    Ok((StatusCode::ACCEPTED, Json(view.into())))
}

/// Run it again: a new run of the same function, with the same input, key and tags.
///
/// Steps that settled before `from_step` are copied in their order; their keys for the outside
/// world are the new run's. The original stays as it is. A key that a live run has is 409.
#[utoipa::path(
    post, path = "/v1/runs/{id}/rerun", tag = "runs",
    params(
        ("id" = String, Path, description = "The run to do again"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body start one run"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, carried into every invocation"),
    ),
    request_body(content = Option<RerunRequest>, content_type = "application/json"),
    responses((status = 202, description = "The new run", body = RunBody, headers(
        ("Location" = String, description = "The new run"),
        ("Idempotent-Replayed" = String, description = "`true` where the idempotency key was used before")))),
    extensions(("x-problems" = json!(["run-not-found", "function-not-found", "deployment-not-found", "endpoint-draining", "quota-exceeded",
        "run-exists", "idempotency-in-progress", "idempotency-key-reused"])))
)]
pub(super) async fn rerun_run(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(id): At<String>,
    params: Params,
    Headers(headers): Headers,
    sent: Sent,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    params.finish()?;
    let mut how = fields::read(&sent.0, how)?;
    if let Some(input) = &how.input {
        check_input("input", input.get().len())?;
    }
    how.by.clone_from(&caller.by);
    how.idempotency = idempotency(&headers, &format!("POST /v1/runs/{run}/rerun"), &sent.0)?;
    how.traceparent = traceparent(&headers);
    let started = state.engine.rerun(&caller.namespace, run, how).await?;
    let view = state.engine.view(&caller.namespace, started.run()).await?;
    let location = HeaderValue::try_from(format!("/v1/runs/{}", started.run()));
    let location = location.expect("ids are letters and digits");
    let body = Json(RunBody::from(view));
    let mut response = (StatusCode::ACCEPTED, [(header::LOCATION, location)], body).into_response();
    if matches!(started, Started::Replayed(_)) {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Code to replay a run against.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct ReplayRequest {
    /// Where the candidate is.
    #[schema(format = "uri", example = "http://127.0.0.1:3000/")]
    url: String,
    /// What the calls are signed with (`whsec_…`); left out: the secrets of the run's own endpoint.
    secret: Option<String>,
    /// Extra request headers. Those of the run's own endpoint are not sent.
    headers: Option<BTreeMap<String, String>>,
}

/// Hold new code against a recorded run.
///
/// The candidate is invoked with no steps and `reason: "replay"`, and each step that it asks for or
/// reports settles as it is recorded, in memory: nothing is recorded, and the candidate must not
/// run the bodies of its steps. The first divergence ends it.
#[utoipa::path(
    post, path = "/v1/runs/{id}/replay", tag = "runs",
    params(("id" = String, Path, description = "The run")),
    request_body(content = ReplayRequest, content_type = "application/json"),
    responses((status = 200, description = "What came of it", body = ReplayBody)),
    extensions(("x-problems" = json!(["run-not-found", "invalid-state"])))
)]
pub(super) async fn replay_run(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(id): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Json<ReplayBody>, Problem> {
    let run = run_id(&id)?;
    params.finish()?;
    let candidate = fields::read(&sent.0, |f| {
        let url = f.parsed("url", check_url);
        Candidate {
            url: f.need("url", url).unwrap_or_default(),
            secret: f.parsed("secret", check_secret),
            headers: extra_headers(f),
        }
    })?;
    Ok(Json(state.engine.replay(&caller.namespace, run, candidate).await?.into()))
}

fn how(f: &mut Fields<'_>) -> Rerun {
    let edits: BTreeMap<String, Box<RawValue>> = f.value("edits").unwrap_or_default();
    if edits.len() > MAX_EDITS {
        f.fault("edits", format!("has {} steps; the limit is {MAX_EDITS}", edits.len()));
    }
    for step in edits.keys() {
        if let Err(why) = plain_text(step, MAX_STEP) {
            f.fault("edits", format!("the id of a step {why}"));
        }
    }
    Rerun {
        from_step: f.text("from_step", MAX_STEP),
        input: f.payload("input").map(ToOwned::to_owned),
        edits,
        deployment: f.parsed("deployment", |text| text.parse().map_err(|e| format!("{e}"))),
        keep_signals: f.value("keep_signals").unwrap_or(false),
        ..Rerun::default()
    }
}
