//! Handlers that fail: what is retried, parked, paused, and that nobody else suffers for it.

use std::time::Duration;

use serde_json::{Value, json};
use stepwell::machine::Limits;

use crate::gateway::{Answer, Gateway, Handler, moment, settled};

const SECOND: Duration = Duration::from_secs(1);

fn with_retry_after(status: u16, after: &str) -> Answer {
    Answer::Status(status, vec![("retry-after", after.to_owned())], "busy".to_owned())
}

// P3.23, P3.24
#[tokio::test(flavor = "multi_thread")]
async fn statuses_that_may_pass_are_retried_with_a_growing_delay() {
    let g = Gateway::start().await;
    for status in [408, 425, 429, 500, 501, 502, 503, 504, 505, 418, 204] {
        let handler = Handler::answers([
            Answer::Status(status, Vec::new(), "oh no".to_owned()),
            Answer::status(status),
            json!({"result": status}).into(),
        ])
        .await;
        g.register(&handler, json!(["f"])).await;
        let run = g.run("f", json!({})).await;
        let view = g.status(&run, "retrying").await;
        let detail = view["attention"]["detail"].as_str().expect("words").to_owned();
        assert!(detail.contains(&status.to_string()), "{detail}");
        let first = moment(&view["attention"]["next_attempt_at"]).since(g.clock.lower());
        assert!(first > Duration::ZERO && first <= Duration::from_millis(500), "{first:?}");
        g.advance(Duration::from_millis(500));
        g.invoked(&handler, 2).await;
        let view = g.status(&run, "retrying").await;
        let second = moment(&view["attention"]["next_attempt_at"]).since(g.clock.lower());
        assert!(second > Duration::from_millis(500) && second <= SECOND, "{second:?}");
        g.advance(SECOND);
        assert_eq!(g.status(&run, "completed").await["output"], status);
        let failed = g.happened(&run, "invocation.failed").await;
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert_eq!(failed[0]["data"]["status"], status);
        if status != 204 {
            assert_eq!(failed[0]["data"]["body"], "oh no");
        }
    }
    g.close().await;
}

// P3.23
#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured_and_clamped() {
    for (header, seconds) in
        [("7", 7), ("999999999", 3600), ("date", 20), ("Mon, 23 Nov 2020 09:00:20 GMT", 0)]
    {
        let g = Gateway::start().await;
        let date = jiff::Timestamp::from_second(g.clock.lower().as_secs() + 20).expect("a time");
        let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let header = if header == "date" { &date } else { header };
        let handler =
            Handler::answers([with_retry_after(503, header), json!({"result": 1}).into()]).await;
        g.register(&handler, json!(["f"])).await;
        let run = g.run("f", json!({})).await;
        if seconds > 0 {
            let view = g.status(&run, "retrying").await;
            let next = moment(&view["attention"]["next_attempt_at"]).since(g.clock.lower());
            assert_eq!(next, Duration::from_secs(seconds), "{header}");
            g.advance(Duration::from_secs(seconds) - Duration::from_millis(1));
            g.status(&run, "retrying").await;
            assert_eq!(handler.count(), 1, "{header}");
            g.advance(Duration::from_millis(1));
        }
        g.status(&run, "completed").await;
        g.close().await;
    }
}

// P3.25, P9.5
#[tokio::test(flavor = "multi_thread")]
async fn used_up_invocations_pause_the_run_and_never_fail_it() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| Answer::status(500)).await;
    let retry = json!({"max_attempts": 3, "initial": "1s"});
    g.register(&handler, json!([{"name": "f", "invocation_retry": retry}])).await;
    let run = g.run("f", json!({})).await;
    g.advance_until_invoked(&handler, 3, SECOND).await;
    let view = g.status(&run, "paused").await;
    assert_eq!(view["attention"]["code"], "invocations-used-up", "{view}");
    g.advance(Duration::from_secs(3600));
    g.status(&run, "paused").await;
    assert_eq!(handler.count(), 3);
    handler.now(|it| json!({"result": it["invocation"]["attempt"]}));
    g.post(&format!("/v1/runs/{run}/resume"), json!({})).await;
    assert_eq!(g.status(&run, "completed").await["output"], 1, "counted anew");
    g.close().await;
}

