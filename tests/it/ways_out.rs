//! The ways out of a pause or a failure: settle a step by hand, hurry it, rewind, rerun.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use stepwell::machine::Limits;
use tokio::sync::Semaphore;

use crate::cluster::Cluster;
use crate::gateway::{Answer, Gateway, Handler, settled};

/// The path of an act on a step.
fn on(run: &str, step: &str, act: &str) -> String {
    format!("/v1/runs/{run}/steps/{step}/{act}")
}

/// One step after another, by name: `run` reports 1, `bad` fails for good until it is mended.
fn in_order(it: &Value, steps: &[&str], mended: bool) -> Value {
    for step in steps {
        if settled(it, step) {
            if it["steps"][step].get("error").is_some() {
                return json!({"error": {"type": "Gave", "message": step, "retry": "never"}});
            }
            continue;
        }
        let op = if step.starts_with("bad") && !mended {
            json!({"op": "run", "id": step, "error": {"type": "Bad", "retry": "never"}})
        } else if step.starts_with("wait") {
            json!({"op": "signal", "id": step, "name": step})
        } else {
            json!({"op": "run", "id": step, "value": format!("{step} of {}", it["run"]["seed"])})
        };
        return json!({"ops": [op]});
    }
    let values: serde_json::Map<String, Value> =
        steps.iter().map(|s| ((*s).to_owned(), it["steps"][s]["value"].clone())).collect();
    json!({"result": values})
}

