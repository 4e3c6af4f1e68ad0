//! Calls: HTTP requests that the gateway makes for a step, with the guard of endpoints, secrets by
//! reference, and polling where the answer is 202 with a `Location`.

use std::collections::VecDeque;
use std::time::Duration;

use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;
use url::Url;

use super::Engine;
use super::attempts::{Job, job, told};
use super::catalog::INVOCATION_TIMEOUT;
use super::owner::Owner;
use crate::machine::{Again, AttemptDue, AttemptEnd, RunId, StepError};
use crate::outbound::{Failure, Reply, Request};
use crate::protocol::{Call, HeaderText, write_call_value};

/// Requests to one host that one node has open at most.
const MOST_OPEN: usize = 128;
/// What is kept of the body of an answer that is no value.
const KEPT_BODY: usize = 64 << 10;
/// How long an answer of 202 is polled at most, where the op has no time-out.
const LONGEST_POLL: Duration = Duration::from_hours(1);
/// How long to wait between two polls, where the answer does not say.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Secrets of so many bytes or more are looked for in answers; shorter ones would be found by chance.
const HIDDEN_FROM: usize = 8;
/// The longest wait between two polls.
const POLL_SELDOM: Duration = Duration::from_mins(5);

/// A host that is called, as this node sees it.
#[derive(Debug, Default)]
pub(super) struct Host {
    open: usize,
    /// Runs with calls that wait until there is room, in order.
    waiting: VecDeque<RunId>,
}

impl Engine {
    /// Begins an attempt of a call, if its host has room.
    pub(super) fn begin_call(&self, owner: &mut Owner, id: RunId, due: &AttemptDue) {
        let Some(entry) = owner.runs.get_mut(&id).filter(|e| !e.gated_calls) else { return };
        let Some(work) = entry.run.works.get(&due.step) else { return };
        let url = work.terms.request.as_ref().map_or("", |r| r.url.as_str());
        let name = host_of(url);
        let host = owner.hosts.entry(name.clone()).or_default();
        if host.open >= MOST_OPEN {
            entry.gated_calls = true;
            host.waiting.push_back(id);
            return;
        }
        let timeout = self
            .catalog()
            .deployment_for(&entry.run)
            .map_or(INVOCATION_TIMEOUT, |(_, d)| d.invocation_timeout(&entry.run.created.function));
        let Some(job) = job(entry, due, timeout) else { return };
        host.open += 1;
        entry.run.attempt_out(&due.step);
        let engine = self.clone();
        self.spawn(async move { engine.call(job, name).await });
    }

    async fn call(&self, job: Job, host: String) {
        let op = self.op_of(&job).await;
        let begun = self.clock().mono();
        let end = match self.make(&job, &op).await {
            Ok(end) => end,
            Err(error) => AttemptEnd::Failed(error),
        };
        let took = self.clock().mono().saturating_sub(begun);
        told(&job, &end, took, "");
        if self.halted() {
            return;
        }
        let mut owner = self.owner();
        self.attempt_over(&mut owner, &job, end, took);
        self.leave_host(&mut owner, &host);
    }

    /// A call is over: whoever waits for its host may try, as long as there is room. Who finds none
    /// again is at the end of the queue.
    fn leave_host(&self, owner: &mut Owner, name: &str) {
        let Some(host) = owner.hosts.get_mut(name) else { return };
        host.open = host.open.saturating_sub(1);
        for _ in 0..host.waiting.len() {
            let Some(host) = owner.hosts.get_mut(name).filter(|h| h.open < MOST_OPEN) else {
                break;
            };
            let Some(next) = host.waiting.pop_front() else { break };
            if let Some(entry) = owner.runs.get_mut(&next) {
                entry.gated_calls = false;
                self.pump(owner, next);
            }
        }
        if owner.hosts.get(name).is_some_and(|h| h.open == 0 && h.waiting.is_empty()) {
            owner.hosts.remove(name);
        }
    }

