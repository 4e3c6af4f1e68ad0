//! How long the head of a request may take from its first byte to its last, whoever trickles it.
//!
//! HTTP/1.1 only: on HTTP/2 a connection sends of its own accord, and heads are bounded there.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How every HTTP/2 connection begins, as far as it is needed to tell it apart.
const HTTP2: &[u8] = b"PRI * HTTP/2";

/// The pace of one connection.
#[derive(Debug, Default)]
pub(super) struct Pace {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Requests that are being answered.
    open: usize,
    /// When the first byte of a head came that is not complete.
    since: Option<Instant>,
    /// Bytes at the beginning of the connection that are those of HTTP/2.
    preface: usize,
    /// Some byte at the beginning was not.
    http1: bool,
}

/// A request that is being answered.
pub(super) struct Answering(Arc<Pace>);

impl Pace {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A head is complete.
    pub(super) fn answering(self: &Arc<Self>) -> Answering {
        let mut state = self.state();
        state.open += 1;
        state.since = None;
        drop(state);
        Answering(Arc::clone(self))
    }

    fn came(&self, bytes: &[u8]) {
        let mut state = self.state();
        if !state.http1 && state.preface < HTTP2.len() {
            let expected = &HTTP2[state.preface..];
            let begun = bytes.len().min(expected.len());
            if bytes[..begun] == expected[..begun] {
                state.preface += begun;
            } else {
                state.http1 = true;
            }
        }
        if state.preface == HTTP2.len() {
            state.since = None;
        } else if state.open == 0 && state.since.is_none() {
            state.since = Some(Instant::now());
            self.changed.notify_one();
        }
    }

    /// Returns when a head has taken longer than `most`.
    pub(super) async fn too_slow(&self, most: Duration) {
        loop {
            let since = self.state().since;
            let Some(since) = since else {
                self.changed.notified().await;
                continue;
            };
            tokio::time::sleep_until(since + most).await;
            if self.state().since == Some(since) {
                return;
            }
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.state().open -= 1;
    }
}

/// A connection whose pace is watched.
#[derive(Debug)]
pub(super) struct Paced {
    pub(super) stream: TcpStream,
    pub(super) pace: Arc<Pace>,
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(bytes) = buf.filled().get(before..).filter(|b| !b.is_empty()) {
            self.pace.came(bytes);
        }
        read
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
