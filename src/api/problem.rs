//! Problems (RFC 9457): what every failed request is answered with.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::catalogue::Code;
use crate::engine::Error;

/// One fault of a request.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub(super) struct Fault {
    /// Where: a JSON pointer (`#/retry/max_attempts`) or a query parameter (`?limit`).
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

impl Fault {
    /// A fault at a place.
    pub(super) fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// A failed request. The edge of the router fills in `instance` and `request_id` and writes it out.
#[derive(Debug, Clone)]
pub struct Problem(Arc<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: Code,
    detail: String,
    errors: Vec<Fault>,
    retry_after: Option<Duration>,
    more: Vec<(&'static str, Box<RawValue>)>,
    cause: Option<String>,
}

impl Problem {
    /// A problem of a kind; `detail` is for the person who sent the request.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            more: Vec::new(),
            cause: None,
        }))
    }

    /// A fault of ours. `cause` goes to the log and nowhere else.
    pub fn internal(cause: impl Into<String>) -> Self {
        let mut problem = Self::new(
            Code::Internal,
            "This is a fault of the server; its log has the cause under this request id.",
        );
        problem.inner().cause = Some(cause.into());
        problem
    }

    /// A request whose faults are known one by one.
    #[must_use]
    pub(super) fn faults(code: Code, errors: Vec<Fault>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("{}: {}", one.pointer, one.detail),
            many => format!("{} things are wrong with the request, see `errors`.", many.len()),
        };
        let mut problem = Self::new(code, detail);
        problem.inner().errors = errors;
        problem
    }

    /// When to try again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.inner().retry_after = Some(after);
        self
    }

    /// A further member.
    #[must_use]
    pub fn with(self, name: &'static str, value: impl Serialize) -> Self {
        match to_raw_value(&value) {
            Ok(raw) => self.with_raw(name, raw),
            Err(_) => self,
        }
    }

    /// A further member that is JSON already.
    #[must_use]
    pub fn with_raw(mut self, name: &'static str, value: Box<RawValue>) -> Self {
        self.inner().more.push((name, value));
        self
    }

    /// Its kind.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What the log may know beside what the answer says.
    pub(super) fn cause(&self) -> &str {
        self.0.cause.as_deref().unwrap_or(&self.0.detail)
    }

    /// The body as it is sent.
    pub(super) fn body(&self, instance: &str, request_id: &str) -> Vec<u8> {
        serde_json::to_vec(&Sent { problem: &self.0, instance, request_id })
            .expect("strings, numbers and raw JSON serialise")
    }

    fn inner(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }
}

struct Sent<'a> {
    problem: &'a Inner,
    instance: &'a str,
    request_id: &'a str,
}

