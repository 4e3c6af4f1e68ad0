//! Events: accepted once, they start functions and reach the steps that wait for them.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection as _;
use stepwell::engine::{CRASH_AT, Point};

use crate::cluster::Cluster;
use crate::gateway::{Gateway, Handler, settled};

/// Waits for an event as step `e` and ends with what it came to.
fn listens(it: &Value, op: &Value) -> Value {
    let mut op = op.clone();
    (op["op"], op["id"]) = (json!("event"), json!("e"));
    if settled(it, "e") {
        json!({"result": it["steps"]["e"]})
    } else {
        json!({"ops": [op], "await": {"settled": ["e"]}})
    }
}

/// Publishes an event and waits until everybody has it.
async fn publish(g: &Gateway, event: Value) -> Value {
    let sent = g.post("/v1/events?wait=20s", event).await;
    assert_eq!(sent["routed"], true, "{sent}");
    sent
}

/// The JSON of an answer.
async fn body(answer: reqwest::Response) -> Value {
    let text = answer.text().await.expect("a body");
    serde_json::from_str(&text).expect("JSON")
}

async fn waits(g: &Gateway, run: &str) {
    g.status(run, "waiting").await;
    let listening = "select count(*) from event_waits";
    g.eventually("somebody waits", async |g| g.db.number(listening).await > 0).await;
}

// P5.11, P5.54, P5.55
#[tokio::test(flavor = "multi_thread")]
async fn an_event_settles_the_steps_that_it_matches() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        listens(it, &json!({"event": "order.paid", "match": {"data.order": it["input"]}}))
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let (one, two) = (g.run("f", json!({"input": 1})).await, g.run("f", json!({"input": 2})).await);
    g.eventually("both wait", async |g| g.db.number("select count(*) from event_waits").await == 2)
        .await;
    let waits = g.get(&format!("/v1/runs/{one}")).await["waiting_for"][0].clone();
    assert_eq!((&waits["op"], &waits["name"]), (&json!("event"), &json!("order.paid")), "{waits}");
    // Another name, another value, and no such field: nobody's.
    for event in [
        json!({"name": "order.sent", "data": {"order": 1}}),
        json!({"name": "order.paid", "data": {"order": "1"}}),
        json!({"name": "order.paid"}),
    ] {
        assert_eq!(publish(&g, event).await["matches"], json!([]));
    }
    let event = json!({"name": "order.paid", "source": "shop", "id": "o-1",
        "time": "2026-01-02T03:04:05.000Z", "data": {"order": 1, "n": 3_544_790_567_247_868_102_i64}});
    let sent = publish(&g, event.clone()).await;
    assert_eq!(sent["matches"][0]["run"], json!(one), "{sent}");
    assert_eq!(sent["matches"][0]["step"], "e");
    let step = g.status(&one, "completed").await["output"].clone();
    let shown = json!({"id": sent["id"], "name": "order.paid", "source": "shop", "source_id": "o-1",
        "time": "2026-01-02T03:04:05.000Z", "data": event["data"]});
    assert_eq!((&step["op"], &step["value"]), (&json!("event"), &shown), "{step}");
    assert_eq!(g.get(&format!("/v1/runs/{two}")).await["status"], "waiting");

    // The same source and id is the same event, whatever comes with it.
    let again = json!({"name": "order.paid", "source": "shop", "id": "o-1", "data": {"order": 2}});
    let replayed = publish(&g, again).await;
    assert_eq!((&replayed["id"], &replayed["replayed"]), (&sent["id"], &json!(true)));
    publish(&g, json!({"name": "order.paid", "data": {"order": 2}})).await;
    g.status(&two, "completed").await;

    let page = g.get("/v1/events?name=order.paid&limit=1").await;
    assert_eq!(
        (page["data"][0]["source"].as_str(), page["data"].as_array().map(Vec::len)),
        (Some("api"), Some(1))
    );
    let next = page["next_cursor"].as_str().expect("there are more");
    let page = g.get(&format!("/v1/events?name=order.paid&limit=1&cursor={next}")).await;
    assert_eq!(page["data"][0]["id"], sent["id"]);
    let read = g.get(&format!("/v1/events/{}", sent["id"].as_str().expect("an id"))).await;
    assert_eq!((&read["data"], &read["matches"]), (&event["data"], &sent["matches"]));
    let counted = json!({"count": 1, "started": 0, "exact": true});
    assert_eq!((&read["matched"], &page["data"][0]["matched"]), (&counted, &counted), "{page}");
    // They are counted to a hundred, of each event alone.
    let mine = sent["id"].as_str().expect("an id");
    let mut conn = sqlx::PgConnection::connect(&g.db.url).await.expect("Postgres");
    for (more, exact) in [(99, true), (1, false)] {
        let sql = "insert into stepwell.event_matches (shard, event_id, run_id, step, at)
            select shard, id, gen_random_uuid(), '', now()
              from stepwell.events cross join generate_series(1, $1) where source_id = 'o-1'";
        sqlx::query(sql).bind(more).execute(&mut conn).await.expect("more matches");
        let read = g.get(&format!("/v1/events/{mine}")).await;
        assert_eq!(
            (&read["matched"]["count"], &read["matched"]["exact"]),
            (&json!(100), &json!(exact))
        );
        let page = g.get("/v1/events?name=order.paid").await;
        let listed = page["data"].as_array().expect("a list");
        let of_mine = listed.iter().find(|e| e["id"] == sent["id"]).expect("it is listed");
        assert_eq!(of_mine["matched"], read["matched"], "{page}");
        let others = listed.iter().filter(|e| e["id"] != sent["id"]);
        let counts: Vec<_> = others.map(|e| e["matched"]["count"].clone()).collect();
        assert_eq!(counts, [1, 0, 0], "{page}");
    }
    let none = "/v1/events/evt_00000000000000000000000000";
    let (status, code, _) = g.refused("GET", none, None).await;
    assert_eq!((status, code.as_str()), (404, "event-not-found"));
    assert_eq!(g.db.number("select count(*) from event_waits").await, 0);
    g.close().await;
}

