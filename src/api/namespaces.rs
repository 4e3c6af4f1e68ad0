//! Namespaces: what each may have and do. Who looks after all of them is `admin` in `default`.

use std::time::Duration;

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::{Admin, Reader};
use super::catalogue::Code;
use super::fields::{self, Fields};
use super::page::{Cut, Page};
use super::problem::Problem;
use super::request::{At, Headers, Params, Sent, at_hand, check_version};
use crate::engine::{
    Caller, Error, Kept, LEAST_RETENTION, NamespaceRow, NamespaceSettings, host_pattern,
};
use crate::machine::Timestamp;
use crate::machine::time::format_duration;

/// The most hosts of one namespace.
const MOST_HOSTS: usize = 100;

/// What a namespace may have.
#[derive(ToSchema)]
#[schema(as = NamespaceLimitsRequest)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct LimitsRequest {
    /// Runs that have not ended, in the whole cluster; null: any number.
    #[schema(minimum = 1, maximum = 100_000_000)]
    live_runs: Option<u32>,
    /// Starts by API, batch and SQL at one node, such as `100/10s`; null: any number.
    #[schema(pattern = r"^[1-9][0-9]{0,5}/[1-9][0-9]{0,3}s$", example = "100/10s")]
    starts: Option<String>,
    /// Requests of all its credentials at one node; null: any number.
    #[schema(pattern = r"^[1-9][0-9]{0,5}/[1-9][0-9]{0,3}s$", example = "1000/1s")]
    requests: Option<String>,
}

/// How long ended runs are kept, by how they ended: from `1h` to what the gateway keeps; null: that.
#[derive(ToSchema)]
#[schema(as = RetentionRequest)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct RetentionRequest {
    #[schema(example = "24h", pattern = "^[1-9][0-9]?h$")]
    completed: Option<String>,
    #[schema(pattern = "^[1-9][0-9]?h$")]
    failed: Option<String>,
    #[schema(pattern = "^[1-9][0-9]?h$")]
    cancelled: Option<String>,
    #[schema(pattern = "^[1-9][0-9]?h$")]
    timed_out: Option<String>,
    #[schema(pattern = "^[1-9][0-9]?h$")]
    terminated: Option<String>,
}

/// A namespace to make.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct NamespaceRequest {
    /// Unique; it stays.
    #[schema(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$")]
    name: String,
    /// What it may have.
    limits: Option<LimitsRequest>,
    /// Where its handlers, webhooks and calls may be; null: anywhere.
    #[schema(example = json!(["api.example.com", "*.example.com"]), max_items = 100, value_type = Option<Vec<String>>)]
    hosts: Option<Vec<String>>,
    /// How long its ended runs are kept.
    retention: Option<RetentionRequest>,
}

/// A change of a namespace: what is left out stays.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct PatchNamespaceRequest {
    /// What it may have.
    limits: Option<LimitsRequest>,
    /// Where its handlers, webhooks and calls may be; null: anywhere.
    #[schema(max_items = 100, value_type = Option<Vec<String>>)]
    hosts: Option<Vec<String>>,
    /// How long its ended runs are kept.
    retention: Option<RetentionRequest>,
}

/// What a namespace may have; null: any number.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NamespaceLimits)]
pub(super) struct LimitsBody {
    live_runs: Option<u32>,
    #[schema(example = "100/10s")]
    starts: Option<String>,
    #[schema(example = "1000/1s")]
    requests: Option<String>,
}

/// How long ended runs are kept, by how they ended; null: as long as the gateway keeps them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NamespaceRetention)]
pub(super) struct RetentionBody {
    completed: Option<String>,
    failed: Option<String>,
    cancelled: Option<String>,
    timed_out: Option<String>,
    terminated: Option<String>,
}

impl From<Kept> for RetentionBody {
    fn from(kept: Kept) -> Self {
        let text = |kept: Option<Duration>| kept.map(format_duration);
        Self {
            completed: text(kept.completed),
            failed: text(kept.failed),
            cancelled: text(kept.cancelled),
            timed_out: text(kept.timed_out),
            terminated: text(kept.terminated),
        }
    }
}

/// A namespace.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Namespace)]
pub(super) struct NamespaceBody {
    name: String,
    limits: LimitsBody,
    /// Where its handlers, webhooks and calls may be; null: anywhere.
    hosts: Option<Vec<String>>,
    retention: RetentionBody,
    /// Its live runs, counted up to 10,000 or what it may have. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    live_runs: Option<u64>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl NamespaceBody {
    fn of(row: NamespaceRow, live_runs: Option<u64>) -> Self {
        let NamespaceSettings { live_runs: most, starts, requests, hosts, retention } =
            row.settings;
        let limits = LimitsBody {
            live_runs: most,
            starts: starts.map(|a| a.to_string()),
            requests: requests.map(|a| a.to_string()),
        };
        let (created_at, updated_at) = (row.created_at, row.updated_at);
        Self {
            name: row.name,
            limits,
            hosts,
            retention: retention.into(),
            live_runs,
            created_at,
            updated_at,
        }
    }
}

