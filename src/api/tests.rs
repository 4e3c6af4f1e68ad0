//! The router as a whole: statuses, the order of checks, problems, and that the reference is true.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{ApiState, Code, generated, openapi, router};
use crate::engine::{Caller, Engine, Namespace, Scopes};

/// An engine that says `unavailable` to everything: these tests are about what comes before it.
pub(super) fn engine() -> Engine {
    Engine::without_database()
}

/// The state over an engine that says `unavailable` to everything, and lets this machine in.
fn state() -> ApiState {
    let namespace = Namespace { id: 1, name: "default".to_owned() };
    let caller = Caller { namespace, by: "local".to_owned(), scopes: Scopes::ALL };
    let mut state = ApiState::new(engine(), CancellationToken::new());
    // There is no database here that could take a note; what is refused before is looked at.
    state.audited = false;
    state.without_keys_on_loopback(caller)
}

const RUN: &str = "/v1/runs/run_01jd0000000000000000000000";

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// The code of the problem, after a check that it is whole.
    fn code(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let json = self.json();
        let code = json["code"].as_str().expect("a code");
        assert_eq!(json["type"], format!("/problems/{code}"));
        assert_eq!(json["status"], self.status.as_u16());
        assert_eq!(json["request_id"], self.headers["x-request-id"].to_str().expect("text"));
        for member in ["title", "detail", "instance", "retry"] {
            assert!(json[member].is_string(), "{member} of {json}");
        }
        code.to_owned()
    }
}

fn request(
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Request<Body> {
    let method: Method = method.parse().expect("a method");
    let mut request = Request::builder().method(method).uri(uri).header("host", "localhost:8484");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(body.into()).expect("a request");
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 4000))));
    request
}

async fn sent(request: Request<Body>) -> Answer {
    sent_to(state(), request).await
}

async fn sent_to(state: ApiState, request: Request<Body>) -> Answer {
    let response = router(state).oneshot(request).await.expect("never fails");
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 16 << 20).await.expect("a body").to_vec();
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn ask(method: &str, uri: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    sent(request(method, uri, headers, body.to_owned())).await
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn what_is_not_there_and_what_does_not_fit_are_problems() {
    let answer = ask("GET", "/v1/nothing", &[], "").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "not-found"));
    assert_eq!(answer.json()["instance"], "/v1/nothing");
    let answer = ask("PUT", "/v1/runs", &[], "").await;
    assert_eq!(answer.code(), "method-not-allowed");
    assert_eq!(answer.headers["allow"], "GET,HEAD");
    let answer = ask("GET", &format!("{RUN}/cancel"), &[], "").await;
    assert_eq!(
        (answer.code().as_str(), &answer.headers["allow"]),
        ("method-not-allowed", &"POST".parse().expect("a header"))
    );
    let answer = ask("GET", "/v1/runs/run_7", &[], "").await;
    assert_eq!(answer.code(), "run-not-found");
    let answer = ask("GET", "/v1/functions/%ff", &[], "").await;
    assert_eq!(answer.code(), "malformed-request");
}

#[tokio::test]
async fn checks_come_in_their_order() {
    let big = "x".repeat((1 << 20) + (64 << 10) + 1);
    let start = "/v1/functions/f/runs";
    let text = ("content-type", "text/plain");
    for (method, uri, kind, body, code) in [
        ("POST", "/v1/nothing", text, big.as_str(), "payload-too-large"),
        ("PUT", start, text, big.as_str(), "payload-too-large"),
        ("PUT", start, text, "{", "method-not-allowed"),
        ("POST", start, text, "{", "unsupported-media-type"),
        ("POST", "/v1/functions/f/runs?x=1", text, "{", "unsupported-media-type"),
        ("POST", "/v1/functions/f/runs?x=1", JSON, "{\"key\": 5}", "invalid-query"),
        ("POST", start, JSON, "{", "malformed-json"),
        ("POST", start, JSON, "{\"key\": 5}", "invalid-request"),
        ("POST", start, JSON, "{\"input\": 5}", "unavailable"),
        ("POST", start, text, "", "unavailable"),
    ] {
        let length = body.len().to_string();
        let answer = ask(method, uri, &[kind, ("content-length", &length)], body).await;
        assert_eq!(answer.code(), code, "{method} {uri} {}", &body[..body.len().min(20)]);
    }
    // Without a length it is found while it is read.
    let answer = ask("POST", start, &[JSON], &big).await;
    assert_eq!(answer.code(), "payload-too-large");
    let input = format!("{{\"input\": \"{}\"}}", "x".repeat(1 << 20));
    let answer = ask("POST", start, &[JSON], &input).await;
    assert_eq!(answer.code(), "payload-too-large");
    assert!(
        answer.json()["detail"]
            .as_str()
            .is_some_and(|d| d.contains("`input`") && d.contains("1048576"))
    );
    // And what is over the limits of the head.
    let answer = ask("GET", &format!("/v1/runs?q={}", "x".repeat(9000)), &[], "").await;
    assert_eq!(answer.code(), "uri-too-long");
    let answer = ask("GET", "/v1/runs", &[("x-a", &"x".repeat(17_000))], "").await;
    assert_eq!(answer.code(), "headers-too-large");
}

