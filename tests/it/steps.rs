//! Steps: what is recorded, when the gateway invokes again, and what it refuses.

use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{Answer, Gateway, Handler, moment, settled};

const SECOND: Duration = Duration::from_secs(1);

/// The entry of a step in a journal.
fn entry<'a>(journal: &'a [Value], id: &str) -> &'a Value {
    journal.iter().find(|e| e["id"] == id).unwrap_or_else(|| panic!("no {id} in {journal:?}"))
}

// P2.11, P3.2, P3.11, P5.4, P5.41, P9.1
#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_recorded_once_and_its_first_outcome_wins() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let ops = json!([
            {"op": "run", "id": "a", "value": it["invocation"]["epoch"], "ms": 12},
            {"op": "run", "id": "b", "error": {"type": "Gone", "message": "x", "retry": "never", "data": {"k": 1.0}}},
            {"op": "run", "id": "nothing"},
        ]);
        if settled(it, "a") { json!({"ops": ops, "result": it["steps"]}) } else { json!({"ops": ops}) }
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    let view = g.status(&run, "completed").await;
    assert_eq!(view["output"]["a"], json!({"seq": 1, "op": "run", "value": 1}));
    let error = json!({"type": "Gone", "message": "x", "data": {"k": 1.0}, "attempts": 1});
    assert_eq!(view["output"]["b"], json!({"seq": 2, "op": "run", "error": error}));
    assert_eq!(view["output"]["nothing"]["value"], Value::Null);
    assert_eq!(view["steps"], json!({"settled": 3, "pending": 0}));
    let journal = g.journal(&run).await;
    let seqs: Vec<_> = journal.iter().map(|e| e["seq"].as_i64()).collect();
    assert_eq!(seqs, [Some(1), Some(2), Some(3)]);
    assert_eq!((&journal[0]["value"], &journal[0]["ms"]), (&json!(1), &json!(12)));
    assert_eq!(handler.count(), 2);
    assert_eq!(handler.invocations()[1]["invocation"]["reason"], "yield");
    g.close().await;
}

// P5.31, P5.33, P5.34, P5.36
#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_keeps_a_steps_retry_policy() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "flaky") {
            return json!({"result": it["steps"]["flaky"]["error"]});
        }
        let retry = json!({"max_attempts": 3, "initial": "10s", "factor": 2, "jitter": 0});
        let error =
            json!({"type": "Flaky", "message": format!("at {}", it["invocation"]["epoch"])});
        json!({"ops": [{"op": "run", "id": "flaky", "error": error, "retry": retry}]})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    let view = g.status(&run, "retrying").await;
    assert_eq!(view["attention"]["code"], "step-failing", "{view}");
    let step = entry(&g.journal(&run).await, "flaky").clone();
    assert_eq!((&step["seq"], &step["attempts"]), (&Value::Null, &json!(1)));
    assert_eq!(step["last_error"]["message"], "at 1");
    let due = moment(&step["next_attempt_at"]);
    assert_eq!(due.since(g.clock.lower()), 10 * SECOND);
    g.advance(9 * SECOND);
    // Something else that invokes it in the meantime does not make it due.
    g.status(&run, "retrying").await;
    assert_eq!(handler.count(), 1);
    g.advance(SECOND);
    let second = g.invoked(&handler, 2).await;
    assert_eq!(second["invocation"]["reason"], "retry");
    assert!(second["steps"].get("flaky").is_none(), "a step that is due is left out");
    g.status(&run, "retrying").await;
    g.advance(19 * SECOND);
    g.status(&run, "retrying").await;
    assert_eq!(handler.count(), 2, "the delay doubles");
    g.advance(SECOND);
    let view = g.status(&run, "completed").await;
    assert_eq!(view["output"]["attempts"], 3);
    assert_eq!(handler.count(), 4, "three attempts and the catch");
    let step = g.get(&format!("/v1/runs/{run}/steps/flaky")).await;
    assert_eq!(step["failed_attempts"].as_array().map(Vec::len), Some(3), "{step}");
    assert_eq!(step["attempts"], 3);
    assert_eq!(g.happened(&run, "attempt.failed").await.len(), 2);
    g.close().await;
}