fn etag(row: &NamespaceRow) -> HeaderValue {
    HeaderValue::try_from(format!("\"{}\"", row.version)).expect("a number in quotes")
}

fn answer(status: StatusCode, row: NamespaceRow, live_runs: Option<u64>) -> Response {
    let headers = [(header::ETAG, etag(&row))];
    (status, headers, Json(NamespaceBody::of(row, live_runs))).into_response()
}

/// Refuses who does not look after all namespaces.
pub(super) fn operator(caller: &Caller) -> Result<(), Problem> {
    if caller.is_operator() {
        return Ok(());
    }
    let detail = "This is for admins of the namespace `default`, who look after all namespaces.";
    Err(Problem::new(Code::OperatorsOnly, detail))
}

pub(super) fn namespace_name(text: &str) -> Result<String, String> {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
    if first && rest && text.len() <= 63 {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 63 of a-z, 0-9, `-` and `_`, and begin with a letter or digit".to_owned())
    }
}

/// Reads what is to be changed of a namespace.
fn settings(
    f: &mut Fields<'_>,
    mut now: NamespaceSettings,
    longest: Duration,
) -> NamespaceSettings {
    let set = &mut now;
    f.object("limits", |f| {
        if f.is_null("live_runs") {
            set.live_runs = None;
        } else if let Some(most) = f.value("live_runs") {
            if !(1..=100_000_000).contains(&most) {
                f.fault("live_runs", "must be between 1 and 100000000");
            }
            set.live_runs = Some(most);
        }
        for (name, rate) in [("starts", &mut set.starts), ("requests", &mut set.requests)] {
            if f.is_null(name) {
                *rate = None;
            } else {
                *rate = f.parsed(name, str::parse).or(*rate);
            }
        }
    });
    let kept = &mut now.retention;
    f.object("retention", |f| {
        for (name, kept) in [
            ("completed", &mut kept.completed),
            ("failed", &mut kept.failed),
            ("cancelled", &mut kept.cancelled),
            ("timed_out", &mut kept.timed_out),
            ("terminated", &mut kept.terminated),
        ] {
            if f.is_null(name) {
                *kept = None;
            } else if let Some(given) = f.duration(name) {
                if !(LEAST_RETENTION..=longest).contains(&given) {
                    let longest = format_duration(longest);
                    f.fault(name, format!("must be from 1h to {longest}, after which the gateway deletes all (`--retention`)"));
                }
                *kept = Some(given);
            }
        }
    });
    if f.is_null("hosts") {
        now.hosts = None;
    } else if f.has("hosts") {
        let mut hosts = Vec::new();
        for text in f.value::<Vec<String>>("hosts").unwrap_or_default() {
            match host_pattern(&text) {
                Ok(host) => hosts.push(host),
                Err(detail) => f.fault("hosts", detail),
            }
        }
        if hosts.len() > MOST_HOSTS {
            f.fault("hosts", format!("must be at most {MOST_HOSTS}"));
        }
        now.hosts = Some(hosts);
    }
    now
}

