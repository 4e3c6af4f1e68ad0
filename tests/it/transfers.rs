//! Objects on two nodes that die: a transfer between accounts keeps their sum, and who came first is
//! served first.

use std::time::Duration;

use serde_json::{Value, json};
use stepwell::engine::{CRASH_AT, Point};

use crate::cluster::Cluster;
use crate::gateway::{Handler, settled};

const ACCOUNTS: usize = 4;

/// An account takes two invocations to change, and a transfer is two of that. The log of an account has
/// who changed it, in their order.
fn bank(it: &Value) -> Value {
    let input = &it["input"];
    if it["function"] == "transfer" {
        let account = |id: &str, key: &str, by: i64| {
            let input = json!({"add": by, "by": it["run"]["id"]});
            json!({"op": "invoke", "id": id, "function": "account", "key": input_key(&it["input"], key),
                   "input": input})
        };
        return match (settled(it, "out"), settled(it, "in")) {
            (false, _) => json!({"ops": [account("out", "from", -1)], "await": "out"}),
            (true, false) => json!({"ops": [account("in", "to", 1)], "await": "in"}),
            (true, true) => json!({"result": null}),
        };
    }
    if it["function"] == "shift" {
        return shift(it);
    }
    let state = &it["object"]["state"];
    if !settled(it, "changed") {
        let after =
            state["balance"].as_i64().unwrap_or(0) + input["add"].as_i64().expect("a number");
        let mut log = state["log"].as_array().cloned().unwrap_or_default();
        log.push(input["by"].clone());
        return json!({"ops": [
            {"op": "run", "id": "changed", "value": after},
            {"op": "set", "key": "balance", "value": after},
            {"op": "set", "key": "log", "value": log},
        ], "yield": true});
    }
    // What it has staged is there, whichever node goes on with it.
    if state["balance"] != it["steps"]["changed"]["value"] {
        return json!({"error": {"type": "Lost", "message": state.to_string()}});
    }
    json!({"result": state["balance"]})
}

/// Both accounts in one run, in two invocations.
fn shift(it: &Value) -> Value {
    let objects = it["objects"].as_array().expect("both accounts");
    let changed = |n: usize, by: i64| {
        let state = &objects[n]["state"];
        let mut log = state["log"].as_array().cloned().unwrap_or_default();
        log.push(it["run"]["id"].clone());
        (state["balance"].as_i64().unwrap_or(0) + by, log)
    };
    if !settled(it, "both") {
        let mut ops = Vec::new();
        let mut after = Vec::new();
        for (n, by) in [(0, -1), (1, 1)] {
            let (balance, log) = changed(n, by);
            after.push(balance);
            let object = json!({"function": "account", "key": objects[n]["key"]});
            ops.push(json!({"op": "set", "object": object, "key": "balance", "value": balance}));
            ops.push(json!({"op": "set", "object": object, "key": "log", "value": log}));
        }
        ops.push(json!({"op": "run", "id": "both", "value": after}));
        return json!({"ops": ops, "yield": true});
    }
    let staged: Vec<&Value> = objects.iter().map(|o| &o["state"]["balance"]).collect();
    if json!(staged) != it["steps"]["both"]["value"] {
        return json!({"error": {"type": "Lost", "message": it["objects"].to_string()}});
    }
    json!({"result": null})
}

fn input_key(input: &Value, which: &str) -> Value {
    json!(format!("a{}", input[which].as_u64().expect("a number")))
}

/// Starts a run at whichever node answers.
async fn start(cluster: &Cluster, function: &str, body: &Value, idempotency: &str) -> String {
    let path = format!("/v1/functions/{function}/runs");
    for attempt in 0..400 {
        let sent =
            cluster.try_call(attempt % 2, "POST", &path, Some(body), Some(idempotency)).await;
        if let Some((202, run)) = sent {
            return run["id"].as_str().expect("an id").to_owned();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody answers")
}

async fn state(cluster: &Cluster, key: &str) -> Value {
    cluster.call(1, "GET", &format!("/v1/objects/account/{key}"), None).await.1["state"].clone()
}

// P8.13, P9.1, P9.4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_keep_the_sum_and_turns_their_order_whoever_dies() {
    let handler = Handler::serve(bank).await;
    let mut cluster = Cluster::start(2).await;
    let account = json!({"name": "account", "kind": "object"});
    let locks =
        ["from", "to"].map(|which| json!({"object": "account", "key": format!("input.{which}")}));
    let shift = json!({"name": "shift", "locks": locks});
    let functions = vec![account, json!({"name": "transfer"}), shift];
    cluster.register_functions(&handler.url, functions).await;
    let mut transfers = Vec::new();
    let (mut fifo, mut waits) = (0, Vec::new());
    for (times, point) in [
        (3, Point::InvokeAfter),
        (5, Point::FlushBefore),
        (6, Point::FlushAfter),
        (2, Point::DeliverAfter),
    ] {
        cluster.nodes[0].kill();
        let armed = format!("{}:{times}", point.word());
        cluster.nodes[0].start_with(&[(CRASH_AT, &armed)]);
        cluster.ready(&cluster.nodes[0].url).await;
        // It has to drive something before it can die of it; the other could do all the work before.
        cluster
            .eventually("it has groups, or has died already", async || {
                let groups = cluster.try_metric(0, "stepwell_lease_groups").await;
                groups.is_none_or(|groups| groups > 0.0)
            })
            .await;
        for round in 0.. {
            assert!(round < 60, "{armed} is never reached");
            for _ in 0..3 {
                let n = transfers.len();
                let body = json!({"input": {"from": n % ACCOUNTS, "to": (n + 1 + n / ACCOUNTS % 3) % ACCOUNTS}});
                transfers.push(start(&cluster, "transfer", &body, &format!("t{n}")).await);
                // The same two the other way round, at once.
                let key = |which: &str| input_key(&body["input"], which);
                let body = json!({"input": {"from": key("to"), "to": key("from")}});
                transfers.push(start(&cluster, "shift", &body, &format!("s{n}")).await);
                let body = json!({"key": "fifo", "input": {"add": 0, "by": fifo}});
                waits.push(start(&cluster, "account", &body, &format!("f{fifo}")).await);
                fifo += 1;
            }
            if !cluster.nodes[0].runs() {
                break;
            }
        }
    }
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    for run in transfers.iter().chain(&waits) {
        cluster.status(1, run, "completed").await;
    }
    let (mut sum, mut logged) = (0, Vec::new());
    for n in 0..ACCOUNTS {
        let state = state(&cluster, &format!("a{n}")).await;
        sum += state["balance"].as_i64().expect("a number");
        logged.extend(state["log"].as_array().expect("a list").clone());
    }
    assert_eq!(sum, 0, "nothing is lost or made");
    let mut expected: Vec<Value> =
        transfers.iter().flat_map(|run| [json!(run), json!(run)]).collect();
    let by_text = |a: &Value, b: &Value| a.as_str().cmp(&b.as_str());
    expected.sort_by(by_text);
    logged.sort_by(by_text);
    assert_eq!(logged, expected, "each was changed by each transfer once");
    let order: Vec<Value> = (0..fifo).map(|n| json!(n)).collect();
    assert_eq!(state(&cluster, "fifo").await["log"], json!(order), "first come, first served");
    cluster
        .eventually("nothing is on its way", async || {
            cluster.db.store.audit_idle().await.expect("the audit can be read").is_empty()
        })
        .await;
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}
