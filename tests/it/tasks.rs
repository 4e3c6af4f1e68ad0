//! Tasks (protocol, section 6): invocations of their own, without a journal, in attempts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::cluster::Cluster;
use crate::gateway::{Answer, Gateway, Handler, SECRET, settled};

/// Asks for one task, with the input's further fields, and ends with what it came to.
fn function(it: &Value) -> Value {
    if settled(it, "t") {
        return json!({"result": it["steps"]["t"]});
    }
    let mut op = json!({"op": "task", "id": "t", "task": "work", "input": {"n": 1}});
    if let Some(more) = it["input"].as_object() {
        op.as_object_mut().expect("an op").extend(more.clone());
    }
    json!({"ops": [op], "await": "t"})
}

fn is_task(it: &Value) -> bool {
    it["type"] == "task"
}

/// A handler whose tasks answer by this script.
async fn handler<A: Into<Answer>>(task: impl Fn(&Value) -> A + Send + Sync + 'static) -> Handler {
    Handler::serve(move |it| if is_task(it) { task(it).into() } else { function(it).into() }).await
}

fn tasks(handler: &Handler) -> Vec<Value> {
    handler.invocations().into_iter().filter(is_task).collect()
}

fn functions(handler: &Handler) -> usize {
    handler.invocations().iter().filter(|it| !is_task(it)).count()
}

async fn registered(handler: &Handler) -> Gateway {
    let g = Gateway::start().await;
    g.register(handler, json!(["f"])).await;
    g
}

async fn output(g: &Gateway, run: &str) -> Value {
    g.status(run, "completed").await["output"].clone()
}

/// The path of the callback address in a task's invocation.
fn callback(g: &Gateway, it: &Value) -> String {
    let url = it["links"]["callback"].as_str().expect("a URL");
    url.strip_prefix(&g.url).expect("ours").to_owned()
}

async fn post(g: &Gateway, path: &str, body: &str) -> (u16, Value) {
    let (status, _, text) = g.raw("POST", path, &[], Some(body.to_owned())).await;
    (status, serde_json::from_slice(&text).unwrap_or(Value::Null))
}

/// Attempts of a task that have been sent so far.
async fn attempted(g: &Gateway, handler: &Handler, times: usize) -> Value {
    g.eventually(&format!("attempt {times}"), async |_| tasks(handler).len() >= times).await;
    tasks(handler)[times - 1].clone()
}

// P5.8, P6.1, P6.2, P6.11
#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_invoked_alone_and_its_value_is_the_step() {
    let odd = r#"{"value": {"n": 3544790567247868102,  "f":1.0}}"#;
    let handler = handler(move |_| Answer::Raw(odd.into())).await;
    let g = registered(&handler).await;
    let run = g.run("f", json!({"key": "order-42"})).await;
    let step = output(&g, &run).await;
    assert_eq!((&step["op"], &step["seq"]), (&json!("task"), &json!(1)), "{step}");
    let (_, _, value) = g.raw("GET", &format!("/v1/runs/{run}/values/t"), &[], None).await;
    assert_eq!(value, r#"{"n": 3544790567247868102,  "f":1.0}"#, "byte for byte");

    let [it] = &tasks(&handler)[..] else { panic!("one attempt") };
    let callback = it["links"]["callback"].as_str().expect("a URL");
    assert_eq!(it["links"]["heartbeat"], format!("{callback}?outcome=heartbeat"));
    let expected = json!({
        "protocol": 1, "type": "task", "function": "f", "task": "work",
        "run": {"id": run, "namespace": "default", "key": "order-42", "generation": 1},
        "invocation": {"id": it["invocation"]["id"], "attempt": 1, "budget_ms": 55000},
        "step": "t", "input": {"n": 1}, "heartbeat": null,
        "links": it["links"], "token": it["token"]
    });
    assert_eq!(*it, expected, "no journal");
    // Signed like every exchange.
    let requests = handler.requests();
    let (headers, body) = requests
        .iter()
        .find(|(_, body)| serde_json::from_slice(body).is_ok_and(|it: Value| is_task(&it)))
        .expect("it was sent");
    let header = |name: &str| headers[name].to_str().expect("ASCII").to_owned();
    let secret = stepwell::protocol::Secret::parse(SECRET).expect("a secret");
    let id = header("webhook-id");
    assert_eq!(id, it["invocation"]["id"].as_str().expect("an id"));
    let seconds: i64 = header("webhook-timestamp").parse().expect("seconds");
    let signature = stepwell::protocol::sign(&id, seconds, body, &[secret]);
    assert_eq!(header("webhook-signature"), signature);
    assert_eq!(functions(&handler), 2);
    // Its token reads, and nothing else.
    let bearer = format!("Bearer {}", it["token"].as_str().expect("a token"));
    let other = g.run("f", json!({})).await;
    for (path, expected) in [
        (format!("/v1/runs/{run}/values/t"), 200),
        (format!("/v1/runs/{run}/journal"), 200),
        (format!("/v1/runs/{other}/journal"), 401),
    ] {
        let (status, _, text) = g.raw("GET", &path, &[("authorization", &bearer)], None).await;
        assert_eq!(status, expected, "{path}: {text:?}");
    }
    output(&g, &other).await;
    g.close().await;
}

