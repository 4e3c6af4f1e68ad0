//! API keys: who may do what, in which namespace, and until when.

use serde_json::{Value, json};
use stepwell::engine::{Scope, Scopes, bootstrap_key};

use crate::gateway::{Gateway, Handler};

async fn call(
    g: &Gateway,
    key: &str,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> (u16, Value) {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", &*bearer)];
    let (status, headers, text) = g.raw(method, path, &headers, body.map(|b| b.to_string())).await;
    assert_eq!(status == 401, headers.contains_key("www-authenticate"), "{method} {path}");
    (status, serde_json::from_slice(&text).unwrap_or(Value::Null))
}

async fn key(g: &Gateway, scopes: &[Scope]) -> String {
    let scopes: Scopes = scopes.iter().copied().collect();
    bootstrap_key(&g.db.store, "test key", scopes).await.expect("a key").1
}

#[tokio::test(flavor = "multi_thread")]
async fn each_scope_opens_what_it_names_and_nothing_else() {
    let g = Gateway::closed().await;
    let admin = key(&g, &[Scope::Admin]).await;
    let handler = Handler::serve(
        |_| json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"}),
    )
    .await;
    let endpoint = json!({"name": "test", "url": handler.url, "functions": [{"name": "f"}], "discover": false});
    let (status, made) = call(&g, &admin, "POST", "/v1/endpoints", Some(endpoint.clone())).await;
    assert_eq!(status, 201, "{made}");
    let (status, run) = call(&g, &admin, "POST", "/v1/functions/f/runs", Some(json!({}))).await;
    assert_eq!(status, 202, "{run}");
    let run = run["id"].as_str().expect("an id").to_owned();
    let calls: Vec<(&str, String, Option<Value>, Scope)> = vec![
        ("GET", "/v1/runs".to_owned(), None, Scope::RunsRead),
        ("GET", format!("/v1/runs/{run}"), None, Scope::RunsRead),
        ("GET", format!("/v1/runs/{run}/journal"), None, Scope::RunsRead),
        ("GET", format!("/v1/runs/{run}/history"), None, Scope::RunsRead),
        ("GET", format!("/v1/runs/{run}/signals"), None, Scope::RunsRead),
        ("GET", "/v1/endpoints".to_owned(), None, Scope::RunsRead),
        ("GET", "/v1/functions".to_owned(), None, Scope::RunsRead),
        ("POST", "/v1/functions/f/runs".to_owned(), Some(json!({})), Scope::RunsWrite),
        ("POST", format!("/v1/runs/{run}/pause"), None, Scope::RunsWrite),
        ("POST", format!("/v1/runs/{run}/resume"), None, Scope::RunsWrite),
        ("POST", format!("/v1/runs/{run}/signals/x"), None, Scope::SignalsWrite),
        ("POST", "/v1/endpoints".to_owned(), Some(endpoint), Scope::EndpointsWrite),
        ("POST", "/v1/endpoints/test/rotate-secret".to_owned(), None, Scope::EndpointsWrite),
        ("GET", "/v1/secrets".to_owned(), None, Scope::EndpointsWrite),
        (
            "POST",
            "/v1/secrets".to_owned(),
            Some(json!({"name": "s", "value": "v"})),
            Scope::EndpointsWrite,
        ),
        ("GET", "/v1/keys".to_owned(), None, Scope::Admin),
        (
            "POST",
            "/v1/keys".to_owned(),
            Some(json!({"name": "n", "scopes": ["runs:read"]})),
            Scope::Admin,
        ),
    ];
    let scopes = [
        Scope::RunsRead,
        Scope::RunsWrite,
        Scope::SignalsWrite,
        Scope::EndpointsWrite,
        Scope::Admin,
    ];
    for scope in scopes {
        let key = key(&g, &[scope]).await;
        for (method, path, body, needs) in &calls {
            let (status, answer) = call(&g, &key, method, path, body.clone()).await;
            let writes = matches!(scope, Scope::RunsWrite | Scope::EndpointsWrite);
            if scope == *needs || scope == Scope::Admin || (writes && *needs == Scope::RunsRead) {
                assert!(
                    (200..300).contains(&status),
                    "{scope:?} {method} {path}: {status} {answer}"
                );
            } else {
                assert_eq!(
                    (status, &answer["code"]),
                    (403, &json!("missing-scope")),
                    "{scope:?} {method} {path}"
                );
                assert_eq!(answer["scope"], needs.word());
            }
        }
    }
    let (_, history) =
        call(&g, &admin, "GET", &format!("/v1/runs/{run}/history?limit=200"), None).await;
    let paused =
        history["data"].as_array().expect("a list").iter().find(|e| e["type"] == "run.paused");
    assert_eq!(paused.expect("it was")["by"], "test key");
    let _ = call(&g, &admin, "POST", &format!("/v1/runs/{run}/terminate"), None).await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_a_wrong_one_and_a_revoked_one_are_all_refused() {
    let g = Gateway::closed().await;
    let admin = key(&g, &[Scope::Admin]).await;
    let (status, code, _) = g.refused("GET", "/v1/runs", None).await;
    assert_eq!((status, &*code), (401, "unauthenticated"));
    let (_, made) =
        call(&g, &admin, "POST", "/v1/keys", Some(json!({"name": "ci", "scopes": ["runs:read"]})))
            .await;
    let (id, secret) =
        (made["id"].as_str().expect("an id"), made["secret"].as_str().expect("shown once"));
    assert_eq!(call(&g, secret, "GET", "/v1/runs", None).await.0, 200);
    let mut wrong = secret.to_owned();
    let last = wrong.pop().expect("not empty");
    wrong.push(if last == 'a' { 'b' } else { 'a' });
    for bad in [&*wrong, "sw_", "sw_dev_x", "nonsense", id] {
        assert_eq!(call(&g, bad, "GET", "/v1/runs", None).await.0, 401, "{bad}");
    }
    for header in ["Basic abc", "Bearer", "Bearer "] {
        let headers = [("authorization", header)];
        assert_eq!(g.raw("GET", "/v1/runs", &headers, None).await.0, 401, "{header}");
    }
    let (_, listed) = call(&g, &admin, "GET", "/v1/keys", None).await;
    assert!(!listed.to_string().contains(secret), "a secret is shown once");
    let path = format!("/v1/keys/{id}");
    assert_eq!(call(&g, &admin, "DELETE", &path, None).await.0, 204);
    assert_eq!(call(&g, secret, "GET", "/v1/runs", None).await.0, 401, "at once on this node");
    assert_eq!(call(&g, &admin, "DELETE", &path, None).await.0, 204, "again is no error");
    assert_eq!(
        call(&g, &admin, "DELETE", "/v1/keys/key_01k9c3v5h2e8x8p0m4s6t7w9yz", None).await.0,
        404
    );
    for (body, pointer) in [
        (json!({"name": "x", "scopes": ["everything"]}), "#/scopes"),
        (json!({"name": "x", "scopes": []}), "#/scopes"),
        (json!({"scopes": ["admin"]}), "#/name"),
    ] {
        let (status, problem) = call(&g, &admin, "POST", "/v1/keys", Some(body)).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)));
    }
    for open in ["/healthz", "/readyz", "/openapi.json", "/llms.txt", "/problems/run-exists"] {
        assert_eq!(g.raw("GET", open, &[], None).await.0, 200, "{open} needs no key");
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_another_namespace_is_not_there() {
    let g = Gateway::start().await;
    let handler = Handler::serve(
        |_| json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"}),
    )
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({"key": "k"})).await;
    let run_id = run.parse().expect("an id");
    let other = stepwell::engine::Namespace { id: 2, name: "other".to_owned() };
    let refused = g.engine.view(&other, run_id).await;
    assert!(matches!(refused, Err(stepwell::engine::Error::RunNotFound(_))), "{refused:?}");
    let signal = g.engine.signal(&other, run_id, "s", "1".into(), None, "x").await;
    assert!(matches!(signal, Err(stepwell::engine::Error::RunNotFound(_))), "{signal:?}");
    let journal = g.engine.journal(&other, run_id, 0, 10).await;
    assert!(journal.is_err());
    let listed =
        g.engine.list(&other, stepwell::engine::RunFilter::default()).await.expect("a list");
    assert!(listed.runs.is_empty());
    g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
    g.close().await;
}

