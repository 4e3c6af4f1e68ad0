//! Runs that continue as new: one id and key, one generation after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::gateway::{Answer, Gateway, Handler, settled};

fn generation(it: &Value) -> u64 {
    it["run"]["generation"].as_u64().expect("a number")
}

/// Adds one step in each generation, and what it came to is the next one's input.
fn counts(it: &Value, generations: u64) -> Value {
    let sum = it["input"].as_u64().expect("a number");
    if !settled(it, "add") {
        return json!({"ops": [{"op": "run", "id": "add", "value": sum + 1}]});
    }
    let sum = &it["steps"]["add"]["value"];
    if generation(it) < generations {
        json!({"continue": {"input": sum}})
    } else {
        json!({"result": sum})
    }
}

// P3.10, P2.10, P2.16
#[tokio::test(flavor = "multi_thread")]
async fn a_run_continues_under_its_id_with_a_new_input_and_an_empty_journal() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| counts(it, 3)).await;
    g.register(&handler, json!(["f"])).await;
    let body = json!({"input": 0, "key": "order-42", "tags": {"customer": "c7"}});
    let run = g.run("f", body).await;
    let view = g.status(&run, "completed").await;
    assert_eq!((&view["output"], &view["generation"]), (&json!(3), &json!(3)));
    assert_eq!((&view["key"], &view["tags"]["customer"]), (&json!("order-42"), &json!("c7")));
    assert_eq!((&view["steps"]["settled"], &view["invocations"]), (&json!(1), &json!(6)));
    let first: Vec<Value> =
        handler.invocations().into_iter().filter(|it| it["steps"] == json!({})).collect();
    assert_eq!(first.len(), 3, "each generation begins once");
    let mut epoch = 0;
    for (n, it) in (1..).zip(&first) {
        assert_eq!((generation(it), &it["input"]), (n, &json!(n - 1)));
        assert_eq!((&it["run"]["id"], &it["run"]["key"]), (&json!(run), &json!("order-42")));
        assert_eq!(it["run"]["idempotency_prefix"], format!("{run}.{n}/"));
        assert_eq!(it["run"]["created_at"], first[0]["run"]["created_at"]);
        assert_eq!(
            (&it["journal"]["upto"], &it["invocation"]["reason"]),
            (&json!(0), &json!("start"))
        );
        let now = it["invocation"]["epoch"].as_u64().expect("a number");
        assert!(now > epoch, "the epoch goes on counting");
        epoch = now;
    }
    for what in ["/run/seed", "/links/callback"] {
        let all: Vec<&Value> = first.iter().filter_map(|it| it.pointer(what)).collect();
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2], "{what}: {all:?}");
    }
    // What is read of it is its last generation; the history tells of all.
    let page = g.get(&format!("/v1/runs/{run}/journal")).await;
    assert_eq!((&page["generation"], &page["upto"]), (&json!(3), &json!(1)));
    assert_eq!(page["data"][0]["value"], 3);
    assert_eq!(g.get(&format!("/v1/runs/{run}/steps/add")).await["value"], 3);
    let history = g.history(&run).await;
    let types: Vec<&str> = history.iter().filter_map(|e| e["type"].as_str()).collect();
    let counted = |what: &str| types.iter().filter(|t| **t == what).count();
    assert_eq!(
        (types[0], counted("step.settled"), counted("run.continued")),
        ("run.created", 3, 2)
    );
    assert_eq!(
        history.iter().filter_map(|e| e["data"]["generation"].as_u64()).collect::<Vec<_>>(),
        [2, 3]
    );
    g.close().await;
}

