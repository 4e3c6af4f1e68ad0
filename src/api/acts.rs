//! What operators do to a run: cancel, terminate, pause, resume, retry now.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::Operator;
use super::fields::{self, Fields};
use super::problem::Problem;
use super::request::{At, Params, Sent, run_id};
use super::shapes::RunBody;
use crate::engine::Caller;
use crate::machine::{Act, DeploymentId, MessageKind};

/// Bytes of a reason.
const MAX_REASON: usize = 1024;

/// The reason of an act.
pub(super) fn reason(f: &mut Fields<'_>) -> Option<String> {
    f.parsed("reason", |text| {
        if text.len() > MAX_REASON {
            return Err(format!("has at most {MAX_REASON} bytes"));
        }
        if text.contains('\0') {
            return Err(
                "must not have the character U+0000, which no text in Postgres has".to_owned()
            );
        }
        Ok(text.to_owned())
    })
}
/// The longest time for compensation.
pub(super) const MAX_GRACE: Duration = Duration::from_hours(24);

/// Why, for the run's history or the audit log.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct ActRequest {
    #[schema(max_length = 1024)]
    pub(super) reason: Option<String>,
}

/// A cancel.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct CancelRequest {
    /// Why: the handler is told, and the run's history.
    #[schema(max_length = 1024)]
    reason: Option<String>,
    /// How long the handler may compensate, by default 60 s, at most 24 h.
    #[schema(example = "60s")]
    grace: Option<String>,
}

/// A resume.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct ResumeRequest {
    #[schema(max_length = 1024)]
    reason: Option<String>,
    /// The deployment to go on with (`dep_…`), in place of the one it would have.
    deployment: Option<String>,
}

type Answer = Result<(StatusCode, Json<RunBody>), Problem>;

async fn act(
    state: &ApiState,
    caller: &Caller,
    id: &str,
    params: Params,
    sent: &Sent,
    kind: MessageKind,
    more: impl FnOnce(&mut Fields<'_>, &mut Act) -> Option<DeploymentId>,
) -> Answer {
    let run = run_id(id)?;
    params.finish()?;
    let mut act = Act { by: caller.by.clone(), ..Act::default() };
    let deployment = fields::read(&sent.0, |f| {
        act.reason = reason(f);
        more(f, &mut act)
    })?;
    let view = state.engine.act(&caller.namespace, run, kind, act, deployment).await?;
    Ok((StatusCode::ACCEPTED, Json(view.into())))
}

/// Cancel a run.
///
/// Its handler is invoked once more and may compensate until a deadline. From the moment the cancel
/// is recorded, nothing that did not see it can record a step. Again is no error.
#[utoipa::path(
    post, path = "/v1/runs/{id}/cancel", tag = "runs",
    params(("id" = String, Path, description = "The run")),
    request_body(content = Option<CancelRequest>, content_type = "application/json"),
    responses((status = 202, description = "Recorded", body = RunBody)),
    extensions(("x-problems" = json!(["run-not-found", "invalid-state", "run-ended", "run-ending"])))
)]
pub(super) async fn cancel_run(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(id): At<String>,
    params: Params,
    sent: Sent,
) -> Answer {
    act(&state, &caller, &id, params, &sent, MessageKind::Cancel, |f, act| {
        let grace = f.duration("grace");
        if grace.is_some_and(|g| g > MAX_GRACE) {
            f.fault("grace", "must be at most 24 h");
        }
        act.grace_ms = grace.and_then(|g| u64::try_from(g.as_millis()).ok());
        None
    })
    .await
}

/// Terminate a run.
///
/// It ends now; its handler is not called. Again is no error.
#[utoipa::path(
    post, path = "/v1/runs/{id}/terminate", tag = "runs",
    params(("id" = String, Path, description = "The run")),
    request_body(content = Option<ActRequest>, content_type = "application/json"),
    responses((status = 202, description = "Recorded", body = RunBody)),
    extensions(("x-problems" = json!(["run-not-found", "invalid-state", "run-ended", "run-ending"])))
)]
pub(super) async fn terminate_run(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(id): At<String>,
    params: Params,
    sent: Sent,
) -> Answer {
    act(&state, &caller, &id, params, &sent, MessageKind::Terminate, |_, _| None).await
}

/// Pause a run.
///
/// It is not invoked until somebody resumes it; an exchange that is open may finish.
#[utoipa::path(
    post, path = "/v1/runs/{id}/pause", tag = "runs",
    params(("id" = String, Path, description = "The run")),
    request_body(content = Option<ActRequest>, content_type = "application/json"),
    responses((status = 202, description = "Recorded", body = RunBody)),
    extensions(("x-problems" = json!(["run-not-found", "invalid-state", "run-ended", "run-ending"])))
)]
pub(super) async fn pause_run(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(id): At<String>,
    params: Params,
    sent: Sent,
) -> Answer {
    act(&state, &caller, &id, params, &sent, MessageKind::Pause, |_, _| None).await
}

/// Let a paused run go on, on another deployment if one is named.
#[utoipa::path(
    post, path = "/v1/runs/{id}/resume", tag = "runs",
    params(("id" = String, Path, description = "The run")),
    request_body(content = Option<ResumeRequest>, content_type = "application/json"),
    responses((status = 202, description = "Recorded", body = RunBody)),
    extensions(("x-problems" = json!(["run-not-found", "deployment-not-found", "invalid-state", "run-ended", "run-ending"])))
)]
pub(super) async fn resume_run(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(id): At<String>,
    params: Params,
    sent: Sent,
) -> Answer {
    act(&state, &caller, &id, params, &sent, MessageKind::Resume, |f, _| {
        f.parsed("deployment", |text| text.parse().map_err(|e| format!("{e}")))
    })
    .await
}

/// Try now what waits for its next attempt.
#[utoipa::path(
    post, path = "/v1/runs/{id}/retry-now", tag = "runs",
    params(("id" = String, Path, description = "The run")),
    request_body(content = Option<ActRequest>, content_type = "application/json"),
    responses((status = 202, description = "Recorded", body = RunBody)),
    extensions(("x-problems" = json!(["run-not-found", "invalid-state", "run-ended", "run-ending"])))
)]
pub(super) async fn retry_run_now(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(id): At<String>,
    params: Params,
    sent: Sent,
) -> Answer {
    act(&state, &caller, &id, params, &sent, MessageKind::RetryNow, |_, act| {
        act.hurry = true;
        None
    })
    .await
}
