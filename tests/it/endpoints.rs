//! Endpoints: probes with fixes, deployments, versions, secrets, and what becomes of runs.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::Mac as _;
use serde_json::{Value, json};

use crate::gateway::{Answer, Gateway, Handler, SECRET, settled};

/// A handler that says what it hosts, and ends every run at once.
async fn discoverable(functions: Value) -> Handler {
    Handler::serve(move |it| {
        if it["type"] == "discover" {
            json!({"protocol": [1, 1], "functions": functions})
        } else {
            json!({"result": it["function"]})
        }
    })
    .await
}

fn waits(it: &Value) -> Value {
    if !it["cancel"].is_null() {
        return json!({"result": "undone"});
    }
    if settled(it, "s") {
        return json!({"result": it["run"]["deployment"]});
    }
    json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"})
}

fn stage<'a>(probe: &'a Value, name: &str) -> &'a Value {
    let stages = probe["stages"].as_array().or(probe.as_array()).expect("stages");
    stages.iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("no {name} in {probe}"))
}

// P8.1
#[tokio::test(flavor = "multi_thread")]
async fn a_registration_asks_the_handler_and_shows_its_secret_once() {
    let g = Gateway::start().await;
    let handler = discoverable(json!([{"name": "a"}, {"name": "b"}])).await;
    let body = json!({"name": "shop", "url": handler.url});
    let dry = json!({"name": "shop", "url": handler.url, "dry_run": true});
    let (status, tried) = g.call("POST", "/v1/endpoints", Some(dry)).await;
    assert_eq!((status, &tried["endpoint"]), (200, &Value::Null), "{tried}");
    assert_eq!(tried["probe"]["ok"], true);
    assert_eq!(g.get("/v1/endpoints").await["data"], json!([]));

    let (status, headers, text) = g.raw("POST", "/v1/endpoints", &[], Some(body.to_string())).await;
    let made: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(status, 201, "{made}");
    let location = headers["location"].to_str().expect("ASCII").to_owned();
    assert_eq!(made["endpoint"]["functions"], json!(["a", "b"]));
    for name in ["dns", "connect", "status", "signature", "functions"] {
        assert_ne!(stage(&made["probe"], name)["ok"], false, "{made}");
    }
    let secret = made["secret"].as_str().expect("shown once").to_owned();
    assert!(secret.starts_with("whsec_"));
    for path in [&*location, "/v1/endpoints/shop"] {
        let (_, headers, text) = g.raw("GET", path, &[], None).await;
        assert!(headers.contains_key("etag"));
        assert!(!String::from_utf8_lossy(&text).contains(&secret));
    }
    let (status, again) = g.call("POST", "/v1/endpoints", Some(body)).await;
    assert_eq!((status, &again["secret"]), (200, &Value::Null), "{again}");
    let id = |r: &Value| r["deployment"]["id"].clone();
    assert_eq!(id(&again), id(&made), "the same content is no new deployment");
    let (_, synced) = g.call("POST", "/v1/endpoints/shop/sync", None).await;
    assert_eq!(id(&synced), id(&made));
    let deployments = g.get("/v1/endpoints/shop/deployments").await;
    assert_eq!(deployments["data"].as_array().map(Vec::len), Some(1));

    handler.now(
        |_| json!({"protocol": [1, 1], "functions": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
    );
    let probe = g.post("/v1/endpoints/shop/probe", json!({})).await;
    let fix = stage(&probe, "functions")["fix"].as_str().expect("a fix");
    assert!(fix.contains("sync"), "{probe}");
    let (status, synced) = g.call("POST", "/v1/endpoints/shop/sync", None).await;
    assert_eq!(status, 200);
    assert_ne!(id(&synced), id(&made), "new content is a new deployment");
    let names: Vec<Value> = g.get("/v1/functions").await["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|f| f["name"].clone())
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_a_probe_fails_comes_with_a_fix_in_words() {
    let g = Gateway::start().await;
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("http://{}/", listener.local_addr().expect("it is bound"))
    };
    let handler = Handler::serve(|_| Answer::Raw(Vec::new())).await;
    let tls = handler.url.replace("http://", "https://");
    let cases: Vec<(&str, String, Option<Answer>)> = vec![
        ("dns", "http://nosuch.invalid/".to_owned(), None),
        ("connect", closed, None),
        ("tls", tls, None),
        ("status", handler.url.clone(), Some(Answer::status(500))),
        ("status", handler.url.clone(), Some(Answer::status(404))),
        ("signature", handler.url.clone(), Some(Answer::status(401))),
        ("functions", handler.url.clone(), Some(Answer::Raw(b"<html>".to_vec()))),
        (
            "functions",
            handler.url.clone(),
            Some(json!({"protocol": [2, 3], "functions": [{"name": "a"}]}).into()),
        ),
        (
            "functions",
            handler.url.clone(),
            Some(json!({"protocol": [1, 1], "functions": []}).into()),
        ),
    ];
    for (name, url, answer) in cases {
        if let Some(answer) = answer {
            handler.now(move |_| answer.clone());
        }
        let body = json!({"name": "x", "url": url});
        let (status, code, problem) = g.refused("POST", "/v1/endpoints", Some(body)).await;
        assert_eq!((status, &*code), (422, "probe-failed"), "{name}: {problem}");
        let stage = stage(&problem["probe"], name);
        assert_eq!(stage["ok"], false, "{name}: {problem}");
        assert!(stage["fix"].as_str().is_some_and(|f| f.len() > 10), "{name}: {problem}");
        // Listed by hand it is registered all the same, and the probe tells.
        if name == "connect" {
            let body =
                json!({"name": "x", "url": url, "discover": false, "functions": [{"name": "a"}]});
            let made = g.post("/v1/endpoints", body).await;
            assert_eq!(made["probe"]["ok"], false, "{made}");
        }
    }
    for (field, value) in [
        ("url", json!("ftp://x")),
        ("url", json!("http://169.254.169.254/latest/meta-data")),
        ("secret", json!("whsec_short")),
        ("headers", json!({"webhook-id": "x"})),
        ("nmae", json!("x")),
        ("functions", json!([{"name": "a", "retry": {"max_attempts": 0}}])),
        ("functions", json!([])),
        ("functions", json!([{"name": "a"}, {"name": "a"}])),
    ] {
        let mut body = json!({"name": "x", "url": handler.url, "functions": [{"name": "a"}], "discover": false});
        body[field] = value.clone();
        let (status, _, problem) = g.refused("POST", "/v1/endpoints", Some(body)).await;
        assert_eq!(status, 422, "{field} {value}: {problem}");
        let pointer = problem["errors"][0]["pointer"].as_str().expect("a pointer");
        assert!(pointer.starts_with(&format!("#/{field}")), "{field}: {pointer}");
    }
    g.close().await;
}

// P8.9
#[tokio::test(flavor = "multi_thread")]
async fn a_function_with_live_runs_is_not_dropped_unless_forced() {
    let g = Gateway::start().await;
    let handler = Handler::serve(waits).await;
    g.register(&handler, json!(["keep", "drop"])).await;
    let run = g.run("drop", json!({})).await;
    g.status(&run, "waiting").await;
    let body = |force: bool| json!({"name": "test", "url": handler.url, "functions": [{"name": "keep"}], "discover": false, "force": force});
    let (status, code, problem) = g.refused("POST", "/v1/endpoints", Some(body(false))).await;
    assert_eq!((status, &*code), (409, "function-in-use"), "{problem}");
    assert_eq!((&problem["functions"], &problem["runs"]), (&json!(["drop"]), &json!([run])));
    g.post("/v1/endpoints", body(true)).await;
    let (_, code, _) = g.refused("POST", "/v1/functions/drop/runs", Some(json!({}))).await;
    assert_eq!(code, "function-not-found");
    g.signal(&run, "s", json!(1)).await;
    let view = g.status(&run, "parked").await;
    assert_eq!(view["attention"]["code"], "function-gone", "{view}");
    g.register(&handler, json!(["keep", "drop"])).await;
    g.status(&run, "completed").await;
    g.close().await;
}

// P8.5, P8.6, P8.7
#[tokio::test(flavor = "multi_thread")]
async fn runs_go_on_with_the_newest_deployment_or_stay_where_they_began() {
    let g = Gateway::start().await;
    let old = Handler::serve(waits).await;
    let functions = json!(["latest", {"name": "pinned", "versioning": "pinned"}]);
    let first = g.register(&old, functions.clone()).await["deployment"]["id"].clone();
    let latest = g.run("latest", json!({})).await;
    let pinned = g.run("pinned", json!({})).await;
    let later = g.run("pinned", json!({"delay": "30s"})).await;
    for run in [&latest, &pinned] {
        g.status(run, "waiting").await;
    }
    let new = Handler::serve(waits).await;
    let second = g.register(&new, functions).await["deployment"]["id"].clone();
    assert_ne!(first, second);
    let by_version = g.run("latest", json!({"version": first})).await;
    g.status(&by_version, "waiting").await;
    g.advance(Duration::from_secs(30));
    g.status(&later, "waiting").await;
    for (run, expected) in
        [(&latest, &second), (&pinned, &first), (&later, &second), (&by_version, &first)]
    {
        g.signal(run, "s", json!(1)).await;
        let view = g.status(run, "completed").await;
        assert_eq!(view["output"], *expected, "{view}");
        assert_eq!(view["deployment"], *expected);
    }
    let path = "/v1/functions/latest/runs";
    let absent = json!({"version": "dep_01k9c3v5h2e8x8p0m4s6t7w9yz"});
    assert_eq!(&*g.refused("POST", path, Some(absent)).await.1, "deployment-not-found");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_needs_a_policy_for_live_runs() {
    let g = Gateway::start().await;
    let handler = Handler::serve(waits).await;
    for policy in ["cancel", "park", "repin"] {
        g.register(&handler, json!(["f"])).await;
        let run = g.run("f", json!({})).await;
        g.status(&run, "waiting").await;
        let path = "/v1/endpoints/test";
        let (status, code, problem) = g.refused("DELETE", path, None).await;
        assert_eq!((status, &*code), (409, "endpoint-in-use"), "{problem}");
        assert_eq!(problem["runs"], json!([run]));
        let stale = [("if-match", "\"99\"")];
        let with_policy = format!("{path}?runs={policy}");
        assert_eq!(g.raw("DELETE", &with_policy, &stale, None).await.0, 412);
        if policy == "repin" {
            let (status, _, problem) = g.refused("DELETE", &with_policy, None).await;
            assert_eq!(status, 422, "nobody else has the function: {problem}");
            let body = json!({"name": "heir", "url": handler.url, "functions": [{"name": "f"}], "discover": false, "force": true});
            g.post("/v1/endpoints", body).await;
        }
        let (_, headers, _) = g.raw("GET", path, &[], None).await;
        let etag = [("if-match", headers["etag"].to_str().expect("ASCII"))];
        assert_eq!(g.raw("DELETE", &with_policy, &etag, None).await.0, 204, "{policy}");
        assert_eq!(&*g.refused("GET", path, None).await.1, "endpoint-not-found");
        match policy {
            "cancel" => assert_eq!(g.status(&run, "cancelled").await["error"], "undone"),
            "park" => {
                g.signal(&run, "s", json!(1)).await;
                g.status(&run, "parked").await;
                g.register(&handler, json!(["f"])).await;
                g.status(&run, "completed").await;
            }
            _ => {
                g.signal(&run, "s", json!(1)).await;
                g.status(&run, "completed").await;
            }
        }
    }
    g.close().await;
}

/// Whether a request is signed with this secret, as Standard Webhooks has it.
fn signed(handler: &Handler, secret: &str) -> bool {
    let (headers, body) = handler.requests().pop().expect("there was one");
    let text = |name: &str| headers[name].to_str().expect("ASCII").to_owned();
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).expect("base64");
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&key).expect("any length");
    mac.update(format!("{}.{}.", text("webhook-id"), text("webhook-timestamp")).as_bytes());
    mac.update(&body);
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    text("webhook-signature").split(' ').any(|s| s == expected)
}

// P2.2
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_signs_beside_the_old_one_for_a_day() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({"result": 1})).await;
    g.register(&handler, json!(["f"])).await;
    let call = async || {
        let run = g.run("f", json!({})).await;
        g.status(&run, "completed").await;
    };
    call().await;
    assert!(signed(&handler, SECRET));
    let rotated = g.post("/v1/endpoints/test/rotate-secret", json!({})).await;
    let new = rotated["secret"].as_str().expect("shown once").to_owned();
    assert_eq!(rotated["old_until"], g.moment(86_400));
    call().await;
    assert!(signed(&handler, SECRET) && signed(&handler, &new), "both verify");
    g.advance(Duration::from_secs(86_401));
    g.eventually("the old one is dropped", async |_| {
        call().await;
        !signed(&handler, SECRET)
    })
    .await;
    assert!(signed(&handler, &new));
    let own = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    g.post("/v1/endpoints/test/rotate-secret", json!({"secret": own})).await;
    call().await;
    assert!(signed(&handler, own) && signed(&handler, &new));
    assert_eq!(
        g.refused("POST", "/v1/endpoints/test/rotate-secret", Some(json!({"secret": "x"}))).await.0,
        422
    );
    g.close().await;
}