    /// Makes the request, and follows a 202 to where its answer will be.
    async fn make(&self, job: &Job, op: &Bytes) -> Result<AttemptEnd, StepError> {
        let call = Call::read(op).map_err(|e| StepError::of_gateway("malformed-op", e))?;
        let url: Url = call.url.parse().map_err(|e: url::ParseError| {
            StepError::of_gateway("address-refused", format!("`request.url` is not a URL: {e}"))
        })?;
        let outside = |detail| StepError::of_gateway("address-refused", detail);
        self.allowed_host(job.ns, &url).map_err(outside)?;
        let method = call.method.parse().unwrap_or(Method::GET);
        let (headers, secrets) = self.headers_of(job, &call).await?;
        let until = self.clock().mono() + job.timeout.unwrap_or(LONGEST_POLL);
        let within = job.timeout.unwrap_or(job.silence);
        let first =
            Request { method, url: url.clone(), headers: headers.clone(), body: call.body.clone() };
        let mut reply = self.answer_of(first, within).await?;
        let mut at = url.clone();
        // Who names the statuses that it takes gets a 202 as it is.
        while reply.status == 202
            && call.ok.is_none()
            && let Some(location) = reply.headers.get(LOCATION)
        {
            let next = location.to_str().ok().and_then(|l| at.join(l).ok()).ok_or_else(|| {
                StepError::of_gateway("address-refused", "the `Location` of a 202 is not a URL")
            })?;
            self.allowed_host(job.ns, &next).map_err(outside)?;
            let wait =
                reply.retry_delay(self.clock().upper()).unwrap_or(POLL_EVERY).min(POLL_SELDOM);
            if self.clock().mono() + wait >= until {
                return Err(again("timed-out", "the answer was 202 until the time was up"));
            }
            tokio::time::sleep(wait).await;
            if !self.still_wanted(job) {
                return Ok(AttemptEnd::Unburnt);
            }
            let left = until.saturating_sub(self.clock().mono());
            let request = Request {
                method: Method::GET,
                url: next.clone(),
                headers: poll_headers(&headers, &url, &next),
                body: None,
            };
            let mut polled = self.answer_of(request, within.min(left)).await?;
            if polled.status == 202 && !polled.headers.contains_key(LOCATION) {
                // It stays where it is.
                let same = HeaderValue::try_from(next.as_str());
                polled.headers.extend(same.ok().map(|same| (LOCATION, same)));
            }
            at = next;
            reply = polled;
        }
        hide(&mut reply, &secrets);
        self.judge(&call, &at, &reply)
    }

    /// Whether the attempt is still this run's: nobody polls for a run that is gone.
    fn still_wanted(&self, job: &Job) -> bool {
        let owner = self.owner();
        owner.runs.get(&job.run).is_some_and(|entry| {
            entry.run.generation == job.generation && entry.run.works.get(&job.step).is_some()
        })
    }

    async fn answer_of(&self, request: Request, within: Duration) -> Result<Reply, StepError> {
        let limit = self.limits().value_bytes;
        self.client().call(request, within, limit).await.map_err(|failure| {
            let detail = failure.to_string();
            match failure {
                Failure::Blocked(_) => StepError::of_gateway("address-refused", detail),
                Failure::TooLarge(limit) => StepError::of_gateway(
                    "value-limit",
                    format!("the answer is over the limit of {limit} bytes for a value"),
                ),
                Failure::Silence(time) => {
                    again("timed-out", &format!("no answer within {} s", time.as_secs_f64()))
                }
                _ => again("no-answer", &detail),
            }
        })
    }

    /// A value, or the error that a status is.
    fn judge(&self, call: &Call, at: &Url, reply: &Reply) -> Result<AttemptEnd, StepError> {
        let status = reply.status;
        let headers =
            || reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        if call.accepts(status) {
            let value = write_call_value(status, headers(), &reply.body);
            let limit = self.limits().value_bytes;
            if value.len() > limit {
                let detail =
                    format!("the value has {} bytes, over the limit of {limit}", value.len());
                return Err(StepError::of_gateway("value-limit", detail));
            }
            return Ok(AttemptEnd::Value(value.into()));
        }
        let head = &reply.body[..reply.body.len().min(KEPT_BODY)];
        let data = write_call_value(status, headers(), head);
        let data = String::from_utf8(data).ok().and_then(|text| RawValue::from_string(text).ok());
        let redirect =
            if (300..400).contains(&status) { "; redirects are not followed" } else { "" };
        let host = at.host_str().unwrap_or_default();
        let retried = matches!(status, 408 | 425 | 429 | 500..=599);
        let after = if retried { reply.retry_delay(self.clock().upper()) } else { None };
        Err(StepError {
            data: data.or_else(|| serde_json::value::to_raw_value(&json!({"status": status})).ok()),
            retry: if retried { Again::Default } else { Again::Never },
            after_ms: after.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            ..StepError::of_gateway("http-status", format!("{host} answered {status}{redirect}"))
        })
    }

    /// The headers of the request, with the values of secrets, and these: they are in no row and no
    /// log.
    async fn headers_of(
        &self,
        job: &Job,
        call: &Call,
    ) -> Result<(HeaderMap, Vec<Bytes>), StepError> {
        let mut headers = HeaderMap::new();
        let mut secrets = Vec::new();
        if call.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, text) in &call.headers {
            let bad = || {
                let detail = format!("the value of the header `{name}` cannot be sent");
                StepError::of_gateway("malformed-op", detail)
            };
            let mut value = match text {
                HeaderText::Plain(text) => HeaderValue::from_bytes(text.as_bytes()),
                HeaderText::Secret(secret) => {
                    let known = self.secret_value(job.ns, &secret.secret).await?;
                    let value =
                        HeaderValue::from_bytes(&[secret.prefix.as_bytes(), &known].concat());
                    secrets.push(known);
                    value
                }
            }
            .map_err(|_| bad())?;
            value.set_sensitive(matches!(text, HeaderText::Secret(_)));
            headers.insert(HeaderName::try_from(name.as_str()).map_err(|_| bad())?, value);
        }
        let key = format!("{}.{}/{}", job.run, job.generation, job.step);
        if let Ok(key) = HeaderValue::from_bytes(key.as_bytes()) {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        if let Ok(trace) = HeaderValue::try_from(job.trace.to_string()) {
            headers.insert(TRACEPARENT, trace);
        }
        Ok((headers, secrets))
    }