impl Serialize for Sent<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let code = self.problem.code;
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("type", &format_args!("/problems/{}", code.slug()))?;
        map.serialize_entry("title", code.title())?;
        map.serialize_entry("status", &code.status().as_u16())?;
        map.serialize_entry("detail", &self.problem.detail)?;
        map.serialize_entry("instance", self.instance)?;
        map.serialize_entry("code", code.slug())?;
        map.serialize_entry("request_id", self.request_id)?;
        map.serialize_entry("retry", code.retry().word())?;
        if !self.problem.errors.is_empty() {
            map.serialize_entry("errors", &self.problem.errors)?;
        }
        for (name, value) in &self.problem.more {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.code.status().into_response();
        if let Some(after) = self.0.retry_after {
            // Rounded up: not a moment before it makes sense.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.0.code.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"stepwell\""),
            );
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// JSON from the journal, or null if it is not JSON after all.
fn raw(json: &[u8]) -> Box<RawValue> {
    serde_json::from_slice(json).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::RunNotFound(run) => Self::new(Code::RunNotFound, detail).with("run", run),
            Error::StepNotFound(run, step, _) => {
                Self::new(Code::StepNotFound, detail).with("run", run).with("step", step)
            }
            Error::FunctionNotFound(_) => Self::new(Code::FunctionNotFound, detail),
            Error::DeploymentNotFound(_) => Self::new(Code::DeploymentNotFound, detail),
            Error::QueryFailed(..) => Self::new(Code::QueryFailed, detail),
            Error::NotAnObject(_) => Self::new(Code::NotAnObject, detail),
            Error::ObjectBusy { run, .. } => Self::new(Code::ObjectBusy, detail).with("run", run),
            Error::ObjectChanged
            | Error::ScheduleStale
            | Error::WebhookStale
            | Error::NamespaceStale => Self::new(Code::PreconditionFailed, detail),
            Error::UpdateNotFound(_) => Self::new(Code::UpdateNotFound, detail),
            Error::ScheduleNotFound(_) => Self::new(Code::ScheduleNotFound, detail),
            Error::ScheduleExists { id, name: _ } => {
                Self::new(Code::ScheduleExists, detail).with("schedule", id)
            }
            Error::ScheduleOwned { function } => {
                Self::new(Code::ScheduleOwned, detail).with("function", function)
            }
            Error::BulkNotFound(_) => Self::new(Code::BulkNotFound, detail),
            Error::BulkEnded(_) => Self::new(Code::InvalidState, detail),
            Error::WebhookNotFound(_) => Self::new(Code::WebhookNotFound, detail),
            Error::WebhookExists(_) => Self::new(Code::WebhookExists, detail),
            Error::DeliveryNotFound(_) => Self::new(Code::DeliveryNotFound, detail),
            Error::UnknownFingerprint(_) => Self::new(Code::ErrorNotFound, detail),
            Error::EventNotFound(_) => Self::new(Code::EventNotFound, detail),
            Error::EndpointDraining { endpoint, .. } => {
                Self::new(Code::EndpointDraining, detail).with("endpoint", endpoint)
            }
            Error::EndpointNotFound(_) => Self::new(Code::EndpointNotFound, detail),
            Error::RunExists { run, key: _, status } => Self::new(Code::RunExists, detail)
                .with("run", run)
                .with("run_status", status.word()),
            Error::NamespaceNotFound(_) => Self::new(Code::NamespaceNotFound, detail),
            Error::NamespaceExists(_) => Self::new(Code::NamespaceExists, detail),
            Error::NamespaceInUse(..) => Self::new(Code::NamespaceInUse, detail),
            Error::QuotaExceeded { quota, retry_after, .. } => {
                Self::new(Code::QuotaExceeded, detail).with("quota", quota).retry_after(retry_after)
            }
            Error::RateLimited { retry_after, .. } => {
                Self::new(Code::RateLimited, detail).retry_after(retry_after)
            }
            Error::IdempotencyKeyReused => Self::new(Code::IdempotencyKeyReused, detail),
            Error::IdempotencyInProgress => {
                Self::new(Code::IdempotencyInProgress, detail).retry_after(Duration::from_secs(1))
            }
            Error::RunEnded(run) => Self::new(Code::RunEnded, detail).with("run", run),
            Error::RunEnding(run) => Self::new(Code::RunEnding, detail).with("run", run),
            Error::InvalidState { run, status, detail: _ } => Self::new(Code::InvalidState, detail)
                .with("run", run)
                .with("run_status", status.word()),
            Error::TooManySignals { run, untaken: _ } => Self::new(Code::TooManySignals, detail)
                .with("run", run)
                .retry_after(Duration::from_secs(5)),
            Error::BadCallback => Self::new(Code::CallbackNotFound, detail),
            Error::NotACallback(..) => Self::new(Code::NotACallback, detail),
            Error::AlreadySettled { step, ok, recorded } => {
                let outcome = if ok { "value" } else { "error" };
                let recorded = std::collections::BTreeMap::from([(outcome, raw(&recorded))]);
                Self::new(Code::AlreadySettled, detail)
                    .with("step", step)
                    .with("recorded", recorded)
            }
            Error::BadToken => Self::new(Code::InvalidToken, detail),
            Error::StaleEpoch => Self::new(Code::StaleEpoch, detail),
            Error::CheckpointSkipped { last, .. } => {
                Self::new(Code::CheckpointSkipped, detail).with("last", last)
            }
            Error::CheckpointReused(_) => Self::new(Code::CheckpointReused, detail),
            Error::RunPaused(attention) => {
                Self::new(Code::RunPaused, detail).with("attention", attention)
            }
            Error::Invalid(pointer, detail) => {
                let pointer = match pointer.as_str() {
                    p if p.starts_with('#') || p.starts_with('?') => pointer,
                    p if p.is_empty() || p.starts_with('/') => format!("#{p}"),
                    p => format!("#/{p}"),
                };
                Self::faults(Code::InvalidRequest, vec![Fault::new(pointer, detail)])
            }
            Error::TooLarge(_) => Self::new(Code::PayloadTooLarge, detail),
            Error::Internal => Self::new(Code::Internal, detail),
            Error::Unavailable { detail: _, retry_after } => {
                Self::new(Code::Unavailable, detail).retry_after(retry_after)
            }
        }
    }
}

