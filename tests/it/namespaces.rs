//! Namespaces: made, limited and removed by those who look after all; closed to each other.

use std::time::Duration;

use axum::http::HeaderMap;
use serde_json::{Value, json};
use stepwell::engine::{Scope, bootstrap_key};

use crate::gateway::{Gateway, Handler};

/// Calls with one key.
pub struct As<'a> {
    g: &'a Gateway,
    bearer: String,
}

impl As<'_> {
    async fn raw(&self, method: &str, path: &str, body: Option<Value>) -> (u16, HeaderMap, Value) {
        let headers = [("authorization", &*self.bearer)];
        let body = body.map(|b| b.to_string());
        let (status, headers, text) = self.g.raw(method, path, &headers, body).await;
        (status, headers, serde_json::from_slice(&text).unwrap_or(Value::Null))
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = (!body.is_null()).then_some(body);
        let (status, _, answer) = self.raw(method, path, body).await;
        (status, answer)
    }

    /// What is done.
    pub async fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// The status and the code of what is refused.
    pub async fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.call(method, path, body).await;
        (status, answer["code"].as_str().unwrap_or_else(|| panic!("{status} {answer}")).to_owned())
    }
}

pub async fn operator(g: &Gateway) -> As<'_> {
    let scopes = [Scope::Admin].into_iter().collect();
    let key = bootstrap_key(&g.db.store, "operator", scopes).await.expect("a key").1;
    As { g, bearer: format!("Bearer {key}") }
}

/// A key with all scopes of a namespace.
pub async fn tenant<'a>(operator: &As<'a>, namespace: &str) -> As<'a> {
    let body = json!({"name": "tenant", "scopes": ["admin"], "namespace": namespace});
    let key = operator.done("POST", "/v1/keys", body).await;
    assert_eq!(key["namespace"], namespace);
    let secret = key["secret"].as_str().expect("shown once");
    As { g: operator.g, bearer: format!("Bearer {secret}") }
}

fn waits(_: &Value) -> Value {
    json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"})
}

