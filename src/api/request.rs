//! What is taken out of a request: path, query, body, preferences; whatever is wrong is a problem.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::ApiState;
use super::catalogue::Code;
use super::problem::{Fault, Problem};
use crate::engine::{Error, Idempotency};
use crate::machine::time::parse_duration;
use crate::machine::{RunId, Timestamp};
use crate::protocol::MAX_INPUT;

/// Bytes of a callback's value.
pub(super) const MAX_VALUE: usize = 4 << 20;
/// What a whole request may have beside the payload in it.
const BESIDE: usize = 64 << 10;
/// How long the body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);
/// The longest wait that is granted.
const MAX_WAIT: Duration = Duration::from_mins(5);

/// How large a request's body may be, by its path.
#[must_use]
pub(super) fn body_limit(path: &str) -> usize {
    let of_step = path.starts_with("/v1/runs/") && path.contains("/steps/");
    if path.starts_with("/v1/callbacks/") || of_step {
        MAX_VALUE + BESIDE
    } else if path == "/v1/events"
        || path == "/v1/runs/batch"
        || path.ends_with("/checkpoint")
        || path.ends_with("/rerun")
        || is_answer(path)
    {
        (16 << 20) + BESIDE
    } else if path == "/v1/runs/import" {
        (64 << 20) + BESIDE
    } else {
        MAX_INPUT + BESIDE
    }
}

/// Whether this is where the answer to an invocation goes.
fn is_answer(path: &str) -> bool {
    path.starts_with("/v1/runs/") && path.contains("/answers/")
}

/// The problem of a body over the limit of its path.
pub(super) fn too_large(path: &str) -> Problem {
    let limit = body_limit(path);
    let what = match path {
        _ if path.starts_with("/v1/callbacks/") => "a callback's value",
        "/v1/events" => "a list of events",
        "/v1/runs/batch" => "a batch",
        "/v1/runs/import" => "the document of a run",
        _ if path.contains("/steps/") => "a step's outcome",
        _ if path.ends_with("/rerun") => "input and edits together",
        _ if path.ends_with("/checkpoint") => "a checkpoint",
        _ if is_answer(path) => "an answer",
        _ => "the input",
    };
    let (payload, unit) = ((limit - BESIDE) >> 20, "MiB");
    Problem::new(
        Code::PayloadTooLarge,
        format!("The request has more than {limit} bytes; {what} may have {payload} {unit}."),
    )
}

/// Refuses a payload over the limit of inputs.
pub(super) fn check_input(name: &str, bytes: usize) -> Result<(), Problem> {
    if bytes <= MAX_INPUT {
        return Ok(());
    }
    let detail = format!("`{name}` has {bytes} bytes; the limit is {MAX_INPUT} (1 MiB).");
    Err(Problem::new(Code::PayloadTooLarge, detail))
}

/// Parts of the path, decoded.
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<ApiState> for At<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let path: Result<Path<T>, PathRejection> = Path::from_request_parts(parts, state).await;
        match path {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::new(Code::MalformedRequest, rejection.body_text())),
        }
    }
}

/// A run id in a path; what has not the form of one is not found either.
pub(super) fn run_id(text: &str) -> Result<RunId, Problem> {
    text.parse().map_err(|e| Problem::new(Code::RunNotFound, format!("There is no such run: {e}.")))
}

/// Reads a whole body, at most what its path allows.
pub(super) async fn collect(parts: &Parts, body: Body) -> Result<Bytes, Problem> {
    let path = parts.uri.path();
    let body = Limited::new(body, body_limit(path));
    match tokio::time::timeout(BODY_TIME, body.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(too_large(path)),
        Ok(Err(_)) => Err(Problem::new(Code::MalformedRequest, "The body broke off.")),
        Err(_) => Err(Problem::new(
            Code::RequestTimeout,
            format!("The body did not arrive within {} s.", BODY_TIME.as_secs()),
        )),
    }
}

/// A JSON body as it came, or nothing; its type is checked, its content is not.
pub(super) struct Sent(pub(super) Bytes);

