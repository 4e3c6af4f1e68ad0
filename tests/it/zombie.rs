//! A node that was stopped for longer than its lease and wakes up: it records nothing, calls no
//! handler with an old journal, tells nothing old, and serves again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use stepwell::machine::Kind;
use tokio::sync::Notify;

use crate::cluster::Cluster;
use crate::gateway::{Answer, Handler, settled};

/// An answer of ten steps, whose values say who wrote it.
fn ten(value: &str) -> Value {
    let op = |i| json!({"op": "run", "id": format!("s{i}"), "value": value});
    let ops: Vec<Value> = (0..10).map(op).collect();
    json!({"ops": ops, "yield": true})
}

/// What the run does once somebody has recorded the first step: waits for `go`, then ends.
fn goes_on(it: &Value) -> Answer {
    if settled(it, "go") {
        return json!({"result": it["steps"]["s0"]["value"]}).into();
    }
    json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"}).into()
}

// P9.3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stopped_owner_had_in_its_lane_is_not_written() {
    let release = Arc::new(Notify::new());
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = Handler::serve({
        let (release, calls) = (release.clone(), calls.clone());
        move |it: &Value| -> Answer {
            if settled(it, "s0") {
                return goes_on(it);
            }
            match calls.fetch_add(1, Ordering::SeqCst) {
                0 => Answer::When(release.clone(), ten("stopped")),
                // It writes less than the stopped one would: a part of that would show.
                _ => json!({"ops": [{"op": "run", "id": "s0", "value": "successor"}]}).into(),
            }
        }
    })
    .await;
    let cluster = Cluster::start(2).await;
    cluster.register(&handler.url, &["ten"]).await;
    cluster.balanced().await;
    let run = cluster.run(0, "ten", &json!({})).await;
    cluster.eventually("it is invoked", async || handler.invocations().len() == 1).await;
    cluster.nodes[0].signal("STOP");
    // The answer waits in the stopped node's socket, and so does a question.
    release.notify_one();
    let path = format!("/v1/runs/{run}");
    let asked = {
        let asked = cluster.http.get(format!("{}{path}", cluster.nodes[0].url));
        tokio::spawn(asked.bearer_auth(&cluster.key).send())
    };
    cluster.status(1, &run, "waiting").await;
    let before = cluster.rows(&run).await;
    cluster.nodes[0].signal("CONT");
    let told = asked.await.expect("no panic").expect("an answer").bytes().await.expect("a body");
    let told: Value = serde_json::from_slice(&told).expect("JSON");
    assert_eq!(told["status"], "waiting", "it tells of what it remembered: {told}");
    cluster.ready(&cluster.nodes[0].url).await;
    cluster.balanced().await;
    assert_eq!(cluster.rows(&run).await, before, "something was written");
    for row in &before {
        let body = String::from_utf8_lossy(row.body.as_deref().unwrap_or_default()).into_owned();
        assert!(!body.contains("stopped"), "{row:?}");
        assert!(row.kind == Kind::Created || row.epoch > 1, "{row:?}");
    }
    // It serves: the old run, wherever it is now, and new ones.
    let (status, answer) =
        cluster.call(0, "POST", &format!("{path}/signals/go"), Some(&json!({}))).await;
    assert_eq!(status, 202, "{answer}");
    let view = cluster.status(0, &run, "completed").await;
    assert_eq!(view["output"], "successor");
    let new = cluster.run(0, "ten", &json!({})).await;
    cluster.status(0, &new, "waiting").await;
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_slept_through_a_back_off_does_not_call_with_an_old_journal() {
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = Handler::serve({
        let calls = calls.clone();
        move |it: &Value| -> Answer {
            if settled(it, "s0") {
                return goes_on(it);
            }
            match calls.fetch_add(1, Ordering::SeqCst) {
                0 => Answer::Status(500, vec![("retry-after", "1".to_owned())], String::new()),
                _ => json!({"ops": [{"op": "run", "id": "s0", "value": 1}]}).into(),
            }
        }
    })
    .await;
    let cluster = Cluster::start(2).await;
    cluster.register(&handler.url, &["backs-off"]).await;
    cluster.balanced().await;
    let run = cluster.run(0, "backs-off", &json!({})).await;
    cluster.status(0, &run, "retrying").await;
    cluster.nodes[0].signal("STOP");
    cluster.status(1, &run, "waiting").await;
    let calls_before = handler.invocations().len();
    cluster.nodes[0].signal("CONT");
    cluster.ready(&cluster.nodes[0].url).await;
    // Whatever the woken node was to do at once it has done by the time it has groups again.
    cluster.balanced().await;
    assert_eq!(handler.invocations().len(), calls_before, "{:#?}", handler.invocations().last());
    let signal = format!("/v1/runs/{run}/signals/go");
    assert_eq!(cluster.call(0, "POST", &signal, None).await.0, 202);
    cluster.status(0, &run, "completed").await;
    assert_eq!(calls.load(Ordering::SeqCst), 2, "the recorded step ran again");
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_lapses_unnoticed_goes_on_as_if_nothing_had_been() {
    // The only node: nobody takes its runs. It may go on with what it has.
    let release = Arc::new(Notify::new());
    let handler = Handler::serve({
        let release = release.clone();
        move |it: &Value| -> Answer {
            if settled(it, "s0") {
                return goes_on(it);
            }
            Answer::When(release.clone(), ten("mine"))
        }
    })
    .await;
    let cluster = Cluster::start(1).await;
    cluster.register(&handler.url, &["ten"]).await;
    let run = cluster.run(0, "ten", &json!({})).await;
    cluster.eventually("it is invoked", async || handler.invocations().len() == 1).await;
    cluster.nodes[0].signal("STOP");
    release.notify_one();
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.nodes[0].signal("CONT");
    cluster.status(0, &run, "waiting").await;
    assert_eq!(handler.invocations().len(), 2, "its answer was thrown away");
    let signal = format!("/v1/runs/{run}/signals/go");
    assert_eq!(cluster.call(0, "POST", &signal, None).await.0, 202);
    cluster.status(0, &run, "completed").await;
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}
