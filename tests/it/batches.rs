//! Many starts at once, and a start that is a signal where a run is there already.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use stepwell::engine::{CRASH_AT, Point};

use crate::cluster::Cluster;
use crate::gateway::{Gateway, Handler, settled};

const BATCH: &str = "/v1/runs/batch";

/// A batch; the answer's status, whether it is of an earlier one, and the answer.
async fn batch(g: &Gateway, key: Option<&str>, runs: &Value) -> (u16, bool, Value) {
    let headers: Vec<(&str, &str)> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
    let body = json!({"runs": runs}).to_string();
    let (status, headers, text) = g.raw("POST", BATCH, &headers, Some(body)).await;
    let replayed = headers.get("idempotent-replayed").is_some_and(|v| v == "true");
    (status, replayed, serde_json::from_slice(&text).expect("JSON"))
}

/// Ends when it is told to.
async fn waiter() -> Handler {
    Handler::serve(|it| {
        if settled(it, "go") {
            json!({"result": it["steps"]["go"]["value"]})
        } else {
            json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"})
        }
    })
    .await
}

fn codes(answer: &Value) -> Vec<String> {
    let items = answer["data"].as_array().expect("a list");
    let code = |item: &Value| match item["problem"]["code"].as_str() {
        Some(code) => code.to_owned(),
        None => item["status"].to_string(),
    };
    items.iter().map(code).collect()
}

