//! Errors by their kind: lists of what runs failed or paused by, and what people make of them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::acts::{ActRequest, reason};
use super::auth::{Operator, Reader};
use super::bulk::CountBody;
use super::catalogue::Code;
use super::fields;
use super::page::{self, Page};
use super::problem::Problem;
use super::request::{At, Params, Sent, text};
use crate::engine::{Caller, ErrorSearch, ErrorState, ErrorView, Fingerprint, Status};
use crate::machine::{DeploymentId, RunId, Timestamp};

/// What runs can have an error in.
const STATUSES: [Status; 3] = [Status::Failed, Status::TimedOut, Status::Paused];

/// A kind of error: what runs of a function failed or paused by.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ErrorGroup)]
pub(super) struct ErrorBody {
    /// The same for all runs that failed alike; for `?fingerprint=` of lists and `filter` of `/v1/bulk`.
    #[schema(value_type = String, example = "8f3c02ab77de81408f3c02ab77de8140")]
    fingerprint: Fingerprint,
    function: String,
    /// The step that had failed last; null: none had.
    step: Option<String>,
    /// The type of the error, or the code of the pause.
    #[schema(example = "CardDeclined")]
    code: String,
    /// The message without numbers, ids and texts in quotes.
    #[schema(example = "card <n> was declined")]
    message: String,
    /// The message as the first run had it.
    example: String,
    /// Runs that have it now, counted to 1,000 of each status.
    count: CountBody,
    /// The same by status.
    by_status: BTreeMap<&'static str, i64>,
    #[schema(value_type = String, format = DateTime)]
    first_seen: Timestamp,
    /// When the newest run that has it ended or paused.
    #[schema(value_type = String, format = DateTime)]
    last_seen: Timestamp,
    /// That run.
    #[schema(value_type = String)]
    run: RunId,
    /// Where the newest of its runs were invoked last.
    #[schema(value_type = Vec<String>)]
    deployments: Vec<DeploymentId>,
    /// Runs that have it now by the hour of their start, the last 24 hours, the oldest first; of the newest
    /// 1,000 runs of each status.
    #[schema(value_type = Vec<i64>, min_items = 24, max_items = 24)]
    hourly: [i64; 24],
    /// `open`; `resolved`, until it comes back; or `ignored`.
    #[schema(value_type = String, pattern = "^(open|resolved|ignored)$", example = "open")]
    state: &'static str,
    /// Since when it is resolved; of one that has come back: when it was.
    #[schema(value_type = Option<String>, format = DateTime)]
    resolved_at: Option<Timestamp>,
    /// Who resolved it.
    resolved_by: Option<String>,
    /// Since when it is ignored.
    #[schema(value_type = Option<String>, format = DateTime)]
    ignored_at: Option<Timestamp>,
    /// Who ignores it.
    ignored_by: Option<String>,
    /// Why it is, or was, resolved or ignored.
    reason: Option<String>,
    /// When a run failed or paused by it again after it was resolved; null: none has.
    #[schema(value_type = Option<String>, format = DateTime)]
    returned_at: Option<Timestamp>,
}

impl From<ErrorView> for ErrorBody {
    fn from(view: ErrorView) -> Self {
        let count = view.count().into();
        let did = (view.state_at, view.state_by);
        let (resolved, ignored) = if view.state == ErrorState::Ignored {
            ((None, None), did)
        } else {
            (did, (None, None))
        };
        Self {
            state: view.state.word(),
            resolved_at: resolved.0,
            resolved_by: resolved.1,
            ignored_at: ignored.0,
            ignored_by: ignored.1,
            reason: view.reason,
            returned_at: view.returned_at,
            count,
            by_status: view.by_status.iter().map(|(s, n)| (s.word(), n.count)).collect(),
            fingerprint: view.fingerprint,
            function: view.function,
            step: view.step,
            code: view.code,
            message: view.message,
            example: view.example,
            first_seen: view.first_seen,
            last_seen: view.last_seen,
            run: view.run,
            deployments: view.deployments,
            hourly: view.hourly,
        }
    }
}

/// Where a page ended.
struct Place((Timestamp, Fingerprint));

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, id) = self.0;
        write!(f, "{} {id}", at.as_micros())
    }
}

impl FromStr for Place {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (at, id) = text.split_once(' ').ok_or(())?;
        let at = Timestamp::from_micros(at.parse().map_err(|_| ())?);
        Ok(Self((at, id.parse().map_err(|_| ())?)))
    }
}

