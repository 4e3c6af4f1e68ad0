//! One gateway in this process, on a database of its own, with a clock that the test drives.
//!
//! The rest is real: Postgres, sockets both ways, the whole stack from the router to the tables.
//! When it is dropped by [`Gateway::close`], the audit must find nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use stepwell::api::{self, ApiState};
use stepwell::clock::Clock;
use stepwell::engine::{Caller, Engine, Namespace, Scopes, Settings};
use stepwell::machine::{Limits, Timestamp};
use stepwell::outbound::{Client, Guard};
use stepwell::store::testing::TestDb;
use tokio_util::sync::CancellationToken;

/// The signing secret of every registered handler.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

pub struct Gateway {
    pub db: TestDb,
    pub clock: Clock,
    pub engine: Engine,
    pub url: String,
    pub http: reqwest::Client,
    stop: CancellationToken,
}

impl Gateway {
    pub async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    pub async fn with_limits(limits: Limits) -> Self {
        Self::on(TestDb::new().await, limits).await
    }

    /// A gateway on this database, such as one that another gateway has left.
    pub async fn on(db: TestDb, limits: Limits) -> Self {
        let clock = Clock::manual("2026-11-23T09:00:00Z".parse().expect("a time"));
        Self::at(db, limits, clock).await
    }

