//! Webhooks: who is told of what, how it is signed, what happens where nobody takes it.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::HeaderMap;
use serde_json::{Value, json};
use stepwell::engine::{CRASH_AT, Point};
use stepwell::protocol::{Secret, verify};

use crate::cluster::Cluster;
use crate::gateway::{Answer, Gateway, Handler, SECRET};

/// Who takes what it is told.
async fn receiver() -> Handler {
    Handler::serve(|_| Answer::status(204)).await
}

async fn create(g: &Gateway, webhook: Value) -> Value {
    let (status, made) = g.call("POST", "/v1/webhooks", Some(webhook)).await;
    assert_eq!(status, 201, "{made}");
    made
}

/// A function that does as its input says.
async fn function() -> Handler {
    Handler::serve(|it| match it["input"].as_str() {
        Some("fails") => json!({"error": {"type": "Nope", "message": "it cannot be done"}}),
        Some("pauses") => json!({"ops": [{"op": "run", "id": "odd",
            "error": {"type": "Ask", "message": "a person", "retry": "pause"}}]}),
        Some("waits") => json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"}),
        _ => json!({"result": {"n": 7}}),
    })
    .await
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// What was told so far, each as its type and run; fails if a signature does not fit.
fn told(receiver: &Handler, secret: Option<&str>) -> Vec<(String, String)> {
    let requests = receiver.requests();
    if let Some(secret) = secret {
        let secrets = [Secret::parse(secret).expect("a secret")];
        for (headers, body) in &requests {
            let [id, at, signature] = ["webhook-id", "webhook-timestamp", "webhook-signature"]
                .map(|n| header(headers, n));
            let now = at.parse().expect("seconds");
            verify(id, at, signature, body, &secrets, now).expect("it is ours");
        }
    }
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let what = |it: &Value| (text(&it["type"]), text(&it["data"]["run"]["id"]));
    receiver.invocations().iter().map(what).collect()
}

async fn deliveries(g: &Gateway, webhook: &str, query: &str) -> Vec<Value> {
    let page = g.get(&format!("/v1/webhooks/{webhook}/deliveries?limit=200{query}")).await;
    page["data"].as_array().expect("a list").clone()
}

/// Waits until so many deliveries of a webhook stand so.
async fn stand(g: &Gateway, webhook: &str, status: &str, count: usize) -> Vec<Value> {
    let query = format!("&status={status}");
    g.eventually(&format!("{count} are {status}"), async |g| {
        deliveries(g, webhook, &query).await.len() == count
    })
    .await;
    deliveries(g, webhook, &query).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_and_pauses_are_told_to_those_who_listen() {
    let g = Gateway::start().await;
    let handler = function().await;
    g.register(&handler, json!(["f", "other"])).await;
    let (all, failures, others) = (receiver().await, receiver().await, receiver().await);
    let made = create(&g, json!({"name": "all", "url": all.url, "headers": {"X-Team": "a"}})).await;
    let secret = made["secret"].as_str().expect("shown once").to_owned();
    assert_eq!((&made["events"], &made["enabled"]), (&Value::Null, &json!(true)), "{made}");
    let wants = json!({"name": "failures", "url": failures.url, "secret": SECRET,
        "events": ["run.failed", "run.paused"], "payloads": true});
    create(&g, wants.clone()).await;
    create(&g, json!({"name": "others", "url": others.url, "functions": ["other"]})).await;
    let (status, same) = g.call("POST", "/v1/webhooks", Some(wants)).await;
    assert_eq!((status, &same["secret"]), (200, &Value::Null), "just the same: {same}");

    let good = g.run("f", json!({"input": "good", "key": "k", "tags": {"team": "a"}})).await;
    g.status(&good, "completed").await;
    let bad = g.run("f", json!({"input": "fails"})).await;
    g.status(&bad, "failed").await;
    let odd = g.run("f", json!({"input": "pauses"})).await;
    g.status(&odd, "paused").await;
    g.post(&format!("/v1/runs/{odd}/terminate"), json!({})).await;
    let gone = g.run("f", json!({"input": "waits"})).await;
    g.status(&gone, "waiting").await;
    g.post(&format!("/v1/runs/{gone}/cancel"), json!({"grace": "0s"})).await;
    g.advance(Duration::from_secs(1));
    g.status(&gone, "cancelled").await;
    g.invoked(&all, 5).await;
    let mut heard = told(&all, Some(&secret));
    heard.sort();
    let mut wanted = vec![
        ("run.completed".to_owned(), good.clone()),
        ("run.failed".to_owned(), bad.clone()),
        ("run.paused".to_owned(), odd.clone()),
        ("run.terminated".to_owned(), odd.clone()),
        ("run.cancelled".to_owned(), gone.clone()),
    ];
    wanted.sort();
    assert_eq!(heard, wanted);
    assert!(all.requests().iter().all(|(headers, _)| header(headers, "x-team") == "a"));
    let about = |h: &Handler, run: &str, what: &str| {
        let of = |it: &&Value| it["data"]["run"]["id"] == run && it["type"] == what;
        h.invocations().iter().find(of).cloned().expect("it was told")
    };
    let small = about(&all, &good, "run.completed");
    let run = &small["data"]["run"];
    assert_eq!(
        (&run["function"], &run["key"], &run["status"], &run["tags"]["team"]),
        (&json!("f"), &json!("k"), &json!("completed"), &json!("a"))
    );
    assert_eq!(
        (&small["data"]["output"], &small["data"]["reopened"]),
        (&Value::Null, &json!(false))
    );
    assert!(about(&all, &bad, "run.failed")["data"]["error"].is_null(), "no payload");

    g.invoked(&failures, 2).await;
    assert_eq!(told(&failures, Some(SECRET)).len(), 2);
    let whole = about(&failures, &bad, "run.failed");
    assert_eq!(whole["data"]["error"]["message"], "it cannot be done", "{whole}");
    let pause = about(&failures, &odd, "run.paused");
    assert!(pause["data"]["attention"]["code"].is_string(), "{pause}");
    let delivered = stand(&g, "all", "delivered", 5).await;
    assert_eq!(
        (&delivered[0]["attempts"], &delivered[0]["last_attempt"]["status"]),
        (&json!(1), &json!(204))
    );
    assert_eq!((others.count(), deliveries(&g, "others", "").await.len()), (0, 0));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_names_who_is_told_and_a_rewound_run_tells_again() {
    let g = Gateway::closed().await;
    let key = stepwell::engine::bootstrap_key(&g.db.store, "k", stepwell::engine::Scopes::ALL);
    let bearer = format!("Bearer {}", key.await.expect("a key").1);
    let call = async |method: &str, path: &str, body: Value| {
        let headers = [("authorization", &*bearer)];
        let (status, _, text) = g.raw(method, path, &headers, Some(body.to_string())).await;
        (status, serde_json::from_slice::<Value>(&text).unwrap_or(Value::Null))
    };
    let (handler, open, signed) = (function().await, receiver().await, receiver().await);
    let endpoint = json!({"name": "test", "url": handler.url, "discover": false,
        "functions": [{"name": "f"}]});
    assert_eq!(call("POST", "/v1/endpoints", endpoint).await.0, 201);
    let (status, _) = call("POST", "/v1/secrets", json!({"name": "hook", "value": SECRET})).await;
    assert_eq!(status, 201);
    let start = json!({"input": "fails", "on_complete": [
        {"url": open.url}, {"url": signed.url, "secret": "hook", "payloads": true}]});
    let (status, run) = call("POST", "/v1/functions/f/runs?wait=20s", start).await;
    assert_eq!((status, &run["status"]), (200, &json!("failed")), "{run}");
    let id = run["id"].as_str().expect("an id").to_owned();
    g.invoked(&open, 1).await;
    g.invoked(&signed, 1).await;
    assert_eq!(told(&signed, Some(SECRET)), [("run.failed".to_owned(), id.clone())]);
    // Who has no secret verifies with the cluster's public key.
    let (headers, body) = open.requests()[0].clone();
    let signature = header(&headers, "webhook-signature").strip_prefix("v1a,").expect("public");
    let content = [header(&headers, "webhook-id"), header(&headers, "webhook-timestamp")].join(".");
    let content = [content.as_bytes(), b".", &body].concat();
    let keys: Value =
        serde_json::from_slice(&g.raw("GET", "/.well-known/jwks.json", &[], None).await.2)
            .expect("JSON");
    let decode = |text: &str| {
        use base64::Engine as _;
        let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        url.decode(text).or_else(|_| base64::engine::general_purpose::STANDARD.decode(text))
    };
    let key = decode(keys["keys"][0]["x"].as_str().expect("a key")).expect("base64");
    let verifier = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, key);
    verifier.verify(&content, &decode(signature).expect("base64")).expect("it is ours");

    handler.now(|_| json!({"result": "mended"}));
    let (status, _) = call("POST", &format!("/v1/runs/{id}/rewind"), json!({})).await;
    assert!((200..300).contains(&status));
    g.invoked(&signed, 2).await;
    let again = signed.invocations()[1].clone();
    assert_eq!(
        (&again["type"], &again["data"]["reopened"]),
        (&json!("run.completed"), &json!(true))
    );
    assert_eq!(again["data"]["output"], "mended", "{again}");
    let ids: BTreeSet<String> =
        signed.requests().iter().map(|(h, _)| header(h, "webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 2, "another end is another message");
    let (_, page) =
        call("GET", &format!("/v1/webhooks/on-complete/deliveries?run={id}"), json!({})).await;
    assert_eq!(page["data"].as_array().map(Vec::len), Some(4), "{page}");
    for (hooks, pointer) in [
        (json!([{"url": "ftp://x.example"}]), "#/on_complete/0/url"),
        (json!([{}]), "#/on_complete/0/url"),
        (json!([{"url": "https://x.example", "secrets": 1}]), "#/on_complete/0/secrets"),
    ] {
        let (status, problem) =
            call("POST", "/v1/functions/f/runs", json!({"on_complete": hooks})).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{problem}");
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_takes_is_tried_again_then_dead_then_sent_by_hand() {
    let g = Gateway::start().await;
    let handler = function().await;
    g.register(&handler, json!(["f"])).await;
    let receiver = Handler::serve(|_| {
        let later = vec![("retry-after", "30".to_owned())];
        Answer::Status(503, later, "not\u{7} now".to_owned())
    })
    .await;
    create(
        &g,
        json!({"name": "hook", "url": receiver.url,
        "retry": {"max_attempts": 2, "initial": "1s", "jitter": 0}}),
    )
    .await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "completed").await;
    g.invoked(&receiver, 1).await;
    g.eventually("it waits", async |g| {
        !deliveries(g, "hook", "&status=pending").await[0]["last_attempt"].is_null()
    })
    .await;
    let waiting = deliveries(&g, "hook", "").await[0].clone();
    assert_eq!(
        waiting["next_attempt_at"],
        g.moment(30),
        "the receiver has asked for it: {waiting}"
    );
    assert_eq!(waiting["last_attempt"]["detail"], "the receiver answered 503: not now");
    g.advance(Duration::from_secs(30));
    let dead = stand(&g, "hook", "dead", 1).await[0].clone();
    assert_eq!((&dead["attempts"], &dead["next_attempt_at"]), (&json!(2), &Value::Null), "{dead}");
    let id = dead["id"].as_str().expect("an id").to_owned();

    receiver.now(|_| Answer::status(200));
    let path = format!("/v1/webhooks/hook/deliveries/{id}");
    let again = g.post(&format!("{path}/redeliver"), json!({})).await;
    assert_eq!((&again["status"], &again["attempts"]), (&json!("pending"), &json!(0)));
    stand(&g, "hook", "delivered", 1).await;
    let bodies: BTreeSet<Vec<u8>> =
        receiver.requests().iter().map(|(_, body)| body.to_vec()).collect();
    let ids: BTreeSet<String> =
        receiver.requests().iter().map(|(h, _)| header(h, "webhook-id").to_owned()).collect();
    assert_eq!((receiver.count(), bodies.len(), ids), (3, 1, BTreeSet::from([id.clone()])));
    let whole = g.get(&path).await;
    assert_eq!(whole["body"]["data"]["run"]["id"], json!(run), "{whole}");

    // Many at once, and one that is gone.
    receiver.now(|_| Answer::status(500));
    for _ in 0..3 {
        let run = g.run("f", json!({})).await;
        g.status(&run, "completed").await;
    }
    g.eventually("all were tried", async |g| {
        let waiting = deliveries(g, "hook", "&status=pending").await;
        waiting.len() == 3 && waiting.iter().all(|d| !d["last_attempt"].is_null())
    })
    .await;
    g.advance(Duration::from_secs(1));
    stand(&g, "hook", "dead", 3).await;
    receiver.now(|_| Answer::status(200));
    let future = json!({"since": g.moment(100_000_000)});
    assert_eq!(g.post("/v1/webhooks/hook/redeliver", future).await["redelivered"], 0);
    let all = g.post("/v1/webhooks/hook/redeliver", json!({})).await;
    assert_eq!((&all["redelivered"], &all["more"]), (&json!(3), &json!(false)));
    stand(&g, "hook", "delivered", 4).await;
    receiver.now(|_| Answer::status(410));
    let test = g.post("/v1/webhooks/hook/test", json!({})).await;
    stand(&g, "hook", "dead", 1).await;
    g.eventually("it is disabled", async |g| {
        g.get("/v1/webhooks/hook").await["enabled"] == json!(false)
    })
    .await;
    let off = g.get("/v1/webhooks/hook").await;
    assert_eq!(off["disabled"]["by"], "gateway", "{off}");
    // Nothing is recorded for it, and what is begun anew waits until it is enabled.
    let run = g.run("f", json!({})).await;
    g.status(&run, "completed").await;
    let told = receiver.count();
    let path = format!("/v1/webhooks/hook/deliveries/{}", test["id"].as_str().expect("an id"));
    g.post(&format!("{path}/redeliver"), json!({})).await;
    receiver.now(|_| Answer::status(200));
    let on = g.call("PATCH", "/v1/webhooks/hook", Some(json!({"enabled": true}))).await;
    assert_eq!((on.0, &on.1["disabled"]), (200, &Value::Null));
    stand(&g, "hook", "delivered", 5).await;
    assert_eq!(receiver.count(), told + 1);
    assert_eq!(deliveries(&g, "hook", "").await.len(), 5);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_changed_rotated_and_deleted() {
    let g = Gateway::start().await;
    let receiver = receiver().await;
    let made = create(&g, json!({"name": "hook", "url": receiver.url, "secret": SECRET})).await;
    let id = made["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/webhooks/{id}");
    let (_, headers, _) = g.raw("GET", &path, &[], None).await;
    assert_eq!(headers["etag"], "\"1\"");
    let change = json!({"events": ["run.failed"], "payloads": true}).to_string();
    let (status, headers, _) =
        g.raw("PATCH", &path, &[("if-match", "\"1\"")], Some(change.clone())).await;
    assert_eq!((status, &headers["etag"]), (200, &"\"2\"".parse().expect("a header")));
    assert_eq!(g.raw("PATCH", &path, &[("if-match", "\"1\"")], Some(change)).await.0, 412);
    assert_eq!(g.raw("DELETE", &path, &[("if-match", "\"1\"")], None).await.0, 412);
    let all = g.call("PATCH", &path, Some(json!({"events": null, "name": "other"}))).await.1;
    assert_eq!(
        (&all["events"], &all["name"], &all["payloads"]),
        (&Value::Null, &json!("other"), &json!(true))
    );

    let rotated = g.post("/v1/webhooks/other/rotate-secret", json!({})).await;
    let fresh = rotated["secret"].as_str().expect("shown once").to_owned();
    g.post("/v1/webhooks/other/test", json!({})).await;
    g.invoked(&receiver, 1).await;
    for secret in [SECRET, &fresh] {
        assert_eq!(told(&receiver, Some(secret))[0].0, "webhook.test", "both sign for a day");
    }
    let listed = g.get("/v1/webhooks").await;
    assert!(!listed.to_string().contains("whsec_"), "{listed}");
    for (body, pointer) in [
        (json!({"name": "x", "url": "nowhere"}), "#/url"),
        (json!({"name": "x", "url": "https://u:p@x.example"}), "#/url"),
        (json!({"name": "on-complete", "url": "https://x.example"}), "#/name"),
        (json!({"name": "x", "url": "https://x.example", "events": ["run.started"]}), "#/events"),
        (
            json!({"name": "x", "url": "https://x.example", "headers": {"webhook-id": "1"}}),
            "#/headers",
        ),
        (json!({"name": "x", "url": "https://x.example", "retries": 3}), "#/retries"),
    ] {
        let (status, _, problem) = g.refused("POST", "/v1/webhooks", Some(body)).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{problem}");
    }
    let (status, code, _) = g
        .refused("POST", "/v1/webhooks", Some(json!({"name": "other", "url": "https://x.example"})))
        .await;
    assert_eq!((status, &*code), (409, "webhook-exists"));
    assert_eq!(g.call("DELETE", &path, None).await.0, 204);
    assert_eq!(g.refused("GET", &path, None).await.1, "webhook-not-found");
    create(&g, json!({"name": "other", "url": receiver.url})).await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_unwell_is_told_of_and_one_that_is_well_again() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| Answer::status(410)).await;
    g.register(&handler, json!(["f"])).await;
    let receiver = receiver().await;
    create(
        &g,
        json!({"name": "hook", "url": receiver.url,
        "events": ["endpoint.unhealthy", "endpoint.healthy"]}),
    )
    .await;
    let run = g.run("f", json!({})).await;
    g.invoked(&receiver, 1).await;
    let ill = receiver.invocations()[0].clone();
    assert_eq!(
        (&ill["type"], &ill["data"]["endpoint"]),
        (&json!("endpoint.unhealthy"), &json!("test"))
    );
    assert!(ill["data"]["detail"].as_str().is_some_and(|d| d.contains("410")), "{ill}");
    handler.now(|_| json!({"result": 1}));
    // The next probe is a minute away at most.
    g.advance_until_invoked(&receiver, 2, Duration::from_secs(1)).await;
    assert_eq!(receiver.invocations()[1]["type"], "endpoint.healthy");
    g.status(&run, "completed").await;
    g.close().await;
}

/// Whoever dies when: each end is one delivery, and its receiver hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_told_whichever_node_dies() {
    let (handler, receiver) = (function().await, receiver().await);
    let mut cluster = Cluster::start(2).await;
    cluster.register(&handler.url, &["f"]).await;
    let hook = json!({"name": "hook", "url": receiver.url, "secret": SECRET});
    let (status, made) = cluster.call(1, "POST", "/v1/webhooks", Some(&hook)).await;
    assert_eq!(status, 201, "{made}");
    cluster.nodes[0].kill();
    cluster.nodes[0].start_with(&[(CRASH_AT, &format!("{}:1", Point::DeliverAfter.word()))]);
    cluster.ready(&cluster.nodes[0].url).await;
    cluster.balanced().await;
    let mut runs = BTreeSet::new();
    // Starts are spread over both nodes by their keys; the first one dies on its way.
    for n in 0..24 {
        let (path, body) = ("/v1/functions/f/runs", json!({"key": format!("k{n}")}));
        let idem = format!("i{n}");
        let started = std::sync::Mutex::new(None);
        cluster
            .eventually("it is started", async || {
                let answer = cluster.try_call(1, "POST", path, Some(&body), Some(&idem)).await;
                let run = answer.filter(|(status, _)| *status == 202).map(|(_, run)| run);
                let run = run.and_then(|run| Some(run["id"].as_str()?.to_owned()));
                let there = run.is_some();
                *started.lock().expect("no panic") = run;
                there
            })
            .await;
        runs.extend(started.into_inner().expect("no panic"));
    }
    cluster
        .eventually("all are told of", async || {
            let heard: BTreeSet<String> =
                told(&receiver, Some(SECRET)).into_iter().map(|(_, run)| run).collect();
            heard == runs
        })
        .await;
    assert!(!cluster.nodes[0].runs(), "it has died where it was to");
    let ids: BTreeSet<String> =
        receiver.requests().iter().map(|(h, _)| header(h, "webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), runs.len(), "each end is one message");
    let recorded = cluster.db.number("select count(*) from webhook_deliveries").await;
    assert_eq!(recorded, runs.len() as i64);
    cluster
        .eventually("nothing is left to be said", async || {
            cluster.db.number("select count(*) from outbox").await == 0
        })
        .await;
}
