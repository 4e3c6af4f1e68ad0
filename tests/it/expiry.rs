//! Ended runs that go before their week, as their namespace and their function have it.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::gateway::{Gateway, Handler, settled};

const HOUR: Duration = Duration::from_hours(1);

/// Completes, fails, or waits for a signal first, as the input says.
async fn handler() -> Handler {
    Handler::serve(|call| match call["input"].as_str() {
        Some("fail") => json!({"error": {"type": "E", "message": "no"}}),
        Some("wait") if !settled(call, "s") => {
            json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"})
        }
        _ => json!({"ops": [{"op": "log", "message": "hi"}], "result": 1}),
    })
    .await
}

/// A gateway whose namespace keeps what completed for two hours and what failed for five.
async fn gateway(handler: &Handler) -> Gateway {
    let g = Gateway::start().await;
    let kept = json!({"retention": {"completed": "2h", "failed": "5h"}});
    let changed = done(&g, "PATCH", "/v1/namespaces/default", kept).await;
    assert_eq!(changed["retention"]["completed"], "7200s");
    assert_eq!(changed["retention"]["terminated"], Value::Null);
    let functions = json!([{"name": "f"}, {"name": "brief", "retention": "1h"}]);
    let endpoint =
        json!({"name": "test", "url": handler.url, "functions": functions, "discover": false});
    done(&g, "POST", "/v1/endpoints", endpoint).await;
    g
}

async fn done(g: &Gateway, method: &str, path: &str, body: Value) -> Value {
    let (status, answer) = g.call(method, path, (!body.is_null()).then_some(body)).await;
    assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    answer
}

/// The id of a new run with a key of its own; unless it waits, it has ended.
async fn run(g: &Gateway, function: &str, input: &str) -> String {
    let wait = if input == "wait" { "" } else { "?wait=20s" };
    let path = format!("/v1/functions/{function}/runs{wait}");
    let key = format!("{function}-{input}");
    let run = done(g, "POST", &path, json!({"input": input, "key": key})).await;
    run["id"].as_str().expect("an id").to_owned()
}

async fn reaches(g: &Gateway, run: &str, wanted: &str) {
    g.eventually(wanted, async |g| {
        g.call("GET", &format!("/v1/runs/{run}"), None).await.1["status"] == wanted
    })
    .await;
}

