//! Plain functions: any HTTP endpoint becomes a durable job.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use stepwell::protocol::{Secret, verify};
use tokio::sync::Semaphore;

use crate::gateway::{Answer, Gateway, Handler, SECRET};

fn text(status: u16, kind: &str, body: &str) -> Answer {
    Answer::Status(status, vec![("content-type", kind.to_owned())], body.to_owned())
}

// P8.14
#[tokio::test(flavor = "multi_thread")]
async fn the_input_is_posted_as_it_is_and_the_answer_is_the_result() {
    let g = Gateway::start().await;
    let busy = vec![("retry-after", "7".to_owned())];
    let handler = Handler::answers([
        Answer::Status(503, busy, "busy".to_owned()),
        text(200, "application/json", "{\"n\":  3544790567247868102}\n"),
    ])
    .await;
    let mails = json!({"name": "mails", "kind": "plain", "path": "/jobs/mails?v=1"});
    g.register(&handler, json!([mails, "other"])).await;
    let function = g.get("/v1/functions/mails").await;
    assert_eq!((&function["kind"], &function["path"]), (&"plain".into(), &mails["path"]));
    assert_eq!(g.get("/v1/functions/other").await["kind"], "function");

    let body = r#"{"input": {"to":  "a@b.example", "n": 1.0}}"#.to_owned();
    let (status, _, run) = g.raw("POST", "/v1/functions/mails/runs", &[], Some(body)).await;
    assert_eq!(status, 202);
    let run: serde_json::Value = serde_json::from_slice(&run).expect("JSON");
    let run = run["id"].as_str().expect("an id");
    let view = g.status(run, "retrying").await;
    let detail = view["attention"]["detail"].as_str().expect("text");
    assert!(detail.contains("127.0.0.1 answered 503"), "{detail}");
    // As the answer has asked: not before seven seconds.
    g.advance(Duration::from_secs(6));
    assert_eq!(
        (g.status(run, "retrying").await["invocations"].clone(), handler.count()),
        (1.into(), 1)
    );
    g.advance(Duration::from_secs(2));
    g.status(run, "completed").await;
    let (_, _, result) = g.raw("GET", &format!("/v1/runs/{run}/result"), &[], None).await;
    assert_eq!(&result[..], b"{\"n\":  3544790567247868102}", "byte for byte");

    let requests = handler.requests();
    assert_eq!(requests.len(), 2);
    let secret = Secret::parse(SECRET).expect("a secret");
    for (headers, body) in &requests {
        assert_eq!(&body[..], br#"{"to":  "a@b.example", "n": 1.0}"#, "byte for byte");
        let header = |name: &str| headers[name].to_str().expect("text").to_owned();
        assert_eq!(header("content-type"), "application/json");
        assert_eq!(header("idempotency-key"), run, "the same for every attempt");
        let (id, at) = (header("webhook-id"), header("webhook-timestamp"));
        let signature = header("webhook-signature");
        let at: i64 = at.parse().expect("a number");
        assert!(
            verify(&id, &at.to_string(), &signature, body, std::slice::from_ref(&secret), at)
                .is_ok()
        );
    }
    assert_ne!(requests[0].0["webhook-id"], requests[1].0["webhook-id"], "one per exchange");
    g.close().await;
}

// P8.14
#[tokio::test(flavor = "multi_thread")]
async fn a_status_decides_what_becomes_of_the_run() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|input| {
        let kind = input["kind"].as_str().unwrap_or("text/plain");
        let status = input["status"].as_u64().expect("a number");
        text(u16::try_from(status).expect("small"), kind, input["body"].as_str().unwrap_or(""))
    })
    .await;
    let once = json!({"name": "job", "kind": "plain", "retry": {"max_attempts": 1}});
    g.register(&handler, json!([once])).await;
    let json = "application/json";
    for (status, kind, body, output) in [
        (201, "text/plain", "made", json!("made")),
        (204, json, "", json!(null)),
        (202, json, r#"{"queued": true}"#, json!({"queued": true})),
        (200, json, "{oops", json!("{oops")),
        (200, "text/plain", "12", json!("12")),
    ] {
        let input = json!({"status": status, "kind": kind, "body": body});
        let run = g.run("job", json!({"input": input})).await;
        assert_eq!(g.status(&run, "completed").await["output"], output, "{input}");
    }
    // Not 404 either closes the door on the others: it is one job's answer.
    for status in [302, 400, 401, 404, 413, 422, 500] {
        let input = json!({"status": status, "kind": json, "body": r#"{"why": 1}"#});
        let run = g.run("job", json!({"input": input})).await;
        let error = g.status(&run, "failed").await["error"].clone();
        assert_eq!((&error["type"], &error["attempts"]), (&json!("http-status"), &json!(1)));
        assert_eq!(error["data"]["status"], status, "{error}");
        assert_eq!(error["data"]["body"], json!({"why": 1}), "{error}");
    }
    g.close().await;
}

// P8.14
#[tokio::test(flavor = "multi_thread")]
async fn what_knows_nothing_of_runs_is_not_spoken_to_as_if_it_did() {
    let g = Gateway::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let answers = [Answer::held(&gate, json!(1)), Answer::held(&gate, json!(2))];
    let handler = Handler::answers(answers).await;
    g.register(&handler, json!([{"name": "job", "kind": "plain"}])).await;
    let run = g.run("job", json!({"input": 1})).await;
    g.invoked(&handler, 1).await;
    let path = format!("/v1/runs/{run}/queries/x");
    let (status, code, problem) = g.refused("POST", &path, None).await;
    assert_eq!((status, code.as_str()), (422, "query-failed"), "{problem}");
    let path = format!("/v1/runs/{run}/replay");
    let body = json!({"url": handler.url});
    let (status, code, problem) = g.refused("POST", &path, Some(body)).await;
    assert_eq!((status, code.as_str()), (409, "invalid-state"), "{problem}");
    // Nothing holds its end up, and it is posted once.
    g.signal(&run, "go", json!(1)).await;
    gate.add_permits(1);
    assert_eq!(g.status(&run, "completed").await["output"], 1);
    let run = g.run("job", json!({"input": 2})).await;
    g.invoked(&handler, 2).await;
    g.post(&format!("/v1/runs/{run}/cancel"), json!({})).await;
    g.status(&run, "cancelled").await;
    gate.add_permits(1);
    // Who is something else now is not sent the old runs.
    handler.now(|_| Answer::status(503));
    let run = g.run("job", json!({"input": 3})).await;
    g.status(&run, "retrying").await;
    g.register(&handler, json!(["job"])).await;
    g.advance(Duration::from_secs(60));
    let view = g.status(&run, "paused").await;
    assert_eq!(view["attention"]["code"], "kind-changed", "{view}");
    assert_eq!((&view["attention"]["expected"], handler.count()), (&json!("plain"), 3), "{view}");
    g.close().await;
}
