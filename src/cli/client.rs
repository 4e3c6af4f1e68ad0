//! Requests to the gateway's REST API, and its answers or what went wrong.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;
use url::{Host, Url};

use super::failure::{Failure, Problem};
use super::model::Page;
use super::secret::Secret;

/// How long one long poll is asked to last; the gateway may answer sooner.
pub(super) const POLL: Duration = Duration::from_secs(30);

/// A gateway, as its API is reached from here.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    timeout: Duration,
}

/// A request in the making.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// Segments after `/v1`; each is percent-encoded as a whole.
    pub(super) path: &'a [&'a str],
    pub(super) query: &'a [(&'a str, String)],
    /// JSON.
    pub(super) body: Option<Vec<u8>>,
    pub(super) idempotency_key: Option<&'a str>,
    /// For a stream: the event to go on after.
    pub(super) last_event_id: Option<&'a str>,
    /// The version that is to be changed.
    pub(super) if_match: Option<&'a str>,
    /// How much longer than usual the answer may take.
    pub(super) extra: Duration,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, path: &'a [&'a str]) -> Self {
        Self {
            method,
            path,
            query: &[],
            body: None,
            idempotency_key: None,
            last_event_id: None,
            if_match: None,
            extra: Duration::ZERO,
        }
    }

    pub(super) fn get(path: &'a [&'a str]) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn post(path: &'a [&'a str], body: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("texts, numbers and raw JSON serialise");
        Self { body: Some(body), ..Self::new(Method::POST, path) }
    }

    pub(super) fn query(mut self, query: &'a [(&'a str, String)]) -> Self {
        self.query = query;
        self
    }
}

/// A 2xx answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as text; the API speaks JSON, which is UTF-8.
    pub(super) fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.body)
            .map_err(|_| Failure::Unexpected("the gateway's answer is not UTF-8".to_owned()))
    }

    /// The body as a document.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        document(self.text()?)
    }
}

/// JSON text of the API as a document.
pub(super) fn document<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::Unexpected(format!(
            "the answer is not what this version expects of the API: {error}"
        ))
    })
}

impl Client {
    pub(super) fn new(
        base: &Url,
        key: Option<&Secret>,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        if !matches!(base.scheme(), "http" | "https") {
            return Err(Failure::Usage(format!(
                "--url {base}: must begin with http:// or https://"
            )));
        }
        let mut headers = HeaderMap::new();
        if let Some(key) = key.map(Secret::expose).filter(|key| !key.is_empty()) {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| {
                Failure::Usage("the API key holds characters that no key has".to_owned())
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        // Another part of the process may have installed it; one is as good as the other.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("stepwell-cli/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            // A key must not follow a redirect to who knows where.
            .redirect(Policy::none());
        if is_loopback(base) {
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|error| Failure::Unexpected(format!("no HTTP client: {}", chain(&error))))?;
        Ok(Self { http, base: base.clone(), timeout })
    }

    /// Sends a request and reads the answer; anything but 2xx is a [`Failure`].
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Answer, Failure> {
        let timeout = self.timeout + request.extra;
        let exchange = async {
            let response = self.open(request, "application/json").await?;
            let status = response.status().as_u16();
            let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
            Ok(Answer { status, body })
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| {
            let seconds = timeout.as_secs_f64();
            Err(Failure::TimedOut(format!("no answer from {} within {seconds} s", self.base)))
        })
    }

    /// Sends a request and gives the answer with its body unread, for streams.
    pub(super) async fn open(
        &self,
        request: Request<'_>,
        accept: &'static str,
    ) -> Result<Response, Failure> {
        let mut url = self.address(request.path);
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(request.query.iter().map(|(k, v)| (k, v.as_str())));
        }
        let mut http = self.http.request(request.method, url).header(ACCEPT, accept);
        if let Some(key) = request.idempotency_key {
            http = http.header("idempotency-key", key);
        }
        if let Some(version) = request.if_match {
            http = http.header("if-match", version);
        }
        if let Some(id) = request.last_event_id {
            http = http.header("last-event-id", id);
        }
        if let Some(body) = request.body {
            http = http.header(CONTENT_TYPE, "application/json").body(body);
        }
        let response = http.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refused(response).await)
        }
    }

    /// All items of a list, page by page, up to `most`; and whether there are more.
    pub(super) async fn list(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        most: usize,
    ) -> Result<Page, Failure> {
        let mut all = Page::default();
        let mut cursor: Option<String> = None;
        loop {
            let left = most - all.data.len();
            let mut query = query.to_vec();
            query.push(("limit", left.min(200).to_string()));
            if let Some(cursor) = cursor {
                query.push(("cursor", cursor));
            }
            let page: Page = self.send(Request::get(path).query(&query)).await?.read()?;
            all.data.extend(page.data);
            all.next_cursor.clone_from(&page.next_cursor);
            if page.next_cursor.is_none() || all.data.len() >= most {
                return Ok(all);
            }
            cursor = page.next_cursor;
        }
    }

    /// `/v1` and the segments, below the base's own path.
    fn address(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("http and https addresses have a path")
            .pop_if_empty()
            .push("v1")
            .extend(path);
        url
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        Failure::Unreachable { url: self.base.to_string(), reason: chain(error) }
    }

    /// What an answer that is not 2xx says.
    async fn refused(&self, response: Response) -> Failure {
        let status = response.status();
        let header = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let is_problem = header("content-type").is_some_and(|t| t.contains("problem+json"));
        let retry_after = header(RETRY_AFTER.as_str());
        let request_id = header("x-request-id");
        let location = header("location");
        if status.is_redirection() {
            let to = location.unwrap_or_default();
            return Failure::Unexpected(format!(
                "{} answered {status} and points to {to}: give that as --url",
                self.base
            ));
        }
        let body = response.bytes().await.unwrap_or_default();
        let known = serde_json::from_slice::<Problem>(&body).ok().filter(|_| is_problem);
        let mut problem = known.unwrap_or_else(|| {
            let head: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            Problem {
                code: format!("http-{}", status.as_u16()),
                title: format!("{} answered {status}: {head}", self.base),
                ..Problem::default()
            }
        });
        problem.status = status.as_u16();
        problem.retry_after = retry_after;
        problem.request_id = problem.request_id.or(request_id);
        Failure::Problem(Box::new(problem))
    }
}

/// Whether an address can only mean this machine: no proxy belongs in between.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// The innermost cause is what tells the user something (`connection refused`).
fn chain(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    let mut text = error.to_string();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    text
}