/// What the reference says a problem looks like.
#[derive(utoipa::ToSchema)]
#[schema(as = Problem)]
#[expect(dead_code, reason = "describes what `Problem::body` writes")]
pub(super) struct ProblemBody {
    /// The page of this kind of problem on this server.
    #[schema(example = "/problems/run-not-found")]
    r#type: String,
    /// The same for every problem of this kind.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What is wrong this time, and what to do.
    detail: String,
    /// The path of the request.
    instance: String,
    /// The kind of problem.
    #[schema(example = "run-not-found")]
    code: String,
    /// The request's `X-Request-Id`; the server's log has it too.
    request_id: String,
    /// Whether the same request may be sent again: `safe`, `unsafe` or `never`.
    #[schema(pattern = "^(safe|unsafe|never)$")]
    retry: String,
    /// Every fault that was found, where the request is at fault.
    #[schema(required = false)]
    errors: Vec<Fault>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Status;
    use crate::machine::{RunId, Timestamp};

    fn written(error: Error) -> (StatusCode, serde_json::Value, Response) {
        let problem = Problem::from(error);
        let body = serde_json::from_slice(&problem.body("/v1/x", "req_1")).expect("JSON");
        let response = problem.into_response();
        (response.status(), body, response)
    }

    #[test]
    fn errors_of_the_engine_become_problems() {
        let run = RunId::new(Timestamp::from_micros(0), 7);
        let (status, body, _) =
            written(Error::RunExists { run, key: "k".to_owned(), status: Status::Waiting });
        assert_eq!(status, StatusCode::CONFLICT);
        assert_eq!(body["code"], "run-exists");
        assert_eq!(body["type"], "/problems/run-exists");
        assert_eq!(body["run"], run.to_string());
        assert_eq!(body["run_status"], "waiting");
        assert_eq!(body["instance"], "/v1/x");
        assert_eq!(body["request_id"], "req_1");
        assert_eq!(body["retry"], "never");
        assert!(body.get("errors").is_none());
    }

    #[test]
    fn what_is_recorded_is_shown_byte_for_byte() {
        let recorded = bytes::Bytes::from_static(b"{\"n\":3544790567247868102, \"f\":1.0}");
        let problem =
            Problem::from(Error::AlreadySettled { step: "pay".to_owned(), ok: true, recorded });
        let body = String::from_utf8(problem.body("", "")).expect("UTF-8");
        assert!(
            body.contains(r#""recorded":{"value":{"n":3544790567247868102, "f":1.0}}"#),
            "{body}"
        );
    }

    #[test]
    fn headers_go_with_the_status() {
        let (_, _, response) = written(Error::Unavailable {
            detail: "away".to_owned(),
            retry_after: Duration::from_millis(1200),
        });
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let (status, _, response) = written(Error::BadToken);
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
    }

    #[test]
    fn a_pointer_has_one_form() {
        for (given, shown) in [("/url", "#/url"), ("#/url", "#/url"), ("url", "#/url"), ("", "#")] {
            let (_, body, _) = written(Error::Invalid(given.to_owned(), "no".to_owned()));
            assert_eq!(body["errors"][0]["pointer"], shown);
        }
    }
}