/// Which of these runs are there.
async fn left(g: &Gateway, runs: &[String]) -> Vec<usize> {
    let mut left = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        match g.call("GET", &format!("/v1/runs/{run}"), None).await.0 {
            200 => left.push(i),
            status => assert_eq!(status, 404, "{run}"),
        }
    }
    left
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_runs_go_when_their_namespace_and_function_say_so() {
    let handler = handler().await;
    let g = gateway(&handler).await;
    let mut runs = Vec::new();
    for (function, input) in
        [("f", "ok"), ("f", "fail"), ("brief", "ok"), ("brief", "fail"), ("f", "wait")]
    {
        runs.push(run(&g, function, input).await);
    }
    reaches(&g, &runs[4], "waiting").await;
    for (hours, gone, expected) in [
        (0, 0, vec![0, 1, 2, 3, 4]),
        (1, 2, vec![0, 1, 4]),
        (1, 1, vec![1, 4]),
        (1, 0, vec![1, 4]),
        (2, 1, vec![4]),
        (20, 0, vec![4]),
    ] {
        g.advance(hours * HOUR + Duration::from_secs(1));
        assert_eq!(g.engine.expire_runs().await.expect("a round"), gone, "after {hours} h more");
        assert_eq!(left(&g, &runs).await, expected, "after {hours} h more");
    }
    // Lists do not have them; whoever asks for a key that no run has had is refused all the same.
    let listed = done(&g, "GET", "/v1/runs", Value::Null).await;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");
    let start = "/v1/functions/f/runs?wait=20s";
    let again = json!({"input": "ok", "key": "f-ok", "if_closed": "reject"});
    let (status, problem) = g.call("POST", start, Some(again)).await;
    assert_eq!((status, &problem["code"]), (409, &json!("run-exists")));
    run(&g, "f", "ok").await;
    done(&g, "POST", &format!("/v1/runs/{}/terminate", runs[4]), json!({})).await;
    reaches(&g, &runs[4], "terminated").await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_kept_from_its_last_end_on_whatever_it_took() {
    let handler = handler().await;
    let g = gateway(&handler).await;
    let runs = vec![run(&g, "f", "fail").await, run(&g, "f", "wait").await];
    reaches(&g, &runs[1], "waiting").await;
    // One is rewound after four of its five hours and lives; its handler has been mended.
    g.advance(4 * HOUR);
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 0);
    handler.now(|_| json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"}));
    done(&g, "POST", &format!("/v1/runs/{}/rewind", runs[0]), json!({})).await;
    reaches(&g, &runs[0], "waiting").await;
    g.advance(4 * HOUR);
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 0);
    assert_eq!(left(&g, &runs).await, [0, 1]);
    // Both end, hours after the walk has passed the moment in which they were created.
    handler.now(|_| json!({"result": 1}));
    for run in &runs {
        done(&g, "POST", &format!("/v1/runs/{run}/signals/s"), json!({})).await;
        reaches(&g, run, "completed").await;
    }
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 0);
    // Two hours later they go in the next round, and not before.
    g.advance(2 * HOUR - Duration::from_mins(1));
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 0);
    g.advance(Duration::from_mins(1) + Duration::from_secs(1));
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 2);
    assert_eq!(left(&g, &runs).await, [0; 0]);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_recorded_late_and_a_time_that_became_shorter_are_seen() {
    let handler = handler().await;
    let g = gateway(&handler).await;
    let runs = vec![run(&g, "f", "ok").await, run(&g, "f", "fail").await];
    // After an outage: its time was up before it was recorded, and others had gone meanwhile.
    g.advance(2 * HOUR + Duration::from_secs(1));
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 1);
    let late = run(&g, "f", "ok").await;
    let mut conn = sqlx::PgConnection::connect(&g.db.url).await.expect("Postgres");
    sqlx::query(
        "update stepwell.run_done set ended_at = ended_at - interval '2 hours 5 minutes' where status = 100",
    )
    .execute(&mut conn)
    .await
    .expect("a run that ended earlier");
    assert_eq!(left(&g, std::slice::from_ref(&late)).await, [0]);
    g.advance(Duration::from_secs(1));
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 1);
    assert_eq!(left(&g, &runs).await, [1]);
    // Long passed by, and kept for an hour from now on.
    g.advance(2 * HOUR);
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 0);
    let kept = json!({"retention": {"completed": "2h", "failed": "2h"}});
    done(&g, "PATCH", "/v1/namespaces/default", kept).await;
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 1);
    assert_eq!(left(&g, &runs).await, [0; 0]);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_keeps_runs_for_longer_than_the_gateway_or_too_short() {
    let g = Gateway::start().await;
    for kept in ["31d", "59m", "soon"] {
        let body = json!({"retention": {"failed": kept}});
        let (status, problem) = g.call("PATCH", "/v1/namespaces/default", Some(body)).await;
        assert_eq!(
            (status, &problem["errors"][0]["pointer"]),
            (422, &json!("#/retention/failed")),
            "{kept}"
        );
    }
    let kept = json!({"retention": {"failed": "30d", "cancelled": "1h"}});
    done(&g, "PATCH", "/v1/namespaces/default", kept).await;
    let less = json!({"retention": {"failed": null}});
    let changed = done(&g, "PATCH", "/v1/namespaces/default", less).await;
    assert_eq!(changed["retention"]["cancelled"], "3600s");
    assert_eq!(changed["retention"]["failed"], Value::Null);
    let functions = json!([{"name": "f", "retention": "10m"}]);
    let endpoint = json!({"name": "test", "url": "http://127.0.0.1:1/", "functions": functions, "discover": false});
    let (status, problem) = g.call("POST", "/v1/endpoints", Some(endpoint)).await;
    assert!((400..500).contains(&status), "{status} {problem}");
    assert!(problem.to_string().contains("/functions/0/retention"), "{problem}");
    g.close().await;
}
