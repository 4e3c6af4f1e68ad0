//! Callbacks: settled from outside, early or late, once; the address is the credential.

use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{Gateway, Handler, settled};

/// Asks for a callback step and ends with what it came to. The input is the op's further fields.
fn asking(it: &Value) -> Value {
    let id = it["input"]["id"].as_str().unwrap_or("cb").to_owned();
    if settled(it, &id) {
        return json!({"result": it["steps"][&id]});
    }
    let mut op = json!({"op": "callback", "id": id});
    for field in ["timeout", "heartbeat"] {
        if let Some(value) = it["input"].get(field) {
            op[field] = value.clone();
        }
    }
    json!({"ops": [op], "await": id})
}

struct Asked<'a> {
    g: &'a Gateway,
    run: String,
    path: String,
}

impl Asked<'_> {
    /// Settles the step; the status, and the problem where there is one.
    async fn settle(&self, step: &str, body: &str) -> (u16, Value) {
        let path = format!("{}{step}", self.path);
        let (status, _, text) = self.g.raw("POST", &path, &[], Some(body.to_owned())).await;
        (status, serde_json::from_slice(&text).unwrap_or(Value::Null))
    }

    async fn ended(&self) -> Value {
        self.g.status(&self.run, "completed").await["output"].clone()
    }
}

/// A run that waits for its callback.
async fn asked<'a>(g: &'a Gateway, handler: &Handler, input: Value) -> Asked<'a> {
    let before = handler.count();
    let run = g.run("f", json!({"input": input})).await;
    let it = g.invoked(handler, before + 1).await;
    g.status(&run, "waiting").await;
    let callback = it["links"]["callback"].as_str().expect("a URL");
    let path = callback.strip_prefix(&g.url).expect("ours").to_owned();
    Asked { g, run, path }
}

async fn setup() -> (Gateway, Handler) {
    let g = Gateway::start().await;
    let handler = Handler::serve(asking).await;
    g.register(&handler, json!(["f"])).await;
    (g, handler)
}

// P2.18, P2.19, P5.12
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_takes_one_outcome_and_knows_it_again() {
    let (g, handler) = setup().await;
    let value = asked(&g, &handler, json!({})).await;
    let odd = r#"{"n": 3544790567247868102,  "f":1.0}"#;
    assert_eq!(value.settle("cb", odd).await.0, 204);
    value.ended().await;
    let (_, _, result) =
        g.raw("GET", &format!("/v1/runs/{}/values/cb", value.run), &[], None).await;
    assert_eq!(result, odd);
    assert_eq!(value.settle("cb", odd).await.0, 204, "the same again, also after the end");
    let (status, problem) = value.settle("cb", "1").await;
    assert_eq!((status, &problem["code"]), (410, &json!("already-settled")), "{problem}");
    assert_eq!(problem["recorded"]["value"]["f"], 1.0, "{problem}");
    let (status, _) = value.settle("cb?outcome=error", "{\"type\":\"E\"}").await;
    assert_eq!(status, 410);

    let error = asked(&g, &handler, json!({})).await;
    let body = r#"{"type":"Declined","message":"no","data":{"n":1.0}}"#;
    assert_eq!(error.settle("cb?outcome=error", body).await.0, 204);
    assert_eq!(error.ended().await["error"]["type"], "Declined");
    assert_eq!(error.settle("cb?outcome=error", body).await.0, 204);
    assert_eq!(error.settle("cb", "1").await.0, 410);
    g.close().await;
}

// P9.1
#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_wins_and_the_others_are_told() {
    let (g, handler) = setup().await;
    for _ in 0..5 {
        let it = asked(&g, &handler, json!({})).await;
        let bodies: Vec<String> = (0..12).map(|n| (n % 4).to_string()).collect();
        let answers = futures::future::join_all(bodies.iter().map(|b| it.settle("cb", b))).await;
        let won = it.ended().await["value"].to_string();
        for (body, (status, problem)) in bodies.iter().zip(answers) {
            let expected = if *body == won { 204 } else { 410 };
            assert_eq!(status, expected, "{body}, {won} won: {problem}");
        }
    }
    g.close().await;
}

// P2.23
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_the_ask_is_kept_and_not_shown() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "go") {
            asking(it)
        } else {
            json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"})
        }
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    for (suffix, body, shown) in [
        ("", "\"early\"", json!({"value": "early"})),
        (
            "?outcome=error",
            "{\"type\":\"E\",\"message\":\"early\"}",
            json!({"error": {"type": "E", "message": "early"}}),
        ),
    ] {
        let it = asked(&g, &handler, json!({})).await;
        assert_eq!(it.settle(&format!("cb{suffix}"), body).await.0, 204);
        assert_eq!(it.settle(&format!("cb{suffix}"), body).await.0, 204, "the same again");
        assert_eq!(it.settle("cb", "\"other\"").await.0, 410, "another one");
        let journal = g.journal(&it.run).await;
        assert!(journal.iter().all(|e| e["id"] != "cb"), "not asked for, not shown: {journal:?}");
        let count = handler.count();
        g.signal(&it.run, "go", json!(1)).await;
        let second = g.invoked(&handler, count + 1).await;
        assert!(second["steps"].get("cb").is_none(), "{second}");
        let mut output = it.ended().await;
        assert_eq!(output["seq"], 2);
        output.as_object_mut().expect("a step").retain(|k, _| k == "value" || k == "error");
        assert_eq!(output, shown);
    }
    g.close().await;
}

