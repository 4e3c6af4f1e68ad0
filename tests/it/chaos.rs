//! SIGKILL at random moments, under load, with three nodes: nothing that was acknowledged is lost,
//! nothing that was recorded runs again, everything finishes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stepwell::machine::{RunId, Timestamp};
use tokio::sync::Mutex;

use crate::cluster::Cluster;
use crate::oracle::{Execution, Oracle};

/// Rounds of SIGKILL: few in every test run, `CHAOS_ROUNDS=200` before a release.
fn rounds() -> usize {
    let rounds = std::env::var_os("CHAOS_ROUNDS").and_then(|n| n.to_str()?.parse().ok());
    rounds.unwrap_or(6)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_and_repeat_nothing() {
    let oracle = Oracle { lost_answers: 30, ..Oracle::default() };
    let handler = oracle.serve().await;
    let cluster = Cluster::start(3).await;
    cluster.register(&handler, &["work"]).await;
    let cluster = Arc::new(Mutex::new(cluster));
    let stop = Arc::new(AtomicBool::new(false));
    let acked = Arc::new(Mutex::new(Vec::<String>::new()));
    let clients: Vec<_> = (0..4)
        .map(|n| {
            let (cluster, stop, acked) = (cluster.clone(), stop.clone(), acked.clone());
            tokio::spawn(async move { client(n, &cluster, &stop, &acked).await })
        })
        .collect();
    for round in 0..rounds() {
        let pause = 150 + rand::random::<u64>() % 900;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let victim = rand::random::<u32>() as usize % 3;
        let mut cluster = cluster.lock().await;
        cluster.nodes[victim].kill();
        // Now and then nobody is left for a moment.
        if round % 5 == 4 {
            for node in &mut cluster.nodes {
                node.kill();
            }
            for node in &mut cluster.nodes {
                node.start();
            }
        } else {
            cluster.nodes[victim].start();
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("the client does not panic");
    }
    let cluster = Arc::try_unwrap(cluster).ok().expect("the clients are gone").into_inner();
    for node in &cluster.nodes {
        cluster.ready(&node.url).await;
    }
    let acked = acked.lock().await.clone();
    assert!(acked.len() > rounds(), "the load was no load: {} runs", acked.len());
    for run in &acked {
        let view = finished(&cluster, run).await;
        assert_eq!(view["status"], "completed", "{view}");
    }
    assert_eq!(oracle.faults(), Vec::<String>::new());
    nothing_ran_twice(&cluster, &oracle.executions()).await;
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

/// Starts runs and sends each its signal, through whatever node answers, until told to stop.
async fn client(n: usize, cluster: &Mutex<Cluster>, stop: &AtomicBool, acked: &Mutex<Vec<String>>) {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let key = format!("client-{n}-{count}");
        let body = json!({"input": {"n": count}});
        let started = insist(cluster, "/v1/functions/work/runs", &body, &key).await;
        let run = started["id"].as_str().unwrap_or_else(|| panic!("{started}")).to_owned();
        acked.lock().await.push(run.clone());
        let path = format!("/v1/runs/{run}/signals/go");
        insist(cluster, &path, &json!({"payload": key}), &format!("{key}-go")).await;
    }
}

/// Sends a request until it is acknowledged, always with the same idempotency key.
async fn insist(cluster: &Mutex<Cluster>, path: &str, body: &Value, key: &str) -> Value {
    let begun = Instant::now();
    loop {
        let node = rand::random::<u32>() as usize % 3;
        let (http, url, token) = {
            let cluster = cluster.lock().await;
            (
                cluster.http.clone(),
                format!("{}{path}", cluster.nodes[node].url),
                cluster.key.clone(),
            )
        };
        let sent = http
            .post(url)
            .bearer_auth(token)
            .header("idempotency-key", key)
            .header("content-type", "application/json")
            .timeout(Duration::from_secs(10))
            .body(body.to_string())
            .send()
            .await;
        if let Ok(answer) = sent {
            let status = answer.status();
            let text = answer.text().await.unwrap_or_default();
            if status.is_success() {
                return serde_json::from_str(&text).unwrap_or(Value::Null);
            }
            assert!(status.as_u16() >= 500 || status.as_u16() == 409, "{path}: {status} {text}");
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{path}: never acknowledged");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn finished(cluster: &Cluster, run: &str) -> Value {
    let begun = Instant::now();
    loop {
        let path = format!("/v1/runs/{run}?wait=10s");
        let view = cluster.try_call(0, "GET", &path, None, None).await;
        if let Some((200, view)) = view
            && !view["ended_at"].is_null()
        {
            return view;
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "{run} does not finish");
    }
}

/// No body of a step began after an outcome of that step had been recorded, and what was recorded
/// is what an execution returned.
async fn nothing_ran_twice(cluster: &Cluster, executions: &[Execution]) {
    let mut by_run: HashMap<&str, Vec<&Execution>> = HashMap::new();
    for e in executions {
        by_run.entry(&e.run).or_default().push(e);
    }
    for (run, executions) in by_run {
        let id: RunId = run.parse().expect("the gateway's own id");
        let page = cluster.db.store.rows_after(id, 0, -1, 1_000).await.expect("the journal");
        let mut settled: HashMap<&str, (Timestamp, String)> = HashMap::new();
        for row in page.iter().filter(|r| r.kind.settles()) {
            let body =
                String::from_utf8_lossy(row.body.as_deref().unwrap_or_default()).into_owned();
            let was = settled.insert(&row.step, (row.at, body));
            assert!(was.is_none(), "{run}: step {} settled twice", row.step);
        }
        for e in &executions {
            let Some((at, value)) = settled.get(e.step.as_str()) else { continue };
            assert!(
                e.at <= at.as_micros() || e.value.to_string() == *value,
                "{run}: step {} began at {} although it was recorded at {}",
                e.step,
                e.at,
                at.as_micros()
            );
        }
        for (step, (_, value)) in &settled {
            let ran = executions.iter().any(|e| e.step == **step && e.value.to_string() == *value);
            assert!(
                ran || matches!(*step, "nap" | "go"),
                "{run}: nobody returned {value} for {step}"
            );
        }
    }
}
