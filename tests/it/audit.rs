//! The audit log: who did what, from where, why, and what came of it.

use std::time::Duration;

use serde_json::{Value, json};
use stepwell::engine::{Scope, Scopes, bootstrap_key};

use crate::gateway::{Gateway, Handler};

#[tokio::test(flavor = "multi_thread")]
async fn every_change_has_an_entry_with_its_result() {
    let g = Gateway::closed().await;
    let (mut bearers, kinds) = (Vec::new(), [("ops", Scope::Admin), ("reader", Scope::RunsRead)]);
    for (name, scope) in kinds {
        let scopes: Scopes = [scope].into_iter().collect();
        let key = bootstrap_key(&g.db.store, name, scopes).await.expect("a key").1;
        bearers.push(format!("Bearer {key}"));
    }
    let call = async |who: usize, method: &str, path: &str, body: Option<Value>| {
        // Entries of one millisecond have no order.
        g.advance(Duration::from_millis(1));
        let headers = [("authorization", &*bearers[who]), ("x-request-id", "req-7")];
        let (status, _, text) = g.raw(method, path, &headers, body.map(|b| b.to_string())).await;
        (status, serde_json::from_slice::<Value>(&text).unwrap_or(Value::Null))
    };
    let handler = Handler::serve(|_| json!({"result": 1})).await;
    let endpoint = json!({"name": "shop", "url": handler.url, "functions": [{"name": "f"}], "discover": false});
    assert_eq!(call(0, "POST", "/v1/endpoints", Some(endpoint)).await.0, 201);
    let (status, run) = call(0, "POST", "/v1/functions/f/runs?wait=20s", Some(json!({}))).await;
    assert_eq!(status, 200, "{run}");
    let id = run["id"].as_str().expect("an id").to_owned();
    let why = json!({"reason": "a deploy"});
    for act in ["drain", "disable", "enable", "prune"] {
        let path = format!("/v1/endpoints/shop/{act}");
        assert_eq!(call(0, "POST", &path, Some(why.clone())).await.0, 200, "{act}");
    }
    let cancel = format!("/v1/runs/{id}/cancel");
    let (status, late) = call(0, "POST", &cancel, Some(json!({}))).await;
    assert!(status >= 400, "{late}");
    assert_eq!(
        call(1, "POST", "/v1/keys", Some(json!({"name": "x", "scopes": ["admin"]}))).await.0,
        403
    );
    assert_eq!(call(1, "GET", "/v1/runs", None).await.0, 200);
    assert_eq!(g.call("POST", "/v1/keys", Some(json!({}))).await.0, 401);

    let list = async |query: &str| {
        let (status, page) = call(0, "GET", &format!("/v1/audit?{query}"), None).await;
        assert_eq!(status, 200, "{page}");
        page["data"].as_array().expect("a list").clone()
    };
    let told = |entries: &[Value]| -> Vec<(String, u64)> {
        let one = |e: &Value| {
            (
                e["action"].as_str().expect("a text").to_owned(),
                e["status"].as_u64().expect("a number"),
            )
        };
        entries.iter().rev().map(one).collect()
    };
    let on = |act: &str| format!("POST /v1/endpoints/{{endpoint}}/{act}");
    let all = list("").await;
    let wanted = [
        ("POST /v1/endpoints".to_owned(), 201),
        (on("drain"), 200),
        (on("disable"), 200),
        (on("enable"), 200),
        (on("prune"), 200),
        ("POST /v1/runs/{id}/cancel".to_owned(), u64::from(status)),
        ("POST /v1/keys".to_owned(), 403),
    ];
    assert_eq!(told(&all), wanted, "reads, starts and strangers are not there");
    let drained = &all[5];
    assert_eq!(
        (&drained["by"], &drained["reason"], &drained["target"], &drained["request_id"]),
        (&json!("ops"), &json!("a deploy"), &json!("/v1/endpoints/shop/drain"), &json!("req-7"))
    );
    assert_eq!((&drained["from"], &drained["code"]), (&json!("127.0.0.1"), &Value::Null));
    let denied = list("by=reader").await;
    assert_eq!((denied.len(), &denied[0]["code"]), (1, &json!("missing-scope")));
    let of_run = list(&format!("target=/v1/runs/{id}")).await;
    assert_eq!((of_run.len(), &of_run[0]["code"]), (1, &late["code"]));
    assert_eq!(list("action=POST%20/v1/endpoints").await.len(), 1);
    assert_eq!(list(&format!("until={}", g.moment(0))).await.len(), 0);
    assert_eq!(list(&format!("since={}", g.moment(0))).await.len(), 7);
    // Pages follow each other, the newest first.
    let (mut seen, mut query) = (Vec::new(), "limit=3".to_owned());
    loop {
        let (_, page) = call(0, "GET", &format!("/v1/audit?{query}"), None).await;
        seen.extend(page["data"].as_array().expect("a list").clone());
        match page["next_cursor"].as_str() {
            Some(next) => query = format!("limit=3&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, all);
    assert_eq!(call(1, "GET", "/v1/audit", None).await.0, 403, "it is for who may do everything");
    g.close().await;
}
