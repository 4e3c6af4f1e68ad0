//! Runs: list, read, result, export.

use async_stream::try_stream;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde::Serialize;
use serde_json::value::RawValue;

use super::ApiState;
use super::auth::{Operator, Reader};
use super::catalogue::Code;
use super::page::{self, Page};
use super::problem::Problem;
use super::request::{At, Params, run_id};
use super::run_filter::{self, Cursor};
use super::shapes::{
    ChunkBody, EntryBody, HistoryBody, ListedRunBody, LogBody, RunBody, SignalBody,
};
use crate::engine::{Engine, Error, Namespace, Origin, RunView, Status};
use crate::machine::{LogPart, RunId};

/// How many entries the export asks for at once.
const BATCH: usize = 200;

/// List runs, new to old unless `sort` says otherwise.
///
/// A filter given twice means or, different filters mean and. What has no index (`q`, `deployment`, two
/// values of one tag) is looked for in 210,000 runs at a time: such a page may have few runs or none,
/// and a `next_cursor` with which the search goes on.
#[utoipa::path(
    get, path = "/v1/runs", tag = "runs",
    params(
        ("status" = Option<Vec<String>>, Query, explode, description = "Their status; `failed`, `waiting` …"),
        ("function" = Option<Vec<String>>, Query, explode, description = "Their function"),
        ("key" = Option<Vec<String>>, Query, explode, description = "Their key"),
        ("tag" = Option<Vec<String>>, Query, explode, description = "A tag, as `name:value`; or a range of one that is a number or a moment: `amount>=100`, `due<2026-12-01`, with `>`, `>=`, `<`, `<=`. Ranges must all hold"),
        ("deployment" = Option<Vec<String>>, Query, explode, description = "The deployment they are pinned to by hand, else were last invoked on"),
        ("started_after" = Option<String>, Query, description = "Created at this moment or later, RFC 3339"),
        ("started_before" = Option<String>, Query, description = "Created before this moment, RFC 3339"),
        ("ended_after" = Option<String>, Query, description = "Ended at this moment or later, RFC 3339; a live run has not"),
        ("ended_before" = Option<String>, Query, description = "Ended before this moment, RFC 3339; a live run has not"),
        ("parent" = Option<String>, Query, description = "The run that started them"),
        ("schedule" = Option<String>, Query, description = "The schedule that started them"),
        ("run" = Option<Vec<String>>, Query, explode, description = "These very runs"),
        ("fingerprint" = Option<Vec<String>>, Query, explode, description = "The kind of error that they failed or are paused by, as `/v1/errors` has it"),
        ("q" = Option<String>, Query, description = "A part of key, function or tag; or the whole id of a run"),
        ("sort" = Option<String>, Query, pattern = "^-?(started|ended)$", description = "`-started` (new to old, the default), `started`, `-ended` or `ended`; in the order of their ends there are ended runs alone"),
        ("count" = Option<String>, Query, description = "`estimate`: `count` of the answer says how many runs there are, counted to 10,000"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, of a list with the same `sort`"),
    ),
    responses((status = 200, description = "A page of runs", body = RunsBody, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn list_runs(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let filter = run_filter::of_query(&mut params);
    let sort = filter.sort;
    let counted = params.one("count", |word| match word {
        "estimate" => Ok(()),
        other => Err(format!("`{other}` is no way to count; there is `estimate`")),
    });
    params.finish()?;
    let count = match counted {
        Some(()) => Some(state.engine.count_runs(&caller.namespace, &filter).await?.into()),
        None => None,
    };
    let page = state.engine.list(&caller.namespace, filter).await?;
    let runs = page.runs.into_iter().map(ListedRunBody::from).collect();
    let page = Page::new(runs, page.next.map(|place| Cursor::new(sort, place)));
    let link = page.link(&uri);
    Ok(page::with_link(Json(RunsBody { page, count }).into_response(), link))
}

/// A page of runs.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = RunsPage)]
pub(super) struct RunsBody {
    #[serde(flatten)]
    page: Page<ListedRunBody>,
    /// How many runs there are, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<super::bulk::CountBody>,
}

/// Delete a run that has ended: its journal, its history and its log.
///
/// An idempotency key that it was started with stays known until it expires.
#[utoipa::path(
    delete, path = "/v1/runs/{id}", tag = "runs",
    params(("id" = String, Path, description = "The run")),
    responses((status = 204, description = "Nothing is left of it")),
    extensions(("x-problems" = json!(["run-not-found", "invalid-state"])))
)]
pub(super) async fn delete_run(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(id): At<String>,
    params: Params,
) -> Result<StatusCode, Problem> {
    let run = run_id(&id)?;
    params.finish()?;
    state.engine.purge(&caller.namespace, run).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Read a run.
///
/// With `wait` it answers when the run has ended or the time is up.
#[utoipa::path(
    get, path = "/v1/runs/{id}", tag = "runs",
    params(
        ("id" = String, Path, description = "The run"),
        ("wait" = Option<String>, Query, description = "Wait for the end: `30s`, `PT30S` or seconds; at most 300 s"),
        ("Prefer" = Option<String>, Header, description = "`wait=30`, in place of the parameter"),
    ),
    responses((status = 200, description = "The run", body = RunBody)),
    extensions(("x-problems" = json!(["run-not-found"])))
)]
pub(super) async fn get_run(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(id): At<String>,
    mut params: Params,
) -> Result<Json<RunBody>, Problem> {
    let run = run_id(&id)?;
    let view = waited(&state, &caller.namespace, run, &mut params);
    Ok(Json(view.await?.into()))
}

