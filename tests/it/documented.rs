//! What the documentation shows is run as it stands there.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use crate::gateway::{Gateway, Handler, SECRET};

const HOOKS: &str = include_str!("../../docs/webhooks.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");
const PULL: &str = include_str!("../../docs/pull.md");
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

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_of_the_page_about_pulling_does_what_it_gets() {
    let g = Gateway::start().await;
    let body = json!({"name": "far", "pull": true, "functions": [{"name": "hello"}]});
    g.post("/v1/endpoints", body).await;
    let run = g.run("hello", json!({"input": "Ann"})).await;
    let worker = python(PULL, &[("STEPWELL_URL", &g.url)]);
    assert_eq!(g.status(&run, "completed").await["output"], "hello Ann");
    drop(worker);
    g.close().await;
}

/// Runs the first example of a page, in Python.
fn python(page: &str, variables: &[(&str, &str)]) -> tokio::process::Child {
    let (_, code) = page.split_once("```python\n").expect("the page has an example");
    let (code, _) = code.split_once("```").expect("it ends");
    Command::new("python3")
        .args(["-c", code])
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("python3 is there")
}

/// The same for one that serves, until it listens; where.
async fn example(page: &str, variables: &[(&str, &str)]) -> (tokio::process::Child, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    drop(listener);
    let number = port.to_string();
    let variables = [variables, &[("PORT", &*number)]].concat();
    let mut handler = python(page, &variables);
    let begun = Instant::now();
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(handler.try_wait().expect("it is our child").is_none(), "it has ended");
        assert!(begun.elapsed() < Duration::from_mins(1), "it never listens");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (handler, format!("http://127.0.0.1:{port}/"))
}

/// `stepwell apply` with this file: what it prints.
async fn apply(g: &Gateway, file: &str, args: &[&str]) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_stepwell"))
        .args(["apply", "-f", "-", "--url", &g.url])
        .args(args)
        .env("SHOP_SECRET", SECRET)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(file.as_bytes()).await.expect("it reads");
    drop(stdin);
    let ended = child.wait_with_output().await.expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let (out, err) = (text(ended.stdout), text(ended.stderr));
    assert!(ended.status.success(), "{out}{err}");
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_says_is_applied_once() {
    let (_, file) = OPERATIONS.split_once("```yaml\n").expect("the page has an example");
    let (file, _) = file.split_once("```").expect("it ends");
    let handler = Handler::serve(|_| json!({"result": null})).await;
    let file = file.replace("http://127.0.0.1:3000/", &handler.url);
    let g = Gateway::start().await;
    let new = "+ endpoint  shop\n+ schedule  nightly\n";
    // The function of the schedule is not there yet, and nothing is done.
    assert_eq!(apply(&g, &file, &["--diff"]).await, new);
    assert_eq!(g.get("/v1/endpoints").await["data"], json!([]));
    assert_eq!(apply(&g, &file, &[]).await, new);
    let same = "= endpoint  shop\n= schedule  nightly\n";
    assert_eq!(apply(&g, &file, &[]).await, same);
    assert_eq!(g.get("/v1/endpoints/shop").await["concurrency"], 20);
    let nightly = g.get("/v1/schedules/nightly").await;
    assert_eq!(
        (&nightly["time_zone"], &nightly["jitter"]),
        (&json!("Europe/Paris"), &json!("300s"))
    );
    g.status(&g.run("checkout", json!({"input": {"tenant": "a"}})).await, "completed").await;

    let other = file.replace("jitter: 5m", "overlap: buffer_one").replace("limit: 2", "limit: 3");
    let other = other.replace("concurrency: 20", "concurrency: 30");
    let changed = "~ endpoint  shop\n    concurrency: 20 → 30\n~ schedule  nightly\n    \
                   jitter: 300s → 0s\n    overlap: skip → buffer_one\n";
    assert_eq!(apply(&g, &other, &["--diff"]).await, changed);
    assert_eq!(apply(&g, &file, &["--diff"]).await, same);
    assert_eq!(apply(&g, &other, &[]).await, changed);
    assert_eq!(apply(&g, &other, &["--diff"]).await, same);
    assert_eq!(g.get("/v1/schedules/nightly").await["overlap"], "buffer_one");

    let less = other.split_once("schedules:").expect("there are").0.to_owned() + "schedules: []\n";
    let gone = "= endpoint  shop\n- schedule  nightly\n";
    assert_eq!(apply(&g, &less, &["--prune", "--diff"]).await, gone);
    assert_eq!(apply(&g, &less, &["--prune", "--yes"]).await, gone);
    assert_eq!(g.get("/v1/schedules").await["data"], json!([]));
    g.close().await;
}