// P2.3
#[tokio::test(flavor = "multi_thread")]
async fn who_holds_no_secret_verifies_with_the_public_key() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let g = Gateway::closed().await;
    let admin = key(&g, &[Scope::Admin]).await;
    let handler = Handler::serve(|_| json!({"result": 1})).await;
    let endpoint = json!({"name": "test", "url": handler.url, "functions": [{"name": "f"}], "discover": false});
    let (status, made) = call(&g, &admin, "POST", "/v1/endpoints", Some(endpoint)).await;
    assert_eq!(status, 201, "{made}");
    let start = call(&g, &admin, "POST", "/v1/functions/f/runs?wait=20s", Some(json!({})));
    assert_eq!(start.await.0, 200);
    // Anybody may have the key.
    let set = g.http.get(format!("{}/.well-known/jwks.json", g.url)).send().await.expect("sent");
    let set: Value = serde_json::from_slice(&set.bytes().await.expect("a body")).expect("JSON");
    let public = &set["keys"][0];
    assert_eq!((&public["kty"], &public["crv"]), (&json!("OKP"), &json!("Ed25519")), "{set}");
    let public = URL_SAFE_NO_PAD.decode(public["x"].as_str().expect("a key")).expect("base64");
    let public = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public);
    let requests = handler.requests();
    assert!(!requests.is_empty());
    for (headers, body) in requests {
        let text = |name: &str| headers[name].to_str().expect("ASCII").to_owned();
        let signatures = text("webhook-signature");
        let mut signatures = signatures.split(' ');
        assert!(signatures.clone().any(|s| s.starts_with("v1,")), "the secret's is there too");
        let signature = signatures.find_map(|s| s.strip_prefix("v1a,")).expect("a public one");
        let signature = STANDARD.decode(signature).expect("base64");
        let mut signed =
            format!("{}.{}.", text("webhook-id"), text("webhook-timestamp")).into_bytes();
        signed.extend_from_slice(&body);
        public.verify(&signed, &signature).expect("it fits");
        signed.push(b' ');
        assert!(public.verify(&signed, &signature).is_err());
    }
    g.close().await;
}
