//! `GET /v1/runs/{id}/stream`: a run, live, as server-sent events or NDJSON.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_stream::stream;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::ApiState;
use super::auth::Reader;
use super::catalogue::Code;
use super::problem::Problem;
use super::request::{At, Headers, Params, run_id};
use super::shapes::{ChunkBody, EntryBody, HistoryBody, LogBody, RunBody};
use crate::engine::{Changes, Engine, Error, Namespace};
use crate::machine::{LogPart, RunId};

/// A sign of life at least this often.
const PING: Duration = Duration::from_secs(15);
/// How many entries of a kind are read at once.
const BATCH: usize = 200;

/// How far a listener has come: the id of the last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    history: i64,
    seq: i32,
    log: i64,
    /// The generation that `seq` counts in.
    generation: i32,
    ended: bool,
}

impl Position {
    const START: Self = Self { history: -1, seq: 0, log: -1, generation: 1, ended: false };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.history, self.seq, self.log)?;
        if self.generation > 1 {
            write!(f, ".{}", self.generation)?;
        }
        if self.ended { f.write_str(".end") } else { Ok(()) }
    }
}

impl FromStr for Position {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (ended, rest) = text.strip_suffix(".end").map_or((false, text), |rest| (true, rest));
        let parts: Vec<&str> = rest.split('.').collect();
        let (history, seq, log, generation) = match parts.as_slice() {
            [history, seq, log] => (history, seq, log, 1),
            [history, seq, log, generation] => {
                (history, seq, log, generation.parse().map_err(drop)?)
            }
            _ => return Err(()),
        };
        Ok(Self {
            history: history.parse().map_err(drop)?,
            seq: seq.parse().map_err(drop)?,
            log: log.parse().map_err(drop)?,
            generation,
            ended,
        })
    }
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Events,
    Lines,
}

impl Form {
    fn of(headers: &HeaderMap) -> Self {
        let accept = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
        let lines = accept
            .flat_map(|v| v.split(','))
            .any(|v| v.split(';').next().unwrap_or_default().trim() == "application/x-ndjson");
        if lines { Self::Lines } else { Self::Events }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }

    const fn ping(self) -> &'static [u8] {
        match self {
            Self::Events => b": ping\n\n",
            Self::Lines => b"\n",
        }
    }

    fn write(self, out: &mut Vec<u8>, event: &str, at: Position, data: &impl Serialize) {
        let mut json = serde_json::to_vec(data).unwrap_or_else(|_| b"null".to_vec());
        // Line ends can stand only between the tokens of a payload; there a space is as good.
        for byte in &mut json {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        match self {
            Self::Events => {
                out.extend_from_slice(format!("id: {at}\nevent: {event}\ndata: ").as_bytes());
                out.extend_from_slice(&json);
                out.extend_from_slice(b"\n\n");
            }
            Self::Lines => {
                let head = format!("{{\"event\":\"{event}\",\"id\":\"{at}\",\"data\":");
                out.extend_from_slice(head.as_bytes());
                out.extend_from_slice(&json);
                out.extend_from_slice(b"}\n");
            }
        }
    }
}

/// A run, live.
///
/// Events: `history` (a history entry), `step` (a settled journal entry), `log` (a log line), `chunk`
/// (a piece of an output stream; with `output` there are these of one stream, and `end`, alone), `run`
/// (the run, whenever it stands differently) and, last, `end` (the ended run). A run that continues
/// as new has steps of its new generation from then on, counted from 1 again. With
/// `Last-Event-ID` it goes on after that event; after `end` that is 204. With
/// `Accept: application/x-ndjson` each event is a line `{"event", "id", "data"}`.
#[utoipa::path(
    get, path = "/v1/runs/{id}/stream", tag = "journal",
    params(
        ("id" = String, Path, description = "The run"),
        ("output" = Option<String>, Query, description = "Only the chunks of this output stream, and the end"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen"),
    ),
    responses(
        (status = 200, description = "The events", content(
            (serde_json::Value = "text/event-stream"), (serde_json::Value = "application/x-ndjson"))),
        (status = 204, description = "The last event was the end"),
    ),
    extensions(("x-problems" = json!(["run-not-found"])))
)]
pub(super) async fn stream_run(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(id): At<String>,
    mut params: Params,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    let output = params.one("output", |name| Ok(name.to_owned()));
    params.finish()?;
    let at = match headers.get("last-event-id").map(|v| v.to_str().unwrap_or_default().parse()) {
        None => Position::START,
        Some(Ok(at)) => at,
        Some(Err(())) => {
            let detail = "The header `Last-Event-ID` is not the id of an event of this stream.";
            return Err(Problem::new(Code::MalformedRequest, detail));
        }
    };
    // Asked in any case: the run may not be there.
    state.engine.view(&caller.namespace, run).await?;
    if at.ended {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let form = Form::of(&headers);
    // Watched before it is read: what is committed in between wakes us.
    let changes = state.engine.changes(run);
    let reel = Reel {
        engine: state.engine.clone(),
        ns: caller.namespace,
        run,
        form,
        at,
        shown: Vec::new(),
        output,
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(form.content_type())),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Asks proxies not to hold events back.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(events(reel, changes, state))).into_response())
}