// P3.16, P3.17
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_came_unseen_is_shown_first_and_what_nobody_takes_stays() {
    let g = Gateway::start().await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let handler = Handler::serve({
        let gate = Arc::clone(&gate);
        move |it| match (generation(it), it["invocation"]["reason"].as_str()) {
            (1, Some("start")) => Answer::held(&gate, json!({"continue": {"input": 2}})),
            (1, _) => json!({"continue": {"input": 2}}).into(),
            _ if settled(it, "b") => {
                json!({"result": [it["steps"]["a"]["value"], it["steps"]["b"]["value"]]}).into()
            }
            _ => json!({"ops": [{"op": "signal", "id": "a", "name": "go"},
                {"op": "signal", "id": "b", "name": "go"}], "await": {"all": ["a", "b"]}})
            .into(),
        }
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({"input": 1})).await;
    g.invoked(&handler, 1).await;
    g.signal(&run, "go", json!("first")).await;
    gate.add_permits(1);
    let shown = g.invoked(&handler, 2).await;
    assert_eq!((generation(&shown), &shown["inbox"]), (1, &json!({"go": 1})));
    assert_eq!(shown["invocation"]["reason"], "signal");
    let next = g.invoked(&handler, 3).await;
    assert_eq!(
        (generation(&next), &next["inbox"], &next["input"]),
        (2, &json!({"go": 1}), &json!(2))
    );
    g.signal(&run, "go", json!("second")).await;
    let view = g.status(&run, "completed").await;
    assert_eq!(view["output"], json!(["first", "second"]));
    let signals = g.get(&format!("/v1/runs/{run}/signals")).await;
    let taken: Vec<&Value> =
        signals["data"].as_array().expect("a list").iter().map(|s| &s["step"]).collect();
    assert_eq!(taken, ["a", "b"], "{signals}");
    g.close().await;
}

// P2.24
#[tokio::test(flavor = "multi_thread")]
async fn a_completion_for_an_older_generation_never_reaches_the_step_of_its_name() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "c") {
            return json!({"result": it["steps"]["c"]["value"]});
        }
        let ask = json!({"op": "callback", "id": "c"});
        match generation(it) {
            1 => json!({"ops": [ask, {"op": "sleep", "id": "nap", "for": "1s"}], "continue": {}}),
            _ => json!({"ops": [ask], "await": "c"}),
        }
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    let links: Vec<String> = handler
        .invocations()
        .iter()
        .map(|it| it["links"]["callback"].as_str().expect("a link").replace(&g.url, "") + "c")
        .collect();
    let (status, ..) = g.refused("POST", &links[0], Some(json!("old"))).await;
    assert_eq!(status, 404);
    let (status, ..) = g.refused("POST", &format!("{}?outcome=heartbeat", links[0]), None).await;
    assert_eq!(status, 404);
    assert_eq!(g.get(&format!("/v1/runs/{run}")).await["status"], "waiting");
    assert_eq!(handler.invocations()[1]["input"], Value::Null, "an input may be left out");
    let (status, _) = g.call("POST", &links[1], Some(json!("new"))).await;
    assert_eq!(status, 204);
    assert_eq!(g.status(&run, "completed").await["output"], "new");
    // The sleep of the first generation woke nobody.
    g.advance(Duration::from_secs(5));
    assert_eq!(handler.count(), 3);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_waits_on_while_its_child_continues() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if it["function"] == "child" {
            return counts(it, 4);
        }
        match it["steps"].get("c") {
            Some(step) if step.get("seq").is_some() => json!({"result": step["value"]}),
            _ => json!({"ops": [{"op": "invoke", "id": "c", "function": "child", "input": 10}], "await": "c"}),
        }
    })
    .await;
    g.register(&handler, json!(["parent", "child"])).await;
    let run = g.run("parent", json!({})).await;
    assert_eq!(g.status(&run, "completed").await["output"], 14);
    g.close().await;
}

