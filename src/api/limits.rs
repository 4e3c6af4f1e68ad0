//! Flow control: who is on its way and who waits, pauses of functions and of single keys.

use std::fmt;
use std::str::FromStr;

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::acts::reason;
use super::auth::{Deployer, Reader};
use super::endpoint_shapes::FunctionBody;
use super::fields::{self, Fields};
use super::page::{self, Page};
use super::problem::Problem;
use super::request::{At, Params, Sent, text};
use crate::engine::{LimitKey, LimitName, LimitOf, LimitView, PausedView};
use crate::machine::Timestamp;
use crate::machine::time::format_duration;

/// Since when, by whom and why something is paused.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Pause)]
pub(super) struct PauseBody {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    by: String,
    reason: Option<String>,
}

impl From<PausedView> for PauseBody {
    fn from(p: PausedView) -> Self {
        Self { at: p.at, by: p.by, reason: p.reason }
    }
}

/// A limit at one value of its key, with who goes through it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Limit)]
pub(super) struct LimitBody {
    /// `concurrency`, `throttle` or `rate_limit`.
    kind: &'static str,
    /// The function whose limit it is; null: it is an endpoint's.
    function: Option<String>,
    /// The endpoint whose limit it is.
    endpoint: Option<String>,
    /// The path of its key; null: it has none.
    key: Option<String>,
    /// The value at that path.
    value: Option<String>,
    /// How many it lets through; null: the function has this limit no more.
    limit: Option<u32>,
    /// The path whose values take turns among runs that wait; null: the older run goes first.
    fair: Option<String>,
    /// What a slot covers: `invocation` (an open exchange, task or call) or `run`.
    per: Option<&'static str>,
    /// Of a throttle and a rate limit: in which time.
    period: Option<String>,
    /// Runs that it lets through now.
    running: u64,
    /// Runs that wait, counted up to 10,000.
    queued: u64,
    /// Nobody is let through; null: it is not paused.
    paused: Option<PauseBody>,
}

impl From<LimitView> for LimitBody {
    fn from(l: LimitView) -> Self {
        Self {
            kind: l.kind,
            function: l.function,
            endpoint: l.endpoint,
            key: l.key,
            value: l.value,
            limit: l.limit,
            fair: l.fair,
            per: l.per,
            period: l.period.map(format_duration),
            running: l.running,
            queued: l.queued,
            paused: l.paused.map(Into::into),
        }
    }
}

/// Where a page ended.
struct Place(LimitKey);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, id) = match self.0.of {
            LimitOf::Function(id) => ("f", id),
            LimitOf::Endpoint(id) => ("e", id),
        };
        write!(f, "{kind} {id} {} {}{}", self.0.rule.len(), self.0.rule, self.0.key)
    }
}

impl FromStr for Place {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(4, ' ');
        let mut next = || parts.next().ok_or(());
        let (kind, id, length, rest) = (next()?, next()?, next()?, next()?);
        let id = id.parse().map_err(|_| ())?;
        let of = if kind == "f" { LimitOf::Function(id) } else { LimitOf::Endpoint(id) };
        let (rule, key) = rest.split_at_checked(length.parse().map_err(|_| ())?).ok_or(())?;
        if rule.contains('\0') || key.contains('\0') {
            return Err(());
        }
        Ok(Self(LimitKey { of, rule: rule.to_owned(), key: key.to_owned() }))
    }
}

/// List the limits that are in use: each at each value of its key.
///
/// A value that nobody has used for a day is not listed.
#[utoipa::path(
    get, path = "/v1/limits", tag = "limits",
    params(
        ("function" = Option<String>, Query, description = "Of this function alone"),
        ("value" = Option<String>, Query, description = "At this value of their key alone"),
        ("waiting" = Option<bool>, Query, description = "`true`: only where runs wait, or that are paused"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of limits", body = Page<LimitBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!(["function-not-found"])))
)]
pub(super) async fn list_limits(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let limit = params.limit();
    let function = params.one("function", text);
    let value = params.one("value", text);
    let waiting = params
        .one("waiting", |text| text.parse::<bool>().map_err(|_| "is `true` or `false`".to_owned()));
    let after = page::cursor::<Place>(&mut params).map(|Place(at)| at);
    params.finish()?;
    let (function, value) = (function.as_deref(), value.as_deref());
    let ns = &caller.namespace;
    let waiting = waiting.unwrap_or_default();
    // One more tells whether there is a next page.
    let rows =
        state.engine.limits_of(ns, function, value, waiting, after.as_ref(), limit + 1).await;
    let mut rows = rows?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| Place(row.at.clone()));
    Ok(Page::new(rows.into_iter().map(LimitBody::from).collect(), next).answer(&uri))
}