/// The run, after the wait that the request asks for; no parameter but `wait` is known.
async fn waited(
    state: &ApiState,
    ns: &Namespace,
    run: RunId,
    params: &mut Params,
) -> Result<RunView, Problem> {
    let wait = params.wait();
    std::mem::take(params).finish()?;
    Ok(match wait {
        Some(wait) => state.wait_end(ns, run, wait).await?,
        None => state.engine.view(ns, run).await?,
    })
}

/// The bare output of a run.
///
/// 202 and the run while it has not ended; a run that ended without an output is the problem
/// `run-failed`, with its `error`.
#[utoipa::path(
    get, path = "/v1/runs/{id}/result", tag = "runs",
    params(
        ("id" = String, Path, description = "The run"),
        ("wait" = Option<String>, Query, description = "Wait for the end: `30s`, `PT30S` or seconds; at most 300 s"),
        ("Prefer" = Option<String>, Header, description = "`wait=30`, in place of the parameter"),
    ),
    responses(
        (status = 200, description = "The output, byte for byte", body = serde_json::Value),
        (status = 202, description = "Not ended yet", body = RunBody),
    ),
    extensions(("x-problems" = json!(["run-not-found", "run-failed"])))
)]
pub(super) async fn get_result(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(id): At<String>,
    mut params: Params,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    let view = waited(&state, &caller.namespace, run, &mut params).await?;
    result(view)
}

fn result(view: RunView) -> Result<Response, Problem> {
    match view.status {
        Status::Completed => {
            let output = view.output.unwrap_or_else(|| Bytes::from_static(b"null"));
            Ok(bare(output))
        }
        status if status.ended() => {
            let word = status.word();
            let problem = Problem::new(Code::RunFailed, format!("Run {} is {word}.", view.id))
                .with("run", view.id)
                .with("run_status", word);
            let error = view.error.as_deref().and_then(|e| serde_json::from_slice(e).ok());
            Err(problem.with_raw("error", error.unwrap_or_else(|| RawValue::NULL.to_owned())))
        }
        _ => {
            let retry = [(header::RETRY_AFTER, HeaderValue::from_static("1"))];
            Ok((StatusCode::ACCEPTED, retry, Json(RunBody::from(view))).into_response())
        }
    }
}

