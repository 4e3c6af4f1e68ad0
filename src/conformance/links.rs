//! The side of the gateway that a handler calls during an exchange: values and pages of the journal,
//! with the token of the invocation, and callbacks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use url::Url;

use super::Error;

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
    /// Values and pages that were fetched with the right token.
    pub(super) values: usize,
    pub(super) pages: usize,
    /// What was asked for without it, or is not there.
    pub(super) refused: Vec<String>,
}

/// Serves what the present run has.
pub(super) struct LinkServer {
    base: String,
    shelf: Arc<Mutex<Shelf>>,
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
        let router = Router::new()
            .route("/v1/runs/{run}/values/{*step}", get(value))
            .route("/v1/runs/{run}/journal", get(page))
            .with_state(Arc::clone(&shelf));
        let task = tokio::spawn(async move {
            // It ends with the suite.
            drop(axum::serve(listener, router).await);
        });
        Ok(Self { base, shelf, task })
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

type Shared = State<Arc<Mutex<Shelf>>>;

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

async fn value(
    State(shelf): Shared,
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
    State(shelf): Shared,
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
