//! The outermost layer: request ids, limits of the head, panics, problems in writing, safe headers.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::{FutureExt as _, StreamExt as _};

use super::catalogue::Code;
use super::problem::Problem;
use super::request::{body_limit, too_large};

/// The longest address, with its query.
const MAX_URI: usize = 8 << 10;
/// The largest head, all names and values together.
const MAX_HEAD: usize = 16 << 10;
/// How much of a refused body is still taken.
const LINGER_BYTES: usize = 16 << 20;
/// And for how long.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// The header of request ids, taken and given.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Goes around everything, the fallback included.
pub(super) async fn edge(mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(&request);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = match check(&request) {
        Err(problem) => {
            linger(request).await;
            problem.into_response()
        }
        Ok(()) => match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(panic) => Problem::internal(format!("panic: {}", text_of(&*panic))).into_response(),
        },
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED
        && let Some(allow) = allowed_on_step(&path)
    {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    write_problem(&mut response, &path, &id);
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    // The route, not the path: a path may hold a callback's secret.
    let route = route.as_ref().map_or("-", MatchedPath::as_str);
    let (status, ms) = (response.status().as_u16(), began.elapsed().as_millis());
    tracing::debug!(%method, route, status, ms, request_id = ?id, "request");
    response
}

/// The methods of what is about a step, as documented: the id of a step may hold slashes, so for the
/// router its acts and itself are one address.
fn allowed_on_step(path: &str) -> Option<&'static str> {
    let (_, step) = path.strip_prefix("/v1/runs/")?.split_once("/steps/")?;
    let acts = ["/complete", "/fail", "/retry-now"];
    Some(if acts.iter().any(|act| step.ends_with(act)) { "POST" } else { "GET,HEAD" })
}

/// Takes what the caller is sending anyway, up to a point: a connection that is closed with data on
/// its way is reset, and the caller would see that in place of what we have to say.
async fn linger(request: Request) {
    // Who waits for a go-ahead has sent nothing and is to send nothing.
    if request.headers().contains_key(header::EXPECT) {
        return;
    }
    let mut pieces = request.into_body().into_data_stream();
    let drain = async {
        let mut left = LINGER_BYTES;
        while left > 0
            && let Some(Ok(piece)) = pieces.next().await
        {
            left = left.saturating_sub(piece.len());
        }
    };
    // What is still on its way after that is not waited for.
    let _: Result<(), tokio::time::error::Elapsed> = tokio::time::timeout(LINGER_TIME, drain).await;
}

fn request_id(request: &Request) -> HeaderValue {
    let sane = |v: &&HeaderValue| {
        (1..=128).contains(&v.len())
            && v.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(b))
    };
    request.headers().get(REQUEST_ID).filter(sane).cloned().unwrap_or_else(|| {
        HeaderValue::try_from(format!("req_{:032x}", rand::random::<u128>()))
            .expect("letters and digits")
    })
}

fn check(request: &Request) -> Result<(), Problem> {
    let uri = request.uri();
    let length = uri.path_and_query().map_or(0, |p| p.as_str().len());
    if length > MAX_URI {
        let detail = format!("The address has {length} bytes; the limit is {MAX_URI} (8 KiB).");
        return Err(Problem::new(Code::UriTooLong, detail));
    }
    let head: usize = request.headers().iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
    if head > MAX_HEAD {
        let detail = format!("The headers have {head} bytes; the limit is {MAX_HEAD} (16 KiB).");
        return Err(Problem::new(Code::HeadersTooLarge, detail));
    }
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    match length.and_then(|text| text.parse::<u64>().ok()) {
        Some(n) if n > body_limit(uri.path()) as u64 => Err(too_large(uri.path())),
        _ => Ok(()),
    }
}

/// Writes out the problem of a response. A failure that is no problem of ours becomes one, so that
/// what a library refuses has the same form.
fn write_problem(response: &mut Response, path: &str, id: &HeaderValue) {
    let status = response.status();
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None if is_foreign(response) => match status {
            StatusCode::METHOD_NOT_ALLOWED => {
                Problem::new(Code::MethodNotAllowed, "See `Allow` for the methods that fit.")
            }
            _ => Problem::internal(format!("status {status} without a problem")),
        },
        None => return,
    };
    // The secret in the path of a callback is the caller's own; it need not be repeated all the same.
    let instance = if path.starts_with("/v1/callbacks/") { "/v1/callbacks/" } else { path };
    let id = id.to_str().unwrap_or_default();
    if problem.code().status().is_server_error() && problem.code() == Code::Internal {
        tracing::error!(request_id = id, cause = problem.cause(), "a request failed");
    }
    *response.status_mut() = problem.code().status();
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/problem+json");
    headers.insert(header::CONTENT_TYPE, json);
    headers.remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(problem.body(instance, id));
}

/// Whether a failure has not come through [`Problem`], here or on another node.
fn is_foreign(response: &Response) -> bool {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    (status.is_client_error() || status.is_server_error())
        && kind.is_none_or(|k| k != "application/problem+json")
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("of another kind")
}

/// Where no route is.
pub(super) async fn nothing_here(request: Request) -> Problem {
    Problem::new(
        Code::NotFound,
        format!("There is nothing at {}; `/docs` lists every call.", request.uri().path()),
    )
}
