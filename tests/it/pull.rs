//! Pull endpoints: workers that poll for what would be posted to a handler.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use stepwell::engine::{Namespace, Scope};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::gateway::{Gateway, SECRET, settled};

/// Two steps, then the input.
fn two_steps(it: &Value) -> Value {
    for step in ["one", "two"] {
        if !settled(it, step) {
            return json!({"ops": [{"op": "run", "id": step, "value": step}]});
        }
    }
    json!({"result": it["input"]})
}

async fn register(g: &Gateway, functions: Value) -> Value {
    let body = json!({"name": "far", "pull": true, "secret": SECRET, "functions": functions});
    g.post("/v1/endpoints", body).await
}

/// One poll; what was taken, each with its document.
async fn poll(g: &Gateway, query: &str) -> Vec<(Value, Value)> {
    let taken = g.post(&format!("/v1/endpoints/far/poll?{query}"), json!({})).await;
    let items = taken["data"].as_array().expect("a list").clone();
    let document = |item: &Value| {
        serde_json::from_str(item["body"].as_str().expect("text")).expect("the body is JSON")
    };
    items.into_iter().map(|item| (item.clone(), document(&item))).collect()
}

/// Brings an answer; its status.
async fn answer(g: &Gateway, item: &Value, query: &str, answer: &Value) -> (u16, Value) {
    let url = item["answer"].as_str().expect("a URL");
    let path = url.strip_prefix(&g.url).expect("it is the gateway's");
    let bearer = format!("Bearer {}", item["token"].as_str().expect("a token"));
    let headers = [("authorization", bearer.as_str())];
    let path = format!("{path}{query}");
    let (status, _, text) = g.raw("POST", &path, &headers, Some(answer.to_string())).await;
    (status, serde_json::from_slice(&text).unwrap_or(Value::Null))
}

async fn done(g: &Gateway, item: &Value, what: &Value) {
    let (status, problem) = answer(g, item, "", what).await;
    assert_eq!(status, 204, "{problem}");
}

// P4.42, P4.43, P4.44, P4.46
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_what_a_handler_would_be_sent_and_brings_the_answers() {
    let g = Gateway::start().await;
    let made = register(&g, json!([{"name": "f"}])).await;
    let endpoint = &made["endpoint"];
    assert_eq!((&endpoint["url"], &endpoint["pull"]), (&Value::Null, &json!(true)), "{made}");
    assert_eq!(endpoint["polls"], 0);
    // Nobody polls: the run says so, and nothing is begun.
    let run = g.run("f", json!({"input": {"n": 3_544_790_567_247_868_102_u64}})).await;
    let view = g.status(&run, "queued").await;
    g.eventually("it says why it waits", async |g| {
        g.get(&format!("/v1/runs/{run}")).await["attention"]["code"] == "no-worker"
    })
    .await;
    assert_eq!(view["invocations"], 0);
    // The same run step by step: what a poll takes is answered, and the next poll has the next.
    for (n, seen) in [(1, 0), (2, 1), (3, 2)] {
        let taken = poll(&g, "wait=30s").await;
        let [(item, it)] = taken.as_slice() else { panic!("not one: {taken:?}") };
        assert_eq!((&it["run"]["id"], &it["type"]), (&json!(run), &json!("run")), "{it}");
        assert_eq!(it["invocation"]["attempt"], 1, "nothing was lost on the way to invocation {n}");
        assert_eq!(it["steps"].as_object().expect("steps").len(), seen);
        assert_eq!(item["headers"]["webhook-id"], it["invocation"]["id"]);
        assert!(item["headers"]["webhook-signature"].as_str().is_some_and(|s| s.contains("v1,")));
        assert!(item["body"].as_str().is_some_and(|b| b.contains("3544790567247868102")));
        assert_eq!(g.get(&format!("/v1/runs/{run}")).await["status"], "running");
        done(&g, item, &two_steps(it)).await;
        // A 204 means that it is recorded.
        assert_eq!(g.journal(&run).await.len(), (seen + 1).min(2));
    }
    let ended = g.status(&run, "completed").await;
    assert_eq!(ended["output"], json!({"n": 3_544_790_567_247_868_102_u64}));
    assert_eq!(g.happened(&run, "invocation.failed").await, Vec::<Value>::new());
    g.close().await;
}

