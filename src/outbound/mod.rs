//! Floor 1: HTTP to strangers. Each answer is bounded in time and size, each address is checked, each
//! failure has a type.

mod call;
mod failure;
mod guard;
mod lines;
mod patience;
mod probe;
mod resolve;

use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::redirect;
use url::Url;

use crate::machine::Timestamp;

pub use call::Request;
pub use failure::{Failure, Reached};
pub use guard::{Blocked, Class, Guard, Net, class};
pub use lines::{LineReceiver, LineSender, MAX_LINE, Opened};
pub use patience::{Life, Patience};
pub use probe::{Probe, Stage};
pub use resolve::{Lookup, SystemLookup};

/// How long name, connection and TLS may take together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read with status 200.
pub const MAX_BODY: usize = 16 << 20;
/// What is kept of the body of any other answer.
pub const MAX_OTHER_BODY: usize = 64 << 10;
/// The longest that `Retry-After` is believed.
pub const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Shorter than the keep-alive of common servers (Node: 5 s), so that a connection is not used just
/// when the other side closes it.
const POOL_IDLE: Duration = Duration::from_secs(4);
/// Idle connections that are kept per handler.
const POOL_SIZE: usize = 1024;

/// An HTTP client for handlers: HTTP/1.1 with kept connections, no redirects, proxies, cookies or
/// decompression. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    /// For all URLs but the following.
    plain: reqwest::Client,
    /// For URLs with one of the gateway's own ports: its resolver admits less.
    narrow: reqwest::Client,
    /// For exchanges of lines, which share connections.
    streams: Arc<lines::Streams>,
    guard: Arc<Guard>,
    lookup: Arc<dyn Lookup>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status; a handler's is never a redirect.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// The body; of a handler's status other than 200 the first [`MAX_OTHER_BODY`] bytes.
    pub body: Bytes,
}

impl Reply {
    /// What `Retry-After` asks for, in seconds or as a date, at most [`MAX_RETRY_AFTER`].
    #[must_use]
    pub fn retry_delay(&self, now: Timestamp) -> Option<Duration> {
        retry_delay(self.headers.get(RETRY_AFTER)?.to_str().ok()?, now)
    }
}

/// What the text of a `Retry-After` asks for, in seconds or as a date, at most [`MAX_RETRY_AFTER`].
fn retry_delay(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let delay = if let Ok(seconds) = text.parse() {
        Duration::from_secs(seconds)
    } else {
        let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
        Timestamp::from_micros(date.as_microsecond()).since(now)
    };
    Some(delay.min(MAX_RETRY_AFTER))
}

impl Client {
    /// A client with the system's resolver.
    pub fn new(guard: Guard) -> Result<Self, reqwest::Error> {
        Self::with_lookup(guard, Arc::new(SystemLookup))
    }

    /// A client with a resolver of one's own.
    pub fn with_lookup(guard: Guard, lookup: Arc<dyn Lookup>) -> Result<Self, reqwest::Error> {
        let guard = Arc::new(guard);
        let build = |own| {
            let (guard, lookup) = (Arc::clone(&guard), Arc::clone(&lookup));
            let resolver = Arc::new(resolve::GuardedResolver { guard, lookup, own });
            http_client(&resolver, Speaks::Http1)
        };
        let (plain, narrow) = (build(false)?, build(true)?);
        Ok(Self { plain, narrow, streams: Arc::default(), guard, lookup })
    }

    fn http_client(&self, own: bool, speaks: Speaks) -> Result<reqwest::Client, reqwest::Error> {
        let (guard, lookup) = (Arc::clone(&self.guard), Arc::clone(&self.lookup));
        http_client(&Arc::new(resolve::GuardedResolver { guard, lookup, own }), speaks)
    }

