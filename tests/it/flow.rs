//! Flow control: how many runs are on their way, how fast they start, which starts are one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use stepwell::engine::{CRASH_AT, Point};
use tokio::sync::Semaphore;

use crate::cluster::Cluster;
use crate::gateway::{Answer, Gateway, Handler, settled};

/// Counts who is inside at once, and the most that ever were.
#[derive(Clone, Default)]
struct Inside {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

/// A handler that answers when it is let, and says which runs it was called for, in order.
pub async fn gate() -> (Handler, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let handler =
        Handler::serve(move |it| Answer::held(&held, json!({"result": it["input"]}))).await;
    (handler, gate)
}

async fn limited(handler: &Handler, settings: Value) -> Gateway {
    let g = Gateway::start().await;
    let mut function = json!({"name": "f"});
    function.as_object_mut().expect("one").extend(settings.as_object().expect("one").clone());
    g.register(handler, json!([function])).await;
    g
}

fn inputs(handler: &Handler) -> Vec<Value> {
    handler.invocations().iter().map(|it| it["input"].clone()).collect()
}

async fn limits(g: &Gateway) -> Vec<Value> {
    g.get("/v1/limits").await["data"].as_array().expect("a list").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_are_on_their_way_than_the_limit_and_who_waits_says_why() {
    let (handler, gate) = gate().await;
    let g = limited(&handler, json!({"concurrency": [{"limit": 2}]})).await;
    let mut runs = Vec::new();
    for n in 0..5 {
        let priority = if n == 4 { 10 } else { 0 };
        runs.push(g.run("f", json!({"input": n, "priority": priority})).await);
        if n < 2 {
            g.invoked(&handler, n + 1).await;
        }
    }
    g.status(&runs[3], "queued").await;
    g.eventually("all ask", async |g| limits(g).await[0]["queued"] == 3).await;
    // Who goes before it is known once all have asked.
    let view = g.get(&format!("/v1/runs/{}", runs[3])).await;
    assert_eq!(view["attention"]["code"], "limit-reached", "{view}");
    assert_eq!(
        view["attention"]["detail"],
        "2 of 2 slots of the concurrency of `f` are taken; 2 runs go before it."
    );
    let held_at = json!({"kind": "concurrency", "function": "f", "endpoint": null, "key": null,
        "value": null, "before": 2});
    assert_eq!(view["attention"]["limit"], held_at);
    let [limit] = &limits(&g).await[..] else { panic!("one limit") };
    let expected = json!({"kind": "concurrency", "function": "f", "endpoint": null, "key": null,
        "value": null, "limit": 2, "fair": null, "per": "invocation", "period": null, "running": 2, "queued": 3,
        "paused": null});
    assert_eq!(*limit, expected);
    assert_eq!(handler.count(), 2);
    // One slot at a time, so that nobody overtakes on the way to the handler.
    for n in 3..=5 {
        gate.add_permits(1);
        g.invoked(&handler, n).await;
    }
    gate.add_permits(2);
    for run in &runs {
        g.status(run, "completed").await;
    }
    // The urgent one went before those that were older, and they in their order.
    let order = inputs(&handler);
    assert_eq!(order[2..], [json!(4), json!(2), json!(3)], "{order:?}");
    g.eventually("all slots are free", async |g| limits(g).await[0]["running"] == 0).await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_sleeps_has_no_slot_unless_the_limit_is_per_run() {
    for (per, inside) in [("invocation", 3), ("run", 1)] {
        let handler = Handler::serve(|it| {
            if settled(it, "nap") {
                json!({"result": 1})
            } else {
                json!({"ops": [{"op": "signal", "id": "nap", "name": "go"}], "await": "nap"})
            }
        })
        .await;
        let g = limited(&handler, json!({"concurrency": [{"limit": 1, "per": per}]})).await;
        let mut runs = Vec::new();
        for n in 0..3 {
            runs.push(g.run("f", json!({"input": n})).await);
        }
        for run in runs.iter().take(inside) {
            g.status(run, "waiting").await;
        }
        g.eventually("what can be has been asked", async |g| {
            limits(g).await[0]["queued"] == 3 - inside
        })
        .await;
        assert_eq!(handler.count(), inside, "{per}");
        for run in &runs {
            g.status(run, "waiting").await;
            g.signal(run, "go", json!(1)).await;
            g.status(run, "completed").await;
        }
        g.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_key_does_not_keep_others_from_the_common_limit() {
    let (handler, gate) = gate().await;
    let settings = json!({"concurrency": [{"limit": 2}, {"limit": 1, "key": "input.tenant"}]});
    let g = limited(&handler, settings).await;
    for n in 0..20 {
        g.run("f", json!({"input": {"tenant": "loud", "n": n}})).await;
    }
    g.invoked(&handler, 1).await;
    let quiet = g.run("f", json!({"input": {"tenant": "quiet"}})).await;
    g.invoked(&handler, 2).await;
    assert_eq!(inputs(&handler)[1]["tenant"], "quiet");
    gate.add_permits(21);
    g.status(&quiet, "completed").await;
    g.eventually("all have run", async |_| handler.count() == 21).await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_across_nodes_and_the_death_of_one() {
    let inside = Inside::default();
    let counted = inside.clone();
    // Each exchange is open for a while; what a dead node had open its handler goes on with.
    let handler = Handler::serve(move |it| {
        let input = it["input"].clone();
        let inside = counted.clone();
        let now = inside.now.fetch_add(1, Ordering::SeqCst) + 1;
        inside.most.fetch_max(now, Ordering::SeqCst);
        let gate = Arc::new(Semaphore::new(0));
        let open = Arc::clone(&gate);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(15)).await;
            inside.now.fetch_sub(1, Ordering::SeqCst);
            open.add_permits(1);
        });
        Answer::held(&gate, json!({"result": input}))
    })
    .await;
    let mut cluster = Cluster::start(2).await;
    // One dies between a grant and whoever was to hear of it, the other at any time.
    cluster.nodes[0].kill();
    cluster.nodes[0].start_with(&[(CRASH_AT, &format!("{}:9", Point::PassAfter.word()))]);
    cluster.ready(&cluster.nodes[0].url.clone()).await;
    let function = json!({"name": "f", "concurrency": [{"limit": 3}]});
    cluster.register_functions(&handler.url, vec![function]).await;
    cluster.balanced().await;
    let mut runs = Vec::new();
    for n in 0.. {
        if !cluster.nodes[0].runs() && runs.len() >= 60 {
            break;
        }
        assert!(n < 2_000, "a grant is never reached");
        // By their keys they are of both nodes; what the dying one says is anybody's guess.
        let body = json!({"input": n, "key": format!("k{n}")});
        let started = cluster.try_call(1, "POST", "/v1/functions/f/runs", Some(&body), None).await;
        if let Some((202, run)) = started {
            runs.push(run["id"].as_str().expect("an id").to_owned());
        }
    }
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.ready(&cluster.nodes[0].url.clone()).await;
    cluster.eventually("some have run", async || handler.count() >= 20).await;
    cluster.nodes[1].kill();
    for run in &runs {
        cluster.status(0, run, "completed").await;
    }
    assert!(inside.most.load(Ordering::SeqCst) <= 3, "{:?}", inside.most);
    // Nothing is left of it, neither slots of the dead nor of the living.
    let free = async || {
        let (_, limits) = cluster.call(0, "GET", "/v1/limits", None).await;
        limits["data"][0]["running"] == 0 && limits["data"][0]["queued"] == 0
    };
    cluster.eventually("all slots are free", free).await;
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_long_leaves_memory_and_still_goes_on() {
    let (handler, gate) = gate().await;
    let g = limited(&handler, json!({"concurrency": [{"limit": 1}]})).await;
    let mut runs = Vec::new();
    for n in 0..4 {
        runs.push(g.run("f", json!({"input": n})).await);
    }
    g.invoked(&handler, 1).await;
    g.advance(Duration::from_secs(5));
    let outside = "select count(*) from run_active where gate is not null";
    g.eventually("who waits is out of memory", async |g| g.db.number(outside).await == 3).await;
    let view = g.get(&format!("/v1/runs/{}", runs[2])).await;
    assert_eq!(
        (&view["status"], &view["attention"]["code"]),
        (&json!("queued"), &json!("limit-reached"))
    );
    // A grant that nobody heard of, because the connection was lost: it is found.
    let granted = "with granted as (
        update permits set slot = 2, granted_at = now(), seen = true
         where run_id = (select run_id from permits where slot is null order by born, place limit 1)
        returning 1) select count(*) from granted";
    assert_eq!(g.db.number(granted).await, 1);
    g.invoked(&handler, 2).await;
    // It hears of what is sent to it, and stays where it is.
    g.post(&format!("/v1/runs/{}/cancel", runs[3]), json!({})).await;
    // It may have been invoked, for all that its rows say, and has its time to compensate.
    g.eventually("it is cancelled", async |g| {
        g.advance(Duration::from_secs(31));
        g.get(&format!("/v1/runs/{}", runs[3])).await["status"] == "cancelled"
    })
    .await;
    gate.add_permits(3);
    for run in &runs[..3] {
        g.status(run, "completed").await;
    }
    assert_eq!(inputs(&handler), [json!(0), json!(1), json!(2)]);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_lets_runs_start_at_a_pace_and_a_rate_limit_refuses_them() {
    let handler = Handler::serve(|it| json!({"result": it["input"]})).await;
    let throttle = json!({"throttle": {"limit": 6, "period": "1h", "burst": 2}});
    let g = limited(&handler, throttle).await;
    let mut runs = Vec::new();
    for n in 0..4 {
        runs.push(g.run("f", json!({"input": n})).await);
    }
    for run in &runs[..2] {
        g.status(run, "completed").await;
    }
    g.eventually("the rest waits", async |g| limits(g).await[0]["queued"] == 2).await;
    assert_eq!(handler.count(), 2);
    g.advance(Duration::from_mins(10));
    g.status(&runs[2], "completed").await;
    assert_eq!(handler.count(), 3);
    g.advance(Duration::from_mins(10));
    g.status(&runs[3], "completed").await;
    g.close().await;

    let limit = json!({"rate_limit": {"limit": 2, "period": "1h", "key": "input.who"}});
    let g = limited(&handler, limit).await;
    for _ in 0..2 {
        g.run("f", json!({"input": {"who": "a"}})).await;
    }
    let body = json!({"input": {"who": "a"}}).to_string();
    let key = [("idempotency-key", "once")];
    let path = "/v1/functions/f/runs";
    let (status, headers, text) = g.raw("POST", path, &key, Some(body.clone())).await;
    let problem: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!((status, &problem["code"]), (429, &json!("rate-limited")), "{problem}");
    let after: u64 = headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1_700..=1_800).contains(&after), "{after}");
    // Another key is another's affair; and later it is let through, once, however often it is sent.
    g.run("f", json!({"input": {"who": "b"}})).await;
    g.advance(Duration::from_mins(31));
    let (status, _, text) = g.raw("POST", path, &key, Some(body.clone())).await;
    assert_eq!(status, 202, "{text:?}");
    let (status, headers, _) = g.raw("POST", path, &key, Some(body)).await;
    assert_eq!((status, headers.contains_key("idempotent-replayed")), (202, true));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_starts_that_follow_each_other_the_last_counts() {
    let handler = Handler::serve(|it| json!({"result": it["input"]})).await;
    let settings = json!({"debounce": {"period": "1m", "max_wait": "150s", "key": "input.doc"},
        "triggers": [{"event": "doc.saved"}]});
    let g = limited(&handler, settings).await;
    let first = g.run("f", json!({"input": {"doc": "a", "v": 1}})).await;
    let view = g.get(&format!("/v1/runs/{first}")).await;
    assert_eq!(view["status"], "scheduled", "{view}");
    assert_eq!(view["attention"]["code"], "debounced");
    let other = g.run("f", json!({"input": {"doc": "b", "v": 1}})).await;
    assert_ne!(first, other);
    for v in 2..4 {
        g.advance(Duration::from_secs(50));
        assert_eq!(g.run("f", json!({"input": {"doc": "a", "v": v}})).await, first);
    }
    // 100 s have passed, and the next one is kept for no more than 50 s.
    g.status(&other, "completed").await;
    assert_eq!(handler.count(), 1);
    g.advance(Duration::from_secs(51));
    let view = g.status(&first, "completed").await;
    assert_eq!(view["output"], json!({"doc": "a", "v": 3}));
    // It has started: the next one is another run.
    let next = g.run("f", json!({"input": {"doc": "a", "v": 4}})).await;
    assert_ne!(next, first);
    g.advance(Duration::from_secs(61));
    g.status(&next, "completed").await;
    let refused = g.call("POST", "/v1/functions/f/runs", Some(json!({"key": "k"}))).await;
    assert_eq!(refused.0, 422, "{}", refused.1);
    assert!(refused.1["errors"][0]["detail"].as_str().expect("words").contains("debounce"));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_singletons_runs_one_stays() {
    for (mode, events) in [("skip", false), ("cancel", false), ("skip", true), ("cancel", true)] {
        let handler = Handler::serve(|it| {
            if it["cancel"].is_object() {
                json!({"error": {"type": "gone", "message": "cancelled"}})
            } else if settled(it, "go") {
                json!({"result": it["input"]})
            } else {
                json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"})
            }
        })
        .await;
        let key = if events { "input.data.user" } else { "input.user" };
        let settings = json!({"singleton": {"key": key, "mode": mode},
            "triggers": [{"event": "seen"}]});
        let g = limited(&handler, settings).await;
        let start = async |user: &str, n: usize| {
            if events {
                let body = json!({"name": "seen", "data": {"user": user, "n": n}});
                let event =
                    g.post("/v1/events", body).await["id"].as_str().expect("an id").to_owned();
                g.eventually("it is routed", async |g| {
                    g.get(&format!("/v1/events/{event}")).await["routed"] == true
                })
                .await;
            } else {
                g.run("f", json!({"input": {"user": user, "n": n}})).await;
            }
        };
        start("a", 1).await;
        g.invoked(&handler, 1).await;
        start("a", 2).await;
        start("b", 3).await;
        let live = async |g: &Gateway| {
            // Lists show what has lasted for a while.
            g.advance(Duration::from_secs(1));
            let all = g.get("/v1/runs?status=waiting").await;
            let keys: Vec<String> = all["data"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|run| run["key"].as_str().expect("a key").to_owned())
                .collect();
            (keys.iter().filter(|k| *k == "a").count(), keys.iter().filter(|k| *k == "b").count())
        };
        g.eventually("one of each", async |g| live(g).await == (1, 1)).await;
        let cancelled = g.get("/v1/runs?status=cancelled").await;
        let cancelled = cancelled["data"].as_array().expect("a list").len();
        assert_eq!(cancelled, usize::from(mode == "cancel"), "{mode} {events}");
        g.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_function_or_key_takes_starts_and_invokes_nobody() {
    let handler = Handler::serve(|it| json!({"result": it["input"]})).await;
    let g = limited(&handler, json!({"concurrency": [{"limit": 5, "key": "input.t"}]})).await;
    let paused = g.post("/v1/functions/f/pause", json!({"reason": "a bad deploy"})).await;
    assert_eq!(paused["paused"]["reason"], "a bad deploy", "{paused}");
    let run = g.run("f", json!({"input": {"t": "x"}})).await;
    let view = g.status(&run, "parked").await;
    assert_eq!(view["attention"]["code"], "function-paused", "{view}");
    assert!(view["attention"]["detail"].as_str().expect("words").contains("a bad deploy"));
    assert_eq!(handler.count(), 0);
    let resumed = g.post("/v1/functions/f/resume", json!({})).await;
    assert_eq!(resumed["paused"], Value::Null);
    g.status(&run, "completed").await;

    let key = json!({"function": "f", "key": "input.t", "value": "y", "reason": "they owe us"});
    let limit = g.post("/v1/limits/pause", key.clone()).await;
    assert_eq!(limit["paused"]["reason"], "they owe us", "{limit}");
    let held = g.run("f", json!({"input": {"t": "y"}})).await;
    let free = g.run("f", json!({"input": {"t": "z"}})).await;
    g.status(&free, "completed").await;
    g.eventually("it says why", async |g| {
        g.get(&format!("/v1/runs/{held}")).await["attention"]["code"] == "limit-paused"
    })
    .await;
    let waiting = g.get("/v1/limits?waiting=true").await;
    let values = waiting["data"].as_array().expect("a list").iter().map(|l| &l["value"]);
    assert_eq!(values.collect::<Vec<_>>(), ["y"], "{waiting}");
    g.post("/v1/limits/resume", key).await;
    g.status(&held, "completed").await;
    let refused =
        g.call("POST", "/v1/limits/pause", Some(json!({"function": "f", "key": "input.no"}))).await;
    assert_eq!(refused.0, 422, "{}", refused.1);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoints_limit_is_for_all_its_functions() {
    let (handler, gate) = gate().await;
    let g = Gateway::start().await;
    let endpoint = g.register(&handler, json!(["f", "h"])).await;
    let name = endpoint["endpoint"]["name"].as_str().expect("a name");
    let path = format!("/v1/endpoints/{name}");
    let patched = g.call("PATCH", &path, Some(json!({"concurrency": 1}))).await;
    assert_eq!(patched.1["concurrency"], 1, "{}", patched.1);
    let one = g.run("f", json!({"input": 1})).await;
    g.invoked(&handler, 1).await;
    let two = g.run("h", json!({"input": 2})).await;
    g.eventually("it says why", async |g| {
        let view = g.get(&format!("/v1/runs/{two}")).await;
        view["attention"]["detail"].as_str().is_some_and(|d| d.contains("endpoint"))
    })
    .await;
    gate.add_permits(2);
    g.status(&one, "completed").await;
    g.status(&two, "completed").await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_invoked_in_time_times_out() {
    let (handler, gate) = gate().await;
    let settings = json!({"concurrency": [{"limit": 1}], "timeouts": {"start": "10m"}});
    let g = limited(&handler, settings).await;
    let first = g.run("f", json!({"input": 1})).await;
    g.invoked(&handler, 1).await;
    let late = g.run("f", json!({"input": 2})).await;
    let patient = g.run("f", json!({"input": 3, "timeouts": {"start": "1h"}})).await;
    g.advance(Duration::from_mins(11));
    let view = g.status(&late, "timed_out").await;
    assert_eq!(view["error"]["type"], "not-started-in-time", "{view}");
    gate.add_permits(2);
    g.status(&first, "completed").await;
    g.status(&patient, "completed").await;
    assert_eq!(inputs(&handler), [json!(1), json!(3)]);
    g.close().await;
}
