//! Lines in both directions over one exchange, many exchanges over few connections.
//!
//! Back-pressure goes both ways: what we send waits in a bounded channel until the other side reads,
//! and what it sends stays with it, but for a window, until we have read.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use url::Url;

use super::patience::Patience;
use super::{CONNECT_TIMEOUT, Client, Failure, MAX_OTHER_BODY, Reply, Speaks, read, redirect_of};

/// The longest line that is read.
pub const MAX_LINE: usize = 16 << 20;
/// Lines that wait for the other side to read them.
const WAITING: usize = 64;
/// Exchanges on one connection before another is made; servers allow 100 and more.
const PER_CONNECTION: usize = 96;
/// Connections that are made for it at most.
const CONNECTIONS: usize = 16;

/// What came of opening an exchange of lines.
#[derive(Debug)]
pub enum Opened {
    /// The other side speaks lines.
    Lines(LineReceiver),
    /// It has answered in another way, as a whole.
    Reply(Reply),
}

/// The lines that are sent; the body ends when all senders are gone.
pub type LineSender = mpsc::Sender<Bytes>;

/// Clients whose connections are shared by a bounded number of exchanges each.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<Vec<Slot>>);

#[derive(Debug)]
struct Slot {
    client: reqwest::Client,
    own: bool,
    tls: bool,
    open: Arc<AtomicUsize>,
}

/// A place on a connection, given back when it is dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Streams {
    /// The first client with room, so that few connections carry many exchanges.
    fn client(
        &self,
        own: bool,
        tls: bool,
        make: impl FnOnce() -> Result<reqwest::Client, reqwest::Error>,
    ) -> Result<(reqwest::Client, Place), reqwest::Error> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = || slots.iter().filter(|s| (s.own, s.tls) == (own, tls));
        let load = |s: &Slot| s.open.load(Ordering::Relaxed);
        let roomy = of_kind().find(|s| load(s) < PER_CONNECTION);
        let found = match roomy {
            Some(slot) => Some(slot),
            None if of_kind().count() >= CONNECTIONS => of_kind().min_by_key(|s| load(s)),
            None => None,
        };
        let (client, open) = if let Some(slot) = found {
            (slot.client.clone(), Arc::clone(&slot.open))
        } else {
            let (client, open) = (make()?, Arc::<AtomicUsize>::default());
            slots.push(Slot { client: client.clone(), own, tls, open: Arc::clone(&open) });
            (client, open)
        };
        open.fetch_add(1, Ordering::Relaxed);
        Ok((client, Place(open)))
    }
}

impl Client {
    /// Opens an exchange whose request body stays open: `first` is its first line, further ones go
    /// through the sender. The answer must begin within `patience`; what it is then, the caller sees.
    pub async fn open(
        &self,
        url: &Url,
        headers: HeaderMap,
        first: Bytes,
        patience: Duration,
    ) -> Result<(LineSender, Opened), Failure> {
        let (sender, lines) = mpsc::channel(WAITING);
        // There is room: it is the first.
        let _ = sender.try_send(first);
        let opened = self.open_from(url, headers, lines, patience).await?;
        Ok((sender, opened))
    }

    /// The same with all that is sent coming from `lines`, its first line too: in pieces, if need be.
    pub async fn open_from(
        &self,
        url: &Url,
        headers: HeaderMap,
        lines: mpsc::Receiver<Bytes>,
        patience: Duration,
    ) -> Result<Opened, Failure> {
        let own = self.guard.is_own(url);
        let speaks = if url.scheme() == "https" { Speaks::Negotiated } else { Speaks::Http2 };
        let (client, place) = self
            .streams
            .client(own, speaks == Speaks::Negotiated, || self.http_client(own, speaks))
            .map_err(|e| Failure::of(&e, url.host_str().unwrap_or_default(), CONNECT_TIMEOUT))?;
        let body = reqwest::Body::wrap_stream(futures::stream::unfold(lines, next_lines));
        let patience = Patience::from(patience);
        self.begin(&client, url, headers, body, &patience, Some(place)).await
    }

    /// Posts `body` and reads the answer line by line, if that is what it is.
    pub async fn listen(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: impl Into<reqwest::Body>,
        silence: impl Into<Patience>,
    ) -> Result<Opened, Failure> {
        let client = if self.guard.is_own(url) { &self.narrow } else { &self.plain };
        self.begin(client, url, headers, body.into(), &silence.into(), None).await
    }