/// JSON of a user as the whole body.
pub(super) fn bare(json: Bytes) -> Response {
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (kind, json).into_response()
}

/// Everything about a run in one document: the run, its whole journal, history, log and signals.
#[utoipa::path(
    get, path = "/v1/runs/{id}/export", tag = "runs",
    params(("id" = String, Path, description = "The run")),
    responses((status = 200, description = "The document", body = ExportBody)),
    extensions(("x-problems" = json!(["run-not-found"])))
)]
pub(super) async fn export_run(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(id): At<String>,
    params: Params,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    params.finish()?;
    let view = state.engine.view(&caller.namespace, run).await?;
    let origin = state.engine.origin(&caller.namespace, run).await?;
    let stream = export(state.engine, caller.namespace, view, origin);
    let name = format!("attachment; filename=\"{run}.json\"");
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::try_from(name).expect("ids are letters and digits"),
        ),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// A whole run.
#[derive(utoipa::ToSchema)]
#[schema(as = Export)]
#[expect(dead_code, reason = "describes what `export` writes")]
pub(super) struct ExportBody {
    /// The form of this document: 1.
    stepwell_export: u32,
    /// Its handler's deterministic source of chance.
    seed: String,
    /// What it was to its function: `function`, `plain`, `object`, or `reader` of an object.
    kind: &'static str,
    /// The run that started it, and the step that did; null: nobody's child.
    parent: Option<ParentBody>,
    /// By step, where its function is strict.
    input_hashes: std::collections::BTreeMap<String, String>,
    run: RunBody,
    /// Every step, with its value however large.
    journal: Vec<EntryBody>,
    history: Vec<HistoryBody>,
    logs: Vec<LogBody>,
    /// Pieces of all output streams.
    outputs: Vec<ChunkBody>,
    signals: Vec<SignalBody>,
}

/// The run that started another.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = ExportParent)]
struct ParentBody {
    #[schema(value_type = String)]
    run: RunId,
    step: String,
}

/// Written page by page, so that a run of any length passes through little memory. An error on the
/// way breaks the answer off: a document that parses is whole.
fn export(
    engine: Engine,
    ns: Namespace,
    view: RunView,
    origin: Origin,
) -> impl futures::Stream<Item = Result<Bytes, ExportError>> + Send {
    try_stream! {
        let run = view.id;
        yield text("{\"stepwell_export\":1,\"seed\":");
        yield json(&origin.seed)?;
        yield text(",\"kind\":");
        yield json(&origin.kind)?;
        yield text(",\"parent\":");
        yield json(&origin.parent.map(|(run, step)| ParentBody { run, step }))?;
        yield text(",\"input_hashes\":");
        yield json(&origin.hashes)?;
        yield text(",\"run\":");
        yield json(&RunBody::from(view))?;
        yield text(",\"journal\":[");
        let (mut after, mut first) = (0, true);
        loop {
            let page = engine.journal(&ns, run, after, BATCH).await?;
            let last = page.entries.iter().filter_map(|e| e.seq).max();
            yield items(&mut first, page.entries.into_iter().map(EntryBody::whole))?;
            match last {
                Some(seq) if seq < page.upto => after = seq,
                _ => break,
            }
        }
        yield text("],\"history\":[");
        let (mut after, mut first) = (-1, true);
        loop {
            let page = engine.history(&ns, run, after, BATCH).await?;
            let Some(last) = page.last() else { break };
            after = last.n;
            yield items(&mut first, page.into_iter().map(HistoryBody::from))?;
        }
        yield text("],\"logs\":[");
        let (mut after, mut first) = (-1, true);
        loop {
            let page = engine.logs(&ns, run, LogPart::Lines, after, BATCH).await?;
            let Some(last) = page.last() else { break };
            after = last.n;
            yield items(&mut first, page.into_iter().map(LogBody::from))?;
        }
        yield text("],\"outputs\":[");
        let (mut after, mut first) = (-1, true);
        loop {
            let page = engine.logs(&ns, run, LogPart::Chunks, after, BATCH).await?;
            let Some(last) = page.last() else { break };
            after = last.n;
            yield items(&mut first, page.into_iter().map(ChunkBody::from))?;
        }
        yield text("],\"signals\":[");
        let signals = engine.signals(&ns, run).await?;
        yield items(&mut true, signals.into_iter().map(SignalBody::from))?;
        yield text("]}");
    }
}

