//! The server: connections in, HTTP/1.1 and HTTP/2 in clear, an end without a cut.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::pace::{Pace, Paced};

/// How long a new connection may take to say anything, and a head from its first byte to its last.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may be silent between two requests.
const IDLE: Duration = Duration::from_mins(1);
/// Bytes of a head at which a connection is not read on. What is over the limits that callers are
/// told of, and under this, is answered with a problem.
const LONGEST_HEAD: usize = 64 << 10;
/// How long open requests may take once the server is to stop.
const GRACE: Duration = Duration::from_secs(20);
/// Requests at a time on one HTTP/2 connection.
const STREAMS: u32 = 256;

/// Serves `router` until `shutdown`, then lets open requests finish for up to 20 seconds.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_with(listener, router, shutdown, HEAD).await
}

/// The same with another time for heads.
pub(super) async fn serve_with(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    head: Duration,
) -> io::Result<()> {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (router, shutdown) = (router.clone(), shutdown.clone());
                connections.spawn(connection(stream, peer, router, shutdown, head));
            }
            // Such as no file handles left: one refused connection is no reason to stop.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "requests were cut off");
    }
    Ok(())
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
    head: Duration,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    tokio::select! {
        first = tokio::time::timeout(head, stream.readable()) => {
            if !matches!(first, Ok(Ok(()))) {
                return;
            }
        }
        () = shutdown.cancelled() => return,
    }
    let pace = Arc::new(Pace::default());
    let watched = Arc::clone(&pace);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let answering = watched.answering();
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = router.clone().oneshot(request.map(Body::new));
        async move {
            let answer = answer.await;
            drop(answering);
            answer
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(LONGEST_HEAD);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(64 << 10);
    let stream = TokioIo::new(Paced { stream, pace: Arc::clone(&pace) });
    let connection = server.serve_connection(stream, service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = pace.too_slow(head) => {
            tracing::debug!(%peer, "a head took too long");
            return;
        }
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection broke");
    }
}
