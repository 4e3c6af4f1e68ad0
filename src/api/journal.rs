//! A run's steps, their values, and what happened to the run.

use std::time::Duration;

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::{Insider, Reader};
use super::catalogue::Code;
use super::page::{Page, next_link, with_link};
use super::problem::Problem;
use super::request::{At, Headers, Params, is_known, run_id};
use super::runs::bare;
use super::shapes::{ChunkBody, EntryBody, HistoryBody, LogBody, StepBody, hex};
use crate::engine::{JournalPage, Namespace};
use crate::machine::{LogPart, RunId};

/// A part of a journal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JournalPage)]
pub(super) struct JournalBody {
    /// Settled steps in commit order, then, on the last page, the pending ones.
    data: Vec<EntryBody>,
    /// For `?after=` of the next page; null on the last.
    next_cursor: Option<String>,
    /// How many steps are settled in all.
    upto: i32,
    /// Of which generation of the run this is the journal.
    generation: i32,
}

/// The steps of a run in commit order.
///
/// With `wait` it answers when there is a settled step after `after`, the run has ended, or the
/// time is up. Handlers read it with the token of their invocation.
#[utoipa::path(
    get, path = "/v1/runs/{id}/journal", tag = "journal",
    params(
        ("id" = String, Path, description = "The run"),
        ("after" = Option<i32>, Query, minimum = 0, description = "Only steps with a larger `seq`"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("wait" = Option<String>, Query, description = "Wait for a step after `after`; at most 300 s"),
        ("Prefer" = Option<String>, Header, description = "`wait=30`, in place of the parameter"),
    ),
    responses((status = 200, description = "A part of the journal", body = JournalBody, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    security(("api_key" = []), ("invocation_token" = [])),
    extensions(("x-problems" = json!(["run-not-found", "invalid-token", "stale-epoch"])))
)]
pub(super) async fn get_journal(
    State(state): State<ApiState>,
    insider: Insider,
    At(id): At<String>,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    let after = params.number("after", 0, i32::MAX.into()).unwrap_or(0);
    let after = i32::try_from(after).unwrap_or(i32::MAX);
    let limit = params.limit();
    let wait = params.wait();
    params.finish()?;
    let ns = insider.of(&state, run).await?;
    let page = match wait {
        None => state.engine.journal(&ns, run, after, limit).await?,
        Some(wait) => journal_after(&state, &ns, run, after, limit, wait).await?,
    };
    let last = page.entries.iter().filter_map(|e| e.seq).max();
    let next = last.filter(|seq| *seq < page.upto).map(|seq| seq.to_string());
    let link = next.as_deref().map(|after| next_link(&uri, "after", after));
    let data = page.entries.into_iter().map(EntryBody::of).collect();
    let body =
        JournalBody { data, next_cursor: next, upto: page.upto, generation: page.generation };
    Ok(with_link(Json(body).into_response(), link))
}

/// The journal once it has something after `after`.
async fn journal_after(
    state: &ApiState,
    ns: &Namespace,
    run: RunId,
    after: i32,
    limit: usize,
    wait: Duration,
) -> Result<JournalPage, Problem> {
    let deadline = Instant::now() + wait;
    // Watched before it is read: what is committed in between wakes us.
    let mut changes = state.engine.changes(run);
    loop {
        // The run first: if it has ended, what is read after it is complete.
        let ended = state.engine.view(ns, run).await?.status.ended();
        let page = state.engine.journal(ns, run, after, limit).await?;
        // `upto` may be more, and nothing to show for it: what was taken back, or what has settled
        // since, which wakes us.
        let settled = page.entries.iter().any(|e| e.seq.is_some());
        if settled || ended {
            return Ok(page);
        }
        tokio::select! {
            () = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => return Ok(page),
            () = state.shutdown.cancelled() => return Ok(page),
        }
    }
}

/// One step, with its value and its failed attempts.
#[utoipa::path(
    get, path = "/v1/runs/{id}/steps/{*step}", tag = "journal",
    params(
        ("id" = String, Path, description = "The run"),
        ("step" = String, Path, description = "The step; slashes as they are or percent-encoded"),
    ),
    responses((status = 200, description = "The step", body = StepBody)),
    extensions(("x-problems" = json!(["run-not-found", "step-not-found"])))
)]
pub(super) async fn get_step(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At((id, step)): At<(String, String)>,
    params: Params,
) -> Result<Json<StepBody>, Problem> {
    let run = run_id(&id)?;
    params.finish()?;
    let found = state.engine.step(&caller.namespace, run, &step).await?;
    found.map(|step| Json(step.into())).ok_or_else(|| no_step(run, &step))
}

fn no_step(run: RunId, step: &str) -> Problem {
    let step: String = step.chars().take(256).collect();
    Problem::new(Code::StepNotFound, format!("Run {run} has no such step, or the step no value."))
        .with("run", run)
        .with("step", step)
}