// P5.47
#[tokio::test(flavor = "multi_thread")]
async fn children_follow_on_parent_close_when_their_parent_continues() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if it["function"] == "child" {
            let waits = json!({"ops": [{"op": "signal", "id": "s", "name": "go"}], "await": "s"});
            return match it["cancel"].is_null() {
                true if settled(it, "s") => json!({"result": 1}),
                true => waits,
                false => json!({"result": "undone"}),
            };
        }
        let ask = |id: &str, close: &str| {
            json!({"op": "invoke", "id": id, "function": "child", "on_parent_close": close})
        };
        match generation(it) {
            1 if it["input"] == 1 && it["steps"].get("kept").is_none() => {
                json!({"ops": [ask("kept", "abandon"), ask("gone", "cancel"),
                    {"op": "sleep", "id": "nap", "for": "1s"}], "await": "nap"})
            }
            1 => json!({"continue": {"input": 2}}),
            _ => json!({"ops": [{"op": "signal", "id": "s", "name": "end"}], "await": "s"}),
        }
    })
    .await;
    g.register(&handler, json!(["parent", "child"])).await;
    let run = g.run("parent", json!({"input": 1})).await;
    let path = format!("/v1/runs?parent={run}");
    // What a list says of a status may trail.
    let of = async |g: &Gateway| {
        let mut children = Vec::new();
        for child in g.get(&path).await["data"].as_array().cloned().unwrap_or_default() {
            let id = child["id"].as_str().expect("an id").to_owned();
            children.push(g.get(&format!("/v1/runs/{id}")).await);
        }
        children
    };
    g.eventually("both wait", async |g| {
        let children = of(g).await;
        children.len() == 2 && children.iter().all(|c| c["status"] == "waiting")
    })
    .await;
    g.advance(Duration::from_millis(1_100));
    g.eventually("one of them is cancelled", async |g| {
        of(g).await.iter().filter(|c| c["status"] == "cancelled").count() == 1
    })
    .await;
    let kept = of(&g).await.into_iter().find(|c| c["ended_at"].is_null()).expect("one lives");
    let kept = kept["id"].as_str().expect("an id").to_owned();
    g.signal(&kept, "go", json!(1)).await;
    g.status(&kept, "completed").await;
    g.eventually("its end is late", async |g| g.happened(&run, "message.late").await.len() == 2)
        .await;
    assert_eq!(g.get(&format!("/v1/runs/{run}")).await["generation"], 2);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_continues_very_often_leaves_nothing_behind() {
    const TIMES: u64 = 10_000;
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        // A step, a sleep that nobody waits for, and on.
        let n = it["input"].as_u64().expect("a number");
        if n == TIMES {
            return json!({"ops": [{"op": "signal", "id": "s", "name": "end"}], "await": "s"});
        }
        json!({"ops": [{"op": "run", "id": "add", "value": n + 1},
            {"op": "sleep", "id": "nap", "for": "3s"}], "continue": {"input": n + 1}})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({"input": 0})).await;
    let begun = std::time::Instant::now();
    let path = format!("/v1/runs/{run}");
    while g.get(&path).await["status"] != "waiting" {
        assert!(begun.elapsed() < Duration::from_mins(15), "it takes too long");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("{TIMES} generations took {:?}", begun.elapsed());
    assert_eq!(g.get(&path).await["generation"], TIMES + 1);
    // In the week of its birth is its first generation, and nothing that keeps the week.
    assert_eq!(g.db.number("select count(*) from journal").await, 4);
    assert_eq!(g.db.number("select count(*) from run_active where home = 0").await, 0);
    let long = g.db.number("select count(*) from journal_long").await;
    assert!(long >= 3 * TIMES.cast_signed() - 3, "{long}");
    let now = g.clock.upper();
    let store = &g.db.store;
    assert_eq!(store.trim_generations(now).await, Ok(0), "they are kept for an hour");
    let later = now + Duration::from_hours(2);
    let gone = store.trim_generations(later).await.expect("they go");
    assert_eq!(gone, TIMES - 1);
    // `continued`, `asked`, `waits`.
    assert_eq!(g.db.number("select count(*) from journal_long").await, 3);
    assert_eq!(g.db.number("select count(*) from past_generations").await, 0);
    // It goes on, and can be read anew.
    let history = g.history(&run).await;
    assert_eq!(history.last().map(|e| e["type"].clone()), Some(json!("run.waiting")));
    let db = g.kill().await;
    let g = Gateway::on(db, stepwell::machine::Limits::default()).await;
    handler.now(|it| if settled(it, "s") { json!({"result": it["input"]}) } else { json!({}) });
    g.signal(&run, "end", json!(1)).await;
    assert_eq!(g.status(&run, "completed").await["output"], TIMES);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_run_sees_the_steps_of_each_generation_that_it_is_there_for() {
    use futures::StreamExt as _;
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if !settled(it, "go") {
            return json!({"ops": [{"op": "run", "id": format!("a{}", generation(it)), "value": 1},
                {"op": "signal", "id": "go", "name": "go"}], "await": "go"});
        }
        if generation(it) < 3 { json!({"continue": {}}) } else { json!({"result": 1}) }
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    let open = |at: Option<String>| {
        let url = format!("{}/v1/runs/{run}/stream", g.url);
        let mut request = g.http.get(url).header("accept", "application/x-ndjson");
        if let Some(at) = at {
            request = request.header("last-event-id", at);
        }
        async move { request.send().await.expect("an answer") }
    };
    let mut steps: Vec<String> = Vec::new();
    let mut at = None;
    // Each listener sees one generation, and the next goes on after it.
    for n in 1..=3 {
        let mut body = open(at.clone()).await.bytes_stream();
        let mut text = String::new();
        let wanted = format!("\"a{n}\"");
        while !steps.iter().any(|s| s == &wanted) {
            let part = body.next().await.expect("it goes on").expect("bytes");
            text.push_str(&String::from_utf8_lossy(&part));
            while let Some((line, rest)) = text.split_once('\n') {
                if let Ok(event) = serde_json::from_str::<Value>(line) {
                    at = event["id"].as_str().map(str::to_owned);
                    if event["event"] == "step" {
                        steps.push(event["data"]["id"].to_string());
                    }
                }
                text = rest.to_owned();
            }
        }
        drop(body);
        g.signal(&run, "go", json!(n)).await;
    }
    steps.retain(|s| s.starts_with("\"a"));
    assert_eq!(steps, ["\"a1\"", "\"a2\"", "\"a3\""]);
    g.status(&run, "completed").await;
    g.close().await;
}

// P9.1, P9.3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_follow_each_other_while_nodes_are_killed() {
    const GENERATIONS: u64 = 120;
    const RUNS: usize = 4;
    let values: Arc<Mutex<HashMap<String, Vec<u64>>>> = Arc::default();
    let handler = Handler::serve({
        let values = Arc::clone(&values);
        move |it| {
            let answer = counts(it, GENERATIONS);
            if let Some(input) = answer.pointer("/continue/input") {
                let key = format!("{}", it["run"]["id"]);
                let mut values = values.lock().expect("no panic");
                values.entry(key).or_default().push(input.as_u64().expect("a number"));
            }
            answer
        }
    })
    .await;
    let mut cluster = Cluster::start(2).await;
    cluster.register(&handler.url, &["f"]).await;
    cluster.balanced().await;
    let mut runs = Vec::new();
    for n in 0..RUNS {
        runs.push(cluster.run(n % 2, "f", &json!({"input": 0})).await);
    }
    for round in 0..3 {
        let before = handler.count();
        cluster.eventually("they get on", async || handler.count() > before + 40).await;
        cluster.nodes[round % 2].kill();
        cluster.nodes[round % 2].start();
        cluster.ready(&cluster.nodes[round % 2].url.clone()).await;
    }
    for run in &runs {
        cluster
            .within(Duration::from_secs(120), "it ends", async || {
                let view = cluster.try_call(0, "GET", &format!("/v1/runs/{run}"), None, None).await;
                view.is_some_and(|(_, view)| view["status"] == "completed")
            })
            .await;
        let view = cluster.status(1, run, "completed").await;
        assert_eq!(
            (&view["output"], &view["generation"]),
            (&json!(GENERATIONS), &json!(GENERATIONS))
        );
    }
    // An answer may be given again after a crash; none was left out and none went back.
    for (run, mut values) in values.lock().expect("no panic").clone() {
        assert!(values.windows(2).all(|w| w[0] <= w[1]), "{run}: {values:?}");
        values.dedup();
        assert_eq!(values, (1..GENERATIONS).collect::<Vec<_>>(), "{run}");
    }
    assert_eq!(cluster.audit().await, [] as [String; 0]);
}

// P2.30
#[tokio::test(flavor = "multi_thread")]
async fn a_long_journal_suggests_to_continue() {
    let limits = stepwell::machine::Limits { steps: 40, ..Default::default() };
    let g = Gateway::with_limits(limits).await;
    let handler = Handler::serve(|it| {
        let done = it["journal"]["upto"].as_u64().expect("a number");
        if it["journal"]["continue_suggested"] == true {
            return json!({"continue": {"input": done}});
        }
        if generation(it) == 2 {
            return json!({"result": it["input"]});
        }
        json!({"ops": [{"op": "run", "id": format!("s{done}"), "value": done}]})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    assert_eq!(g.status(&run, "completed").await["output"], 10);
    assert_eq!(handler.invocations()[0]["journal"], json!({"upto": 0, "more": false}));
    g.close().await;
}
