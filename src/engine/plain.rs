//! Plain functions: any HTTP endpoint that takes a POST. The run's input is sent as it is, and what comes
//! back is the run's result; what it means is decided by the status alone, as for a `call`.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use serde_json::value::RawValue;

use super::Engine;
use super::breaker::Health;
use super::exchange::{Ended, KEPT_HEAD, Ready, told_of};
use super::lines::Came;
use crate::machine::{Again, Answer, Cause, Fault, StepError, Terminal};
use crate::outbound::{Failure, Patience, Reply, Request};
use crate::protocol::{write_call_value, write_plain_result};

impl Engine {
    /// Posts the input of a plain function's run. The key is the same for every attempt.
    pub(super) async fn post_plain(&self, ready: &Ready, headers: HeaderMap) -> Came {
        let url = ready.plain.clone().unwrap_or_else(|| ready.deployment.url.clone());
        let request =
            Request { method: Method::POST, url, headers, body: Some(ready.body.clone()) };
        let patience = Patience::from(ready.silence);
        Came::Posted(self.client().ask(request, &patience, self.limits().value_bytes).await)
    }

    /// What came back: a result, another attempt, or the run's failure.
    pub(super) fn read_posted(
        &self,
        ready: &Ready,
        reply: Result<Reply, Failure>,
        ms: i32,
    ) -> Ended {
        let epoch = ready.epoch;
        let ended = |fault: Fault, health: Health, failure: Bytes| Ended {
            cause: Cause::Faulted { epoch, fault },
            health,
            failure: Some(failure),
            head: Bytes::new(),
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(failure) => {
                let detail = failure.to_string();
                let kept = told_of(ready, None, &detail, &[], ms);
                if let Failure::TooLarge(limit) = failure {
                    let detail = format!("the answer is over the limit of {limit} bytes");
                    let error = StepError::of_gateway("value-limit", detail);
                    return ended(post(error), Health::Answered, kept);
                }
                if failure.is_unhealthy() {
                    let fault = Fault::Unhealthy { detail: detail.clone() };
                    return ended(fault, Health::Unhealthy(detail), kept);
                }
                let kind =
                    if matches!(failure, Failure::Silence(_)) { "timed-out" } else { "no-answer" };
                let health = if failure.is_connect() {
                    Health::Suspicious(detail.clone())
                } else {
                    Health::Silent(detail.clone())
                };
                let error =
                    StepError { retry: Again::Default, ..StepError::of_gateway(kind, detail) };
                return ended(post(error), health, kept);
            }
        };
        let status = reply.status;
        if (200..300).contains(&status) {
            let kind = reply.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
            let result = Bytes::from(write_plain_result(kind, &reply.body));
            let answer = Answer { ops: Vec::new(), terminal: Some(Terminal::Result(result)) };
            return Ended {
                cause: Cause::Answered { epoch, answer, ms },
                health: Health::Answered,
                failure: None,
                head: Bytes::new(),
            };
        }
        let head = &reply.body[..reply.body.len().min(KEPT_HEAD)];
        let host = ready.plain.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
        let redirect =
            if (300..400).contains(&status) { "; redirects are not followed" } else { "" };
        let detail = format!("{host} answered {status}{redirect}");
        let kept = told_of(ready, Some(status), &detail, head, ms);
        let again = matches!(status, 408 | 425 | 429 | 500..=599);
        let health = if matches!(status, 502..=504) {
            Health::Suspicious(detail.clone())
        } else {
            Health::Answered
        };
        let headers = reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let data = String::from_utf8(write_call_value(status, headers, head)).ok();
        let error = StepError {
            data: data.and_then(|text| RawValue::from_string(text).ok()),
            retry: if again { Again::Default } else { Again::Never },
            ..StepError::of_gateway("http-status", detail)
        };
        let after = reply.retry_delay(self.clock().upper());
        ended(Fault::Post { error: Box::new(error), status: Some(status), after }, health, kept)
    }
}

fn post(error: StepError) -> Fault {
    Fault::Post { error: Box::new(error), status: None, after: None }
}
