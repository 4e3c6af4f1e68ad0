//! Traces to a collector: OTLP over HTTP as JSON, in batches, never in anybody's way.
//!
//! A run is one span, each of its invocations a child of it. Where a run was started without a
//! trace context its own id is the trace, so that all of its invocations are found together.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use url::Url;

use crate::machine::{RunId, Timestamp};

/// Spans that wait for the collector; over that, new ones are dropped and counted.
const WAITING: usize = 8_192;
/// The most spans of one request.
const BATCH: usize = 512;
/// How long a batch may grow.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);

static QUEUE: OnceLock<mpsc::Sender<Span>> = OnceLock::new();

/// A W3C trace context: which trace, and which span of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// 32 hex digits.
    pub trace: String,
    /// 16 hex digits.
    pub span: String,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl Context {
    /// Reads a `traceparent` header; none if it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, length| {
            text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let zero = |text: &str| text.bytes().all(|b| b == b'0');
        let known = hex(version, 2) && version != "ff" && hex(flags, 2);
        if !(known && hex(trace, 32) && hex(span, 16)) || zero(trace) || zero(span) {
            return None;
        }
        let sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
        Some(Self { trace: trace.to_owned(), span: span.to_owned(), sampled })
    }

    /// The span of a run: in the trace that it was started in, else in one of its own.
    #[must_use]
    pub fn of_run(run: RunId, started_in: Option<&Self>) -> Self {
        let id = run.uuid().as_u128();
        Self {
            trace: started_in.map_or_else(|| format!("{id:032x}"), |c| c.trace.clone()),
            // The low half has the variant bits, so it is never zero.
            span: format!("{:016x}", id & u128::from(u64::MAX)),
            sampled: started_in.is_none_or(|c| c.sampled),
        }
    }

    /// A new span of the same trace.
    #[must_use]
    pub fn child(&self, chance: u128) -> Self {
        let span = format!("{:016x}", (chance & u128::from(u64::MAX)).max(1));
        Self { span, ..self.clone() }
    }
}

/// The `traceparent` header.
impl std::fmt::Display for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// Something that took time.
#[derive(Debug, Clone)]
pub struct Span {
    /// Itself.
    pub context: Context,
    /// The span that it is a part of.
    pub parent: Option<String>,
    /// What it is, such as `run checkout`.
    pub name: String,
    /// Whether it is a call to somebody else.
    pub client: bool,
    /// When it began.
    pub begun: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// More about it.
    pub attributes: Vec<(&'static str, String)>,
    /// How it failed.
    pub error: Option<String>,
}

/// Hands a span to the exporter, if there is one and the trace is recorded. Never waits.
pub fn span(span: impl FnOnce() -> Span) {
    let Some(queue) = QUEUE.get() else { return };
    let span = span();
    if span.context.sampled && queue.try_send(span).is_err() {
        metrics::counter!("stepwell_spans_dropped_total").increment(1);
    }
}

/// Begins to send spans to the collector at `endpoint` (such as `http://127.0.0.1:4318`), once for
/// the process. Must be called within a Tokio runtime. False if spans are sent somewhere already,
/// or the client cannot be made.
pub fn install_traces(endpoint: &Url) -> bool {
    let (send, receive) = mpsc::channel(WAITING);
    // Fails only where a provider is installed already, which is as good.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PATIENCE)
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(%error, "traces are not sent");
            return false;
        }
    };
    if QUEUE.set(send).is_err() {
        return false;
    }
    tokio::spawn(export(client, traces_url(endpoint), receive));
    true
}

/// The collector's address for traces, whether or not the given one names it.
fn traces_url(endpoint: &Url) -> Url {
    let mut url = endpoint.clone();
    let path = url.path().trim_end_matches('/');
    if !path.ends_with("/v1/traces") {
        let path = format!("{path}/v1/traces");
        url.set_path(&path);
    }
    url
}

async fn export(client: reqwest::Client, url: Url, mut queue: mpsc::Receiver<Span>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut well = true;
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let until = tokio::time::Instant::now() + GATHER;
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            let more = tokio::time::timeout_at(until, queue.recv_many(&mut batch, room));
            if !matches!(more.await, Ok(1..)) {
                break;
            }
        }
        let request = client
            .post(url.clone())
            .header("content-type", "application/json")
            .body(request(&batch).to_string());
        let sent = request.send().await.and_then(reqwest::Response::error_for_status);
        match &sent {
            Err(error) => {
                metrics::counter!("stepwell_spans_dropped_total").increment(batch.len() as u64);
                if well {
                    tracing::warn!(%error, "the trace collector does not take spans; they are dropped");
                }
            }
            Ok(_) if !well => tracing::info!("the trace collector takes spans again"),
            Ok(_) => {}
        }
        well = sent.is_ok();
        batch.clear();
    }
}

