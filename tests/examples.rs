//! The example handlers, each called as the gateway calls them, by a gateway of a hundred lines.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says so by failing")]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use sha2::Sha256;
use tokio::process::{Child, Command};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const RUN: &str = "run_01k9";

/// An example that is being served.
struct Handler {
    child: Child,
    group: rustix::process::Pid,
    url: String,
    http: reqwest::Client,
    temp: tempfile::TempDir,
}

impl Drop for Handler {
    fn drop(&mut self) {
        // `go run` and shells have children of their own.
        let _ = rustix::process::kill_process_group(self.group, rustix::process::Signal::KILL);
        let _ = self.child.start_kill();
    }
}

impl Handler {
    /// Runs `command`, in which `FILE` and `PORT` are replaced, and waits until it answers.
    async fn start(command: &str, file: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/order").join(file);
        let command =
            command.replace("FILE", file.to_str().unwrap()).replace("PORT", &port.to_string());
        let child = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .env("PORT", port.to_string())
            .env("STEPWELL_SIGNING_SECRET", SECRET)
            .env("ORDER_LOG", temp.path().join("log"))
            .env("TMPDIR", temp.path())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let group = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{port}/");
        let mut handler = Self { child, group, url, http, temp };
        let until = Instant::now() + Duration::from_secs(90); // a compiler may run first
        while handler.http.post(&handler.url).send().await.is_err() {
            let ended = handler.child.try_wait().unwrap();
            assert!(ended.is_none(), "`{command}` ended: {ended:?}");
            assert!(Instant::now() < until, "`{command}` does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        handler
    }

    async fn call(&self, call: &Value) -> (StatusCode, Value) {
        let body = serde_json::to_string(call).unwrap();
        self.post(now(), &body, &sign(now(), &body)).await
    }

    async fn post(&self, at: i64, body: &str, signature: &str) -> (StatusCode, Value) {
        let answer = self
            .http
            .post(&self.url)
            .header("content-type", "application/json")
            .header("webhook-id", "inv_1")
            .header("webhook-timestamp", at)
            .header("webhook-signature", signature)
            .body(body.to_owned())
            .send()
            .await
            .unwrap();
        (answer.status(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
    }

    /// The answer to an invocation with these steps; each is called with one that must succeed.
    async fn invoke(&self, steps: &Map<String, Value>) -> Value {
        let (status, answer) = self.call(&invocation(steps)).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.temp.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn sign(at: i64, body: &str) -> String {
    let key = STANDARD.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("inv_1.{at}.{body}").as_bytes());
    // Another secret's signature comes first, as during a rotation.
    format!("v1,{} v1,{}", STANDARD.encode([7; 32]), STANDARD.encode(mac.finalize().into_bytes()))
}

fn invocation(steps: &Map<String, Value>) -> Value {
    json!({
        "protocol": 1, "type": "run", "function": "order",
        "run": {"id": RUN, "namespace": "default", "key": null, "generation": 1, "deployment": "dep_1",
                "created_at": "2026-11-23T09:00:00.000Z", "seed": "9f3c", "idempotency_prefix": "run_01k9.1/",
                "parent": null, "tags": {}},
        "invocation": {"id": "inv_1", "epoch": 1, "attempt": 1, "reason": "start",
                       "transport": "respond", "budget_ms": 55000},
        "input": {"order": 42, "amount": 1999, "cool_off": "90s"},
        "steps": steps,
        "journal": {"upto": steps.len(), "more": false},
        "inbox": {}, "object": null, "cancel": null, "links": {}, "token": "t"
    })
}

/// Drives a run to its end and gives the last answer, with what was asked for on the way.
async fn drive(handler: &Handler, approval: Value) -> (Value, Vec<Value>) {
    let mut steps = Map::new();
    let mut asked = Vec::new();
    for _ in 0..20 {
        let answer = handler.invoke(&steps).await;
        let Some(ops) = answer.get("ops") else { return (answer, asked) };
        let [op] = ops.as_array().unwrap().as_slice() else { panic!("one op: {answer}") };
        let id = op["id"].as_str().unwrap().to_owned();
        let outcome = match op["op"].as_str().unwrap() {
            "run" if op.get("error").is_some() => continue, // again, with the entry left out
            "run" => json!({"value": op["value"]}),
            kind => {
                asked.push(op.clone());
                steps.insert(id.clone(), json!({"op": kind, "pending": true}));
                assert_eq!(handler.invoke(&steps).await, json!({}), "it waits for {id}");
                if kind == "signal" { approval.clone() } else { json!({"value": null}) }
            }
        };
        let mut entry = json!({"seq": steps.len() + 1, "op": op["op"]});
        entry.as_object_mut().unwrap().extend(outcome.as_object().unwrap().clone());
        steps.insert(id, entry);
    }
    panic!("no end");
}

async fn keeps_the_protocol(command: &str, file: &str) {
    let handler = Handler::start(command, file).await;

    let (status, manifest) = handler.call(&json!({"protocol": 1, "type": "discover"})).await;
    assert_eq!((status, &manifest["functions"]), (StatusCode::OK, &json!([{"name": "order"}])));
    assert_eq!(manifest["protocol"], json!([1, 1]));

    // What is not from the gateway is not done.
    let body = invocation(&Map::new()).to_string();
    let (good, changed) = (sign(now(), &body), body.replace("1999", "1998"));
    for (at, body, signature) in [
        (now(), &changed, good.as_str()),
        (now(), &body, ""),
        (now(), &body, "v1,x v2,y"),
        (now() - 301, &body, &sign(now() - 301, &body)),
        (now() + 302, &body, &sign(now() + 302, &body)),
    ] {
        assert_eq!(handler.post(at, body, signature).await.0, StatusCode::UNAUTHORIZED);
    }
    let mut other = invocation(&Map::new());
    other["function"] = json!("refund");
    assert_eq!(handler.call(&other).await.0, StatusCode::NOT_FOUND);

    // A replay only asks.
    let mut replay = invocation(&Map::new());
    replay["invocation"]["reason"] = json!("replay");
    let only_asks = json!({"ops": [{"op": "run", "id": "charge"}]});
    assert_eq!(handler.call(&replay).await, (StatusCode::OK, only_asks));
    assert_eq!(handler.log(), [""; 0]);

    // A cancelled one ends.
    let mut cancelled = invocation(&Map::new());
    cancelled["cancel"] = json!({"reason": "a test", "deadline": "2026-11-23T09:01:00.000Z"});
    assert_eq!(handler.call(&cancelled).await.1["error"]["type"], "Cancelled");

    // A whole run, each step once and the packing three times.
    let (end, asked) = drive(&handler, json!({"value": {"by": "the shop"}})).await;
    let expected = json!({"order": 42, "charged": 1999, "packed": "pa_42",
                          "approved_by": "the shop", "shipped": "tr_42"});
    assert_eq!(end, json!({"result": expected}));
    assert_eq!(
        asked,
        [
            json!({"op": "signal", "id": "approved", "name": "approved", "timeout": "1h"}),
            json!({"op": "sleep", "id": "cool-off", "for": "90s"})
        ]
    );
    let did = ["charge", "pack", "pack", "pack", "ship"].map(|step| format!("{RUN} {step}"));
    assert_eq!(handler.log(), did);

    // Nobody approves; and an approval without a word.
    let late = json!({"error": {"type": "timed-out", "message": "no signal", "attempts": 1}});
    let (end, _) = drive(&handler, late).await;
    assert_eq!(end, json!({"error": {"type": "timed-out", "message": "approved: no signal"}}));
    let (end, _) = drive(&handler, json!({"value": null})).await;
    assert_eq!(end["result"]["approved_by"], Value::Null);
}

#[tokio::test]
async fn python() {
    keeps_the_protocol("python3 FILE", "order.py").await;
}

#[tokio::test]
async fn node() {
    keeps_the_protocol("node FILE", "order.mjs").await;
}

#[tokio::test]
async fn go() {
    keeps_the_protocol("go run FILE", "order.go").await;
}

#[tokio::test]
async fn php() {
    keeps_the_protocol("php -S 127.0.0.1:PORT FILE", "order.php").await;
}
