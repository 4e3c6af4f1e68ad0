//! Queries: a run's handler is asked, and nothing is recorded.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::Reader;
use super::fields;
use super::problem::Problem;
use super::request::{At, Params, Sent, check_input, run_id};
use super::shapes::Payload;
use super::signals::named;

/// A query.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct QueryRequest {
    /// Any JSON up to 1 MiB, passed on byte for byte. Left out: null.
    #[schema(value_type = serde_json::Value, required = false)]
    args: serde_json::Value,
}

/// What a query was answered.
#[derive(Serialize, ToSchema)]
#[schema(as = QueryAnswer)]
pub(super) struct QueryBody {
    /// As the handler gave it.
    #[schema(value_type = serde_json::Value)]
    result: Payload,
}

/// Ask a run's handler something about the run.
///
/// The handler gets the run's steps with `"type": "query"`, the name and the arguments, and answers
/// `{"result": …}`. Nothing is recorded and the run goes on as if nobody had asked; one that has ended
/// can be asked too.
#[utoipa::path(
    post, path = "/v1/runs/{id}/queries/{name}", tag = "runs",
    params(
        ("id" = String, Path, description = "The run"),
        ("name" = String, Path, description = "What is asked"),
    ),
    request_body(content = Option<QueryRequest>, content_type = "application/json"),
    responses((status = 200, description = "Answered", body = QueryBody)),
    extensions(("x-problems" = json!(["run-not-found", "function-not-found", "query-failed"])))
)]
pub(super) async fn query_run(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At((id, name)): At<(String, String)>,
    params: Params,
    sent: Sent,
) -> Result<Json<QueryBody>, Problem> {
    let run = run_id(&id)?;
    named(&name)?;
    params.finish()?;
    let args = fields::read(&sent.0, |f| f.payload("args").unwrap_or(RawValue::NULL).get())?;
    check_input("args", args.len())?;
    let result = state.engine.query(&caller.namespace, run, &name, args.as_bytes()).await?;
    Ok(Json(QueryBody { result: Payload(Some(result)) }))
}
