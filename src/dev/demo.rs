//! The demo function: a handler in this process, called over HTTP like any other, for those who want
//! to see a run before they write code.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::protocol::{BadSecret, Secret, verify};

/// How long its steps take, so that there is something to see.
const WORK: Duration = Duration::from_millis(300);
/// After so many runs whose first attempt has failed, those are forgotten.
const REMEMBERED: usize = 1_000;

/// The handler of [`FUNCTION`](Self::FUNCTION).
#[derive(Debug, Clone)]
pub struct DemoHandler {
    secret: Secret,
    clock: Clock,
    /// The runs whose unsteady step has failed once.
    failed: Arc<Mutex<HashSet<String>>>,
}

/// A signed call of the gateway.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Call {
    Discover,
    Run(Turn),
}

/// What the function looks at.
#[derive(Deserialize)]
struct Turn {
    run: Run,
    input: Value,
    steps: BTreeMap<String, Step>,
    cancel: Option<Value>,
}

#[derive(Deserialize)]
struct Run {
    id: String,
}

#[derive(Deserialize)]
struct Step {
    value: Option<Value>,
    #[serde(default)]
    pending: bool,
}

impl DemoHandler {
    /// Its one function.
    pub const FUNCTION: &str = "demo.hello";
    /// Where it is, on the gateway's own address.
    pub const PATH: &str = "/demo/handler";

    /// A handler that takes what is signed with `secret`.
    pub fn new(secret: &str) -> Result<Self, BadSecret> {
        let secret = Secret::parse(secret)?;
        Ok(Self { secret, clock: Clock::system(), failed: Arc::default() })
    }

    /// It as a service.
    pub fn router(self) -> Router {
        Router::new().route(Self::PATH, post(answer)).with_state(self)
    }

    /// Whether the unsteady step of this run fails this time: it does so once.
    fn fails(&self, run: &str) -> bool {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= REMEMBERED {
            failed.clear();
        }
        failed.insert(run.to_owned())
    }
}

async fn answer(State(demo): State<DemoHandler>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let verified = verify(
        header("webhook-id"),
        header("webhook-timestamp"),
        header("webhook-signature"),
        &body,
        std::slice::from_ref(&demo.secret),
        demo.clock.upper().as_secs(),
    );
    if let Err(why) = verified {
        return (StatusCode::UNAUTHORIZED, why.to_string()).into_response();
    }
    match serde_json::from_slice(&body) {
        Ok(Call::Discover) => Json(manifest()).into_response(),
        Ok(Call::Run(turn)) => {
            let answer = turn.answer(|| demo.fails(&turn.run.id));
            if answer["ops"].as_array().is_some_and(|ops| ops.iter().any(|op| op["op"] == "run")) {
                tokio::time::sleep(WORK).await;
            }
            Json(answer).into_response()
        }
        Err(why) => (StatusCode::BAD_REQUEST, why.to_string()).into_response(),
    }
}

fn manifest() -> Value {
    json!({
        "protocol": [1, 1], "sdk": "none", "version": env!("CARGO_PKG_VERSION"),
        "functions": [{
            "name": DemoHandler::FUNCTION,
            "retry": {"initial": "2s", "jitter": 0},
            "input_schema": {"type": "object", "properties": {
                "name": {"type": "string", "title": "Name", "description": "Who is greeted.", "default": "world"},
            }},
        }],
    })
}

