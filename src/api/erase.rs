//! The payloads of ended runs are erased.

use axum::Json;
use axum::extract::State;

use super::ApiState;
use super::acts::{ActRequest, reason};
use super::auth::Operator;
use super::fields;
use super::problem::Problem;
use super::request::{At, Params, Sent, run_id};
use super::shapes::RunBody;
use crate::machine::Act;

/// Erase the payloads of a run that has ended.
///
/// Its input, output, values of steps, payloads of signals, state, custom status, errors' messages, output streams and
/// log are gone for good; ids, names, times, statuses, key and tags stay. Again is no error.
#[utoipa::path(
    post, path = "/v1/runs/{id}/erase", tag = "runs",
    params(("id" = String, Path, description = "The run")),
    request_body(content = Option<ActRequest>, content_type = "application/json"),
    responses((status = 200, description = "What is left", body = RunBody)),
    extensions(("x-problems" = json!(["run-not-found", "invalid-state"])))
)]
pub(super) async fn erase_run(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(id): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Json<RunBody>, Problem> {
    let run = run_id(&id)?;
    params.finish()?;
    let mut act = Act { by: caller.by.clone(), ..Act::default() };
    act.reason = fields::read(&sent.0, reason)?;
    Ok(Json(state.engine.erase(&caller.namespace, run, act).await?.into()))
}