fn ids(journal: &[Value]) -> Vec<(i64, &str)> {
    journal
        .iter()
        .filter_map(|e| Some((e["seq"].as_i64()?, e["id"].as_str().expect("an id"))))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_completes_or_fails_what_is_pending() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let open: Vec<&str> =
            ["nap", "call/back", "go", "work"].into_iter().filter(|s| !settled(it, s)).collect();
        if open.is_empty() {
            return json!({"result": it["steps"]});
        }
        json!({"ops": [
            {"op": "sleep", "id": "nap", "for": "7d"},
            {"op": "callback", "id": "call/back"},
            {"op": "signal", "id": "go", "name": "go"},
            {"op": "run", "id": "work", "error": {"type": "E", "after_ms": 3_600_000}},
        ], "await": {"settled": open}})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "retrying").await;

    let big = "3544790567247868102";
    let body = format!(r#"{{"value": {{ "n":{big}, "f":1.0 }}, "reason": "by phone"}}"#);
    let (status, _, text) = g.raw("POST", &on(&run, "nap", "complete"), &[], Some(body)).await;
    assert_eq!(status, 202, "{text:?}");
    let (_, _, value) = g.raw("GET", &format!("/v1/runs/{run}/values/nap"), &[], None).await;
    assert_eq!(&value[..], format!(r#"{{ "n":{big}, "f":1.0 }}"#).as_bytes(), "byte for byte");

    // A slash in an id is written as it is, or escaped.
    let error = json!({"error": {"type": "Declined", "message": "no funds"}});
    g.post(&on(&run, "call%2Fback", "fail"), error.clone()).await;
    g.post(&on(&run, "call/back", "fail"), error).await;
    let other = json!({"value": 1});
    let (status, code, problem) =
        g.refused("POST", &on(&run, "call/back", "complete"), Some(other)).await;
    assert_eq!((status, &*code), (410, "already-settled"));
    assert_eq!(problem["recorded"]["error"]["type"], "Declined", "{problem}");

    g.post(&on(&run, "go", "complete"), json!({"value": null})).await;
    g.post(&on(&run, "work", "complete"), json!({"value": "done by ann"})).await;
    let end = g.status(&run, "completed").await;
    assert_eq!(end["output"]["work"]["value"], "done by ann");
    assert_eq!(end["output"]["call/back"]["error"]["message"], "no funds");
    let told = g.happened(&run, "step.completed_by_hand").await;
    assert_eq!(told.len(), 3, "{told:#?}");
    let signals = g.get(&format!("/v1/runs/{run}/signals")).await;
    assert_eq!(signals["data"], json!([]), "none was sent");
    assert_eq!((&told[0]["by"], &told[0]["data"]["step"]), (&json!("local"), &json!("nap")));
    assert_eq!(told[0]["data"]["reason"], "by phone");
    assert_eq!(g.happened(&run, "step.failed_by_hand").await.len(), 1, "again is the same");

    let (status, code, _) =
        g.refused("POST", &on(&run, "nap", "complete"), Some(json!({"value": 1}))).await;
    assert_eq!((status, &*code), (409, "invalid-state"), "it has ended");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_kills_its_handler_is_done_by_hand_before_it_is_asked_for() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "deadly") {
            json!({"result": it["steps"]["deadly"]["value"]}).into()
        } else {
            Answer::status(500)
        }
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "retrying").await;
    let path = on(&run, "deadly", "complete");
    let (status, code, problem) = g.refused("POST", &path, Some(json!({"value": 7}))).await;
    assert_eq!((status, &*code), (404, "step-not-found"));
    assert!(problem["detail"].as_str().is_some_and(|d| d.contains("unasked")), "{problem}");
    g.post(&path, json!({"value": 7, "unasked": true})).await;
    g.post(&format!("/v1/runs/{run}/retry-now"), json!({})).await;
    assert_eq!(g.status(&run, "completed").await["output"], 7);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_a_step_is_read_strictly() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({"ops": [{"op": "callback", "id": "c"}]})).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    for (act, body, pointer) in [
        ("complete", json!({}), "#/value"),
        ("complete", json!({"value": 1, "valeu": 2}), "#/valeu"),
        ("fail", json!({}), "#/error"),
        ("fail", json!({"error": {"typ": "E"}}), "#/error"),
        ("retry-now", json!({"value": 1}), "#/value"),
    ] {
        let (status, code, problem) =
            g.refused("POST", &on(&run, "c", act), Some(body.clone())).await;
        assert_eq!((status, &*code), (422, "invalid-request"), "{act} {body}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    for path in [on(&run, "c", "explode"), format!("/v1/runs/{run}/steps/complete")] {
        assert_eq!(g.refused("POST", &path, Some(json!({}))).await.0, 404, "{path}");
    }
    let (status, code, _) = g.refused("POST", &on(&run, "c", "retry-now"), None).await;
    assert_eq!((status, &*code), (409, "invalid-state"), "it waits for no attempt");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_backs_off_is_tried_at_once() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let after = json!({"type": "E", "after_ms": 3_600_000});
        if settled(it, "a") {
            json!({"result": 1})
        } else if it["invocation"]["epoch"] == 1 {
            json!({"ops": [{"op": "run", "id": "a", "error": after},
                           {"op": "run", "id": "b", "error": after}], "await": "a"})
        } else {
            assert_eq!(it["steps"]["b"]["pending"], true, "b is not hurried: {it}");
            json!({"ops": [{"op": "run", "id": "a", "value": 1}], "await": "a"})
        }
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "retrying").await;
    g.post(&on(&run, "a", "retry-now"), json!({"reason": "mended"})).await;
    g.advance(Duration::from_millis(50));
    g.status(&run, "completed").await;
    let told = g.happened(&run, "step.hurried").await;
    assert_eq!((told.len(), &told[0]["data"]["reason"]), (1, &json!("mended")), "{told:?}");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_paused_run_a_failure_can_be_taken_back() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "bad") && it["steps"]["bad"].get("value").is_some() {
            return json!({"result": it["steps"]["bad"]["value"]});
        }
        if settled(it, "bad") {
            // Its handler asks for a person.
            return json!({"error": {"type": "Stuck", "retry": "pause"}});
        }
        in_order(it, &["good", "bad"], it["invocation"]["reason"] == "manual")
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "paused").await;
    let (status, code, _) = g.refused("POST", &on(&run, "good", "retry-now"), None).await;
    assert_eq!((status, &*code), (409, "invalid-state"), "a value stays");
    g.post(&on(&run, "bad", "retry-now"), json!({})).await;
    let view = g.status(&run, "paused").await;
    assert_eq!(view["attention"]["code"], "run-asks", "it stays paused until it is resumed");
    assert_eq!(ids(&g.journal(&run).await), [(1, "good")]);
    let (status, _, _) = g.refused("GET", &format!("/v1/runs/{run}/steps/bad"), None).await;
    assert_eq!(status, 404, "it is as if it had never been asked for");
    g.post(&format!("/v1/runs/{run}/resume"), json!({})).await;
    g.status(&run, "completed").await;
    assert_eq!(ids(&g.journal(&run).await), [(1, "good"), (3, "bad")], "numbers stay used");
    assert_eq!(g.happened(&run, "step.retaken").await[0]["by"], "local");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_is_rewound_and_goes_on_under_its_id() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| in_order(it, &["a", "bad", "c"], false)).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({"key": "k", "tags": {"t": "1"}, "timeouts": {"run": "1h"}})).await;
    let failed = g.status(&run, "failed").await;
    assert_eq!(failed["error"]["type"], "Gave");
    // Long after its deadline: it has its time anew.
    g.advance(Duration::from_secs(7_200));
    let (gate, before) = (Arc::new(Semaphore::new(0)), handler.count());
    let opens = Arc::clone(&gate);
    handler.now(move |it| Answer::held(&opens, in_order(it, &["a", "bad", "c"], true)));
    let view = g.post(&format!("/v1/runs/{run}/rewind"), json!({"reason": "mended"})).await;
    assert_eq!((&view["id"], &view["ended_at"]), (&json!(run), &Value::Null), "{view}");
    // Who has seen `a` is told of what settles after it, not of what was taken back.
    let next = format!("/v1/runs/{run}/journal?after=1&wait=20s");
    let (page, ()) = tokio::join!(g.get(&next), async {
        g.invoked(&handler, before + 1).await;
        gate.add_permits(100);
    });
    assert_eq!(page["data"][0]["id"], "bad", "{page}");
    let end = g.status(&run, "completed").await;
    assert_eq!((&end["key"], &end["tags"]), (&json!("k"), &json!({"t": "1"})));
    let journal = g.journal(&run).await;
    assert_eq!(ids(&journal), [(1, "a"), (3, "bad"), (4, "c")]);
    let reruns = handler.invocations().iter().filter(|it| !settled(it, "a")).count();
    assert_eq!(reruns, 1, "what had succeeded is not run again");
    let reopened = g.happened(&run, "run.reopened").await;
    assert_eq!((reopened.len(), &reopened[0]["data"]["reason"]), (1, &json!("mended")));
    let listed = g.get("/v1/runs?key=k").await;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");
    // One that has completed is left alone.
    let (status, code, _) = g.refused("POST", &format!("/v1/runs/{run}/rewind"), None).await;
    assert_eq!((status, &*code), (409, "invalid-state"));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewound_run_asks_anew_for_what_went_with_its_end() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if it["function"] == "child" {
            return match settled(it, "s") {
                true => json!({"result": "done"}),
                false => json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"}),
            };
        }
        if settled(it, "event") && settled(it, "child") {
            return json!({"result": [it["steps"]["event"]["value"]["data"], it["steps"]["child"]["value"]]});
        }
        json!({"ops": [
            {"op": "event", "id": "event", "event": "go", "match": {"data.n": 1}},
            {"op": "invoke", "id": "child", "function": "child"},
        ], "await": {"settled": ["event", "child"]}})
    })
    .await;
    g.register(&handler, json!(["f", "child"])).await;
    let run = g.run("f", json!({})).await;
    let child_of = async || {
        let list = g.get(&format!("/v1/runs?parent={run}&status=waiting")).await;
        list["data"][0]["id"].as_str().map(str::to_owned)
    };
    let status_shown = async |g: &Gateway| {
        g.advance(Duration::from_millis(300));
        child_of().await.is_some()
    };
    g.eventually("the child waits", status_shown).await;
    let first = child_of().await.expect("a child");
    g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
    g.status(&run, "terminated").await;
    g.post(&format!("/v1/runs/{run}/rewind"), json!({})).await;
    g.eventually("another child waits", async |g| {
        g.advance(Duration::from_millis(300));
        child_of().await.is_some_and(|child| child != first)
    })
    .await;
    let second = child_of().await.expect("a child");
    g.status(&run, "waiting").await;
    g.signal(&second, "s", json!(1)).await;
    g.post("/v1/events", json!({"name": "go", "data": {"n": 1}})).await;
    assert_eq!(g.status(&run, "completed").await["output"], json!([{"n": 1}, "done"]));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_survives_the_gateway_and_gives_way_to_a_new_holder_of_the_key() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| in_order(it, &["a", "bad", "wait"], false)).await;
    g.register(&handler, json!(["f"])).await;
    let first = g.run("f", json!({"key": "k"})).await;
    g.status(&first, "failed").await;
    handler.now(|it| in_order(it, &["a", "bad", "wait"], true));
    let second = g.run("f", json!({"key": "k"})).await;
    g.status(&second, "waiting").await;
    let path = format!("/v1/runs/{first}/rewind");
    let (status, code, problem) = g.refused("POST", &path, None).await;
    assert_eq!((status, &*code, &problem["run"]), (409, "run-exists", &json!(second)));
    assert_eq!(g.get(&format!("/v1/runs/{first}")).await["status"], "failed", "nothing was done");
    g.post(&format!("/v1/runs/{second}/terminate"), json!({})).await;
    g.post(&path, json!({})).await;
    g.status(&first, "waiting").await;

    let (db, clock) = (g.clock.clone(), g.kill().await);
    let g = Gateway::at(clock, Limits::default(), db).await;
    g.status(&first, "waiting").await;
    assert_eq!(ids(&g.journal(&first).await), [(1, "a"), (3, "bad")]);
    g.signal(&first, "wait", json!(1)).await;
    g.status(&first, "completed").await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_copies_what_came_before_a_step() {
    let g = Gateway::start().await;
    let steps = ["a", "b", "wait", "bad", "z"];
    let handler = Handler::serve(move |it| in_order(it, &steps, false)).await;
    g.register(&handler, json!(["f"])).await;
    let old = g.run("f", json!({"input": {"n": 1}, "key": "k", "tags": {"t": "1"}})).await;
    g.status(&old, "waiting").await;
    g.signal(&old, "spare", json!("left")).await;
    g.signal(&old, "wait", json!("taken")).await;
    let before = g.status(&old, "failed").await;
    let journal = g.journal(&old).await;

    handler.now(move |it| in_order(it, &steps, true));
    let path = format!("/v1/runs/{old}/rerun");
    let (status, code, problem) =
        g.refused("POST", &path, Some(json!({"from_step": "ghost"}))).await;
    assert_eq!((status, &*code), (422, "invalid-request"));
    assert_eq!(problem["errors"][0]["pointer"], "#/from_step");

    let body = json!({"from_step": "bad", "edits": {"b": {"edited": true}}, "keep_signals": true});
    let (status, headers, text) =
        g.raw("POST", &path, &[("idempotency-key", "once")], Some(body.to_string())).await;
    assert_eq!(status, 202, "{text:?}");
    let new: Value = serde_json::from_slice(&text).expect("JSON");
    let id = new["id"].as_str().expect("an id").to_owned();
    assert_eq!(headers["location"], format!("/v1/runs/{id}"));
    assert_eq!((&new["rerun_of"], &new["key"]), (&json!(old), &json!("k")));
    let (_, headers, text) =
        g.raw("POST", &path, &[("idempotency-key", "once")], Some(body.to_string())).await;
    assert_eq!(headers["idempotent-replayed"], "true");
    assert_eq!(serde_json::from_slice::<Value>(&text).expect("JSON")["id"], json!(id));

    let end = g.status(&id, "completed").await;
    assert_eq!(end["output"]["a"], journal[0]["value"], "copied");
    assert_eq!(end["output"]["b"], json!({"edited": true}));
    assert_eq!(end["output"]["wait"], "taken");
    let its: Vec<Value> =
        handler.invocations().into_iter().filter(|it| it["run"]["id"] == json!(id)).collect();
    assert_eq!(its[0]["run"]["idempotency_prefix"], format!("{id}.1/"));
    assert_eq!(its[0]["invocation"]["reason"], "start");
    assert_eq!(its[0]["inbox"], json!({"spare": 1}), "signals that no copied step took");
    assert_eq!(its[0]["input"], json!({"n": 1}));
    assert!(its.iter().all(|it| settled(it, "wait")), "it begins behind what was copied");
    assert_eq!(ids(&g.journal(&id).await).len(), 5);
    assert_eq!(g.happened(&id, "run.created").await[0]["data"]["rerun_of"], json!(old));
    // The original is as it was.
    assert_eq!(g.get(&format!("/v1/runs/{old}")).await, before);
    assert_eq!(g.journal(&old).await, journal);

    // From the start, with another input, it is a run like any other.
    let fresh = g.post(&path, json!({"input": 2})).await;
    let fresh = fresh["id"].as_str().expect("an id").to_owned();
    let view = g.status(&fresh, "waiting").await;
    assert_eq!((&view["input"], &view["steps"]["settled"]), (&json!(2), &json!(2)));
    // A live run keeps its key.
    let (status, code, _) = g.refused("POST", &path, None).await;
    assert_eq!((status, &*code), (409, "run-exists"));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_a_mismatch_there_is_more_than_one_way() {
    let g = Gateway::start().await;
    let old = Handler::serve(|it| {
        if settled(it, "go") {
            return json!({"result": "old"});
        }
        json!({"ops": [
            {"op": "run", "id": "a", "value": 1}, {"op": "sleep", "id": "s", "for": "1h"},
            {"op": "signal", "id": "go", "name": "go"},
        ], "await": "go"})
    })
    .await;
    // New code, to which `s` is a signal.
    let new = Handler::serve(|it| {
        if settled(it, "s") {
            return json!({"result": "new"});
        }
        json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"})
    })
    .await;
    let registered = g.register(&old, json!(["f"])).await;
    let deployment = registered["deployment"]["id"].clone();
    let mut runs = Vec::new();
    for _ in 0..5 {
        let run = g.run("f", json!({})).await;
        g.status(&run, "waiting").await;
        runs.push(run);
    }
    g.register(&new, json!(["f"])).await;
    for run in &runs {
        g.signal(run, "go", json!(1)).await;
        let attention = g.status(run, "paused").await["attention"].clone();
        assert_eq!(attention["code"], "mismatch");
        assert_eq!(
            (&attention["expected"], &attention["got"]),
            (&json!("sleep s"), &json!("signal s"))
        );
    }
    let [retried, elsewhere, again, by_hand, given_up] = &runs[..] else { panic!("five runs") };
    let resume = |run: &str| format!("/v1/runs/{run}/resume");

    // Settled by hand, it has an outcome, and the new code asks no more.
    g.post(&on(by_hand, "s", "complete"), json!({"value": 1})).await;
    g.post(&resume(by_hand), json!({})).await;
    assert_eq!(g.status(by_hand, "completed").await["output"], "new");
    // The code that began it ends it.
    g.post(&resume(elsewhere), json!({"deployment": deployment})).await;
    assert_eq!(g.status(elsewhere, "completed").await["output"], "old");
    // Run again, by the new code, without the step that means something else.
    let body = json!({"from_step": "s", "keep_signals": true});
    let rerun = g.post(&format!("/v1/runs/{again}/rerun"), body).await;
    let rerun = rerun["id"].as_str().expect("an id").to_owned();
    g.status(&rerun, "waiting").await;
    assert_eq!(ids(&g.journal(&rerun).await), [(1, "a"), (2, "go")]);
    g.signal(&rerun, "s", json!(1)).await;
    assert_eq!(g.status(&rerun, "completed").await["output"], "new");
    g.status(again, "paused").await;
    // Given up.
    g.post(&format!("/v1/runs/{given_up}/terminate"), json!({})).await;
    g.status(given_up, "terminated").await;
    // Retried, once the code is mended.
    new.now(|_| json!({"result": "mended"}));
    g.post(&resume(retried), json!({})).await;
    assert_eq!(g.status(retried, "completed").await["output"], "mended");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_works_through_a_node_that_does_not_drive_the_run() {
    let handler = Handler::serve(|it| in_order(it, &["a", "bad", "wait"], false)).await;
    let cluster = Cluster::start(2).await;
    cluster.register(&handler.url, &["f"]).await;
    cluster.balanced().await;
    let mut runs = Vec::new();
    for i in 0..8 {
        let run = cluster.run(i % 2, "f", &json!({})).await;
        cluster.status(0, &run, "failed").await;
        runs.push(run);
    }
    handler.now(|it| in_order(it, &["a", "bad", "wait"], true));
    for (i, run) in runs.iter().enumerate() {
        // Whichever node drives it, half of these go through the other.
        let node = i / 2 % 2;
        let path = format!("/v1/runs/{run}");
        let call = async |rest: &str, body: Value| {
            let (status, answer) =
                cluster.call(node, "POST", &format!("{path}{rest}"), Some(&body)).await;
            assert_eq!(status, 202, "{rest}: {answer}");
            answer
        };
        call("/rewind", json!({})).await;
        cluster.status(node, run, "waiting").await;
        call("/steps/wait/complete", json!({"value": i})).await;
        cluster.status(1 - node, run, "completed").await;
        let again = call("/rerun", json!({"from_step": "wait"})).await;
        let again = again["id"].as_str().expect("an id").to_owned();
        cluster.status(1 - node, &again, "waiting").await;
        let wait = format!("/v1/runs/{again}/steps/wait/complete");
        let body = json!({"value": i});
        assert_eq!(cluster.call(node, "POST", &wait, Some(&body)).await.0, 202);
        cluster.status(node, &again, "completed").await;
    }
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}