impl FromRequest<ApiState> for Sent {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &ApiState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        sent(&parts, body).await.map(Self)
    }
}

/// The same for who has taken the request apart.
pub(super) async fn sent(parts: &Parts, body: Body) -> Result<Bytes, Problem> {
    let bytes = collect(parts, body).await?;
    if !bytes.is_empty() && !is_json(&parts.headers) {
        return Err(Problem::new(
            Code::UnsupportedMediaType,
            "The body has to be JSON, uncompressed, with `Content-Type: application/json`.",
        ));
    }
    Ok(bytes)
}

fn is_json(headers: &HeaderMap) -> bool {
    let plain = headers
        .get(header::CONTENT_ENCODING)
        .is_none_or(|v| v.as_bytes().eq_ignore_ascii_case(b"identity"));
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    plain
        && (kind == "application/json"
            || (kind.starts_with("application/") && kind.ends_with("+json")))
}

/// A body of any type, for where it is a payload itself.
pub(super) struct Bare(pub(super) Bytes);

impl FromRequest<ApiState> for Bare {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &ApiState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        collect(&parts, body).await.map(Self)
    }
}

/// The query string, read parameter by parameter; what is never asked for is a fault.
#[derive(Default)]
pub(super) struct Params {
    pairs: Vec<(String, String)>,
    prefer: Option<String>,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl FromRequestParts<ApiState> for Params {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
        Ok(Self::of(parts))
    }
}

impl Params {
    /// The query string of a request, and what it prefers.
    pub(super) fn of(parts: &Parts) -> Self {
        let prefer = parts.headers.get_all("prefer").iter().filter_map(|v| v.to_str().ok());
        let prefer = prefer.collect::<Vec<_>>().join(",");
        Self::new(&parts.uri, (!prefer.is_empty()).then_some(prefer))
    }

    fn new(uri: &Uri, prefer: Option<String>) -> Self {
        let query = uri.query().unwrap_or_default();
        let pairs = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        Self { pairs, prefer, known: Vec::new(), faults: Vec::new() }
    }

    /// Notes a fault of a parameter.
    pub(super) fn fault(&mut self, name: &str, detail: impl Into<String>) {
        self.faults.push(Fault::new(format!("?{name}"), detail));
    }

    /// Every value of a parameter that may be repeated, as `parse` takes it.
    pub(super) fn all<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        self.known.push(name);
        let mut values = Vec::new();
        let mut faults = Vec::new();
        for (_, text) in self.pairs.iter().filter(|(n, _)| n == name) {
            match parse(text) {
                Ok(value) => values.push(value),
                Err(detail) => faults.push(detail),
            }
        }
        for detail in faults {
            self.fault(name, detail);
        }
        values
    }

    /// The value of a parameter, as `parse` takes it.
    pub(super) fn one<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let mut values = self.all(name, parse);
        if self.pairs.iter().filter(|(n, _)| n == name).count() > 1 {
            self.fault(name, "must be there once");
        }
        values.pop()
    }

    /// A whole number.
    pub(super) fn number(&mut self, name: &'static str, least: i64, most: i64) -> Option<i64> {
        self.one(name, |text| match text.parse::<i64>() {
            Ok(n) if (least..=most).contains(&n) => Ok(n),
            _ => Err(format!("must be a whole number from {least} to {most}")),
        })
    }

    /// `limit`: 1 to 200, by default 50.
    pub(super) fn limit(&mut self) -> usize {
        self.number("limit", 1, 200).and_then(|n| usize::try_from(n).ok()).unwrap_or(50)
    }

    /// A moment in RFC 3339.
    pub(super) fn moment(&mut self, name: &'static str) -> Option<Timestamp> {
        self.one(name, str::parse)
    }

    /// How long the caller would wait: `?wait=30s`, else `Prefer: wait=30`.
    pub(super) fn wait(&mut self) -> Option<Duration> {
        let asked = self.one("wait", |text| match text.parse::<u32>() {
            Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
            Err(_) => parse_duration(text),
        });
        asked.or_else(|| preferred_wait(self.prefer.as_deref()?)).map(|wait| wait.min(MAX_WAIT))
    }

    /// Done: the problem, if anything was wrong.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        let mut unknown: Vec<String> = Vec::new();
        for (name, _) in &self.pairs {
            if !self.known.contains(&name.as_str()) && !unknown.contains(name) && unknown.len() < 50
            {
                unknown.push(name.clone());
            }
        }
        let known = self.known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
        for name in unknown {
            let there_are = if known.is_empty() { "there is none here" } else { &known };
            self.fault(&name, format!("unknown parameter; known: {there_are}"));
        }
        if self.faults.is_empty() {
            Ok(())
        } else {
            Err(Problem::faults(Code::InvalidQuery, self.faults))
        }
    }
}