fn events(
    mut reel: Reel,
    mut changes: Changes,
    state: ApiState,
) -> impl futures::Stream<Item = Result<Bytes, Infallible>> + Send {
    stream! {
        // The first bytes open the stream at once, however little there is to tell.
        yield Ok(Bytes::from_static(reel.form.ping()));
        loop {
            // If it fails, the listener comes back with `Last-Event-ID` and is told by a status.
            let Ok((out, more)) = reel.read().await else { break };
            if !out.is_empty() {
                yield Ok(Bytes::from(out));
            }
            if reel.at.ended {
                break;
            }
            if more {
                continue;
            }
            loop {
                tokio::select! {
                    () = changes.changed() => break,
                    () = tokio::time::sleep(PING) => {}
                    () = state.shutdown.cancelled() => return,
                }
                yield Ok(Bytes::from_static(reel.form.ping()));
            }
        }
    }
}

/// What one listener has been shown of a run.
struct Reel {
    engine: Engine,
    ns: Namespace,
    run: RunId,
    form: Form,
    at: Position,
    /// The run as it was shown last.
    shown: Vec<u8>,
    /// The output stream that alone is followed.
    output: Option<String>,
}

impl Reel {
    /// What is new, and whether there is more of it.
    async fn read(&mut self) -> Result<(Vec<u8>, bool), Error> {
        let (engine, ns, run) = (&self.engine, &self.ns, self.run);
        // The run first: if it has ended, what is read after it is complete.
        let view = engine.view(ns, run).await?;
        if let Some(output) = &self.output {
            let part = LogPart::Stream(output);
            let chunks = engine.logs(ns, run, part, self.at.log, BATCH).await?;
            let more = chunks.len() >= BATCH;
            let mut out = Vec::new();
            for item in chunks {
                self.at.log = item.n;
                self.form.write(&mut out, "chunk", self.at, &ChunkBody::from(item));
            }
            if !more && view.status.ended() {
                self.at.ended = true;
                self.form.write(&mut out, "end", self.at, &RunBody::from(view));
            }
            return Ok((out, more));
        }
        let history = engine.history(ns, run, self.at.history, BATCH).await?;
        let mut journal = engine.journal(ns, run, self.at.seq, BATCH).await?;
        if journal.generation != self.at.generation {
            // The run has continued as new: its journal begins anew.
            (self.at.generation, self.at.seq) = (journal.generation, 0);
            journal = engine.journal(ns, run, 0, BATCH).await?;
        }
        let logs = engine.logs(ns, run, LogPart::All, self.at.log, BATCH).await?;
        // What settles meanwhile is told as a change; of what was taken back nothing is shown, so
        // that a page may stay behind `upto`.
        let settled = journal.entries.iter().filter(|e| e.seq.is_some()).count();
        let more = [history.len(), logs.len(), settled].iter().any(|read| *read >= BATCH);

        let mut out = Vec::new();
        for entry in journal.entries.into_iter().filter(|e| e.seq.is_some()) {
            self.at.seq = entry.seq.unwrap_or(self.at.seq);
            self.form.write(&mut out, "step", self.at, &EntryBody::of(entry));
        }
        for item in history {
            self.at.history = item.n;
            self.form.write(&mut out, "history", self.at, &HistoryBody::from(item));
        }
        for item in logs {
            self.at.log = item.n;
            if item.line.stream.is_some() {
                self.form.write(&mut out, "chunk", self.at, &ChunkBody::from(item));
            } else {
                self.form.write(&mut out, "log", self.at, &LogBody::from(item));
            }
        }
        if more {
            return Ok((out, true));
        }
        let ended = view.status.ended();
        let body = serde_json::to_vec(&RunBody::from(view.clone())).unwrap_or_default();
        if ended {
            self.at.ended = true;
            self.form.write(&mut out, "end", self.at, &RunBody::from(view));
        } else if body != self.shown {
            self.form.write(&mut out, "run", self.at, &RunBody::from(view));
            self.shown = body;
        }
        Ok((out, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_the_id_of_an_event() {
        let at = Position { history: 41, seq: 7, log: -1, generation: 1, ended: false };
        assert_eq!(at.to_string(), "41.7.-1");
        assert_eq!("41.7.-1".parse(), Ok(at));
        assert_eq!("41.7.-1.end".parse(), Ok(Position { ended: true, ..at }));
        let third = Position { generation: 3, ended: true, ..at };
        assert_eq!(third.to_string(), "41.7.-1.3.end");
        assert_eq!("41.7.-1.3.end".parse(), Ok(third));
        for bad in ["", "1.2", "1.2.3.4.5", "a.b.c", "1.2.3.END"] {
            assert_eq!(bad.parse::<Position>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_the_payload_has() {
        let data: Box<serde_json::value::RawValue> =
            serde_json::from_str("{\"n\": 1.0,\r\n \"t\": \"a\\nb\"}").expect("JSON");
        let mut out = Vec::new();
        Form::Events.write(&mut out, "step", Position::START, &data);
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            "id: -1.0.-1\nevent: step\ndata: {\"n\": 1.0,   \"t\": \"a\\nb\"}\n\n"
        );
        let mut out = Vec::new();
        Form::Lines.write(&mut out, "step", Position::START, &data);
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            "{\"event\":\"step\",\"id\":\"-1.0.-1\",\"data\":{\"n\": 1.0,   \"t\": \"a\\nb\"}}\n"
        );
    }
}