// P3.27
#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_answer_parks_all_runs_at_once_and_burns_nothing() {
    let g = Gateway::start().await;
    for status in [401, 403, 404, 410, 302] {
        let handler = Handler::serve(move |_| Answer::status(status)).await;
        let retry = json!({"max_attempts": 2});
        let body = json!({"name": "test", "url": handler.url, "discover": false,
            "functions": [{"name": "f", "invocation_retry": retry}]});
        let endpoint = g.post("/v1/endpoints", body).await["endpoint"]["id"].clone();
        let endpoint = format!("/v1/endpoints/{}", endpoint.as_str().expect("an id"));
        let first = g.run("f", json!({})).await;
        let view = g.status(&first, "parked").await;
        assert_eq!(view["attention"]["code"], "endpoint-unhealthy", "{view}");
        let detail = view["attention"]["detail"].as_str().expect("words");
        assert!(detail.contains(&status.to_string()), "{detail}");
        assert!(moment(&view["attention"]["next_attempt_at"]) > g.clock.lower());
        let seen = g.get(&endpoint).await;
        assert_eq!(seen["state"], "unhealthy", "{seen}");
        assert!(seen["detail"].as_str().is_some_and(|d| d.contains(&status.to_string())));
        let mut runs = vec![first];
        for _ in 0..9 {
            runs.push(g.run("f", json!({})).await);
        }
        for run in &runs {
            g.status(run, "parked").await;
        }
        assert_eq!(handler.count(), 1, "the others are not even tried");
        // One probe at a time, at growing distances, and no attempt of any run is burnt.
        for probes in 1..=6 {
            g.advance_until_invoked(&handler, 1 + probes, SECOND).await;
        }
        let count = handler.count();
        assert!(count < 20, "{count} probes");
        for run in &runs {
            g.status(run, "parked").await;
        }
        handler.now(|it| json!({"result": it["invocation"]["attempt"]}));
        g.advance(Duration::from_secs(60));
        for run in &runs {
            assert_eq!(g.status(run, "completed").await["output"], 1, "no attempt was burnt");
        }
        assert_eq!(g.get(&endpoint).await["state"], "healthy");
    }
    g.close().await;
}

// P3.26
#[tokio::test(flavor = "multi_thread")]
async fn connection_errors_open_the_circuit_after_five_and_outlast_any_policy() {
    let g = Gateway::start().await;
    // A port where nobody listens.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let retry = json!({"max_attempts": 8, "initial": "100ms", "factor": 1});
    let body = json!({"name": "gone", "url": format!("http://{address}/"), "discover": false,
        "functions": [{"name": "f", "invocation_retry": retry}]});
    g.post("/v1/endpoints", body).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "retrying").await;
    g.eventually("five failures", async |g| {
        g.advance(Duration::from_millis(100));
        g.get(&format!("/v1/runs/{run}")).await["status"] == "parked"
    })
    .await;
    let failed = async || g.happened(&run, "invocation.failed").await.len();
    assert_eq!(failed().await, 5);
    let other = g.run("f", json!({})).await;
    g.status(&other, "parked").await;
    // Far more probes than the policy has attempts.
    for n in 6..=16 {
        g.eventually("a probe", async |g| {
            g.advance(Duration::from_secs(5));
            g.happened(&run, "invocation.failed").await.len()
                + g.happened(&other, "invocation.failed").await.len()
                >= n
        })
        .await;
    }
    for run in [&run, &other] {
        let view = g.status(run, "parked").await;
        assert_eq!(view["attention"]["code"], "endpoint-unhealthy", "{view}");
    }
    // Somebody listens again.
    let handler = Handler::serve(|_| json!({"result": "back"})).await;
    let body = json!({"name": "gone", "url": handler.url, "functions": [{"name": "f"}], "discover": false});
    g.post("/v1/endpoints", body).await;
    for run in [&run, &other] {
        assert_eq!(
            g.status(run, "completed").await["output"],
            "back",
            "registered anew, forgotten"
        );
    }
    g.close().await;
}

