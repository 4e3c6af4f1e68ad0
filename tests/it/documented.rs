//! What the documentation shows is run as it stands there.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::process::Command;

use crate::gateway::Gateway;

const PAGE: &str = include_str!("../../docs/objects.md");

// P8.13
#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_of_the_page_about_objects_add_up() {
    let (_, code) = PAGE.split_once("```python\n").expect("the page has an example");
    let (code, _) = code.split_once("```").expect("it ends");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    drop(listener);
    let mut handler = Command::new("python3")
        .args(["-c", code])
        .env("PORT", port.to_string())
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
    let g = Gateway::start().await;
    let url = format!("http://127.0.0.1:{port}/");
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
