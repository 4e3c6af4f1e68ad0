//! The transport `checkpoint` (`docs/protocol.md` section 4) and 202 (section 3), from outside: the
//! test plays the handler's part while its invocation is open.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::gateway::{Answer, Gateway, Handler, settled};

/// What a handler knows of its invocation.
struct Open {
    path: String,
    token: String,
    epoch: i64,
    key: String,
}

impl Open {
    fn of(it: &Value) -> Self {
        let run = it["run"]["id"].as_str().expect("a run");
        Self {
            path: format!("/v1/runs/{run}/checkpoint"),
            token: format!("Bearer {}", it["token"].as_str().expect("a token")),
            epoch: it["invocation"]["epoch"].as_i64().expect("an epoch"),
            key: run.to_owned(),
        }
    }

    async fn send(&self, g: &Gateway, query: &str, body: Value) -> (u16, Value) {
        let path = format!("{}{query}", self.path);
        let headers = [("authorization", self.token.as_str())];
        let (status, _, text) = g.raw("POST", &path, &headers, Some(body.to_string())).await;
        (status, serde_json::from_slice(&text).unwrap_or(Value::Null))
    }

    /// A checkpoint that is taken.
    async fn say(&self, g: &Gateway, body: Value) -> Value {
        let (status, told) = self.send(g, "", body.clone()).await;
        assert_eq!(status, 200, "{body}: {told}");
        told
    }

    /// One that is not: its status and code.
    async fn refused(&self, g: &Gateway, body: Value) -> (u16, String) {
        let (status, told) = self.send(g, "", body).await;
        (status, told["code"].as_str().unwrap_or_else(|| panic!("taken: {told}")).to_owned())
    }
}

/// A handler whose every invocation waits for a permit and then answers so.
async fn gated(gate: &Arc<Semaphore>, answer: Answer) -> Handler {
    let gate = Arc::clone(gate);
    Handler::serve(move |_| Answer::held(&gate, answer.clone())).await
}

fn value(id: &str, value: Value) -> Value {
    json!({"op": "run", "id": id, "value": value})
}

fn empty() -> Answer {
    Answer::Raw(Vec::new())
}

async fn opened(g: &Gateway, h: &Handler) -> Open {
    g.register(h, json!(["f"])).await;
    g.run("f", json!({"input": 1})).await;
    Open::of(&g.invoked(h, 1).await)
}

// P4.6, P4.8, P4.9, P4.10, P4.11, P4.12, P4.13, P4.29, P4.32
#[tokio::test]
async fn each_checkpoint_is_durable_when_it_is_answered_and_a_repeat_is_answered_the_same() {
    let (g, gate) = (Gateway::start().await, Arc::new(Semaphore::new(0)));
    let h = gated(&gate, Answer::status(202)).await;
    let open = opened(&g, &h).await;
    let first = json!({"n": 1, "ops": [value("a", json!(3544790567247868102_i64))]});
    let told = open.say(&g, first.clone()).await;
    assert_eq!(
        (&told["ack"], &told["upto"], &told["cancel"]),
        (&json!(1), &json!(1), &json!(null))
    );
    assert_eq!(
        told["steps"],
        json!({"a": {"seq": 1, "op": "run", "value": 3544790567247868102_i64}})
    );
    assert!(told["budget_ms"].as_i64().is_some_and(|ms| ms > 0 && ms <= 55_000), "{told}");
    assert_eq!(g.journal(&open.key).await.len(), 1, "it is recorded");
    assert_eq!(open.say(&g, first.clone()).await, told, "the answer was lost");

    // Section 4: `n` counts from 1; a skipped one and another body are refused.
    let other = json!({"n": 1, "ops": [value("a", json!(2))]});
    assert_eq!(open.refused(&g, other).await, (422, "checkpoint-reused".to_owned()));
    let skipped = json!({"n": 3, "ops": [value("c", json!(3))]});
    assert_eq!(open.refused(&g, skipped).await, (422, "checkpoint-skipped".to_owned()));
    for bad in [json!({"n": 0}), json!({"n": 2, "op": []}), json!({"ops": [value("b", json!(1))]})]
    {
        assert_eq!(open.refused(&g, bad).await, (422, "invalid-request".to_owned()));
    }
    let told =
        open.say(&g, json!({"n": 2, "ops": [value("b", json!(2)), value("c", json!(3))]})).await;
    let new: Vec<&str> =
        told["steps"].as_object().expect("steps").keys().map(String::as_str).collect();
    assert_eq!((new, &told["upto"]), (vec!["b", "c"], &json!(3)), "only what is new");
    // What was recorded first wins, and is shown.
    let told =
        open.say(&g, json!({"n": 3, "ops": [value("a", json!(99)), value("d", json!(4))]})).await;
    assert_eq!(told["steps"]["a"]["value"], 3544790567247868102_i64);
    assert_eq!(told["steps"]["d"]["seq"], 4);

    let last = json!({"n": 4, "ops": [value("e", json!(5))], "result": "out"});
    assert_eq!(open.say(&g, last.clone()).await["upto"], 5);
    let run = g.status(&open.key, "completed").await;
    assert_eq!(run["output"], "out");
    assert_eq!(open.say(&g, last).await["ack"], 4, "also when the run has ended");
    assert_eq!(open.refused(&g, json!({"n": 5})).await, (410, "run-ended".to_owned()));
    gate.add_permits(1);
    // One invocation was enough, and its 202 is no second word.
    assert_eq!((h.count(), &run["invocations"]), (1, &json!(1)), "{run}");
    assert_eq!(g.happened(&open.key, "invocation.late").await, [] as [Value; 0]);
    g.close().await;
}

