//! Limits of the API: by credential, by address, and what is not counted.

use std::time::Duration;

use axum::http::HeaderMap;
use serde_json::{Value, json};
use stepwell::api::RateLimits;
use stepwell::engine::{Scope, bootstrap_key};

use crate::gateway::{Gateway, Handler};

async fn limited(key: &str, address: &str) -> Gateway {
    let allowance = |text: &str| Some(text.parse().expect("an allowance"));
    Gateway::with_rates(RateLimits { key: allowance(key), address: allowance(address) }).await
}

async fn key(g: &Gateway, name: &str) -> String {
    let scopes = [Scope::Admin].into_iter().collect();
    bootstrap_key(&g.db.store, name, scopes).await.expect("a key").1
}

async fn ask(g: &Gateway, key: &str, path: &str) -> (u16, HeaderMap, Value) {
    let bearer = format!("Bearer {key}");
    let (status, headers, text) = g.raw("GET", path, &[("authorization", &*bearer)], None).await;
    (status, headers, serde_json::from_slice(&text).unwrap_or(Value::Null))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |v| v.to_str().expect("ASCII"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_told_what_is_left_and_refused_beyond_it() {
    let g = limited("5/10s", "100/10s").await;
    let (one, two) = (key(&g, "same name").await, key(&g, "same name").await);
    for left in (0..5).rev() {
        let (status, headers, _) = ask(&g, &one, "/v1/runs").await;
        assert_eq!(status, 200);
        assert_eq!(header(&headers, "ratelimit-policy"), "\"key\";q=5;w=10");
        assert_eq!(header(&headers, "ratelimit"), format!("\"key\";r={left};t={}", (5 - left) * 2));
    }
    // Whatever it asks for, and before anything is done.
    for path in ["/v1/runs", "/v1/endpoints/none", "/v1/runs/run_01jd0000000000000000000000"] {
        let (status, headers, problem) = ask(&g, &one, path).await;
        assert_eq!((status, &problem["code"]), (429, &json!("too-many-requests")), "{path}");
        assert_eq!((header(&headers, "retry-after"), &problem["retry"]), ("2", &json!("safe")));
        assert_eq!(header(&headers, "ratelimit"), "\"key\";r=0;t=10");
    }
    // Another key of the same name has a bucket of its own.
    assert_eq!(ask(&g, &two, "/v1/runs").await.0, 200);
    // It fills up evenly.
    g.advance(Duration::from_secs(4));
    assert_eq!(ask(&g, &one, "/v1/runs").await.0, 200);
    assert_eq!(ask(&g, &one, "/v1/runs").await.0, 200);
    assert_eq!(ask(&g, &one, "/v1/runs").await.0, 429);
    // Pages are for everybody.
    assert_eq!(g.raw("GET", "/healthz", &[], None).await.0, 200);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_is_kept_out_and_who_is_known_goes_on() {
    let g = limited("1000/1s", "3/60s").await;
    let (known, fresh) = (key(&g, "known").await, key(&g, "fresh").await);
    assert_eq!(ask(&g, &known, "/v1/runs").await.0, 200);
    for bad in ["sw_live_wrong", "neither"] {
        let (status, headers, _) = ask(&g, bad, "/v1/runs").await;
        assert_eq!(status, 401);
        assert_eq!(header(&headers, "ratelimit"), "", "a stranger is told nothing");
    }
    // An address of a callback that is none is a guess too.
    let guess = |g: &Gateway| {
        let (http, url) = (g.http.clone(), format!("{}/v1/callbacks/guess/s", g.url));
        async move { http.post(url).body("1").send().await.expect("sent").status().as_u16() }
    };
    assert_eq!(guess(&g).await, 404);
    assert_eq!(guess(&g).await, 429);
    for bad in ["sw_live_wrong", "neither", &fresh] {
        let (status, headers, problem) = ask(&g, bad, "/v1/runs").await;
        assert_eq!((status, &problem["code"]), (429, &json!("too-many-requests")), "{bad}");
        assert_eq!(header(&headers, "retry-after"), "20");
    }
    assert_eq!(g.raw("GET", "/v1/runs", &[], None).await.0, 429, "no key at all");
    assert_eq!(ask(&g, &known, "/v1/runs").await.0, 200, "who was let in before");
    g.advance(Duration::from_secs(20));
    assert_eq!(ask(&g, &fresh, "/v1/runs").await.0, 200);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_sends_for_its_run_is_not_counted() {
    let g = limited("8/60s", "2/60s").await;
    let admin = key(&g, "admin").await;
    let handler =
        Handler::serve(|_| json!({"ops": [{"op": "callback", "id": "c"}], "await": "c"})).await;
    let bearer = format!("Bearer {admin}");
    let admin = [("authorization", &*bearer)];
    let endpoint = json!({"name": "test", "url": handler.url, "functions": [{"name": "f"}], "discover": false});
    assert_eq!(g.raw("POST", "/v1/endpoints", &admin, Some(endpoint.to_string())).await.0, 201);
    assert_eq!(g.raw("POST", "/v1/functions/f/runs", &admin, Some("{}".to_owned())).await.0, 202);
    let invocation = g.invoked(&handler, 1).await;
    let (run, token) = (invocation["run"]["id"].as_str(), invocation["token"].as_str());
    let (run, token) = (run.expect("an id"), token.expect("a token"));
    let journal = format!("/v1/runs/{run}/journal");
    for _ in 0..12 {
        assert_eq!(ask(&g, token, &journal).await.0, 200);
    }
    // A token that opens nothing is a guess: the second one is the last.
    for expected in [401, 401, 429] {
        assert_eq!(ask(&g, "eyJ.not.one", &journal).await.0, expected);
    }
    assert_eq!(ask(&g, token, &journal).await.0, 200, "from the same address");
    // The address of a callback is a credential, with a bucket of its own.
    let callback = invocation["links"]["callback"].as_str().expect("a URL");
    let path = callback.strip_prefix(&g.url).expect("it is of this gateway");
    let settled = g.raw("POST", &format!("{path}c"), &[], Some("1".to_owned())).await;
    assert_eq!(settled.0, 204);
    assert_eq!(header(&settled.1, "ratelimit"), "\"key\";r=7;t=8");
    let terminate = format!("/v1/runs/{run}/terminate");
    let _ = g.raw("POST", &terminate, &admin, None).await;
    g.close().await;
}
