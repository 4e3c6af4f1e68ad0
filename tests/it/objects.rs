//! Objects: durable state under a key, changed by one run after the other.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::gateway::{Answer, Gateway, Handler, settled};

/// An account and who only looks at it.
fn bank() -> Value {
    let balance = json!({"name": "balance", "kind": "object", "shared": true, "object": "account"});
    json!([{"name": "account", "kind": "object"}, balance])
}

/// Adds the input to `balance`; the result is what was there before.
fn adds(it: &Value) -> Value {
    let before = it["object"]["state"]["balance"].as_i64().unwrap_or(0);
    let after = before + it["input"].as_i64().expect("an amount");
    json!({"ops": [{"op": "set", "key": "balance", "value": after}], "result": before})
}

async fn object(g: &Gateway, key: &str) -> Value {
    g.get(&format!("/v1/objects/account/{key}")).await
}

// P5.20, P8.13
#[tokio::test(flavor = "multi_thread")]
async fn runs_of_a_key_have_their_turns_and_what_they_set_is_seen_by_the_next() {
    let g = Gateway::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let handler = Handler::serve(move |it| Answer::held(&held, adds(it))).await;
    g.register(&handler, bank()).await;
    let start = |n: i64| json!({"input": n, "key": "a/1"});
    let mut runs = Vec::new();
    for n in 1..=4 {
        runs.push(g.run("account", start(n)).await);
    }
    let other = g.run("account", json!({"input": 9, "key": "b"})).await;
    g.invoked(&handler, 2).await;
    let first = handler.invocations().into_iter().find(|it| it["run"]["key"] == "a/1");
    let shown = first.expect("it is invoked")["object"].clone();
    assert_eq!(shown, json!({"key": "a/1", "state": {}}));
    // The others wait, and say for whom.
    for run in &runs[1..] {
        let view = g.status(run, "queued").await;
        assert_eq!(view["attention"]["code"], "object-busy", "{view}");
        let detail = view["attention"]["detail"].as_str().expect("text");
        assert!(detail.contains(&runs[0]), "{detail}");
    }
    let view = object(&g, "a%2F1").await;
    assert_eq!((&view["holder"], &view["waiting"]), (&json!(runs[0]), &json!(3)), "{view}");
    assert_eq!(view["state"], json!({}), "nobody sees what is not published");
    assert_eq!(handler.count(), 2, "one of each key");
    // A signal to one that waits is kept, and one that is cancelled leaves the queue.
    g.signal(&runs[1], "note", json!(1)).await;
    g.post(&format!("/v1/runs/{}/cancel", runs[2]), json!({})).await;
    g.status(&runs[2], "cancelled").await;
    assert_eq!(object(&g, "a%2F1").await["waiting"], 2);
    gate.add_permits(100);
    g.status(&other, "completed").await;
    for (run, before) in [(&runs[0], 0), (&runs[1], 1), (&runs[3], 3)] {
        assert_eq!(g.status(run, "completed").await["output"], before, "in their order");
    }
    let second = handler.invocations().into_iter().find(|it| it["run"]["id"] == runs[1]);
    assert_eq!(second.expect("it was invoked")["inbox"], json!({"note": 1}));
    let view = object(&g, "a%2F1").await;
    assert_eq!((&view["state"], &view["holder"]), (&json!({"balance": 7}), &json!(null)));
    assert_eq!(object(&g, "b").await["state"], json!({"balance": 9}));
    let list = g.get("/v1/objects/account").await["data"].clone();
    let list: Vec<_> = list.as_array().expect("a list").iter().map(|o| &o["key"]).collect();
    assert_eq!(list, ["a/1", "b"]);
    g.close().await;
}

