//! Calls (protocol, section 5): HTTP requests that the gateway makes itself, against real servers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{Answer, Gateway, Handler, settled};

/// A function that makes one call, with the input as the op's further fields, and ends with the step.
fn function(it: &Value) -> Value {
    if settled(it, "c") {
        return json!({"result": it["steps"]["c"]});
    }
    let mut op = json!({"op": "call", "id": "c"});
    op.as_object_mut().expect("an op").extend(it["input"].as_object().expect("fields").clone());
    json!({"ops": [op], "await": "c"})
}

struct Set {
    g: Gateway,
    handler: Handler,
    server: Handler,
}

impl Set {
    /// A gateway with the function above, and a server that answers by this script.
    async fn up<A: Into<Answer>>(script: impl Fn(&Value) -> A + Send + Sync + 'static) -> Self {
        let g = Gateway::start().await;
        let handler = Handler::serve(function).await;
        g.register(&handler, json!(["f"])).await;
        Self { g, handler, server: Handler::serve(script).await }
    }

    async fn run(&self, input: Value) -> String {
        self.g.run("f", json!({"input": input})).await
    }

    /// What the step came to.
    async fn step(&self, input: Value) -> Value {
        let run = self.run(input).await;
        self.output(&run).await
    }

    async fn output(&self, run: &str) -> Value {
        self.g.status(run, "completed").await["output"].clone()
    }

    fn request(&self) -> Value {
        json!({"url": self.server.url})
    }

    async fn called(&self, times: usize) {
        self.g.eventually(&format!("call {times}"), async |_| self.server.count() >= times).await;
    }

    fn header(&self, n: usize, name: &str) -> Option<String> {
        let requests = self.server.requests();
        requests[n].0.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
    }
}

fn with(status: u16, kind: &str, body: &str) -> Answer {
    Answer::Status(status, vec![("content-type", kind.to_owned())], body.to_owned())
}

// P5.14, P5.28, P5.49
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_made_and_its_answer_is_the_value() {
    let odd = r#"{"n": 3544790567247868102,  "f":1.0}"#;
    let s = Set::up(move |_| with(201, "application/json", odd)).await;
    let request = json!({"url": format!("{}a?b=c", s.server.url), "method": "PUT",
                         "headers": {"X-Mine": "yes"}, "body": {"order": 1.50}});
    let run = s.run(json!({"request": request})).await;
    let step = s.output(&run).await;
    assert_eq!((&step["op"], &step["value"]["status"]), (&json!("call"), &json!(201)), "{step}");
    assert_eq!(step["value"]["headers"]["content-type"], "application/json");
    let (_, _, value) = s.g.raw("GET", &format!("/v1/runs/{run}/values/c"), &[], None).await;
    let text = String::from_utf8(value.to_vec()).expect("UTF-8");
    assert!(text.contains(&format!("\"body\":{odd}")), "byte for byte: {text}");
    let key = format!("{run}.1/c");
    assert_eq!(s.header(0, "idempotency-key"), Some(key));
    assert_eq!(s.header(0, "x-mine").as_deref(), Some("yes"));
    assert_eq!(s.header(0, "content-type").as_deref(), Some("application/json"));
    assert_eq!(&s.server.requests()[0].1[..], b"{\"order\":1.5}");
    assert_eq!((s.server.count(), s.handler.count()), (1, 2));
    s.g.close().await;
}

// P5.49
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_json_is_text_and_what_is_not_text_is_base64() {
    let s = Set::up(|_| with(200, "text/plain", "12")).await;
    let value = s.step(json!({"request": s.request()})).await["value"].clone();
    assert_eq!((&value["body"], value.get("encoding")), (&json!("12"), None), "{value}");
    s.server.now(|_| Answer::Raw(vec![0xff, 0xfe]));
    let value = s.step(json!({"request": s.request()})).await["value"].clone();
    assert_eq!((&value["body"], &value["encoding"]), (&json!("//4="), &json!("base64")), "{value}");
    s.server.now(|_| Answer::status(204));
    let value = s.step(json!({"request": s.request()})).await["value"].clone();
    assert_eq!((&value["status"], &value["body"]), (&json!(204), &Value::Null));
    s.g.close().await;
}

