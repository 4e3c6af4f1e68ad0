//! Parents and children on two nodes, and death at the points between them: a child runs once, its
//! end is told once, a signal from run to run is taken once.

use std::time::Duration;

use serde_json::{Value, json};
use stepwell::engine::{CRASH_AT, Point};

use crate::cluster::Cluster;
use crate::gateway::{Handler, settled};

/// How many parents each death has.
const PARENTS: usize = 6;

/// A parent asks for three children, one with a key of its own shard, and takes a signal from each.
fn family(it: &Value) -> Value {
    let input = &it["input"];
    if it["function"] == "parent" {
        let ids = ["0", "1", "2"];
        if ids.iter().all(|id| settled(it, id) && settled(it, &format!("hears/{id}"))) {
            let of = |id: &&str| it["steps"][*id]["value"].clone();
            return json!({"result": ids.iter().map(of).collect::<Vec<Value>>()});
        }
        let mut ops = Vec::new();
        for id in ids {
            let told = json!({"parent": it["run"]["id"], "n": id});
            let mut child = json!({"op": "invoke", "id": id, "function": "child", "input": told});
            if id == "0" {
                child["key"] = json!(format!("{}-{id}", input.as_i64().expect("a number")));
            }
            ops.push(child);
            ops.push(json!({"op": "signal", "id": format!("hears/{id}"), "name": id}));
        }
        return json!({"ops": ops, "await": {"all": [
            "0", "1", "2", "hears/0", "hears/1", "hears/2",
        ]}});
    }
    if !settled(it, "tells") {
        let tells = json!({"op": "send", "id": "tells", "run": input["parent"],
            "signal": input["n"], "payload": it["run"]["id"]});
        return json!({"ops": [tells], "await": "tells"});
    }
    json!({"result": it["run"]["id"]})
}

/// Every parent has ended with three children of its own; nothing is left over.
async fn all_is_well(cluster: &Cluster, parents: &[String]) {
    for parent in parents {
        let view = cluster.status(1, parent, "completed").await;
        let path = format!("/v1/runs?parent={parent}");
        let page = cluster.call(1, "GET", &path, None).await.1;
        let mut born: Vec<&str> = page["data"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|c| c["id"].as_str())
            .collect();
        let mut told: Vec<&str> =
            view["output"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        born.sort_unstable();
        told.sort_unstable();
        assert_eq!(born, told, "each child once: {view}");
        let signals = format!("/v1/runs/{parent}/signals");
        let signals = cluster.call(1, "GET", &signals, None).await.1;
        assert_eq!(signals["data"].as_array().map(Vec::len), Some(3), "{signals}");
    }
    cluster
        .eventually("nothing is on its way", async || {
            let idle = cluster.db.store.audit_idle().await.expect("the audit can be read");
            idle.is_empty()
        })
        .await;
    let findings = cluster.db.store.audit().await.expect("the audit can be read");
    assert!(findings.is_empty(), "{findings:?}");
}

async fn begin(cluster: &Cluster, node: usize, from: usize) -> Vec<String> {
    let mut parents = Vec::new();
    for n in from..from + PARENTS {
        let body = json!({"input": n});
        // Who dies meanwhile answers nobody: the other one does.
        let path = "/v1/functions/parent/runs";
        let key = format!("start-{n}");
        for attempt in 0.. {
            assert!(attempt < 400, "nobody answers");
            let at = if attempt % 2 == 0 { node } else { 1 };
            if let Some((202, run)) =
                cluster.try_call(at, "POST", path, Some(&body), Some(&key)).await
            {
                parents.push(run["id"].as_str().expect("an id").to_owned());
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    parents
}

// P5.46
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_between_parent_and_child_loses_and_repeats_nothing() {
    for (times, point) in [
        (1, Point::DeliverBefore),
        (1, Point::DeliverAfter),
        (4, Point::DeliverBefore),
        (5, Point::DeliverAfter),
        (3, Point::FlushAfter),
        (1, Point::EndAfter),
    ] {
        let handler = Handler::serve(family).await;
        let mut cluster = Cluster::start(2).await;
        cluster.register(&handler.url, &["parent", "child"]).await;
        cluster.balanced().await;
        cluster.nodes[0].kill();
        let armed = format!("{}:{times}", point.word());
        cluster.nodes[0].start_with(&[(CRASH_AT, &armed)]);
        let mut parents = begin(&cluster, 0, 0).await;
        let mut more = PARENTS;
        while cluster.nodes[0].runs() {
            assert!(more < 40 * PARENTS, "{armed} is never reached");
            parents.extend(begin(&cluster, 0, more).await);
            more += PARENTS;
        }
        cluster.nodes[0].kill();
        cluster.nodes[0].start();
        all_is_well(&cluster, &parents).await;
    }
}

/// Rounds of SIGKILL: few in every test run.
fn rounds() -> usize {
    let rounds = std::env::var_os("CHAOS_ROUNDS").and_then(|n| n.to_str()?.parse().ok());
    rounds.unwrap_or(4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_random_moments_leave_families_whole() {
    let handler = Handler::serve(family).await;
    let mut cluster = Cluster::start(2).await;
    cluster.register(&handler.url, &["parent", "child"]).await;
    let mut parents = Vec::new();
    for round in 0..rounds() {
        parents.extend(begin(&cluster, round % 2, round * PARENTS).await);
        let pause = rand::random::<u64>() % 700;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let victim = rand::random::<u32>() as usize % 2;
        cluster.nodes[victim].kill();
        cluster.nodes[victim].start();
    }
    for node in &cluster.nodes {
        cluster.ready(&node.url).await;
    }
    all_is_well(&cluster, &parents).await;
}