// P5.20
#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_changes_is_its_own_until_it_completes() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if it["function"] == "balance" {
            return json!({"result": it["object"]["state"]});
        }
        let state = &it["object"]["state"];
        match (it["input"].as_str().expect("text"), it["steps"].get("go")) {
            ("first", _) => json!({"ops": [
                {"op": "set", "key": "kept", "value": {"n": 1}},
                {"op": "set", "key": "gone", "value": null},
            ], "result": 1}),
            (_, None) => json!({"ops": [
                {"op": "set", "key": "kept", "value": 2},
                {"op": "unset", "key": "gone"},
                {"op": "set", "key": "new", "value": [1]},
                {"op": "signal", "id": "go", "name": "go"}], "await": "go"}),
            (_, Some(_)) if state != &json!({"kept": 2, "new": [1]}) => {
                json!({"error": {"type": "Lost", "message": state.to_string()}})
            }
            ("fails", _) => json!({"error": {"type": "No", "message": "m"}}),
            ("continues", _) if it["run"]["generation"] == 1 => {
                json!({"continue": {"input": "ends"}})
            }
            _ => json!({"result": 1}),
        }
    })
    .await;
    g.register(&handler, bank()).await;
    let before = json!({"kept": {"n": 1}, "gone": null});
    let first = g.run("account", json!({"input": "first", "key": "k"})).await;
    g.status(&first, "completed").await;
    let reads = async || {
        let run = g.run("balance", json!({"key": "k"})).await;
        g.status(&run, "completed").await["output"].clone()
    };
    for (input, end) in [("fails", "failed"), ("waits", "cancelled"), ("waits", "terminated")] {
        let run = g.run("account", json!({"input": input, "key": "k"})).await;
        g.status(&run, "waiting").await;
        // Who reads does not wait, and sees what was published.
        assert_eq!(reads().await, before, "{end}");
        match end {
            "failed" => g.signal(&run, "go", json!(1)).await,
            "cancelled" => {
                g.post(&format!("/v1/runs/{run}/cancel"), json!({"grace": "1s"})).await;
                g.advance(Duration::from_secs(2));
            }
            _ => drop(g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await),
        }
        g.status(&run, end).await;
        assert_eq!(object(&g, "k").await["state"], before, "{end}: dropped");
        // What it was told to change it will not change again.
        let (status, code, problem) =
            g.refused("POST", &format!("/v1/runs/{run}/rewind"), Some(json!({}))).await;
        assert_eq!((status, code.as_str()), (409, "invalid-state"), "{problem}");
    }
    let run = g.run("account", json!({"input": "continues", "key": "k"})).await;
    g.status(&run, "waiting").await;
    g.signal(&run, "go", json!(1)).await;
    let published = json!({"kept": 2, "new": [1]});
    g.eventually("the generation's end publishes", async |g| {
        object(g, "k").await["state"] == published
    })
    .await;
    g.status(&run, "waiting").await;
    assert_eq!(object(&g, "k").await["holder"], run, "it is its object still");
    assert_eq!(reads().await, published);
    g.close().await;
}

