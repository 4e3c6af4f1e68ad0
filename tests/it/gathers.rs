//! Starts that are gathered: which are one run, when it begins, and that each is in it once.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::gateway::{Gateway, Handler};

/// A handler whose runs end with their input.
async fn echo() -> Handler {
    Handler::serve(|it| json!({"result": it["input"]})).await
}

async fn gathering(handler: &Handler, functions: Value) -> Gateway {
    let g = Gateway::start().await;
    g.register(handler, functions).await;
    g
}

/// Starts with this input as it is; gives the run.
async fn start(g: &Gateway, headers: &[(&str, &str)], input: &str) -> (u16, Value) {
    let body = Some(format!("{{\"input\": {input}}}"));
    let (status, _, body) = g.raw("POST", "/v1/functions/f/runs", headers, body).await;
    (status, serde_json::from_slice(&body).expect("JSON"))
}

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_begins_when_it_is_full_with_every_input_as_it_came() {
    let handler = echo().await;
    let gather = json!({"size": 3, "timeout": "1h", "key": "input.tenant"});
    let g = gathering(&handler, json!([{"name": "f", "gather": gather}])).await;
    let inputs = [
        r#"{"tenant": "a", "n": 3544790567247868102}"#,
        r#"{"tenant":"a","n":1.0}"#,
        r#"{ "tenant" : "a" }"#,
    ];
    let (status, first) = start(&g, &[], inputs[0]).await;
    assert_eq!((status, &first["status"]), (202, &json!("scheduled")), "{first}");
    let (_, other) = start(&g, &[], r#"{"tenant": "b"}"#).await;
    assert_ne!(id(&first), id(&other));
    // The same request again is the same start.
    let key = [("idempotency-key", "once")];
    for _ in 0..2 {
        let (_, second) = start(&g, &key, inputs[1]).await;
        assert_eq!(id(&second), id(&first));
        let said = &second["attention"];
        assert_eq!(said["code"], "gathering", "{second}");
        let detail = said["detail"].as_str().unwrap_or_default();
        assert!(detail.starts_with("It has 2 starts so far,"), "{second}");
    }
    let (status, reused) = start(&g, &key, inputs[2]).await;
    assert_eq!((status, &reused["code"]), (422, &json!("idempotency-key-reused")));
    assert_eq!(handler.count(), 0);
    let (_, third) = start(&g, &[], inputs[2]).await;
    assert_eq!(id(&third), id(&first));
    g.status(id(&first), "completed").await;
    let (_, _, shown) = g.raw("GET", &format!("/v1/runs/{}", id(&first)), &[], None).await;
    let shown = String::from_utf8(shown.to_vec()).expect("UTF-8");
    let all = format!("[{}]", inputs.join(","));
    assert!(shown.contains(&format!("\"input\":{all}")), "{shown}");
    // It is full: who comes now is of another run.
    let (_, fourth) = start(&g, &[], inputs[2]).await;
    assert_ne!(id(&fourth), id(&first));
    g.advance(Duration::from_mins(61));
    for run in [&fourth, &other] {
        let view = g.status(id(run), "completed").await;
        assert_eq!(view["output"].as_array().map(Vec::len), Some(1), "{view}");
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_gathered_and_who_is_started_otherwise_is_alone() {
    let handler = Handler::serve(|it| match it["function"].as_str() {
        Some("f") => json!({"result": it["input"]}),
        _ if it["steps"]["c"].is_null() => {
            json!({"ops": [{"op": "invoke", "id": "c", "function": "f", "input": 7}], "await": "c"})
        }
        _ => json!({"result": it["steps"]["c"]["value"]}),
    })
    .await;
    let functions = json!([
        {"name": "parent"},
        {"name": "f", "gather": {"size": 4, "timeout": "1m"}, "triggers": [{"event": "order"}]}]);
    let g = gathering(&handler, functions).await;
    let events: Vec<Value> = (0..6).map(|n| json!({"name": "order", "data": n})).collect();
    let sent = g.post("/v1/events", json!(events)).await;
    let sent: BTreeSet<&str> = sent["data"].as_array().expect("a list").iter().map(id).collect();
    g.invoked(&handler, 1).await;
    g.eventually("all are routed", async |g| {
        g.advance(Duration::from_mins(2));
        handler.count() == 2
    })
    .await;
    let got = handler.invocations();
    let lists: Vec<&Vec<Value>> = got.iter().filter_map(|it| it["input"].as_array()).collect();
    assert_eq!(lists[0].len(), 4, "{got:?}");
    let seen: BTreeSet<&str> = lists.iter().flat_map(|list| list.iter().map(id)).collect();
    assert_eq!(seen, sent, "each once");
    // What an event came to can be looked up.
    let event = lists[1][0]["id"].as_str().expect("an id");
    let event = g.get(&format!("/v1/events/{event}")).await;
    assert_eq!(event["matches"][0]["run"], got[1]["run"]["id"], "{event}");
    // A child is of its parent, and a run that is done again has its input already.
    let parent = g.run("parent", json!({})).await;
    assert_eq!(g.status(&parent, "completed").await["output"], json!([7]));
    let first = got[0]["run"]["id"].as_str().expect("an id");
    let again = g.post(&format!("/v1/runs/{first}/rerun"), json!({})).await;
    assert_eq!(g.status(id(&again), "completed").await["output"], got[0]["input"]);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_begins_another_and_what_is_of_one_start_is_refused() {
    let handler = echo().await;
    let functions = json!([{"name": "f", "gather": {"size": 9, "timeout": "1h"}}]);
    let g = gathering(&handler, functions).await;
    let long = format!("\"{}\"", "x".repeat(600 << 10));
    let (_, first) = start(&g, &[], &long).await;
    let (_, second) = start(&g, &[("idempotency-key", "second")], &long).await;
    assert_ne!(id(&first), id(&second));
    g.status(id(&first), "completed").await;
    assert_eq!(g.get(&format!("/v1/runs/{}", id(&second))).await["status"], "scheduled");
    for (field, body) in [
        ("key", json!({"key": "k"})),
        ("tags", json!({"tags": {"a": "b"}})),
        ("signal", json!({"signal": {"name": "s"}})),
        ("on_complete", json!({"on_complete": [{"url": handler.url}]})),
    ] {
        let (status, code, problem) = g.refused("POST", "/v1/functions/f/runs", Some(body)).await;
        assert_eq!((status, code.as_str()), (422, "invalid-request"), "{problem}");
        assert!(problem.to_string().contains(&format!("/{field}")), "{problem}");
    }
    for beside in [
        json!({"debounce": {"period": "1s"}}),
        json!({"singleton": {}}),
        json!({"rate_limit": {"limit": 1, "period": "1s"}}),
        json!({"cancel_on": [{"event": "e"}]}),
        json!({"kind": "object"}),
    ] {
        let mut function = json!({"name": "g", "gather": {"size": 2, "timeout": "1s"}});
        function.as_object_mut().expect("one").extend(beside.as_object().expect("one").clone());
        let ask =
            json!({"name": "more", "url": handler.url, "functions": [function], "discover": false});
        let (status, _, problem) = g.refused("POST", "/v1/endpoints", Some(ask)).await;
        assert_eq!(status, 422, "{beside}: {problem}");
        assert!(problem.to_string().contains("gather"), "{problem}");
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_start_is_in_one_run_whichever_node_dies() {
    let handler = echo().await;
    let mut cluster = Cluster::start(2).await;
    let function = json!({"name": "f", "gather": {"size": 7, "timeout": "2s"}});
    cluster.register_functions(&handler.url, vec![function]).await;
    let mut acknowledged = BTreeSet::new();
    for n in 0..60 {
        if n == 30 {
            cluster.nodes[0].kill();
        }
        let (node, body) = (if n < 30 { n % 2 } else { 1 }, json!({"input": n}));
        let started =
            cluster.try_call(node, "POST", "/v1/functions/f/runs", Some(&body), None).await;
        if let Some((202, _)) = started {
            acknowledged.insert(n);
        }
    }
    assert!(acknowledged.len() >= 50, "{acknowledged:?}");
    let all_ended = async || {
        let (_, page) = cluster.call(1, "GET", "/v1/runs?limit=200", None).await;
        let runs = page["data"].as_array().expect("a list").clone();
        let ended = runs.iter().filter(|run| run["status"] == "completed").count();
        ended == runs.len() && ended >= acknowledged.len().div_ceil(7)
    };
    let mut found: Vec<usize> = Vec::new();
    cluster
        .eventually("all have run", async || {
            let mut runs = BTreeSet::new();
            for it in handler.invocations() {
                runs.insert((it["run"]["id"].to_string(), it["input"].to_string()));
            }
            let inputs = runs.iter().map(|(_, input)| input.parse::<Value>().expect("JSON"));
            let inputs: usize = inputs.map(|list| list.as_array().map_or(0, Vec::len)).sum();
            inputs >= acknowledged.len() && all_ended().await
        })
        .await;
    let mut runs = std::collections::BTreeMap::new();
    for it in handler.invocations() {
        runs.insert(it["run"]["id"].to_string(), it["input"].clone());
    }
    for list in runs.values() {
        let list = list.as_array().expect("a list");
        assert!(list.len() <= 7, "{list:?}");
        found.extend(list.iter().filter_map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())));
    }
    found.sort_unstable();
    let once: BTreeSet<usize> = found.iter().copied().collect();
    assert_eq!(once.len(), found.len(), "twice: {found:?}");
    assert!(once.is_superset(&acknowledged), "{found:?} of {acknowledged:?}");
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}
