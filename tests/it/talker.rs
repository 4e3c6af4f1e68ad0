//! A handler that speaks lines: a script gets the invocation and both directions.

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::mpsc;

type Script = Arc<dyn Fn(Value, Lines) -> BoxFuture<'static, ()> + Send + Sync>;

#[derive(Clone)]
pub struct Talker {
    pub url: String,
    /// Connections so far.
    pub connections: Arc<AtomicUsize>,
    script: Arc<Mutex<Script>>,
    heads: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

/// Both directions of one exchange.
pub struct Lines {
    from: BodyDataStream,
    buffer: Vec<u8>,
    to: mpsc::Sender<Result<Bytes, Infallible>>,
}

impl Lines {
    /// The next line that is not empty, as it came; none at the end.
    pub async fn raw(&mut self) -> Option<Bytes> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.len() > 1 {
                    return Some(Bytes::from(line).slice(..end));
                }
                continue;
            }
            self.buffer.extend_from_slice(&self.from.next().await?.ok()?);
        }
    }

    pub async fn hear(&mut self) -> Option<Value> {
        let line = self.raw().await?;
        Some(serde_json::from_slice(&line).unwrap_or_else(|e| panic!("{e}: {line:?}")))
    }

    pub async fn say(&mut self, line: Value) {
        self.bytes(format!("{line}\n")).await;
    }

    pub async fn bytes(&mut self, bytes: impl Into<Bytes>) {
        // The gateway may have gone.
        drop(self.to.send(Ok(bytes.into())).await);
    }

    /// Says something and hears what it is answered with.
    pub async fn ask(&mut self, line: Value) -> Value {
        self.say(line).await;
        self.hear().await.unwrap_or(Value::Null)
    }
}

impl Talker {
    pub async fn serve<F: Future<Output = ()> + Send + 'static>(
        script: impl Fn(Value, Lines) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        let connections = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&connections);
        let listener = listener.tap_io(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let script: Script = Arc::new(move |it, lines| Box::pin(script(it, lines)));
        let script = Arc::new(Mutex::new(script));
        let talker = Self { url, connections, script, heads: Arc::default() };
        let app = axum::Router::new().fallback(talk).with_state(talker.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        talker
    }

    /// From now on speaks by this script.
    pub fn now<F: Future<Output = ()> + Send + 'static>(
        &self,
        script: impl Fn(Value, Lines) -> F + Send + Sync + 'static,
    ) {
        let script: Script = Arc::new(move |it, lines| Box::pin(script(it, lines)));
        *self.script.lock().expect("no panic") = script;
    }

    /// Heads and first lines so far.
    pub fn heads(&self) -> Vec<(HeaderMap, Bytes)> {
        self.heads.lock().expect("no panic").clone()
    }

    pub fn invocations(&self) -> Vec<Value> {
        let json = |(_, body): (HeaderMap, Bytes)| serde_json::from_slice(&body).expect("JSON");
        self.heads().into_iter().map(json).collect()
    }
}

async fn talk(State(talker): State<Talker>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (to, from_script) = mpsc::channel(16);
    let mut lines = Lines { from: body.into_data_stream(), buffer: Vec::new(), to };
    let duplex = parts.headers.get("stepwell-transport").is_some_and(|t| t == "duplex");
    tokio::spawn(async move {
        // Only a line ends in a line feed; the body of the other transports ends by itself.
        let first = if duplex {
            lines.raw().await
        } else {
            let mut all = Vec::new();
            while let Some(Ok(piece)) = lines.from.next().await {
                all.extend_from_slice(&piece);
            }
            Some(all.into())
        };
        let Some(first) = first else { return };
        let it = serde_json::from_slice(&first).expect("JSON");
        talker.heads.lock().expect("no panic").push((parts.headers, first));
        let script = talker.script.lock().expect("no panic").clone();
        script(it, lines).await;
    });
    let body = futures::stream::unfold(from_script, |mut from| async move {
        from.recv().await.map(|line| (line, from))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}