// P4.12
#[tokio::test]
async fn an_answer_may_follow_its_checkpoints() {
    let (g, gate) = (Gateway::start().await, Arc::new(Semaphore::new(0)));
    let h = gated(&gate, Answer::Json(json!({"ops": [value("b", json!(2))], "result": 2}))).await;
    let open = opened(&g, &h).await;
    open.say(&g, json!({"n": 1, "ops": [value("a", json!(1))]})).await;
    gate.add_permits(1);
    g.status(&open.key, "completed").await;
    let steps: Vec<Value> = g.journal(&open.key).await.iter().map(|s| s["id"].clone()).collect();
    assert_eq!(steps, ["a", "b"]);
    assert_eq!(h.count(), 1);
    g.close().await;
}

// P4.14
#[tokio::test]
async fn a_wait_ends_with_a_signal_or_a_sleep_and_needs_no_new_invocation() {
    let (g, gate) = (Gateway::start().await, Arc::new(Semaphore::new(0)));
    let h = gated(&gate, Answer::status(202)).await;
    let open = opened(&g, &h).await;
    let ask = json!({"n": 1, "ops": [{"op": "signal", "id": "s", "name": "go"}], "await": "s"});
    let poll = open.send(&g, "?wait=20s", ask);
    let signal = async {
        g.eventually("it is asked for", async |g| !g.journal(&open.key).await.is_empty()).await;
        g.signal(&open.key, "go", json!({"yes": 1})).await;
    };
    let ((status, told), ()) = tokio::join!(poll, signal);
    assert_eq!(status, 200, "{told}");
    assert_eq!(told["steps"]["s"], json!({"seq": 1, "op": "signal", "value": {"yes": 1}}));
    let nap = json!({"n": 2, "ops": [{"op": "sleep", "id": "nap", "for": "30s"}], "await": "nap"});
    let poll = open.send(&g, "?wait=20s", nap);
    let time = async {
        g.eventually("it sleeps", async |g| g.journal(&open.key).await.len() == 2).await;
        g.advance(Duration::from_secs(31));
    };
    let ((status, told), ()) = tokio::join!(poll, time);
    assert_eq!(status, 200, "{told}");
    assert_eq!(told["steps"]["nap"], json!({"seq": 2, "op": "sleep", "value": null}));
    open.say(&g, json!({"n": 3, "result": 1})).await;
    g.status(&open.key, "completed").await;
    assert_eq!(h.count(), 1);
    g.close().await;
}

// P4.15, P4.16
#[tokio::test]
async fn a_wait_whose_time_runs_out_goes_on_and_its_exchange_s_end_suspends() {
    let (g, gate) = (Gateway::start().await, Arc::new(Semaphore::new(0)));
    let h = gated(&gate, empty()).await;
    let open = opened(&g, &h).await;
    let ask = json!({"n": 1, "ops": [{"op": "signal", "id": "s", "name": "go"}], "await": "s"});
    let (status, told) = open.send(&g, "?wait=1ms", ask.clone()).await;
    assert_eq!((status, &told["ack"], &told["steps"]), (200, &json!(1), &json!({})));
    assert_eq!(g.get(&format!("/v1/runs/{}", open.key)).await["status"], "running");
    gate.add_permits(1);
    let run = g.status(&open.key, "waiting").await;
    assert_eq!(run["waiting_for"][0]["step"], "s");
    assert_eq!(g.happened(&open.key, "invocation.failed").await, [] as [Value; 0]);
    h.now(|it| json!({"result": it["steps"]["s"]["value"]}));
    g.signal(&open.key, "go", json!(7)).await;
    assert_eq!(g.status(&open.key, "completed").await["output"], 7);
    g.close().await;
}

