//! SIGKILL at random moments, under load, with three nodes: nothing that was acknowledged is lost,
//! nothing that was recorded runs again, everything finishes.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::load::{Load, all_is_well};
use crate::oracle::Oracle;

/// Rounds of SIGKILL: few in every test run, `CHAOS_ROUNDS=200` before a release.
fn rounds() -> usize {
    let rounds = std::env::var_os("CHAOS_ROUNDS").and_then(|n| n.to_str()?.parse().ok());
    rounds.unwrap_or(6)
}

// P9.1, P9.2, P9.3, P9.4, P9.5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_and_repeat_nothing() {
    let oracle = Oracle { lost_answers: 30, ..Oracle::default() };
    let handler = oracle.serve().await;
    let mut cluster = Cluster::start(3).await;
    cluster.register(&handler, &["work"]).await;
    let load = Load::begin(&cluster, 4);
    for round in 0..rounds() {
        let pause = 150 + rand::random::<u64>() % 900;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let victim = rand::random::<u32>() as usize % 3;
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
    let acked = load.end().await;
    for node in &cluster.nodes {
        cluster.ready(&node.url).await;
    }
    assert!(acked.len() > rounds(), "the load was no load: {} runs", acked.len());
    all_is_well(&cluster, &oracle, &acked).await;
    eprintln!(
        "{} rounds: {} runs, {} invocations, {} executions of steps",
        rounds(),
        acked.len(),
        oracle.invocations(),
        oracle.executions().len()
    );
}
