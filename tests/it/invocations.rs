//! What went over the wire to an endpoint can be seen, at any node, without what gives power.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::gateway::{Answer, Gateway, Handler, settled};

const LIST: &str = "/v1/endpoints/test/invocations";

fn ended(invocation: &Value) -> String {
    let text = |name: &str| invocation[name].as_str().unwrap_or("none").to_owned();
    format!("{} {} {}", text("function"), invocation["status"], text("outcome"))
}

/// The invocations of the endpoint, when there are so many.
async fn invocations(g: &Gateway, count: usize) -> Vec<Value> {
    let listed = async |g: &Gateway| g.get(LIST).await["data"].as_array().expect("a list").clone();
    g.eventually("they are listed", async |g| listed(g).await.len() >= count).await;
    let all = listed(g).await;
    assert_eq!(all.len(), count, "{all:?}");
    all
}

async fn whole(g: &Gateway, invocation: &Value) -> Value {
    g.get(&format!("{LIST}/{}", invocation["id"].as_str().expect("an id"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_is_shown_as_it_went_over_the_wire() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({"result": {"exact": "ü"}})).await;
    let endpoint = json!({"name": "test", "url": handler.url, "headers": {"x-pass": "hunter2"},
        "functions": [{"name": "f"}], "discover": false});
    g.post("/v1/endpoints", endpoint).await;
    let before = g.get(LIST).await;
    assert_eq!((&before["data"], &before["invocations"]), (&json!([]), &json!(0)));
    assert_eq!((&before["p50_ms"], &before["unreached"]), (&Value::Null, &json!(0)));
    let run = g.run("f", json!({"input": {"big": 12_345_678_901_234_567_890_u64}})).await;
    g.status(&run, "completed").await;
    let all = invocations(&g, 1).await;
    assert_eq!((ended(&all[0]), &all[0]["run"]), ("f 200 answered".to_owned(), &json!(run)));
    assert_eq!((&all[0]["step"], &all[0]["detail"]), (&Value::Null, &Value::Null));
    let seen = g.get(LIST).await;
    assert_eq!(
        (&seen["invocations"], &seen["failed"], &seen["open"]),
        (&json!(1), &json!(0), &json!(0))
    );
    assert!(seen["p50_ms"].is_number() && seen["p95_ms"].is_number(), "{seen}");

    let whole = whole(&g, &all[0]).await;
    let (headers, body) = &handler.requests()[0];
    let sent = std::str::from_utf8(body).expect("text");
    let token = handler.invocations()[0]["token"].as_str().expect("a token").to_owned();
    let callback = handler.invocations()[0]["links"]["callback"].as_str().expect("one").to_owned();
    let secret = callback.trim_end_matches('/').rsplit('/').next().expect("a secret");
    let shown = sent.replace(&token, "…").replace(secret, "…");
    assert_eq!(whole["request"]["body"], json!(shown));
    assert_eq!(whole["request"]["bytes"], json!(body.len()));
    assert_eq!(whole["request"]["cut"], json!(false));
    assert_eq!(whole["request"]["headers"]["webhook-id"], whole["id"]);
    assert_eq!(headers["x-pass"], "hunter2");
    assert_eq!(whole["request"]["headers"]["x-pass"], json!("(hidden)"));
    assert_eq!(whole["answer"]["body"], json!(r#"{"result":{"exact":"ü"}}"#));
    assert_eq!(whole["answer"]["headers"]["content-type"], json!("application/json"));
    for secret in ["hunter2", &token, secret] {
        assert!(!whole.to_string().contains(secret), "{secret} is in {whole}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_says_why_and_a_task_names_its_step() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["type"].as_str() {
        Some("task") => Answer::Json(json!({"value": 1})),
        _ if settled(it, "t") => Answer::Raw(b"<html>".to_vec()),
        _ => json!({"ops": [{"op": "task", "id": "t", "task": "work"}], "await": "t"}).into(),
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    g.run("f", json!({})).await;
    let all = invocations(&g, 3).await;
    let seen: Vec<String> = all.iter().map(ended).collect();
    assert_eq!(seen, ["f 200 failed", "f 200 answered", "f 200 answered"]);
    assert_eq!((&all[1]["step"], &all[0]["step"]), (&json!("t"), &Value::Null));
    let detail = all[0]["detail"].as_str().expect("words");
    assert!(detail.starts_with("malformed answer"), "{detail}");
    assert_eq!(whole(&g, &all[0]).await["answer"]["body"], json!("<html>"));
    handler.now(|_| Answer::Status(503, vec![("set-cookie", "s=1".to_owned())], "x".repeat(9_000)));
    g.advance(Duration::from_mins(2));
    let all = invocations(&g, 4).await;
    assert_eq!(ended(&all[0]), "f 503 failed");
    let answer = &whole(&g, &all[0]).await["answer"];
    assert_eq!((&answer["bytes"], &answer["cut"]), (&json!(9_000), &json!(true)));
    assert_eq!(answer["body"], json!("x".repeat(8 << 10)));
    assert_eq!(answer["headers"]["set-cookie"], json!("(hidden)"));
    let seen = g.get(LIST).await;
    assert_eq!((&seen["invocations"], &seen["failed"]), (&json!(4), &json!(2)));
    assert_eq!(seen["minutes"].as_array().expect("a list").len(), 2, "{}", seen["minutes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_erased_is_not_shown_and_what_is_unknown_is_not_found() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({"result": "ada@example.com"})).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({"input": "ada@example.com"})).await;
    g.status(&run, "completed").await;
    let all = invocations(&g, 1).await;
    assert!(whole(&g, &all[0]).await.to_string().contains("ada@"));
    g.post(&format!("/v1/runs/{run}/erase"), json!({})).await;
    let erased = whole(&g, &all[0]).await;
    assert!(!erased.to_string().contains("ada@"), "{erased}");
    assert_eq!(
        (&erased["request"]["body"], &erased["answer"]["body"]),
        (&Value::Null, &Value::Null)
    );
    let (status, _) = g.call("DELETE", &format!("/v1/runs/{run}"), None).await;
    assert_eq!(status, 204);
    let gone = format!("{LIST}/{}", all[0]["id"].as_str().expect("an id"));
    for path in [&gone, &format!("{LIST}/inv_01jd0000000000000000000000"), &format!("{LIST}/x")] {
        let (status, problem) = g.call("GET", path, None).await;
        assert_eq!((status, &problem["code"]), (404, &json!("invocation-not-found")), "{problem}");
    }
    let (status, problem) = g.call("GET", "/v1/endpoints/other/invocations", None).await;
    assert_eq!((status, &problem["code"]), (404, &json!("endpoint-not-found")), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_shows_what_all_nodes_sent() {
    let handler = Handler::serve(|_| json!({"result": 1})).await;
    let mut cluster = Cluster::start(2).await;
    cluster.balanced().await;
    cluster.register(&handler.url, &["f"]).await;
    let mut runs = Vec::new();
    for n in 0..20 {
        let run = cluster.run(n % 2, "f", &json!({"input": n})).await;
        cluster.status(0, &run, "completed").await;
        runs.push(json!(run));
    }
    for node in 0..2 {
        let listed = async || cluster.call(node, "GET", LIST, None).await.1;
        cluster.eventually("all are listed", async || listed().await["invocations"] == 20).await;
        let all = listed().await;
        let of: Vec<&Value> = all["data"].as_array().expect("a list").iter().collect();
        assert!(of.is_sorted_by(|a, b| a["at"].as_str() >= b["at"].as_str()), "newest first");
        assert!(runs.iter().all(|run| of.iter().any(|i| i["run"] == *run)), "{all}");
        assert_eq!((of.len(), &all["unreached"]), (20, &json!(0)));
        for invocation in of {
            let path = format!("{LIST}/{}", invocation["id"].as_str().expect("an id"));
            let (status, whole) = cluster.call(node, "GET", &path, None).await;
            assert_eq!((status, &whole["run"]), (200, &invocation["run"]), "{whole}");
            assert_eq!(whole["answer"]["body"], json!(r#"{"result":1}"#));
        }
    }
    cluster.nodes[1].kill();
    let here = cluster.call(0, "GET", LIST, None).await.1;
    let count = here["invocations"].as_u64().expect("a count");
    assert!((1..20).contains(&count), "each node has driven some: {count}");
    assert_eq!(here["unreached"], json!(1), "a node that was there a moment ago");
}
