//! Runs that compact their journal, and runs that close scopes: what is sent stays small.

use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{Gateway, Handler, settled};

/// Does so many batches of ten steps, and compacts after each.
fn batches(it: &Value, most: u64) -> Value {
    let done = it["state"]["done"].as_u64().unwrap_or(0);
    if done == most {
        return json!({"result": it["state"]});
    }
    let mut ops: Vec<Value> = (0..10)
        .map(|k| json!({"op": "run", "id": format!("b{done}/{k}"), "value": "x".repeat(100)}))
        .collect();
    ops.push(json!({"op": "compact", "state": {"done": done + 1}}));
    json!({"ops": ops, "yield": true})
}

// P5.23, P2.31
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_compacts_is_sent_its_state_and_what_came_after_it() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| batches(it, 60)).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({"input": 1})).await;
    let view = g.status(&run, "completed").await;
    assert_eq!((&view["output"]["done"], &view["steps"]["settled"]), (&json!(60), &json!(600)));
    let invocations = handler.invocations();
    assert!(invocations[0].get("state").is_none());
    let last = invocations.last().expect("some");
    assert_eq!((&last["state"]["done"], &last["steps"]), (&json!(60), &json!({})));
    assert_eq!((&last["journal"]["upto"], &last["run"]["generation"]), (&json!(600), &json!(1)));
    // Bytes are linear in the steps: no invocation is longer than another.
    let sizes: Vec<usize> = handler.requests().iter().map(|(_, body)| body.len()).collect();
    let (least, most) = (sizes.iter().min().expect("some"), sizes.iter().max().expect("some"));
    assert!(most - least < 100, "{sizes:?}");
    // Reading the run anew reads little of it.
    let id = run.parse().expect("the gateway's own id");
    let loaded = g.db.store.load(&[id]).await.expect("it can be read");
    assert!(loaded[0].rows.len() <= 3, "{}", loaded[0].rows.len());
    // People see all of it.
    assert_eq!(g.journal(&run).await.len(), 600);
    assert_eq!(g.get(&format!("/v1/runs/{run}/steps/b0%2F3")).await["seq"], 4);
    let page = g.get(&format!("/v1/runs/{run}/history?limit=50")).await;
    let first =
        page["data"].as_array().expect("a list").iter().find(|e| e["type"] == "run.compacted");
    assert_eq!(first.map(|e| &e["data"]["state"]), Some(&json!({"done": 1})));
    g.close().await;
}

// P5.40
#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_and_who_waits_outlive_a_compaction_and_a_kill() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if it.get("state").is_none() {
            return json!({"ops": [{"op": "callback", "id": "c"}, {"op": "run", "id": "a", "value": 1},
                {"op": "signal", "id": "s", "name": "go"},
                {"op": "sleep", "id": "nap", "for": "1h"}, {"op": "compact", "state": [1]}],
                "await": {"all": ["a", "c", "s", "nap"]}});
        }
        assert!(it["steps"].get("a").is_none());
        if settled(it, "c") && settled(it, "s") && settled(it, "nap") {
            return json!({"result": [it["state"], it["steps"]["c"]["value"], it["steps"]["s"]["value"]]});
        }
        json!({"await": {"all": ["c", "s", "nap"]}})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    g.signal(&run, "other", json!(1)).await;
    let link = handler.invocations()[0]["links"]["callback"].as_str().expect("a link").to_owned();
    let link = link.replace(&g.url, "") + "c";
    let clock = g.clock.clone();
    let db = g.kill().await;
    let g = Gateway::at(db, stepwell::machine::Limits::default(), clock).await;
    g.signal(&run, "go", json!("signal")).await;
    assert_eq!(g.call("POST", &link, Some(json!("callback"))).await.0, 204);
    assert_eq!(g.get(&format!("/v1/runs/{run}")).await["status"], "waiting");
    g.advance(Duration::from_secs(3_601));
    let view = g.status(&run, "completed").await;
    assert_eq!(view["output"], json!([[1], "callback", "signal"]));
    let signals = g.get(&format!("/v1/runs/{run}/signals")).await;
    assert_eq!(signals["data"].as_array().map(Vec::len), Some(2), "{signals}");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_scopes_cost_no_more_than_their_steps() {
    const SCOPES: u64 = 1_500;
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let done = it["journal"]["upto"].as_u64().expect("a number");
        if done >= SCOPES * 4 {
            return json!({"result": done});
        }
        let mut ops = Vec::new();
        for n in done / 4..done / 4 + 50 {
            for k in 0..3 {
                ops.push(json!({"op": "run", "id": format!("m{n}/{k}"), "value": "x".repeat(50)}));
            }
            ops.push(json!({"op": "scope", "id": format!("m{n}"), "value": n}));
        }
        json!({"ops": ops})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    let begun = std::time::Instant::now();
    let view = g.status(&run, "completed").await;
    eprintln!("{SCOPES} scopes of three steps took {:?}", begun.elapsed());
    assert_eq!(view["output"], SCOPES * 4);
    // What is sent is what the scopes came to.
    let last = handler.requests().last().map_or(0, |(_, body)| body.len());
    assert!(last < 70 * usize::try_from(SCOPES).expect("few"), "{last}");
    g.close().await;
}