// P3.26, P3.27
#[tokio::test(flavor = "multi_thread")]
async fn gateway_like_statuses_open_the_circuit_and_a_ramp_closes_it() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| Answer::status(502)).await;
    g.register(&handler, json!(["f"])).await;
    let mut runs = Vec::new();
    for _ in 0..30 {
        runs.push(g.run("f", json!({})).await);
    }
    g.advance(Duration::from_secs(60));
    for run in &runs {
        g.status(run, "parked").await;
    }
    handler.now(|_| json!({"result": 1}));
    g.advance(Duration::from_secs(120));
    for run in &runs {
        g.status(run, "completed").await;
    }
    // 500 says nothing about the endpoint: it answers.
    handler.now(|_| Answer::status(500));
    let mut runs = Vec::new();
    for _ in 0..8 {
        runs.push(g.run("f", json!({})).await);
    }
    for run in &runs {
        g.status(run, "retrying").await;
    }
    assert_eq!(g.get("/v1/endpoints/test").await["state"], "healthy");
    for run in &runs {
        g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_hangs_or_breaks_off_does_not_let_the_next_out_at_once() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| Answer::status(404)).await;
    let functions = json!([{"name": "f", "timeouts": {"invocation": "50ms"}}]);
    g.register(&handler, functions).await;
    let mut runs = Vec::new();
    for _ in 0..20 {
        runs.push(g.run("f", json!({})).await);
    }
    for run in &runs {
        g.status(run, "parked").await;
    }
    let before = handler.count();
    handler.now(|_| Answer::Hang);
    g.advance_until_invoked(&handler, before + 1, SECOND).await;
    g.eventually("the probe is over", async |g| {
        let mut failed = 0;
        for run in &runs {
            failed += g.happened(run, "invocation.failed").await.len();
        }
        failed > before
    })
    .await;
    for run in &runs {
        g.status(run, "parked").await;
    }
    assert_eq!(handler.count(), before + 1, "one probe, then a wait");
    handler.now(|_| json!({"result": 1}));
    g.advance(Duration::from_secs(120));
    for run in &runs {
        g.status(run, "completed").await;
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_endpoint_is_left_alone_until_it_is_enabled() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({"result": 1})).await;
    g.register(&handler, json!(["f"])).await;
    let disabled = g.post("/v1/endpoints/test/disable", json!({})).await;
    assert_eq!(disabled["state"], "disabled");
    g.post("/v1/endpoints/test/disable", json!({})).await;
    let run = g.run("f", json!({})).await;
    let view = g.status(&run, "parked").await;
    assert_eq!(view["attention"]["code"], "endpoint-disabled", "{view}");
    g.advance(Duration::from_secs(600));
    g.status(&run, "parked").await;
    assert_eq!(handler.count(), 0);
    assert_eq!(g.post("/v1/endpoints/test/enable", json!({})).await["state"], "healthy");
    g.status(&run, "completed").await;
    g.close().await;
}

/// Ten steps of 30 KiB, one an invocation, then the end.
fn fat(it: &Value) -> Value {
    let next = (0..10).map(|i| format!("s{i}")).find(|id| !settled(it, id));
    match next {
        Some(id) => json!({"ops": [{"op": "run", "id": id, "value": "x".repeat(30_000)}]}),
        None => json!({"result": it["journal"]}),
    }
}

/// A handler with pages: answers from the whole journal, which it fetches.
fn paged(limit: usize) -> impl Fn(&Value) -> Answer + Send + Sync + 'static {
    move |it| {
        if it.to_string().len() > limit {
            return Answer::status(413);
        }
        // The test fetches the pages; here it is enough to count on.
        let upto = it["journal"]["upto"].as_u64().unwrap_or(0);
        let more = it["journal"]["more"] == true;
        let settled = it["steps"].as_object().map_or(0, serde_json::Map::len);
        assert_eq!(settled as u64, upto, "what is shown is a prefix");
        let n = it["invocation"]["epoch"].as_u64().unwrap_or(0);
        if n <= 10 || (more && n <= 14) {
            let id = format!("s{n}");
            json!({"ops": [{"op": "run", "id": id, "value": "x".repeat(30_000)}]}).into()
        } else {
            json!({"result": it["journal"]}).into()
        }
    }
}

