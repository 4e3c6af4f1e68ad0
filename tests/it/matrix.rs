//! The gateway dies by its own `SIGKILL` at every point at which something was just recorded or is
//! about to be; and the controls, engines that do wrong and are found out.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::json;
use stepwell::engine::{CRASH_AT, DO_WRONG, Point, Wrong};

use crate::cluster::Cluster;
use crate::load::{Load, all_is_well, faults};
use crate::oracle::Oracle;

/// How many clusters go through it at a time.
const AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_any_point_loses_nothing_and_repeats_nothing() {
    // Its runs say nothing to each other; those that do die in `families`, those that hear of
    // events in `events`, those that a clock starts in `schedules`, those that are acted on as one of
    // many in `bulk`, those of SQL in `sql`.
    let silent = |p: &Point| {
        use Point::{DeliverAfter, DeliverBefore, FireAfter, FireBefore, RouteAfter, RouteBefore};
        let told = matches!(p, DeliverBefore | DeliverAfter | RouteBefore | RouteAfter);
        let of_sql = matches!(p, Point::SqlBefore | Point::SqlAfter);
        !told && !of_sql && !matches!(p, FireBefore | FireAfter | Point::BulkActed)
    };
    let points: Vec<Point> = Point::ALL.into_iter().filter(silent).collect();
    let count = points.len();
    let died = futures::stream::iter(points).map(die_at).buffer_unordered(AT_ONCE);
    assert_eq!(died.count().await, count);
}

/// One node dies at this point while another lives, and comes back.
async fn die_at(point: Point) {
    let oracle = Oracle { lost_answers: 30, ..Oracle::default() };
    let handler = oracle.serve().await;
    let mut cluster = Cluster::start(2).await;
    // Only who has limits asks them.
    let work = match point {
        Point::PassBefore | Point::PassAfter => {
            json!({"name": "work", "concurrency": [{"limit": 3}]})
        }
        _ => json!({"name": "work"}),
    };
    cluster.register_functions(&handler, vec![work]).await;
    cluster.balanced().await;
    // The one that is to die starts anew: it claims what is its share, and serves.
    cluster.nodes[0].kill();
    let times = match point {
        Point::LeaseClaimed | Point::HandoverMid => 1,
        _ => 2 + rand::random::<u32>() % 8,
    };
    cluster.nodes[0].start_with(&[(CRASH_AT, &format!("{}:{times}", point.word()))]);
    let load = Load::begin(&cluster, 2);
    if point == Point::HandoverMid {
        // Only who has groups can give some up; it may have done so already.
        let begun = Instant::now();
        while cluster.nodes[0].runs() {
            if cluster.try_metric(0, "stepwell_lease_groups").await.is_some_and(|n| n > 0.0) {
                cluster.nodes[0].signal("TERM");
                break;
            }
            assert!(begun.elapsed() < Duration::from_mins(2), "it gets no groups");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let status = cluster.nodes[0].ended().await;
    assert!(status.code().is_none(), "{}: it was to be killed: {status}", point.word());
    cluster.nodes[0].start();
    cluster.ready(&cluster.nodes[0].url).await;
    let acked = load.end().await;
    assert!(!acked.is_empty(), "{}: the load was no load", point.word());
    all_is_well(&cluster, &oracle, &acked).await;
}

/// Kills a node of a cluster that does this wrong, some times; what the checkers say of it.
async fn found_of(wrong: Wrong) -> Vec<String> {
    let oracle = Oracle::default();
    let handler = oracle.serve().await;
    let variables = [(DO_WRONG, wrong.word())];
    let mut cluster = Cluster::start_with(1, &variables).await;
    cluster.register(&handler, &["work"]).await;
    let mut found = Vec::new();
    for _ in 0..5 {
        let load = Load::begin(&cluster, 8);
        let begun = oracle.invocations();
        cluster.eventually("the load is on", async || oracle.invocations() > begun + 200).await;
        cluster.nodes[0].kill();
        cluster.nodes[0].start_with(&variables);
        cluster.ready(&cluster.nodes[0].url).await;
        let acked = load.end().await;
        found = faults(&cluster, &oracle, &acked, Duration::from_secs(5)).await;
        if !found.is_empty() {
            break;
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_shows_before_it_writes_is_found_out() {
    let found = found_of(Wrong::ShownBeforeWritten).await;
    assert!(found.iter().any(|f| f.contains("prefixes") || f.contains("nobody")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_lends_an_epoch_twice_is_found_out() {
    let found = found_of(Wrong::EpochFromTheLastRow).await;
    assert!(found.iter().any(|f| f.contains("in two exchanges")), "{found:?}");
}
