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
use stepwell::api::{self, ApiState, RateLimits};
use stepwell::clock::Clock;
use stepwell::engine::{
    ArchivePlace, Caller, Engine, Faults, JwtSettings, Namespace, Scopes, Settings, Wrong,
};
use stepwell::machine::{Limits, Timestamp};
use stepwell::outbound::{Client, Guard};
use stepwell::store::testing::TestDb;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::watchdog::Watched;

/// The signing secret of every registered handler.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_mins(1);

pub struct Gateway {
    pub db: TestDb,
    pub clock: Clock,
    pub engine: Engine,
    pub url: String,
    pub http: reqwest::Client,
    /// Where the clock stood at first.
    begun: Timestamp,
    stop: CancellationToken,
    _watched: Watched,
}

impl Gateway {
    pub async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    pub async fn with_limits(limits: Limits) -> Self {
        Self::on(TestDb::new().await, limits).await
    }

    /// A gateway that asks everybody for an API key.
    pub async fn closed() -> Self {
        let db = TestDb::new().await;
        let clock = standing(&db).await;
        Self::set_up(db, Limits::default(), clock, false, Faults::default()).await
    }

    /// A gateway that asks everybody for an API key and counts requests.
    pub async fn with_rates(rates: RateLimits) -> Self {
        let db = TestDb::new().await;
        let clock = standing(&db).await;
        Self::set_up_counting(db, clock, false, settings(), rates).await
    }

    /// A gateway that lets in who has an API key or one of these JWTs.
    pub async fn with_jwts(jwt: JwtSettings) -> Self {
        let db = TestDb::new().await;
        let clock = standing(&db).await;
        let settings = Settings { jwt: Some(jwt), ..settings() };
        Self::set_up_with(db, clock, false, settings).await
    }

    /// A gateway that writes ended runs there before they go.
    pub async fn archiving(place: ArchivePlace) -> Self {
        let db = TestDb::new().await;
        let clock = standing(&db).await;
        let settings = Settings { archive: Some(place), ..settings() };
        Self::set_up_with(db, clock, true, settings).await
    }

    /// A gateway on this database, such as one that another gateway has left.
    pub async fn on(db: TestDb, limits: Limits) -> Self {
        let clock = standing(&db).await;
        Self::at(db, limits, clock).await
    }

    pub async fn at(db: TestDb, limits: Limits, clock: Clock) -> Self {
        Self::set_up(db, limits, clock, true, Faults::default()).await
    }

    /// A gateway that does this wrong.
    pub async fn doing(wrong: Wrong) -> Self {
        let db = TestDb::new().await;
        let clock = standing(&db).await;
        Self::set_up(db, Limits::default(), clock, true, Faults::doing(wrong)).await
    }

    async fn set_up(
        db: TestDb,
        limits: Limits,
        clock: Clock,
        open_on_loopback: bool,
        faults: Faults,
    ) -> Self {
        // As in operation, where nobody is let in without a key.
        let sign_publicly = !open_on_loopback;
        let settings = Settings { limits, faults, sign_publicly, ..settings() };
        Self::set_up_with(db, clock, open_on_loopback, settings).await
    }

    async fn set_up_with(
        db: TestDb,
        clock: Clock,
        open_on_loopback: bool,
        settings: Settings,
    ) -> Self {
        Self::set_up_counting(db, clock, open_on_loopback, settings, RateLimits::default()).await
    }

