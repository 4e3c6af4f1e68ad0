//! Objects: the state under a key, who has it and how many wait; written by hand while nobody has it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::{Operator, Reader};
use super::catalogue::Code;
use super::fields;
use super::page::{Page, cursor};
use super::problem::Problem;
use super::request::{At, Headers, Params, Sent, at_hand};
use super::shapes::Payload;
use crate::engine::{ListedObject, ObjectView};
use crate::machine::RunId;

/// An object.
#[derive(Serialize, ToSchema)]
#[schema(as = Object)]
pub(super) struct ObjectBody {
    function: String,
    key: String,
    /// Its fields as everybody sees them: what a run has changed and not published is not there.
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    state: BTreeMap<String, Payload>,
    /// Identifies this state; the `ETag` without its quotes.
    version: String,
    /// The run that has it; null: none has.
    #[schema(value_type = Option<String>)]
    holder: Option<RunId>,
    /// How many runs wait for it.
    #[schema(minimum = 0)]
    waiting: i64,
}

/// An object in a list.
#[derive(Serialize, ToSchema)]
#[schema(as = ListedObject)]
pub(super) struct ListedObjectBody {
    key: String,
    /// How many fields it has.
    fields: i64,
    /// What names and values weigh.
    bytes: i64,
}

impl From<ListedObject> for ListedObjectBody {
    fn from(it: ListedObject) -> Self {
        Self { key: it.key, fields: it.fields, bytes: it.bytes }
    }
}

/// A new state of an object.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct WriteObjectRequest {
    /// All its fields; what is left out is gone. At most 1,000, and 1 MiB with their names.
    state: BTreeMap<String, serde_json::Value>,
}

fn etag(version: &str) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).expect("hex in quotes")
}

fn answer(object: ObjectView) -> Response {
    let etag = etag(&object.version);
    let state = object.state.into_iter().map(|(field, value)| (field, Payload(Some(value))));
    let body = ObjectBody {
        function: object.function,
        key: object.key,
        state: state.collect(),
        version: object.version,
        holder: object.holder,
        waiting: object.waiting,
    };
    ([(header::ETAG, etag)], Json(body)).into_response()
}

/// The versions that `If-Match` asks for; none: any. It has to be there.
fn versions(headers: &HeaderMap) -> Result<Option<Vec<String>>, Problem> {
    let named: Vec<&str> = headers
        .get_all(header::IF_MATCH)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .collect();
    if named.is_empty() {
        let detail = "Read the object first and send its `ETag` as `If-Match`.";
        return Err(Problem::new(Code::PreconditionRequired, detail));
    }
    if named.contains(&"*") {
        return Ok(None);
    }
    Ok(Some(named.into_iter().map(|tag| tag.trim_matches('"').to_owned()).collect()))
}

/// List the objects of a function that have a state, by key.
#[utoipa::path(
    get, path = "/v1/objects/{function}", tag = "objects",
    params(
        ("function" = String, Path, description = "The function"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of objects", body = Page<ListedObjectBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!(["function-not-found", "not-an-object"])))
)]
pub(super) async fn list_objects(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(function): At<String>,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let (limit, after) = (params.limit(), cursor::<String>(&mut params));
    params.finish()?;
    let ns = &caller.namespace;
    let mut found = state.engine.objects(ns, &function, after.as_deref(), limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|o| o.key.clone());
    Ok(Page::new(found.into_iter().map(ListedObjectBody::from).collect(), next).answer(&uri))
}

/// Read an object: its state, the run that has it, and how many wait.
///
/// A key that nobody has written to has an empty state.
#[utoipa::path(
    get, path = "/v1/objects/{function}/{key}", tag = "objects",
    params(
        ("function" = String, Path, description = "The function that it is of"),
        ("key" = String, Path, description = "Its key"),
        ("If-None-Match" = Option<String>, Header, description = "Answered with 304 where the state is this one (`ETag`)"),
    ),
    responses(
        (status = 200, description = "The object", body = ObjectBody, headers(
            ("ETag" = String, description = "The version of its state"))),
        (status = 304, description = "Its state is the one in `If-None-Match`"),
    ),
    extensions(("x-problems" = json!(["function-not-found", "not-an-object"])))
)]
pub(super) async fn get_object(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At((function, key)): At<(String, String)>,
    params: Params,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    params.finish()?;
    let object = state.engine.object(&caller.namespace, &function, &key).await?;
    if let Some(known) = at_hand(&headers, etag(&object.version)) {
        return Ok(known);
    }
    Ok(answer(object))
}

/// Replace the state of an object.
///
/// For operators who mend what a run has left behind. Refused while a run has the object, for that run
/// works with the state that it was given.
#[utoipa::path(
    put, path = "/v1/objects/{function}/{key}", tag = "objects",
    params(
        ("function" = String, Path, description = "The function that it is of"),
        ("key" = String, Path, description = "Its key"),
        ("If-Match" = String, Header, description = "Only this version of its state (`ETag`), or `*`"),
    ),
    request_body(content = WriteObjectRequest, content_type = "application/json"),
    responses((status = 200, description = "The object as it is now", body = ObjectBody, headers(
        ("ETag" = String, description = "The version of its state")))),
    extensions(("x-problems" = json!(["function-not-found", "not-an-object", "object-busy",
        "precondition-failed", "precondition-required"])))
)]
pub(super) async fn write_object(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At((function, key)): At<(String, String)>,
    params: Params,
    Headers(headers): Headers,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    let fields: BTreeMap<String, Box<RawValue>> = fields::read(&sent.0, |f| {
        let state = f.value("state");
        f.need("state", state).unwrap_or_default()
    })?;
    let versions = versions(&headers)?;
    let (ns, by) = (&caller.namespace, &caller.by);
    let written = state.engine.write_object(ns, &function, &key, fields, versions.as_deref(), by);
    Ok(answer(written.await?))
}