    /// What this client may call.
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Posts `body` and reads the answer. `silence` is the longest time without a sign of life: until
    /// the status comes, and between two pieces of the body. `max_bytes` bounds the body of a 200.
    pub async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
        silence: impl Into<Patience>,
        max_bytes: usize,
    ) -> Result<Reply, Failure> {
        let silence = silence.into();
        self.guard.check(url).map_err(Failure::Blocked)?;
        let own = self.guard.is_own(url);
        let client = if own { &self.narrow } else { &self.plain };
        let host = url.host_str().unwrap_or_default();
        let failed = |e: reqwest::Error| Failure::of(&e, host, CONNECT_TIMEOUT);
        let request = client.post(url.clone()).headers(headers).body(body);
        let mut response = silence.over(request.send()).await?.map_err(failed)?;
        // The resolver has seen to this; should it ever not have, nothing of the answer is used.
        if let Some(peer) = response.remote_addr() {
            self.guard.admit(peer.ip(), own).map_err(Failure::Blocked)?;
        }
        let status = response.status().as_u16();
        if let Some(redirect) = redirect_of(&response) {
            return Err(redirect);
        }
        let headers = std::mem::take(response.headers_mut());
        let limit = if status == 200 { max_bytes } else { MAX_OTHER_BODY };
        let body = read(response, &silence, limit, failed).await?;
        let body = match body {
            (body, false) => body,
            (_, true) if status == 200 => return Err(Failure::TooLarge(max_bytes)),
            (body, true) => body.slice(..limit),
        };
        Ok(Reply { status, headers, body })
    }
}

/// The failure that a redirect is.
fn redirect_of(response: &reqwest::Response) -> Option<Failure> {
    let status = response.status().as_u16();
    let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
    matches!(status, 301 | 302 | 303 | 307 | 308)
        .then(|| Failure::Redirect { status, location: location.map(str::to_owned) })
}

/// Reads a body until its end or past the limit; says which. One piece is passed on uncopied.
async fn read(
    mut response: reqwest::Response,
    silence: &Patience,
    limit: usize,
    failed: impl Fn(reqwest::Error) -> Failure,
) -> Result<(Bytes, bool), Failure> {
    let said = response.content_length().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let next = silence.over(response.chunk()).await?;
        let Some(piece) = next.map_err(&failed)? else { break };
        if first.is_empty() {
            first = piece;
        } else {
            if rest.is_empty() {
                // Room for what was promised, within reason: it is only a promise.
                rest.reserve(said.min(limit).max(first.len() + piece.len()));
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&piece);
        }
        if first.len().max(rest.len()) > limit {
            return Ok((if rest.is_empty() { first } else { rest.freeze() }, true));
        }
    }
    Ok((if rest.is_empty() { first } else { rest.freeze() }, false))
}

/// Which version of HTTP a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    /// HTTP/2 in clear, without asking.
    Http2,
    /// What TLS agrees on.
    Negotiated,
}

fn http_client(
    resolver: &Arc<resolve::GuardedResolver>,
    speaks: Speaks,
) -> Result<reqwest::Client, reqwest::Error> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error says that another part of the process was first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let builder = || {
        reqwest::Client::builder()
            .user_agent(concat!("stepwell/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30))
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_SIZE)
            .dns_resolver(Arc::clone(resolver))
    };
    let builder = || match speaks {
        Speaks::Http1 => builder().http1_only(),
        Speaks::Http2 => multiplexed(builder().http2_prior_knowledge()),
        Speaks::Negotiated => multiplexed(builder()),
    };
    builder().build().or_else(|error| {
        // A system without root certificates can still call handlers by plain http.
        tracing::warn!(%error, "no root certificates: https to handlers will fail; install ca-certificates");
        builder().tls_certs_only([]).build()
    })
}

/// A connection that carries many exchanges: found out to be dead by itself, and with room for
/// those that are not read at the moment beside those that are.
fn multiplexed(builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
    builder
        .http2_initial_stream_window_size(256 << 10)
        .http2_initial_connection_window_size(16 << 20)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(10))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