// P2.12, P5.30, P5.32
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_attempt_is_shown_as_pending_and_after_ms_replaces_the_delay() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let pending = |id: &str| it["steps"][id]["pending"] == true;
        if settled(it, "slow") {
            return json!({"result": it["steps"]["slow"]["value"]});
        }
        let mut ops = vec![json!({"op": "signal", "id": "s", "name": "s"})];
        if !pending("slow") {
            ops.push(if it["invocation"]["reason"] == "start" {
                json!({"op": "run", "id": "slow", "error": {"type": "Busy", "message": "m", "after_ms": 45_000}})
            } else {
                json!({"op": "run", "id": "slow", "value": "done"})
            });
        }
        json!({"ops": ops, "await": if settled(it, "s") { "slow" } else { "s" }})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "retrying").await;
    g.signal(&run, "s", json!(1)).await;
    let second = g.invoked(&handler, 2).await;
    let shown = &second["steps"]["slow"];
    assert_eq!((&shown["pending"], &shown["attempt"]), (&json!(true), &json!(1)), "{second}");
    assert_eq!(shown["last_error"]["type"], "Busy");
    let left = moment(&shown["next_attempt_at"]).since(g.clock.lower());
    assert_eq!(left, 45 * SECOND);
    g.advance(45 * SECOND);
    let view = g.status(&run, "completed").await;
    assert_eq!(view["output"], "done");
    g.close().await;
}

// P5.31, P8.2
#[tokio::test(flavor = "multi_thread")]
async fn the_policy_of_function_and_run_holds_where_the_op_has_none() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "x") {
            return json!({"result": it["steps"]["x"]["error"]["attempts"]});
        }
        json!({"ops": [{"op": "run", "id": "x", "error": {"type": "E", "message": "m"}}]})
    })
    .await;
    let retry = json!({"max_attempts": 2, "initial": "1s"});
    g.register(&handler, json!([{"name": "f", "retry": retry}])).await;
    let of_function = g.run("f", json!({})).await;
    let of_run = g.run("f", json!({"retry": {"max_attempts": 4, "initial": "1ms"}})).await;
    let elapsed = json!({"retry": {"max_attempts": 100, "initial": "4s", "factor": 1, "jitter": 0, "max_elapsed": "9s"}});
    let elapsed = g.run("f", elapsed).await;
    for run in [&of_function, &of_run, &elapsed] {
        let path = format!("/v1/runs/{run}");
        g.eventually("it ends", async |g| {
            g.advance(Duration::from_millis(250));
            !g.get(&path).await["ended_at"].is_null()
        })
        .await;
    }
    let attempts = async |run: &str| g.get(&format!("/v1/runs/{run}")).await["output"].clone();
    assert_eq!(attempts(&of_function).await, 2);
    assert_eq!(attempts(&of_run).await, 4);
    assert_eq!(attempts(&elapsed).await, 3, "at 0 s, 4 s and 8 s");
    g.close().await;
}

// P5.30
#[tokio::test(flavor = "multi_thread")]
async fn never_settles_at_once_and_pause_asks_for_a_person() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "x") {
            return json!({"result": "went on"});
        }
        let value = it["invocation"]["reason"] == "manual";
        let op = if value {
            json!({"op": "run", "id": "x", "value": 1})
        } else {
            json!({"op": "run", "id": "x", "error": {"type": "Odd", "message": "look", "retry": "pause"}})
        };
        json!({"ops": [op]})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    let view = g.status(&run, "paused").await;
    assert_eq!(view["attention"]["code"], "step-asks", "{view}");
    assert!(view["attention"]["detail"].as_str().is_some_and(|d| d.contains("Odd: look")));
    g.advance(Duration::from_secs(3600));
    g.status(&run, "paused").await;
    assert_eq!(handler.count(), 1);
    g.post(&format!("/v1/runs/{run}/resume"), json!({})).await;
    assert_eq!(g.status(&run, "completed").await["output"], "went on");
    assert_eq!(entry(&g.journal(&run).await, "x")["attempts"], 2);
    g.close().await;
}