/// Make a namespace. For admins of the namespace `default`.
///
/// Repeating it changes nothing: a namespace that is just the same is answered with 200. Other nodes
/// know it within a second.
#[utoipa::path(
    post, path = "/v1/namespaces", tag = "namespaces",
    request_body(content = NamespaceRequest, content_type = "application/json"),
    responses(
        (status = 201, description = "Made", body = NamespaceBody, headers(
            ("Location" = String, description = "The namespace"),
            ("ETag" = String, description = "Its version"))),
        (status = 200, description = "It was there, just the same", body = NamespaceBody),
    ),
    extensions(("x-problems" = json!(["operators-only", "namespace-exists"])))
)]
pub(super) async fn create_namespace(
    State(state): State<ApiState>,
    Admin(caller): Admin,
    params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    let longest = state.engine.retention();
    let (name, settings) = fields::read(&sent.0, |f| {
        let name = f.parsed("name", namespace_name);
        (f.need("name", name), settings(f, NamespaceSettings::default(), longest))
    })?;
    operator(&caller)?;
    let name = name.unwrap_or_default();
    let (row, fresh) = state.engine.create_namespace(&name, settings, &caller.by).await?;
    if !fresh {
        return Ok(answer(StatusCode::OK, row, None));
    }
    let mut response = answer(StatusCode::CREATED, row, None);
    let location = HeaderValue::try_from(format!("/v1/namespaces/{name}")).expect("plain letters");
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// List namespaces: all for admins of `default`, else the caller's own.
#[utoipa::path(
    get, path = "/v1/namespaces", tag = "namespaces",
    params(
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of namespaces", body = Page<NamespaceBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn list_namespaces(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let cut = Cut::of(&mut params);
    params.finish()?;
    let all = state.engine.namespaces(&caller).await?;
    Ok(cut.page(all, |n| n.name.clone(), |n| NamespaceBody::of(n, None)).answer(&uri))
}

/// Read a namespace: what it may have, and how many runs live in it.
#[utoipa::path(
    get, path = "/v1/namespaces/{namespace}", tag = "namespaces",
    params(
        ("namespace" = String, Path, description = "Its name"),
        ("If-None-Match" = Option<String>, Header, description = "`*`, or an `ETag` that is at hand"),
    ),
    responses(
        (status = 200, description = "The namespace", body = NamespaceBody, headers(
            ("ETag" = String, description = "Its version"))),
        (status = 304, description = "It is at hand"),
    ),
    extensions(("x-problems" = json!(["namespace-not-found"])))
)]
pub(super) async fn get_namespace(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(name): At<String>,
    params: Params,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    params.finish()?;
    let view = state.engine.namespace(&caller, &name).await?;
    if let Some(known) = at_hand(&headers, etag(&view.row)) {
        return Ok(known);
    }
    Ok(answer(StatusCode::OK, view.row, Some(view.live_runs)))
}

/// Change what a namespace may have and do. For admins of the namespace `default`.
///
/// Fewer live runs than there are end none: the next start is refused. Hosts that endpoints and
/// webhooks of the namespace are at cannot be taken from it.
#[utoipa::path(
    patch, path = "/v1/namespaces/{namespace}", tag = "namespaces",
    params(
        ("namespace" = String, Path, description = "Its name"),
        ("If-Match" = Option<String>, Header, description = "Only this version (`ETag`)"),
    ),
    request_body(content = Option<PatchNamespaceRequest>, content_type = "application/json"),
    responses((status = 200, description = "The namespace as it is now", body = NamespaceBody, headers(
        ("ETag" = String, description = "Its version")))),
    extensions(("x-problems" = json!(["operators-only", "namespace-not-found", "precondition-failed"])))
)]
pub(super) async fn patch_namespace(
    State(state): State<ApiState>,
    Admin(caller): Admin,
    At(name): At<String>,
    params: Params,
    Headers(headers): Headers,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    // What is wrong with the request as such is told also where there is no such namespace.
    fields::read(&sent.0, Fields::take_any)?;
    let view = state.engine.namespace(&caller, &name).await?;
    operator(&caller)?;
    let longest = state.engine.retention();
    let settings = fields::read(&sent.0, |f| settings(f, view.row.settings.clone(), longest))?;
    check_version(&headers, &etag(&view.row), Error::NamespaceStale)?;
    let row = state.engine.change_namespace(&view.row, settings, &caller.by).await?;
    Ok(answer(StatusCode::OK, row, Some(view.live_runs)))
}

/// Delete a namespace that has no endpoints, live runs, schedules and webhooks any more. For admins
/// of the namespace `default`.
///
/// Its keys are revoked, its secrets and the state of its objects deleted. Ended runs cannot be read
/// any more, and go when their time is up.
#[utoipa::path(
    delete, path = "/v1/namespaces/{namespace}", tag = "namespaces",
    params(
        ("namespace" = String, Path, description = "Its name"),
        ("If-Match" = Option<String>, Header, description = "Only this version (`ETag`)"),
    ),
    responses((status = 204, description = "Deleted")),
    extensions(("x-problems" = json!(["operators-only", "namespace-not-found", "namespace-in-use", "precondition-failed"])))
)]
pub(super) async fn delete_namespace(
    State(state): State<ApiState>,
    Admin(caller): Admin,
    At(name): At<String>,
    params: Params,
    Headers(headers): Headers,
) -> Result<StatusCode, Problem> {
    params.finish()?;
    let view = state.engine.namespace(&caller, &name).await?;
    operator(&caller)?;
    check_version(&headers, &etag(&view.row), Error::NamespaceStale)?;
    state.engine.remove_namespace(&view.row, &caller.by).await?;
    Ok(StatusCode::NO_CONTENT)
}
