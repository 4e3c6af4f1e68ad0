//! The audit log: every change through the API has an entry before it is made, and its result after.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::{ConnectInfo, MatchedPath, OriginalUri, Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::auth::{Admin, Checked, check};
use super::page::{self, Page};
use super::problem::Problem;
use super::request::{Params, collect, text};
use crate::engine::{ActAsked, AuditFilter, AuditRow, NODE_HEADER};
use crate::machine::{AuditId, Timestamp};

/// What runs are made of, and what only asks: the runs' own history and journal have it. All other
/// changes are noted, those of operations that are added later, too.
const NOT_NOTED: [&str; 14] = [
    "/v1/functions/{name}/runs",
    "/v1/functions/{function}/keys/{key}/signals/{name}",
    "/v1/runs/batch",
    "/v1/runs/{id}/signals/{name}",
    "/v1/runs/{id}/updates/{name}",
    "/v1/runs/{id}/queries/{name}",
    "/v1/runs/{id}/replay",
    "/v1/runs/{id}/checkpoint",
    "/v1/runs/{id}/answers/{invocation}",
    "/v1/endpoints/{endpoint}/poll",
    "/v1/callbacks/{secret}/{*step}",
    "/v1/callbacks/{secret}/{step}",
    "/v1/events",
    "/v1/demo",
];
/// What is kept of a header or a reason, in characters.
const KEPT: usize = 1_024;

/// Goes around every call under `/v1`.
pub(super) async fn noted(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    if !state.audited {
        return next.run(request).await;
    }
    match note(&state, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

fn action(request: &Request) -> Option<String> {
    // Another node has noted what it passes on.
    if request.method().is_safe() || request.headers().contains_key(NODE_HEADER) {
        return None;
    }
    let path = request.extensions().get::<MatchedPath>()?.as_str();
    (!NOT_NOTED.contains(&path))
        .then(|| format!("{} {}", request.method(), path.replace("{*", "{")))
}

async fn note(state: &ApiState, request: Request, next: Next) -> Result<Response, Problem> {
    let Some(action) = action(&request) else { return Ok(next.run(request).await) };
    let (parts, body) = request.into_parts();
    // Who is not let in is told so where everybody else is.
    let Ok(Checked::Caller(caller)) = check(state, &parts).await else {
        return Ok(next.run(Request::from_parts(parts, body)).await);
    };
    let body = collect(&parts, body).await?;
    let header = |name: &str| {
        let text = parts.headers.get(name).and_then(|v| v.to_str().ok())?;
        Some(text.chars().take(KEPT).collect::<String>())
    };
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let asked = ActAsked {
        peer: peer.map(|ConnectInfo(peer)| peer.ip().to_canonical().to_string()),
        forwarded_for: header("x-forwarded-for").or_else(|| header("forwarded")),
        action,
        target: parts.uri.path().chars().take(KEPT).collect(),
        reason: reason(&parts.headers, &body),
        request_id: header("x-request-id").unwrap_or_default(),
    };
    let id = state.engine.note_act(&caller, asked).await?;
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    let code = response.extensions().get::<Problem>().map(|p| p.code().slug());
    let status = response.status().as_u16();
    state.engine.act_came(&caller.namespace, id, status, code).await;
    Ok(response)
}

/// The reason in a body, if it has one.
fn reason(headers: &HeaderMap, body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, alias = "note")]
        reason: Option<String>,
    }
    headers.contains_key("content-type").then_some(())?;
    let body: Body = serde_json::from_slice(body).ok()?;
    let reason = body.reason?.replace('\0', "");
    Some(reason.chars().take(KEPT).collect())
}

/// An entry of the audit log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub(super) struct AuditBody {
    #[schema(value_type = String)]
    id: AuditId,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// The name of an API key, `jwt:` and the subject of a JWT, or `local`.
    by: String,
    /// The address that the request came from.
    from: Option<String>,
    /// What the request says of where it came from before that; nobody has checked it.
    forwarded_for: Option<String>,
    /// The operation, as this reference has it.
    #[schema(example = "POST /v1/endpoints/{endpoint}/drain")]
    action: String,
    /// The path as it was asked for.
    target: String,
    /// Why, if they said.
    reason: Option<String>,
    request_id: String,
    /// The status of the answer; null: the node died meanwhile, and it may be done or not.
    status: Option<u16>,
    /// The code of the problem that it was answered with.
    code: Option<String>,
}

impl From<AuditRow> for AuditBody {
    fn from(row: AuditRow) -> Self {
        let act = row.act;
        Self {
            id: act.id,
            at: act.at,
            by: act.by,
            from: act.peer,
            forwarded_for: act.forwarded_for,
            action: act.action,
            target: act.target,
            reason: act.reason,
            request_id: act.request_id,
            status: row.status,
            code: row.code,
        }
    }
}

/// List who did what, the newest first.
///
/// Every change through the API but what runs are made of: starts, signals, updates and events are in
/// the histories of their runs. Kept for 400 days.
#[utoipa::path(
    get, path = "/v1/audit", tag = "keys",
    params(
        ("by" = Option<String>, Query, description = "Of this key, subject (`jwt:ann`) or `local`"),
        ("action" = Option<String>, Query, description = "Of this operation: `POST /v1/keys`"),
        ("target" = Option<String>, Query, description = "Whose path begins so: `/v1/endpoints/shop`"),
        ("since" = Option<String>, Query, description = "From this moment on"),
        ("until" = Option<String>, Query, description = "Before this moment"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of entries", body = Page<AuditBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn list_audit(
    State(state): State<ApiState>,
    Admin(caller): Admin,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let limit = params.limit();
    let filter = AuditFilter {
        by: params.one("by", text),
        action: params.one("action", text),
        target: params.one("target", text),
        since: params.moment("since"),
        until: params.moment("until"),
        before: page::cursor(&mut params),
        // One more tells whether there is a next page.
        limit: i64::try_from(limit + 1).unwrap_or(i64::MAX),
    };
    params.finish()?;
    let mut rows = state.engine.acts(&caller.namespace, &filter).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.act.id);
    Ok(Page::new(rows.into_iter().map(AuditBody::from).collect(), next).answer(&uri))
}