#[tokio::test]
async fn an_await_without_wait_ends_the_invocation() {
    let (g, gate) = (Gateway::start().await, Arc::new(Semaphore::new(0)));
    let h = gated(&gate, Answer::status(202)).await;
    let open = opened(&g, &h).await;
    let ask = json!({"n": 1, "ops": [{"op": "signal", "id": "s", "name": "go"}], "await": "s"});
    open.say(&g, ask.clone()).await;
    g.status(&open.key, "waiting").await;
    assert_eq!(open.say(&g, ask).await["ack"], 1, "a repeat after the end of the turn");
    assert_eq!(open.refused(&g, json!({"n": 2})).await, (409, "stale-epoch".to_owned()));
    let unknown = json!({"n": 1, "await": "ghost"});
    gate.add_permits(10);
    g.signal(&open.key, "go", json!(1)).await;
    let again = Open::of(&g.invoked(&h, 2).await);
    let (status, told) = again.send(&g, "", unknown).await;
    assert_eq!(status, 422, "{told}");
    assert!(told["errors"][0]["detail"].as_str().is_some_and(|d| d.contains("`ghost`")), "{told}");
    again.say(&g, json!({"n": 1, "result": 1})).await;
    g.status(&open.key, "completed").await;
    g.close().await;
}

// P4.17
#[tokio::test]
async fn an_exchange_that_ends_without_a_word_is_a_crash_and_keeps_what_was_recorded() {
    let (g, gate) = (Gateway::start().await, Arc::new(Semaphore::new(0)));
    let h = gated(&gate, empty()).await;
    let open = opened(&g, &h).await;
    open.say(&g, json!({"n": 1, "ops": [value("a", json!(1))]})).await;
    gate.add_permits(1);
    g.eventually("it failed", async |g| {
        !g.happened(&open.key, "invocation.failed").await.is_empty()
    })
    .await;
    h.now(|it| json!({"result": it["steps"]["a"]["value"]}));
    g.advance_until_invoked(&h, 2, Duration::from_secs(1)).await;
    assert_eq!(g.status(&open.key, "completed").await["output"], 1);
    g.close().await;
}

// P3.21, P3.22, P4.18, P4.19, P4.36
#[tokio::test]
async fn a_held_invocation_lives_by_its_heartbeats_and_silence_makes_it_retry() {
    let g = Gateway::start().await;
    let h = Handler::serve(|_| Answer::status(202)).await;
    let open = opened(&g, &h).await;
    g.eventually("it is held", async |g| {
        !g.happened(&open.key, "invocation.held").await.is_empty()
    })
    .await;
    for n in 1..=4 {
        g.advance(Duration::from_secs(40));
        // A sign of life has a number or none, and may be empty.
        let beat = if n % 2 == 0 { json!({}) } else { json!({"n": n / 2 + 1}) };
        open.say(&g, beat).await;
    }
    assert_eq!(g.get(&format!("/v1/runs/{}", open.key)).await["status"], "running");
    open.say(&g, json!({"n": 3, "ops": [value("a", json!(1))]})).await;
    g.advance(Duration::from_secs(61));
    g.advance_until_invoked(&h, 2, Duration::from_secs(1)).await;
    let again = Open::of(&h.invocations()[1]);
    assert!(again.epoch > open.epoch);
    assert!(settled(&h.invocations()[1], "a"));
    assert_eq!(h.invocations()[1]["invocation"]["attempt"], 2);
    // Section 4: 409 for the old one, and nothing is recorded of it, but noted.
    let late = json!({"n": 4, "ops": [value("b", json!(1))]});
    assert_eq!(open.refused(&g, late.clone()).await, (409, "stale-epoch".to_owned()));
    assert_eq!(open.refused(&g, late).await, (409, "stale-epoch".to_owned()));
    again.say(&g, json!({"n": 1, "result": 1})).await;
    g.status(&open.key, "completed").await;
    assert_eq!(g.journal(&open.key).await.len(), 1);
    assert_eq!(g.happened(&open.key, "checkpoint.late").await.len(), 1);
    g.close().await;
}