async fn register_paged(g: &Gateway, handler: &Handler, more: Value) {
    let mut body = json!({"name": "test", "url": handler.url, "discover": false,
        "functions": [{"name": "f"}], "pages": true});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    g.post("/v1/endpoints", body).await;
}

// P3.28
#[tokio::test(flavor = "multi_thread")]
async fn a_413_lowers_the_inline_budget_and_at_the_floor_the_run_is_paused() {
    let g = Gateway::start().await;
    let handler = Handler::serve(paged(150_000)).await;
    register_paged(&g, &handler, json!({})).await;
    let run = g.run("f", json!({})).await;
    let view = g.status(&run, "completed").await;
    assert_eq!(view["output"]["more"], true, "{view}");
    assert!(g.happened(&run, "invocation.failed").await.len() < 5, "halved, not crept");
    let sizes: Vec<usize> = handler.requests().iter().map(|(_, b)| b.len()).collect();
    assert!(sizes.iter().any(|s| *s > 150_000), "{sizes:?}");
    handler.now(|_| Answer::status(413));
    let run = g.run("f", json!({})).await;
    let view = g.status(&run, "paused").await;
    assert_eq!(view["attention"]["code"], "inline-floor", "{view}");
    g.close().await;
}

// P2.14, P2.17, P2.28
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_over_the_budget_is_paged_for_who_can() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let upto = it["journal"]["upto"].as_u64().unwrap_or(0);
        let n = it["invocation"]["epoch"].as_u64().unwrap_or(0);
        if n <= 10 {
            let id = format!("s{n}");
            return json!({"ops": [{"op": "run", "id": id, "value": "x".repeat(30_000)}]}).into();
        }
        assert!(upto < 10 && it["journal"]["more"] == true);
        Answer::Hang
    })
    .await;
    register_paged(&g, &handler, json!({"max_inline_bytes": 100_000})).await;
    let run = g.run("f", json!({"timeouts": {"invocation": "60s"}})).await;
    let it = g.invoked(&handler, 11).await;
    // As a handler pages: the rest, with its token, from where the inline part ends.
    let links = &it["links"];
    let mut after = it["journal"]["upto"].as_u64().expect("a number");
    assert_eq!(after, 3);
    let token = format!("Bearer {}", it["token"].as_str().expect("text"));
    let page = async |after: u64, token: &str| {
        let url = links["journal"].as_str().expect("a URL").trim_start_matches(&g.url).to_owned();
        let headers = [("authorization", token)];
        let (status, _, body) =
            g.raw("GET", &format!("{url}?after={after}&limit=3"), &headers, None).await;
        (status, serde_json::from_slice::<Value>(&body).expect("JSON"))
    };
    while after < 10 {
        let (status, body) = page(after, &token).await;
        assert_eq!(status, 200, "{body}");
        for entry in body["data"].as_array().expect("a list") {
            after += 1;
            assert_eq!(entry["seq"], after);
            assert_eq!(entry["value"].as_str().map(str::len), Some(30_000));
        }
        assert_eq!(body["upto"], 10);
    }
    let forged = format!("{}x", &token[..token.len() - 1]);
    let (status, body) = page(0, &forged).await;
    assert_eq!((status, &body["code"]), (401, &json!("invalid-token")));
    let old = handler.invocations()[3]["token"].as_str().map(|t| format!("Bearer {t}"));
    let (status, body) = page(0, &old.expect("text")).await;
    assert_eq!((status, &body["code"]), (409, &json!("stale-epoch")));
    g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
    g.close().await;
}

// P2.29
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_outgrows_a_deployment_without_pages_is_paused() {
    let g = Gateway::start().await;
    let handler = Handler::serve(fat).await;
    let body = json!({"name": "test", "url": handler.url, "discover": false,
        "functions": [{"name": "f"}], "max_inline_bytes": 100_000});
    g.post("/v1/endpoints", body).await;
    let run = g.run("f", json!({})).await;
    let view = g.status(&run, "paused").await;
    assert_eq!(view["attention"]["code"], "needs-pages", "{view}");
    assert_eq!(view["steps"]["settled"], 4);
    let body = json!({"name": "test", "url": handler.url, "discover": false,
        "functions": [{"name": "f"}], "max_inline_bytes": 1_000_000});
    g.post("/v1/endpoints", body).await;
    g.post(&format!("/v1/runs/{run}/resume"), json!({})).await;
    g.status(&run, "completed").await;
    g.close().await;
}

