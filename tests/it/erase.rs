//! What somebody has said to a run and through it is erased; what happened stays.

use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{Gateway, Handler, settled};

/// Is in every payload, and in nothing else.
const SECRET: &str = "ada@example.com";

/// Has a step that fails at first, asks for a signal, a child and a call, and says much about it.
async fn handler() -> Handler {
    Handler::serve(|it| {
        let said = json!({"who": SECRET});
        if it["function"] == "child" {
            return json!({"result": said});
        }
        if !settled(it, "work") {
            let error = json!({"type": "Refused", "message": SECRET, "data": said});
            return json!({"ops": [
                {"op": "status", "value": said},
                {"op": "log", "message": SECRET, "fields": said},
                {"op": "chunk", "stream": "out", "data": said},
                {"op": "run", "id": "work", "error": error, "retry": {"max_attempts": 1}},
                {"op": "run", "id": "value", "value": said}], "yield": true});
        }
        if !settled(it, "go") {
            return json!({"ops": [
                {"op": "signal", "id": "go", "name": "go"},
                {"op": "signal", "id": "never", "name": "never"},
                {"op": "callback", "id": "cb", "timeout": "1h"},
                {"op": "invoke", "id": "child", "function": "child", "input": said}], "await": "go"});
        }
        json!({"error": {"type": "Refused", "message": SECRET, "data": said}})
    })
    .await
}

async fn text(g: &Gateway, path: &str) -> String {
    let (status, _, body) = g.raw("GET", path, &[], None).await;
    assert_eq!(status, 200, "{path}: {body:?}");
    String::from_utf8(body.to_vec()).expect("text")
}

/// The run when it has failed, with all that is said of it.
async fn failed(g: &Gateway, key: &str) -> String {
    let start = json!({"input": {"who": SECRET}, "key": key, "tags": {"team": "a"}});
    let (status, run) = g.call("POST", "/v1/functions/f/runs", Some(start)).await;
    assert_eq!(status, 202, "{run}");
    let run = run["id"].as_str().expect("an id").to_owned();
    g.status(&run, "waiting").await;
    for name in ["other", "go"] {
        let body = Some(json!({"payload": {"who": SECRET}}));
        let sent = g.call("POST", &format!("/v1/runs/{run}/signals/{name}"), body).await;
        assert_eq!(sent.0, 202, "{}", sent.1);
    }
    g.status(&run, "failed").await;
    run
}

async fn database_says(g: &Gateway, run: &str) -> Vec<String> {
    g.db.said_of(run.parse().expect("an id")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_said_is_left_of_a_run_and_its_shape_is() {
    let g = Gateway::start().await;
    let handler = handler().await;
    g.register(&handler, json!(["f", "child"])).await;
    let run = failed(&g, "order-1").await;
    let at = |rest: &str| format!("/v1/runs/{run}{rest}");
    let before: Value = serde_json::from_str(&text(&g, &at("/export")).await).expect("JSON");
    assert!(before.to_string().contains(SECRET));
    assert!(database_says(&g, &run).await.iter().any(|said| said.contains(SECRET)));
    let erase_at = at("/erase");
    let erase = || g.call("POST", &erase_at, Some(json!({"reason": "article 17"})));
    let (status, left) = erase().await;
    assert_eq!(status, 200, "{left}");
    assert!(left["erased_at"].is_string(), "{left}");
    assert_eq!((&left["input"], &left["custom_status"]), (&Value::Null, &Value::Null));
    assert_eq!(left["error"], json!({"type": "Refused", "message": "erased"}));

    // Neither the API nor the database has any of it; ids, times and ends are as they were.
    let after = text(&g, &at("/export")).await;
    assert!(!after.contains(SECRET), "{after}");
    let after: Value = serde_json::from_str(&after).expect("JSON");
    let said = database_says(&g, &run).await;
    assert!(!said.iter().any(|said| said.contains(SECRET)), "{said:?}");
    for field in ["id", "status", "created_at", "ended_at", "key", "tags", "steps"] {
        assert_eq!(after["run"][field], before["run"][field], "{field}");
    }
    let shape = |export: &Value| {
        let steps = export["journal"].as_array().expect("steps").clone();
        let shape = |s: Value| json!([s["id"], s["op"], s["seq"], s["at"], s["status"]]);
        steps.into_iter().map(shape).collect::<Vec<_>>()
    };
    assert_eq!(shape(&after), shape(&before));
    assert_eq!((&after["logs"], &after["outputs"]), (&json!([]), &json!([])));
    for path in ["", "/journal", "/history", "/signals", "/steps/value", "/steps/child"] {
        assert!(!text(&g, &at(path)).await.contains(SECRET), "{path}");
    }
    // Who did it is known, once; nobody can do the run again from what is left.
    let (status, again) = erase().await;
    assert_eq!((status, &again["erased_at"]), (200, &left["erased_at"]));
    let history: Value = serde_json::from_str(&text(&g, &at("/history")).await).expect("JSON");
    let erased = |e: &&Value| e["type"] == "run.erased";
    assert_eq!(history["data"].as_array().expect("entries").iter().filter(erased).count(), 1);
    assert!(
        text(&g, "/v1/audit").await.contains(&format!("{run}/erase")),
        "it is in the audit log"
    );
    for act in ["rewind", "rerun"] {
        let (status, problem) = g.call("POST", &at(&format!("/{act}")), Some(json!({}))).await;
        assert_eq!((status, &problem["code"]), (409, &json!("invalid-state")), "{act}");
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runs_are_erased_and_those_that_live_are_not() {
    let g = Gateway::start().await;
    let handler = handler().await;
    g.register(&handler, json!(["f", "child"])).await;
    let ended = [failed(&g, "a").await, failed(&g, "b").await];
    let start = json!({"input": {"who": SECRET}});
    let (_, lives) = g.call("POST", "/v1/functions/f/runs", Some(start)).await;
    let lives = lives["id"].as_str().expect("an id").to_owned();
    g.status(&lives, "waiting").await;
    let (status, problem) = g.call("POST", &format!("/v1/runs/{lives}/erase"), None).await;
    assert_eq!((status, &problem["code"]), (409, &json!("invalid-state")));
    let none = "/v1/runs/run_01jd0000000000000000000000/erase";
    assert_eq!(g.call("POST", none, None).await.0, 404);
    // It is about what was started before it, and the clock stands.
    g.advance(Duration::from_millis(2));
    let bulk = json!({"filter": {"function": "f"}, "action": "erase", "rate": 1000});
    let (status, bulk) = g.call("POST", "/v1/bulk", Some(bulk)).await;
    assert!((200..300).contains(&status), "{bulk}");
    let bulk = format!("/v1/bulk/{}", bulk["id"].as_str().expect("an id"));
    g.eventually("it has come to all", async |g| {
        g.advance(Duration::from_millis(200));
        g.call("GET", &bulk, None).await.1["status"] == "completed"
    })
    .await;
    let came = g.call("GET", &bulk, None).await.1;
    assert_eq!((&came["done"], &came["skipped"]), (&json!(2), &json!(1)), "{came}");
    for run in &ended {
        assert!(!text(&g, &format!("/v1/runs/{run}/export")).await.contains(SECRET));
    }
    assert!(text(&g, &format!("/v1/runs/{lives}")).await.contains(SECRET));
    g.call("POST", &format!("/v1/runs/{lives}/terminate"), None).await;
    g.status(&lives, "terminated").await;
    g.close().await;
}