// P3.21, P3.34, P4.36
#[tokio::test]
async fn a_held_invocation_keeps_its_epoch_when_the_gateway_is_killed() {
    let g = Gateway::start().await;
    let h = Handler::serve(|_| Answer::status(202)).await;
    let open = opened(&g, &h).await;
    open.say(&g, json!({"n": 1, "ops": [value("a", json!(1)), {"op": "start", "id": "once"}]}))
        .await;
    // A sign of life leaves no row: its number is missing afterwards.
    open.say(&g, json!({"n": 2})).await;
    g.eventually("it is held", async |g| {
        !g.happened(&open.key, "invocation.held").await.is_empty()
    })
    .await;
    let clock = g.clock.clone();
    let g = Gateway::at(g.kill().await, stepwell::machine::Limits::default(), clock).await;
    let third = json!({"n": 3, "ops": [value("once", json!("done"))]});
    // 503 is no refusal: the new owner may need a moment.
    g.eventually("it is taken", async |g| open.send(g, "", third.clone()).await.0 == 200).await;
    let told = open.say(&g, third).await;
    assert_eq!(told["steps"]["once"]["value"], "done", "its licence holds: {told}");
    let again = open.say(&g, json!({"n": 3, "ops": [value("once", json!("done"))]})).await;
    assert_eq!(again, told);
    assert_eq!(open.refused(&g, json!({"n": 5})).await.0, 422);
    open.say(&g, json!({"n": 4, "result": 1})).await;
    g.status(&open.key, "completed").await;
    assert_eq!(h.count(), 1, "it was never invoked anew");
    g.close().await;
}

// P4.35
#[tokio::test]
async fn a_cancel_is_told_at_once_and_who_has_not_seen_it_records_nothing_more() {
    let g = Gateway::start().await;
    let h = Handler::serve(|_| Answer::status(202)).await;
    let open = opened(&g, &h).await;
    let ask = json!({"n": 1, "ops": [{"op": "callback", "id": "c"}], "await": "c"});
    let poll = open.send(&g, "?wait=20s", ask);
    let cancel = async {
        g.eventually("it is asked for", async |g| !g.journal(&open.key).await.is_empty()).await;
        g.post(&format!("/v1/runs/{}/cancel", open.key), json!({"reason": "no longer"})).await;
    };
    let ((status, told), ()) = tokio::join!(poll, cancel);
    assert_eq!((status, &told["cancel"]["reason"]), (200, &json!("no longer")), "{told}");
    let late = json!({"n": 2, "ops": [value("b", json!(1))]});
    assert_eq!(open.refused(&g, late).await, (409, "stale-epoch".to_owned()));
    let it = g.invoked(&h, 2).await;
    assert_eq!(it["cancel"]["reason"], "no longer");
    let with = Open::of(&it);
    let told = with.say(&g, json!({"n": 1, "ops": [value("undo", json!(1))], "result": 0})).await;
    assert_eq!(told["cancel"]["reason"], "no longer");
    g.status(&open.key, "cancelled").await;
    let steps: Vec<Value> = g.journal(&open.key).await.iter().map(|s| s["id"].clone()).collect();
    assert_eq!(steps, ["undo", "c"]);
    g.close().await;
}

// P3.30, P4.38
#[tokio::test]
async fn a_mismatch_pauses_the_run_and_a_limit_only_refuses() {
    let limits = stepwell::machine::Limits { value_bytes: 1000, ..Default::default() };
    let g = Gateway::with_limits(limits).await;
    let h = Handler::serve(|_| Answer::status(202)).await;
    let open = opened(&g, &h).await;
    let big = json!({"n": 1, "ops": [value("big", json!("x".repeat(1001)))]});
    let (status, told) = open.send(&g, "", big).await;
    assert_eq!((status, &told["code"]), (413, &json!("payload-too-large")));
    assert!(told["detail"].as_str().is_some_and(|d| d.contains("\"big\"")), "{told}");
    open.say(&g, json!({"n": 1, "ops": [value("a", json!(1))]})).await;
    let other =
        json!({"n": 2, "ops": [value("b", json!(1)), {"op": "sleep", "id": "a", "for": "1s"}]});
    let (status, told) = open.send(&g, "", other.clone()).await;
    assert_eq!((status, &told["code"]), (409, &json!("run-paused")), "{told}");
    assert_eq!(
        (&told["attention"]["expected"], &told["attention"]["got"]),
        (&json!("run a"), &json!("sleep a"))
    );
    let (again, repeated) = open.send(&g, "", other).await;
    assert_eq!((again, &repeated["detail"]), (status, &told["detail"]), "a repeat hears the same");
    let run = g.status(&open.key, "paused").await;
    assert_eq!(run["attention"]["code"], "mismatch");
    assert_eq!(g.journal(&open.key).await.len(), 1, "nothing of it is recorded");
    g.post(&format!("/v1/runs/{}/terminate", open.key), json!({})).await;
    g.close().await;
}