// P5.28, P5.50
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_asked_again_when_it_says_with_the_same_key() {
    let s =
        Set::up(|_| Answer::Status(503, vec![("retry-after", "40".to_owned())], "busy".to_owned()))
            .await;
    let run = s.run(json!({"request": s.request()})).await;
    s.called(1).await;
    let view = s.g.status(&run, "retrying").await;
    assert_eq!(view["attention"]["code"], "step-failing", "{view}");
    let pending = &s.g.journal(&run).await[0];
    assert_eq!(pending["last_error"]["data"]["status"], 503, "{pending}");
    assert_eq!(pending["next_attempt_at"], s.g.moment(40));
    s.g.advance(Duration::from_secs(39));
    s.g.status(&run, "retrying").await;
    assert_eq!(s.server.count(), 1, "not early");
    s.server.now(|_| json!("well"));
    s.g.advance(Duration::from_secs(1));
    assert_eq!(s.output(&run).await["value"]["body"], "well");
    assert_eq!(s.header(0, "idempotency-key"), s.header(1, "idempotency-key"));
    assert_eq!(s.handler.count(), 2);
    let step = s.g.get(&format!("/v1/runs/{run}/steps/c")).await;
    assert_eq!(step["failed_attempts"][0]["error"]["type"], "http-status", "{step}");
    s.g.close().await;
}

// P5.28
#[tokio::test(flavor = "multi_thread")]
async fn other_statuses_fail_at_once_with_status_and_body() {
    let s = Set::up(|_| with(422, "application/json", "{\"why\": 1.0}")).await;
    let error = s.step(json!({"request": s.request()})).await["error"].clone();
    assert_eq!((&error["type"], &error["attempts"]), (&json!("http-status"), &json!(1)), "{error}");
    assert_eq!(
        (&error["data"]["status"], &error["data"]["body"]["why"]),
        (&json!(422), &json!(1.0))
    );
    let value = s.step(json!({"request": s.request(), "ok": [422]})).await["value"].clone();
    assert_eq!(value["status"], 422, "named, it is a value");
    s.server.now(|_| Answer::status(204));
    let error = s.step(json!({"request": s.request(), "ok": [200]})).await["error"].clone();
    assert_eq!(error["data"]["status"], 204, "not named, it is none");
    assert_eq!(s.server.count(), 3);
    s.g.close().await;
}

// P5.51
#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed() {
    let elsewhere = Handler::serve(|_| json!(1)).await;
    let to = elsewhere.url.clone();
    let s =
        Set::up(move |_| Answer::Status(302, vec![("location", to.clone())], String::new())).await;
    let error = s.step(json!({"request": s.request()})).await["error"].clone();
    assert_eq!((&error["type"], &error["data"]["status"]), (&json!("http-status"), &json!(302)));
    assert!(error["message"].as_str().expect("text").contains("not followed"), "{error}");
    assert_eq!((s.server.count(), elsewhere.count()), (1, 0));
    s.g.close().await;
}

// P5.28, P5.51
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_tried_again_and_what_must_not_be_is_not() {
    let s = Set::up(|_| json!(1)).await;
    let retry = json!({"max_attempts": 2, "initial": "0s"});
    let nobody = json!({"url": "http://127.0.0.1:1/"});
    let error = s.step(json!({"request": nobody, "retry": retry})).await["error"].clone();
    assert_eq!((&error["type"], &error["attempts"]), (&json!("no-answer"), &json!(2)), "{error}");
    for url in ["http://169.254.169.254/latest", "ftp://x/", "http://user:pw@127.0.0.1/", "x"] {
        let error = s.step(json!({"request": {"url": url}})).await["error"].clone();
        assert_eq!(error["type"], "address-refused", "{url}: {error}");
        assert_eq!(error["attempts"], 1, "{url}: {error}");
    }
    // Nor may an answer lead there.
    s.server.now(|_| {
        let to = "http://169.254.169.254/latest".to_owned();
        Answer::Status(202, vec![("location", to), ("retry-after", "0".to_owned())], String::new())
    });
    let error = s.step(json!({"request": s.request()})).await["error"].clone();
    assert_eq!((&error["type"], &error["attempts"]), (&json!("address-refused"), &json!(1)));
    s.server.now(|_| Answer::Hang);
    let input = json!({"request": s.request(), "timeout": "50ms", "retry": {"max_attempts": 1}});
    let error = s.step(input).await["error"].clone();
    assert_eq!(error["type"], "timed-out", "{error}");
    s.g.close().await;
}