    async fn begin(
        &self,
        client: &reqwest::Client,
        url: &Url,
        headers: HeaderMap,
        body: reqwest::Body,
        silence: &Patience,
        place: Option<Place>,
    ) -> Result<Opened, Failure> {
        self.guard.check(url).map_err(Failure::Blocked)?;
        let host = url.host_str().unwrap_or_default();
        let failed = |e: reqwest::Error| Failure::of(&e, host, CONNECT_TIMEOUT);
        let request = client.post(url.clone()).headers(headers).body(body);
        let mut response = silence.over(request.send()).await?.map_err(failed)?;
        if let Some(peer) = response.remote_addr() {
            self.guard.admit(peer.ip(), self.guard.is_own(url)).map_err(Failure::Blocked)?;
        }
        let status = response.status().as_u16();
        if let Some(redirect) = redirect_of(&response) {
            return Err(redirect);
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let lines = kind.is_some_and(|kind| {
            kind.split(';').next().unwrap_or_default().trim() == "application/x-ndjson"
        });
        if status == 200 && lines {
            return Ok(Opened::Lines(LineReceiver {
                response,
                host: host.to_owned(),
                chunk: Bytes::new(),
                partial: BytesMut::new(),
                begun: None,
                ended: false,
                _place: place,
            }));
        }
        let headers = std::mem::take(response.headers_mut());
        let limit = if status == 200 { super::MAX_BODY } else { MAX_OTHER_BODY };
        let (body, over) = read(response, silence, limit, failed).await?;
        if over && status == 200 {
            return Err(Failure::TooLarge(limit));
        }
        let body = body.slice(..body.len().min(limit));
        Ok(Opened::Reply(Reply { status, headers, body }))
    }
}

/// Whatever waits goes out together.
async fn next_lines(
    mut lines: mpsc::Receiver<Bytes>,
) -> Option<(Result<Bytes, Infallible>, mpsc::Receiver<Bytes>)> {
    let first = lines.recv().await?;
    let Ok(second) = lines.try_recv() else { return Some((Ok(first), lines)) };
    let mut all = BytesMut::with_capacity(first.len() + second.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    while let Ok(line) = lines.try_recv() {
        all.extend_from_slice(&line);
    }
    Some((Ok(all.freeze()), lines))
}

/// The lines that come.
#[derive(Debug)]
pub struct LineReceiver {
    response: reqwest::Response,
    host: String,
    /// What came and is not looked at.
    chunk: Bytes,
    /// A line whose end has not come.
    partial: BytesMut,
    /// When it began.
    begun: Option<Instant>,
    ended: bool,
    _place: Option<Place>,
}

impl LineReceiver {
    /// The next line, without its end and uncopied where it came in one piece; an empty one is a
    /// sign of life. None at the end. May be given up and called again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(end) = self.chunk.iter().position(|b| *b == b'\n') {
                let mut line = self.chunk.split_to(end + 1);
                line.truncate(end);
                self.begun = None;
                if self.partial.is_empty() {
                    return Ok(Some(line));
                }
                self.partial.extend_from_slice(&line);
                return self.whole();
            }
            if !self.chunk.is_empty() {
                self.partial.extend_from_slice(&self.chunk);
                self.chunk.clear();
                self.begun.get_or_insert_with(Instant::now);
                if self.partial.len() > MAX_LINE {
                    return Err(Failure::TooLarge(MAX_LINE));
                }
            }
            if self.ended {
                self.begun = None;
                return if self.partial.is_empty() { Ok(None) } else { self.whole() };
            }
            let host = &self.host;
            let failed = |e: reqwest::Error| Failure::of(&e, host, CONNECT_TIMEOUT);
            match self.response.chunk().await.map_err(failed)? {
                Some(chunk) => self.chunk = chunk,
                None => self.ended = true,
            }
        }
    }

    /// The same within a time; none if nothing came, a failure if a line takes longer than `most`.
    pub async fn next_within(
        &mut self,
        time: Duration,
        most: Duration,
    ) -> Option<Result<Option<Bytes>, Failure>> {
        match timeout(time, self.next()).await {
            Ok(next) => Some(next),
            Err(_) if self.begun.is_some_and(|begun| begun.elapsed() > most) => {
                Some(Err(Failure::Silence(most)))
            }
            Err(_) => None,
        }
    }

    fn whole(&mut self) -> Result<Option<Bytes>, Failure> {
        let line = self.partial.split().freeze();
        if line.len() > MAX_LINE { Err(Failure::TooLarge(MAX_LINE)) } else { Ok(Some(line)) }
    }
}