    async fn secret_value(&self, ns: i32, name: &str) -> Result<Bytes, StepError> {
        match self.store().secret_value(ns, name).await {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(StepError {
                retry: Again::Pause,
                ..StepError::of_gateway(
                    "secret-not-found",
                    format!("there is no secret `{name}`; set it, then resume the run"),
                )
            }),
            Err(error) => {
                tracing::warn!(%error, "a secret cannot be read");
                Err(again("no-answer", "the secret could not be read"))
            }
        }
    }
}

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

fn again(kind: &str, detail: &str) -> StepError {
    StepError { retry: Again::Default, ..StepError::of_gateway(kind, detail) }
}

/// Takes secrets out of an answer that has them in it, as that of a server that shows its callers what
/// they sent: what is recorded must not have them.
fn hide(reply: &mut Reply, secrets: &[Bytes]) {
    for secret in secrets.iter().filter(|s| s.len() >= HIDDEN_FROM) {
        let mut forms = vec![secret.to_vec()];
        if let Ok(text) = std::str::from_utf8(secret)
            && let Ok(quoted) = serde_json::to_string(text)
        {
            forms.push(quoted.trim_matches('"').as_bytes().to_vec());
        }
        for form in forms {
            if let Some(body) = without(&reply.body, &form) {
                reply.body = body.into();
            }
            for value in reply.headers.values_mut() {
                if let Some(other) = without(value.as_bytes(), &form)
                    && let Ok(other) = HeaderValue::from_bytes(&other)
                {
                    *value = other;
                }
            }
        }
    }
}

/// `text` with `***` for every `what` in it, if there is one.
fn without(text: &[u8], what: &[u8]) -> Option<Vec<u8>> {
    let first = *what.first()?;
    let mut out: Option<Vec<u8>> = None;
    let (mut at, mut kept) = (0, 0);
    while let Some(next) = text[at..].iter().position(|b| *b == first) {
        at += next;
        if text[at..].starts_with(what) {
            let out = out.get_or_insert_default();
            out.extend_from_slice(&text[kept..at]);
            out.extend_from_slice(b"***");
            at += what.len();
            kept = at;
        } else {
            at += 1;
        }
    }
    let mut out = out?;
    out.extend_from_slice(&text[kept..]);
    Some(out)
}

/// What counts as one host; what is no URL fails when it is tried.
fn host_of(url: &str) -> String {
    let url = url.parse::<Url>().ok();
    let host = url.as_ref().and_then(|u| Some((u.host_str()?, u.port_or_known_default()?)));
    host.map_or_else(String::new, |(host, port)| format!("{host}:{port}"))
}

/// The headers of a poll: those of the request where it goes to the same place, for credentials must
/// not follow a `Location` elsewhere.
fn poll_headers(headers: &HeaderMap, from: &Url, to: &Url) -> HeaderMap {
    let mut kept = headers.clone();
    if from.origin() == to.origin() {
        for name in [CONTENT_TYPE, CONTENT_LENGTH] {
            kept.remove(name);
        }
    } else {
        kept.clear();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_of_answers() {
        assert_eq!(without(b"plain", b"secret12"), None);
        assert_eq!(without(b"", b"secret12"), None);
        for (text, hidden) in [
            ("secret12", "***"),
            ("a secret12 ssecret12", "a *** s***"),
            ("secret1secret12", "secret1***"),
        ] {
            assert_eq!(without(text.as_bytes(), b"secret12"), Some(hidden.into()), "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-echo", HeaderValue::from_static("Bearer a\"secret"));
        let body = Bytes::from_static(br#"{"authorization":"Bearer a\"secret"}"#);
        let mut reply = Reply { status: 200, headers, body };
        hide(&mut reply, &[Bytes::from_static(b"a\"secret")]);
        assert_eq!(&reply.body[..], br#"{"authorization":"Bearer ***"}"#);
        assert_eq!(reply.headers["x-echo"], "Bearer ***");
    }

    #[test]
    fn credentials_do_not_follow_elsewhere() {
        let url = |text: &str| text.parse::<Url>().expect("a URL");
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("x"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let from = url("https://a.example/x");
        let kept = poll_headers(&headers, &from, &url("https://a.example/y"));
        assert_eq!((kept.len(), kept.contains_key("authorization")), (1, true));
        for to in ["http://a.example/y", "https://a.example:8443/y", "https://b.example/y"] {
            assert!(poll_headers(&headers, &from, &url(to)).is_empty(), "{to}");
        }
        assert_eq!(host_of("https://a.example/x?y"), "a.example:443");
        assert_eq!(host_of("no URL"), "");
    }
}
