//! The circuit of an endpoint is the cluster's, and the runs that it keeps wait outside memory.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::gateway::{Answer, Handler, settled};

/// Between two probes may be a minute.
const LONGEST_WAIT: Duration = Duration::from_secs(100);

/// When a handler was called.
type Calls = Arc<Mutex<Vec<Instant>>>;

/// A handler that answers 410, and what says when it did.
async fn unwell() -> (Handler, Calls) {
    let calls = Calls::default();
    let noted = Arc::clone(&calls);
    let handler = Handler::serve(move |_| {
        noted.lock().expect("no panic").push(Instant::now());
        Answer::status(410)
    })
    .await;
    (handler, calls)
}

/// Starts runs at all nodes in turn; their ids.
async fn start(cluster: &Cluster, function: &str, count: usize) -> Vec<String> {
    let nodes = cluster.nodes.len();
    let starts = futures::stream::iter(0..count)
        .map(|n| async move { cluster.run(n % nodes, function, &json!({"input": n})).await });
    starts.buffer_unordered(48).collect().await
}

/// How every node sees the endpoint.
async fn states(cluster: &Cluster) -> Vec<Value> {
    let mut states = Vec::new();
    for node in 0..cluster.nodes.len() {
        states.push(cluster.call(node, "GET", "/v1/endpoints/test", None).await.1["state"].clone());
    }
    states
}