/// Waits for a signal, and ends with the reason of its cancel.
fn waits_until_cancelled(it: &Value) -> Value {
    if it["cancel"].is_null() {
        json!({"ops": [{"op": "signal", "id": "s", "name": "go"}], "await": "s"})
    } else {
        json!({"result": it["cancel"]["reason"]})
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewound_run_and_one_that_was_debounced_are_cancelled_by_events() {
    let g = Gateway::start().await;
    let handler = Handler::serve(waits_until_cancelled).await;
    let on = json!([{"event": "order.cancelled", "same": {"data.order": "input.order"}}]);
    let debounce = json!({"key": "input.order", "period": "1m"});
    let functions = json!([{"name": "f", "cancel_on": on},
        {"name": "late", "cancel_on": on, "debounce": debounce}]);
    g.register(&handler, functions).await;
    let cancelled = async |order: &str| {
        let event = json!({"name": "order.cancelled", "data": {"order": order}});
        publish(&g, event).await["matches"].clone()
    };

    // Terminated and rewound at once, whether what it waited for is given up by then or not; then
    // after it was.
    let run = g.run("f", json!({"input": {"order": "a"}})).await;
    g.status(&run, "waiting").await;
    for settles in [false, true, false] {
        g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
        g.status(&run, "terminated").await;
        if settles {
            g.eventually("nobody waits", async |g| {
                g.db.number("select count(*) from event_waits").await == 0
            })
            .await;
            assert_eq!(cancelled("a").await, json!([]), "it has ended");
        }
        g.post(&format!("/v1/runs/{run}/rewind"), json!({})).await;
        g.status(&run, "waiting").await;
    }
    g.eventually("all is said", async |g| g.db.number("select count(*) from outbox").await == 0)
        .await;
    assert_eq!(cancelled("b").await, json!([]));
    let matches = cancelled("a").await;
    assert_eq!((&matches[0]["run"], &matches[0]["did"]), (&json!(run), &json!("cancelled")));
    g.status(&run, "cancelled").await;

    // A start that is put off is no run yet; from its begin on it is cancelled.
    let late = g.run("late", json!({"input": {"order": "c"}})).await;
    assert_eq!(cancelled("c").await, json!([]));
    g.advance(Duration::from_secs(61));
    g.status(&late, "waiting").await;
    assert_eq!(cancelled("c").await[0]["run"], json!(late));
    g.status(&late, "cancelled").await;
    g.eventually("nobody waits", async |g| {
        g.db.number("select count(*) from event_waits").await == 0
    })
    .await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_cancels_the_runs_that_it_is_about() {
    let g = Gateway::start().await;
    let handler = Handler::serve(waits_until_cancelled).await;
    let on = json!([{"event": "order.cancelled", "match": {"data.final": true},
        "same": {"data.order": "input.order"}}]);
    let page = include_str!("../../docs/events.md");
    let (_, shown) = page.split_once("```json\n{\"name\": \"fulfil\"").expect("an example");
    let (shown, _) = shown.split_once("```").expect("it ends");
    let shown: Value =
        serde_json::from_str(&format!("{{\"name\": \"fulfil\"{shown}")).expect("JSON");
    let functions = json!([{"name": "f", "cancel_on": on}, shown]);
    let asked = json!({"name": "shop", "url": handler.url, "functions": functions,
        "discover": false});
    g.post("/v1/endpoints", asked).await;
    let settings = g.get("/v1/functions/f").await["settings"].clone();
    let shown = settings.as_array().and_then(|all| all.iter().find(|s| s["name"] == "cancel_on"));
    assert_eq!(shown.expect("it is listed")["value"], on);
    let input = |order: Value| json!({"input": {"order": order}});
    let about = g.run("f", input(json!("a"))).await;
    let other = g.run("f", input(json!("b"))).await;
    let nobody = g.run("f", json!({"input": null})).await;
    let later = g.run("f", json!({"input": {"order": "a"}, "delay": "1h"})).await;
    for run in [&about, &other, &nobody] {
        g.status(run, "waiting").await;
    }
    let event = json!({"name": "order.cancelled", "data": {"order": "a", "final": false}});
    assert_eq!(publish(&g, event).await["matches"], json!([]));
    let event = json!({"name": "order.cancelled", "data": {"order": "a", "final": true}});
    let sent = publish(&g, event.clone()).await;
    let matches = sent["matches"].as_array().expect("a list");
    assert_eq!(matches.len(), 2, "{sent}");
    for matched in matches {
        assert_eq!((&matched["did"], &matched["step"]), (&json!("cancelled"), &Value::Null));
        assert!([&about, &later].contains(&&matched["run"].as_str().expect("a run").to_owned()));
    }
    g.status(&about, "cancelled").await;
    g.status(&later, "cancelled").await;
    let entry = g.happened(&about, "run.cancelling").await[0].clone();
    assert_eq!(entry["by"], format!("event {}", sent["id"].as_str().expect("an id")));
    assert_eq!(entry["data"]["reason"], "the event order.cancelled cancels it");
    for run in [&other, &nobody] {
        assert_eq!(g.get(&format!("/v1/runs/{run}")).await["status"], "waiting");
    }
    // What the page about events shows.
    let paid = json!({"name": "order.paid", "data": {"order": 42, "plan": "pro"}});
    let started = publish(&g, paid).await["matches"][0].clone();
    assert_eq!((&started["did"], &started["step"]), (&json!("started"), &Value::Null));
    let event42 = json!({"name": "order.cancelled", "data": {"order": 42}});
    assert_eq!(publish(&g, event42).await["matches"][0]["run"], started["run"]);
    g.status(started["run"].as_str().expect("a run"), "cancelled").await;
    // It is over with them, and so it is with one that ends by itself.
    assert_eq!(publish(&g, event).await["matches"], json!([]));
    for run in [&other, &nobody] {
        g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
    }
    g.eventually("nobody waits", async |g| {
        g.db.number("select count(*) from event_waits").await == 0
    })
    .await;
    g.close().await;
}

// P5.37, P5.56
#[tokio::test(flavor = "multi_thread")]
async fn who_looks_back_finds_what_came_before_and_a_time_out_ends_the_wait() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let mut op = json!({"event": "paid", "timeout": "1h"});
        op["lookback"] = it["input"].clone();
        listens(it, &op)
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    publish(&g, json!({"name": "paid", "data": "before"})).await;
    g.advance(Duration::from_secs(60));
    let forgetful = g.run("f", json!({"input": "0s"})).await;
    waits(&g, &forgetful).await;
    let looking = g.run("f", json!({"input": "2m"})).await;
    let step = g.status(&looking, "completed").await["output"].clone();
    assert_eq!(step["value"]["data"], "before", "{step}");
    assert_eq!(g.get(&format!("/v1/runs/{forgetful}")).await["status"], "waiting");
    g.advance(Duration::from_secs(3_600));
    let step = g.status(&forgetful, "completed").await["output"].clone();
    assert_eq!(step["error"]["type"], "timed-out", "{step}");
    g.eventually("nobody waits", async |g| {
        g.db.number("select count(*) from event_waits").await == 0
    })
    .await;
    let late = publish(&g, json!({"name": "paid", "data": "late"})).await;
    assert_eq!(late["matches"], json!([]));
    g.close().await;
}

// P5.56
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_has_taken_an_event_does_not_find_it_again() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let n = (0..3).find(|n| !settled(it, &format!("e/{n}")));
        let Some(n) = n else {
            let data = |n| it["steps"][format!("e/{n}")]["value"]["data"].clone();
            return json!({"result": [data(0), data(1), data(2)]});
        };
        let op = json!({"op": "event", "id": format!("e/{n}"), "event": "tick", "lookback": "1h"});
        json!({"ops": [op], "await": format!("e/{n}")})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    for n in 0..2 {
        publish(&g, json!({"name": "tick", "data": n})).await;
    }
    let run = g.run("f", json!({})).await;
    let settled =
        async |g: &Gateway| g.get(&format!("/v1/runs/{run}")).await["steps"]["settled"] == 2;
    g.eventually("both are taken", settled).await;
    waits(&g, &run).await;
    publish(&g, json!({"name": "tick", "data": 2})).await;
    assert_eq!(g.status(&run, "completed").await["output"], json!([0, 1, 2]));
    g.close().await;
}

// P5.16, P5.54
#[tokio::test(flavor = "multi_thread")]
async fn an_event_starts_functions_and_runs_publish_events() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["function"].as_str() {
        Some("seller") if settled(it, "say") => json!({"result": it["steps"]["say"]["value"]}),
        Some("seller") => json!({"ops": [
            {"op": "publish", "id": "say", "event": "sold", "data": {"n": it["input"]}}], "await": "say"}),
        _ => json!({"result": it["input"]}),
    })
    .await;
    let bills = json!({"name": "bills", "triggers": [{"event": "sold"}]});
    let big = json!({"name": "big", "triggers": [{"event": "sold", "match": {"data.n": 1000}}]});
    g.register(&handler, json!(["seller", bills, big.clone()])).await;
    let odd =
        json!([{"name": "odd", "input_schema": {"type": "object"}, "triggers": [{"evnt": "x"}]}]);
    let body = json!({"name": "odd", "url": handler.url, "functions": odd, "discover": false});
    let (status, _, problem) = g.refused("POST", "/v1/endpoints", Some(body)).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("#/functions/0/triggers")));
    let shown = g.get("/v1/functions/big").await;
    assert_eq!(shown["triggers"], big["triggers"], "{shown}");
    let run = g.run("seller", json!({"input": 7})).await;
    let id = g.status(&run, "completed").await["output"].clone();
    let path = format!("/v1/events/{}?wait=20s", id.as_str().expect("an id"));
    let event = g.get(&path).await;
    assert_eq!((&event["source"], &event["routed"]), (&json!(run), &json!(true)), "{event}");
    let matches = event["matches"].as_array().expect("a list");
    assert_eq!((matches.len(), &matches[0]["step"]), (1, &Value::Null), "{event}");
    assert_eq!(event["matched"], json!({"count": 1, "started": 1, "exact": true}));
    let bill = g.status(matches[0]["run"].as_str().expect("an id"), "completed").await;
    assert_eq!(bill["function"], "bills");
    assert_eq!((&bill["output"]["id"], &bill["output"]["data"]), (&id, &json!({"n": 7})));
    let sent = publish(&g, json!({"name": "sold", "data": {"n": 1000}})).await;
    assert_eq!(sent["matches"].as_array().map(Vec::len), Some(2), "{sent}");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_published_in_lists_and_as_cloud_events_and_refused_by_name() {
    let g = Gateway::start().await;
    let list: Vec<Value> = (0..1_000).map(|n| json!({"name": "n", "data": n})).collect();
    let sent = g.post("/v1/events", json!(list)).await;
    assert_eq!(sent["data"].as_array().map(Vec::len), Some(1_000));
    let more: Vec<Value> = (0..1_001).map(|n| json!({"name": "n", "data": n})).collect();
    let (status, code, _) = g.refused("POST", "/v1/events", Some(json!(more))).await;
    assert_eq!((status, code.as_str()), (422, "invalid-request"));
    let wrong = json!([{"name": "n"}, {"nam": "n"}]);
    let (_, _, problem) = g.refused("POST", "/v1/events", Some(wrong)).await;
    let pointers: Vec<&str> = problem["errors"]
        .as_array()
        .expect("faults")
        .iter()
        .filter_map(|e| e["pointer"].as_str())
        .collect();
    assert!(pointers.contains(&"#/1/nam") && pointers.contains(&"#/1/name"), "{problem}");
    let sent = g
        .http
        .post(format!("{}/v1/events?wait=20s", g.url))
        .header("content-type", "application/json")
        .header("ce-specversion", "1.0")
        .header("ce-type", "sold")
        .header("ce-source", "/shop")
        .header("ce-id", "1")
        .body("{\"n\": 1.0 }")
        .send()
        .await
        .expect("an answer");
    assert_eq!(sent.status(), 202);
    let sent = body(sent).await;
    let read = g.get(&format!("/v1/events/{}", sent["id"].as_str().expect("an id"))).await;
    assert_eq!((&read["name"], &read["source_id"]), (&json!("sold"), &json!("1")));
    let keyed = |body: &'static str| {
        let request = g.http.post(format!("{}/v1/events", g.url));
        request
            .header("content-type", "application/json")
            .header("idempotency-key", "k")
            .body(body)
            .send()
    };
    let first = body(keyed("{\"name\":\"a\"}").await.expect("sent")).await;
    let second = keyed("{\"name\":\"a\"}").await.expect("sent");
    assert_eq!(second.headers()["idempotent-replayed"], "true");
    assert_eq!(body(second).await["id"], first["id"]);
    assert_eq!(keyed("{\"name\":\"b\"}").await.expect("sent").status(), 422);
    g.close().await;
}