// P5.51
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_the_limit_of_values_names_it() {
    let g = Gateway::with_limits(stepwell::machine::Limits {
        value_bytes: 10_000,
        ..stepwell::machine::Limits::default()
    })
    .await;
    let handler = Handler::serve(function).await;
    g.register(&handler, json!(["f"])).await;
    let server = Handler::serve(|_| json!("x".repeat(20_000))).await;
    let run = g.run("f", json!({"input": {"request": {"url": server.url}}})).await;
    let error = g.status(&run, "completed").await["output"]["error"].clone();
    assert_eq!((&error["type"], &error["attempts"]), (&json!("value-limit"), &json!(1)), "{error}");
    assert!(error["message"].as_str().expect("text").contains("10000"), "{error}");
    g.close().await;
}

// P5.52
#[tokio::test(flavor = "multi_thread")]
async fn a_202_with_a_location_is_polled_until_it_is_done() {
    let s = Set::up(|_| json!(null)).await;
    let at = |path: &'static str| {
        let headers = vec![("location", path.to_owned()), ("retry-after", "0".to_owned())];
        Answer::Status(202, headers, String::new())
    };
    let answers = std::sync::Mutex::new(vec![
        Answer::from(json!({"done": true})),
        Answer::Status(202, vec![("retry-after", "0".to_owned())], String::new()),
        at("/job/1"),
    ]);
    s.server.now(move |_| answers.lock().expect("no panic").pop().expect("three are enough"));
    let request = json!({"url": s.server.url, "headers": {"x-mine": "yes"}, "body": 1});
    let step = s.step(json!({"request": request})).await;
    assert_eq!(step["value"]["body"]["done"], true, "{step}");
    assert_eq!((s.server.count(), s.handler.count()), (3, 2));
    assert_eq!(s.header(2, "x-mine").as_deref(), Some("yes"), "the same place");
    assert!(s.server.requests()[2].1.is_empty(), "a poll has no body");
    // Who takes a 202 as it is says so.
    s.server.now(move |_| at("/job/2"));
    let step = s.step(json!({"request": s.request(), "ok": [202]})).await;
    assert_eq!(step["value"]["status"], 202, "{step}");
    assert_eq!(s.server.count(), 4);
    // Not for ever.
    let input = json!({"request": s.request(), "timeout": "150ms", "retry": {"max_attempts": 1}});
    let error = s.step(input).await["error"].clone();
    assert_eq!(error["type"], "timed-out", "{error}");
    s.g.close().await;
}

// P5.52
#[tokio::test(flavor = "multi_thread")]
async fn a_poll_elsewhere_takes_no_headers_along() {
    let elsewhere = Handler::serve(|_| json!("there")).await;
    let to = elsewhere.url.clone();
    let s = Set::up(move |_| {
        let headers = vec![("location", to.clone()), ("retry-after", "0".to_owned())];
        Answer::Status(202, headers, String::new())
    })
    .await;
    let request = json!({"url": s.server.url, "headers": {"authorization": "Bearer x"}});
    let step = s.step(json!({"request": request})).await;
    assert_eq!(step["value"]["body"], "there", "{step}");
    assert!(elsewhere.requests()[0].0.get("authorization").is_none());
    s.g.close().await;
}

// P5.39
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_dies_makes_the_same_call_again() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let held = gate.clone();
    let s = Set::up(move |_| Answer::held(&held, json!(1))).await;
    let run = s.run(json!({"request": s.request()})).await;
    s.called(1).await;
    let Set { g, handler, server } = s;
    let clock = g.clock.clone();
    let g = Gateway::at(g.kill().await, stepwell::machine::Limits::default(), clock).await;
    g.eventually("it is made again", async |g| {
        g.advance(Duration::from_millis(500));
        server.count() == 2
    })
    .await;
    gate.add_permits(2);
    let s = Set { g, handler, server };
    assert_eq!(s.output(&run).await["value"]["body"], 1);
    assert_eq!(s.header(0, "idempotency-key"), s.header(1, "idempotency-key"));
    s.g.close().await;
}