/// The bare value of a step; it never changes.
///
/// Handlers read it with the token of their invocation.
#[utoipa::path(
    get, path = "/v1/runs/{id}/values/{*step}", tag = "journal",
    params(
        ("id" = String, Path, description = "The run"),
        ("step" = String, Path, description = "The step; slashes as they are or percent-encoded"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of the value, if it is at hand"),
    ),
    responses(
        (status = 200, description = "The value, byte for byte", body = serde_json::Value, headers(
            ("ETag" = String, description = "Of its bytes"))),
        (status = 304, description = "The value is at hand"),
    ),
    security(("api_key" = []), ("invocation_token" = [])),
    extensions(("x-problems" = json!(["run-not-found", "step-not-found", "invalid-token", "stale-epoch"])))
)]
pub(super) async fn get_value(
    State(state): State<ApiState>,
    insider: Insider,
    At((id, step)): At<(String, String)>,
    params: Params,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    params.finish()?;
    let ns = insider.of(&state, run).await?;
    let value = state.engine.value(&ns, run, &step).await?.ok_or_else(|| no_step(run, &step))?;
    let etag = format!("\"{}\"", hex(&Sha256::digest(&value)));
    let known = is_known(&headers, &etag);
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { bare(value) };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, HeaderValue::try_from(etag).expect("hex in quotes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, immutable"));
    Ok(response)
}

/// What happened to a run: starts, invocations, failed attempts, signals, acts of operators.
#[utoipa::path(
    get, path = "/v1/runs/{id}/history", tag = "journal",
    params(
        ("id" = String, Path, description = "The run"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of the history, old to new", body = Page<HistoryBody>,
        headers(("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!(["run-not-found"])))
)]
pub(super) async fn get_history(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(id): At<String>,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    let limit = params.limit();
    let after = super::page::cursor(&mut params).unwrap_or(-1);
    params.finish()?;
    // One more than asked for tells whether the list goes on.
    let mut items = state.engine.history(&caller.namespace, run, after, limit + 1).await?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(|i| i.n) } else { None };
    Ok(Page::new(items.into_iter().map(HistoryBody::from).collect(), next).answer(&uri))
}

/// What a run has put out on one of its output streams, by offset.
///
/// With `wait` it answers when there is something after `after`, the run has ended, or the time is
/// up. Live, as events: `/v1/runs/{id}/stream?output=…`.
#[utoipa::path(
    get, path = "/v1/runs/{id}/outputs/{output}", tag = "journal",
    params(
        ("id" = String, Path, description = "The run"),
        ("output" = String, Path, description = "The output stream"),
        ("after" = Option<i64>, Query, minimum = 0, description = "Only what comes after this offset"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("wait" = Option<String>, Query, description = "Wait for something after `after`; at most 300 s"),
        ("Prefer" = Option<String>, Header, description = "`wait=30`, in place of the parameter"),
    ),
    responses((status = 200, description = "Chunks, old to new", body = Page<ChunkBody>,
        headers(("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!(["run-not-found"])))
)]
pub(super) async fn get_output(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At((id, output)): At<(String, String)>,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    let limit = params.limit();
    let after = params.number("after", 0, i64::MAX).unwrap_or(-1);
    let wait = params.wait();
    params.finish()?;
    let deadline = Instant::now() + wait.unwrap_or_default();
    // Watched before it is read: what is committed in between wakes us.
    let mut changes = state.engine.changes(run);
    let mut chunks = loop {
        // The run first: if it has ended, what is read after it is complete.
        let ended = state.engine.view(&caller.namespace, run).await?.status.ended();
        let part = LogPart::Stream(&output);
        let chunks = state.engine.logs(&caller.namespace, run, part, after, limit + 1).await?;
        if wait.is_none() || ended || !chunks.is_empty() {
            break chunks;
        }
        tokio::select! {
            () = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => break chunks,
            () = state.shutdown.cancelled() => break chunks,
        }
    };
    let more = chunks.len() > limit;
    chunks.truncate(limit);
    let next = if more { chunks.last().map(|i| i.n.to_string()) } else { None };
    let link = next.as_deref().map(|after| next_link(&uri, "after", after));
    let data: Vec<ChunkBody> = chunks.into_iter().map(ChunkBody::from).collect();
    Ok(with_link(Json(Page::by_offset(data, next)).into_response(), link))
}

/// What a run's handler logged.
#[utoipa::path(
    get, path = "/v1/runs/{id}/logs", tag = "journal",
    params(
        ("id" = String, Path, description = "The run"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of the log, old to new", body = Page<LogBody>,
        headers(("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!(["run-not-found"])))
)]
pub(super) async fn get_logs(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(id): At<String>,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let run = run_id(&id)?;
    let limit = params.limit();
    let after = super::page::cursor(&mut params).unwrap_or(-1);
    params.finish()?;
    let lines = state.engine.logs(&caller.namespace, run, LogPart::Lines, after, limit + 1);
    let mut lines = lines.await?;
    let more = lines.len() > limit;
    lines.truncate(limit);
    let next = if more { lines.last().map(|i| i.n) } else { None };
    Ok(Page::new(lines.into_iter().map(LogBody::from).collect(), next).answer(&uri))
}