// P3.5, P6.1
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_under_all_cost_two_invocations_of_the_function() {
    const MANY: usize = 1_000;
    let handler = Handler::serve(|it| {
        if is_task(it) {
            return json!({"value": it["input"]});
        }
        let ids: Vec<String> = (0..MANY).map(|n| format!("map/{n}")).collect();
        if settled(it, "map/0") {
            let sum: u64 =
                ids.iter().map(|id| it["steps"][id]["value"].as_u64().unwrap_or(0)).sum();
            return json!({"result": sum});
        }
        let op = |(n, id)| json!({"op": "task", "id": id, "task": "add", "input": n});
        let ops: Vec<Value> = ids.iter().enumerate().map(op).collect();
        json!({"ops": ops, "await": {"all": ids}})
    })
    .await;
    let g = registered(&handler).await;
    let begun = std::time::Instant::now();
    let run = g.run("f", json!({})).await;
    assert_eq!(output(&g, &run).await, MANY * (MANY - 1) / 2);
    eprintln!("{MANY} tasks: {:?}", begun.elapsed());
    assert_eq!((functions(&handler), tasks(&handler).len()), (2, MANY));
    g.close().await;
}

// P2.12, P3.6
#[tokio::test(flavor = "multi_thread")]
async fn any_goes_on_with_the_first_and_shows_the_others_as_pending() {
    let gate = Arc::new(Semaphore::new(0));
    let handler = Handler::serve({
        let gate = gate.clone();
        move |it: &Value| -> Answer {
            if is_task(it) {
                let value = json!({"value": it["step"]});
                return match it["step"].as_str() {
                    Some("slow") => Answer::held(&gate, value),
                    _ => value.into(),
                };
            }
            if settled(it, "slow") {
                return json!({"result": it["steps"]["slow"]["value"]}).into();
            }
            if settled(it, "fast") {
                return json!({"ops": [{"op": "status", "value": it["steps"]}], "await": "slow"})
                    .into();
            }
            let task = |id| json!({"op": "task", "id": id, "task": "work"});
            json!({"ops": [task("slow"), task("fast")], "await": {"any": ["slow", "fast"]}}).into()
        }
    })
    .await;
    let g = registered(&handler).await;
    let run = g.run("f", json!({})).await;
    g.eventually("it went on with the first", async |_| functions(&handler) == 2).await;
    let view = g.status(&run, "waiting").await;
    let steps = &view["custom_status"];
    assert_eq!(steps["slow"], json!({"op": "task", "pending": true}), "{view}");
    assert_eq!(steps["fast"]["value"], "fast", "{view}");
    gate.add_permits(1);
    assert_eq!(output(&g, &run).await, "slow", "nothing was cancelled");
    assert_eq!((tasks(&handler).len(), functions(&handler)), (2, 3));
    g.close().await;
}