// P2.17, P2.27
#[tokio::test(flavor = "multi_thread")]
async fn a_big_value_is_a_ref_that_the_handler_fetches() {
    let g = Gateway::start().await;
    let big = format!("\"{}\"", "y".repeat(100_000));
    let value = big.clone();
    let handler = Handler::serve(move |it| {
        let small = &it["steps"]["small"];
        match it["invocation"]["epoch"].as_u64() {
            Some(1) => {
                let text = format!(
                    r#"{{"ops":[{{"op":"run","id":"a/big","value":{value}}},{{"op":"run","id":"small","value":1}}]}}"#
                );
                Answer::Raw(text.into_bytes())
            }
            _ => {
                assert_eq!(small["value"], 1);
                Answer::Hang
            }
        }
    })
    .await;
    register_paged(&g, &handler, json!({})).await;
    let run = g.run("f", json!({})).await;
    let it = g.invoked(&handler, 2).await;
    let shown = &it["steps"]["a/big"];
    assert_eq!(shown["ref"]["bytes"], big.len(), "{shown}");
    assert!(shown.get("value").is_none());
    let url = it["links"]["values"].as_str().expect("a URL").trim_start_matches(&g.url).to_owned();
    let token = format!("Bearer {}", it["token"].as_str().expect("text"));
    let auth = ("authorization", &*token);
    let (status, headers, body) = g.raw("GET", &format!("{url}a/big"), &[auth], None).await;
    assert_eq!((status, body == big), (200, true));
    let etag = headers["etag"].to_str().expect("ASCII");
    assert!(etag.contains(shown["ref"]["sha256"].as_str().expect("hex")), "{etag}");
    let known = [auth, ("if-none-match", etag)];
    assert_eq!(g.raw("GET", &format!("{url}a%2Fbig"), &known, None).await.0, 304);
    assert_eq!(g.raw("GET", &format!("{url}none"), &[auth], None).await.0, 404);
    let other = g.run("f", json!({})).await;
    let foreign = url.replace(&run, &other);
    assert_eq!(g.raw("GET", &format!("{foreign}small"), &[auth], None).await.0, 401);
    let journal = g.journal(&run).await;
    assert_eq!(journal[0]["ref"]["bytes"], big.len());
    for run in [run, other] {
        g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
    }
    g.close().await;
}

