//! Signals: in order, once, never lost, and refused when it is too late.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::gateway::{Answer, Gateway, Handler, settled};

/// Takes `count` signals named `go`, one after another, and returns their values.
fn taking(count: usize) -> impl Fn(&Value) -> Value {
    move |it| {
        let ids: Vec<String> = (0..count).map(|i| format!("go/{i}")).collect();
        match ids.iter().find(|id| !settled(it, id)) {
            Some(id) => json!({"ops": [{"op": "signal", "id": id, "name": "go"}], "await": id}),
            None => {
                let value = |id: &String| it["steps"][id]["value"].clone();
                json!({"result": ids.iter().map(value).collect::<Vec<_>>()})
            }
        }
    }
}

// P2.8, P3.20, P5.10, P5.24, P9.4
#[tokio::test(flavor = "multi_thread")]
async fn early_and_late_signals_are_taken_in_order_and_once() {
    let g = Gateway::start().await;
    let handler = Handler::serve(taking(4)).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({"delay": "30s"})).await;
    for i in 0..2 {
        g.signal(&run, "go", json!({"n": i})).await;
    }
    g.signal(&run, "other", json!("stays")).await;
    g.advance(Duration::from_secs(30));
    g.status(&run, "waiting").await;
    let first = handler.invocations()[0].clone();
    assert_eq!(first["inbox"], json!({"go": 2, "other": 1}));
    for i in 2..4 {
        g.signal(&run, "go", json!({"n": i})).await;
    }
    let view = g.status(&run, "completed").await;
    assert_eq!(view["output"], json!([{"n": 0}, {"n": 1}, {"n": 2}, {"n": 3}]));
    let signals = g.get(&format!("/v1/runs/{run}/signals")).await["data"].clone();
    let shown: Vec<_> = signals
        .as_array()
        .expect("a list")
        .iter()
        .map(|s| (s["name"].as_str(), s["state"].as_str(), s["step"].as_str()))
        .collect();
    let taken = |step| (Some("go"), Some("taken"), Some(step));
    assert_eq!(
        shown,
        [
            taken("go/0"),
            taken("go/1"),
            (Some("other"), Some("untaken"), None),
            taken("go/2"),
            taken("go/3")
        ]
    );
    assert_eq!(g.happened(&run, "signal.taken").await.len(), 4);
    g.close().await;
}

// P5.10, P9.4
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_concurrent_signals_are_each_taken_once_in_the_order_listed() {
    const N: usize = 100;
    let g = Gateway::start().await;
    let handler = Handler::serve(taking(N)).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    futures::future::join_all((0..N).map(|i| g.signal(&run, "go", json!(i)))).await;
    let view = g.status(&run, "completed").await;
    let mut values: Vec<u64> =
        view["output"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect();
    let journal = g.journal(&run).await;
    let in_order: Vec<u64> = journal.iter().filter_map(|e| e["value"].as_u64()).collect();
    assert_eq!(values, in_order);
    values.sort_unstable();
    assert_eq!(values, (0..N as u64).collect::<Vec<_>>());
    g.close().await;
}

// P5.37
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_does_not_come_settles_as_timed_out() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let ask = |id: &str, timeout: &str| json!({"op": "signal", "id": id, "name": "go", "timeout": timeout});
        if settled(it, "second") {
            json!({"result": it["steps"]})
        } else if settled(it, "first") {
            json!({"ops": [ask("second", "2h")], "await": "second"})
        } else {
            json!({"ops": [ask("first", "20s")], "await": "first"})
        }
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    g.advance(Duration::from_secs(20));
    let second = g.invoked(&handler, 2).await;
    assert_eq!(second["steps"]["first"]["error"]["type"], "timed-out", "{second}");
    let view = g.status(&run, "waiting").await;
    assert_eq!(view["waiting_for"][0]["until"], g.moment(7220), "{view}");
    // What comes after the time-out is there for the next ask.
    g.signal(&run, "go", json!("late")).await;
    let view = g.status(&run, "completed").await;
    assert_eq!(view["output"]["second"]["value"], "late");
    let far = g.run("f", json!({})).await;
    g.status(&far, "waiting").await;
    g.advance(Duration::from_secs(20));
    g.invoked(&handler, 5).await;
    g.status(&far, "waiting").await;
    g.advance(Duration::from_secs(7200));
    let view = g.status(&far, "completed").await;
    assert_eq!(view["output"]["second"]["error"]["type"], "timed-out");
    g.close().await;
}

// P3.16, P3.17, P3.18
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_has_not_seen_a_signal_is_refused_twice_and_then_stands() {
    let g = Gateway::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let answer = {
        let gate = Arc::clone(&gate);
        move |it: &Value| Answer::held(&gate, json!({"result": it["inbox"]}))
    };
    let handler = Handler::serve(answer).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    for n in 1..=2 {
        g.invoked(&handler, n).await;
        g.signal(&run, "s", json!(n)).await;
        gate.add_permits(1);
    }
    let third = g.invoked(&handler, 3).await;
    assert_eq!(third["invocation"]["reason"], "signal");
    assert_eq!(third["inbox"], json!({"s": 2}), "it is let know");
    let path = format!("/v1/runs/{run}/signals/s");
    let (status, code, _) = g.refused("POST", &path, Some(json!({"payload": 3}))).await;
    assert_eq!((status, &*code), (410, "run-ending"));
    gate.add_permits(1);
    let view = g.status(&run, "completed").await;
    assert_eq!(view["output"], json!({"s": 2}));
    let (status, code, _) = g.refused("POST", &path, Some(json!({"payload": 4}))).await;
    assert_eq!((status, &*code), (410, "run-ended"));
    let signals = g.get(&format!("/v1/runs/{run}/signals")).await["data"].clone();
    let states: Vec<_> = signals.as_array().expect("a list").iter().map(|s| &s["state"]).collect();
    assert_eq!(states, ["untaken", "untaken"], "accepted, and listed as never taken");
    g.close().await;
}