impl Turn {
    /// What comes next, from the steps alone: the function begins anew with each call.
    fn answer(&self, fails: impl FnOnce() -> bool) -> Value {
        if self.cancel.is_some() {
            return json!({"error": {"type": "Cancelled", "message": "there was nothing to undo"}});
        }
        let name = self.input["name"].as_str().unwrap_or("world");
        let Some(greeting) = self.settled("greet") else {
            return json!({"ops": [
                {"op": "log", "level": "info", "message": "two steps in one answer", "fields": {"name": name}},
                {"op": "run", "id": "greet", "value": format!("Hello, {name}!")},
                {"op": "run", "id": "count-letters", "value": name.chars().count()},
            ]});
        };
        if self.settled("fails-once").is_none() {
            return if self.steps.contains_key("fails-once") {
                json!({"await": "fails-once"})
            } else if fails() {
                json!({"ops": [
                    {"op": "log", "level": "warn", "message": "this step fails the first time, on purpose"},
                    {"op": "run", "id": "fails-once", "error": {
                        "type": "OnPurpose", "message": "The first attempt fails. Stepwell tries again by itself.",
                    }},
                ]})
            } else {
                json!({"ops": [{"op": "run", "id": "fails-once", "value": "The second attempt works."}]})
            };
        }
        if self.settled("nap").is_none() {
            return json!({"ops": [{"op": "sleep", "id": "nap", "for": "3s"}], "await": "nap"});
        }
        let Some(approval) = self.settled("approval") else {
            return json!({"ops": [
                {"op": "log", "level": "info", "message": "waiting for the signal `approved`"},
                {"op": "signal", "id": "approval", "name": "approved", "timeout": "1d"},
            ], "await": "approval"});
        };
        let letters = self.settled("count-letters").and_then(|step| step.value.as_ref());
        let approved = json!({"with": approval.value});
        json!({"result": {"greeting": greeting.value, "letters": letters, "approved": approved}})
    }

    fn settled(&self, id: &str) -> Option<&Step> {
        self.steps.get(id).filter(|step| !step.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::sign;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    async fn post(body: &str, secret: &str) -> (StatusCode, Value) {
        let demo = DemoHandler::new(SECRET).unwrap();
        let now = demo.clock.upper().as_secs();
        let secret = Secret::parse(secret).unwrap();
        let body = Bytes::copy_from_slice(body.as_bytes());
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", "inv_1".parse().unwrap());
        headers.insert("webhook-timestamp", now.to_string().parse().unwrap());
        let signature = sign("inv_1", now, &body, &[secret]);
        headers.insert("webhook-signature", signature.parse().unwrap());
        let answer = answer(State(demo), headers, body).await;
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn it_answers_what_its_gateway_has_signed_and_nothing_else() {
        let (status, said) = post(r#"{"protocol": 1, "type": "discover"}"#, SECRET).await;
        assert_eq!((status, &said["functions"][0]["name"]), (StatusCode::OK, &json!("demo.hello")));
        let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let (status, _) = post(r#"{"protocol": 1, "type": "discover"}"#, other).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let (status, _) = post(r#"{"type": "task"}"#, SECRET).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_run_goes_from_step_to_step_and_one_fails_once() {
        let demo = DemoHandler::new(SECRET).unwrap();
        let turn = |steps: Value| {
            let call = json!({"run": {"id": "run_1"}, "input": {"name": "Ada"}, "steps": steps});
            let turn: Turn = serde_json::from_value(call).unwrap();
            turn.answer(|| demo.fails(&turn.run.id))
        };
        let mut steps = json!({});
        let first = turn(steps.clone());
        assert_eq!(first["ops"][1]["value"], "Hello, Ada!");
        steps["greet"] = json!({"value": "Hello, Ada!"});
        steps["count-letters"] = json!({"value": 3});
        assert!(turn(steps.clone())["ops"][1]["error"].is_object());
        steps["fails-once"] = json!({"pending": true});
        assert_eq!(turn(steps.clone()), json!({"await": "fails-once"}));
        steps.as_object_mut().unwrap().remove("fails-once");
        assert_eq!(turn(steps.clone())["ops"][0]["value"], "The second attempt works.");
        steps["fails-once"] = json!({"value": "The second attempt works."});
        assert_eq!(turn(steps.clone())["await"], "nap");
        // A sleep's value is null.
        steps["nap"] = json!({"value": null});
        assert_eq!(turn(steps.clone())["await"], "approval");
        steps["approval"] = json!({"value": {"by": "me"}});
        let result =
            json!({"greeting": "Hello, Ada!", "letters": 3, "approved": {"with": {"by": "me"}}});
        assert_eq!(turn(steps), json!({"result": result}));
    }
}