// P5.37
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_does_not_come_times_out_and_stays_so() {
    let (g, handler) = setup().await;
    for timeout in ["30s", "3h"] {
        let it = asked(&g, &handler, json!({"timeout": timeout})).await;
        g.advance(Duration::from_secs(29));
        g.status(&it.run, "waiting").await;
        g.advance(Duration::from_secs(if timeout == "30s" { 1 } else { 3 * 3600 }));
        assert_eq!(it.ended().await["error"]["type"], "timed-out", "{timeout}");
        let (status, problem) = it.settle("cb", "1").await;
        assert_eq!((status, &problem["code"]), (410, &json!("already-settled")), "{problem}");
    }
    g.close().await;
}

// P2.20, P5.12
#[tokio::test(flavor = "multi_thread")]
async fn signs_of_life_keep_a_callback_open_and_silence_ends_it() {
    let (g, handler) = setup().await;
    for (heartbeat, seconds) in [("30s", 30), ("5m", 300)] {
        let it = asked(&g, &handler, json!({"heartbeat": heartbeat})).await;
        for _ in 0..4 {
            g.advance(Duration::from_secs(seconds - 5));
            let (status, problem) = it.settle("cb?outcome=heartbeat", "").await;
            assert_eq!(status, 204, "{problem}");
            g.status(&it.run, "waiting").await;
        }
        g.advance(Duration::from_secs(seconds - 1));
        g.status(&it.run, "waiting").await;
        g.advance(Duration::from_secs(1));
        assert_eq!(it.ended().await["error"]["type"], "timed-out", "{heartbeat}");
        let (status, _) = it.settle("cb?outcome=heartbeat", "").await;
        assert_eq!(status, 410);
    }
    let bounded = asked(&g, &handler, json!({"heartbeat": "30s", "timeout": "50s"})).await;
    g.advance(Duration::from_secs(25));
    assert_eq!(bounded.settle("cb?outcome=heartbeat", "").await.0, 204);
    g.advance(Duration::from_secs(25));
    assert_eq!(bounded.ended().await["error"]["type"], "timed-out", "the time-out stands over it");
    g.close().await;
}

// P2.21, P2.22
#[tokio::test(flavor = "multi_thread")]
async fn forged_addresses_and_wrong_steps_are_refused() {
    let (g, handler) = setup().await;
    let it = asked(&g, &handler, json!({})).await;
    let secret = it.path.trim_start_matches("/v1/callbacks/").trim_end_matches('/');
    let mut forged = Vec::new();
    for i in [0, secret.len() / 2, secret.len() - 1] {
        let mut bytes = secret.as_bytes().to_vec();
        bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
        forged.push(String::from_utf8(bytes).expect("ASCII"));
    }
    forged.extend([secret[1..].to_owned(), "x".to_owned(), it.run.clone()]);
    for secret in forged {
        let path = format!("/v1/callbacks/{secret}/cb");
        let (status, code, _) = g.refused("POST", &path, Some(json!(1))).await;
        assert_eq!((status, &*code), (404, "callback-not-found"), "{secret}");
    }
    assert_eq!(it.settle("cb", "{not json").await.0, 400);
    assert_eq!(it.settle("cb", "").await.0, 400);
    assert_eq!(it.settle("cb?outcome=error", "1").await.0, 422);
    assert_eq!(it.settle("cb?outcome=maybe", "1").await.0, 400);
    g.status(&it.run, "waiting").await;
    assert_eq!(it.settle("cb", "1").await.0, 204);
    it.ended().await;
    let (status, problem) = it.settle("never-asked", "1").await;
    assert_eq!((status, &problem["code"]), (410, &json!("run-ended")));

    handler.now(|_| json!({"ops": [{"op": "sleep", "id": "nap", "for": "1h"}], "await": "nap"}));
    let nap = asked(&g, &handler, json!({})).await;
    let (status, problem) = nap.settle("nap", "1").await;
    assert_eq!((status, &problem["code"]), (409, &json!("not-a-callback")));
    g.close().await;
}

// P2.18, P2.26, P5.2
#[tokio::test(flavor = "multi_thread")]
async fn step_ids_with_slashes_and_more_are_addressed_raw_or_encoded() {
    let (g, handler) = setup().await;
    for (id, address) in [
        ("map/3/pay", "map/3/pay"),
        ("map/3/pay", "map%2F3%2Fpay"),
        ("a b%c?d#e", "a%20b%25c%3Fd%23e"),
        ("größe/名", "gr%C3%B6%C3%9Fe%2F%E5%90%8D"),
        ("name#2", "name%232"),
        ("a%2Fb", "a%252Fb"),
        ("constructor", "constructor"),
    ] {
        let it = asked(&g, &handler, json!({"id": id})).await;
        assert_eq!(it.settle(address, "1").await.0, 204, "{id} at {address}");
        assert_eq!(it.ended().await["value"], 1, "{id} at {address}");
        let run = &it.run;
        assert_eq!(g.get(&format!("/v1/runs/{run}/steps/{address}")).await["id"], id);
        assert_eq!(g.get(&format!("/v1/runs/{run}/values/{address}")).await, 1);
    }
    g.close().await;
}