fn request(spans: &[Span]) -> Value {
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let nanos = |at: Timestamp| (i128::from(at.as_micros()) * 1_000).to_string();
    let spans: Vec<Value> = spans
        .iter()
        .map(|s| {
            json!({
                "traceId": s.context.trace,
                "spanId": s.context.span,
                "parentSpanId": s.parent.as_deref().unwrap_or_default(),
                "name": s.name,
                // 3: a call to somebody else, 1: work of our own.
                "kind": if s.client { 3 } else { 1 },
                "startTimeUnixNano": nanos(s.begun),
                "endTimeUnixNano": nanos(s.begun + s.took),
                "attributes": s.attributes.iter().map(|(k, v)| text(k, v)).collect::<Vec<_>>(),
                "status": match &s.error {
                    Some(error) => json!({"code": 2, "message": error}),
                    None => json!({}),
                },
            })
        })
        .collect();
    let version = env!("CARGO_PKG_VERSION");
    json!({"resourceSpans": [{
        "resource": {"attributes": [
            text("service.name", "stepwell"),
            text("service.version", version),
        ]},
        "scopeSpans": [{"scope": {"name": "stepwell", "version": version}, "spans": spans}],
    }]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Shard;

    fn run() -> RunId {
        RunId::on_shard(Timestamp::from_micros(1_700_000_000_000_000), Shard(7), 99)
    }

    #[test]
    fn a_run_is_a_span_of_the_trace_it_was_started_in_or_of_its_own() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let outer = Context::parse(text).expect("a context");
        assert_eq!(outer.to_string(), text);
        let inner = Context::of_run(run(), Some(&outer));
        assert!(inner.trace == outer.trace && inner.span != outer.span && !inner.sampled);
        let own = Context::of_run(run(), None);
        assert_eq!(Context::parse(&own.to_string()), Some(own.clone()));
        assert_eq!(own, Context::of_run(run(), None), "the same on every node");
        assert!(own.child(1).span != own.child(2).span && own.child(1).trace == own.trace);
        for bad in [
            "",
            "00-1-2-01",
            &text.replace("4bf9", "4BF9"),
            &text.replace("00f067aa0ba902b7", "0000000000000000"),
        ] {
            assert_eq!(Context::parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn spans_reach_the_collector() {
        let (tell, mut told) = mpsc::channel::<(String, Value)>(1);
        let app = axum::Router::new().fallback(
            move |uri: axum::http::Uri, axum::Json(body): axum::Json<Value>| async move {
                let _ = tell.send((uri.to_string(), body)).await;
            },
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, app).await });
        let endpoint: Url = format!("http://{at}").parse().expect("a URL");
        assert!(install_traces(&endpoint) && !install_traces(&endpoint));
        let of = |sampled| Span {
            context: Context { sampled, ..Context::of_run(run(), None) },
            parent: None,
            name: "run checkout".to_owned(),
            client: false,
            begun: Timestamp::from_micros(5),
            took: Duration::from_micros(2),
            attributes: vec![("run.id", run().to_string())],
            error: Some("failed".to_owned()),
        };
        span(|| of(false));
        span(|| of(true));
        let (path, body) = told.recv().await.expect("sent");
        assert_eq!(path, "/v1/traces");
        // The queue is the process's: other tests may have runs too.
        let trace = format!("{:032x}", run().uuid().as_u128());
        let all = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans");
        let spans: Vec<&Value> = all.iter().filter(|s| s["traceId"] == trace).collect();
        assert_eq!(spans.len(), 1, "{body}");
        assert_eq!(
            (&spans[0]["startTimeUnixNano"], &spans[0]["endTimeUnixNano"]),
            (&json!("5000"), &json!("7000"))
        );
        assert_eq!(spans[0]["status"]["code"], 2);
        let named: Url = "http://c/x/v1/traces".parse().expect("a URL");
        assert_eq!(traces_url(&named), named);
    }
}