/// `wait` of a `Prefer` header (RFC 7240); what cannot be understood is no preference.
fn preferred_wait(prefer: &str) -> Option<Duration> {
    prefer.split([',', ';']).find_map(|preference| {
        let (name, value) = preference.split_once('=')?;
        let seconds = value.trim().trim_matches('"').parse::<u32>().ok()?;
        name.trim().eq_ignore_ascii_case("wait").then(|| Duration::from_secs(seconds.into()))
    })
}

/// The key of an `Idempotency-Key` header: bare, or quoted as a structured field.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let bad = |why: &str| {
        Problem::new(Code::MalformedRequest, format!("The header `Idempotency-Key` {why}."))
    };
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad("is there twice"));
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| bad("is not UTF-8"))?.trim();
    let key = match text.strip_prefix('"') {
        None => text.to_owned(),
        Some(rest) => unquote(rest).ok_or_else(|| bad("has a quote that does not end"))?,
    };
    match super::fields::plain_text(&key, 255) {
        Ok(()) => Ok(Some(key)),
        Err(why) => Err(bad(&why)),
    }
}

fn unquote(rest: &str) -> Option<String> {
    let mut key = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.as_str().is_empty().then_some(key),
            '\\' => key.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            other => key.push(other),
        }
    }
}

/// The idempotency of a request: its key, bound to `call` (method and decoded path) and body.
pub(super) fn idempotency(
    headers: &HeaderMap,
    call: &str,
    body: &[u8],
) -> Result<Option<Idempotency>, Problem> {
    Ok(idempotency_key(headers)?
        .map(|key| Idempotency { key: format!("{call} {key}"), hash: Sha256::digest(body).into() }))
}

/// The headers, as an extractor whose absence of failure is plain.
pub(super) struct Headers(pub(super) HeaderMap);

impl FromRequestParts<ApiState> for Headers {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.headers.clone()))
    }
}

/// A sane W3C `traceparent`; another one is as good as none, as the standard says.
#[must_use]
pub(super) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |s: &str, n: usize| {
        s.len() == n && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let [version, trace, parent, flags, ..] = parts.as_slice() else { return None };
    let sane = hex(version, 2)
        && *version != "ff"
        && (parts.len() == 4 || *version != "00")
        && hex(trace, 32)
        && trace.bytes().any(|b| b != b'0')
        && hex(parent, 16)
        && parent.bytes().any(|b| b != b'0')
        && hex(flags, 2);
    (sane && text.len() <= 256).then(|| text.to_owned())
}

/// Whether `If-Match` asks for this version; none: it is not there.
pub(super) fn is_asked_for(headers: &HeaderMap, etag: &HeaderValue) -> Option<bool> {
    let mut named = headers.get_all(header::IF_MATCH).iter().filter_map(|v| v.to_str().ok());
    let has = |v: &str| {
        v.split(',').any(|tag| tag.trim() == "*" || tag.trim().as_bytes() == etag.as_bytes())
    };
    headers.contains_key(header::IF_MATCH).then(|| named.any(has))
}

/// A text to look for: no database holds one with a zero in it.
pub(super) fn text(text: &str) -> Result<String, String> {
    if text.contains('\0') { Err("has a zero in it".to_owned()) } else { Ok(text.to_owned()) }
}

