//! Updates: signals whose sender waits for an answer.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::{Reader, Sender};
use super::catalogue::Code;
use super::fields;
use super::problem::Problem;
use super::request::{At, Headers, Params, Sent, check_input, idempotency, run_id};
use super::shapes::Payload;
use super::signals::named;
use super::start::REPLAYED;
use crate::engine::Answer;
use crate::machine::{RunId, UpdateId};

/// An update.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct UpdateRequest {
    /// Any JSON up to 1 MiB, passed on byte for byte. Left out: null.
    #[schema(value_type = serde_json::Value, required = false)]
    payload: serde_json::Value,
    /// What you call it: the same again is the same update of this name, and has the same answer.
    #[schema(max_length = 256, min_length = 1)]
    id: Option<String>,
}

/// An update, and what it was answered.
#[derive(Serialize, ToSchema)]
#[schema(as = Update)]
pub(super) struct UpdateBody {
    #[schema(value_type = String)]
    id: UpdateId,
    /// The run.
    #[schema(value_type = String)]
    run: RunId,
    /// The answer, where there is one and it is no error.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    value: Option<Payload>,
    /// The error that is the answer; of type `run-ended` where the run has ended and gave none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    error: Option<Payload>,
}

/// 200 with an answer, 202 without.
fn answered(run: RunId, id: UpdateId, answer: Answer) -> Response {
    let (mut value, mut error) = (None, None);
    let status = match answer {
        Answer::Waiting => StatusCode::ACCEPTED,
        Answer::Value(json) => {
            value = Some(Payload(Some(json)));
            StatusCode::OK
        }
        Answer::Error(json) => {
            error = Some(Payload(Some(json)));
            StatusCode::OK
        }
    };
    (status, Json(UpdateBody { id, run, value, error })).into_response()
}

/// Send an update to a run: a signal that is answered.
///
/// The run takes it as it takes a signal of this name, in the order of acceptance; the step's value is
/// `{"update": "upd_…", "payload": …}`. What it replies is the answer. With `wait` the call waits for
/// it; without, or when the time is up, it is 202: the update is recorded, and its answer is read later.
#[utoipa::path(
    post, path = "/v1/runs/{id}/updates/{name}", tag = "signals",
    params(
        ("id" = String, Path, description = "The run"),
        ("name" = String, Path, description = "The name that the run asks for"),
        ("wait" = Option<String>, Query, description = "Wait for the answer; at most 300 s"),
        ("Prefer" = Option<String>, Header, description = "`wait=30`, in place of the parameter"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body send one update"),
    ),
    request_body(content = Option<UpdateRequest>, content_type = "application/json"),
    responses(
        (status = 200, description = "Answered", body = UpdateBody, headers(
            ("Idempotent-Replayed" = String, description = "`true` where the idempotency key was used before"))),
        (status = 202, description = "Recorded, not answered yet", body = UpdateBody, headers(
            ("Location" = String, description = "Where the answer will be"),
            ("Idempotent-Replayed" = String, description = "`true` where the idempotency key was used before"))),
    ),
    extensions(("x-problems" = json!(["run-not-found", "run-ended", "run-ending", "too-many-signals",
        "idempotency-in-progress", "idempotency-key-reused"])))
)]
pub(super) async fn send_update(
    State(state): State<ApiState>,
    Sender(caller): Sender,
    At((id, name)): At<(String, String)>,
    mut params: Params,
    Headers(headers): Headers,
    sent: Sent,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    named(&name)?;
    let wait = params.wait();
    params.finish()?;
    let (payload, own) = fields::read(&sent.0, |f| {
        (f.payload("payload").unwrap_or(RawValue::NULL).get(), f.text("id", 256))
    })?;
    check_input("payload", payload.len())?;
    let call = format!("POST /v1/runs/{run}/updates/{name}");
    let idempotency = idempotency(&headers, &call, &sent.0)?;
    let (engine, ns) = (&state.engine, &caller.namespace);
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    let own = own.as_deref();
    let (update, sent) = engine.send_update(ns, run, &name, &payload, own, idempotency).await?;
    let answer = match wait {
        Some(wait) => engine.answer(ns, run, update, wait).await?,
        None => Answer::Waiting,
    };
    let mut response = answered(run, update, answer);
    let headers = response.headers_mut();
    if sent.replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    if let Ok(at) = HeaderValue::try_from(format!("/v1/runs/{run}/updates/{update}")) {
        headers.insert(header::LOCATION, at);
    }
    Ok(response)
}

/// Read what an update was answered.
///
/// 202 while it is not. An update of a run that has ended without an answer has an error of type
/// `run-ended`.
#[utoipa::path(
    get, path = "/v1/runs/{id}/updates/{name}", tag = "signals",
    params(
        ("id" = String, Path, description = "The run"),
        ("name" = String, Path, description = "The update's id (`upd_…`)"),
        ("wait" = Option<String>, Query, description = "Wait for the answer; at most 300 s"),
        ("Prefer" = Option<String>, Header, description = "`wait=30`, in place of the parameter"),
    ),
    responses(
        (status = 200, description = "Answered", body = UpdateBody),
        (status = 202, description = "Not answered yet", body = UpdateBody),
    ),
    extensions(("x-problems" = json!(["run-not-found", "update-not-found"])))
)]
pub(super) async fn get_update(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At((id, update)): At<(String, String)>,
    mut params: Params,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    let wait = params.wait().unwrap_or(Duration::ZERO);
    params.finish()?;
    let none =
        |_| Problem::new(Code::UpdateNotFound, format!("The run has had no update {update:?}."));
    let update = update.parse().map_err(none)?;
    let answer = state.engine.answer(&caller.namespace, run, update, wait).await?;
    Ok(answered(run, update, answer))
}