// P3.29, P3.31
#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_a_limit_records_nothing_and_pauses_with_the_step_named() {
    let limits = Limits {
        value_bytes: 10_000,
        journal_bytes: 25_000,
        steps: 12,
        untaken: 10,
        ..Limits::default()
    };
    let g = Gateway::with_limits(limits).await;
    let handler = Handler::serve(|it| {
        let value = |len: usize| json!("v".repeat(len));
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        let run = |id: &str, value: Value| json!({"op": "run", "id": id, "value": value});
        match it["input"].as_str() {
            Some("answer") => Answer::Raw(vec![b' '; (16 << 20) + 2]),
            Some("value") => {
                json!({"ops": [run("fine", json!(1)), run("too-big", value(10_001))]}).into()
            }
            Some("error") => {
                let error = json!({"type": "E", "message": "m".repeat(10_001)});
                json!({"ops": [{"op": "run", "id": "too-big", "error": error}]}).into()
            }
            Some("deep") => Answer::Raw(
                format!(r#"{{"ops":[{{"op":"run","id":"too-deep","value":{deep}}}]}}"#)
                    .into_bytes(),
            ),
            Some("result") => json!({"result": value(10_001)}).into(),
            Some("journal") => {
                let id = format!("s{}", it["invocation"]["epoch"]);
                json!({"ops": [run(&id, value(9_000))]}).into()
            }
            _ => {
                let n = it["invocation"]["epoch"].as_u64().unwrap_or(0);
                let ops: Vec<Value> = (0..5).map(|i| run(&format!("s{n}/{i}"), json!(i))).collect();
                json!({"ops": ops}).into()
            }
        }
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    for (input, code, named, settled) in [
        ("answer", "answer-limit", "16777216", 0),
        ("value", "answer-limit", "too-big", 0),
        ("error", "answer-limit", "too-big", 0),
        ("deep", "answer-limit", "too-deep", 0),
        ("result", "answer-limit", "result", 0),
        ("journal", "journal-limit", "25000", 2),
        ("steps", "journal-limit", "12", 10),
    ] {
        let run = g.run("f", json!({"input": input})).await;
        let view = g.status(&run, "paused").await;
        assert_eq!(view["attention"]["code"], code, "{input}: {view}");
        let detail = view["attention"]["detail"].as_str().expect("words");
        assert!(detail.contains(named), "{input}: {detail}");
        assert_eq!(view["steps"]["settled"], settled, "{input}: nothing of that answer");
        g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
    }
    g.close().await;
}

// P9.6
#[tokio::test(flavor = "multi_thread")]
async fn a_poisonous_handler_harms_only_its_own_runs() {
    let g = Gateway::start().await;
    let bad = Handler::serve(|it| match it["input"].as_u64().unwrap_or(0) % 5 {
        0 => Answer::Hang,
        1 => Answer::Raw(vec![b'['; 1 << 20]),
        2 => Answer::Raw(b"{\"ops\": [{\"op\": \"run\", \"id\": \"a\\u0000b\", \"value\": 1}]}".to_vec()),
        3 => Answer::Raw(vec![0xff, 0xfe, 0]),
        _ => Answer::Raw(b"{\"ops\":[{\"op\":\"run\",\"id\":\"z\",\"value\":\"\\u0000\"}],\"result\":\"\\u0000\"}".to_vec()),
    })
    .await;
    let good = Handler::serve(|it| json!({"result": it["input"]})).await;
    let body =
        json!({"name": "bad", "url": bad.url, "functions": [{"name": "bad"}], "discover": false});
    g.post("/v1/endpoints", body).await;
    g.register(&good, json!(["good"])).await;
    let mut runs = Vec::new();
    for i in 0..25 {
        runs.push(g.run("bad", json!({"input": i, "timeouts": {"invocation": "100ms"}})).await);
        let (status, view) =
            g.call("POST", "/v1/functions/good/runs?wait=5s", Some(json!({"input": i}))).await;
        assert_eq!((status, &view["output"]), (200, &json!(i)), "{view}");
    }
    for (i, run) in runs.iter().enumerate() {
        let status = if i % 5 == 4 { "completed" } else { "retrying" };
        g.status(run, status).await;
        if status == "retrying" {
            g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
        }
    }
    g.close().await;
}

// P2.4, P2.9, P2.10, P2.16, P4.3
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_repeats_the_exchange_with_the_same_keys_for_the_outside_world() {
    let g = Gateway::start().await;
    let handler = Handler::answers([
        Answer::status(500),
        json!({"ops": [{"op": "run", "id": "pay", "value": 1}]}).into(),
        json!({"result": 1}).into(),
    ])
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.advance_until_invoked(&handler, 3, SECOND).await;
    g.status(&run, "completed").await;
    let all = handler.invocations();
    let prefix = format!("{run}.1/");
    assert!(all.iter().all(|it| it["run"]["idempotency_prefix"] == *prefix));
    assert!(all.iter().all(|it| it["run"]["seed"] == all[0]["run"]["seed"]));
    let requests = handler.requests();
    let ids: std::collections::BTreeSet<_> =
        requests.iter().map(|(h, _)| h["webhook-id"].to_str().expect("ASCII")).collect();
    assert_eq!(ids.len(), 3, "one id an exchange");
    for ((headers, _), it) in requests.iter().zip(&all) {
        assert_eq!(headers["webhook-id"].to_str().ok(), it["invocation"]["id"].as_str());
        assert_eq!(headers["stepwell-protocol"], "1");
    }
    g.close().await;
}
