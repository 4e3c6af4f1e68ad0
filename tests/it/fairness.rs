//! Limits with `fair`: values that have no limit of their own take turns.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::cluster::Cluster;
use crate::flow::gate;
use crate::gateway::{Answer, Gateway, Handler, settled};

async fn limited(handler: &Handler, settings: Value) -> Gateway {
    let g = Gateway::start().await;
    register(&g, handler, settings).await;
    g
}

async fn register(g: &Gateway, handler: &Handler, settings: Value) {
    let mut function = json!({"name": "f"});
    function.as_object_mut().expect("one").extend(settings.as_object().expect("one").clone());
    g.register(handler, json!([function])).await;
}

fn tenants(handler: &Handler) -> Vec<String> {
    let tenant = |it: &Value| it["input"]["tenant"].as_str().expect("a tenant").to_owned();
    handler.invocations().iter().map(tenant).collect()
}

async fn queued(g: &Gateway, so_many: usize) {
    g.eventually("all ask", async |g| {
        let limits = g.get("/v1/limits").await;
        limits["data"][0]["queued"] == so_many
    })
    .await;
}

/// Lets one more through after the other, so that nobody overtakes on the way to the handler.
async fn let_through(g: &Gateway, handler: &Handler, gate: &Semaphore, so_many: usize) {
    let before = handler.count();
    for n in 1..=so_many {
        gate.add_permits(1);
        g.invoked(handler, before + n).await;
    }
}