/// A run that waits for two events of its own. They are published beside its asks, or before them
/// where a node dies in between.
fn patient(it: &Value) -> Value {
    if it["function"] == "woken" {
        return json!({"result": it["input"]["data"]["n"]});
    }
    let ids = ["a", "b"];
    if ids.iter().all(|id| settled(it, id)) {
        let n = |id: &str| it["steps"][id]["value"]["data"]["n"].clone();
        return json!({"result": [n("a"), n("b")]});
    }
    let ops: Vec<Value> = ids
        .iter()
        .map(|id| {
            json!({"op": "event", "id": id, "event": format!("go.{id}"),
                "match": {"data.n": it["input"]}, "lookback": "1h"})
        })
        .collect();
    json!({"ops": ops, "await": {"all": ids}})
}

/// Starts runs and publishes their events beside them, at nodes that may die; their ids.
async fn begin(cluster: &Cluster, from: usize, count: usize) -> Vec<(usize, String)> {
    let mut runs = Vec::new();
    for n in from..from + count {
        let run = insist(cluster, "/v1/functions/patient/runs", &json!({"input": n}), n).await;
        runs.push((n, run["id"].as_str().expect("an id").to_owned()));
        let events: Vec<Value> = ["a", "b"]
            .iter()
            .map(|id| {
                json!({"name": format!("go.{id}"), "source": "test",
                "id": format!("{id}-{n}"), "data": {"n": n}})
            })
            .collect();
        insist(cluster, "/v1/events", &json!(events), n).await;
    }
    runs
}