// P4.14, P4.15, P6.1
#[tokio::test(flavor = "multi_thread")]
async fn a_task_can_be_awaited_within_the_exchange_that_asked_for_it() {
    let gate = Arc::new(Semaphore::new(0));
    let handler = Handler::serve({
        let gate = gate.clone();
        move |it: &Value| -> Answer {
            match it["invocation"]["attempt"].as_u64() {
                _ if !is_task(it) => Answer::held(&gate, Answer::status(202)),
                Some(1) => json!({"error": {"type": "Busy", "after_ms": 1}}).into(),
                _ => json!({"value": 7}).into(),
            }
        }
    })
    .await;
    let g = registered(&handler).await;
    let run = g.run("f", json!({})).await;
    let it = g.invoked(&handler, 1).await;
    let bearer = format!("Bearer {}", it["token"].as_str().expect("a token"));
    let say = async |query: &str, body: Value| {
        let path = format!("/v1/runs/{run}/checkpoint{query}");
        let (status, _, text) =
            g.raw("POST", &path, &[("authorization", &bearer)], Some(body.to_string())).await;
        assert_eq!(status, 200, "{body}: {text:?}");
        serde_json::from_slice::<Value>(&text).expect("JSON")
    };
    let op = json!({"op": "task", "id": "t", "task": "work"});
    let (told, ()) = tokio::join!(
        say("?wait=20s", json!({"n": 1, "ops": [op], "await": "t"})),
        g.eventually("the second attempt is due", async |g| {
            g.advance(Duration::from_millis(1));
            tasks(&handler).len() == 2
        })
    );
    assert_eq!(told["steps"], json!({"t": {"seq": 1, "op": "task", "value": 7}}), "{told}");
    say("", json!({"n": 2, "result": "out"})).await;
    gate.add_permits(1);
    assert_eq!(output(&g, &run).await, "out");
    assert_eq!((tasks(&handler).len(), functions(&handler)), (2, 1));
    g.close().await;
}

// P2.15, P6.12
#[tokio::test(flavor = "multi_thread")]
async fn a_task_under_a_closed_scope_is_given_up() {
    let gate = Arc::new(Semaphore::new(0));
    let handler = Handler::serve({
        let gate = gate.clone();
        move |it: &Value| -> Answer {
            if is_task(it) {
                return Answer::held(&gate, json!({"value": 1}));
            }
            if settled(it, "nap") {
                return json!({"result": it["steps"].get("m/t")}).into();
            }
            if settled(it, "m") {
                return json!({"ops": [{"op": "sleep", "id": "nap", "for": "1h"}], "await": "nap"})
                    .into();
            }
            if settled(it, "wink") {
                return json!({"ops": [{"op": "scope", "id": "m"}], "yield": true}).into();
            }
            json!({"ops": [{"op": "task", "id": "m/t", "task": "work"},
                           {"op": "sleep", "id": "wink", "for": "10s"}], "await": "wink"})
            .into()
        }
    })
    .await;
    let g = registered(&handler).await;
    let run = g.run("f", json!({})).await;
    attempted(&g, &handler, 1).await;
    g.advance(Duration::from_secs(10));
    g.eventually("the scope is closed", async |_| functions(&handler) == 3).await;
    gate.add_permits(1);
    g.eventually("it is noted", async |g| g.happened(&run, "attempt.late").await.len() == 1).await;
    g.advance_until_invoked(&handler, 5, Duration::from_mins(10)).await;
    assert_eq!(output(&g, &run).await, Value::Null, "nothing of it is shown");
    assert_eq!(tasks(&handler).len(), 1);
    g.close().await;
}