    pub async fn at(db: TestDb, limits: Limits, clock: Clock) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let settings = Settings {
            public_url: url.clone(),
            address: url.clone(),
            limits,
            retention: Duration::from_hours(30 * 24),
        };
        let client = Client::new(Guard::dev()).expect("a client can be made");
        let engine = Engine::begin(db.store.clone(), clock.clone(), client, settings).await;
        let engine = engine.expect("the database is there");
        let stop = CancellationToken::new();
        let namespace = Namespace { id: 1, name: "default".to_owned() };
        let caller = Caller { namespace, by: "local".to_owned(), scopes: Scopes::ALL };
        let state = ApiState::new(engine.clone(), stop.clone()).without_keys_on_loopback(caller);
        tokio::spawn(api::serve(listener, api::router(state), stop.clone()));
        let http = crate::http_client().no_proxy().build().expect("a client can be made");
        let gateway = Self { db, clock, engine, url, http, stop };
        gateway.eventually("the gateway is ready", async |g| g.engine.ready().await.is_ok()).await;
        gateway
    }

    /// Stops as if the process had been killed, and gives the database to the next.
    pub async fn kill(self) -> TestDb {
        self.engine.halt();
        self.stop.cancel();
        self.db
    }

    /// Stops in order; fails if the data are not sound.
    pub async fn close(self) {
        self.engine.leave(Duration::from_secs(2)).await;
        self.stop.cancel();
        self.engine.halt();
        let findings = self.db.store.audit().await.expect("the audit can be read");
        assert!(findings.is_empty(), "{findings:?}");
    }

    /// Moves the clock. What becomes due happens in the background; wait for what it leads to.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Waits for a condition that something in the background will bring about.
    pub async fn eventually(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let begun = std::time::Instant::now();
        while !holds(self).await {
            assert!(begun.elapsed() < Duration::from_secs(20), "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> (u16, HeaderMap, Bytes) {
        let method = method.parse().expect("a method");
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await.expect("the gateway answers");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        (status, headers, answer.bytes().await.expect("the answer is complete"))
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let (status, _, text) = self.raw(method, path, &[], body.map(|b| b.to_string())).await;
        (status, serde_json::from_slice(&text).unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call("GET", path, None).await;
        assert_eq!(status, 200, "GET {path}: {answer}");
        answer
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call("POST", path, Some(body)).await;
        assert!((200..300).contains(&status), "POST {path}: {status} {answer}");
        answer
    }

    /// Registers a handler under the name `test`, with these functions (names, or whole objects).
    pub async fn register(&self, handler: &Handler, functions: Value) -> Value {
        let functions: Vec<Value> = functions
            .as_array()
            .expect("a list")
            .iter()
            .map(|f| if f.is_string() { json!({"name": f}) } else { f.clone() })
            .collect();
        let body = json!({
            "name": "test", "url": handler.url, "secret": SECRET,
            "functions": functions, "discover": false,
        });
        self.post("/v1/endpoints", body).await
    }

    /// Starts a run of `function`; its id.
    pub async fn run(&self, function: &str, body: Value) -> String {
        let run = self.post(&format!("/v1/functions/{function}/runs"), body).await;
        run["id"].as_str().unwrap_or_else(|| panic!("no id in {run}")).to_owned()
    }

    /// The run when it has this status.
    pub async fn status(&self, run: &str, status: &str) -> Value {
        let path = format!("/v1/runs/{run}");
        self.eventually(&format!("{run} is {status}"), async |g| {
            let view = g.get(&path).await;
            assert!(
                view["ended_at"].is_null() || view["status"] == status,
                "{run} has ended otherwise: {view}"
            );
            view["status"] == status
        })
        .await;
        self.get(&path).await
    }
}

/// What a handler answers.
#[derive(Debug, Clone)]
pub enum Answer {
    /// 200 with this JSON.
    Json(Value),
    /// Another status, headers, a body.
    Status(u16, Vec<(&'static str, String)>, String),
    /// 200 with these bytes.
    Raw(Vec<u8>),
    /// 200 with this JSON, once the test says so.
    When(Arc<tokio::sync::Notify>, Value),
    /// Nothing, ever.
    Hang,
}

impl From<Value> for Answer {
    fn from(value: Value) -> Self {
        Self::Json(value)
    }
}

type Script = Arc<dyn Fn(&Value) -> Answer + Send + Sync>;

/// A handler that a test scripts: a function from the invocation to the answer.
#[derive(Clone)]
pub struct Handler {
    pub url: String,
    script: Arc<Mutex<Script>>,
    invocations: Arc<Mutex<Vec<Value>>>,
    requests: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

impl Handler {
    pub async fn serve<A: Into<Answer>>(
        script: impl Fn(&Value) -> A + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        let script: Script = Arc::new(move |it| script(it).into());
        let handler = Self {
            url,
            script: Arc::new(Mutex::new(script)),
            invocations: Arc::default(),
            requests: Arc::default(),
        };
        let app = axum::Router::new()
            .fallback(answer)
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(handler.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        handler
    }

    /// Answers one after another; then hangs.
    pub async fn answers<A: Into<Answer>>(answers: impl IntoIterator<Item = A>) -> Self {
        let answers: VecDeque<Answer> = answers.into_iter().map(Into::into).collect();
        let answers = Mutex::new(answers);
        Self::serve(move |_| answers.lock().expect("no panic").pop_front().unwrap_or(Answer::Hang))
            .await
    }

    /// From now on answers by this script.
    pub fn now<A: Into<Answer>>(&self, script: impl Fn(&Value) -> A + Send + Sync + 'static) {
        *self.script.lock().expect("no panic") = Arc::new(move |it| script(it).into());
    }

    /// Every invocation so far, as JSON.
    pub fn invocations(&self) -> Vec<Value> {
        self.invocations.lock().expect("no panic").clone()
    }

    /// Every request so far, as it came.
    pub fn requests(&self) -> Vec<(HeaderMap, Bytes)> {
        self.requests.lock().expect("no panic").clone()
    }
}

async fn answer(State(handler): State<Handler>, headers: HeaderMap, body: Bytes) -> Response {
    let it: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    handler.requests.lock().expect("no panic").push((headers, body));
    handler.invocations.lock().expect("no panic").push(it.clone());
    let script = handler.script.lock().expect("no panic").clone();
    match script(&it) {
        Answer::Json(value) => axum::Json(value).into_response(),
        Answer::Raw(bytes) => bytes.into_response(),
        Answer::When(now, value) => {
            now.notified().await;
            axum::Json(value).into_response()
        }
        Answer::Hang => std::future::pending().await,
        Answer::Status(status, headers, body) => {
            let status = StatusCode::from_u16(status).expect("a status");
            let mut answer = (status, body).into_response();
            for (name, value) in headers {
                let value = value.parse().expect("a header value");
                answer.headers_mut().insert(name, value);
            }
            answer
        }
    }
}

/// Whether an invocation shows this step as settled.
pub fn settled(it: &Value, step: &str) -> bool {
    it["steps"].get(step).is_some_and(|s| s.get("seq").is_some())
}

/// A moment as the API writes it.
pub fn moment(text: &Value) -> Timestamp {
    text.as_str().and_then(|t| t.parse().ok()).unwrap_or_else(|| panic!("no time: {text}"))
}