    async fn set_up_counting(
        db: TestDb,
        clock: Clock,
        open_on_loopback: bool,
        settings: Settings,
        rates: RateLimits,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let settings = Settings { public_url: url.clone(), address: url.clone(), ..settings };
        let client = Client::new(Guard::dev()).expect("a client can be made");
        let engine = Engine::begin(db.store.clone(), clock.clone(), client, settings).await;
        let engine = engine.expect("the database is there");
        let stop = CancellationToken::new();
        let mut state = ApiState::new(engine.clone(), stop.clone()).with_rate_limits(rates);
        if open_on_loopback {
            let namespace = Namespace { id: 1, name: "default".to_owned() };
            let caller = Caller { namespace, by: "local".to_owned(), scopes: Scopes::ALL };
            state = state.without_keys_on_loopback(caller);
        }
        tokio::spawn(api::serve(listener, api::router(state), stop.clone()));
        // A poll whose clock nobody moves any more fails here, with its name.
        let http = crate::http_client().no_proxy().timeout(2 * PATIENCE);
        let http = http.build().expect("a client can be made");
        let begun = clock.lower();
        let gateway = Self { db, clock, engine, url, http, begun, stop, _watched: Watched::new() };
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

    /// So many seconds after the clock's beginning, as the API writes it.
    pub fn moment(&self, seconds: u64) -> String {
        (self.begun + Duration::from_secs(seconds)).to_string()
    }

    /// Moves the clock. What becomes due happens in the background; wait for what it leads to.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Waits for a condition that something in the background will bring about.
    pub async fn eventually(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let begun = std::time::Instant::now();
        while !holds(self).await {
            assert!(begun.elapsed() < PATIENCE, "never: {what}");
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

    /// A request that is refused: its status, its problem's code, and the problem.
    pub async fn refused(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (u16, String, Value) {
        let (status, problem) = self.call(method, path, body).await;
        assert!(status >= 400, "{method} {path}: {status} {problem}");
        let code = problem["code"].as_str().unwrap_or_else(|| panic!("no problem: {problem}"));
        (status, code.to_owned(), problem.clone())
    }

    /// The journal's entries, settled ones first.
    pub async fn journal(&self, run: &str) -> Vec<Value> {
        let (mut entries, mut after) = (Vec::new(), "0".to_owned());
        loop {
            let mut page = self.get(&format!("/v1/runs/{run}/journal?after={after}")).await;
            let Value::Array(some) = page["data"].take() else { panic!("no list: {page}") };
            entries.extend(some);
            match page["next_cursor"].as_str() {
                Some(next) => next.clone_into(&mut after),
                None => return entries,
            }
        }
    }

    /// The history's entries.
    pub async fn history(&self, run: &str) -> Vec<Value> {
        list(self.get(&format!("/v1/runs/{run}/history?limit=200")).await)
    }

    /// The history's entries of a type.
    pub async fn happened(&self, run: &str, what: &str) -> Vec<Value> {
        let mut all = self.history(run).await;
        all.retain(|entry| entry["type"] == what);
        all
    }

    /// Sends a signal that is accepted.
    pub async fn signal(&self, run: &str, name: &str, payload: Value) {
        self.post(&format!("/v1/runs/{run}/signals/{name}"), json!({"payload": payload})).await;
    }

    /// Waits until a handler was called so many times; the last of these invocations.
    pub async fn invoked(&self, handler: &Handler, times: usize) -> Value {
        let what = format!("invocation {times}");
        self.eventually(&what, async |_| handler.count() >= times).await;
        handler.invocations()[times - 1].clone()
    }

    /// Moves the clock in steps until a handler was called so many times.
    pub async fn advance_until_invoked(&self, handler: &Handler, times: usize, by: Duration) {
        let what = format!("invocation {times} after some time");
        self.eventually(&what, async |g| {
            if handler.count() < times {
                g.advance(by);
            }
            handler.count() >= times
        })
        .await;
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
        let begun = std::time::Instant::now();
        loop {
            let view = self.get(&path).await;
            if view["status"] == status {
                return view;
            }
            assert!(view["ended_at"].is_null(), "{run} is not {status} but has ended: {view}");
            assert!(begun.elapsed() < PATIENCE, "{run} is never {status}: {view}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn settings() -> Settings {
    Settings {
        public_url: String::new(),
        address: String::new(),
        sign_publicly: true,
        limits: Limits::default(),
        retention: Duration::from_hours(30 * 24),
        archive: None,
        jwt: None,
        faults: Faults::default(),
    }
}

/// A clock that stands at a whole second near the database's time, which is what some columns
/// are compared with.
async fn standing(db: &TestDb) -> Clock {
    let now = db.store.now().await.expect("the database is there");
    Clock::manual(Timestamp::from_micros(now.as_secs() * 1_000_000))
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
    /// Waits for a permit, then answers so.
    Held(Arc<Semaphore>, Box<Self>),
}

impl Answer {
    /// Answers when `gate` has a permit for it.
    pub fn held(gate: &Arc<Semaphore>, answer: impl Into<Self>) -> Self {
        Self::Held(Arc::clone(gate), Box::new(answer.into()))
    }

    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self::Status(status, Vec::new(), String::new())
    }
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

    /// How many there were so far.
    pub fn count(&self) -> usize {
        self.invocations.lock().expect("no panic").len()
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
    let mut answer = script(&it);
    while let Answer::Held(gate, then) = answer {
        gate.acquire().await.expect("nobody closes it").forget();
        answer = *then;
    }
    match answer {
        Answer::Held(..) => unreachable!("the loop has undone them"),
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

/// The entries of a page.
fn list(mut page: Value) -> Vec<Value> {
    assert!(page["next_cursor"].is_null(), "the page is the whole list: {page}");
    match page["data"].take() {
        Value::Array(entries) => entries,
        other => panic!("no list: {other}"),
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