// P6.3, P6.4
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_task_is_tried_by_its_policy_without_its_function() {
    let handler = handler(|it| match it["invocation"]["attempt"].as_u64() {
        Some(1) => Answer::Status(500, vec![], "no luck".into()),
        Some(2) => json!({"error": {"type": "Busy", "message": "later"}}).into(),
        _ => json!({"value": "done"}).into(),
    })
    .await;
    let g = registered(&handler).await;
    let retry = json!({"retry": {"initial": "10s", "jitter": 0}});
    let run = g.run("f", json!({"input": retry})).await;
    attempted(&g, &handler, 1).await;
    let view = g.status(&run, "retrying").await;
    assert_eq!(view["attention"]["code"], "step-failing", "{view}");
    let pending = &g.journal(&run).await[0];
    assert_eq!((&pending["seq"], &pending["attempts"]), (&Value::Null, &json!(1)), "{pending}");
    assert_eq!(pending["last_error"]["type"], "http-status");
    assert_eq!(pending["last_error"]["data"]["body"], "no luck");
    assert_eq!(pending["next_attempt_at"], g.moment(10));
    g.advance(Duration::from_secs(9));
    g.status(&run, "retrying").await;
    assert_eq!(tasks(&handler).len(), 1, "not early");
    g.advance(Duration::from_secs(1));
    attempted(&g, &handler, 2).await;
    g.eventually("the second failure is recorded", async |g| {
        g.journal(&run).await[0]["attempts"] == 2
    })
    .await;
    g.advance(Duration::from_secs(20));
    assert_eq!(output(&g, &run).await["value"], "done");
    assert_eq!((tasks(&handler).len(), functions(&handler)), (3, 2));
    let step = g.get(&format!("/v1/runs/{run}/steps/t")).await;
    let errors: Vec<&Value> = step["failed_attempts"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|a| &a["error"]["type"])
        .collect();
    assert_eq!(errors, ["http-status", "Busy"], "{step}");
    assert_eq!(g.happened(&run, "attempt.failed").await.len(), 2);
    g.close().await;
}

// P6.4, P6.13
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_used_up_and_never_fail_the_step() {
    let handler = handler(|it| match it["run"]["key"].as_str() {
        Some("never") => json!({"error": {"type": "Refused", "retry": "never"}}),
        Some("odd") => json!({"result": 1}),
        _ => json!({"error": {"type": "Busy"}}),
    })
    .await;
    let g = registered(&handler).await;
    for (key, attempts, kind) in
        [("busy", 3, "Busy"), ("never", 1, "Refused"), ("odd", 3, "malformed-answer")]
    {
        let before = tasks(&handler).len();
        let input = json!({"retry": {"max_attempts": 3, "initial": "1ms", "max_interval": "1ms"}});
        let run = g.run("f", json!({"input": input, "key": key})).await;
        g.eventually("its policy is used up", async |g| {
            g.advance(Duration::from_millis(1));
            g.get(&format!("/v1/runs/{run}")).await["status"] == "completed"
        })
        .await;
        let error = output(&g, &run).await["error"].clone();
        assert_eq!((&error["type"], &error["attempts"]), (&json!(kind), &json!(attempts)));
        assert_eq!(tasks(&handler).len() - before, attempts, "{key}");
    }
    g.close().await;
}

// P6.4, P6.7
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_takes_no_longer_than_its_timeout_and_all_no_longer_than_max_elapsed() {
    let handler = handler(|_| Answer::Hang).await;
    let g = registered(&handler).await;
    let input = json!({"timeout": "50ms", "retry": {"max_attempts": 1}});
    let run = g.run("f", json!({"input": input})).await;
    let error = output(&g, &run).await["error"].clone();
    assert_eq!((&error["type"], &error["attempts"]), (&json!("timed-out"), &json!(1)), "{error}");

    let input = json!({"retry": {"max_elapsed": "1h"}});
    let run = g.run("f", json!({"input": input})).await;
    attempted(&g, &handler, 2).await;
    g.advance(Duration::from_secs(3599));
    g.status(&run, "waiting").await;
    g.advance(Duration::from_secs(1));
    let error = output(&g, &run).await["error"].clone();
    assert_eq!((&error["type"], &error["attempts"]), (&json!("timed-out"), &Value::Null));
    g.close().await;
}