/// The same document for the archive, whoever may read the run.
pub(super) fn archived(
    engine: Engine,
    ns: Namespace,
    run: RunId,
) -> BoxStream<'static, Result<Bytes, Error>> {
    let document = try_stream! {
        let view = engine.view(&ns, run).await?;
        let origin = engine.origin(&ns, run).await?;
        for await part in export(engine, ns, view, origin) {
            yield part.map_err(|why| match why {
                ExportError::Engine(error) => error,
                ExportError::Json(error) => Error::Invalid(run.to_string(), error.to_string()),
            })?;
        }
    };
    document.boxed()
}

/// Why an export broke off.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(transparent)]
    Engine(#[from] Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn json(body: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    serde_json::to_vec(body).map(Bytes::from)
}

fn items<T: Serialize>(
    first: &mut bool,
    items: impl Iterator<Item = T>,
) -> Result<Bytes, serde_json::Error> {
    let mut out = Vec::new();
    for item in items {
        if !std::mem::take(first) {
            out.push(b',');
        }
        serde_json::to_writer(&mut out, &item)?;
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{RunId, Timestamp};

    fn view(status: Status) -> RunView {
        RunView {
            id: RunId::new(Timestamp::from_micros(0), 1),
            namespace: "default".to_owned(),
            function: "checkout".to_owned(),
            key: None,
            generation: 1,
            deployment: None,
            status,
            waiting_for: Vec::new(),
            attention: None,
            created_at: Timestamp::from_micros(0),
            started_at: None,
            ended_at: None,
            input: Some(Bytes::from_static(b"{ \"order\":3544790567247868102 }")),
            output: Some(Bytes::from_static(b" [1.0,  1e2]")),
            error: Some(Bytes::from_static(b"{\"type\":\"X\",\"n\":1.0}")),
            custom_status: None,
            tags: std::collections::BTreeMap::new(),
            settled: 3,
            pending: 1,
            invocations: 5,
            rerun_of: None,
            parent: None,
            schedule: None,
            erased_at: None,
            imported_at: None,
        }
    }

    async fn body(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    #[tokio::test]
    async fn a_result_is_the_bare_output() {
        let response = result(view(Status::Completed)).expect("completed");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(body(response).await, " [1.0,  1e2]");
    }

    #[tokio::test]
    async fn a_run_that_goes_on_is_202_with_its_payloads_as_they_came() {
        let response = result(view(Status::Waiting)).expect("goes on");
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        let body = body(response).await;
        assert!(body.contains(r#""input":{ "order":3544790567247868102 }"#), "{body}");
        assert!(body.contains(r#""steps":{"settled":3,"pending":1}"#), "{body}");
    }

    #[test]
    fn every_other_end_is_run_failed_with_the_error() {
        for status in [Status::Failed, Status::Cancelled, Status::TimedOut, Status::Terminated] {
            let problem = result(view(status)).expect_err("no output");
            assert_eq!(problem.code(), Code::RunFailed);
            let text = String::from_utf8(problem.body("", "")).expect("UTF-8");
            assert!(text.contains(r#""error":{"type":"X","n":1.0}"#), "{text}");
            assert!(text.contains(&format!(r#""run_status":"{}""#, status.word())), "{text}");
        }
    }
}
