//! What operators do to runs: cancel, terminate, pause, resume, retry now, in every state.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::gateway::{Answer, Gateway, Handler, moment, settled};

const MINUTE: Duration = Duration::from_secs(60);

fn waits(_: &Value) -> Value {
    json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"})
}

/// Undoes its step when it is cancelled.
fn compensates(it: &Value) -> Value {
    if it["cancel"].is_null() {
        return json!({"ops": [
            {"op": "run", "id": "charge", "value": 1}, {"op": "signal", "id": "s", "name": "s"},
        ], "await": "s"});
    }
    if settled(it, "refund") {
        return json!({"result": it["cancel"]["reason"]});
    }
    json!({"ops": [{"op": "run", "id": "refund", "value": 1}]})
}

async fn act(g: &Gateway, run: &str, act: &str) -> Value {
    g.post(&format!("/v1/runs/{run}/{act}"), json!({"reason": "a test"})).await
}

/// Runs in every live state, by status.
async fn in_every_state(g: &Gateway, handler: &Handler) -> Vec<(&'static str, String)> {
    let dead = "http://127.0.0.1:9/";
    g.register(handler, json!(["waits", "hangs", "fails", "steps", "idle"])).await;
    handler.now(|it| match it["function"].as_str() {
        Some("hangs") => Answer::Hang,
        Some("fails") => Answer::status(500),
        Some("steps") => {
            json!({"ops": [{"op": "run", "id": "x", "error": {"type": "E", "after_ms": 3_600_000}}]})
                .into()
        }
        Some("idle") => json!({"yield": true}).into(),
        _ => waits(it).into(),
    });
    let other =
        json!({"name": "dead", "url": dead, "functions": [{"name": "gone"}], "discover": false});
    let other = g.post("/v1/endpoints", other).await;
    let id = other["endpoint"]["id"].as_str().expect("an id").to_owned();
    g.post(&format!("/v1/endpoints/{id}/disable"), json!({})).await;
    let mut runs = Vec::new();
    for (status, function, body) in [
        ("scheduled", "waits", json!({"delay": "1h"})),
        ("waiting", "waits", json!({})),
        ("running", "hangs", json!({})),
        ("retrying", "fails", json!({})),
        ("retrying", "steps", json!({})),
        ("paused", "idle", json!({})),
        ("parked", "gone", json!({})),
    ] {
        let run = g.run(function, body).await;
        g.status(&run, status).await;
        runs.push((status, run));
    }
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn terminate_ends_a_run_in_every_state_at_once() {
    let g = Gateway::start().await;
    let handler = Handler::serve(waits).await;
    for (status, run) in in_every_state(&g, &handler).await {
        let count = handler.count();
        let view = act(&g, &run, "terminate").await;
        assert_eq!(view["status"], "terminated", "from {status}: {view}");
        assert_eq!(view["error"]["type"], "run-terminated");
        assert_eq!(act(&g, &run, "terminate").await["status"], "terminated", "again is no error");
        for other in ["cancel", "pause", "resume", "retry-now"] {
            let path = format!("/v1/runs/{run}/{other}");
            let (status, code, problem) = g.refused("POST", &path, None).await;
            assert_eq!((status, &*code), (409, "invalid-state"), "{problem}");
            assert!(
                problem["detail"].as_str().is_some_and(|d| d.contains("terminated")),
                "{problem}"
            );
        }
        assert_eq!(handler.count(), count, "the handler is not called");
        let ends = g.happened(&run, "run.terminated").await;
        assert_eq!((ends.len(), &ends[0]["by"]), (1, &json!("local")));
    }
    g.close().await;
}

// P3.36, P3.37
#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_a_run_in_every_state_after_the_handler_had_its_say() {
    let g = Gateway::start().await;
    let handler = Handler::serve(waits).await;
    let runs = in_every_state(&g, &handler).await;
    // From now on every invocation carries a cancel, and the handler compensates.
    handler.now(|it| {
        let done = json!({"ops": [{"op": "run", "id": "undo", "value": 1}], "result": "undone"});
        if it["cancel"].is_null() { json!({"yield": true}) } else { done }
    });
    for (status, run) in &runs {
        let count = handler.count();
        act(&g, run, "cancel").await;
        if *status == "parked" {
            continue;
        }
        let view = g.status(run, "cancelled").await;
        let invoked = *status != "scheduled";
        assert_eq!(handler.count() - count, usize::from(invoked), "{status}");
        assert_eq!(view["steps"]["settled"], i32::from(invoked), "{status}: {view}");
        if invoked {
            let it = handler.invocations().pop().expect("one");
            assert_eq!(it["invocation"]["reason"], "cancel", "{status}");
            assert_eq!(it["cancel"]["reason"], "a test", "{status}");
        }
        assert_eq!(act(&g, run, "cancel").await["status"], "cancelled", "again is no error");
        let path = format!("/v1/runs/{run}/resume");
        assert_eq!(&*g.refused("POST", &path, None).await.1, "invalid-state");
    }
    // Never invoked: nothing to compensate.
    g.status(&runs.last().expect("some").1, "cancelled").await;
    g.close().await;
}