// P6.10
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_the_manifest_does_not_list_is_not_sent() {
    let handler = handler(|_| json!({"value": 1})).await;
    let g = Gateway::start().await;
    g.register(&handler, json!([{"name": "f", "tasks": ["other"]}])).await;
    let run = g.run("f", json!({})).await;
    let error = output(&g, &run).await["error"].clone();
    assert_eq!(error["type"], "task-not-found", "{error}");
    assert!(error["message"].as_str().expect("text").contains("`work`"), "{error}");
    assert_eq!(tasks(&handler).len(), 0);
    g.register(&handler, json!([{"name": "f", "tasks": ["other", "work"]}])).await;
    let run = g.run("f", json!({})).await;
    assert_eq!(output(&g, &run).await["value"], 1);
    let function = json!({"name": "test", "url": handler.url, "discover": false,
                          "functions": [{"name": "f", "tasks": [1]}]});
    let (status, code, _) = g.refused("POST", "/v1/endpoints", Some(function)).await;
    assert_eq!((status, &*code), (422, "invalid-request"));
    g.close().await;
}

// P6.3
#[tokio::test(flavor = "multi_thread")]
async fn a_404_opens_the_circuit_and_burns_no_attempt() {
    let handler = handler(|_| Answer::status(404)).await;
    let g = registered(&handler).await;
    let input = json!({"retry": {"max_attempts": 1}});
    let run = g.run("f", json!({"input": input})).await;
    let view = g.status(&run, "parked").await;
    assert_eq!(view["attention"]["code"], "endpoint-unhealthy", "{view}");
    assert_eq!(tasks(&handler).len(), 1);
    let other = g.run("f", json!({"input": input})).await;
    g.status(&other, "parked").await;
    assert_eq!(functions(&handler), 1, "the endpoint's runs are kept back too");
    handler.now(|it| if is_task(it) { json!({"value": "well"}) } else { function(it) });
    g.eventually("a probe closes it", async |g| {
        g.advance(Duration::from_secs(1));
        g.get(&format!("/v1/runs/{run}")).await["status"] == "completed"
    })
    .await;
    let step = output(&g, &run).await;
    assert_eq!(step["value"], "well");
    let entry = &g.journal(&run).await[0];
    assert_eq!(entry["attempts"], 1, "the attempt of the bad deploy is not counted: {entry}");
    g.status(&other, "completed").await;
    g.close().await;
}

// P6.9
#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_its_limit_of_a_task_are_open_at_once() {
    let gate = Arc::new(Semaphore::new(0));
    let open = Arc::new(AtomicUsize::new(0));
    let handler = Handler::serve({
        let (gate, open) = (gate.clone(), open.clone());
        move |it: &Value| -> Answer {
            if is_task(it) {
                let open = open.fetch_add(1, Ordering::SeqCst) + 1;
                return Answer::held(&gate, json!({"value": open}));
            }
            let ids: Vec<String> = (0..7).map(|n| format!("t{n}")).collect();
            if settled(it, "t6") {
                return json!({"result": null}).into();
            }
            let op = |id| json!({"op": "task", "id": id, "task": "work", "limit": 3});
            let ops: Vec<Value> = ids.iter().map(op).collect();
            json!({"ops": ops, "await": {"all": ids}}).into()
        }
    })
    .await;
    let g = registered(&handler).await;
    let run = g.run("f", json!({})).await;
    for (done, begun) in [(0, 3), (1, 4), (2, 5), (3, 6), (4, 7)] {
        attempted(&g, &handler, begun).await;
        let settled = |journal: &[Value]| journal.iter().filter(|e| !e["seq"].is_null()).count();
        g.eventually("what was let go is recorded", async |g| {
            settled(&g.journal(&run).await) == done
        })
        .await;
        assert_eq!(tasks(&handler).len(), begun, "{done} are done");
        gate.add_permits(1);
    }
    gate.add_permits(10);
    g.status(&run, "completed").await;
    assert_eq!((tasks(&handler).len(), functions(&handler)), (7, 2));
    g.close().await;
}

