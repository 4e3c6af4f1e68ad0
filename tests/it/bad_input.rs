//! Bad input from both sides: each gets a precise reason, nothing of it is recorded, and it harms
//! nobody else.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::gateway::{Answer, Gateway, Handler, settled};

const DEEP: usize = 1_000_000;

fn deep(n: usize) -> String {
    format!("{}{}", "[".repeat(n), "]".repeat(n))
}

/// An endpoint of its own, beside the one called `test`.
async fn register_bad(g: &Gateway, url: &str) {
    let retry = json!({"max_attempts": 100, "initial": "1h"});
    let functions = json!([{"name": "bad", "invocation_retry": retry}]);
    let body = json!({"name": "bad", "url": url, "functions": functions, "discover": false});
    g.post("/v1/endpoints", body).await;
}

/// A run of somebody else goes through at once.
async fn others_are_well(g: &Gateway) {
    let body = json!({"input": "hello"});
    let (status, view) = g.call("POST", "/v1/functions/good/runs?wait=5s", Some(body)).await;
    assert_eq!((status, &view["output"]), (200, &json!("hello")), "{view}");
}

async fn good(g: &Gateway) -> Handler {
    let handler = Handler::serve(|it| json!({"result": it["input"]})).await;
    g.register(&handler, json!(["good"])).await;
    handler
}

