//! Queries: a handler is asked about a run, and nothing is recorded.

use serde_json::{Value, json};

use crate::gateway::{Gateway, Handler, settled};

/// Waits for a signal; asked, it says what it was asked and which steps are settled.
fn tells(it: &Value) -> Value {
    if it["type"] == "query" {
        assert_eq!(it["invocation"]["reason"], "replay", "no bodies of steps are to be run");
        let known = ["a", "go"].map(|id| settled(it, id));
        return match it["query"]["name"].as_str() {
            Some("steps") => json!({"result": {"args": it["query"]["args"], "input": it["input"],
                "settled": known}}),
            Some("acts") => json!({"ops": [{"op": "run", "id": "b", "value": 1}], "result": 1}),
            _ => json!({"error": {"type": "UnknownQuery", "message": "nobody knows"}}),
        };
    }
    if settled(it, "go") {
        return json!({"result": 1});
    }
    json!({"ops": [{"op": "run", "id": "a", "value": 1}, {"op": "signal", "id": "go", "name": "go"}],
        "await": "go"})
}

// P7.1
#[tokio::test(flavor = "multi_thread")]
async fn a_live_and_an_ended_run_are_asked_and_nothing_is_recorded() {
    let g = Gateway::start().await;
    let handler = Handler::serve(tells).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({"input": 7})).await;
    g.status(&run, "waiting").await;
    let rows = "select count(*) from journal";
    let before = g.db.number(rows).await;
    let path = format!("/v1/runs/{run}/queries/steps");
    let (status, answer) = g.call("POST", &path, Some(json!({"args": {"n": 1}}))).await;
    let result = json!({"args": {"n": 1}, "input": 7, "settled": [true, false]});
    assert_eq!((status, &answer["result"]), (200, &result), "{answer}");
    // Ops are refused, and what a handler cannot answer is told.
    for (name, says) in [("acts", "`result` alone"), ("other", "UnknownQuery: nobody knows")] {
        let path = format!("/v1/runs/{run}/queries/{name}");
        let (status, code, problem) = g.refused("POST", &path, None).await;
        assert_eq!((status, code.as_str()), (422, "query-failed"), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|d| d.contains(says)), "{problem}");
    }
    assert_eq!(g.db.number(rows).await, before, "nothing was recorded");
    assert_eq!(g.get(&format!("/v1/runs/{run}")).await["steps"]["settled"], 1);
    g.signal(&run, "go", json!(1)).await;
    g.status(&run, "completed").await;
    let (status, answer) = g.call("POST", &path, None).await;
    assert_eq!((status, &answer["result"]["settled"]), (200, &json!([true, true])), "{answer}");
    // A handler that is gone is told, and the run is as it was.
    let name = g.get("/v1/endpoints").await["data"][0]["name"].as_str().expect("a name").to_owned();
    let nowhere = json!({"url": "http://127.0.0.1:9/"});
    assert_eq!(g.call("PATCH", &format!("/v1/endpoints/{name}"), Some(nowhere)).await.0, 200);
    let (status, code, _) = g.refused("POST", &path, None).await;
    assert_eq!((status, code.as_str()), (422, "query-failed"));
    assert_eq!(g.get(&format!("/v1/runs/{run}")).await["status"], "completed");
    g.close().await;
}
