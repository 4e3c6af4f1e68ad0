//! The benchmark's handler: a function of N steps, one step an answer, told by its input.
//!
//! It does what a handler must and nothing else: reads the invocation, looks where it is, answers.

use axum::body::Bytes;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::post;
use serde::Deserialize;

#[derive(Deserialize)]
struct Invocation {
    input: u32,
    journal: Journal,
}

#[derive(Deserialize)]
struct Journal {
    upto: u32,
}

async fn steps(body: Bytes) -> impl IntoResponse {
    let it: Invocation = match serde_json::from_slice(&body) {
        Ok(it) => it,
        Err(error) => {
            return (axum::http::StatusCode::BAD_REQUEST, error.to_string()).into_response();
        }
    };
    let next = it.journal.upto + 1;
    // The last step comes with the result, as a function that runs to its end would answer.
    let answer = if next >= it.input {
        format!(r#"{{"ops":[{{"op":"run","id":"step-{next}","value":{next}}}],"result":{next}}}"#)
    } else {
        format!(r#"{{"ops":[{{"op":"run","id":"step-{next}","value":{next}}}]}}"#)
    };
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], answer).into_response()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8586".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // An answer must not wait for more bytes.
        drop(stream.set_nodelay(true));
    });
    axum::serve(listener, axum::Router::new().route("/", post(steps))).await
}