#[tokio::test]
async fn every_fault_of_a_start_is_told_at_once() {
    let body = r#"{"inputt": 1, "if_running": "maybe", "delay": "soon", "tags": {"a": 5},
        "retry": {"max_attemps": 3}, "timeouts": {"run": "1x"}, "version": "v1", "signal": {}}"#;
    let answer = ask("POST", "/v1/functions/f/runs", &[JSON], body).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, "invalid-request")
    );
    let json = answer.json();
    let mut pointers: Vec<&str> = json["errors"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|e| e["pointer"].as_str())
        .collect();
    pointers.sort_unstable();
    assert_eq!(
        pointers,
        [
            "#/delay",
            "#/if_running",
            "#/inputt",
            "#/retry/max_attemps",
            "#/signal/name",
            "#/tags",
            "#/timeouts/run",
            "#/version"
        ]
    );
}

#[tokio::test]
async fn who_has_no_key_gets_nothing() {
    let foreign = |uri: &str| {
        let mut request = request("GET", uri, &[], "");
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 7], 4000))));
        request
    };
    let answer = sent(foreign("/v1/runs")).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (StatusCode::UNAUTHORIZED, "unauthenticated")
    );
    assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"stepwell\"");
    assert_eq!(sent(foreign("/healthz")).await.status, StatusCode::OK);
    // A proxy on this machine speaks for others.
    let answer = ask("GET", "/v1/runs", &[("x-forwarded-for", "192.0.2.7")], "").await;
    assert_eq!(answer.code(), "unauthenticated");
    // A browser speaks for any page.
    let evil = ("origin", "https://evil.example");
    let answer = ask("POST", &format!("{RUN}/cancel"), &[evil], "").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "cross-origin"));
    let answer = ask("GET", "/v1/runs", &[("authorization", "Basic eDp5")], "").await;
    assert_eq!(answer.code(), "unauthenticated");
    // A handler's token opens what handlers read, and nothing else.
    let token = ("authorization", "Bearer abc");
    assert_eq!(ask("GET", "/v1/runs", &[token], "").await.code(), "unauthenticated");
    assert_eq!(ask("GET", &format!("{RUN}/journal"), &[token], "").await.code(), "invalid-token");
    // Whoever says to be a node has to show it.
    let answer = ask("GET", "/v1/runs", &[("stepwell-node", "x")], "").await;
    assert_eq!(answer.code(), "unauthenticated");
}

#[tokio::test]
async fn every_call_but_callbacks_needs_a_caller() {
    let closed = || ApiState::new(engine(), CancellationToken::new()).with_closed_metrics();
    for (path, method, op) in operations() {
        let answer = sent_to(closed(), request(&method, &example(&path), &[JSON], "")).await;
        let open =
            !path.starts_with("/v1/") && path != "/metrics" || path.starts_with("/v1/callbacks/");
        assert_eq!(
            answer.status == StatusCode::UNAUTHORIZED,
            !open,
            "{method} {path}: {}",
            answer.status
        );
        let says = op["security"].as_array();
        let says_open = says.is_some_and(|s| {
            s.iter().any(|s| s.as_object().is_some_and(serde_json::Map::is_empty))
        });
        assert_eq!(says_open, open || path == "/metrics", "{method} {path}");
    }
}

#[tokio::test]
async fn a_scope_that_is_missing_is_named() {
    let mut state = state();
    let caller = state.local.as_mut().expect("set above");
    caller.scopes = [crate::engine::Scope::RunsRead].into_iter().collect();
    let answer = sent_to(state.clone(), request("POST", &format!("{RUN}/cancel"), &[], "")).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "missing-scope"));
    assert_eq!(answer.json()["scope"], "runs:write");
    let answer = sent_to(state, request("GET", RUN, &[], "")).await;
    assert_eq!(answer.code(), "unavailable");
}

