//! Passes requests about a run to the node that drives it, and checks those that other nodes pass.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::ApiState;
use super::auth::{Checked, check};
use super::catalogue::Code;
use super::problem::Problem;
use super::request::{Params, collect};
use crate::engine::{Caller, EndpointRef, Engine, Error, Forwarded, NODE_HEADER, Route};
use crate::machine::{RunId, Shard};

/// How long a node may take to begin its answer, beyond what the caller would wait anyway.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether another node asks.
pub(super) struct FromNode(pub(super) bool);

impl FromRequestParts<ApiState> for FromNode {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.extensions.get::<Forwarded>().is_some()))
    }
}

/// Headers that belong to one connection and not to the request.
const OF_THE_CONNECTION: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
];

/// What a request is about, as its path says.
enum Subject {
    Run(RunId),
    Function(String),
    Endpoint(EndpointRef),
}

impl Subject {
    fn of(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix("/v1/")?.split('/');
        let (kind, name) = (parts.next()?, parts.next()?);
        let name = percent_decoded(name)?;
        match kind {
            "runs" => name.parse().ok().map(Self::Run),
            "functions" => Some(Self::Function(name)),
            "endpoints" => Some(Self::Endpoint(endpoint_ref(&name))),
            _ => None,
        }
    }

    /// The problem, if there is no such thing in the caller's namespace.
    async fn missing(&self, engine: &Engine, caller: &Caller) -> Option<Problem> {
        let ns = &caller.namespace;
        match self {
            Self::Run(run) => match engine.view(ns, *run).await {
                Err(error @ Error::RunNotFound(_)) => Some(error.into()),
                _ => None,
            },
            Self::Function(name) => match engine.function(ns, name).await {
                Ok(None) => Some(Error::FunctionNotFound(name.clone()).into()),
                _ => None,
            },
            Self::Endpoint(endpoint) => match engine.endpoint(ns, endpoint).await {
                Ok(None) => Some(no_endpoint()),
                _ => None,
            },
        }
    }
}

/// An endpoint as a path names it.
pub(super) fn endpoint_ref(text: &str) -> EndpointRef {
    text.parse().map_or_else(|_| EndpointRef::Name(text.to_owned()), EndpointRef::Id)
}

/// The problem of an endpoint that is not there.
pub(super) fn no_endpoint() -> Problem {
    Problem::new(Code::EndpointNotFound, "There is no endpoint of this id or name.")
}

