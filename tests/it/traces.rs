//! Traces reach a collector: from a real process, over OTLP, a span for the run and one for each
//! invocation, in the trace of whoever started it.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::gateway::{Handler, settled};

/// A collector that keeps every span that it is sent.
async fn collector() -> (String, Arc<Mutex<Vec<Value>>>) {
    let spans: Arc<Mutex<Vec<Value>>> = Arc::default();
    let kept = Arc::clone(&spans);
    let take = move |axum::Json(batch): axum::Json<Value>| async move {
        let of = |list: &Value| list.as_array().cloned().unwrap_or_default();
        for resource in of(&batch["resourceSpans"]) {
            for scope in of(&resource["scopeSpans"]) {
                kept.lock().expect("no panic").extend(of(&scope["spans"]));
            }
        }
        axum::Json(json!({}))
    };
    let app = axum::Router::new().route("/v1/traces", axum::routing::post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, spans)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_and_its_invocations_are_spans_of_the_trace_that_started_them() {
    let handler = Handler::serve(|it| {
        if settled(it, "a") {
            json!({"result": 1})
        } else {
            json!({"ops": [{"op": "run", "id": "a", "value": 1}], "yield": true})
        }
    })
    .await;
    let (url, spans) = collector().await;
    let cluster = Cluster::start_with(1, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]).await;
    cluster.register(&handler.url, &["traced"]).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let answer = cluster
        .http
        .post(format!("{}/v1/functions/traced/runs?wait=20s", cluster.nodes[0].url))
        .bearer_auth(&cluster.key)
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
        .header("content-type", "application/json")
        .body("{}")
        .send()
        .await
        .expect("the node answers");
    assert_eq!(answer.status(), 200);
    let ours = || -> Vec<Value> {
        let spans = spans.lock().expect("no panic");
        spans.iter().filter(|s| s["traceId"] == trace).cloned().collect()
    };
    cluster.eventually("its spans reach the collector", async || ours().len() >= 3).await;
    let spans = ours();
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let run = spans.iter().find(|s| s["name"] == "run traced").expect("the run's span");
    assert_eq!(run["parentSpanId"], "00f067aa0ba902b7");
    let carried: Vec<String> = handler
        .requests()
        .iter()
        .map(|(h, _)| h["traceparent"].to_str().expect("ASCII").to_owned())
        .collect();
    for span in spans.iter().filter(|s| s["name"] == "invocation traced") {
        assert_eq!(span["parentSpanId"], run["spanId"], "{span:#?}");
        let header = format!("00-{trace}-{}-01", span["spanId"].as_str().expect("text"));
        assert!(carried.contains(&header), "{header} was not carried: {carried:?}");
        let at = |s: &Value, key: &str| s[key].as_str().and_then(|t| t.parse::<u64>().ok());
        assert!(at(span, "startTimeUnixNano") >= at(run, "startTimeUnixNano"), "{span:#?}");
    }
}
