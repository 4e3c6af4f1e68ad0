//! The same request twice: idempotency keys, and run keys under every policy.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{Gateway, Handler};

const START: &str = "/v1/functions/f/runs";

async fn start(g: &Gateway, key: &str, body: &str) -> (u16, bool, Value) {
    let headers = [("idempotency-key", key)];
    let (status, headers, text) = g.raw("POST", START, &headers, Some(body.to_owned())).await;
    let replayed = headers.get("idempotent-replayed").is_some_and(|v| v == "true");
    (status, replayed, serde_json::from_slice(&text).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_start_again_is_the_same_run() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| json!({"result": it["input"]})).await;
    g.register(&handler, json!(["f", "other"])).await;
    let (status, replayed, first) = start(&g, "k", "{\"input\":1}").await;
    assert_eq!((status, replayed), (202, false));
    for key in ["k", "\"k\""] {
        let (status, replayed, again) = start(&g, key, "{\"input\":1}").await;
        assert_eq!((status, replayed, &again["id"]), (202, true, &first["id"]), "{key}");
    }
    for other in ["{\"input\":2}", "{\"input\": 1}", "{}"] {
        let (status, _, problem) = start(&g, "k", other).await;
        assert_eq!((status, &problem["code"]), (422, &json!("idempotency-key-reused")), "{other}");
    }
    let (_, replayed, other) = start(&g, "k2", "{\"input\":1}").await;
    assert!(!replayed && other["id"] != first["id"]);
    let headers = [("idempotency-key", "k")];
    let path = "/v1/functions/other/runs?wait=10s";
    let (status, headers, _) =
        g.raw("POST", path, &headers, Some("{\"input\":2}".to_owned())).await;
    assert_eq!(status, 200, "the key is bound to method and path");
    assert!(!headers.contains_key("idempotent-replayed"));
    g.status(first["id"].as_str().expect("an id"), "completed").await;
    let headers = [("idempotency-key", "k")];
    let (status, _, text) = g
        .raw("POST", &format!("{START}?wait=10s"), &headers, Some("{\"input\":1}".to_owned()))
        .await;
    let again: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!((status, &again["id"], &again["output"]), (200, &first["id"], &json!(1)));
    g.advance(Duration::from_secs(6 * 86_400));
    assert!(start(&g, "k", "{\"input\":1}").await.1, "known for at least a day");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_starts_at_once_with_one_key_are_one_run() {
    let g = Gateway::start().await;
    let wait = json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"});
    let handler = Handler::serve(move |_| wait.clone()).await;
    g.register(&handler, json!(["f"])).await;
    // By idempotency key.
    let all = (0..50).map(|_| start(&g, "k", "{\"input\":1}"));
    let answers = futures::future::join_all(all).await;
    let ids: BTreeSet<String> = answers.iter().map(|(_, _, run)| run["id"].to_string()).collect();
    assert!(answers.iter().all(|(status, ..)| *status == 202), "{answers:?}");
    assert_eq!(ids.len(), 1);
    assert_eq!(answers.iter().filter(|(_, replayed, _)| !replayed).count(), 1);
    // By run key.
    let body = json!({"key": "order", "if_running": "use_existing"});
    let all = (0..50).map(|_| g.run("f", body.clone()));
    let ids: BTreeSet<String> = futures::future::join_all(all).await.into_iter().collect();
    assert_eq!(ids.len(), 1);
    let all = (0..50).map(|_| g.call("POST", START, Some(json!({"key": "fail"}))));
    let answers = futures::future::join_all(all).await;
    let won = answers.iter().filter(|(status, _)| *status == 202).count();
    let lost: Vec<_> = answers.iter().filter(|(status, _)| *status == 409).collect();
    assert_eq!((won, lost.len()), (1, 49), "{answers:?}");
    assert!(lost.iter().all(|(_, p)| p["code"] == "run-exists" && p["run"].is_string()));
    let listed = g.get("/v1/runs?limit=200").await;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(3));
    g.close().await;
}

/// Brings about a run of a key in a state, or none.
async fn holder(g: &Gateway, key: &str, state: &str) -> Option<String> {
    if state == "none" {
        return None;
    }
    let run = g.run("f", json!({"key": key, "input": state})).await;
    match state {
        "running" => drop(g.status(&run, "waiting").await),
        "terminated" => drop(g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await),
        "cancelled" => {
            g.status(&run, "waiting").await;
            g.post(&format!("/v1/runs/{run}/cancel"), json!({})).await;
            g.status(&run, "cancelled").await;
        }
        ended => drop(g.status(&run, ended).await),
    }
    Some(run)
}

#[tokio::test(flavor = "multi_thread")]
async fn run_keys_follow_the_table_of_policies() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["input"].as_str() {
        _ if !it["cancel"].is_null() => json!({"result": "undone"}),
        Some("completed") => json!({"result": 1}),
        Some("failed") => json!({"error": {"type": "E", "message": "m"}}),
        _ => json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"}),
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    for state in ["none", "running", "completed", "failed", "terminated", "cancelled"] {
        for if_running in ["fail", "use_existing", "cancel_existing", "terminate_existing"] {
            for if_closed in ["allow", "allow_if_failed", "reject"] {
                let name = format!("{state}, {if_running}, {if_closed}");
                let before = holder(&g, &name, state).await;
                let body = json!({"key": name, "if_running": if_running, "if_closed": if_closed});
                let (status, answer) = g.call("POST", START, Some(body)).await;
                let new = match (state, if_running, if_closed) {
                    ("none", ..) => true,
                    ("running", "fail" | "use_existing", _) => false,
                    // The old run is ended, and then it is a closed one.
                    ("running", _, "reject") => false,
                    ("running", ..) => true,
                    (_, _, "reject") | ("completed", _, "allow_if_failed") => false,
                    _ => true,
                };
                let id = answer["id"].as_str().map(str::to_owned);
                if new {
                    assert_eq!(status, 202, "{name}: {answer}");
                    assert_ne!(id, before, "{name}");
                } else if state == "running" && if_running == "use_existing" {
                    assert_eq!((status, id), (202, before.clone()), "{name}: {answer}");
                } else {
                    assert_eq!((status, &answer["code"]), (409, &json!("run-exists")), "{name}");
                    assert_eq!(answer["run"].as_str(), before.as_deref(), "{name}: {answer}");
                }
                if let (Some(before), "running", true) = (&before, state, new) {
                    let ended = g.get(&format!("/v1/runs/{before}")).await["status"].clone();
                    let expected =
                        if if_running == "cancel_existing" { "cancelled" } else { "terminated" };
                    assert_eq!(ended, expected, "{name}");
                }
            }
        }
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_and_an_idempotency_key_together_are_looked_at_in_this_order() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({"result": 1})).await;
    g.register(&handler, json!(["f"])).await;
    let (_, _, first) = start(&g, "i", "{\"key\":\"k\"}").await;
    let (status, replayed, again) = start(&g, "i", "{\"key\":\"k\"}").await;
    assert_eq!((status, replayed, &again["id"]), (202, true, &first["id"]), "not `run-exists`");
    let (status, _, problem) = start(&g, "i", "{\"key\":\"other\"}").await;
    assert_eq!((status, &problem["code"]), (422, &json!("idempotency-key-reused")));
    g.close().await;
}