// P3.35, P3.36
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_compensates_until_its_deadline() {
    let g = Gateway::start().await;
    let handler = Handler::serve(compensates).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    act(&g, &run, "cancel").await;
    let view = g.status(&run, "cancelled").await;
    assert_eq!(view["steps"]["settled"], 2, "{view}");
    let it = handler.invocations()[1].clone();
    assert_eq!(moment(&it["cancel"]["deadline"]), g.clock.lower() + MINUTE);
    assert_eq!(g.happened(&run, "run.cancelling").await[0]["data"]["reason"], "a test");

    // One that does not end by itself is ended by the deadline, whatever it does meanwhile.
    for (grace, seconds) in
        [(json!({}), 60), (json!({"grace": "10s"}), 10), (json!({"grace": "2h"}), 7200)]
    {
        handler.now(waits);
        let run = g.run("f", json!({})).await;
        g.status(&run, "waiting").await;
        g.post(&format!("/v1/runs/{run}/cancel"), grace).await;
        let count = handler.count();
        let view = g.status(&run, "waiting").await;
        assert_eq!(view["waiting_for"][0]["step"], "s", "it may wait for something: {view}");
        g.advance(Duration::from_secs(seconds - 1));
        g.status(&run, "waiting").await;
        act(&g, &run, "cancel").await;
        g.advance(Duration::from_secs(1));
        g.status(&run, "cancelled").await;
        assert!(handler.count() - count <= 1, "a second cancel is no second deadline");
    }
    g.close().await;
}

// P3.16, P9.3
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_did_not_see_the_cancel_is_refused_and_noted() {
    let g = Gateway::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let gate = Arc::clone(&gate);
        Handler::serve(move |it| {
            if it["cancel"].is_null() {
                let late =
                    json!({"ops": [{"op": "run", "id": "late", "value": 1}], "result": "late"});
                Answer::held(&gate, late)
            } else {
                json!({"result": null}).into()
            }
        })
        .await
    };
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.invoked(&handler, 1).await;
    // An exchange is open. It is not waited for.
    act(&g, &run, "cancel").await;
    let view = g.status(&run, "cancelled").await;
    assert_eq!(view["steps"]["settled"], 0, "{view}");
    gate.add_permits(1);
    let other = g.run("f", json!({})).await;
    g.invoked(&handler, 3).await;
    act(&g, &other, "pause").await;
    act(&g, &other, "cancel").await;
    gate.add_permits(1);
    g.status(&other, "cancelled").await;
    assert!(g.journal(&other).await.iter().all(|e| e["id"] != "late"));
    g.close().await;
}

