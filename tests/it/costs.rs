//! What each kind of work costs in rows of the tables.

use std::collections::BTreeMap;

use serde_json::json;

use crate::gateway::{Answer, Gateway, Handler, settled};

/// How many rows of each kind the journal has, by the kinds' codes.
async fn kinds(g: &Gateway, run: &str) -> BTreeMap<i16, usize> {
    let id = run.parse().expect("the gateway's own id");
    let rows = g.db.store.rows_after(id, 0, -1, 10_000).await.expect("the journal can be read");
    let mut kinds = BTreeMap::new();
    for row in rows {
        *kinds.entry(row.kind.code()).or_default() += 1;
    }
    kinds
}

async fn left_in_transit(g: &Gateway) -> i64 {
    let inbox = g.db.number("select count(*) from inbox").await;
    inbox + g.db.number("select count(*) from outbox").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_step_is_one_row_and_an_invocation_that_goes_well_is_none() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let done = it["journal"]["upto"].as_u64().expect("a number");
        if done == 10 {
            json!({"result": 1})
        } else {
            json!({"ops": [{"op": "run", "id": format!("s{done}"), "value": done}]})
        }
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "completed").await;
    assert_eq!(handler.count(), 11);
    // `created`, ten times `done`, the end.
    assert_eq!(kinds(&g, &run).await, BTreeMap::from([(0, 1), (1, 10), (100, 1)]));
    assert_eq!(g.db.number("select count(*) from history").await, 0);
    assert_eq!(g.db.number("select count(*) from endpoint_health").await, 0);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_fails_is_one_row_and_so_is_the_step_in_the_end() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "s") {
            return json!({"result": 1});
        }
        json!({"ops": [{"op": "run", "id": "s", "error": {"type": "E", "message": "no"},
            "retry": {"max_attempts": 3, "initial": "1ms", "jitter": 0}}]})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.eventually("the run ends", async |g| {
        g.advance(std::time::Duration::from_millis(2));
        g.get(&format!("/v1/runs/{run}")).await["status"] == "completed"
    })
    .await;
    let mut kinds = kinds(&g, &run).await;
    // While it waits for the next attempt the turn is one that waits.
    let waits = kinds.remove(&10).unwrap_or(0);
    assert!(waits <= 2, "{waits}");
    assert_eq!(kinds, BTreeMap::from([(0, 1), (2, 1), (4, 2), (100, 1)]));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_is_its_asks_and_one_row_and_a_wake_is_what_settled() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "a") && settled(it, "b") {
            return json!({"result": 1});
        }
        json!({"ops": [{"op": "sleep", "id": "a", "for": "5s"}, {"op": "sleep", "id": "b", "for": "6s"}],
            "await": {"all": ["a", "b"]}})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    // Past the first seconds of a tenure, in which what is read anew is claimed.
    g.advance(std::time::Duration::from_secs(10));
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    assert_eq!(kinds(&g, &run).await, BTreeMap::from([(0, 1), (3, 2), (10, 1)]));
    g.advance(std::time::Duration::from_secs(7));
    g.status(&run, "completed").await;
    assert_eq!(kinds(&g, &run).await, BTreeMap::from([(0, 1), (1, 2), (3, 2), (10, 1), (100, 1)]));
    assert_eq!(handler.count(), 2);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_a_row_in_the_inbox_that_becomes_one_in_the_journal() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "go") {
            return json!({"result": 1});
        }
        json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    // Past the first seconds of a tenure, in which what is read anew is claimed.
    g.advance(std::time::Duration::from_secs(10));
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    g.signal(&run, "other", json!(1)).await;
    g.eventually("it has arrived", async |g| kinds(g, &run).await.contains_key(&7)).await;
    assert_eq!(left_in_transit(&g).await, 0);
    assert_eq!(g.db.number("select inbox::bigint from run_active").await, 1);
    g.signal(&run, "go", json!(1)).await;
    g.status(&run, "completed").await;
    assert_eq!(
        kinds(&g, &run).await,
        BTreeMap::from([(0, 1), (1, 1), (3, 1), (7, 1), (10, 1), (100, 1)])
    );
    assert_eq!(left_in_transit(&g).await, 0);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_outage_of_an_endpoint_costs_its_runs_no_row() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| Answer::status(404)).await;
    g.register(&handler, json!(["f"])).await;
    let mut runs = Vec::new();
    for _ in 0..20 {
        runs.push(g.run("f", json!({})).await);
    }
    for run in &runs {
        g.status(run, "parked").await;
    }
    handler.now(|_| json!({"result": 1}));
    g.advance(std::time::Duration::from_millis(1_500));
    for run in &runs {
        g.status(run, "completed").await;
        assert_eq!(kinds(&g, run).await, BTreeMap::from([(0, 1), (100, 1)]));
    }
    g.close().await;
}
