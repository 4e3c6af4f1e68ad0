//! Following a run: long polls, streams, history, logs, custom status and tags.

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::gateway::{Gateway, Handler, settled};

/// Logs, sets status and tags, takes a signal, ends.
fn talks(it: &Value) -> Value {
    if settled(it, "go") {
        return json!({"ops": [
            {"op": "status", "value": {"progress": 1.0}},
            {"op": "tags", "value": {"stage": "done", "temp": null}},
            {"op": "log", "level": "warn", "message": "almost", "fields": {"n": 2}},
            {"op": "run", "id": "last", "value": [1,  2]},
        ], "result": "over"});
    }
    json!({"ops": [
        {"op": "run", "id": "first", "value": 1},
        {"op": "status", "value": {"progress": 0.5}},
        {"op": "tags", "value": {"stage": "half", "temp": "x"}},
        {"op": "log", "level": "info", "message": "hello"},
        {"op": "signal", "id": "go", "name": "go"},
    ], "await": "go"})
}

async fn talking() -> (Gateway, Handler, String) {
    let g = Gateway::start().await;
    let handler = Handler::serve(talks).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({"tags": {"own": "1"}})).await;
    g.status(&run, "waiting").await;
    (g, handler, run)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_answers_at_the_end_and_not_before() {
    let (g, _, run) = talking().await;
    let path = format!("/v1/runs/{run}?wait=20s");
    let polls = (0..20).map(|_| g.get(&path));
    let polls = futures::future::join_all(polls);
    let (views, ()) = tokio::join!(polls, async {
        g.signal(&run, "other", json!(1)).await;
        g.signal(&run, "go", json!(1)).await;
    });
    for view in views {
        assert_eq!((&view["status"], &view["output"]), (&json!("completed"), &json!("over")));
    }
    assert_eq!(g.get(&path).await["status"], "completed", "an ended run is not waited for");
    let result = format!("/v1/runs/{run}/result?wait=20s");
    assert_eq!(g.get(&result).await, "over");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_of_the_journal_answers_with_the_next_step() {
    let (g, _, run) = talking().await;
    let path = |after: i32| format!("/v1/runs/{run}/journal?after={after}&wait=20s");
    assert_eq!(g.get(&path(0)).await["data"][0]["id"], "first");
    let next = path(1);
    let (page, ()) = tokio::join!(g.get(&next), g.signal(&run, "go", json!("went")));
    assert_eq!((&page["data"][0]["id"], &page["data"][0]["seq"]), (&json!("go"), &json!(2)));
    g.status(&run, "completed").await;
    assert_eq!(g.get(&path(2)).await["data"][0]["value"], json!([1, 2]));
    let last = g.get(&path(3)).await;
    assert_eq!((&last["data"], &last["upto"]), (&json!([]), &json!(3)), "the end ends the wait");
    let page = g.get(&format!("/v1/runs/{run}/journal?limit=2")).await;
    assert_eq!(
        (page["next_cursor"].as_str(), page["data"].as_array().map(Vec::len)),
        (Some("2"), Some(2))
    );
    g.close().await;
}

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

/// Reads a stream until its end, or until it has had so many events.
async fn read(g: &Gateway, run: &str, last: Option<&str>, lines: bool, most: usize) -> Vec<Event> {
    let mut request = g.http.get(format!("{}/v1/runs/{run}/stream", g.url));
    if lines {
        request = request.header("accept", "application/x-ndjson");
    }
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let answer = request.send().await.expect("the gateway answers");
    assert_eq!(answer.status(), 200);
    let kind = if lines { "application/x-ndjson" } else { "text/event-stream" };
    assert_eq!(answer.headers()["content-type"], kind);
    let mut pieces = answer.bytes_stream();
    let mut text = String::new();
    let mut events = Vec::new();
    while let Some(piece) = pieces.next().await {
        text.push_str(std::str::from_utf8(&piece.expect("a piece")).expect("UTF-8"));
        let end = if lines { "\n" } else { "\n\n" };
        while let Some((one, rest)) = text.split_once(end) {
            events.extend(event(one, lines));
            text = rest.to_owned();
        }
        if events.len() >= most {
            break;
        }
    }
    events
}

fn event(text: &str, lines: bool) -> Option<Event> {
    if lines {
        let mut json: Value = serde_json::from_str(text).ok()?;
        let word = |v: &Value| v.as_str().expect("text").to_owned();
        let (id, name) = (word(&json["id"]), word(&json["event"]));
        return Some(Event { id, name, data: json["data"].take() });
    }
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned);
    let data = serde_json::from_str(&field("data: ")?).expect("JSON");
    Some(Event { id: field("id: ")?, name: field("event: ")?, data })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_everything_and_goes_on_where_it_was_left() {
    let (g, _, run) = talking().await;
    let live = read(&g, &run, None, false, usize::MAX);
    let lines = read(&g, &run, None, true, usize::MAX);
    let (live, lines, ()) = tokio::join!(live, lines, g.signal(&run, "go", json!("went")));
    for events in [&live, &lines] {
        let last = events.last().expect("there are some");
        assert_eq!((&*last.name, &last.data["output"]), ("end", &json!("over")));
        let of = |name: &str| events.iter().filter(|e| e.name == name).collect::<Vec<_>>();
        let steps: Vec<_> = of("step").iter().map(|e| e.data["id"].clone()).collect();
        assert_eq!(steps, ["first", "go", "last"]);
        let logs: Vec<_> = of("log").iter().map(|e| e.data["message"].clone()).collect();
        assert_eq!(logs, ["hello", "almost"]);
        let told: Vec<_> = of("history").iter().map(|e| e.data["n"].as_i64()).collect();
        assert!(told.is_sorted(), "{told:?}");
        let history: Vec<_> = g.history(&run).await.iter().map(|e| e["n"].as_i64()).collect();
        assert_eq!(told, history, "all of it, once");
    }
    // Whoever comes back with any id sees what comes after it, and nothing else.
    let whole = read(&g, &run, None, false, usize::MAX).await;
    let facts = |events: &[Event]| -> Vec<Event> {
        events.iter().filter(|e| e.name != "run").cloned().collect()
    };
    for (i, event) in whole.iter().enumerate() {
        if event.name == "end" {
            let request = g.http.get(format!("{}/v1/runs/{run}/stream", g.url));
            let answer = request.header("last-event-id", &event.id).send().await.expect("one");
            assert_eq!(answer.status(), 204);
        } else {
            let rest = read(&g, &run, Some(&event.id), i % 2 == 0, usize::MAX).await;
            assert_eq!(facts(&rest), facts(&whole[i + 1..]), "after {}", event.id);
        }
    }
    let bad = [("last-event-id", "nonsense")];
    assert_eq!(g.raw("GET", &format!("/v1/runs/{run}/stream"), &bad, None).await.0, 400);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_the_run_whenever_it_stands_differently() {
    let g = Gateway::start().await;
    let handler = Handler::serve(talks).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({"delay": "10s"})).await;
    let request = g.http.get(format!("{}/v1/runs/{run}/stream", g.url));
    let mut pieces = request.send().await.expect("the gateway answers").bytes_stream();
    let mut text = String::new();
    let mut until = async |what: &str| {
        while !text.contains(what) {
            let piece = pieces.next().await.unwrap_or_else(|| panic!("no {what} in {text}"));
            text.push_str(std::str::from_utf8(&piece.expect("a piece")).expect("UTF-8"));
        }
    };
    until(r#""status":"scheduled""#).await;
    g.advance(Duration::from_secs(10));
    until(r#""status":"waiting""#).await;
    g.post(&format!("/v1/runs/{run}/pause"), json!({})).await;
    until(r#""status":"paused""#).await;
    g.post(&format!("/v1/runs/{run}/resume"), json!({})).await;
    g.signal(&run, "go", json!(1)).await;
    until("event: end").await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_says_what_happened_when_and_by_whom() {
    let (g, handler, run) = talking().await;
    g.post(&format!("/v1/runs/{run}/pause"), json!({"reason": "lunch"})).await;
    g.advance(Duration::from_secs(5));
    g.post(&format!("/v1/runs/{run}/resume"), json!({"reason": "back"})).await;
    handler.now(|_| crate::gateway::Answer::Status(500, Vec::new(), "boom".to_owned()));
    g.signal(&run, "go", json!("went")).await;
    g.status(&run, "retrying").await;
    handler.now(talks);
    g.advance(Duration::from_secs(1));
    g.status(&run, "completed").await;
    let history = g.history(&run).await;
    let types: Vec<&str> = history.iter().filter_map(|e| e["type"].as_str()).collect();
    let expected = [
        "run.created",
        "invocation.ended",
        "step.settled",
        "run.noted",
        "run.noted",
        "step.asked",
        "run.waiting",
        "run.paused",
        "run.resumed",
        "signal.taken",
        "invocation.failed",
        "invocation.ended",
        "run.noted",
        "run.noted",
        "step.settled",
        "run.completed",
    ];
    let mut rest = types.iter();
    for what in expected {
        assert!(rest.any(|t| *t == what), "{what} in its place in {types:?}");
    }
    let of = |what: &str| history.iter().find(|e| e["type"] == what).expect("it is there");
    assert_eq!(of("run.created")["by"], "local");
    assert_eq!(of("run.paused")["by"], "local");
    assert!(of("run.paused")["data"].to_string().contains("lunch"));
    assert_eq!(of("run.resumed")["data"]["reason"], "back");
    assert_eq!(of("signal.taken")["data"]["value"], "went");
    assert_eq!(of("invocation.failed")["data"]["body"], "boom");
    assert_eq!(of("run.completed")["data"]["output"], "over");
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = g.get(&format!("/v1/runs/{run}/history?limit=1{cursor}")).await;
        paged.extend(page["data"].as_array().expect("a list").clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, history, "page by page the same");
    let export = g.get(&format!("/v1/runs/{run}/export")).await;
    assert_eq!(export["history"].as_array(), Some(&history), "{export}");
    g.close().await;
}

// P5.21, P5.22
#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_says_about_its_run_is_shown_and_found() {
    let (g, handler, run) = talking().await;
    let view = g.get(&format!("/v1/runs/{run}")).await;
    assert_eq!(view["custom_status"], json!({"progress": 0.5}));
    assert_eq!(view["tags"], json!({"own": "1", "stage": "half", "temp": "x"}));
    let found = async |query: &str| {
        let page = g.get(&format!("/v1/runs?{query}")).await;
        page["data"].as_array().expect("a list").iter().any(|r| r["id"] == *run)
    };
    assert!(found("tag=stage:half").await && found("tag=temp:x&tag=own:1").await);
    g.signal(&run, "go", json!(1)).await;
    let view = g.status(&run, "completed").await;
    assert_eq!(view["custom_status"], json!({"progress": 1.0}));
    assert_eq!(view["tags"], json!({"own": "1", "stage": "done"}));
    assert!(
        found("tag=stage:done").await
            && !found("tag=stage:half").await
            && !found("tag=temp:x").await
    );
    assert_eq!(
        handler.invocations()[1]["run"]["tags"],
        json!({"own": "1", "stage": "half", "temp": "x"})
    );
    let logs = g.get(&format!("/v1/runs/{run}/logs")).await;
    let said: Vec<_> = logs["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|l| (l["level"].as_str(), l["message"].as_str()))
        .collect();
    assert_eq!(said, [(Some("info"), Some("hello")), (Some("warn"), Some("almost"))]);
    assert_eq!(logs["data"][1]["fields"], json!({"n": 2}));
    let first = g.get(&format!("/v1/runs/{run}/logs?limit=1")).await;
    let cursor = first["next_cursor"].as_str().expect("there is more");
    let second = g.get(&format!("/v1/runs/{run}/logs?limit=1&cursor={cursor}")).await;
    assert_eq!(second["data"][0]["message"], "almost");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_an_unknown_run_is_told() {
    let g = Gateway::start().await;
    for rest in [
        "",
        "/journal",
        "/history",
        "/stream",
        "/logs",
        "/signals",
        "/result",
        "/export",
        "/steps/a",
        "/values/a",
    ] {
        for id in ["run_01k9c3v5h2e8x8p0m4s6t7w9yz", "run_x", "x"] {
            let (status, code, _) = g.refused("GET", &format!("/v1/runs/{id}{rest}"), None).await;
            assert_eq!((status, &*code), (404, "run-not-found"), "{id}{rest}");
        }
    }
    g.close().await;
}