// P9.4
#[tokio::test(flavor = "multi_thread")]
async fn cancel_and_completion_race_to_one_end() {
    let g = Gateway::start().await;
    // One for each run, by its input.
    let gates: Vec<_> = (0..16).map(|_| Arc::new(Semaphore::new(0))).collect();
    let held = gates.clone();
    let handler = Handler::serve(move |it| {
        if it["cancel"].is_null() {
            let ends = json!({"ops": [{"op": "run", "id": "a", "value": 1}], "result": 1});
            let which = it["input"].as_u64().and_then(|n| usize::try_from(n).ok());
            Answer::held(&held[which.expect("a number")], ends)
        } else {
            json!({"ops": [{"op": "run", "id": "undo", "value": 1}], "result": 2}).into()
        }
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let race = async |n: usize| {
        let run = g.run("f", json!({"input": n})).await;
        let path = format!("/v1/runs/{run}/cancel");
        let (answer, cancel) = (|| gates[n].add_permits(1), g.call("POST", &path, None));
        // The answer is on its way before the cancel, with it, or after it.
        let (status, answer) = match n % 4 {
            0 => {
                answer();
                cancel.await
            }
            1 => {
                let said = cancel.await;
                answer();
                assert_eq!(said.0, 202, "it is in time: {}", said.1);
                said
            }
            _ => {
                let late = async {
                    for _ in 0..n {
                        tokio::task::yield_now().await;
                    }
                    answer();
                };
                tokio::join!(cancel, late).0
            }
        };
        assert!(
            status == 202 || (status == 409 && answer["code"] == "invalid-state") || status == 410,
            "{status} {answer}"
        );
        let path = format!("/v1/runs/{run}?wait=20s");
        let view = g.get(&path).await;
        let history = g.history(&run).await;
        let at = |what: &str, step: Option<&str>| {
            history.iter().position(|e| e["type"] == what && e["data"]["step"].as_str() == step)
        };
        let ends = ["run.completed", "run.cancelled"].map(|end| at(end, None));
        assert_eq!(ends.iter().flatten().count(), 1, "one end: {history:?}");
        if view["status"] == "completed" {
            assert!(at("step.settled", Some("undo")).is_none(), "{history:?}");
            assert_ne!(status, 202, "an accepted cancel of a run that completed all the same");
        } else {
            // An answer whose end lost to the cancel keeps what it did before it; nothing after.
            assert_eq!(view["status"], "cancelled", "{view}");
            let cancelling = at("run.cancelling", None).expect("it is in the history");
            assert!(at("step.settled", Some("a")).is_none_or(|a| a < cancelling), "{history:?}");
        }
    };
    for _ in 0..8 {
        futures::future::join_all((0..16).map(race)).await;
    }
    g.close().await;
}

// P9.5
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_rests_in_every_state_and_goes_on_where_it_was() {
    let g = Gateway::start().await;
    let handler = Handler::serve(waits).await;
    let runs = in_every_state(&g, &handler).await;
    for (status, run) in &runs {
        let view = act(&g, run, "pause").await;
        assert_eq!(view["status"], "paused", "from {status}: {view}");
        if *status != "paused" {
            assert_eq!(view["attention"]["code"], "operator", "from {status}: {view}");
            assert!(view["attention"]["detail"].as_str().is_some_and(|d| d.contains("a test")));
        }
        assert_eq!(act(&g, run, "pause").await["status"], "paused", "again is no error");
        let path = format!("/v1/runs/{run}/retry-now");
        let (_, code, problem) = g.refused("POST", &path, None).await;
        assert_eq!(
            (&*code, problem["detail"].as_str().map(|d| d.contains("paused"))),
            ("invalid-state", Some(true))
        );
    }
    let count = handler.count();
    g.advance(Duration::from_secs(2 * 3600));
    for (_, run) in &runs {
        g.status(run, "paused").await;
    }
    assert_eq!(handler.count(), count, "nobody is invoked");
    handler.now(|it| json!({"result": it["steps"]}));
    for (status, run) in &runs {
        let view = act(&g, run, "resume").await;
        assert_ne!(view["status"], "paused", "from {status}: {view}");
        match *status {
            "waiting" => {
                g.status(run, "waiting").await;
                g.signal(run, "s", json!(1)).await;
                assert_eq!(g.status(run, "completed").await["output"]["s"]["value"], 1);
            }
            // Its endpoint is still disabled; its exchange is still open.
            "parked" | "running" => drop(g.status(run, status).await),
            _ => drop(g.status(run, "completed").await),
        }
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_takes_signals_and_its_open_exchange_may_finish() {
    let g = Gateway::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let gate = Arc::clone(&gate);
        Handler::serve(move |it| {
            if settled(it, "s") {
                return json!({"result": it["steps"]}).into();
            }
            let ops = json!([{"op": "run", "id": "a", "value": 1}, {"op": "signal", "id": "s", "name": "s"}]);
            Answer::held(&gate, json!({"ops": ops, "await": "s"}))
        })
        .await
    };
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.invoked(&handler, 1).await;
    act(&g, &run, "pause").await;
    gate.add_permits(1);
    g.eventually("its answer is recorded", async |g| g.journal(&run).await.len() == 2).await;
    g.status(&run, "paused").await;
    g.signal(&run, "s", json!("while paused")).await;
    g.eventually("the signal is taken", async |g| {
        g.journal(&run).await.iter().all(|e| !e["seq"].is_null())
    })
    .await;
    g.status(&run, "paused").await;
    assert_eq!(handler.count(), 1);
    act(&g, &run, "resume").await;
    let view = g.status(&run, "completed").await;
    assert_eq!(view["output"]["s"]["value"], "while paused");
    g.close().await;
}

// P5.44
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_resumes_on_another_deployment_and_stays_there() {
    let g = Gateway::start().await;
    let old = Handler::serve(|_| json!({"yield": true})).await;
    let first = g.register(&old, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "paused").await;
    let new =
        Handler::serve(|it| if settled(it, "s") { json!({"result": "new"}) } else { waits(it) })
            .await;
    let second = g.register(&new, json!(["f"])).await;
    let id = |r: &Value| r["deployment"]["id"].clone();
    let path = format!("/v1/runs/{run}/resume");
    let absent = json!({"deployment": "dep_01k9c3v5h2e8x8p0m4s6t7w9yz"});
    assert_eq!(&*g.refused("POST", &path, Some(absent)).await.1, "deployment-not-found");
    g.post(&path, json!({"deployment": id(&second)})).await;
    let view = g.status(&run, "waiting").await;
    assert_eq!(view["deployment"], id(&second));
    // Registered anew with the old code: this run stays where it was put by hand.
    g.register(&old, json!(["f"])).await;
    g.signal(&run, "s", json!(1)).await;
    assert_eq!(g.status(&run, "completed").await["output"], "new");
    assert_ne!(id(&first), id(&second));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_now_hurries_what_backs_off() {
    let g = Gateway::start().await;
    let handler = Handler::serve(waits).await;
    let runs = in_every_state(&g, &handler).await;
    handler.now(|it| {
        if it["steps"].get("x").is_none() {
            json!({"ops": [{"op": "run", "id": "x", "value": "hurried"}], "result": "now"})
        } else {
            json!({"result": "x was not due"})
        }
    });
    for (status, run) in &runs {
        match *status {
            "retrying" | "scheduled" => {
                let view = act(&g, run, "retry-now").await;
                assert_ne!(view["status"], "paused", "{view}");
                let view = g.status(run, "completed").await;
                assert_eq!(view["output"], "now", "from {status}: {view}");
                assert_eq!(g.happened(run, "run.hurried").await.len(), 1);
            }
            "parked" => {
                // Disabled by an operator: no hurry helps.
                act(&g, run, "retry-now").await;
                g.status(run, "parked").await;
            }
            _ => {
                let path = format!("/v1/runs/{run}/retry-now");
                let (code, word, _) = g.refused("POST", &path, None).await;
                assert_eq!((code, &*word), (409, "invalid-state"), "from {status}");
            }
        }
    }
    let path = "/v1/runs/run_01k9c3v5h2e8x8p0m4s6t7w9yz/cancel";
    assert_eq!(&*g.refused("POST", path, None).await.1, "run-not-found");
    let path = format!("/v1/runs/{}/cancel", runs[0].1);
    assert_eq!(g.refused("POST", &path, Some(json!({"raeson": 1}))).await.0, 422);
    g.close().await;
}