// P5.6, P5.7, P9.2
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_was_begun_runs_at_most_once() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let step = &it["steps"]["once"];
        let answer = if settled(it, "once") {
            json!({"result": step})
        } else if step["started"] == true {
            // The work is done, and the answer is lost.
            return if it["input"] == "crash" {
                Answer::status(500)
            } else {
                json!({"ops": [{"op": "run", "id": "once", "value": "ran"}]}).into()
            };
        } else {
            json!({"ops": [{"op": "start", "id": "once"}]})
        };
        answer.into()
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let fine = g.run("f", json!({})).await;
    assert_eq!(g.status(&fine, "completed").await["output"]["value"], "ran");
    let crash = g.run("f", json!({"input": "crash"})).await;
    g.status(&crash, "retrying").await;
    g.advance(SECOND);
    let view = g.status(&crash, "completed").await;
    assert_eq!(view["output"]["error"]["type"], "step-interrupted", "{view}");
    g.close().await;
}

// P3.4, P3.5, P3.6, P3.7, P3.14, P3.15
#[tokio::test(flavor = "multi_thread")]
async fn trees_wait_for_what_they_say() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let done = it["invocation"]["reason"] != "start";
        if done {
            return json!({"result": it["steps"]});
        }
        let signals = ["a", "b", "c"].map(|n| json!({"op": "signal", "id": n, "name": n}));
        let mut ops = signals.to_vec();
        ops.push(json!({"op": "callback", "id": "cb"}));
        json!({"ops": ops, "await": it["input"]})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    // Each letter is a signal in this order; a digit is how many are needed. `x` fails the callback.
    for (tree, events, needed) in [
        (json!("b"), "acb", 3),
        (json!({"all": ["a", "b", "c"]}), "cab", 3),
        (json!({"any": ["a", "b"]}), "ca", 2),
        (json!({"settled": ["a", "cb"]}), "xa", 2),
        (json!({"all": ["a", "cb"]}), "x", 1),
        (json!({"any": ["a", "cb"]}), "x", 1),
        (json!({"all": ["a", {"any": ["b", "c"]}]}), "cba", 3),
        (json!({"any": [{"all": ["a", "b"]}, {"settled": ["c", "cb"]}]}), "acx", 3),
        (json!({"all": [{"settled": ["cb"]}, "a"]}), "xa", 2),
    ] {
        let run = g.run("f", json!({"input": tree})).await;
        g.status(&run, "waiting").await;
        let callback = handler.invocations().last().expect("one")["links"]["callback"].clone();
        let callback = callback.as_str().expect("a URL").trim_start_matches(&g.url).to_owned();
        for (i, event) in events.chars().enumerate() {
            if i > 0 {
                g.status(&run, "waiting").await;
            }
            if event == 'x' {
                let path = format!("{callback}cb?outcome=error");
                g.post(&path, json!({"type": "X", "message": "m"})).await;
            } else {
                g.signal(&run, &event.to_string(), json!(null)).await;
            }
        }
        let view = g.status(&run, "completed").await;
        assert_eq!(view["invocations"], 2, "{tree}: {needed} messages, one invocation more");
        let reason = handler.invocations().last().expect("one")["invocation"]["reason"].clone();
        assert_eq!(reason, "progress", "{tree}");
    }
    g.close().await;
}

// P2.13, P3.15, P5.9
#[tokio::test(flavor = "multi_thread")]
async fn sleeps_fire_when_due_in_order_and_once() {
    let g = Gateway::start().await;
    let until = g.moment(600);
    let handler = Handler::serve(move |it| {
        if ["short", "long", "until"].iter().all(|s| settled(it, s)) {
            return json!({"result": it["steps"]});
        }
        json!({"ops": [
            {"op": "sleep", "id": "long", "for": "P1D"},
            {"op": "sleep", "id": "until", "until": until},
            {"op": "sleep", "id": "short", "for": "5s"},
        ], "await": {"all": ["short", "long", "until"]}})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    let view = g.status(&run, "waiting").await;
    assert_eq!(view["waiting_for"].as_array().map(Vec::len), Some(3), "{view}");
    g.advance(Duration::from_secs(86_399));
    g.status(&run, "waiting").await;
    assert_eq!(handler.count(), 1, "never early");
    g.advance(SECOND);
    let view = g.status(&run, "completed").await;
    let seq = |id: &str| view["output"][id]["seq"].as_i64();
    assert_eq!((seq("short"), seq("until"), seq("long")), (Some(1), Some(2), Some(3)));
    assert_eq!(handler.count(), 2, "what is due together costs one invocation");
    g.close().await;
}

// P3.11, P3.12
#[tokio::test(flavor = "multi_thread")]
async fn asking_again_for_what_is_pending_is_no_reason_to_invoke() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "second") {
            return json!({"result": 1});
        }
        // No terminal field: any of what is pending.
        json!({"ops": [
            {"op": "signal", "id": "first", "name": "first"},
            {"op": "signal", "id": "second", "name": "second"},
        ]})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    g.signal(&run, "first", json!(1)).await;
    g.invoked(&handler, 2).await;
    g.status(&run, "waiting").await;
    g.advance(Duration::from_secs(60));
    g.status(&run, "waiting").await;
    assert_eq!(handler.count(), 2);
    g.signal(&run, "second", json!(2)).await;
    g.status(&run, "completed").await;
    assert_eq!(handler.count(), 3);
    g.close().await;
}