// P4.46
#[tokio::test(flavor = "multi_thread")]
async fn polls_that_come_to_nothing_cost_no_run_an_attempt() {
    let g = Arc::new(Gateway::start().await);
    register(&g, json!([{"name": "f"}])).await;
    // Nothing to do: the time passes, and it says so.
    assert_eq!(poll(&g, "wait=50ms").await, Vec::new());
    // Polls that are broken off, before there is something and while it is on its way.
    for _ in 0..20 {
        let polling = tokio::spawn({
            let g = Arc::clone(&g);
            async move { poll(&g, "max=5&wait=30s").await }
        });
        g.eventually("it polls", async |g| {
            g.get("/v1/endpoints/far").await["polls"] == 1 || polling.is_finished()
        })
        .await;
        polling.abort();
        drop(polling.await);
        g.eventually("it has gone", async |g| g.get("/v1/endpoints/far").await["polls"] == 0).await;
    }
    let runs: BTreeSet<String> = {
        let mut runs = BTreeSet::new();
        for n in 0..5 {
            runs.insert(g.run("f", json!({"input": n})).await);
        }
        runs
    };
    // No more than is asked for, the oldest first, and each once.
    let mut seen = Vec::new();
    for most in [2, 2, 2] {
        let taken = poll(&g, &format!("max={most}&wait=20s")).await;
        assert!(!taken.is_empty() && taken.len() <= most, "{taken:?}");
        seen.extend(taken);
        if seen.len() == 5 {
            break;
        }
    }
    while seen.len() < 5 {
        seen.extend(poll(&g, "max=2&wait=20s").await);
    }
    let ids: BTreeSet<String> =
        seen.iter().map(|(item, _)| item["run"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(ids, runs);
    assert_eq!(poll(&g, "wait=0").await, Vec::new(), "all of them are out");
    for (item, it) in &seen {
        assert_eq!(it["invocation"]["attempt"], 1, "{it}");
        done(&g, item, &json!({"result": null})).await;
    }
    for run in &runs {
        g.status(run, "completed").await;
    }
    Arc::into_inner(g).expect("nobody else has it").close().await;
}

// P4.43, P4.44, P4.45
#[tokio::test(flavor = "multi_thread")]
async fn failures_silence_tasks_and_queries_are_what_they_are_elsewhere() {
    let g = Arc::new(Gateway::start().await);
    register(&g, json!([{"name": "f", "timeouts": {"invocation": "2s"}, "invocation_retry":
        {"initial": "1ms", "max_interval": "1ms"}, "retry": {"initial": "1ms", "max_interval": "1ms"}}]))
    .await;
    let run = g.run("f", json!({})).await;
    let take = async |n: u64| -> (Value, Value) {
        loop {
            // What is to be tried again is due a moment later.
            g.advance(Duration::from_millis(20));
            if let Some((item, it)) = poll(&g, "wait=200ms").await.pop() {
                assert_eq!(it["invocation"]["attempt"], n, "{it}");
                return (item, it);
            }
        }
    };
    // The handler failed; whoever took it the second time is never heard of again.
    let (item, _) = take(1).await;
    let (status, _) = answer(&g, &item, "?status=500", &json!({"oh": "no"})).await;
    assert_eq!(status, 204);
    let (silent, _) = take(2).await;
    let (item, it) = take(3).await;
    let failed = g.happened(&run, "invocation.failed").await;
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert_eq!(failed[0]["data"]["status"], 500);
    let (status, problem) = answer(&g, &silent, "", &json!({"result": 1})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("stale-epoch")), "{problem}");
    // A checkpoint works as in any exchange.
    let path = format!("/v1/runs/{run}/checkpoint");
    let bearer = format!("Bearer {}", it["token"].as_str().expect("a token"));
    let say = json!({"n": 1, "ops": [{"op": "run", "id": "early", "value": 1}]});
    let headers = [("authorization", bearer.as_str())];
    let (status, _, text) = g.raw("POST", &path, &headers, Some(say.to_string())).await;
    assert_eq!(status, 200, "{text:?}");
    done(&g, &item, &json!({"ops": [{"op": "task", "id": "t", "task": "work"}], "await": "t"}))
        .await;
    // A task in two attempts.
    let (item, it) = take(1).await;
    assert_eq!((&it["type"], &it["task"]), (&json!("task"), &json!("work")));
    done(&g, &item, &json!({"error": {"type": "Odd", "message": "not yet"}})).await;
    let (item, _) = take(2).await;
    done(&g, &item, &json!({"value": 42})).await;
    let (item, it) = take(1).await;
    assert_eq!(it["steps"]["t"]["value"], 42);
    done(&g, &item, &json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"}))
        .await;
    g.status(&run, "waiting").await;
    // A query waits for somebody who polls.
    let asking = tokio::spawn({
        let (g, path) = (Arc::clone(&g), format!("/v1/runs/{run}/queries/how"));
        async move { g.post(&path, json!({"args": [1]})).await }
    });
    let (item, it) = poll(&g, "wait=30s").await.pop().expect("the query");
    assert_eq!((&it["type"], &it["query"]["name"]), (&json!("query"), &json!("how")));
    done(&g, &item, &json!({"result": "well"})).await;
    assert_eq!(asking.await.expect("no panic")["result"], "well");
    g.post(&format!("/v1/runs/{run}/cancel"), json!({})).await;
    let (item, it) = take(1).await;
    assert!(it["cancel"].is_object(), "{it}");
    done(&g, &item, &json!({"error": {"type": "Cancelled", "message": "as you wish"}})).await;
    g.status(&run, "cancelled").await;
    Arc::into_inner(g).expect("nobody else has it").close().await;
}

// P4.42, P4.44
#[tokio::test(flavor = "multi_thread")]
async fn what_a_pull_endpoint_is_not_is_refused_by_name() {
    let g = Gateway::start().await;
    register(&g, json!([{"name": "f"}])).await;
    let pull = |more: Value| {
        let mut body = json!({"name": "x", "pull": true, "functions": [{"name": "x"}]});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("fields").clone());
        body
    };
    for (body, pointer) in [
        (pull(json!({"url": "http://127.0.0.1:1/"})), "#/url"),
        (pull(json!({"discover": true})), "#/discover"),
        (pull(json!({"functions": null})), "#/functions"),
        (pull(json!({"transports": ["duplex"]})), "#/transports"),
        (pull(json!({"functions": [{"name": "x", "kind": "plain"}]})), "#/functions"),
        (json!({"name": "x", "functions": [{"name": "x"}]}), "#/url"),
        (
            json!({"name": "far", "url": "http://127.0.0.1:1/", "functions": [{"name": "f"}]}),
            "#/url",
        ),
    ] {
        let (status, code, problem) = g.refused("POST", "/v1/endpoints", Some(body.clone())).await;
        assert_eq!((status, code.as_str()), (422, "invalid-request"), "{body}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    }
    let url = json!({"url": "http://127.0.0.1:1/"});
    assert_eq!(g.refused("PATCH", "/v1/endpoints/far", Some(url)).await.1, "invalid-request");
    assert_eq!(g.refused("POST", "/v1/endpoints/far/sync", None).await.1, "invalid-request");
    let probe = g.post("/v1/endpoints/far/probe", json!({})).await;
    assert_eq!((&probe["ok"], &probe["stages"][0]["name"]), (&json!(true), &json!("poll")));
    let pushed = json!({"name": "near", "url": "http://127.0.0.1:1/", "discover": false,
                        "functions": [{"name": "n"}]});
    g.post("/v1/endpoints", pushed).await;
    for (path, status, code) in [
        ("/v1/endpoints/far/poll?max=0", 400, "invalid-query"),
        ("/v1/endpoints/far/poll?max=101", 400, "invalid-query"),
        ("/v1/endpoints/far/poll?wait=soon", 400, "invalid-query"),
        ("/v1/endpoints/far/poll?listen=1", 400, "invalid-query"),
        ("/v1/endpoints/none/poll?wait=0", 404, "endpoint-not-found"),
        ("/v1/endpoints/near/poll?wait=0", 422, "invalid-request"),
    ] {
        let refused = g.refused("POST", path, None).await;
        assert_eq!((refused.0, refused.1.as_str()), (status, code), "{path}: {}", refused.2);
    }
    // An answer needs the token of its own invocation, and is taken once.
    let [one, two] = [g.run("f", json!({})).await, g.run("f", json!({})).await];
    let mut taken = Vec::new();
    while taken.len() < 2 {
        taken.extend(poll(&g, "max=2&wait=20s").await);
    }
    let (mine, other) = (taken[0].0.clone(), taken[1].0.clone());
    let mut forged = mine.clone();
    forged["token"] = other["token"].clone();
    assert_eq!(answer(&g, &forged, "", &json!({"result": 1})).await.1["code"], "invalid-token");
    assert_eq!(answer(&g, &mine, "?status=302", &json!({})).await.1["code"], "invalid-query");
    for item in [&mine, &other] {
        done(&g, item, &json!({"result": 1})).await;
        assert_eq!(answer(&g, item, "", &json!({"result": 2})).await.1["code"], "stale-epoch");
    }
    for run in [one, two] {
        assert_eq!(g.status(&run, "completed").await["output"], 1);
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_has_a_scope_of_its_own() {
    let g = Gateway::closed().await;
    let ns = Namespace { id: 1, name: "default".to_owned() };
    let key = async |scope: Scope| {
        let made = g.engine.create_key(&ns, "k", [scope].into_iter().collect(), "test").await;
        format!("Bearer {}", made.expect("a key").1)
    };
    let (admin, worker) = (key(Scope::Admin).await, key(Scope::EndpointsPoll).await);
    let call = async |key: &str, method: &str, path: &str, body: Option<Value>| {
        let body = body.map(|b| b.to_string());
        g.raw(method, path, &[("authorization", key)], body).await.0
    };
    let body = json!({"name": "far", "pull": true, "functions": [{"name": "f"}]});
    assert_eq!(call(&admin, "POST", "/v1/endpoints", Some(body)).await, 201);
    assert_eq!(call(&worker, "POST", "/v1/endpoints/far/poll?wait=0", None).await, 200);
    assert_eq!(call(&worker, "GET", "/v1/endpoints/far", None).await, 403);
    assert_eq!(call(&worker, "GET", "/v1/runs", None).await, 403);
    for scope in [Scope::RunsWrite, Scope::EndpointsWrite] {
        let other = key(scope).await;
        assert_eq!(call(&other, "POST", "/v1/endpoints/far/poll?wait=0", None).await, 403);
    }
    g.close().await;
}

/// A worker that polls some nodes in turn, until it is told to stop.
struct Worker {
    stop: Arc<AtomicBool>,
    /// Every invocation that it was given: run and epoch.
    seen: Arc<Mutex<Vec<(String, i64)>>>,
    at_work: Vec<JoinHandle<()>>,
}

impl Worker {
    fn start(cluster: &Cluster, nodes: &[usize], hands: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen: Arc<Mutex<Vec<(String, i64)>>> = Arc::default();
        let turn = Arc::new(AtomicUsize::new(0));
        let urls: Vec<String> = nodes.iter().map(|n| cluster.nodes[*n].url.clone()).collect();
        let hand = || {
            let (stop, seen, turn, urls) =
                (Arc::clone(&stop), Arc::clone(&seen), Arc::clone(&turn), urls.clone());
            let (http, key) = (cluster.http.clone(), cluster.key.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let url = &urls[turn.fetch_add(1, Ordering::Relaxed) % urls.len()];
                    let poll = http.post(format!("{url}/v1/endpoints/far/poll?max=3&wait=2s"));
                    let Ok(taken) = poll.bearer_auth(&key).send().await else { continue };
                    let Ok(text) = taken.bytes().await else { continue };
                    let taken: Value = serde_json::from_slice(&text).unwrap_or_default();
                    for item in taken["data"].as_array().into_iter().flatten() {
                        let body = item["body"].as_str().expect("text");
                        let it: Value = serde_json::from_str(body).expect("JSON");
                        let run = it["run"]["id"].as_str().expect("an id").to_owned();
                        let epoch = it["invocation"]["epoch"].as_i64().expect("a number");
                        seen.lock().expect("no panic").push((run, epoch));
                        let path = item["answer"].as_str().expect("a URL");
                        let path = &path[path.find("/v1/").expect("a path")..];
                        let token = item["token"].as_str().expect("a token");
                        let said = two_steps(&it).to_string();
                        // A node that does not know yet who drives the run says so. What cannot be
                        // brought at all the gateway repeats.
                        for _ in 0..100 {
                            let answer = http.post(format!("{url}{path}")).bearer_auth(token);
                            match answer.body(said.clone()).send().await {
                                Ok(answer) if answer.status() == 503 => {
                                    tokio::time::sleep(Duration::from_millis(50)).await;
                                }
                                _ => break,
                            }
                        }
                    }
                }
            })
        };
        let at_work = (0..hands).map(|_| hand()).collect();
        Self { stop, seen, at_work }
    }

    async fn stop(self) -> Vec<(String, i64)> {
        self.stop.store(true, Ordering::Relaxed);
        for hand in self.at_work {
            hand.await.expect("no panic");
        }
        self.seen.lock().expect("no panic").clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_at_one_node_does_the_work_of_all_and_a_node_may_die() {
    let mut cluster = Cluster::start(2).await;
    let body = json!({"name": "far", "pull": true, "functions": [{"name": "f",
        "timeouts": {"invocation": "5s"}}]});
    let (status, made) = cluster.call(0, "POST", "/v1/endpoints", Some(&body)).await;
    assert_eq!(status, 201, "{made}");
    cluster.balanced().await;
    let mut runs = Vec::new();
    for n in 0..12 {
        runs.push(cluster.run(n % 2, "f", &json!({"input": n})).await);
    }
    let worker = Worker::start(&cluster, &[0], 2);
    for (n, run) in runs.iter().enumerate() {
        assert_eq!(cluster.status(0, run, "completed").await["output"], n, "{run}");
    }
    let seen = worker.stop().await;
    let each: BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), each.len()), (36, 36), "each exchange is given away once: {seen:?}");
    // One node dies in the middle of it.
    let worker = Worker::start(&cluster, &[0, 1], 2);
    let mut runs = Vec::new();
    for n in 0..30 {
        runs.push(cluster.run(n % 2, "f", &json!({"input": n})).await);
    }
    cluster.nodes[1].kill();
    for (n, run) in runs.iter().enumerate() {
        assert_eq!(cluster.status(0, run, "completed").await["output"], n, "{run}");
    }
    let seen = worker.stop().await;
    let each: BTreeSet<_> = seen.iter().collect();
    assert_eq!(seen.len(), each.len(), "no epoch twice: {seen:?}");
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}