/// Whether `If-None-Match` names this entity tag.
pub(super) fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let named = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    named.flat_map(|v| v.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.trim_start_matches("W/") == etag
    })
}

/// Refuses a change where `If-Match` asks for other versions only.
pub(super) fn check_version(
    headers: &HeaderMap,
    etag: &HeaderValue,
    stale: Error,
) -> Result<(), Problem> {
    if is_asked_for(headers, etag) == Some(false) { Err(stale.into()) } else { Ok(()) }
}

/// The answer 304 where `If-None-Match` names this version.
pub(super) fn at_hand(headers: &HeaderMap, etag: HeaderValue) -> Option<Response> {
    let known = etag.to_str().is_ok_and(|etag| is_known(headers, etag));
    known.then(|| (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header"));
        headers
    }

    #[test]
    fn an_idempotency_key_is_bare_or_quoted() {
        for (header, key) in [("abc", "abc"), ("\"abc\"", "abc"), (r#""a\"b\\c""#, r#"a"b\c"#)] {
            let got = idempotency_key(&with("idempotency-key", header)).expect("fine");
            assert_eq!(got.as_deref(), Some(key));
        }
        for bad in ["", "\"abc", "\"abc\"d", r#""a\c""#, "\"\"", &"x".repeat(256)] {
            assert!(idempotency_key(&with("idempotency-key", bad)).is_err(), "{bad}");
        }
        assert_eq!(idempotency_key(&HeaderMap::new()).expect("fine"), None);
    }

    #[test]
    fn the_same_key_of_another_call_is_another_key() {
        let headers = with("idempotency-key", "k");
        let a = idempotency(&headers, "POST /v1/functions/a/runs", b"{}").expect("fine");
        let b = idempotency(&headers, "POST /v1/functions/b/runs", b"{}").expect("fine");
        let c = idempotency(&headers, "POST /v1/functions/a/runs", b"{ }").expect("fine");
        assert_ne!(a, b);
        assert_eq!(a.as_ref().map(|i| &i.key), c.as_ref().map(|i| &i.key));
        assert_ne!(a.map(|i| i.hash), c.map(|i| i.hash));
    }

    fn params(uri: &str, prefer: Option<&str>) -> Params {
        Params::new(&uri.parse().expect("a URI"), prefer.map(str::to_owned))
    }

    #[test]
    fn wait_comes_from_the_query_or_from_prefer() {
        let secs = |uri, prefer| params(uri, prefer).wait().map(|d| d.as_secs());
        assert_eq!(secs("/?wait=30s", None), Some(30));
        assert_eq!(secs("/?wait=30", Some("wait=5")), Some(30));
        assert_eq!(secs("/", Some("respond-async, wait=10")), Some(10));
        assert_eq!(secs("/", Some("respond-async")), None);
        assert_eq!(secs("/?wait=7d", None), Some(MAX_WAIT.as_secs()));
        let mut bad = params("/?wait=soon", None);
        assert_eq!(bad.wait(), None);
        assert_eq!(bad.finish().expect_err("soon").code(), Code::InvalidQuery);
    }

    #[test]
    fn parameters_that_nobody_asked_for_are_faults() {
        let mut p = params("/?limit=500&statsu=failed&wait=1s&wait=2s", None);
        assert_eq!(p.limit(), 50);
        p.wait();
        let problem = p.finish().expect_err("three faults");
        let body: serde_json::Value = serde_json::from_slice(&problem.body("", "")).expect("JSON");
        let faults = body["errors"].as_array().expect("a list");
        assert_eq!(faults.len(), 3, "{faults:?}");
    }

    #[test]
    fn a_traceparent_is_sane_or_ignored() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(traceparent(&with("traceparent", good)).as_deref(), Some(good));
        for bad in [
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "hello",
        ] {
            assert_eq!(traceparent(&with("traceparent", bad)), None, "{bad}");
        }
    }
}