// P3.9, P3.13
#[tokio::test(flavor = "multi_thread")]
async fn three_answers_without_progress_pause_the_run() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["input"].as_str() {
        Some("yield") => json!({"yield": true}),
        Some("empty") => json!({}),
        Some("log") => {
            json!({"ops": [{"op": "log", "level": "info", "message": "again"}], "yield": true})
        }
        // A tree that is satisfied already.
        _ => json!({"ops": [{"op": "run", "id": "a", "value": 1}], "await": "a"}),
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    for (input, invocations) in [("yield", 3), ("empty", 3), ("log", 3), ("tree", 4)] {
        let before = handler.count();
        let run = g.run("f", json!({"input": input})).await;
        let view = g.status(&run, "paused").await;
        assert_eq!(view["attention"]["code"], "no-progress", "{view}");
        assert_eq!(handler.count() - before, invocations, "{input}");
        g.post(&format!("/v1/runs/{run}/resume"), json!({})).await;
        g.eventually("three more", async |_| handler.count() - before >= invocations + 3).await;
        g.status(&run, "paused").await;
        g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
    }
    g.close().await;
}

// P5.42, P5.43, P5.44
#[tokio::test(flavor = "multi_thread")]
async fn a_mismatch_records_nothing_and_says_what_was_expected() {
    let g = Gateway::start().await;
    let old = |it: &Value| {
        if settled(it, "x") {
            json!({"result": "old"})
        } else {
            json!({"ops": [{"op": "sleep", "id": "x", "for": "1h"}, {"op": "run", "id": "first", "value": 1}], "await": "x"})
        }
    };
    let handler = Handler::serve(old).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    handler.now(|_| {
        json!({"ops": [
            {"op": "run", "id": "new", "value": 1},
            {"op": "status", "value": "half"},
            {"op": "signal", "id": "x", "name": "s"},
        ], "result": "wrong"})
    });
    g.advance(Duration::from_secs(3600));
    let view = g.status(&run, "paused").await;
    let attention = &view["attention"];
    assert_eq!(attention["code"], "mismatch", "{view}");
    assert_eq!(attention["expected"], "sleep x");
    assert_eq!(attention["got"], "signal x");
    assert_eq!(view["custom_status"], Value::Null);
    let journal = g.journal(&run).await;
    assert_eq!(journal.len(), 2, "nothing of that answer was recorded: {journal:?}");
    handler.now(old);
    g.post(&format!("/v1/runs/{run}/resume"), json!({})).await;
    assert_eq!(g.status(&run, "completed").await["output"], "old");
    g.close().await;
}

// P5.3
#[tokio::test(flavor = "multi_thread")]
async fn steps_may_be_inserted_removed_and_reordered_between_invocations() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| {
        json!({"ops": [
            {"op": "run", "id": "a", "value": 1}, {"op": "run", "id": "b", "value": 2},
            {"op": "signal", "id": "s", "name": "s"},
        ], "await": "s"})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    handler.now(|it| {
        if settled(it, "between") {
            return json!({"result": it["steps"]});
        }
        json!({"ops": [
            {"op": "signal", "id": "s", "name": "s"}, {"op": "run", "id": "b", "value": 20},
            {"op": "run", "id": "between", "value": 3},
        ]})
    });
    g.signal(&run, "s", json!("went")).await;
    let view = g.status(&run, "completed").await;
    assert_eq!(view["output"]["b"]["value"], 2);
    assert_eq!(view["output"]["between"]["seq"], 4);
    g.close().await;
}