// P2.1
#[tokio::test(flavor = "multi_thread")]
async fn headers_of_the_endpoint_go_with_every_invocation_and_are_not_shown() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({"result": 1})).await;
    let body = json!({"name": "test", "url": handler.url, "functions": [{"name": "f"}],
        "discover": false, "headers": {"Authorization": "Bearer hush", "X-Team": "a"}});
    let made = g.post("/v1/endpoints", body).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "completed").await;
    let (headers, _) = handler.requests().pop().expect("one");
    assert_eq!(
        (&headers["authorization"], &headers["x-team"]),
        (&"Bearer hush".parse().expect("a value"), &"a".parse().expect("a value"))
    );
    assert_eq!(headers["content-type"], "application/json");
    let mut names = made["endpoint"]["headers"].as_array().expect("names").clone();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, ["authorization", "x-team"]);
    let (_, _, text) = g.raw("GET", "/v1/endpoints/test", &[], None).await;
    assert!(!String::from_utf8_lossy(&text).contains("hush"));
    g.close().await;
}

/// `stepwell dev` alone has one, tests/outside runs it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_offers_no_demo() {
    let gw = Gateway::start().await;
    let offer = gw.get("/v1/demo").await;
    assert_eq!(offer, json!({"offered": false, "endpoint": null, "function": null}));
    let (status, problem) = gw.call("POST", "/v1/demo", None).await;
    assert_eq!((status, &problem["code"]), (404, &json!("not-found")));
    assert!(gw.get("/v1/endpoints").await["data"].as_array().expect("a list").is_empty());
    gw.close().await;
}