fn ids(answer: &Value) -> Vec<Option<String>> {
    let items = answer["data"].as_array().expect("a list");
    items.iter().map(|item| item["run"]["id"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_start_of_a_batch_is_for_itself() {
    let g = Gateway::start().await;
    let handler = waiter().await;
    let functions = json!(["f", {"name": "once", "rate_limit": {"limit": 1, "period": "1d"}},
        {"name": "late", "debounce": {"period": "1h"}}, {"name": "only", "singleton": {"mode": "skip"}},
        {"name": "newest", "singleton": {"mode": "cancel"}}, {"name": "account", "kind": "object"}]);
    g.register(&handler, functions).await;
    let big = "x".repeat(1 << 20);
    let runs = json!([
        {"function": "f", "input": 1, "tags": {"a": "b"}},
        {"function": "nobody"},
        {"function": "f", "keey": "a"},
        {"function": "f", "key": "a", "signal": {"name": "go", "payload": 7}},
        {"function": "f", "key": "a"},
        {"function": "f", "key": "a", "if_running": "use_existing"},
        {"function": "f", "key": "a", "if_running": "cancel_existing"},
        {"function": "f", "delay": "1h"},
        {"function": "once"},
        {"function": "once"},
        {"function": "late"},
        {"function": "only"},
        {"function": "only"},
        {"function": "newest"},
        {"function": "account", "key": "ann"},
        {"function": "account", "key": "ann"},
        {"function": "account"},
        {"function": "f", "input": big},
        "f",
    ]);
    let (status, _, answer) = batch(&g, None, &runs).await;
    assert_eq!(status, 202, "{answer}");
    let expected = [
        "202",
        "function-not-found",
        "invalid-request",
        "202",
        "run-exists",
        "202",
        "invalid-request",
        "202",
        "202",
        "rate-limited",
        "invalid-request",
        "202",
        "202",
        "invalid-request",
        "202",
        "202",
        "invalid-request",
        "payload-too-large",
        "invalid-request",
    ];
    assert_eq!(codes(&answer), expected, "{answer:#}");
    assert_eq!((&answer["started"], &answer["refused"]), (&json!(9), &json!(10)));
    let at = |i: usize| &answer["data"][i]["problem"]["errors"][0]["pointer"];
    assert_eq!(
        [at(2), at(6), at(10), at(13), at(18)],
        [
            "#/runs/2/keey",
            "#/runs/6/if_running",
            "#/runs/10/function",
            "#/runs/13/function",
            "#/runs/18"
        ],
    );
    let ids = ids(&answer);
    assert_eq!(answer["data"][4]["problem"]["run"].as_str(), ids[3].as_deref());
    assert_eq!((&ids[5], &ids[12]), (&ids[3], &ids[11]), "the live one of the key");
    assert_eq!(answer["data"][0]["run"]["input"], Value::Null, "payloads stay out of the answer");
    let run = |i: usize| ids[i].clone().expect("it was started");
    // A signal is there from the start; of an object the second waits for the first.
    assert_eq!(g.status(&run(3), "completed").await["output"], 7);
    let first = g.status(&run(0), "waiting").await;
    assert_eq!((&first["input"], &first["tags"]), (&json!(1), &json!({"a": "b"})));
    assert_eq!(g.status(&run(7), "scheduled").await["id"], *run(7));
    for i in [14, 15] {
        g.status(&run(i), "waiting").await;
        g.signal(&run(i), "go", json!(i)).await;
        g.status(&run(i), "completed").await;
    }
    for (i, (bad, what)) in [
        (json!([]), "has 0 starts"),
        (json!(vec![json!({"function": "f"}); 1001]), "has 1001 starts"),
        (json!({"function": "f"}), "invalid type"),
    ]
    .into_iter()
    .enumerate()
    {
        let (status, _, problem) = batch(&g, None, &bad).await;
        assert_eq!(status, 422, "{i}: {problem}");
        assert!(problem["errors"][0]["detail"].as_str().expect("why").contains(what), "{problem}");
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_batch_again_is_the_same_runs_and_costs_one_transaction() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| json!({"result": it["input"]})).await;
    g.register(&handler, json!(["f"])).await;
    // Five hundred keys of which each is asked for twice, and one that is asked for often.
    let one = |n: usize| match n {
        0..500 => {
            json!({"function": "f", "input": n, "key": format!("k{}", n % 250), "if_closed": "reject"})
        }
        500..900 => json!({"function": "f", "input": n}),
        900 => json!({"function": "later"}),
        _ => json!({"function": "f", "input": n, "key": "all"}),
    };
    let runs = json!((0..1_000).map(one).collect::<Vec<_>>());
    let (status, replayed, first) = batch(&g, Some("b"), &runs).await;
    assert_eq!((status, replayed), (202, false), "{first}");
    assert_eq!((&first["started"], &first["refused"]), (&json!(651), &json!(349)));
    let transactions = "select count(distinct xmin::text) from journal where n = 0";
    assert_eq!(g.db.number(transactions).await, 1);
    let before = ids(&first);
    assert_eq!(before.iter().flatten().collect::<BTreeSet<_>>().len(), 651);
    g.eventually("all have run", async |_| handler.count() == 651).await;
    // What was refused is tried again: the function is there by now, and a key may be free.
    g.register(&handler, json!(["f", "later"])).await;
    let (_, _, again) = batch(&g, Some("b"), &runs).await;
    let after = ids(&again);
    for (i, id) in before.iter().enumerate().filter(|(_, id)| id.is_some()) {
        assert_eq!((id, &again["data"][i]["replayed"]), (&after[i], &json!(true)), "{i}");
    }
    assert!(before[900].is_none() && after[900].is_some());
    assert!(after[250..500].iter().all(Option::is_none), "the keys of those are used up");
    let (_, _, other) = batch(&g, Some("b"), &json!([{"function": "f"}])).await;
    assert_eq!(other["code"], "idempotency-key-reused", "{other}");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_became_a_signal_stays_one_when_it_is_repeated() {
    let g = Gateway::start().await;
    let handler = waiter().await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({"key": "k"})).await;
    g.status(&run, "waiting").await;
    let body =
        json!({"key": "k", "if_running": "use_existing", "signal": {"name": "go", "payload": 1}});
    let item = json!([{"function": "f", "key": "k", "if_running": "use_existing",
        "signal": {"name": "note", "payload": 1}}]);
    for again in [false, true] {
        let (_, replayed, answer) = batch(&g, Some("b"), &item).await;
        assert_eq!((replayed, &answer["data"][0]["run"]["id"]), (again, &json!(run)), "{answer}");
    }
    for again in [false, true, true] {
        let path = "/v1/functions/f/runs";
        let headers = [("idempotency-key", "s")];
        let (status, headers, text) = g.raw("POST", path, &headers, Some(body.to_string())).await;
        let answer: Value = serde_json::from_slice(&text).expect("JSON");
        // Also when that run has ended, and a start of its own would begin a new one.
        assert_eq!((status, &answer["id"]), (202, &json!(run)), "{answer}");
        assert_eq!(headers.contains_key("idempotent-replayed"), again);
        g.status(&run, "completed").await;
    }
    let signals = g.get(&format!("/v1/runs/{run}/signals")).await;
    assert_eq!(signals["data"].as_array().map(Vec::len), Some(2), "{signals}");
    let listed = g.get("/v1/runs").await;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_with_start_is_one_signal_whatever_dies_between() {
    let handler = waiter().await;
    let mut cluster = Cluster::start(2).await;
    cluster.register(&handler.url, &["f"]).await;
    for point in [Point::AcceptBefore, Point::AcceptAfter] {
        cluster.nodes[0].kill();
        cluster.nodes[0].start_with(&[(CRASH_AT, &format!("{}:1", point.word()))]);
        cluster.ready(&cluster.nodes[0].url.clone()).await;
        cluster.balanced().await;
        let body = |key: &str| json!({"key": key, "if_running": "use_existing", "signal": {"name": "note"}});
        // Some keys are of the other node, which carries them out.
        for n in 0.. {
            assert!(n < 100, "{} is never reached", point.word());
            let key = format!("{}-{n}", point.word());
            let run = cluster.run(1, "f", &json!({"key": key})).await;
            cluster.status(1, &run, "waiting").await;
            let path = "/v1/functions/f/runs";
            let (body, idem) = (body(&key), Some(key.as_str()));
            let first = cluster.try_call(0, "POST", path, Some(&body), idem).await;
            if let Some((status, answer)) = &first {
                assert!(*status == 202 || *status >= 500, "{answer}");
            }
            let begun = std::time::Instant::now();
            let answer = loop {
                assert!(begun.elapsed().as_secs() < 60, "never answered");
                match cluster.try_call(1, "POST", path, Some(&body), idem).await {
                    Some((202, answer)) => break answer,
                    _ => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                }
            };
            assert_eq!(answer["id"], *run);
            let signals = format!("/v1/runs/{run}/signals");
            cluster
                .eventually("the signals can be read", async || {
                    cluster
                        .try_call(1, "GET", &signals, None, None)
                        .await
                        .is_some_and(|s| s.0 == 200)
                })
                .await;
            let (_, signals) = cluster.call(1, "GET", &signals, None).await;
            assert_eq!(signals["data"].as_array().map(Vec::len), Some(1), "{signals}");
            if !cluster.nodes[0].runs() {
                break;
            }
        }
    }
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}