// P5.20, P8.13
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_meaning_with_an_object_is_refused_by_name() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let big = "x".repeat(it["input"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or(1));
        json!({"ops": [{"op": "set", "key": "f", "value": big}], "result": 1})
    })
    .await;
    let mut functions = bank();
    functions.as_array_mut().expect("a list").push(json!("plain"));
    g.register(&handler, functions).await;
    for (body, pointer) in [
        (json!({}), "#/key"),
        (json!({"key": "k", "if_running": "use_existing"}), "#/if_running"),
        (json!({"key": "k", "delay": "1s"}), "#/start_at"),
    ] {
        let (status, code, problem) =
            g.refused("POST", "/v1/functions/account/runs", Some(body)).await;
        assert_eq!((status, code.as_str()), (422, "invalid-request"), "{problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    let body = json!({"name": "s", "function": "account", "cron": "0 9 * * *"});
    let (status, _, problem) = g.refused("POST", "/v1/schedules", Some(body)).await;
    assert_eq!(
        (status, &problem["errors"][0]["pointer"]),
        (422, &json!("#/function")),
        "{problem}"
    );
    for (function, n, code) in [
        ("balance", 1, "object-read-only"),
        ("plain", 1, "no-object"),
        ("account", (1 << 20) + 1, "object-limit"),
    ] {
        let run = g.run(function, json!({"input": n, "key": "k"})).await;
        let attention = g.status(&run, "paused").await["attention"].clone();
        assert_eq!(attention["code"], code, "{attention}");
        let detail = attention["detail"].as_str().expect("text");
        assert!(detail.contains("Nothing of"), "{detail}");
        g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
        g.status(&run, "terminated").await;
    }
    for function in ["balance", "plain"] {
        let path = format!("/v1/objects/{function}/k");
        let (status, code, problem) = g.refused("GET", &path, None).await;
        assert_eq!((status, code.as_str()), (404, "not-an-object"), "{problem}");
    }
    g.close().await;
}

// P8.13
#[tokio::test(flavor = "multi_thread")]
async fn operators_write_to_an_object_that_nobody_has() {
    let g = Gateway::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let handler = Handler::serve(move |it| Answer::held(&held, adds(it))).await;
    g.register(&handler, bank()).await;
    let path = "/v1/objects/account/k";
    let put = async |tag: Option<&str>, state: &str| {
        let headers: Vec<(&str, &str)> = tag.map(|tag| ("if-match", tag)).into_iter().collect();
        let body = format!(r#"{{"state": {state}}}"#);
        let (status, headers, text) = g.raw("PUT", path, &headers, Some(body)).await;
        let tag = headers.get("etag").map(|tag| tag.to_str().expect("text").to_owned());
        let body: Value = serde_json::from_slice(&text).expect("JSON");
        (status, body["code"].clone(), tag)
    };
    let (_, headers, _) = g.raw("GET", path, &[], None).await;
    let empty = headers["etag"].to_str().expect("text").to_owned();
    assert_eq!(put(None, "{}").await.1, "precondition-required");
    let (status, _, tag) = put(Some(&empty), r#"{"balance":  5, "x": null}"#).await;
    assert_eq!(status, 200);
    let tag = tag.expect("a version");
    let (status, code, _) = put(Some(&empty), "{}").await;
    assert_eq!((status, code), (412, json!("precondition-failed")));
    let headers = [("if-none-match", tag.as_str())];
    assert_eq!(g.raw("GET", path, &headers, None).await.0, 304);
    assert_eq!(put(Some("*"), r#"{"": 1}"#).await.0, 422);

    let run = g.run("account", json!({"input": 2, "key": "k"})).await;
    g.invoked(&handler, 1).await;
    let (status, code, _) = put(Some("*"), "{}").await;
    assert_eq!((status, code), (409, json!("object-busy")), "it works with what it was given");
    gate.add_permits(1);
    assert_eq!(g.status(&run, "completed").await["output"], 5);
    assert_eq!(g.get(path).await["state"], json!({"balance": 7, "x": null}));
    assert_eq!(put(Some(&tag), "{}").await.0, 412, "the run has changed it");
    assert_eq!(put(Some("*"), "{}").await.0, 200);
    assert_eq!(g.get("/v1/objects/account").await["data"], json!([]), "emptied, it is gone");
    g.close().await;
}

// P8.13
#[tokio::test(flavor = "multi_thread")]
async fn runs_call_objects_and_send_to_who_has_them() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["function"].as_str() {
        Some("account") if it["input"] == "waits" => {
            if settled(it, "go") {
                return json!({"result": it["steps"]["go"]["value"]});
            }
            json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"})
        }
        Some("account") => adds(it),
        _ if !settled(it, "a") => json!({"ops": [
            {"op": "invoke", "id": "a", "function": "account", "key": "k", "input": 1},
            {"op": "invoke", "id": "b", "function": "account", "key": "k", "input": 2},
            {"op": "send", "id": "s", "function": "account", "key": "k", "signal": "go", "payload": 7},
            {"op": "invoke", "id": "no", "function": "account", "input": 2},
        ], "await": {"settled": ["a", "b", "s", "no"]}}),
        _ => json!({"result": it["steps"]}),
    })
    .await;
    let mut functions = bank();
    functions.as_array_mut().expect("a list").push(json!("parent"));
    g.register(&handler, functions).await;
    let waits = g.run("account", json!({"input": "waits", "key": "k"})).await;
    g.status(&waits, "waiting").await;
    let parent = g.run("parent", json!({})).await;
    assert_eq!(g.status(&waits, "completed").await["output"], 7, "who has it got the signal");
    let steps = g.status(&parent, "completed").await["output"].clone();
    assert_eq!((&steps["a"]["value"], &steps["b"]["value"]), (&json!(0), &json!(1)), "{steps}");
    assert_eq!(steps["no"]["error"]["type"], "start-refused", "{steps}");
    let path = "/v1/functions/account/keys/k/signals/go";
    assert_eq!(g.refused("POST", path, Some(json!({}))).await.0, 404, "nobody has it");
    g.close().await;
}

// P8.13
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_may_time_out_and_who_has_failed_may_have_it_again() {
    let g = Gateway::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let handler = Handler::serve(move |it| {
        let never = json!({"type": "No", "message": "m", "retry": "never"});
        match it["input"].as_str() {
            Some("fails") if it["invocation"]["reason"] == "start" => {
                Answer::Json(json!({"error": never}))
            }
            Some("fails") => Answer::Json(json!({"result": "mended"})),
            _ => Answer::held(&held, json!({"result": 1})),
        }
    })
    .await;
    g.register(&handler, bank()).await;
    let failed = g.run("account", json!({"input": "fails", "key": "k"})).await;
    g.status(&failed, "failed").await;
    let first = g.run("account", json!({"key": "k"})).await;
    g.invoked(&handler, 2).await;
    let rewind = format!("/v1/runs/{failed}/rewind");
    let (status, code, _) = g.refused("POST", &rewind, Some(json!({}))).await;
    assert_eq!((status, code.as_str()), (409, "run-exists"), "another one has it");
    let brief = g.run("account", json!({"key": "k", "timeouts": {"run": "20s"}})).await;
    g.status(&brief, "queued").await;
    g.advance(Duration::from_secs(21));
    g.status(&brief, "timed_out").await;
    assert_eq!(object(&g, "k").await["waiting"], 0);
    gate.add_permits(1);
    g.status(&first, "completed").await;
    g.post(&rewind, json!({})).await;
    assert_eq!(g.status(&failed, "completed").await["output"], "mended");
    assert_eq!(object(&g, "k").await["holder"], json!(null));
    g.close().await;
}