/// Sends a request to one node after the other until it is accepted.
async fn insist(cluster: &Cluster, path: &str, body: &Value, n: usize) -> Value {
    let key = format!("{path}-{n}");
    for attempt in 0..400 {
        let node = (n + attempt) % cluster.nodes.len();
        if let Some((202, answer)) =
            cluster.try_call(node, "POST", path, Some(body), Some(&key)).await
        {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody answers {path}");
}

async fn all_is_well(cluster: &Cluster, runs: &[(usize, String)]) {
    for (n, run) in runs {
        let view = cluster.status(1, run, "completed").await;
        assert_eq!(view["output"], json!([n, n]), "{view}");
    }
    // Every event of one name has started one run.
    let woken =
        "select count(*) from run_done d join functions f on f.id = d.fn where f.name = 'woken'";
    let events = i64::try_from(runs.len()).expect("few");
    cluster.eventually("all were woken", async || cluster.db.number(woken).await >= events).await;
    cluster
        .eventually("nothing is on its way", async || {
            let idle = cluster.db.store.audit_idle().await.expect("the audit can be read");
            idle.is_empty() && cluster.db.number("select count(*) from event_queue").await == 0
        })
        .await;
    assert_eq!(cluster.db.number(woken).await, events, "each once");
    assert_eq!(cluster.db.number("select count(*) from event_waits").await, 0);
    let twice = "select count(*) from (select 1 from journal where kind = 17) x";
    assert_eq!(cluster.db.number(twice).await, 0, "no event came twice to a step");
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

// P9.4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_while_events_are_routed_loses_and_repeats_nothing() {
    let woken = json!({"name": "woken", "triggers": [{"event": "go.a"}]});
    for (times, point) in [
        (1, Point::RouteBefore),
        (2, Point::RouteAfter),
        (1, Point::DeliverBefore),
        (2, Point::DeliverAfter),
    ] {
        let handler = Handler::serve(patient).await;
        let mut cluster = Cluster::start(2).await;
        cluster
            .register_functions(&handler.url, vec![json!({"name": "patient"}), woken.clone()])
            .await;
        cluster.balanced().await;
        cluster.nodes[0].kill();
        let armed = format!("{}:{times}", point.word());
        cluster.nodes[0].start_with(&[(CRASH_AT, &armed)]);
        let mut runs = begin(&cluster, 0, 6).await;
        while cluster.nodes[0].runs() {
            assert!(runs.len() < 300, "{armed} is never reached");
            let next = runs.len();
            runs.extend(begin(&cluster, next, 6).await);
        }
        cluster.nodes[0].kill();
        cluster.nodes[0].start();
        all_is_well(&cluster, &runs).await;
    }
}