pub(super) fn percent_decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let hex = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Goes around every call under `/v1`.
pub(super) async fn inside(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    match enter(&state, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn enter(state: &ApiState, request: Request, next: Next) -> Result<Response, Problem> {
    let request = if request.headers().contains_key(NODE_HEADER) {
        from_node(&state.engine, request).await?
    } else {
        request
    };
    if let Some(run) = called_back(&state.engine, request.uri().path()) {
        return call_back(state, run, request, next).await;
    }
    let Some(subject) = Subject::of(request.uri().path()) else {
        return Ok(next.run(request).await);
    };
    let (mut parts, mut body) = request.into_parts();
    let checked = check(state, &parts).await?;
    parts.extensions.insert(checked.clone());
    // A replay reads what is recorded, on any node, and may take long.
    if let Subject::Run(run) = subject
        && !parts.uri.path().ends_with("/replay")
        && let Some(node) = elsewhere(&state.engine, &parts, run.shard())
    {
        let bytes = collect(&parts, body).await?;
        if let Some(response) = state.nodes.pass(&state.engine, &node, &parts, &bytes).await? {
            return Ok(response);
        }
        body = Body::from(bytes);
    }
    let response = next.run(Request::from_parts(parts, body)).await;
    // What is wrong with a request matters less than that its subject is not there.
    if let Checked::Caller(caller) = checked
        && response.extensions().get::<Problem>().is_some_and(|p| is_about_form(p.code()))
        && let Some(problem) = subject.missing(&state.engine, &caller).await
    {
        return Err(problem);
    }
    Ok(response)
}

/// The run that a callback's address is about. The address is all that its sender has to show.
fn called_back(engine: &Engine, path: &str) -> Option<RunId> {
    let secret = path.strip_prefix("/v1/callbacks/")?.split('/').next()?;
    engine.called_back(secret)
}

async fn call_back(
    state: &ApiState,
    run: RunId,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let Some(node) = elsewhere(&state.engine, &parts, run.shard()) else {
        return Ok(next.run(Request::from_parts(parts, body)).await);
    };
    let bytes = collect(&parts, body).await?;
    if let Some(response) = state.nodes.pass(&state.engine, &node, &parts, &bytes).await? {
        return Ok(response);
    }
    Ok(next.run(Request::from_parts(parts, Body::from(bytes))).await)
}

fn is_about_form(code: Code) -> bool {
    matches!(
        code,
        Code::MalformedJson
            | Code::MalformedRequest
            | Code::InvalidQuery
            | Code::UnsupportedMediaType
            | Code::InvalidRequest
    )
}

async fn from_node(engine: &Engine, request: Request) -> Result<Request, Problem> {
    let (mut parts, body) = request.into_parts();
    let body = collect(&parts, body).await?;
    let forwarded = engine
        .check_node(&parts.headers, &parts.method, path_and_query(&parts), &body)
        .ok_or_else(|| Problem::new(Code::Unauthenticated, "This is no node of the cluster."))?;
    parts.extensions.insert(forwarded);
    Ok(Request::from_parts(parts, Body::from(body)))
}

fn path_and_query(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("/", axum::http::uri::PathAndQuery::as_str)
}

/// The node that drives a shard, if it is another one. What was passed on once stays where it is.
pub(super) fn elsewhere(engine: &Engine, parts: &Parts, shard: Shard) -> Option<String> {
    match engine.route(shard) {
        Route::Node(address) if parts.extensions.get::<Forwarded>().is_none() => Some(address),
        _ => None,
    }
}

/// The connections to the other nodes.
#[derive(Debug, Clone)]
pub(super) struct Nodes(reqwest::Client);

impl Nodes {
    pub(super) fn new() -> Self {
        // Fails only where a provider is installed already, which is as good.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true)
            .build()
            .expect("these options are valid together");
        Self(client)
    }

    /// Asks a node something for a caller; none if it did not answer, or with more than `most` bytes.
    pub(super) async fn ask(
        &self,
        engine: &Engine,
        caller: &Caller,
        node: &str,
        (method, path): (Method, &str),
        most: usize,
    ) -> Option<(StatusCode, Bytes)> {
        let request = axum::http::Request::builder().method(method).uri(path).body(()).ok()?;
        let (mut parts, ()) = request.into_parts();
        parts.extensions.insert(Checked::Caller(caller.clone()));
        let answer = self.pass(engine, node, &parts, &Bytes::new()).await.ok()??;
        let status = answer.status();
        Some((status, axum::body::to_bytes(answer.into_body(), most).await.ok()?))
    }

    /// Passes a request to a node and its answer back, as it comes. None if the request should be
    /// carried out here: the node cannot be reached, or does not answer what only reads.
    pub(super) async fn pass(
        &self,
        engine: &Engine,
        node: &str,
        parts: &Parts,
        body: &Bytes,
    ) -> Result<Option<Response>, Problem> {
        let path = path_and_query(parts);
        let caller = match parts.extensions.get::<Checked>() {
            Some(Checked::Caller(caller)) => Some(caller),
            _ => None,
        };
        let mut headers: HeaderMap = parts.headers.clone();
        for name in OF_THE_CONNECTION.iter().chain([&header::HOST, &header::CONTENT_LENGTH]) {
            headers.remove(name);
        }
        if caller.is_some() {
            // The node vouches for the caller; the key itself stays here.
            headers.remove(header::AUTHORIZATION);
        }
        headers.extend(engine.node_headers(caller, &parts.method, path, body));
        let sent = self
            .0
            .request(parts.method.clone(), format!("{}{path}", node.trim_end_matches('/')))
            .headers(headers)
            .body(body.clone())
            .send();
        match tokio::time::timeout(patience(parts), sent).await {
            Ok(Ok(answer)) => Ok(Some(back(answer))),
            Ok(Err(error)) if error.is_connect() || parts.method.is_safe() => {
                tracing::debug!(node, %error, "a node could not be reached");
                Ok(None)
            }
            Err(_) if parts.method.is_safe() => Ok(None),
            Ok(Err(_)) | Err(_) => Err(Problem::new(
                Code::NodeUnreachable,
                "The node that drives this run did not answer; whether it has carried out the \
                 request is not known.",
            )
            .retry_after(Duration::from_secs(2))),
        }
    }
}

fn patience(parts: &Parts) -> Duration {
    PATIENCE + Params::of(parts).wait().unwrap_or_default()
}

/// The node's answer as ours, its body streamed through.
fn back(answer: reqwest::Response) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    for name in &OF_THE_CONNECTION {
        response.headers_mut().remove(name);
    }
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::engine;

    #[test]
    fn a_path_says_what_it_is_about() {
        let run = RunId::new(crate::machine::Timestamp::from_micros(1), 2);
        assert!(
            matches!(Subject::of(&format!("/v1/runs/{run}/journal")), Some(Subject::Run(r)) if r == run)
        );
        assert!(
            matches!(Subject::of("/v1/functions/a%2Fb/runs"), Some(Subject::Function(n)) if n == "a/b")
        );
        assert!(matches!(Subject::of("/v1/endpoints/shop"), Some(Subject::Endpoint(_))));
        for none in
            ["/v1/runs", "/v1/runs/run_1", "/v1/keys/x", "/healthz", "/v1/functions/%ff/runs"]
        {
            assert!(Subject::of(none).is_none(), "{none}");
        }
    }

    fn parts(method: Method) -> Parts {
        let request = axum::http::Request::builder().method(method).uri("/v1/runs/x?wait=0");
        let request = request.header(header::AUTHORIZATION, "Bearer sw_secret");
        request.header("x-request-id", "r1").body(()).expect("a request").into_parts().0
    }

    #[tokio::test]
    async fn a_request_is_passed_on_and_its_answer_comes_back_as_it_is() {
        let node = axum::Router::new().fallback(|request: Request| async move {
            let seen = format!("{} {}", request.method(), request.uri());
            let id = request.headers()["x-request-id"].clone();
            let (parts, body) = request.into_parts();
            let body = collect(&parts, body).await.ok();
            assert_eq!(body.as_deref(), Some(b"{ }".as_slice()));
            (StatusCode::CONFLICT, [("x-seen", seen)], [("x-id", id)], "{\"n\": 1.0}")
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let server = tokio::spawn(async move { axum::serve(listener, node).await });
        let body = Bytes::from_static(b"{ }");
        let answer = Nodes::new()
            .pass(&engine(), &address, &parts(Method::POST), &body)
            .await
            .expect("no problem")
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::CONFLICT);
        assert_eq!(answer.headers()["x-seen"], "POST /v1/runs/x?wait=0");
        assert_eq!(answer.headers()["x-id"], "r1");
        let bytes = axum::body::to_bytes(answer.into_body(), 100).await.expect("a body");
        assert_eq!(&bytes[..], b"{\"n\": 1.0}");
        server.abort();
    }

    #[tokio::test]
    async fn a_node_that_is_gone_leaves_the_request_here() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        drop(listener);
        let passed =
            Nodes::new().pass(&engine(), &address, &parts(Method::POST), &Bytes::new()).await;
        assert!(matches!(passed, Ok(None)));
    }

    #[tokio::test]
    async fn a_node_that_breaks_off_is_a_problem_for_what_writes_only() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let server = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                drop(connection);
            }
        });
        let nodes = Nodes::new();
        let write = nodes.pass(&engine(), &address, &parts(Method::POST), &Bytes::new()).await;
        assert_eq!(write.expect_err("not known").code(), Code::NodeUnreachable);
        let read = nodes.pass(&engine(), &address, &parts(Method::GET), &Bytes::new()).await;
        assert!(matches!(read, Ok(None)));
        server.abort();
    }
}