async fn in_memory(cluster: &Cluster) -> f64 {
    let mut all = 0.0;
    for node in 0..cluster.nodes.len() {
        all += cluster.metric(node, "stepwell_runs_in_memory").await;
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_when_a_probe_is_overdue_serves_and_probes() {
    let (handler, _) = unwell().await;
    let mut cluster = Cluster::start(1).await;
    cluster.register(&handler.url, &["f"]).await;
    let runs = start(&cluster, "f", 1).await;
    cluster.status(0, &runs[0], "parked").await;
    // The node acts at once and writes then: what it has not written, nobody could find overdue.
    let open = "select count(*) from endpoint_health where state = 1";
    cluster.eventually("it is recorded", async || cluster.db.number(open).await == 1).await;
    cluster.nodes[0].kill();
    let overdue = "select count(*) from endpoint_health
        where state = 1 and next_probe_at < now() - interval '1 second'";
    cluster.eventually("it is overdue", async || cluster.db.number(overdue).await == 1).await;
    handler.now(|_| json!({"result": 1}));
    cluster.nodes[0].start();
    cluster.ready(&cluster.nodes[0].url).await;
    all_completed(&cluster, &runs).await;
}

/// What an operator or a sender does to a run, at the last node.
async fn act(cluster: &Cluster, run: &str, what: &str, body: Value) -> Value {
    let path = format!("/v1/runs/{run}/{what}");
    let node = cluster.nodes.len() - 1;
    let (status, answer) = cluster.call(node, "POST", &path, Some(&body)).await;
    assert!(status < 300, "{status} {answer}");
    answer
}

async fn all_completed(cluster: &Cluster, runs: &[String]) {
    let live = "select count(*) from stepwell.run_active";
    cluster.eventually("no run is live", async || cluster.db.number(live).await == 0).await;
    for run in runs {
        let (status, view) = cluster.call(0, "GET", &format!("/v1/runs/{run}"), None).await;
        assert_eq!((status, &view["status"]), (200, &json!("completed")), "{view}");
    }
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_probe_is_out_in_the_whole_cluster_and_all_nodes_hear_of_its_success() {
    let (handler, calls) = unwell().await;
    let cluster = Cluster::start(3).await;
    cluster.register(&handler.url, &["f"]).await;
    cluster.balanced().await;
    let opened = Instant::now();
    let mut runs = start(&cluster, "f", 1).await;
    cluster
        .eventually("all nodes know of it", async || {
            states(&cluster).await.iter().all(|state| state == "unhealthy")
        })
        .await;
    runs.extend(start(&cluster, "f", 99).await);
    let of = |calls: &Calls| calls.lock().expect("no panic").clone();
    cluster.eventually("some probes", async || of(&calls).len() >= 5).await;
    let seen = of(&calls);
    // The first one opened the circuit; then come waits of 1, 2, 4 and 8 s, whichever node probes.
    for (n, pair) in seen.windows(2).enumerate() {
        let (gap, wait) = (pair[1] - pair[0], Duration::from_secs(1 << n));
        assert!(gap >= wait - Duration::from_millis(50), "{gap:?} before probe {n}");
    }
    assert!(opened.elapsed() >= Duration::from_secs(15), "{:?}", opened.elapsed());
    let health = cluster.call(1, "GET", "/v1/endpoints/test/health", None).await.1;
    assert_eq!(health["state"], "unhealthy", "{health}");
    assert!(health["failed_probes"].as_u64().is_some_and(|n| n >= 3), "{health}");
    for run in &runs {
        let view = cluster.call(2, "GET", &format!("/v1/runs/{run}"), None).await.1;
        assert_eq!(view["status"], "parked", "{view}");
        assert_eq!(view["attention"]["code"], "endpoint-unhealthy", "{view}");
    }
    // It is well again. What an operator does hurries nobody: the circuit decides.
    handler.now(|it| json!({"result": it["input"]}));
    all_completed(&cluster, &runs).await;
    cluster
        .eventually("all nodes know of it", async || {
            states(&cluster).await.iter().all(|state| state == "healthy")
        })
        .await;
    let health = cluster.call(0, "GET", "/v1/endpoints/test/health", None).await.1;
    assert_eq!((&health["state"], &health["probing"]), (&json!("healthy"), &json!(false)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_parked_runs_wait_outside_memory_through_the_end_of_every_node() {
    const RUNS: usize = 2_000;
    let (handler, calls) = unwell().await;
    let mut cluster = Cluster::start(2).await;
    cluster.register(&handler.url, &["f"]).await;
    cluster.balanced().await;
    let mut runs = start(&cluster, "f", RUNS).await;
    cluster.eventually("memory is free of them", async || in_memory(&cluster).await <= 10.0).await;
    let parked = async |node: usize| {
        let path = "/v1/runs?status=parked&limit=200";
        let page = cluster.call(node, "GET", path, None).await.1;
        page["data"].as_array().map_or(0, Vec::len)
    };
    cluster.eventually("lists know of it", async || parked(1).await == 200).await;
    let view = cluster.call(0, "GET", &format!("/v1/runs/{}", runs[77]), None).await.1;
    assert_eq!(view["status"], "parked", "{view}");
    assert!(view["attention"]["detail"].as_str().is_some_and(|d| d.contains("410")), "{view}");
    // Whoever waits there can be reached.
    let [signalled, terminated, paused] =
        [0, 1, 2].map(|_| runs.pop().expect("there are thousands"));
    act(&cluster, &signalled, "signals/go", json!({"payload": "on"})).await;
    let ended = act(&cluster, &terminated, "terminate", json!({})).await;
    assert_eq!(ended["status"], "terminated", "{ended}");
    let kept = act(&cluster, &paused, "pause", json!({})).await;
    assert_eq!(kept["status"], "paused", "{kept}");
    cluster.eventually("memory is free again", async || in_memory(&cluster).await <= 10.0).await;
    let listed = async || {
        let page = cluster.call(0, "GET", "/v1/runs?status=paused", None).await.1;
        page["data"].as_array().is_some_and(|data| data.len() == 1)
    };
    cluster.eventually("lists know of the paused one", listed).await;
    // All nodes die and come back: nobody is called but by one probe after the other.
    for node in &mut cluster.nodes {
        node.kill();
    }
    let before = calls.lock().expect("no panic").len();
    for node in &mut cluster.nodes {
        node.start();
    }
    for node in &cluster.nodes {
        cluster.ready(&node.url).await;
    }
    cluster.balanced().await;
    assert!(in_memory(&cluster).await <= 10.0, "a take-over loads none of them");
    let seen = calls.lock().expect("no panic").clone();
    assert!(seen.len() <= before + 2, "{} calls, {before} before", seen.len());
    handler.now(|it| {
        let go = json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"});
        let asks = it["inbox"]["go"] == 1 && !settled(it, "go");
        if asks { go } else { json!({"result": it["steps"]["go"]["value"]}) }
    });
    cluster
        .within(LONGEST_WAIT, "all but the paused one have ended", async || {
            let live = cluster.call(0, "GET", "/v1/runs?status=parked&limit=1", None).await.1;
            let queued = cluster.call(0, "GET", "/v1/runs?status=queued&limit=1", None).await.1;
            let none = |page: &Value| page["data"].as_array().is_some_and(Vec::is_empty);
            none(&live) && none(&queued)
        })
        .await;
    act(&cluster, &paused, "resume", json!({})).await;
    cluster.status(0, &paused, "completed").await;
    let view = cluster.status(0, &signalled, "completed").await;
    assert_eq!(view["output"], "on", "the signal was kept: {view}");
    all_completed(&cluster, &runs).await;
}
