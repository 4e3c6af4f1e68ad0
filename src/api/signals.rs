//! What reaches a run from outside: signals and callbacks.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::{Reader, Sender};
use super::catalogue::Code;
use super::fields::{self, plain_text};
use super::page::Page;
use super::problem::{Fault, Problem};
use super::request::{
    At, Bare, Headers, MAX_VALUE, Params, Sent, check_input, idempotency, run_id,
};
use super::shapes::SignalBody;
use super::start::REPLAYED;
use crate::engine::{CallbackOutcome, CallbackSettled, Signalled};
use crate::machine::{RunId, StepError};

/// A signal.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct SignalRequest {
    /// Any JSON up to 1 MiB, passed on byte for byte. Left out: null.
    #[schema(value_type = serde_json::Value, required = false)]
    payload: serde_json::Value,
}

/// A signal that was accepted.
#[derive(Serialize, ToSchema)]
#[schema(as = Accepted)]
pub(super) struct AcceptedBody {
    /// The run.
    #[schema(value_type = String)]
    run: RunId,
    /// The signal's name.
    name: String,
}

fn payload(sent: &Sent) -> Result<Bytes, Problem> {
    let raw = fields::read(&sent.0, |f| f.payload("payload").unwrap_or(RawValue::NULL).get())?;
    check_input("payload", raw.len())?;
    // Left out, it is no part of the body.
    Ok(if raw == "null" { Bytes::from_static(b"null") } else { sent.0.slice_ref(raw.as_bytes()) })
}

pub(super) fn named(name: &str) -> Result<(), Problem> {
    plain_text(name, 256)
        .map_err(|why| Problem::new(Code::MalformedRequest, format!("The signal's name {why}.")))
}

fn accepted(run: RunId, name: String, signalled: Signalled) -> Response {
    let mut response = (StatusCode::ACCEPTED, Json(AcceptedBody { run, name })).into_response();
    if signalled.replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// Send a signal to a run.
///
/// 202 means: recorded in the run's order. It waits for a step that asks for its name, first in
/// first out.
#[utoipa::path(
    post, path = "/v1/runs/{id}/signals/{name}", tag = "signals",
    params(
        ("id" = String, Path, description = "The run"),
        ("name" = String, Path, description = "The signal's name"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body send one signal"),
    ),
    request_body(content = Option<SignalRequest>, content_type = "application/json"),
    responses((status = 202, description = "Recorded", body = AcceptedBody, headers(
        ("Idempotent-Replayed" = String, description = "`true` where the idempotency key was used before")))),
    extensions(("x-problems" = json!(["run-not-found", "run-ended", "run-ending", "too-many-signals",
        "idempotency-in-progress", "idempotency-key-reused"])))
)]
pub(super) async fn send_signal(
    State(state): State<ApiState>,
    Sender(caller): Sender,
    At((id, name)): At<(String, String)>,
    params: Params,
    Headers(headers): Headers,
    sent: Sent,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    named(&name)?;
    params.finish()?;
    let payload = payload(&sent)?;
    let call = format!("POST /v1/runs/{run}/signals/{name}");
    let idempotency = idempotency(&headers, &call, &sent.0)?;
    let (ns, by) = (&caller.namespace, &caller.by);
    let signalled = state.engine.signal(ns, run, &name, payload, idempotency, by).await?;
    Ok(accepted(run, name, signalled))
}

/// Send a signal to the live run of a key.
#[utoipa::path(
    post, path = "/v1/functions/{function}/keys/{key}/signals/{name}", tag = "signals",
    params(
        ("function" = String, Path, description = "The function"),
        ("key" = String, Path, description = "The run's key"),
        ("name" = String, Path, description = "The signal's name"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body send one signal"),
    ),
    request_body(content = Option<SignalRequest>, content_type = "application/json"),
    responses((status = 202, description = "Recorded", body = AcceptedBody, headers(
        ("Idempotent-Replayed" = String, description = "`true` where the idempotency key was used before")))),
    extensions(("x-problems" = json!(["function-not-found", "run-not-found", "run-ended", "run-ending",
        "too-many-signals", "idempotency-in-progress", "idempotency-key-reused"])))
)]
pub(super) async fn send_signal_to_key(
    State(state): State<ApiState>,
    Sender(caller): Sender,
    At((function, key, name)): At<(String, String, String)>,
    params: Params,
    Headers(headers): Headers,
    sent: Sent,
) -> Result<Response, Problem> {
    named(&name)?;
    params.finish()?;
    let payload = payload(&sent)?;
    let call = format!("POST /v1/functions/{function}/keys/{key}/signals/{name}");
    let idempotency = idempotency(&headers, &call, &sent.0)?;
    let (ns, by) = (&caller.namespace, &caller.by);
    let sent =
        state.engine.signal_key(ns, &function, &key, &name, payload, idempotency, by).await?;
    let (run, signalled) = sent.ok_or_else(|| {
        Problem::new(Code::RunNotFound, "The function has no live run with this key.")
    })?;
    Ok(accepted(run, name, signalled))
}

