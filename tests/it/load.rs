//! Load on a cluster: clients that insist, and what must hold of all that was acknowledged to them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stepwell::machine::Timestamp;
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::oracle::{Execution, Oracle};

/// Clients that start runs of `work` and send each its signal, through whatever node answers.
pub struct Load {
    client: Client,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Client {
    urls: Vec<String>,
    http: reqwest::Client,
    token: String,
    stop: Arc<AtomicBool>,
    acked: Arc<Mutex<Vec<String>>>,
    refused: Arc<AtomicU64>,
}

impl Load {
    pub fn begin(cluster: &Cluster, clients: usize) -> Self {
        let client = Client {
            urls: cluster.nodes.iter().map(|n| n.url.clone()).collect(),
            http: cluster.http.clone(),
            token: cluster.key.clone(),
            stop: Arc::default(),
            acked: Arc::default(),
            refused: Arc::default(),
        };
        let clients = (0..clients)
            .map(|n| {
                let client = client.clone();
                tokio::spawn(async move { client.work(n).await })
            })
            .collect();
        Self { client, clients }
    }

    /// Runs acknowledged so far.
    pub fn acked(&self) -> usize {
        self.client.acked.lock().expect("no panic").len()
    }

    /// Requests so far that were answered 503 with a `Retry-After`.
    pub fn refused(&self) -> u64 {
        self.client.refused.load(Ordering::Relaxed)
    }

    /// Lets every client finish what it is at; the runs that were acknowledged.
    pub async fn end(self) -> Vec<String> {
        self.client.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("the client does not panic");
        }
        self.client.acked.lock().expect("no panic").clone()
    }
}

impl Client {
    async fn work(&self, n: usize) {
        let mut count = 0;
        while !self.stop.load(Ordering::Relaxed) {
            count += 1;
            let key = format!("client-{n}-{count}");
            let body = json!({"input": {"n": count}});
            let started = self.insist("/v1/functions/work/runs", &body, &key).await;
            let run = started["id"].as_str().unwrap_or_else(|| panic!("{started}")).to_owned();
            self.acked.lock().expect("no panic").push(run.clone());
            let path = format!("/v1/runs/{run}/signals/go");
            self.insist(&path, &json!({"payload": key}), &format!("{key}-go")).await;
        }
    }

    /// Sends a request until it is acknowledged, always with the same idempotency key.
    async fn insist(&self, path: &str, body: &Value, key: &str) -> Value {
        let begun = Instant::now();
        loop {
            let node = rand::random::<u32>() as usize % self.urls.len();
            let sent = self
                .http
                .post(format!("{}{path}", self.urls[node]))
                .bearer_auth(&self.token)
                .header("idempotency-key", key)
                .header("content-type", "application/json")
                .timeout(Duration::from_secs(15))
                .body(body.to_string())
                .send()
                .await;
            if let Ok(answer) = sent {
                let status = answer.status();
                if status == 503 && answer.headers().contains_key("retry-after") {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                let text = answer.text().await.unwrap_or_default();
                if status.is_success() {
                    return serde_json::from_str(&text).unwrap_or(Value::Null);
                }
                let again = [409, 502, 503, 504].contains(&status.as_u16());
                assert!(again, "{path}: {status} {text}");
            }
            assert!(begun.elapsed() < Duration::from_mins(3), "{path}: never acknowledged");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// All these runs complete; nothing that was recorded ran again; the data are sound.
pub async fn all_is_well(cluster: &Cluster, oracle: &Oracle, acked: &[String]) {
    assert_eq!(faults(cluster, oracle, acked, Duration::from_mins(3)).await, Vec::<String>::new());
}

/// What is wrong with these runs, which have so long to end.
pub async fn faults(
    cluster: &Cluster,
    oracle: &Oracle,
    acked: &[String],
    patience: Duration,
) -> Vec<String> {
    let mut found = Vec::new();
    for run in acked {
        match finished(cluster, run, patience).await {
            Some(view) if view["status"] == "completed" => {}
            Some(view) => found.push(format!("not completed: {view}")),
            None => found.push(format!("{run} does not finish")),
        }
    }
    found.extend(oracle.faults());
    found.extend(what_ran_twice(cluster, &oracle.executions()).await);
    found.extend(cluster.audit().await);
    found
}

async fn finished(cluster: &Cluster, run: &str, patience: Duration) -> Option<Value> {
    let begun = Instant::now();
    loop {
        let path = format!("/v1/runs/{run}?wait=10s");
        let view = cluster.try_call(0, "GET", &path, None, None).await;
        if let Some((200, view)) = view
            && !view["ended_at"].is_null()
        {
            return Some(view);
        }
        if begun.elapsed() > patience {
            return None;
        }
    }
}

/// No body of a step began after an outcome of that step had been recorded, and what was recorded
/// is what an execution returned.
async fn what_ran_twice(cluster: &Cluster, executions: &[Execution]) -> Vec<String> {
    let mut found = Vec::new();
    let mut by_run: HashMap<&str, Vec<&Execution>> = HashMap::new();
    for e in executions {
        by_run.entry(&e.run).or_default().push(e);
    }
    for (run, executions) in by_run {
        let mut settled: HashMap<String, (Timestamp, String)> = HashMap::new();
        for row in cluster.rows(run).await.into_iter().filter(|r| r.kind.settles()) {
            let body =
                String::from_utf8_lossy(row.body.as_deref().unwrap_or_default()).into_owned();
            let was = settled.insert(row.step.clone(), (row.at, body));
            if was.is_some() {
                found.push(format!("{run}: step {} settled twice", row.step));
            }
        }
        for e in &executions {
            let Some((at, value)) = settled.get(&e.step) else { continue };
            if e.at > at.as_micros() && e.value.to_string() != *value {
                found.push(format!(
                    "{run}: step {} began at {} although it was recorded at {}",
                    e.step,
                    e.at,
                    at.as_micros()
                ));
            }
        }
        for (step, (_, value)) in &settled {
            let ran = executions.iter().any(|e| e.step == *step && e.value.to_string() == *value);
            if !ran && !matches!(step.as_str(), "nap" | "go") {
                found.push(format!("{run}: nobody returned {value} for {step}"));
            }
        }
    }
    found
}