// P3.16, P3.20, P9.4
#[tokio::test(flavor = "multi_thread")]
async fn no_accepted_signal_is_lost_at_the_end() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({"result": 1})).await;
    g.register(&handler, json!(["f"])).await;
    let race = async |_: usize| {
        let run = g.run("f", json!({})).await;
        let path = format!("/v1/runs/{run}/signals/s");
        let sent = (0..3).map(|n| g.call("POST", &path, Some(json!({"payload": n}))));
        let answers = futures::future::join_all(sent).await;
        let accepted = answers.iter().filter(|(status, _)| *status == 202).count();
        assert!(answers.iter().all(|(status, _)| matches!(status, 202 | 410)), "{answers:?}");
        g.status(&run, "completed").await;
        let listed = g.get(&format!("/v1/runs/{run}/signals")).await;
        assert_eq!(listed["data"].as_array().map(Vec::len), Some(accepted), "{listed}");
        accepted
    };
    let mut accepted = 0;
    for _ in 0..10 {
        accepted += futures::future::join_all((0..20).map(race)).await.iter().sum::<usize>();
    }
    assert!(accepted > 0, "some came in time");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_finds_the_live_run_of_a_key() {
    let g = Gateway::start().await;
    let handler = Handler::serve(taking(1)).await;
    g.register(&handler, json!(["f"])).await;
    let key = "order/42 ü";
    let path = "/v1/functions/f/keys/order%2F42%20%C3%BC/signals/go";
    assert_eq!(&*g.refused("POST", path, None).await.1, "run-not-found");
    let run = g.run("f", json!({"key": key})).await;
    let accepted = g.post(path, json!({"payload": "hello"})).await;
    assert_eq!(accepted, json!({"run": run, "name": "go"}));
    assert_eq!(g.status(&run, "completed").await["output"], json!(["hello"]));
    assert_eq!(&*g.refused("POST", path, None).await.1, "run-not-found");
    let none = "/v1/functions/nosuch/keys/k/signals/go";
    assert_eq!(&*g.refused("POST", none, None).await.1, "function-not-found");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_beside_a_start_is_there_from_the_first_invocation() {
    let g = Gateway::start().await;
    let handler = Handler::serve(taking(2)).await;
    g.register(&handler, json!(["f"])).await;
    let body = |n: i32| json!({"key": "k", "if_running": "use_existing", "signal": {"name": "go", "payload": n}});
    let run = g.run("f", body(1)).await;
    g.status(&run, "waiting").await;
    assert_eq!(handler.invocations()[0]["inbox"], json!({"go": 1}));
    assert_eq!(g.run("f", body(2)).await, run);
    assert_eq!(g.status(&run, "completed").await["output"], json!([1, 2]));
    assert_ne!(g.run("f", body(3)).await, run, "the key is free again");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_sent_again_with_its_key_is_sent_once() {
    let g = Gateway::start().await;
    let handler = Handler::serve(taking(2)).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    let path = format!("/v1/runs/{run}/signals/go");
    let send = async |key: &str, body: &str| {
        let headers = [("idempotency-key", key)];
        let (status, headers, _) = g.raw("POST", &path, &headers, Some(body.to_owned())).await;
        (status, headers.contains_key("idempotent-replayed"))
    };
    let all = (0..10).map(|_| send("a", "{\"payload\":1}"));
    let answers = futures::future::join_all(all).await;
    assert!(answers.iter().all(|(status, _)| *status == 202), "{answers:?}");
    assert_eq!(answers.iter().filter(|(_, replayed)| !replayed).count(), 1, "{answers:?}");
    assert_eq!(send("a", "{\"payload\":2}").await.0, 422);
    assert_eq!(send("b", "{\"payload\":2}").await, (202, false));
    assert_eq!(g.status(&run, "completed").await["output"], json!([1, 2]));
    assert_eq!(send("a", "{\"payload\":1}").await, (202, true), "also after the end");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_make_no_sense_or_are_too_many_are_refused() {
    let limits = stepwell::machine::Limits { untaken: 3, ..Default::default() };
    let g = Gateway::with_limits(limits).await;
    let handler = Handler::serve(taking(1)).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    let path = |name: &str| format!("/v1/runs/{run}/signals/{name}");
    assert_eq!(g.refused("POST", &path("go"), Some(json!({"paylod": 1}))).await.0, 422);
    assert_eq!(g.refused("POST", &path("a%0Ab"), None).await.0, 400);
    let big = json!({"payload": "x".repeat(1 << 20)});
    assert_eq!(g.refused("POST", &path("go"), Some(big)).await.0, 413);
    let absent = "/v1/runs/run_01k9c3v5h2e8x8p0m4s6t7w9yz/signals/go";
    assert_eq!(&*g.refused("POST", absent, None).await.1, "run-not-found");
    for n in 0..3 {
        g.signal(&run, "unwanted", json!(n)).await;
    }
    // Those that are on their way into the journal do not count yet.
    g.eventually("all three have arrived", async |g| {
        g.happened(&run, "message.arrived").await.len() == 3
    })
    .await;
    let (status, code, _) = g.refused("POST", &path("unwanted"), None).await;
    assert_eq!((status, &*code), (429, "too-many-signals"));
    g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
    g.close().await;
}
