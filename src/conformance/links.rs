//! The side of the gateway that a handler calls during an exchange: values and pages of the journal,
//! and checkpoints, with the token of the invocation.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use url::Url;

use super::Error;
use super::stage::DRIP;

/// One settled step, as a page of the journal has it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) op: &'static str,
    pub(super) ok: bool,
    pub(super) body: Bytes,
}

/// What may be fetched of the run that is played now.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) run: String,
    pub(super) token: String,
    /// The journal: `seq` counts from 1.
    pub(super) entries: Vec<Entry>,
    /// Whether checkpoints are taken.
    pub(super) talks: bool,
    /// Values and pages that were fetched with the right token.
    pub(super) values: usize,
    pub(super) pages: usize,
    /// What was asked for without it, or is not there.
    pub(super) refused: Vec<String>,
}

/// A checkpoint that a handler has posted and waits for an answer to.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) run: String,
    pub(super) body: Bytes,
    /// It waits for its tree.
    pub(super) wait: bool,
    tell: oneshot::Sender<Told>,
}

/// What a checkpoint is answered with.
#[derive(Debug)]
enum Told {
    /// At once.
    Whole(StatusCode, Bytes),
    /// In two pieces.
    Slow(Bytes),
    /// Half of it, and then the connection breaks.
    Broken(Bytes),
    /// 429: come again at once, nothing was recorded.
    Busy,
}

impl Post {
    // Who does not wait any longer will ask again.
    fn answer(self, told: Told) {
        drop(self.tell.send(told));
    }

    pub(super) fn acknowledge(self, body: Bytes, slowly: bool) {
        self.answer(if slowly { Told::Slow(body) } else { Told::Whole(StatusCode::OK, body) });
    }

    /// The acknowledgement is lost on its way.
    pub(super) fn lose(self, body: Bytes) {
        self.answer(Told::Broken(body));
    }

    pub(super) fn put_off(self) {
        self.answer(Told::Busy);
    }

    pub(super) fn refuse(self, status: u16, code: &str, detail: &str) {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::CONFLICT);
        self.answer(Told::Whole(status, problem(status.as_u16(), code, detail).into()));
    }
}

/// Problem details, as JSON.
pub(super) fn problem(status: u16, code: &str, detail: &str) -> String {
    let kind = format!("/problems/{code}");
    serde_json::json!({"type": kind, "status": status, "code": code, "detail": detail}).to_string()
}

/// Serves what the present run has.
pub(super) struct LinkServer {
    base: String,
    shelf: Arc<Mutex<Shelf>>,
    posts: tokio::sync::Mutex<mpsc::Receiver<Post>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for LinkServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LinkServer {
    pub(super) async fn start(at: SocketAddr, public: Option<&Url>) -> Result<Self, Error> {
        let listener = TcpListener::bind(at).await.map_err(|e| Error::Listen(at, e))?;
        let bound = listener.local_addr().map_err(|e| Error::Listen(at, e))?;
        let base = public.map_or_else(
            || format!("http://{bound}"),
            |url| url.as_str().trim_end_matches('/').to_owned(),
        );
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let (sender, posts) = mpsc::channel(64);
        let router = Router::new()
            .route("/v1/runs/{run}/values/{*step}", get(value))
            .route("/v1/runs/{run}/journal", get(page))
            .route("/v1/runs/{run}/checkpoint", post(checkpoint))
            .with_state((Arc::clone(&shelf), sender));
        let task = tokio::spawn(async move {
            // It ends with the suite.
            drop(axum::serve(listener, router).await);
        });
        Ok(Self { base, shelf, posts: posts.into(), task })
    }

    /// The next checkpoint that is posted for this run.
    pub(super) async fn next_post(&self, run: &str) -> Option<Post> {
        let mut posts = self.posts.lock().await;
        loop {
            let post = posts.recv().await?;
            if post.run == run {
                return Some(post);
            }
            post.refuse(409, "stale-epoch", "this run is not driven any more");
        }
    }

    /// The gateway's address, as handlers are told.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// What can be fetched; the lock is not to be kept.
    pub(super) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().expect("nobody panics with the shelf in his hands")
    }
}

type Shared = State<(Arc<Mutex<Shelf>>, mpsc::Sender<Post>)>;