// P5.14, P8.10
#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_calls_with_a_key_of_its_own_and_a_replay_calls_nobody() {
    let s = Set::up(|_| json!(1)).await;
    let run = s.run(json!({"request": s.request()})).await;
    s.output(&run).await;
    let again = s.g.post(&format!("/v1/runs/{run}/rerun"), json!({})).await;
    let again = again["id"].as_str().expect("an id").to_owned();
    s.output(&again).await;
    assert_eq!(s.header(1, "idempotency-key"), Some(format!("{again}.1/c")));
    let candidate = Handler::serve(function).await;
    let path = format!("/v1/runs/{run}/replay");
    let report = s.g.post(&path, json!({"url": candidate.url})).await;
    assert_eq!(report["divergence"], Value::Null, "{report}");
    assert_eq!((candidate.count(), s.server.count()), (2, 2), "{report}");
    s.g.close().await;
}

// P5.53
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_sent_and_is_nowhere_else() {
    const VALUE: &str = "sk_live_never_shown_4711";
    // A server that shows its callers what they sent.
    let s = Set::up(|_| {
        let echo = format!("Bearer {VALUE}");
        let headers =
            vec![("x-echo", echo.clone()), ("content-type", "application/json".to_owned())];
        Answer::Status(200, headers, json!({"authorization": echo}).to_string())
    })
    .await;
    let secret = s.g.post("/v1/secrets", json!({"name": "stripe", "value": VALUE})).await;
    assert_eq!(secret["name"], "stripe");
    let headers = json!({"authorization": {"secret": "stripe", "prefix": "Bearer "}});
    let run = s.run(json!({"request": {"url": s.server.url, "headers": headers}})).await;
    let step = s.output(&run).await;
    assert_eq!(step["value"]["body"]["authorization"], "Bearer ***", "{step}");
    assert_eq!(step["value"]["headers"]["x-echo"], "Bearer ***", "{step}");
    assert_eq!(s.header(0, "authorization").as_deref(), Some(&*format!("Bearer {VALUE}")));
    let list = s.g.get("/v1/secrets").await;
    assert_eq!(list["data"][0]["name"], "stripe", "{list}");
    let id = run.parse().expect("the gateway's own id");
    let rows = s.g.db.store.rows_after(id, 0, -1, 100).await.expect("rows");
    let everything = format!(
        "{secret} {list} {rows:?} {:?} {:?} {}",
        s.g.journal(&run).await,
        s.g.history(&run).await,
        s.g.get(&format!("/v1/runs/{run}")).await,
    );
    assert!(!everything.contains(VALUE), "{everything}");
    for row in &rows {
        let body = String::from_utf8_lossy(row.body.as_deref().unwrap_or_default()).into_owned();
        assert!(!body.contains(VALUE), "{body}");
    }
    assert!(rows.iter().any(|r| r.kind == stepwell::machine::Kind::Asked), "the op is there");

    // Set anew it is used at once; removed, the run waits for a person.
    let (status, _) =
        s.g.call("POST", "/v1/secrets", Some(json!({"name": "stripe", "value": "other"}))).await;
    assert_eq!(status, 200);
    let request = json!({"request": {"url": s.server.url, "headers": headers}});
    s.step(request.clone()).await;
    assert_eq!(s.header(1, "authorization").as_deref(), Some("Bearer other"));
    let (status, _) = s.g.call("DELETE", "/v1/secrets/stripe", None).await;
    assert_eq!(status, 204);
    let (status, code, _) = s.g.refused("DELETE", "/v1/secrets/stripe", None).await;
    assert_eq!((status, &*code), (404, "secret-not-found"));
    let run = s.run(request).await;
    let view = s.g.status(&run, "paused").await;
    assert!(view["attention"]["detail"].as_str().expect("text").contains("`stripe`"), "{view}");
    s.g.post("/v1/secrets", json!({"name": "stripe", "value": "third"})).await;
    s.g.post(&format!("/v1/runs/{run}/resume"), json!({})).await;
    s.output(&run).await;
    assert_eq!(s.header(2, "authorization").as_deref(), Some("Bearer third"));
    for bad in [
        json!({"name": "a"}),
        json!({"name": "a", "value": "x\ny"}),
        json!({"name": "", "value": "x"}),
    ] {
        let (status, code, _) = s.g.refused("POST", "/v1/secrets", Some(bad.clone())).await;
        assert_eq!((status, &*code), (422, "invalid-request"), "{bad}");
    }
    s.g.close().await;
}