/// The signals of a run, in the order of their acceptance, and what has become of each.
#[utoipa::path(
    get, path = "/v1/runs/{id}/signals", tag = "signals",
    params(
        ("id" = String, Path, description = "The run"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of signals", body = Page<SignalBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!(["run-not-found"])))
)]
pub(super) async fn list_signals(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(id): At<String>,
    axum::extract::OriginalUri(uri): axum::extract::OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    let limit = params.limit();
    // Their order never changes, so their number is a cursor.
    let skip: usize = super::page::cursor(&mut params).unwrap_or(0);
    params.finish()?;
    let all = state.engine.signals(&caller.namespace, run).await?;
    let next = skip.saturating_add(limit);
    let next = (next < all.len()).then_some(next);
    let data = all.into_iter().skip(skip).take(limit).map(SignalBody::from).collect();
    Ok(Page::new(data, next).answer(&uri))
}

/// Settle a callback.
///
/// The address is the credential. The body is the value; with `outcome=error` it is a step error,
/// with `outcome=heartbeat` a sign of life. A settlement that comes before the step is asked for is
/// kept. The same outcome again is 204 again.
#[utoipa::path(
    post, path = "/v1/callbacks/{secret}/{*step}", tag = "signals",
    params(
        ("secret" = String, Path, description = "As the handler received it in `links.callback`"),
        ("step" = String, Path, description = "The step; slashes as they are or percent-encoded"),
        ("outcome" = Option<String>, Query, pattern = "^(value|error|heartbeat)$", description = "`value` (the default), `error` or `heartbeat`"),
    ),
    request_body(content = serde_json::Value, content_type = "application/json", description = "The value: any JSON up to 4 MiB"),
    responses(
        (status = 204, description = "Settled, or kept until the step is asked for"),
        (status = 202, description = "Recorded; the run's node could not be asked. The first one recorded wins"),
    ),
    security(()),
    extensions(("x-problems" = json!(["callback-not-found", "not-a-callback", "already-settled", "run-ended",
        "run-ending", "run-not-found"])))
)]
pub(super) async fn settle_callback(
    State(state): State<ApiState>,
    At((secret, step)): At<(String, String)>,
    mut params: Params,
    Bare(body): Bare,
) -> Result<StatusCode, Problem> {
    let outcome = params.one("outcome", |word| match word {
        "value" => Ok(CallbackOutcome::Value),
        "error" => Ok(CallbackOutcome::Error),
        "heartbeat" => Ok(CallbackOutcome::Heartbeat),
        _ => Err("must be `value`, `error` or `heartbeat`".to_owned()),
    });
    params.finish()?;
    plain_text(&step, 256)
        .map_err(|why| Problem::new(Code::MalformedRequest, format!("The step id {why}.")))?;
    let outcome = outcome.unwrap_or(CallbackOutcome::Value);
    if body.len() > MAX_VALUE {
        let detail =
            format!("The value has {} bytes; the limit is {MAX_VALUE} (4 MiB).", body.len());
        return Err(Problem::new(Code::PayloadTooLarge, detail));
    }
    if outcome != CallbackOutcome::Heartbeat || !body.is_empty() {
        fields::json(&body)?;
    }
    if outcome == CallbackOutcome::Error {
        step_error(&body)?;
    }
    match state.engine.settle(&secret, &step, outcome, body).await? {
        CallbackSettled::Done => Ok(StatusCode::NO_CONTENT),
        CallbackSettled::Accepted => Ok(StatusCode::ACCEPTED),
    }
}

fn step_error(body: &[u8]) -> Result<(), Problem> {
    match serde_json::from_slice::<StepError>(body) {
        Ok(_) => Ok(()),
        Err(error) => {
            let fault = Fault::new("#", format!("is not a step error: {error}"));
            Err(Problem::faults(Code::InvalidRequest, vec![fault]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_a_slice_of_the_body() {
        let sent = Sent(Bytes::from_static(b"{ \"payload\": {\"n\":1.0 } }"));
        assert_eq!(&payload(&sent).expect("fine")[..], b"{\"n\":1.0 }");
        for none in ["", "{}", "{\"payload\":null}"] {
            let sent = Sent(Bytes::from_static(none.as_bytes()));
            assert_eq!(&payload(&sent).expect("fine")[..], b"null");
        }
    }

    #[test]
    fn an_error_has_the_form_of_step_errors() {
        assert!(step_error(br#"{"type":"Declined","message":"no funds"}"#).is_ok());
        for bad in ["\"x\"", "{\"typ\":\"x\"}", "{\"retry\":\"maybe\"}"] {
            assert_eq!(step_error(bad.as_bytes()).expect_err(bad).code(), Code::InvalidRequest);
        }
    }
}