// P2.21, P6.2, P6.5
#[tokio::test(flavor = "multi_thread")]
async fn a_task_accepted_with_202_is_settled_through_its_callback() {
    let handler = handler(|_| Answer::status(202)).await;
    let g = registered(&handler).await;
    let run = g.run("f", json!({})).await;
    let it = attempted(&g, &handler, 1).await;
    let link = callback(&g, &it);
    g.eventually("the 202 is recorded", async |g| {
        g.happened(&run, "attempt.accepted").await.len() == 1
    })
    .await;
    let odd = r#"{"n": 3544790567247868102,  "f":1.0}"#;
    assert_eq!(post(&g, &link, odd).await.0, 204);
    output(&g, &run).await;
    let (_, _, value) = g.raw("GET", &format!("/v1/runs/{run}/values/t"), &[], None).await;
    assert_eq!(value, odd);
    assert_eq!(post(&g, &link, odd).await.0, 204, "the same again");
    assert_eq!(post(&g, &link, "2").await.0, 410);
    assert_eq!((tasks(&handler).len(), functions(&handler)), (1, 2));

    // An error is one of its attempt: the policy goes on.
    let input = json!({"retry": {"max_attempts": 2, "initial": "5s", "jitter": 0}});
    let run = g.run("f", json!({"input": input})).await;
    let link = callback(&g, &attempted(&g, &handler, 2).await);
    g.eventually("the 202 is recorded", async |g| {
        g.happened(&run, "attempt.accepted").await.len() == 1
    })
    .await;
    let error = format!("{link}?outcome=error");
    assert_eq!(post(&g, &error, r#"{"type":"Lost"}"#).await.0, 204);
    g.status(&run, "retrying").await;
    assert_eq!(post(&g, &error, r#"{"type":"Lost"}"#).await.0, 204, "a repeat is no attempt");
    g.advance(Duration::from_secs(5));
    let second = attempted(&g, &handler, 3).await;
    assert_eq!(second["invocation"]["attempt"], 2);
    g.eventually("the second 202 is recorded", async |g| {
        g.happened(&run, "attempt.accepted").await.len() == 2
    })
    .await;
    assert_eq!(post(&g, &error, r#"{"type":"Lost","message":"again"}"#).await.0, 204);
    let step = output(&g, &run).await;
    assert_eq!(step["error"], json!({"type": "Lost", "message": "again", "attempts": 2}));
    assert_eq!(post(&g, &error, r#"{"type":"Lost","message":"again"}"#).await.0, 204);
    assert_eq!(post(&g, &link, "1").await.0, 410);
    g.close().await;
}

// P6.6
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_is_faster_than_the_202_is_not_lost() {
    let gate = Arc::new(Semaphore::new(0));
    let handler = handler({
        let gate = gate.clone();
        move |_| Answer::held(&gate, Answer::status(202))
    })
    .await;
    let g = registered(&handler).await;
    let run = g.run("f", json!({})).await;
    let link = callback(&g, &attempted(&g, &handler, 1).await);
    assert_eq!(post(&g, &link, "\"fast\"").await.0, 204, "kept");
    g.status(&run, "waiting").await;
    gate.add_permits(1);
    assert_eq!(output(&g, &run).await["value"], "fast");
    g.close().await;
}

// P2.21
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_was_not_accepted_with_202_has_no_callback() {
    let handler = handler(|_| json!({"error": {"type": "Busy"}})).await;
    let g = registered(&handler).await;
    let input = json!({"retry": {"initial": "1h", "max_interval": "1h"}});
    let run = g.run("f", json!({"input": input})).await;
    let link = callback(&g, &attempted(&g, &handler, 1).await);
    g.status(&run, "retrying").await;
    for suffix in ["", "?outcome=heartbeat"] {
        let (status, problem) = post(&g, &format!("{link}{suffix}"), "1").await;
        assert_eq!((status, &problem["code"]), (409, &json!("not-a-callback")), "{problem}");
    }
    g.close().await;
}

// P6.8
#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_an_accepted_attempt_and_its_details_reach_the_next() {
    let handler = handler(|_| Answer::status(202)).await;
    let g = registered(&handler).await;
    let input = json!({"heartbeat": "30s", "retry": {"initial": "1s", "jitter": 0}});
    let run = g.run("f", json!({"input": input})).await;
    let first = attempted(&g, &handler, 1).await;
    let beat = format!("{}?outcome=heartbeat", callback(&g, &first));
    g.eventually("the 202 is recorded", async |g| {
        g.happened(&run, "attempt.accepted").await.len() == 1
    })
    .await;
    for n in 0..4 {
        g.advance(Duration::from_secs(25));
        assert_eq!(post(&g, &beat, &format!("{{\"done\": {n}}}")).await.0, 204);
    }
    // The first of these is too soon after the last to be a row of its own; nothing is lost.
    assert_eq!(post(&g, &beat, "{\"done\": 4.0}").await.0, 204);
    g.eventually("a row for each ten seconds", async |g| {
        g.happened(&run, "attempt.beat").await.len() == 4
    })
    .await;
    g.advance(Duration::from_secs(29));
    assert_eq!(tasks(&handler).len(), 1);
    g.status(&run, "waiting").await;
    g.advance(Duration::from_secs(1));
    g.status(&run, "retrying").await;
    g.advance(Duration::from_secs(1));
    let second = attempted(&g, &handler, 2).await;
    assert_eq!(second["invocation"]["attempt"], 2);
    assert_eq!(second["heartbeat"], json!({"done": 4.0}));
    let failed = g.happened(&run, "attempt.failed").await;
    assert_eq!(failed[0]["data"]["error"]["type"], "timed-out", "{failed:?}");
    g.close().await;
}

// P6.7
#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_is_over_an_accepted_attempt_too() {
    let handler = handler(|_| Answer::status(202)).await;
    let g = registered(&handler).await;
    let input = json!({"timeout": "2h", "retry": {"max_attempts": 1}});
    let run = g.run("f", json!({"input": input})).await;
    attempted(&g, &handler, 1).await;
    g.eventually("the 202 is recorded", async |g| {
        g.happened(&run, "attempt.accepted").await.len() == 1
    })
    .await;
    g.advance(Duration::from_secs(7190));
    g.status(&run, "waiting").await;
    g.advance(Duration::from_secs(11));
    assert_eq!(output(&g, &run).await["error"]["type"], "timed-out");
    g.close().await;
}

// P6.12
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_begins_no_attempt_and_a_result_that_comes_meanwhile_is_recorded() {
    let gate = Arc::new(Semaphore::new(0));
    let handler = Handler::serve({
        let gate = gate.clone();
        move |it: &Value| -> Answer {
            if is_task(it) {
                return match it["step"].as_str() {
                    Some("a") => Answer::held(&gate, json!({"value": 1})),
                    _ if it["invocation"]["attempt"] == 1 => {
                        json!({"error": {"type": "Busy"}}).into()
                    }
                    _ => json!({"value": 2}).into(),
                };
            }
            if settled(it, "a") && settled(it, "b") {
                return json!({"result": 3}).into();
            }
            let task = |id| json!({"op": "task", "id": id, "task": "work"});
            json!({"ops": [task("a"), task("b")], "await": {"all": ["a", "b"]}}).into()
        }
    })
    .await;
    let g = registered(&handler).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "retrying").await;
    g.post(&format!("/v1/runs/{run}/pause"), json!({})).await;
    g.advance(Duration::from_secs(60));
    gate.add_permits(1);
    g.eventually("a is recorded", async |g| {
        g.journal(&run).await.iter().any(|e| e["id"] == "a" && e["seq"] == 1)
    })
    .await;
    assert_eq!(tasks(&handler).len(), 2);
    g.status(&run, "paused").await;
    g.post(&format!("/v1/runs/{run}/resume"), json!({})).await;
    assert_eq!(output(&g, &run).await, 3);
    assert_eq!(tasks(&handler).len(), 3);
    g.close().await;
}

// P6.12
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_the_end_of_its_run_is_noted() {
    let gate = Arc::new(Semaphore::new(0));
    let handler = handler({
        let gate = gate.clone();
        move |_| Answer::held(&gate, json!({"value": 1}))
    })
    .await;
    let g = registered(&handler).await;
    let run = g.run("f", json!({})).await;
    attempted(&g, &handler, 1).await;
    g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
    gate.add_permits(1);
    g.eventually("it is noted", async |g| g.happened(&run, "attempt.late").await.len() == 1).await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_attempts_are_far_away_leaves_memory_and_comes_back() {
    let handler = handler(|it| match it["invocation"]["attempt"].as_u64() {
        Some(1) => json!({"error": {"type": "Busy", "after_ms": 7_200_000}}),
        _ => json!({"value": "later"}),
    })
    .await;
    let g = registered(&handler).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "retrying").await;
    let id = run.parse().expect("the gateway's own id");
    g.eventually("it is parked", async |g| {
        let rows = g.db.store.rows_after(id, 0, -1, 100).await.expect("rows");
        rows.iter().any(|r| r.flags.has(stepwell::machine::Flags::PARK))
    })
    .await;
    g.advance(Duration::from_secs(7_199));
    g.status(&run, "retrying").await;
    assert_eq!(tasks(&handler).len(), 1);
    g.advance_until_invoked(&handler, 3, Duration::from_secs(1)).await;
    assert_eq!(output(&g, &run).await["value"], "later");
    assert_eq!(functions(&handler), 2);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_too_long_to_be_kept_in_memory_is_read_again() {
    let handler = handler(|it| match it["invocation"]["attempt"].as_u64() {
        Some(1) => json!({"error": {"type": "Busy", "after_ms": 1}}),
        _ => json!({"value": it["input"]["text"].as_str().map(str::len)}),
    })
    .await;
    let g = registered(&handler).await;
    let input = json!({"input": {"text": "x".repeat(100_000)}});
    let run = g.run("f", json!({"input": input})).await;
    attempted(&g, &handler, 1).await;
    g.advance_until_invoked(&handler, 3, Duration::from_millis(1)).await;
    assert_eq!(output(&g, &run).await["value"], 100_000);
    g.close().await;
}

// P5.39
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_dies_sends_the_same_attempt_again() {
    let gate = Arc::new(Semaphore::new(0));
    let handler = handler({
        let gate = gate.clone();
        move |_| Answer::held(&gate, json!({"value": 1}))
    })
    .await;
    let g = registered(&handler).await;
    let run = g.run("f", json!({})).await;
    attempted(&g, &handler, 1).await;
    let clock = g.clock.clone();
    let limits = stepwell::machine::Limits::default();
    let g = Gateway::at(g.kill().await, limits, clock).await;
    g.eventually("it is sent again", async |g| {
        g.advance(Duration::from_millis(500));
        tasks(&handler).len() == 2
    })
    .await;
    assert_eq!(tasks(&handler)[1]["invocation"]["attempt"], 1, "the same attempt");
    gate.add_permits(2);
    assert_eq!(output(&g, &run).await["value"], 1);
    let entry = &g.journal(&run).await[0];
    assert_eq!(entry["attempts"], 1, "{entry}");
    g.close().await;
}

// P5.36, P5.39
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_attempts_are_three_whoever_is_killed_between_them() {
    let handler = handler(|_| json!({"error": {"type": "Busy"}})).await;
    let mut cluster = Cluster::start(2).await;
    cluster.register(&handler.url, &["f"]).await;
    cluster.balanced().await;
    let retry = json!({"max_attempts": 3, "initial": "2s", "jitter": 0});
    let run = cluster.run(0, "f", &json!({"input": {"retry": retry}})).await;
    let mut killed = 0;
    for attempt in 1..=2 {
        let tried = async |c: &Cluster| {
            let rows = c.rows(&run).await;
            rows.iter().filter(|r| r.kind == stepwell::machine::Kind::Tried).count()
        };
        cluster
            .eventually("an attempt is recorded", async || tried(&cluster).await >= attempt)
            .await;
        cluster.nodes[killed].kill();
        cluster.nodes[killed].start();
        let url = cluster.nodes[killed].url.clone();
        cluster.ready(&url).await;
        killed = 1 - killed;
    }
    let view = cluster.status(0, &run, "completed").await;
    assert_eq!(view["output"]["error"]["attempts"], 3, "{view}");
    let mut attempts: Vec<u64> =
        tasks(&handler).iter().filter_map(|it| it["invocation"]["attempt"].as_u64()).collect();
    attempts.dedup();
    assert_eq!(attempts, [1, 2, 3], "in order; a crash repeats one");
    assert!(cluster.audit().await.is_empty());
}