// P3.1, P3.8, P3.23, P3.24, P3.25, P5.1
#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_is_named_retried_and_then_paused_never_failed() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let text = it["input"].as_str().expect("text").to_owned();
        Answer::Raw(text.into_bytes())
    })
    .await;
    let retry = json!({"max_attempts": 3, "initial": "1s", "factor": 1});
    g.register(&handler, json!([{"name": "f", "invocation_retry": retry}])).await;
    let mut runs = Vec::new();
    for (answer, named) in [
        (r#"{"ops":[{"op":"teleport","id":"a"}]}"#, "teleport"),
        (r#"{"ops":[{"op":"task","id":"a"}]}"#, "task"),
        (r#"{"ops":[{"op":"run","id":"a","valeu":1}]}"#, "valeu"),
        (r#"{"ops":[{"op":"run","id":"a","value":1,"error":{}}]}"#, "\"a\""),
        (r#"{"resutl":1}"#, "resutl"),
        (r#"{"result":1,"await":"a"}"#, "await"),
        (r#"{"await":"ghost"}"#, "ghost"),
        (r#"{"await":{"every":["a"]}}"#, "await"),
        (r#"{"ops":[{"op":"sleep","id":"a","for":"soon"}]}"#, "soon"),
        (r#"{"ops":[{"op":"run","id":"","value":1}]}"#, "id"),
        (r#"{"ops":[{"op":"run","id":"a","value":1},{"op":"run","id":"a","value":2}]}"#, "\"a\""),
        (r#"{"yield":false}"#, "yield"),
        (r#"[1]"#, "object"),
        (r#"{"result":"#, "JSON"),
        ("", "empty"),
        ("<html>busy</html>", "object"),
    ] {
        runs.push((g.run("f", json!({"input": answer})).await, answer, named));
    }
    for (run, ..) in &runs {
        g.status(run, "retrying").await;
    }
    let all = runs.len();
    g.advance_until_invoked(&handler, 3 * all, Duration::from_millis(300)).await;
    for (run, answer, named) in &runs {
        let view = g.status(run, "paused").await;
        assert_eq!(view["attention"]["code"], "invocations-used-up", "{view}");
        let detail = view["attention"]["detail"].as_str().expect("words");
        assert!(detail.contains(named) && detail.contains("malformed"), "{answer}: {detail}");
        assert_eq!(view["steps"], json!({"settled": 0, "pending": 0}), "{answer}");
        let failed = g.happened(run, "invocation.failed").await;
        assert_eq!(failed.len(), 3, "{answer}: {failed:?}");
        assert_eq!(failed[0]["data"]["body"], *answer, "the answer is kept");
        assert_eq!(failed[0]["data"]["status"], 200);
    }
    handler.now(|_| json!({"result": "mended"}));
    for (run, ..) in &runs {
        g.post(&format!("/v1/runs/{run}/resume"), json!({})).await;
        g.status(run, "completed").await;
    }
    g.close().await;
}

// P3.3, P5.35, P8.2
#[tokio::test(flavor = "multi_thread")]
async fn a_run_level_error_follows_the_runs_policy() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({"error": {"type": "Broke", "message": "again"}})).await;
    let functions = json!([
        "once", {"name": "thrice", "run_retry": {"max_attempts": 3, "initial": "5s", "jitter": 0}}
    ]);
    g.register(&handler, functions).await;
    let once = g.run("once", json!({})).await;
    assert_eq!(g.status(&once, "failed").await["error"]["type"], "Broke");
    let run = g.run("thrice", json!({})).await;
    let view = g.status(&run, "retrying").await;
    assert_eq!(view["attention"]["code"], "run-failing", "{view}");
    g.advance_until_invoked(&handler, 3, SECOND).await;
    g.status(&run, "retrying").await;
    g.advance_until_invoked(&handler, 4, SECOND).await;
    let view = g.status(&run, "failed").await;
    assert_eq!(view["error"]["message"], "again");
    g.close().await;
}