// P4.33
#[tokio::test]
async fn a_failed_attempt_is_told_with_its_next_moment_and_again_when_that_has_come() {
    let g = Gateway::start().await;
    let h = Handler::serve(|_| Answer::status(202)).await;
    let open = opened(&g, &h).await;
    let fails = json!({"op": "run", "id": "a", "error": {"type": "Boom"}, "retry": {"initial": "5s", "jitter": 0}});
    let told = open.say(&g, json!({"n": 1, "ops": [fails]})).await;
    let a = &told["steps"]["a"];
    assert_eq!(
        (&a["pending"], &a["attempt"], &a["last_error"]["type"]),
        (&json!(true), &json!(1), &json!("Boom"))
    );
    let poll = open.send(&g, "?wait=20s", json!({"n": 2, "await": "a"}));
    let time = async {
        g.eventually("it waits", async |g| {
            g.advance(Duration::from_secs(1));
            g.clock.lower() >= crate::gateway::moment(&a["next_attempt_at"])
        })
        .await;
    };
    let ((status, told), ()) = tokio::join!(poll, time);
    assert_eq!((status, &told["steps"]), (200, &json!({"a": null})), "its attempt is due: {told}");
    let told = open.say(&g, json!({"n": 3, "ops": [value("a", json!(1))], "result": 1})).await;
    assert_eq!(told["steps"]["a"]["value"], 1);
    g.status(&open.key, "completed").await;
    assert_eq!(h.count(), 1);
    g.close().await;
}

// P4.34
#[tokio::test]
async fn a_signal_that_was_not_told_holds_an_end_up_and_one_that_was_told_does_not() {
    let g = Gateway::start().await;
    let h = Handler::serve(|_| Answer::status(202)).await;
    let open = opened(&g, &h).await;
    open.say(&g, json!({"n": 1, "ops": [value("a", json!(1))]})).await;
    g.signal(&open.key, "note", json!(1)).await;
    open.say(&g, json!({"n": 2, "ops": [value("b", json!(1))], "result": "early"})).await;
    let it = g.invoked(&h, 2).await;
    assert_eq!(
        (&it["invocation"]["reason"], &it["inbox"]),
        (&json!("signal"), &json!({"note": 1}))
    );
    let open = Open::of(&it);
    g.signal(&open.key, "note", json!(2)).await;
    g.eventually("it is there", async |g| {
        g.happened(&open.key, "message.arrived").await.len() == 2
    })
    .await;
    let told = open.say(&g, json!({"n": 1})).await;
    assert_eq!(told["inbox"], json!({"note": 2}));
    open.say(&g, json!({"n": 2, "result": "told"})).await;
    assert_eq!(g.status(&open.key, "completed").await["output"], "told");
    assert_eq!(h.count(), 2);
    g.close().await;
}

// P4.8
#[tokio::test]
async fn a_token_is_good_for_its_run_alone() {
    let g = Gateway::start().await;
    let h = Handler::serve(|_| Answer::status(202)).await;
    let open = opened(&g, &h).await;
    g.run("f", json!({"input": 1})).await;
    let other = Open::of(&g.invoked(&h, 2).await);
    let stolen = Open { token: other.token.clone(), ..Open::of(&h.invocations()[0]) };
    assert_eq!(stolen.refused(&g, json!({"n": 1})).await, (401, "invalid-token".to_owned()));
    let made_up = Open { token: "Bearer abc".to_owned(), ..Open::of(&h.invocations()[0]) };
    assert_eq!(made_up.refused(&g, json!({"n": 1})).await, (401, "invalid-token".to_owned()));
    for open in [open, other] {
        open.say(&g, json!({"n": 1, "result": 1})).await;
        g.status(&open.key, "completed").await;
    }
    g.close().await;
}