fn batch(tenant: &str, so_many: usize, priority: i64) -> Value {
    let one =
        |n| json!({"function": "f", "input": {"tenant": tenant, "n": n}, "priority": priority});
    json!({"runs": (0..so_many).map(one).collect::<Vec<_>>()})
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_new_does_not_wait_for_all_of_a_busy_tenant() {
    let (handler, gate) = gate().await;
    let g = limited(&handler, json!({"concurrency": [{"limit": 1, "fair": "input.tenant"}]})).await;
    g.post("/v1/runs/batch", batch("loud", 300, 0)).await;
    g.invoked(&handler, 1).await;
    queued(&g, 299).await;
    // One that is urgent takes nothing from others for later.
    g.post("/v1/runs/batch", batch("loud", 1, 10)).await;
    queued(&g, 300).await;
    let quiet = g.post("/v1/runs/batch", batch("quiet", 3, 0)).await;
    queued(&g, 303).await;
    let last = quiet["data"][2]["run"]["id"].as_str().map(str::to_owned);
    let last = last.unwrap_or_else(|| panic!("no id in {quiet}"));
    let view = g.get(&format!("/v1/runs/{last}")).await;
    let before = view["attention"]["limit"]["before"].as_u64().expect("a number");
    assert!(before <= 7, "{view}");
    let_through(&g, &handler, &gate, 8).await;
    let order = tenants(&handler);
    assert_eq!(order.iter().filter(|t| *t == "quiet").count(), 3, "{order:?}");
    let inputs: Vec<Value> = handler.invocations().iter().map(|it| it["input"].clone()).collect();
    assert_eq!(inputs[1], json!({"tenant": "loud", "n": 0}), "the urgent one goes first");
    let limit = &g.get("/v1/limits").await["data"][0];
    assert_eq!((&limit["fair"], &limit["key"]), (&json!("input.tenant"), &json!(null)), "{limit}");
    gate.add_permits(304);
    g.eventually("all have run", async |_| handler.count() == 304).await;
    g.eventually("all slots are free", async |g| {
        g.get("/v1/limits").await["data"][0]["running"] == 0
    })
    .await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_wakes_goes_before_the_younger_of_its_value_and_nobody_elses() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let handler = Handler::serve(move |it| {
        let nap = json!({"ops": [{"op": "signal", "id": "nap", "name": "go"}], "await": "nap"});
        match it["input"]["naps"] == true && !settled(it, "nap") {
            true => Answer::from(nap),
            false => Answer::held(&held, json!({"result": it["input"]})),
        }
    })
    .await;
    let g = limited(&handler, json!({"concurrency": [{"limit": 1, "fair": "input.tenant"}]})).await;
    let body = json!({"input": {"tenant": "a", "naps": true, "n": "old"}});
    let old = g.run("f", body).await;
    g.status(&old, "waiting").await;
    g.advance(Duration::from_secs(1));
    for tenant in ["a", "a", "a", "b"] {
        g.post("/v1/runs/batch", batch(tenant, 1, 0)).await;
    }
    g.invoked(&handler, 2).await;
    queued(&g, 3).await;
    g.signal(&old, "go", json!(1)).await;
    queued(&g, 4).await;
    let view = g.get(&format!("/v1/runs/{old}")).await;
    assert_eq!(view["attention"]["limit"]["before"], 0, "{view}");
    let_through(&g, &handler, &gate, 4).await;
    let seen: Vec<Value> =
        handler.invocations()[2..].iter().map(|it| it["input"].clone()).collect();
    assert_eq!(seen[0]["n"], "old", "{seen:?}");
    let order: Vec<&str> = seen.iter().filter_map(|input| input["tenant"].as_str()).collect();
    assert_eq!(order, ["a", "a", "b", "a"]);
    gate.add_permits(1);
    g.eventually("all slots are free", async |g| {
        g.get("/v1/limits").await["data"][0]["running"] == 0
    })
    .await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_may_be_fair_and_a_fair_that_is_lost_is_no_harm() {
    let handler = Handler::serve(|it| json!({"result": it["input"]})).await;
    let throttle = json!({"limit": 6, "period": "1h", "fair": "input.tenant"});
    let g = limited(&handler, json!({"throttle": throttle})).await;
    let function = g.get("/v1/functions/f").await;
    assert!(function.to_string().contains("\"fair\":\"input.tenant\""), "{function}");
    g.post("/v1/runs/batch", batch("loud", 8, 0)).await;
    g.invoked(&handler, 1).await;
    queued(&g, 7).await;
    g.post("/v1/runs/batch", batch("quiet", 1, 0)).await;
    queued(&g, 8).await;
    for n in 2..=4 {
        g.advance(Duration::from_mins(10));
        g.invoked(&handler, n).await;
    }
    assert!(tenants(&handler).contains(&"quiet".to_owned()), "{:?}", tenants(&handler));
    // Without it the older go first, also those that have turns.
    register(&g, &handler, json!({"throttle": {"limit": 6, "period": "1h"}})).await;
    g.post("/v1/runs/batch", batch("late", 1, 0)).await;
    queued(&g, 6).await;
    for n in 5..=10 {
        g.advance(Duration::from_mins(10));
        g.invoked(&handler, n).await;
    }
    assert_eq!(tenants(&handler)[9], "late");
    let bad = json!({"name": "g", "url": handler.url, "discover": false, "functions": [
        {"name": "f", "concurrency": [{"limit": 1, "key": "input.t", "fair": "input.t"}]}]});
    let (status, code, problem) = g.refused("POST", "/v1/endpoints", Some(bad)).await;
    assert_eq!((status, code.as_str()), (422, "invalid-request"), "{problem}");
    assert!(problem.to_string().contains("`fair` must be another path than `key`"), "{problem}");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_take_turns_whichever_nodes_their_runs_are_on() {
    let (handler, gate) = gate().await;
    let cluster = Cluster::start(2).await;
    let function = json!({"name": "f", "concurrency": [{"limit": 1, "fair": "input.tenant"}]});
    cluster.register_functions(&handler.url, vec![function]).await;
    cluster.balanced().await;
    let mut runs = Vec::new();
    let mut start = async |node: usize, tenant: &str, n: usize| {
        // By their keys they are of both nodes.
        let body = json!({"input": {"tenant": tenant, "n": n}, "key": format!("{tenant}{n}")});
        runs.push(cluster.run(node, "f", &body).await);
    };
    let queued = async |so_many: usize| {
        cluster
            .eventually("all ask", async || {
                let (_, limits) = cluster.call(0, "GET", "/v1/limits", None).await;
                limits["data"][0]["queued"] == so_many
            })
            .await;
    };
    for n in 0..60 {
        start(n % 2, "loud", n).await;
    }
    queued(59).await;
    for n in 0..4 {
        start(n % 2, "quiet", n).await;
    }
    queued(63).await;
    for n in 1..=10 {
        gate.add_permits(1);
        cluster.eventually("one more goes", async || handler.count() > n).await;
    }
    let order = tenants(&handler);
    assert_eq!(order.iter().filter(|t| *t == "quiet").count(), 4, "{order:?}");
    gate.add_permits(64);
    for run in &runs {
        cluster.status(0, run, "completed").await;
    }
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}
