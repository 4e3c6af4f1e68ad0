//! The handler: who is let in, and on which transport a run is gone on with.

mod functions;
mod run;
mod signature;
mod way;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::ListenerExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use run::{Run, Stop};
use way::{Lines, Way};

/// What the handler knows beside the invocation.
pub(crate) struct Handler {
    /// `whsec_…`
    pub(crate) secret: String,
    /// What it is to do wrong.
    pub(crate) fault: String,
}

fn manifest() -> Value {
    let functions: Vec<Value> = functions::NAMES.iter().map(|n| json!({"name": n})).collect();
    json!({"protocol": [1, 1], "transports": ["respond", "checkpoint", "stream", "duplex"],
           "pages": true, "functions": functions})
}

async fn invoked(State(handler): State<Arc<Handler>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let way = head.headers.get("stepwell-transport").and_then(|v| v.to_str().ok());
    let way = way.unwrap_or_default().to_owned();
    let mut lines = Lines::new(body.into_data_stream());
    // On `duplex` the body goes on: its first line is the invocation.
    let first = if way == "duplex" { lines.next().await } else { lines.rest().await };
    let Some(first) = first else { return StatusCode::BAD_REQUEST.into_response() };
    if !signature::is_good(&handler.secret, &head.headers, &first) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Ok(call) = serde_json::from_slice::<Value>(&first) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    if call["type"] == "discover" {
        return answer(&manifest());
    }
    let function = call["function"].as_str().unwrap_or_default();
    if call["type"] != "run" || !functions::NAMES.contains(&function) {
        return StatusCode::NOT_FOUND.into_response();
    }
    match &*way {
        _ if handler.fault == "answers-whole" => {
            let run = Run::new(call, &handler.fault, Way::Respond);
            answer(&run.play().await.unwrap_or_default())
        }
        "stream" => {
            let (say, body) = way::channel();
            tokio::spawn(Run::new(call, &handler.fault, Way::Stream(say)).play());
            ndjson(body)
        }
        "duplex" => {
            let (say, body) = way::channel();
            tokio::spawn(Run::new(call, &handler.fault, Way::Duplex { say, hear: lines }).play());
            ndjson(body)
        }
        // Whoever calls cannot tell: it is for the handler to use checkpoints or not.
        _ if call["run"]["tags"]["transport"] == "checkpoint" => {
            let holds = function == "held" && handler.fault != "not-held";
            let run = Run::new(call, &handler.fault, Way::Checkpoint).play();
            if holds {
                tokio::spawn(run);
                return StatusCode::ACCEPTED.into_response();
            }
            match run.await {
                Some(said) => answer(&said),
                None => StatusCode::OK.into_response(),
            }
        }
        _ => answer(&Run::new(call, &handler.fault, Way::Respond).play().await.unwrap_or_default()),
    }
}

impl Run {
    /// Runs the function from its top; returns what the exchange is to be answered with, if not all
    /// is said.
    async fn play(mut self) -> Option<Value> {
        let said = match self.page().await {
            Ok(()) => functions::play(&mut self).await,
            Err(stop) => Err(stop),
        };
        match said {
            Ok(result) => self.end(json!({"result": result})).await,
            Err(Stop::End(end)) => self.end(end).await,
            Err(Stop::Leave) => {
                self.leave().await;
                None
            }
        }
    }
}

fn answer(said: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], said.to_string()).into_response()
}

fn ndjson(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// Serves the functions until the process ends.
pub(crate) async fn serve(listener: TcpListener, handler: Handler) -> std::io::Result<()> {
    let listener = listener.tap_io(|stream| {
        // An answer must not wait for more bytes.
        drop(stream.set_nodelay(true));
    });
    let router = Router::new().route("/", post(invoked)).with_state(Arc::new(handler));
    axum::serve(listener, router).await
}