// P3.1, P3.8, P3.23, P3.29, P3.31, P5.1, P5.42, P5.45, P9.5, P9.6
#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_says_wrong_is_named_and_harms_nobody() {
    let g = Gateway::start().await;
    let _good = good(&g).await;
    let run = |fields: &str| format!(r#"{{"ops":[{{"op":"run",{fields}}}]}}"#);
    let cases: Vec<(String, &str, &str)> = vec![
        (run(&format!(r#""id":"{}""#, "x".repeat(257))), "invocation-failing", "257 bytes"),
        (
            run(&format!(r#""id":"{}""#, "x".repeat(1 << 20))),
            "invocation-failing",
            "over the limit of 256",
        ),
        (run(r#""id":"a\u0000b""#), "invocation-failing", "control characters"),
        (run(r#""id":"a\u0085b""#), "invocation-failing", "control characters"),
        (run(r#""id":"a/../b""#), "invocation-failing", "`..`"),
        (run(r#""id":["a"]"#), "invocation-failing", "`id` must be a string"),
        (run(r#""id":"a","ms":"12""#), "invocation-failing", "`ms` must be a number"),
        (run(r#""id":"a","error":"boom""#), "invocation-failing", "`error` must be an object"),
        (run(r#""id":"a","error":{"type":7}"#), "invocation-failing", "in `error`"),
        (run(r#""id":"a"},{"op":"run","id":"a""#), "invocation-failing", r#"step "a""#),
        (run(r#""id":"a"},{"op":"run","id":"\u0061""#), "invocation-failing", r#"step "a""#),
        (
            r#"{"ops":[{"op":"sleep","id":"n","for":"1s"},{"op":"callback","id":"n"}]}"#.into(),
            "invocation-failing",
            r#"step "n""#,
        ),
        (run(r#""id":"a"},{"op":"sleep","id":"a","for":"1s""#), "mismatch", "a"),
        (r#"{"ops":{"op":"run","id":"a"}}"#.into(), "invocation-failing", "a list of ops"),
        (r#"{"ops":[null]}"#.into(), "invocation-failing", "ops[0]"),
        (r#"{"result":1,"await":"a"}"#.into(), "invocation-failing", "`result` and `await`"),
        (r#"{"result":1,"result":2}"#.into(), "invocation-failing", "given twice"),
        (
            r#"{"ops":[{"op":"callback","id":"c"}],"await":{"all":["c",{"any":["nobody"]}]}}"#
                .into(),
            "invocation-failing",
            "`nobody`",
        ),
        (r#"{"await":{"all":"c"}}"#.into(), "invocation-failing", "await tree"),
        (
            format!(
                r#"{{"await":{}"a"{}}}"#,
                r#"{"all":["#.repeat(DEEP / 10),
                "]}".repeat(DEEP / 10)
            ),
            "invocation-failing",
            "nests too deep",
        ),
        (
            run(&format!(r#""id":"deep","value":{}"#, deep(DEEP))),
            "answer-limit",
            r#"step "deep": the value nests deeper than 64"#,
        ),
        (
            run(&format!(r#""id":"deep","error":{{"data":{}}}"#, deep(DEEP))),
            "answer-limit",
            r#"step "deep": the error nests deeper"#,
        ),
        (format!(r#"{{"result":{}}}"#, deep(DEEP)), "answer-limit", "the result nests deeper"),
        (format!(r#"{{"strange":{}}}"#, deep(DEEP)), "invocation-failing", "strange"),
        (format!(r#"{{"ops":{}}}"#, deep(DEEP)), "invocation-failing", "ops[0]"),
        (deep(DEEP), "invocation-failing", "not a JSON object"),
        ("[".repeat(DEEP), "invocation-failing", "not a JSON object"),
        (format!(r#"{{"result":{}"#, "[".repeat(DEEP)), "invocation-failing", "not JSON"),
        (format!(r#"{{"ops":[{}{{}}]}}"#, "{},".repeat(60_000)), "answer-limit", "60001 ops"),
        (
            format!(r#"{{"ops":[{{"op":"sleep","id":"s","for":"{}"}}]}}"#, "9".repeat(100_000)),
            "invocation-failing",
            "not a duration",
        ),
        (format!(r#"{{"{}":1}}"#, "n".repeat(1 << 20)), "invocation-failing", "unknown field"),
    ];
    let answers: Vec<String> = cases.iter().map(|(answer, ..)| answer.clone()).collect();
    let bad = Handler::serve(move |it| {
        let n = it["input"].as_u64().expect("a number") as usize;
        Answer::Raw(answers[n].clone().into_bytes())
    })
    .await;
    register_bad(&g, &bad.url).await;
    let mut runs = Vec::new();
    for (n, (answer, code, named)) in cases.iter().enumerate() {
        let shown: String = answer.chars().take(120).collect();
        let run = g.run("bad", json!({"input": n})).await;
        let status = if *code == "invocation-failing" { "retrying" } else { "paused" };
        let view = g.status(&run, status).await;
        let attention = &view["attention"];
        assert_eq!(attention["code"], *code, "{shown}: {attention}");
        let detail = attention["detail"].as_str().expect("words");
        let told = format!("{detail} {}", attention["got"].as_str().unwrap_or_default());
        assert!(told.contains(named), "{shown}: {told}");
        assert!(detail.len() < 1_000, "{shown}: {} bytes are said", detail.len());
        assert_eq!(view["steps"], json!({"settled": 0, "pending": 0}), "{shown}: {view}");
        assert_eq!(g.journal(&run).await, Vec::<Value>::new(), "{shown}");
        runs.push(run);
    }
    others_are_well(&g).await;
    // Mended, every one of them goes on.
    bad.now(|_| json!({"result": "mended"}));
    for run in &runs {
        let act = if g.get(&format!("/v1/runs/{run}")).await["status"] == "paused" {
            "resume"
        } else {
            "retry-now"
        };
        g.post(&format!("/v1/runs/{run}/{act}"), json!({})).await;
        assert_eq!(g.status(run, "completed").await["output"], "mended");
    }
    g.close().await;
}

/// Serves answers that no test handler gives: never ending ones, packed ones.
async fn serve(answer: fn() -> Response) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    let app = axum::Router::new().fallback(move || async move { answer() });
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

// P3.29, P3.31, P9.6
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_never_end_or_are_packed_are_bounded_and_named() {
    fn endless(piece: &'static [u8]) -> Response {
        let pieces = futures::stream::repeat_with(move || {
            Ok::<_, std::io::Error>(Bytes::from_static(piece))
        });
        Body::from_stream(pieces).into_response()
    }
    fn broken() -> Response {
        let pieces = [Ok(Bytes::from_static(b"{\"ops\":[")), Err(std::io::Error::other("gone"))];
        Body::from_stream(futures::stream::iter(pieces)).into_response()
    }
    // Ten MiB of zeros, packed into ten KiB and packed again, is what a bomb is like.
    fn bomb() -> Response {
        let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
        let body = [&head[..], &[0u8; 10_000]].concat();
        ([("content-encoding", "gzip"), ("content-type", "application/json")], body).into_response()
    }
    for (answer, status, code, named) in [
        ((|| endless(&[b' '; 65_536])) as fn() -> Response, "paused", "answer-limit", "16777216"),
        (
            || endless(b"{\"ops\":[{\"op\":\"run\",\"id\":\"a\"},"),
            "paused",
            "answer-limit",
            "16777216",
        ),
        (broken, "retrying", "invocation-failing", ""),
        (bomb, "retrying", "invocation-failing", "gzip"),
    ] {
        let g = Gateway::start().await;
        let _good = good(&g).await;
        register_bad(&g, &serve(answer).await).await;
        let run = g.run("bad", json!({})).await;
        others_are_well(&g).await;
        let view = g.status(&run, status).await;
        assert_eq!(view["attention"]["code"], code, "{view}");
        let detail = view["attention"]["detail"].as_str().expect("words");
        assert!(detail.contains(named), "{detail}");
        others_are_well(&g).await;
        g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
        g.close().await;
    }
}

// P2.17, P2.22, P2.25, P9.6
#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_sends_wrong_is_refused_by_name_and_harms_nobody() {
    let g = Gateway::start().await;
    let _good = good(&g).await;
    let waiting = Handler::serve(|it| {
        if settled(it, "cb") {
            return json!({"result": it["steps"]["cb"]["value"]});
        }
        json!({"ops": [{"op": "callback", "id": "cb"}], "await": "cb"})
    })
    .await;
    let body =
        json!({"name": "w", "url": waiting.url, "functions": [{"name": "w"}], "discover": false});
    g.post("/v1/endpoints", body).await;
    let run = g.run("w", json!({})).await;
    let other = g.run("w", json!({})).await;
    let it = g.invoked(&waiting, 1).await;
    let second = g.invoked(&waiting, 2).await;
    g.status(&run, "waiting").await;
    let callback = it["links"]["callback"].as_str().expect("a URL");
    let callback = callback.strip_prefix(&g.url).expect("ours").to_owned();
    let start = "/v1/functions/w/runs".to_owned();
    let signal = format!("/v1/runs/{run}/signals/go");
    let long = "x".repeat(300);
    let nested = |field: &str| format!(r#"{{"{field}":{}}}"#, deep(100_000));
    let padded = |size: usize| format!(r#""{}""#, "x".repeat(size));
    let mut cases: Vec<(String, String, u16, &str)> = vec![
        (start.clone(), "{".into(), 400, "malformed-json"),
        (start.clone(), "[1]".into(), 422, "invalid-request"),
        (start.clone(), r#"{"input":1,"inputs":2}"#.into(), 422, "invalid-request"),
        (start.clone(), r#"{"key":7}"#.into(), 422, "invalid-request"),
        (start.clone(), format!(r#"{{"key":"{long}"}}"#), 422, "invalid-request"),
        (start.clone(), r#"{"key":"a\u0000b"}"#.into(), 422, "invalid-request"),
        (start.clone(), nested("input"), 422, "invalid-request"),
        (start.clone(), format!(r#"{{"input":{}}}"#, padded(2 << 20)), 413, "payload-too-large"),
        (signal.clone(), nested("payload"), 422, "invalid-request"),
        (signal.clone(), format!(r#"{{"payload":{}}}"#, padded(2 << 20)), 413, "payload-too-large"),
        (format!("/v1/runs/{run}/signals/{long}"), "{}".into(), 400, "malformed-request"),
        (format!("/v1/runs/{run}/signals/a%00b"), "{}".into(), 400, "malformed-request"),
        (format!("{callback}cb"), "{".into(), 400, "malformed-json"),
        (format!("{callback}cb"), deep(100_000), 422, "invalid-request"),
        (format!("{callback}cb"), padded(5 << 20), 413, "payload-too-large"),
        (format!("{callback}{long}"), "1".into(), 400, "malformed-request"),
        (format!("{callback}a%0ab"), "1".into(), 400, "malformed-request"),
        (format!("{callback}cb?outcome=error"), "7".into(), 422, "invalid-request"),
    ];
    let mut wrong = Vec::new();
    for (path, body, status, code) in cases.drain(..) {
        let shown: String = format!("{path} {body}").chars().take(160).collect();
        let (got, _, text) = g.raw("POST", &path, &[], Some(body)).await;
        let problem: Value = serde_json::from_slice(&text).unwrap_or(Value::Null);
        if (got, problem["code"].as_str()) != (status, Some(code)) {
            wrong.push(format!("{shown}: {got} {problem}"));
        }
        assert!(text.len() < 4_000, "{shown}: {} bytes are said", text.len());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What is packed is not unpacked.
    let headers = [("content-encoding", "gzip")];
    let (status, _, text) = g.raw("POST", &start, &headers, Some("\u{1f}x".to_owned())).await;
    assert_eq!(status, 415, "{text:?}");
    // A token opens its own run in its own epoch, and nothing else.
    let token = |it: &Value| format!("Bearer {}", it["token"].as_str().expect("text"));
    let theirs = if it["run"]["id"] == *run { token(&second) } else { token(&it) };
    let journal = format!("/v1/runs/{run}/journal");
    for token in
        [theirs, "Bearer ".to_owned(), format!("Bearer {}", "A".repeat(80)), "Bearer ü".to_owned()]
    {
        let (status, _, text) = g.raw("GET", &journal, &[("authorization", &token)], None).await;
        let problem: Value = serde_json::from_slice(&text).expect("a problem");
        assert_eq!(status, 401, "{token}: {problem}");
    }
    // Settled twice: the first outcome stays.
    let settle = async |body: &str| {
        g.raw("POST", &format!("{callback}cb"), &[], Some(body.to_owned())).await.0
    };
    let which = if it["run"]["id"] == *run { (&run, &other) } else { (&other, &run) };
    assert_eq!((settle("1").await, settle("2").await, settle("1").await), (204, 410, 204));
    assert_eq!(g.status(which.0, "completed").await["output"], 1);
    g.status(which.1, "waiting").await;
    others_are_well(&g).await;
    g.advance(Duration::from_secs(1));
    g.post(&format!("/v1/runs/{}/terminate", which.1), json!({})).await;
    g.close().await;
}
