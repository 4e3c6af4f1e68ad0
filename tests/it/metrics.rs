//! What a node tells of itself, and the trace that goes with a run.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::gateway::{Answer, Gateway, Handler, settled};

/// The sum of a metric over its labels, as far as they contain `label`.
fn value(text: &str, name: &str, label: &str) -> f64 {
    let of_it = text.lines().filter(|l| {
        l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && l.contains(label)
    });
    of_it.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_grow_with_what_happens() {
    stepwell::telemetry::install_metrics();
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["invocation"]["attempt"].as_i64() {
        Some(1) => Answer::status(500),
        _ if settled(it, "a") => json!({"result": 1}).into(),
        _ => json!({"ops": [{"op": "run", "id": "a", "value": 1}]}).into(),
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let read = async || {
        let (status, headers, text) = g.raw("GET", "/metrics", &[], None).await;
        assert_eq!(status, 200);
        let kind = headers["content-type"].to_str().expect("ASCII").to_owned();
        assert!(kind.starts_with("text/plain"), "{kind}");
        String::from_utf8(text.to_vec()).expect("UTF-8")
    };
    let before = read().await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "retrying").await;
    g.advance(Duration::from_secs(1));
    g.advance_until_invoked(&handler, 4, Duration::from_secs(1)).await;
    g.status(&run, "completed").await;
    let after = read().await;
    for (name, label, least) in [
        ("stepwell_runs_started_total", "", 1.0),
        ("stepwell_runs_ended_total", "completed", 1.0),
        ("stepwell_invocations_total", "answered", 2.0),
        ("stepwell_invocations_total", "failed", 1.0),
        ("stepwell_journal_rows_total", "", 2.0),
        ("stepwell_invocation_sent_bytes_total", "", 100.0),
        ("stepwell_invocation_seconds_count", "", 3.0),
        ("stepwell_run_seconds_count", "", 1.0),
    ] {
        // Other tests of this process count too.
        let grown = value(&after, name, label) - value(&before, name, label);
        assert!(grown >= least, "{name} {label}: {grown}\n{after}");
    }
    assert!(value(&after, "stepwell_lease_groups", "") >= 1.0);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_counted_is_told_moment_by_moment() {
    stepwell::telemetry::install_metrics();
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["input"] {
        serde_json::Value::Null => json!({"result": 1}),
        _ => json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"}),
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let waits = g.run("f", json!({"input": 1})).await;
    let moments = async |g: &Gateway| g.get("/v1/metrics/series").await;
    // A moment is counted from the one before it.
    g.eventually("there is one", async |g| {
        g.advance(Duration::from_secs(10));
        moments(g).await["at"].as_array().is_some_and(|at| !at.is_empty())
    })
    .await;
    g.status(&waits, "waiting").await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "completed").await;
    let sum = |of: &serde_json::Value| -> u64 {
        of.as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64).sum()
    };
    g.eventually("it is counted, and so is who lives", async |g| {
        g.advance(Duration::from_secs(10));
        let all = moments(g).await;
        let live = all["live"]["waiting"].as_array().and_then(|of| of.last());
        // Other tests of this process count too; of runs that live each has its own.
        sum(&all["runs_ended"]["completed"]) >= 1
            && sum(&all["runs_started"]) >= 1
            && sum(&all["invocations"]["answered"]) >= 1
            && live == Some(&json!(1))
    })
    .await;
    let all = moments(&g).await;
    let places = |of: &serde_json::Value| of.as_array().expect("a list").len();
    for list in ["seconds", "runs_started"] {
        assert_eq!(places(&all[list]), places(&all["at"]), "{all}");
    }
    let times = &all["invocation_seconds"];
    let timed = times["counts"].as_array().expect("a list");
    let timed = timed.iter().find(|counts| !counts.is_null()).expect("a call was timed");
    assert_eq!(places(timed), places(&times["bounds"]) + 1, "and what took longer");
    assert_eq!((&all["step"], places(&all["at"]) < 100), (&json!("10s"), true));
    g.close().await;
}

// P2.5
#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_the_start_is_carried_to_every_invocation() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "a") {
            json!({"result": 1})
        } else {
            json!({"ops": [{"op": "run", "id": "a", "value": 1}]})
        }
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let given = format!("00-{trace}-00f067aa0ba902b7-01");
    let start = async |headers: &[(&str, &str)]| {
        let path = "/v1/functions/f/runs?wait=20s";
        let before = handler.count();
        let (status, _, _) = g.raw("POST", path, headers, Some("{}".to_owned())).await;
        assert_eq!(status, 200);
        let requests = handler.requests();
        let of = requests[before..].iter().map(|(h, _)| h["traceparent"].to_str().expect("ASCII"));
        of.map(|t| t.split('-').map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let carried = start(&[("traceparent", &given)]).await;
    assert_eq!(carried.len(), 2);
    let spans: BTreeSet<&String> = carried.iter().map(|t| &t[2]).collect();
    assert_eq!(spans.len(), 2, "each invocation is a span of its own");
    for parts in &carried {
        assert_eq!((&*parts[0], &*parts[1], &*parts[3]), ("00", trace, "01"));
        assert_ne!(parts[2], "00f067aa0ba902b7");
    }
    // Without one, or with one that is none, the run has a trace of its own.
    for headers in [vec![], vec![("traceparent", "00-0-0-0")]] {
        let own = start(&headers).await;
        assert_eq!(own[0][1], own[1][1], "one trace a run");
        assert_ne!(own[0][1], trace);
        assert_eq!((own[0][1].len(), own[0][2].len()), (32, 16));
    }
    let (_, headers, _) = g.raw("GET", "/healthz", &[("x-request-id", "abc-123")], None).await;
    assert_eq!(headers["x-request-id"], "abc-123");
    let (_, headers, _) = g.raw("GET", "/healthz", &[], None).await;
    assert!(!headers["x-request-id"].is_empty());
    g.close().await;
}
