//! The benchmark's handler: a function of N steps, told by its input, on each transport.
//!
//! It does what a handler must and nothing else: reads the invocation, looks where it is, says one
//! step at a time, and waits for each to be durable where its transport says so. The last step comes
//! with the result, as a function that runs to its end would answer.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::StreamExt as _;
use serde::Deserialize;
use tokio::sync::mpsc;

#[derive(Deserialize)]
struct Invocation {
    input: u32,
    journal: Journal,
    links: Links,
    token: String,
}

#[derive(Deserialize)]
struct Journal {
    upto: u32,
}

#[derive(Deserialize)]
struct Links {
    checkpoint: String,
}

/// Step `k`, as a member of an answer's, a checkpoint's or a line's object.
fn step(k: u32, of: u32) -> String {
    let op = format!(r#""ops":[{{"op":"run","id":"step-{k}","value":{k}}}]"#);
    if k >= of { format!(r#"{op},"result":{k}"#) } else { op }
}

async fn invoked(request: Request) -> Response {
    let way = request.headers().get("stepwell-transport").cloned();
    let mut body = request.into_body().into_data_stream();
    let duplex = way.as_ref().is_some_and(|w| w == "duplex");
    let mut first = Vec::new();
    while let Some(Ok(piece)) = body.next().await {
        first.extend_from_slice(&piece);
        if duplex && first.ends_with(b"\n") {
            break;
        }
    }
    let it: Invocation = match serde_json::from_slice(&first) {
        Ok(it) => it,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let next = it.journal.upto + 1;
    match way.as_ref().and_then(|w| w.to_str().ok()) {
        Some("duplex") => {
            let (say, lines) = mpsc::channel::<Bytes>(1);
            tokio::spawn(async move {
                for (n, k) in (next..=it.input).enumerate() {
                    let line = format!("{{\"n\":{},{}}}\n", n + 1, step(k, it.input));
                    if say.send(line.into()).await.is_err() {
                        return;
                    }
                    // Its acknowledgement, which is on one line.
                    while body
                        .next()
                        .await
                        .is_some_and(|piece| piece.is_ok_and(|piece| !piece.ends_with(b"\n")))
                    {
                    }
                }
            });
            ndjson(lines)
        }
        Some("stream") => {
            let (say, lines) = mpsc::channel::<Bytes>(16);
            tokio::spawn(async move {
                for k in next..=it.input {
                    let line = format!("{{\"op\":\"run\",\"id\":\"step-{k}\",\"value\":{k}}}\n");
                    if say.send(line.into()).await.is_err() {
                        return;
                    }
                }
                drop(say.send(format!("{{\"result\":{}}}\n", it.input).into()).await);
            });
            ndjson(lines)
        }
        _ if std::env::var_os("TRANSPORT").is_some_and(|t| t == "checkpoint") => {
            // The exchange stays open meanwhile: a handler that can answers when it is done.
            for (n, k) in (next..=it.input).enumerate() {
                let body = format!("{{\"n\":{},{}}}", n + 1, step(k, it.input));
                let sent = client().post(&it.links.checkpoint).bearer_auth(&it.token);
                let sent = sent.header("content-type", "application/json").body(body).send().await;
                if !sent.is_ok_and(|answer| answer.status().is_success()) {
                    return StatusCode::INTERNAL_SERVER_ERROR.into_response();
                }
            }
            StatusCode::ACCEPTED.into_response()
        }
        _ => {
            let answer = format!("{{{}}}", step(next, it.input));
            let kind = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, kind)], answer).into_response()
        }
    }
}

fn client() -> &'static reqwest::Client {
    static CLIENT: std::sync::OnceLock<reqwest::Client> = std::sync::OnceLock::new();
    CLIENT.get_or_init(|| {
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true);
        client.tls_certs_only([]).build().expect("a client can be made")
    })
}

fn ndjson(lines: mpsc::Receiver<Bytes>) -> Response {
    let lines = futures::stream::unfold(lines, |mut lines| async move {
        lines.recv().await.map(|line| (Ok::<_, Infallible>(line), lines))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8586".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // An answer must not wait for more bytes.
        drop(stream.set_nodelay(true));
    });
    axum::serve(listener, axum::Router::new().route("/", post(invoked))).await
}
