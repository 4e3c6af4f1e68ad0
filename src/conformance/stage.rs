//! How the suite reaches the handler: signed calls over HTTP, whole, in pieces, or cut off.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::links::LinkServer;
use super::{Error, Options, Seen, Wrong};
use crate::clock;
use crate::machine::{InvocationId, Timestamp};
use crate::outbound::{Client, Guard, LineSender, MAX_BODY, Opened};
use crate::protocol::{self, Manifest, PROTOCOL_HEADER, Secret, TRANSPORT_HEADER, Transport};

/// Between the pieces of a body that is sent slowly.
pub(super) const DRIP: Duration = Duration::from_millis(5);

/// The longest exchange that is not silent meanwhile.
const LONGEST: Duration = Duration::from_mins(10);

/// The handler, and what it can reach meanwhile.
pub(super) struct Stage {
    url: Url,
    http: reqwest::Client,
    /// For exchanges of lines.
    lines: Client,
    pub(super) silence: Duration,
    pub(super) secret: Secret,
    pub(super) links: LinkServer,
}

/// What a handler answered.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// How a body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// At once.
    Whole,
    /// In small pieces with pauses.
    Slow,
    /// Half of it, and then the connection breaks.
    Cut,
}

impl Stage {
    pub(super) async fn set(options: &Options) -> Result<Self, Error> {
        // The handler is where the caller says, on this machine as well.
        let lines = Client::new(Guard::dev())
            .map_err(|e| Error::Handler(format!("no HTTP client: {e}")))?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("stepwell-conformance/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .pool_idle_timeout(Duration::from_secs(4))
            .build()
            .map_err(|e| Error::Handler(format!("no HTTP client: {e}")))?;
        let links = LinkServer::start(options.listen, options.public_url.as_ref()).await?;
        let (url, secret) = (options.url.clone(), options.secret.clone());
        Ok(Self { url, http, lines, silence: options.silence, secret, links })
    }

    /// Posts a body as the gateway does, signed now.
    pub(super) async fn call(&self, id: &str, body: &Bytes) -> Result<Reply, Wrong> {
        self.call_at(id, body, Pace::Whole).await
    }

    pub(super) async fn call_at(&self, id: &str, body: &Bytes, pace: Pace) -> Result<Reply, Wrong> {
        self.send(signed(id, body, std::slice::from_ref(&self.secret)), body, pace).await
    }

    /// Begins to post a body as the gateway does, and lets the handler work on it meanwhile.
    pub(super) fn begin(
        &self,
        id: &str,
        body: &Bytes,
        pace: Pace,
    ) -> AbortOnDropHandle<Result<Reply, Wrong>> {
        let headers = signed(id, body, std::slice::from_ref(&self.secret));
        AbortOnDropHandle::new(tokio::spawn(self.sending(headers, body, pace, LONGEST)))
    }

    /// Posts a body with these headers.
    pub(super) async fn send(
        &self,
        headers: HeaderMap,
        body: &Bytes,
        pace: Pace,
    ) -> Result<Reply, Wrong> {
        self.sending(headers, body, pace, self.silence).await
    }

    fn sending(
        &self,
        mut headers: HeaderMap,
        body: &Bytes,
        pace: Pace,
        silence: Duration,
    ) -> impl Future<Output = Result<Reply, Wrong>> + Send + use<> {
        common(&mut headers);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let request = self.http.post(self.url.clone()).headers(headers);
        let request = match pace {
            Pace::Whole => request.body(body.clone()),
            Pace::Slow | Pace::Cut => request.body(dripping(body.clone(), pace)),
        };
        let whole = async {
            let mut response = request.send().await.map_err(|e| said(&e))?;
            let status = response.status().as_u16();
            let mut body = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(|e| said(&e))? {
                body.extend_from_slice(&piece);
                if body.len() > MAX_BODY {
                    return Err(Wrong::from(format!("the answer is over {MAX_BODY} bytes")));
                }
            }
            Ok(Reply { status, body: body.into() })
        };
        async move {
            tokio::time::timeout(silence, whole).await.map_err(|_| {
                Wrong::from(format!("the handler did not answer within {silence:?}"))
            })?
        }
    }

    /// Posts a body and reads the answer line by line: transport `stream`.
    pub(super) async fn listen(&self, id: &str, body: &Bytes, pace: Pace) -> Result<Opened, Wrong> {
        let mut headers = signed(id, body, std::slice::from_ref(&self.secret));
        common(&mut headers);
        headers.insert(TRANSPORT_HEADER, HeaderValue::from_static(Transport::Stream.word()));
        let sent: reqwest::Body = match pace {
            Pace::Whole => body.clone().into(),
            Pace::Slow | Pace::Cut => dripping(body.clone(), pace),
        };
        let opened = self.lines.listen(&self.url, headers, sent, self.silence).await;
        opened.map_err(|e| format!("the handler cannot be called: {e}").into())
    }

    /// Opens an exchange of lines both ways: transport `duplex`.
    pub(super) async fn open(
        &self,
        id: &str,
        body: &Bytes,
        pace: Pace,
    ) -> Result<(LineSender, Opened), Wrong> {
        let mut headers = signed(id, body, std::slice::from_ref(&self.secret));
        common(&mut headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        headers.insert(TRANSPORT_HEADER, HeaderValue::from_static(Transport::Duplex.word()));
        let (sender, lines) = mpsc::channel(64);
        let whole = [&body[..], b"\n"].concat();
        let pieces = match pace {
            Pace::Whole => 1,
            Pace::Slow | Pace::Cut => 4,
        };
        let dripping = async {
            for piece in whole.chunks(whole.len().div_ceil(pieces)).take(match pace {
                Pace::Cut => 2,
                Pace::Whole | Pace::Slow => pieces,
            }) {
                // An error says that the exchange is over, which the other half tells.
                drop(sender.send(Bytes::copy_from_slice(piece)).await);
                tokio::time::sleep(DRIP).await;
            }
            // Half a line is no reason to wait for an answer.
            if pace == Pace::Cut { Err(Wrong::from("cut off on purpose")) } else { Ok(()) }
        };
        let opening = async {
            let opened = self.lines.open_from(&self.url, headers, lines, self.silence).await;
            opened.map_err(|e| Wrong::from(format!("the handler cannot be called: {e}")))
        };
        let (opened, ()) = tokio::try_join!(opening, dripping)?;
        Ok((sender, opened))
    }

    /// Asks for the manifest.
    pub(super) async fn discover(&self) -> Result<Manifest, Wrong> {
        let body = Bytes::from(protocol::write_discover());
        let id = InvocationId::new(now(), clock::chance()).to_string();
        let reply = self.call(&id, &body).await?;
        if reply.status != 200 {
            return Err(
                format!("asked for its manifest, the handler answered {}", reply.status).into()
            );
        }
        let manifest = Manifest::parse(&reply.body)
            .map_err(|e| Wrong::from(format!("the manifest is not what it should be: {e}")))?;
        Ok(manifest)
    }

    /// Whether a call is refused as one that is not from the gateway.
    pub(super) async fn refuses(&self, what: &str, headers: HeaderMap, body: &Bytes) -> Seen {
        let reply = self.send(headers, body, Pace::Whole).await?;
        if reply.status == 401 {
            return Ok(());
        }
        Err(format!("{what}: answered {} in place of 401", reply.status).into())
    }
}

/// The headers of a call that is signed now.
pub(super) fn signed(id: &str, body: &[u8], secrets: &[Secret]) -> HeaderMap {
    signed_at(now().as_secs(), id, body, secrets)
}

/// The headers of a call that is signed at a moment.
pub(super) fn signed_at(at: i64, id: &str, body: &[u8], secrets: &[Secret]) -> HeaderMap {
    let signature = protocol::sign(id, at, body, secrets);
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: &str| {
        let value = HeaderValue::from_str(value).expect("ids, digits and base64 are ASCII");
        headers.insert(name, value);
    };
    put(protocol::WEBHOOK_ID, id);
    put(protocol::WEBHOOK_TIMESTAMP, &at.to_string());
    put(protocol::WEBHOOK_SIGNATURE, &signature);
    headers
}

/// The headers that every call has.
fn common(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(PROTOCOL_HEADER, HeaderValue::from_static("1"));
    headers.insert("traceparent", HeaderValue::from_static(TRACE));
}

/// The true time.
pub(super) fn now() -> Timestamp {
    Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())
}

/// A trace like any other.
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn dripping(body: Bytes, pace: Pace) -> reqwest::Body {
    let piece = body.len().div_ceil(4).max(1);
    reqwest::Body::wrap_stream(async_stream::stream! {
        for (n, piece) in body.chunks(piece).enumerate() {
            if n > 0 {
                tokio::time::sleep(DRIP).await;
            }
            if pace == Pace::Cut && n == 2 {
                yield Err(std::io::Error::other("cut off on purpose"));
                return;
            }
            yield Ok(Bytes::copy_from_slice(piece));
        }
    })
}

/// What went wrong, down to its cause.
fn said(error: &reqwest::Error) -> Wrong {
    let mut text = "the handler cannot be called".to_owned();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text.into()
}