/// Which limit, and why.
#[derive(ToSchema)]
#[schema(as = LimitPause)]
#[expect(dead_code, reason = "describes what `named` reads")]
pub(super) struct LimitPauseRequest {
    #[schema(max_length = 256, min_length = 1)]
    function: String,
    /// The path of the key of one of its `concurrency`; left out: the one without a key.
    #[schema(example = "input.tenant")]
    key: Option<String>,
    /// The value of that key.
    #[schema(max_length = 256)]
    value: Option<String>,
    /// Why, for who meets it.
    #[schema(max_length = 1024)]
    reason: Option<String>,
}

fn named(f: &mut Fields<'_>) -> (LimitName, Option<String>) {
    let function = f.text("function", 256);
    let function = f.need("function", function).unwrap_or_default();
    let key = f.text("key", 256);
    let value = f.parsed("value", |text| {
        if text.len() > 256 || text.contains('\0') {
            return Err("has at most 256 bytes and no zero in it".to_owned());
        }
        Ok(text.to_owned())
    });
    (LimitName { function, key, value }, reason(f))
}

/// Let nobody through at one value of a limit's key.
///
/// Runs that are on their way go on; others wait, also those that are started.
#[utoipa::path(
    post, path = "/v1/limits/pause", tag = "limits",
    request_body(content = LimitPauseRequest),
    responses((status = 200, description = "Paused", body = LimitBody)),
    extensions(("x-problems" = json!(["function-not-found"])))
)]
pub(super) async fn pause_limit(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    params: Params,
    sent: Sent,
) -> Result<Json<LimitBody>, Problem> {
    params.finish()?;
    let (name, reason) = fields::read(&sent.0, named)?;
    let ns = &caller.namespace;
    let view = state.engine.pause_limit(ns, &name, &caller.by, reason.as_deref()).await?;
    Ok(Json(view.into()))
}

/// Let runs through again at one value of a limit's key.
#[utoipa::path(
    post, path = "/v1/limits/resume", tag = "limits",
    request_body(content = LimitPauseRequest),
    responses((status = 200, description = "Not paused any more", body = LimitBody)),
    extensions(("x-problems" = json!(["function-not-found"])))
)]
pub(super) async fn resume_limit(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    params: Params,
    sent: Sent,
) -> Result<Json<LimitBody>, Problem> {
    params.finish()?;
    let (name, _) = fields::read(&sent.0, named)?;
    Ok(Json(state.engine.resume_limit(&caller.namespace, &name, &caller.by).await?.into()))
}

/// Why it is paused, or goes on.
#[derive(ToSchema)]
#[schema(as = FunctionPause)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct FunctionPauseRequest {
    /// For who meets it.
    #[schema(max_length = 1024)]
    reason: Option<String>,
}

/// Invoke no run of a function.
///
/// Starts are taken; what was asked for before goes on to the end of its exchange. Its runs are
/// `parked` until it is resumed.
#[utoipa::path(
    post, path = "/v1/functions/{name}/pause", tag = "limits",
    params(("name" = String, Path, description = "The function")),
    request_body(content = Option<FunctionPauseRequest>),
    responses((status = 200, description = "Paused", body = FunctionBody)),
    extensions(("x-problems" = json!(["function-not-found"])))
)]
pub(super) async fn pause_function(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Json<FunctionBody>, Problem> {
    params.finish()?;
    let reason = fields::read(&sent.0, reason)?;
    let ns = &caller.namespace;
    let view = state.engine.pause_function(ns, &name, &caller.by, reason.as_deref()).await?;
    Ok(Json(view.into()))
}

/// Let the runs of a function go on.
#[utoipa::path(
    post, path = "/v1/functions/{name}/resume", tag = "limits",
    params(("name" = String, Path, description = "The function")),
    request_body(content = Option<FunctionPauseRequest>),
    responses((status = 200, description = "Not paused any more", body = FunctionBody)),
    extensions(("x-problems" = json!(["function-not-found"])))
)]
pub(super) async fn resume_function(
    State(state): State<ApiState>,
    Deployer(caller): Deployer,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Json<FunctionBody>, Problem> {
    params.finish()?;
    let reason = fields::read(&sent.0, reason)?;
    let ns = &caller.namespace;
    let view = state.engine.resume_function(ns, &name, &caller.by, reason.as_deref()).await?;
    Ok(Json(view.into()))
}