/// List errors by their kind, the last seen first.
///
/// Runs that failed, timed out, or were paused by something else than a person are of one kind if
/// function, step, code and message agree, where numbers, ids and texts in quotes do not count. Of the
/// thousand kinds that were seen first last, of the states and functions that are asked for.
#[utoipa::path(
    get, path = "/v1/errors", tag = "errors",
    params(
        ("function" = Option<Vec<String>>, Query, explode, description = "Their function"),
        ("status" = Option<Vec<String>>, Query, explode, description = "That a run has which is `failed`, `timed_out` or `paused`"),
        ("state" = Option<Vec<String>>, Query, explode, description = "That are `open`, `resolved` or `ignored`"),
        ("seen_after" = Option<String>, Query, description = "Last seen at this moment or later, RFC 3339"),
        ("seen_before" = Option<String>, Query, description = "First seen before this moment, RFC 3339"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of kinds", body = Page<ErrorBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn list_errors(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let search = ErrorSearch {
        functions: params.all("function", text),
        statuses: params.all("status", |word| {
            let found = STATUSES.into_iter().find(|s| s.word() == word);
            found.ok_or_else(|| format!("`{word}` is none of failed, timed_out, paused"))
        }),
        states: params.all("state", |word| {
            let found = ErrorState::ALL.into_iter().find(|s| s.word() == word);
            found.ok_or_else(|| format!("`{word}` is none of open, resolved, ignored"))
        }),
        seen_after: params.moment("seen_after"),
        seen_before: params.moment("seen_before"),
        limit: params.limit(),
        after: page::cursor::<Place>(&mut params).map(|place| place.0),
    };
    params.finish()?;
    let page = state.engine.errors(&caller.namespace, search).await?;
    let data = page.errors.into_iter().map(ErrorBody::from).collect();
    Ok(Page::new(data, page.next.map(Place)).answer(&uri))
}

fn named(fingerprint: &str) -> Result<Fingerprint, Problem> {
    fingerprint.parse().map_err(|why| {
        Problem::new(Code::ErrorNotFound, format!("There is no such error: it {why}."))
    })
}

/// Read a kind of error.
#[utoipa::path(
    get, path = "/v1/errors/{fingerprint}", tag = "errors",
    params(("fingerprint" = String, Path, description = "Its fingerprint")),
    responses((status = 200, description = "The kind", body = ErrorBody)),
    extensions(("x-problems" = json!(["error-not-found"])))
)]
pub(super) async fn get_error(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(fingerprint): At<String>,
    params: Params,
) -> Result<Json<ErrorBody>, Problem> {
    let which = named(&fingerprint)?;
    params.finish()?;
    Ok(Json(state.engine.error(&caller.namespace, which).await?.into()))
}

/// Resolve a kind of error, until it comes back.
///
/// Once a run fails or pauses by it after that, it is open again by itself, and `returned_at` says since
/// when. Its runs stay as they are. What is resolved already stays resolved since then.
#[utoipa::path(
    post, path = "/v1/errors/{fingerprint}/resolve", tag = "errors",
    params(("fingerprint" = String, Path, description = "Its fingerprint")),
    request_body(content = Option<ActRequest>, content_type = "application/json"),
    responses((status = 200, description = "Resolved", body = ErrorBody)),
    extensions(("x-problems" = json!(["error-not-found"])))
)]
pub(super) async fn resolve_error(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(fingerprint): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Json<ErrorBody>, Problem> {
    mark(&state, &caller, &fingerprint, params, &sent, ErrorState::Resolved).await
}

/// Ignore a kind of error, until it is reopened, however many runs have it.
#[utoipa::path(
    post, path = "/v1/errors/{fingerprint}/ignore", tag = "errors",
    params(("fingerprint" = String, Path, description = "Its fingerprint")),
    request_body(content = Option<ActRequest>, content_type = "application/json"),
    responses((status = 200, description = "Ignored", body = ErrorBody)),
    extensions(("x-problems" = json!(["error-not-found"])))
)]
pub(super) async fn ignore_error(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(fingerprint): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Json<ErrorBody>, Problem> {
    mark(&state, &caller, &fingerprint, params, &sent, ErrorState::Ignored).await
}

/// Reopen a kind of error that is resolved or ignored.
///
/// One that is open because it came back is open as if nobody had resolved it.
#[utoipa::path(
    post, path = "/v1/errors/{fingerprint}/reopen", tag = "errors",
    params(("fingerprint" = String, Path, description = "Its fingerprint")),
    request_body(content = Option<ActRequest>, content_type = "application/json"),
    responses((status = 200, description = "Open", body = ErrorBody)),
    extensions(("x-problems" = json!(["error-not-found"])))
)]
pub(super) async fn reopen_error(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(fingerprint): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Json<ErrorBody>, Problem> {
    mark(&state, &caller, &fingerprint, params, &sent, ErrorState::Open).await
}

async fn mark(
    state: &ApiState,
    caller: &Caller,
    fingerprint: &str,
    params: Params,
    sent: &Sent,
    to: ErrorState,
) -> Result<Json<ErrorBody>, Problem> {
    let which = named(fingerprint)?;
    params.finish()?;
    let reason = fields::read(&sent.0, reason)?;
    let (ns, by) = (&caller.namespace, &caller.by);
    Ok(Json(state.engine.mark_error(ns, which, to, by, reason.as_deref()).await?.into()))
}