/// Whether the caller has the token of the present invocation; notes it where not.
fn admitted(shelf: &mut Shelf, run: &str, headers: &HeaderMap, what: &str) -> bool {
    let token = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let token = token.and_then(|v| {
        let (scheme, token) = v.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    });
    let admitted = shelf.run == run && token == Some(&*shelf.token);
    if !admitted {
        shelf.refused.push(format!("{what} was asked for without the invocation's token"));
    }
    admitted
}

async fn checkpoint(
    State((shelf, posts)): Shared,
    Path(run): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    {
        let mut shelf = shelf.lock().expect("nobody panics with the shelf in his hands");
        if shelf.run != run {
            let text = problem(409, "stale-epoch", "this run is not driven any more");
            return (StatusCode::CONFLICT, text).into_response();
        }
        if !shelf.talks {
            let refused = "a checkpoint was posted on a run whose transport is another";
            shelf.refused.push(refused.to_owned());
            return (StatusCode::CONFLICT, problem(409, "stale-epoch", refused)).into_response();
        }
        if !admitted(&mut shelf, &run, &headers, "a checkpoint") {
            return StatusCode::UNAUTHORIZED.into_response();
        }
    }
    let (tell, told) = oneshot::channel();
    let wait = query.contains_key("wait");
    if posts.send(Post { run, body, wait, tell }).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let json = [(header::CONTENT_TYPE, "application/json")];
    match told.await {
        Ok(Told::Whole(status, body)) => {
            let kind = if status == StatusCode::OK { "json" } else { "problem+json" };
            let kind = format!("application/{kind}");
            (status, [(header::CONTENT_TYPE, kind)], body).into_response()
        }
        Ok(Told::Slow(body)) => (json, pieces(body, false)).into_response(),
        Ok(Told::Broken(body)) => {
            let length = [(header::CONTENT_LENGTH, body.len().to_string())];
            (json, length, pieces(body, true)).into_response()
        }
        Ok(Told::Busy) => {
            let after = [(header::RETRY_AFTER, "0")];
            let text = problem(429, "too-many-requests", "send it again with the same number");
            (StatusCode::TOO_MANY_REQUESTS, after, text).into_response()
        }
        // The run that it is of is not looked at any more.
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// A body in two pieces, the second of which may not come.
fn pieces(body: Bytes, breaks: bool) -> Body {
    Body::from_stream(async_stream::stream! {
        let half = body.len() / 2;
        yield Ok(body.slice(..half));
        tokio::time::sleep(DRIP).await;
        yield if breaks {
            Err(std::io::Error::other("lost on purpose"))
        } else {
            Ok(body.slice(half..))
        };
    })
}

async fn value(
    State((shelf, _)): Shared,
    Path((run, step)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let mut shelf = shelf.lock().expect("nobody panics with the shelf in his hands");
    if !admitted(&mut shelf, &run, &headers, &format!("the value of {step:?}")) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Some(entry) = shelf.entries.iter().find(|e| e.id == step).cloned() else {
        shelf.refused.push(format!("the value of {step:?} was asked for, which there is not"));
        return StatusCode::NOT_FOUND.into_response();
    };
    shelf.values += 1;
    ([(header::CONTENT_TYPE, "application/json")], entry.body).into_response()
}

async fn page(
    State((shelf, _)): Shared,
    Path(run): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    const LIMIT: usize = 5;
    let mut shelf = shelf.lock().expect("nobody panics with the shelf in his hands");
    if !admitted(&mut shelf, &run, &headers, "a page of the journal") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let after: usize = query.get("after").and_then(|n| n.parse().ok()).unwrap_or(0);
    shelf.pages += 1;
    let mut data = vec![];
    for (n, entry) in shelf.entries.iter().enumerate().skip(after).take(LIMIT) {
        let id = serde_json::Value::from(&*entry.id);
        let (seq, op) = (n + 1, entry.op);
        let (name, body) =
            (if entry.ok { "value" } else { "error" }, String::from_utf8_lossy(&entry.body));
        data.push(format!(r#"{{"id":{id},"seq":{seq},"op":"{op}","{name}":{body}}}"#));
    }
    let upto = shelf.entries.len();
    let last = (after + LIMIT).min(upto);
    let next = if last < upto { format!("\"{last}\"") } else { "null".to_owned() };
    let data = data.join(",");
    let text = format!(r#"{{"data":[{data}],"next_cursor":{next},"upto":{upto}}}"#);
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
