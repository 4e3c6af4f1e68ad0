//! What the documentation shows is run as it stands there.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::gateway::{Gateway, Handler, SECRET};

const HOOKS: &str = include_str!("../../docs/webhooks.md");
const PAGE: &str = include_str!("../../docs/objects.md");

// P8.13
#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_of_the_page_about_objects_add_up() {
    let (_handler, url) = example(PAGE, &[]).await;
    let g = Gateway::start().await;
    g.post("/v1/endpoints", json!({"name": "bank", "url": url})).await;
    g.run("account", json!({"key": "ann", "input": {"amount": 100}})).await;
    let transfer = json!({"from": "ann", "to": "bob", "amount": 30});
    let mut transfers = Vec::new();
    for _ in 0..4 {
        transfers.push(g.run("transfer", json!({"input": transfer})).await);
    }
    let mut failed = 0;
    for run in &transfers {
        let path = format!("/v1/runs/{run}");
        g.eventually("it ends", async |g| !g.get(&path).await["ended_at"].is_null()).await;
        let view = g.get(&path).await;
        if view["status"] == "failed" {
            assert_eq!(view["error"]["type"], "NotEnough", "{view}");
            failed += 1;
        }
    }
    assert_eq!(failed, 1, "a hundred is enough for three");
    let run = g.run("balance", json!({"key": "bob"})).await;
    assert_eq!(g.status(&run, "completed").await["output"], 90);
    let ann = g.get("/v1/objects/account/ann").await;
    assert_eq!(ann["state"], json!({"balance": 10}), "{ann}");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_of_the_page_about_webhooks_takes_what_is_ours() {
    // Its clock is the real one: signatures of another time are refused.
    let (mut receiver, url) = example(HOOKS, &[("STEPWELL_WEBHOOK_SECRET", SECRET)]).await;
    let mut said = BufReader::new(receiver.stdout.take().expect("it is piped")).lines();
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({"result": 1})).await;
    g.register(&handler, json!(["f"])).await;
    g.post("/v1/webhooks", json!({"name": "on-call", "url": url, "secret": SECRET})).await;
    g.post("/v1/webhooks", json!({"name": "stranger", "url": url, "retry": {"max_attempts": 1}}))
        .await;
    let run = g.run("f", json!({})).await;
    let line = tokio::time::timeout(Duration::from_mins(1), said.next_line()).await;
    let line = line.expect("it says something").expect("it is text");
    assert_eq!(line, Some(format!("run.completed {run}")));
    for (webhook, status) in [("on-call", "delivered"), ("stranger", "dead")] {
        let path = format!("/v1/webhooks/{webhook}/deliveries?status={status}");
        let what = format!("{webhook} is {status}");
        g.eventually(&what, async |g| g.get(&path).await["data"][0]["run"] == json!(run)).await;
    }
    g.close().await;
}

/// Runs the first example of a page, in Python, until it listens; where.
async fn example(page: &str, variables: &[(&str, &str)]) -> (tokio::process::Child, String) {
    let (_, code) = page.split_once("```python\n").expect("the page has an example");
    let (code, _) = code.split_once("```").expect("it ends");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    drop(listener);
    let mut handler = Command::new("python3")
        .args(["-c", code])
        .env("PORT", port.to_string())
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("python3 is there");
    let begun = Instant::now();
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(handler.try_wait().expect("it is our child").is_none(), "it has ended");
        assert!(begun.elapsed() < Duration::from_mins(1), "it never listens");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (handler, format!("http://127.0.0.1:{port}/"))
}
