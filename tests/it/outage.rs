//! Postgres goes away, falls silent, or commits and loses its answer.

use std::time::{Duration, Instant};

use serde_json::json;
use stepwell::store::testing::TestDb;

use crate::cluster::Cluster;
use crate::gateway::{Handler, settled};
use crate::load::{Load, all_is_well};
use crate::oracle::Oracle;
use crate::proxy::{Mood, Proxy};
use crate::sql::{connect, run_sql, text};

/// Three times as long as a node may be silent.
const THREE_LEASES: Duration = Duration::from_secs(9);

async fn postgres_goes_away(mood: Mood) {
    let db = TestDb::new().await;
    let proxy = Proxy::before(&db.url).await;
    let oracle = Oracle::default();
    let handler = oracle.serve().await;
    let mut cluster = Cluster::on(db, &proxy.url, 3).await;
    cluster.register(&handler, &["work"]).await;
    let load = Load::begin(&cluster, 4);
    cluster.eventually("there is load", async || load.acked() > 50).await;
    proxy.set(mood);
    let away = Instant::now();
    cluster
        .eventually("starts are refused for now", async || {
            let (status, _) = cluster
                .call(0, "POST", "/v1/functions/work/runs", Some(&json!({"input": {"n": 0}})))
                .await;
            status == 503
        })
        .await;
    let noticed = away.elapsed();
    assert!(noticed < Duration::from_secs(20), "noticed after {noticed:?}");
    tokio::time::sleep(THREE_LEASES.saturating_sub(away.elapsed())).await;
    assert!(load.refused() > 0, "no 503 had a `Retry-After`");
    for node in &mut cluster.nodes {
        assert!(node.runs(), "a node has ended");
    }
    proxy.set(Mood::Open);
    let back = Instant::now();
    let before = load.acked();
    cluster.eventually("work goes on", async || load.acked() > before + 20).await;
    eprintln!("{mood:?}: noticed after {noticed:?}, at work again after {:?}", back.elapsed());
    let acked = load.end().await;
    for node in &mut cluster.nodes {
        assert!(node.runs(), "a node has ended");
    }
    all_is_well(&cluster, &oracle, &acked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_ends_while_postgres_refuses_for_three_leases() {
    postgres_goes_away(Mood::Refusing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_ends_while_postgres_is_silent_for_three_leases() {
    postgres_goes_away(Mood::Silent).await;
}

#[tokio::test]
async fn what_a_node_could_not_let_go_of_it_lets_go_of_later() {
    let cluster = Cluster::start(1).await;
    let conn = tokio::sync::Mutex::new(connect(&cluster.db.url).await);
    let free = async || {
        let sql = "select count(*)::text from stepwell.lease_groups where owner is null";
        text(&mut *conn.lock().await, sql).await
    };
    cluster.eventually("it has all groups", async || free().await == "0").await;
    // Another node lives, and is slow to take its half.
    let other = "insert into stepwell.nodes (id, address, level, lease_until)
        select gen_random_uuid(), 'http://127.0.0.1:9', level, now() + interval '1 hour'
          from stepwell.nodes";
    run_sql(&mut *conn.lock().await, other).await;
    cluster.eventually("it lets go of half", async || free().await == "128").await;
    // As it is where what lets go of them never reaches the database.
    let lost = "update stepwell.lease_groups set owner = held.owner
        from (select distinct owner from stepwell.lease_groups where owner is not null) held
        where lease_groups.owner is null";
    run_sql(&mut *conn.lock().await, lost).await;
    cluster.eventually("it lets go of them again", async || free().await == "128").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_counts_once() {
    let db = TestDb::new().await;
    let proxy = Proxy::before(&db.url).await;
    // One step, then a signal, then the end: all of them alone in their lanes.
    let handler = Handler::serve({
        let proxy = proxy.clone();
        move |it| {
            if !settled(it, "one") {
                // The append of this very step.
                proxy.cut(1);
                json!({"ops": [{"op": "run", "id": "one", "value": it["invocation"]["epoch"]}]})
            } else if !settled(it, "go") {
                json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"})
            } else {
                json!({"result": it["steps"]["go"]["value"]})
            }
        }
    })
    .await;
    let cluster = Cluster::on(db, &proxy.url, 1).await;
    cluster.register(&handler.url, &["once"]).await;
    proxy.cut(1);
    let run = cluster.run(0, "once", &json!({"key": "k"})).await;
    assert_eq!(proxy.cuts(), 1, "the start's answer was to be lost");
    cluster.status(0, &run, "waiting").await;
    assert_eq!(proxy.cuts(), 2, "the append's answer was to be lost");
    let calls = handler.invocations();
    let ran = calls.iter().filter(|it| !settled(it, "one")).count();
    assert_eq!(ran, 1, "a recorded step ran again: {calls:#?}");
    proxy.cut(1);
    let signal = format!("/v1/runs/{run}/signals/go");
    let (status, answer) = cluster.call(0, "POST", &signal, Some(&json!({"payload": 7}))).await;
    assert_eq!((status, proxy.cuts()), (202, 3), "{answer}");
    let view = cluster.status(0, &run, "completed").await;
    assert_eq!(view["output"], 7);
    let signals = cluster.call(0, "GET", &format!("/v1/runs/{run}/signals"), None).await.1;
    assert_eq!(signals["data"].as_array().map(Vec::len), Some(1), "{signals}");
    let runs = cluster.call(0, "GET", "/v1/runs", None).await.1;
    assert_eq!(runs["data"].as_array().map(Vec::len), Some(1), "{runs}");
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_lost_at_random_lose_and_repeat_nothing() {
    let db = TestDb::new().await;
    let proxy = Proxy::before(&db.url).await;
    let oracle = Oracle::default();
    let handler = oracle.serve().await;
    let cluster = Cluster::on(db, &proxy.url, 2).await;
    cluster.register(&handler, &["work"]).await;
    let load = Load::begin(&cluster, 8);
    proxy.cut_some(25, 50);
    cluster.eventually("answers were lost", async || proxy.cuts() >= 25).await;
    let acked = load.end().await;
    all_is_well(&cluster, &oracle, &acked).await;
}