// P4.16, P4.20, P4.37
#[tokio::test]
async fn a_gateway_that_leaves_asks_open_exchanges_to_finish() {
    let (g, gate) = (Gateway::start().await, Arc::new(Semaphore::new(0)));
    let h = gated(&gate, empty()).await;
    let open = opened(&g, &h).await;
    let ask = json!({"n": 1, "ops": [{"op": "signal", "id": "s", "name": "go"}], "await": "s"});
    let poll = open.send(&g, "?wait=20s", ask);
    let leave = async {
        g.eventually("it is asked for", async |g| !g.journal(&open.key).await.is_empty()).await;
        g.engine.leave(Duration::from_mins(2)).await;
    };
    let finish = async {
        let (status, told) = poll.await;
        assert_eq!((status, &told["suspend"]), (200, &json!(true)), "{told}");
        gate.add_permits(1);
    };
    let begun = std::time::Instant::now();
    tokio::join!(leave, finish);
    assert!(begun.elapsed() < Duration::from_mins(1), "it need not wait for the grace to pass");
    let clock = g.clock.clone();
    let g = Gateway::at(g.kill().await, stepwell::machine::Limits::default(), clock).await;
    let run = g.status(&open.key, "waiting").await;
    assert_eq!(run["waiting_for"][0]["step"], "s");
    h.now(|_| json!({"result": 1}));
    g.signal(&open.key, "go", json!(1)).await;
    g.status(&open.key, "completed").await;
    g.close().await;
}

// P4.9, P4.30
#[tokio::test]
async fn checkpoints_reach_the_owner_through_any_node_and_survive_its_death() {
    let mut c = crate::cluster::Cluster::start(2).await;
    c.balanced().await;
    let h = Handler::serve(|_| Answer::status(202)).await;
    c.register(&h.url, &["f"]).await;
    for _ in 0..8 {
        let (status, run) = c.call(0, "POST", "/v1/functions/f/runs", Some(&json!({}))).await;
        assert_eq!(status, 202, "{run}");
    }
    c.eventually("all are open", async || h.count() == 8).await;
    let opens: Vec<Open> = h.invocations().iter().map(Open::of).collect();
    let say = async |c: &crate::cluster::Cluster, node: usize, open: &Open, body: Value| {
        let sent = c.http.post(format!("{}{}", c.nodes[node].url, open.path));
        let sent = sent.header("authorization", &open.token);
        let sent =
            sent.header("content-type", "application/json").body(body.to_string()).send().await;
        let answer = sent.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    // A node hears within a second who drives what; until then it says so.
    let insist = async |node: usize, open: &Open, body: &Value| {
        let begun = std::time::Instant::now();
        loop {
            let told = say(&c, node, open, body.clone()).await;
            if told.0 != 503 || begun.elapsed() > Duration::from_mins(1) {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    for open in &opens {
        let first = json!({"n": 1, "ops": [value("a", json!(1))]});
        let told = insist(0, open, &first).await;
        assert_eq!(told.0, 200, "{told:?}");
        assert_eq!(insist(1, open, &first).await, told, "the same from the other node");
    }
    c.eventually("all are held", async || {
        let mut held = 0;
        for open in &opens {
            let path = format!("/v1/runs/{}/history", open.key);
            let (_, history) = c.call(0, "GET", &path, None).await;
            held += usize::from(history.to_string().contains("invocation.held"));
        }
        held == opens.len()
    })
    .await;
    c.nodes[1].kill();
    for open in &opens {
        let last = json!({"n": 2, "ops": [value("b", json!(2))], "result": 2});
        c.eventually("the survivor takes it", async || {
            say(&c, 0, open, last.clone()).await.0 == 200
        })
        .await;
        let (_, run) = c.call(0, "GET", &format!("/v1/runs/{}", open.key), None).await;
        assert_eq!(
            (&run["status"], &run["invocations"]),
            (&json!("completed"), &json!(1)),
            "{run}"
        );
    }
    assert_eq!(h.count(), 8, "no epoch was lost with the node");
    let findings = c.db.store.audit().await.expect("the audit can be read");
    assert!(findings.is_empty(), "{findings:?}");
}