#[tokio::test]
async fn a_request_id_is_taken_if_sane() {
    let id = |value: &'static str| async move {
        let answer = ask("GET", "/healthz", &[("x-request-id", value)], "").await;
        answer.headers["x-request-id"].to_str().expect("text").to_owned()
    };
    assert_eq!(id("abc-1.2:3_X").await, "abc-1.2:3_X");
    assert!(id("a b").await.starts_with("req_"));
    assert!(id("").await.starts_with("req_"));
    assert_ne!(id("\"").await, id("\"").await);
}

#[tokio::test]
async fn a_callback_takes_json_of_any_type_and_keeps_its_secret() {
    let at = "/v1/callbacks/s3cret/map/3%2Fpay";
    assert_eq!(ask("POST", at, &[], "{\"ok\": true}").await.code(), "callback-not-found");
    let answer = ask("POST", at, &[], "ok=true").await;
    assert_eq!(answer.code(), "malformed-json");
    assert!(!String::from_utf8_lossy(&answer.body).contains("s3cret"));
    assert_eq!(ask("POST", at, &[], "").await.code(), "malformed-json");
    let heartbeat = format!("{at}?outcome=heartbeat");
    assert_eq!(ask("POST", &heartbeat, &[], "").await.code(), "callback-not-found");
    let error = format!("{at}?outcome=error");
    assert_eq!(ask("POST", &error, &[], "5").await.code(), "invalid-request");
    let odd = format!("{at}?outcome=perhaps");
    assert_eq!(ask("POST", &odd, &[], "5").await.code(), "invalid-query");
}

#[tokio::test]
async fn a_panic_is_a_clean_500() {
    async fn boom() {
        panic!("a secret of the inside");
    }
    let router = axum::Router::new()
        .route("/boom", axum::routing::get(boom))
        .layer(axum::middleware::from_fn(super::edge::edge));
    let response = router.oneshot(request("GET", "/boom", &[], "")).await.expect("never fails");
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body = axum::body::to_bytes(response.into_body(), 10_000).await.expect("a body");
    let json: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((json["code"].as_str(), json["retry"].as_str()), (Some("internal"), Some("unsafe")));
    assert!(!json.to_string().contains("secret of the inside"));
}

#[tokio::test]
async fn pages_come_with_their_policy() {
    for page in ["/", "/docs", "/problems", "/problems/run-exists"] {
        let answer = ask("GET", page, &[], "").await;
        assert_eq!(answer.status, StatusCode::OK, "{page}");
        assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8");
        let csp = answer.headers["content-security-policy"].to_str().expect("text");
        assert!(csp.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"));
        assert!(csp.contains("frame-ancestors 'none'"));
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer");
    }
    for code in Code::ALL {
        let answer = ask("GET", &format!("/problems/{}", code.slug()), &[], "").await;
        let text = String::from_utf8(answer.body).expect("UTF-8");
        assert!(text.contains("<h2>What to do</h2>") && text.contains(code.title()), "{text}");
    }
    assert_eq!(ask("GET", "/problems/nonsense", &[], "").await.code(), "not-found");
    assert_eq!(ask("HEAD", "/docs", &[], "").await.status, StatusCode::OK);
}

/// Every operation of the description: path, method, itself.
fn operations() -> Vec<(String, String, Value)> {
    let doc: Value = serde_json::from_str(&state().reference.json).expect("JSON");
    let mut all = Vec::new();
    for (path, item) in doc["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("an item") {
            all.push((path.clone(), method.to_uppercase(), operation.clone()));
        }
    }
    assert!(all.len() > 40, "{} operations", all.len());
    all
}

fn example(path: &str) -> String {
    path.replace("/runs/{id}", "/runs/run_01jd0000000000000000000000")
        .replace("/keys/{id}", "/keys/key_01jd0000000000000000000000")
        .replace("/bulk/{id}", "/bulk/blk_01jd0000000000000000000000")
        .replace("{fingerprint}", "8f3c02ab77de81408f3c02ab77de8140")
        .replace("{code}", "internal")
        .replace("{file}", "style.css")
        .replace(['{', '}'], "")
}