fn endpoint(handler: &Handler) -> Value {
    json!({"name": "test", "url": handler.url, "functions": [{"name": "f"}], "discover": false})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_made_changed_and_removed_by_those_who_look_after_all() {
    let g = Gateway::closed().await;
    let root = operator(&g).await;
    let (status, headers, made) = root
        .raw("POST", "/v1/namespaces", Some(json!({"name": "shop", "limits": {"live_runs": 7}})))
        .await;
    assert_eq!(
        (status, &headers["location"], &headers["etag"]),
        (201, &"/v1/namespaces/shop".parse().expect("one"), &"\"1\"".parse().expect("one"))
    );
    assert_eq!(made["limits"], json!({"live_runs": 7, "starts": null, "requests": null}));
    let again = root
        .raw("POST", "/v1/namespaces", Some(json!({"name": "shop", "limits": {"live_runs": 7}})))
        .await;
    assert_eq!(again.0, 200, "just the same");
    for (body, status, code) in [
        (json!({"name": "shop"}), 409, "namespace-exists"),
        (json!({"name": "Shop"}), 422, "invalid-request"),
        (json!({"name": "x", "limits": {"live_runs": 0}}), 422, "invalid-request"),
        (json!({"name": "x", "limits": {"starts": "5"}}), 422, "invalid-request"),
        (json!({"name": "x", "limits": {"runs": 5}}), 422, "invalid-request"),
        (json!({"name": "x", "hosts": ["http://a/"]}), 422, "invalid-request"),
    ] {
        assert_eq!(
            root.refused("POST", "/v1/namespaces", body.clone()).await,
            (status, code.to_owned()),
            "{body}"
        );
    }
    let shop = tenant(&root, "shop").await;
    // A tenant knows its own, and changes none.
    assert_eq!(
        shop.done("GET", "/v1/namespaces", Value::Null).await["data"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(shop.done("GET", "/v1/namespaces/shop", Value::Null).await["live_runs"], 0);
    assert_eq!(
        shop.refused("GET", "/v1/namespaces/default", Value::Null).await,
        (404, "namespace-not-found".to_owned())
    );
    for (method, path, body, status, code) in [
        ("POST", "/v1/namespaces", json!({"name": "more"}), 403, "operators-only"),
        (
            "PATCH",
            "/v1/namespaces/shop",
            json!({"limits": {"live_runs": null}}),
            403,
            "operators-only",
        ),
        ("DELETE", "/v1/namespaces/shop", Value::Null, 403, "operators-only"),
        ("DELETE", "/v1/namespaces/default", Value::Null, 404, "namespace-not-found"),
        (
            "POST",
            "/v1/keys",
            json!({"name": "k", "scopes": ["admin"], "namespace": "default"}),
            404,
            "namespace-not-found",
        ),
        ("GET", "/v1/keys?namespace=default", Value::Null, 404, "namespace-not-found"),
    ] {
        assert_eq!(
            shop.refused(method, path, body).await,
            (status, code.to_owned()),
            "{method} {path}"
        );
    }
    // A change names what changes.
    let patch = json!({"limits": {"starts": "5/10s"}, "hosts": ["*.Example.com"]});
    let changed = root.done("PATCH", "/v1/namespaces/shop", patch).await;
    assert_eq!(changed["limits"], json!({"live_runs": 7, "starts": "5/10s", "requests": null}));
    assert_eq!(changed["hosts"], json!(["*.example.com"]));
    let stale = [("authorization", &*root.bearer), ("if-match", "\"1\"")];
    assert_eq!(g.raw("DELETE", "/v1/namespaces/shop", &stale, None).await.0, 412);
    let patch = json!({"limits": {"starts": null}, "hosts": null});
    assert_eq!(root.done("PATCH", "/v1/namespaces/shop", patch).await["hosts"], Value::Null);
    // It goes when nothing in it goes on.
    let handler = Handler::serve(waits).await;
    shop.done("POST", "/v1/endpoints", endpoint(&handler)).await;
    let run = shop.done("POST", "/v1/functions/f/runs", json!({})).await;
    let run = run["id"].as_str().expect("an id");
    assert_eq!(shop.done("GET", "/v1/namespaces/shop", Value::Null).await["live_runs"], 1);
    let in_use = (409, "namespace-in-use".to_owned());
    assert_eq!(root.refused("DELETE", "/v1/namespaces/shop", Value::Null).await, in_use);
    shop.done("POST", &format!("/v1/runs/{run}/terminate"), json!({})).await;
    g.eventually("it has ended", async |_| {
        !shop.done("GET", &format!("/v1/runs/{run}"), Value::Null).await["ended_at"].is_null()
    })
    .await;
    assert_eq!(
        root.refused("DELETE", "/v1/namespaces/shop", Value::Null).await,
        in_use,
        "its endpoint"
    );
    shop.done("DELETE", "/v1/endpoints/test", Value::Null).await;
    root.done("DELETE", "/v1/namespaces/shop", Value::Null).await;
    assert_eq!(root.refused("GET", "/v1/namespaces/shop", Value::Null).await.0, 404);
    assert_eq!(shop.call("GET", "/v1/runs", Value::Null).await.0, 401, "its keys open nothing");
    assert_eq!(root.refused("DELETE", "/v1/namespaces/default", Value::Null).await, in_use);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_of_the_reference_reaches_another_namespace() {
    let g = Gateway::closed().await;
    let root = operator(&g).await;
    root.done("POST", "/v1/namespaces", json!({"name": "shop"})).await;
    root.done("POST", "/v1/namespaces", json!({"name": "other"})).await;
    let (shop, other) = (tenant(&root, "shop").await, tenant(&root, "other").await);
    // One of everything that has an address.
    let handler = Handler::serve(|it| match &it["input"] {
        Value::Null => waits(it),
        _ => json!({"error": {"type": "Bad", "message": "theirs"}}),
    })
    .await;
    let mut registered = endpoint(&handler);
    registered["functions"] = json!([{"name": "f"}, {"name": "o", "kind": "object"}]);
    let registered = shop.done("POST", "/v1/endpoints", registered).await;
    let run = shop.done("POST", "/v1/functions/f/runs", json!({"key": "k"})).await;
    let id = run["id"].as_str().expect("an id").to_owned();
    let written = [("authorization", &*shop.bearer), ("if-match", "*")];
    let state = Some(json!({"state": {"a": 1}}).to_string());
    assert_eq!(g.raw("PUT", "/v1/objects/o/k", &written, state).await.0, 200);
    shop.done("POST", "/v1/secrets", json!({"name": "s", "value": "v"})).await;
    let schedule = json!({"name": "nightly", "function": "f", "cron": "0 3 * * *"});
    shop.done("POST", "/v1/schedules", schedule).await;
    shop.done("POST", "/v1/webhooks", json!({"name": "told", "url": handler.url})).await;
    let delivery = shop.done("POST", "/v1/webhooks/told/test", json!({})).await;
    let event = shop.done("POST", "/v1/events", json!({"name": "e", "data": 1})).await;
    let bulk = json!({"filter": {"key": "nobody"}, "action": "pause"});
    let bulk = shop.done("POST", "/v1/bulk", bulk).await;
    shop.done("POST", "/v1/functions/f/runs", json!({"input": 1})).await;
    g.eventually("it fails", async |_| {
        shop.done("GET", "/v1/errors", Value::Null).await["data"][0].is_object()
    })
    .await;
    let errors = shop.done("GET", "/v1/errors", Value::Null).await;
    let keys = shop.done("GET", "/v1/keys", Value::Null).await;
    let text = |v: &Value| v.as_str().unwrap_or_else(|| panic!("no text: {v}")).to_owned();
    let ids = [
        ("/runs/{id}", format!("/runs/{id}")),
        ("/keys/{id}", format!("/keys/{}", text(&keys["data"][0]["id"]))),
        ("/bulk/{id}", format!("/bulk/{}", text(&bulk["id"]))),
        ("/events/{id}", format!("/events/{}", text(&event["id"]))),
        ("{fingerprint}", text(&errors["data"][0]["fingerprint"])),
        ("{invocation}", "inv_01jd0000000000000000000000".to_owned()),
        ("{deployment}", text(&registered["deployment"]["id"])),
        ("{delivery}", text(&delivery["id"])),
        ("{namespace}", "shop".to_owned()),
        ("{endpoint}", "test".to_owned()),
        ("{schedule}", "nightly".to_owned()),
        ("{webhook}", "told".to_owned()),
        ("/secrets/{name}", "/secrets/s".to_owned()),
        ("/functions/{name}", "/functions/f".to_owned()),
        ("/objects/{function}", "/objects/o".to_owned()),
        ("{function}", "f".to_owned()),
        ("{key}", "k".to_owned()),
        ("{step}", "s".to_owned()),
        ("{name}", "s".to_owned()),
        ("{output}", "s".to_owned()),
    ];
    let reference = g.raw("GET", "/openapi.json", &[], None).await.2;
    let reference: Value = serde_json::from_slice(&reference).expect("JSON");
    g.eventually("it waits", async |_| {
        shop.done("GET", &format!("/v1/runs/{id}"), Value::Null).await["status"] == "waiting"
    })
    .await;
    let before = shop.done("GET", &format!("/v1/runs/{id}"), Value::Null).await;
    let mut walked = 0;
    for (path, item) in reference["paths"].as_object().expect("paths") {
        // Who has the address of a callback has the credential; the others need no key at all.
        if !path.starts_with("/v1/") || path.starts_with("/v1/callbacks/") {
            continue;
        }
        let at = ids.iter().fold(path.clone(), |path, (from, to)| path.replace(from, to));
        assert!(!at.contains('{') && !at.contains('}'), "{path}: what stands for {at}?");
        for (method, operation) in item.as_object().expect("methods") {
            let method = method.to_uppercase();
            let has_body = !operation["requestBody"].is_null();
            let (status, answer) =
                other.call(&method, &at, if has_body { json!({}) } else { Value::Null }).await;
            let shown = answer.to_string();
            for theirs in [&id, &handler.url, "nightly", "\"told\"", "\"test\""] {
                // Its own path is in each problem.
                assert!(
                    status >= 400 || !shown.contains(theirs),
                    "{method} {at} shows {theirs}: {shown}"
                );
            }
            if path.contains('{') {
                // What is wrong with the request as such may be told first; handlers' doors want a token.
                let closed =
                    matches!(status, 401 | 404) || matches!(status, 415 | 422 | 428) && has_body;
                assert!(closed, "{method} {at}: {status} {answer}");
                if status != 404 {
                    let code = answer["code"].as_str().unwrap_or_default();
                    assert!(
                        [
                            "invalid-token",
                            "unauthenticated",
                            "invalid-request",
                            "precondition-required"
                        ]
                        .contains(&code),
                        "{method} {at}: {answer}"
                    );
                }
            } else if method == "GET" && answer["data"].is_array() {
                let own = ["/v1/audit", "/v1/namespaces", "/v1/keys"].contains(&path.as_str());
                assert!(own || answer["data"] == json!([]), "{method} {at}: {answer}");
            }
            walked += 1;
        }
    }
    assert!(walked > 80, "{walked} operations");
    // And nothing has happened to any of it.
    assert_eq!(shop.done("GET", &format!("/v1/runs/{id}"), Value::Null).await, before);
    for path in
        ["/v1/endpoints/test", "/v1/schedules/nightly", "/v1/webhooks/told", "/v1/objects/o/k"]
    {
        shop.done("GET", path, Value::Null).await;
    }
    assert_eq!(
        shop.done("GET", "/v1/secrets", Value::Null).await["data"].as_array().map(Vec::len),
        Some(1)
    );
    shop.done("POST", &format!("/v1/runs/{id}/terminate"), json!({})).await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_namespace_has_in_hand_goes_beyond_its_quota_but_not_without_end() {
    let g = Gateway::closed().await;
    let root = operator(&g).await;
    root.done("POST", "/v1/namespaces", json!({"name": "shop", "limits": {"live_runs": 3}})).await;
    let shop = tenant(&root, "shop").await;
    let handler = Handler::serve(|it| {
        if it["function"] == "f" {
            return waits(it);
        }
        let child =
            |n: usize| json!({"op": "invoke", "id": format!("c{n}"), "function": "f", "input": n});
        let asked: Vec<Value> = (0..10).map(child).collect();
        json!({"ops": asked, "await": "c0"})
    })
    .await;
    let mut body = endpoint(&handler);
    let woken = json!({"name": "f", "triggers": [{"event": "go"}]});
    body["functions"] = json!([woken, {"name": "parent"}]);
    shop.done("POST", "/v1/endpoints", body).await;
    let parent = shop.done("POST", "/v1/functions/parent/runs", json!({})).await;
    let parent = parent["id"].as_str().expect("an id").to_owned();
    let refused = async || {
        let journal = shop.call("GET", &format!("/v1/runs/{parent}/journal"), json!(null)).await.1;
        let entries = journal["data"].as_array().cloned().unwrap_or_default();
        entries.iter().filter(|e| e["error"]["type"] == "quota-exceeded").count()
    };
    g.eventually("five of ten are too many", async |_| refused().await == 5).await;
    let live = shop
        .call("GET", "/v1/runs?status=waiting&status=queued&status=running", json!(null))
        .await
        .1;
    assert_eq!(live["data"].as_array().map(Vec::len), Some(6), "twice the quota: {live}");
    let event = shop.done("POST", "/v1/events", json!({"name": "go", "data": {}})).await;
    g.eventually("it is routed, and starts nothing", async |_| {
        let path = format!("/v1/events/{}", event["id"].as_str().unwrap_or_default());
        shop.call("GET", &path, json!(null)).await.1["routed"] == true
    })
    .await;
    assert_eq!(refused().await, 5);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_stays_within_its_quotas_and_others_do_not_feel_it() {
    let g = Gateway::closed().await;
    let root = operator(&g).await;
    let limits = json!({"live_runs": 3, "starts": "5/60s"});
    root.done("POST", "/v1/namespaces", json!({"name": "shop", "limits": limits})).await;
    root.done("POST", "/v1/namespaces", json!({"name": "free"})).await;
    let (shop, free) = (tenant(&root, "shop").await, tenant(&root, "free").await);
    let handler = Handler::serve(waits).await;
    for who in [&shop, &free] {
        who.done("POST", "/v1/endpoints", endpoint(&handler)).await;
    }
    let start = "/v1/functions/f/runs";
    let first = shop.done("POST", start, json!({"key": "k"})).await;
    let batch = json!({"runs": [{"function": "f"}, {"function": "f"}, {"function": "f"}]});
    let batch = shop.done("POST", "/v1/runs/batch", batch).await;
    assert_eq!(batch["data"][2]["problem"]["code"], "quota-exceeded", "{batch}");
    let (status, headers, problem) = shop.raw("POST", start, Some(json!({}))).await;
    assert_eq!(
        (status, &problem["code"], &problem["quota"]),
        (429, &json!("quota-exceeded"), &json!("live_runs"))
    );
    assert_eq!(headers["retry-after"], "1");
    // What is there already is found all the same, and others start as many as they like.
    let existing =
        shop.done("POST", start, json!({"key": "k", "if_running": "use_existing"})).await;
    assert_eq!(existing["id"], first["id"]);
    for _ in 0..8 {
        free.done("POST", start, json!({})).await;
    }
    // An end makes room, until the starts of a minute are used up.
    for run in [&first["id"], &batch["data"][0]["run"]["id"], &batch["data"][1]["run"]["id"]] {
        let run = run.as_str().unwrap_or_else(|| panic!("{batch}"));
        shop.done("POST", &format!("/v1/runs/{run}/terminate"), json!({})).await;
    }
    g.eventually("the starts are used up", async |_| {
        shop.call("POST", start, json!({})).await.1["quota"] == "starts"
    })
    .await;
    g.advance(Duration::from_secs(12));
    g.eventually("one more in twelve seconds", async |_| {
        shop.call("POST", start, json!({})).await.0 == 202
    })
    .await;
    assert_eq!(shop.call("POST", start, json!({})).await.0, 429, "and no other");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_and_receivers_are_where_a_namespace_may_have_them() {
    let g = Gateway::closed().await;
    let root = operator(&g).await;
    root.done(
        "POST",
        "/v1/namespaces",
        json!({"name": "shop", "hosts": ["*.example.com"], "limits": {"requests": "30/60s"}}),
    )
    .await;
    let shop = tenant(&root, "shop").await;
    let handler = Handler::serve(|call| match call["steps"].get("c") {
        Some(c) => json!({"result": c}),
        None => json!({"ops": [{"op": "call", "id": "c", "request": {"url": "http://localhost:1/x"}}], "await": "c"}),
    })
    .await;
    for (path, body) in [
        ("/v1/endpoints", endpoint(&handler)),
        ("/v1/webhooks", json!({"name": "w", "url": handler.url})),
    ] {
        let (status, problem) = shop.call("POST", path, body).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("#/url")), "{problem}");
        assert!(
            problem["detail"].as_str().is_some_and(|d| d.contains("*.example.com")),
            "{problem}"
        );
    }
    // A handler that fetches its work is at no host.
    let far = json!({"name": "far", "pull": true, "functions": [{"name": "g"}]});
    shop.done("POST", "/v1/endpoints", far).await;
    root.done("PATCH", "/v1/namespaces/shop", json!({"hosts": ["127.0.0.1"]})).await;
    shop.done("POST", "/v1/endpoints", endpoint(&handler)).await;
    // What is in use is not taken away.
    let (status, problem) =
        root.call("PATCH", "/v1/namespaces/shop", json!({"hosts": ["a.example.com"]})).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("#/hosts")), "{problem}");
    // A call of a run is refused like a handler.
    let run = shop.done("POST", "/v1/functions/f/runs", json!({})).await;
    let run = format!("/v1/runs/{}", run["id"].as_str().expect("an id"));
    g.eventually("it ends", async |_| {
        let view = shop.done("GET", &run, Value::Null).await;
        view["output"]["error"]["type"] == "address-refused"
    })
    .await;
    // All its credentials share what the namespace may send.
    let second = tenant(&root, "shop").await;
    let mut last = shop.raw("GET", "/v1/runs", None).await;
    for _ in 0..30 {
        last = second.raw("GET", "/v1/runs", None).await;
    }
    assert_eq!((last.0, &last.2["code"]), (429, &json!("too-many-requests")));
    assert_eq!(last.1["ratelimit-policy"], "\"namespace\";q=30;w=60");
    assert_eq!(root.call("GET", "/v1/runs", Value::Null).await.0, 200);
    g.close().await;
}
