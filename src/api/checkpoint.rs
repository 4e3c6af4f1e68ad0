//! What a handler sends while its invocation goes on.

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::Handling;
use super::problem::Problem;
use super::request::{At, Params, Sent, run_id};

/// A checkpoint: ops and ends as in an answer.
#[derive(ToSchema)]
#[schema(as = Checkpoint)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct CheckpointRequest {
    /// Counts the checkpoints of one invocation from 1. Left out, with everything else: a sign of
    /// life.
    #[schema(minimum = 1, required = false)]
    n: i32,
    /// What is reported and asked for, as in an answer.
    #[schema(value_type = Vec<serde_json::Value>, required = false)]
    ops: Vec<serde_json::Value>,
    /// The run completed; also `error` and `yield`, as in an answer.
    #[schema(value_type = serde_json::Value, required = false)]
    result: serde_json::Value,
    /// A tree of steps. With `wait` it leaves the invocation open.
    #[schema(value_type = serde_json::Value, required = false)]
    r#await: serde_json::Value,
}

/// A checkpoint that is durable.
#[derive(Serialize, ToSchema)]
#[schema(as = Acknowledgement)]
pub(super) struct AcknowledgementBody {
    /// The number of the checkpoint; left out for a sign of life.
    #[schema(required = false)]
    ack: i32,
    /// The `seq` up to which the handler knows the journal now.
    upto: i32,
    /// All entries after those that it knew, as in an invocation; null for a step whose next
    /// attempt is due.
    #[schema(value_type = serde_json::Value)]
    steps: serde_json::Value,
    /// By name, how many signals were accepted and not yet taken; left out where there are none.
    #[schema(value_type = serde_json::Value, required = false)]
    inbox: serde_json::Value,
    /// How long the handler should work on, in milliseconds.
    budget_ms: u64,
    /// A cancel that was taken: stop, you are invoked again with it.
    #[schema(value_type = serde_json::Value)]
    cancel: serde_json::Value,
    /// Finish the exchange now; you are invoked again.
    #[schema(required = false)]
    suspend: bool,
}

/// Record a part of an invocation.
///
/// For handlers, with the token of their invocation. The answer comes when everything in it is
/// durable; the same checkpoint again is answered in the same way.
#[utoipa::path(
    post, path = "/v1/runs/{id}/checkpoint", tag = "handlers",
    params(
        ("id" = String, Path, description = "The run"),
        ("wait" = Option<String>, Query, description = "Wait for the tree in `await`; at most half of what the exchange may be silent"),
    ),
    request_body(content = Option<CheckpointRequest>, content_type = "application/json"),
    responses((status = 200, description = "Durable", body = AcknowledgementBody)),
    security(("invocation_token" = [])),
    extensions(("x-problems" = json!(["invalid-token", "run-not-found", "stale-epoch", "run-ended",
        "run-paused", "checkpoint-skipped", "checkpoint-reused", "payload-too-large"])))
)]
pub(super) async fn checkpoint(
    State(state): State<ApiState>,
    handler: Handling,
    At(id): At<String>,
    mut params: Params,
    Sent(body): Sent,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    let wait = params.wait();
    params.finish()?;
    let token = handler.token()?;
    let told = state.engine.checkpoint(&token, run, body, wait).await?;
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], told).into_response())
}