#[tokio::test]
async fn every_documented_call_is_there_and_answers_as_documented() {
    let mut ids = std::collections::BTreeSet::new();
    for (path, method, operation) in operations() {
        let id = operation["operationId"].as_str().expect("an id").to_owned();
        assert!(ids.insert(id.clone()), "{id} is there twice");
        assert!(operation["summary"].is_string(), "{id} says what it does");
        let body = if operation.get("requestBody").is_some() { "{}" } else { "" };
        for (headers, body) in [
            (vec![JSON], body),
            (vec![("content-type", "x/y")], "x"),
            (vec![JSON], "{"),
            (vec![JSON], "[]"),
        ] {
            let has_body = matches!(method.as_str(), "POST");
            let body = if has_body { body } else { "" };
            let answer = ask(&method, &example(&path), &headers, body).await;
            let status = answer.status.as_u16().to_string();
            assert!(
                operation["responses"].get(&status).is_some(),
                "{method} {path}: {status} is not documented"
            );
            assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
            if answer.status.is_client_error() || answer.status.is_server_error() {
                let code = answer.code();
                let codes = operation["x-problems"].as_array().expect("a list");
                assert!(codes.iter().any(|c| *c == code), "{method} {path}: {code}");
            }
        }
    }
}

#[tokio::test]
async fn every_documented_parameter_is_known_and_no_other() {
    for (path, method, operation) in operations() {
        if !path.starts_with("/v1/") {
            continue;
        }
        let body = if path.starts_with("/v1/callbacks/") { "{}" } else { "" };
        let unknown = format!("{}?zz=1", example(&path));
        assert_eq!(
            ask(&method, &unknown, &[], body).await.code(),
            "invalid-query",
            "{method} {path}"
        );
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        for name in
            parameters.iter().filter(|p| p["in"] == "query").filter_map(|p| p["name"].as_str())
        {
            let uri = format!("{}?{name}=%00", example(&path));
            let answer = ask(&method, &uri, &[], body).await;
            let text = String::from_utf8(answer.body).expect("UTF-8");
            assert!(!text.contains("unknown parameter"), "{method} {path} ?{name}: {text}");
        }
    }
}

#[tokio::test]
async fn every_documented_field_is_known() {
    let doc: Value = serde_json::from_str(&state().reference.json).expect("JSON");
    let named = |schema: &Value| -> Option<String> {
        let schema = if schema["$ref"].is_string() {
            schema
        } else {
            schema["oneOf"].as_array()?.iter().find(|s| s["$ref"].is_string())?
        };
        schema["$ref"].as_str()?.rsplit('/').next().map(str::to_owned)
    };
    let mut seen = 0;
    for (path, method, operation) in operations() {
        let Some(shape) = named(&operation["requestBody"]["content"]["application/json"]["schema"])
        else {
            continue;
        };
        let schema = &doc["components"]["schemas"][&shape];
        for (name, property) in schema["properties"].as_object().expect("properties") {
            // A number is wrong for every field; what matters is that the field is known.
            let mut bodies = vec![format!("{{\"{name}\": 5}}")];
            let items = &property["items"];
            if let Some(nested) = named(property).or_else(|| named(items)) {
                let inner = doc["components"]["schemas"][&nested]["properties"]
                    .as_object()
                    .expect("properties");
                let list = property.get("items").is_some()
                    || property["type"].as_array().is_some_and(|t| t.iter().any(|t| t == "array"));
                bodies.extend(inner.keys().map(|inner| {
                    let object = format!("{{\"{inner}\": 5}}");
                    if list {
                        format!("{{\"{name}\": [{object}]}}")
                    } else {
                        format!("{{\"{name}\": {object}}}")
                    }
                }));
            }
            for body in bodies {
                let answer = ask(&method, &example(&path), &[JSON], &body).await;
                let text = String::from_utf8(answer.body).expect("UTF-8");
                assert!(!text.contains("unknown field"), "{method} {path} {body}: {text}");
                seen += 1;
            }
        }
    }
    assert!(seen > 40, "{seen} fields");
}

#[test]
fn the_reference_is_up_to_date() {
    let doc = openapi();
    assert!(doc.starts_with("openapi: 3.1."), "{}", &doc[..40]);
    generated("openapi/openapi.yaml", &doc);
}

#[tokio::test]
async fn a_server_serves_both_versions_and_ends_when_told() {
    let shutdown = CancellationToken::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    let server = tokio::spawn(super::serve(listener, router(state()), shutdown.clone()));
    for client in [
        reqwest::Client::builder().no_proxy(),
        reqwest::Client::builder().no_proxy().http2_prior_knowledge(),
    ] {
        let client = client.build().expect("a client");
        let answer = client.get(format!("{base}/healthz")).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let answer = client.get(format!("{base}/v1/runs")).send().await.expect("an answer");
        // The peer is this machine, so what is missing is the engine, not a key.
        assert_eq!(answer.status(), 503, "{:?}", answer.version());
        assert_eq!(answer.headers()["retry-after"], "1");
    }
    shutdown.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(10), server)
        .await
        .expect("ends in time")
        .expect("does not panic")
        .expect("no error");
}
