//! Functions that say `strict`: the input of a recorded step is the recorded one.

use serde_json::json;

use crate::gateway::{Gateway, Handler, settled};

/// Runs `charge` for an amount that is told by its hash, then waits for a word.
fn charges(hash: &'static str) -> impl Fn(&serde_json::Value) -> serde_json::Value {
    move |it| {
        let charge = json!({"op": "run", "id": "charge", "value": 1, "input_hash": hash});
        if settled(it, "go") {
            json!({"ops": [charge], "result": "ok"})
        } else {
            json!({"ops": [charge, {"op": "signal", "id": "go", "name": "go"}], "await": "go"})
        }
    }
}

// P5.42
#[tokio::test(flavor = "multi_thread")]
async fn another_input_of_a_recorded_step_is_a_mismatch_where_the_function_is_strict() {
    let g = Gateway::start().await;
    let handler = Handler::serve(charges("a1")).await;
    let functions = json!([{"name": "strict", "strict": true}, {"name": "lax"}]);
    let body = json!({"protocol": [1, 1], "functions": functions});
    let discovered = Handler::serve(move |_| body.clone()).await;
    let ask = json!({"name": "test", "url": discovered.url, "secret": crate::gateway::SECRET});
    g.post("/v1/endpoints", ask).await;
    discovered.now(charges("a1"));
    let (strict, lax) = (g.run("strict", json!({})).await, g.run("lax", json!({})).await);
    for run in [&strict, &lax] {
        g.status(run, "waiting").await;
    }
    drop(handler);
    // The hash is durable: another gateway knows it.
    let db = g.kill().await;
    db.forget_nodes().await;
    let g = Gateway::on(db, stepwell::machine::Limits::default()).await;
    discovered.now(charges("b2"));
    for run in [&strict, &lax] {
        g.signal(run, "go", json!(1)).await;
    }
    g.status(&lax, "completed").await;
    let view = g.status(&strict, "paused").await;
    assert_eq!(view["attention"]["code"], "mismatch", "{view}");
    assert_eq!(view["attention"]["expected"], "run charge with input_hash a1", "{view}");
    assert_eq!(view["attention"]["got"], "run charge with input_hash b2", "{view}");
    let noted = "select count(*) from journal where kind = 9";
    assert_eq!(g.db.number(noted).await, 1, "who is not strict pays nothing");
    // Back to the code that began it.
    discovered.now(charges("a1"));
    g.post(&format!("/v1/runs/{strict}/resume"), json!({})).await;
    assert_eq!(g.status(&strict, "completed").await["output"], "ok");
    g.close().await;
}
