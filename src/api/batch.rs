//! `POST /v1/runs/batch`: starts many runs, each for itself.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::ApiState;
use super::auth::Operator;
use super::edge::REQUEST_ID;
use super::fields::{self, Fields};
use super::problem::{Problem, ProblemBody};
use super::request::{Headers, Params, Sent, idempotency};
use super::shapes::RunBody;
use super::start::{REPLAYED, StartRequest, Wanted, read};
use crate::engine::{Caller, MOST_STARTS, RunView, Start, Started};
use crate::machine::Timestamp;

const PATH: &str = "/v1/runs/batch";
/// How many runs are read at a time for the answer.
const AT_A_TIME: usize = 16;

/// Runs to start.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct BatchRequest {
    /// 1 to 1,000 of them, at most 16 MiB together.
    #[schema(min_items = 1, max_items = 1000, value_type = Vec<Item>)]
    runs: Vec<Item>,
}

/// One start: its function, and all that a start takes.
struct Item;

impl PartialSchema for Item {
    fn schema() -> RefOr<Schema> {
        let RefOr::T(Schema::Object(mut object)) = StartRequest::schema() else {
            return StartRequest::schema();
        };
        let name = ObjectBuilder::new().schema_type(Type::String).description(Some("The function"));
        object.properties.insert("function".to_owned(), name.build().into());
        object.required.push("function".to_owned());
        object.description = Some("A function, and what its run is started with.".to_owned());
        Schema::Object(object).into()
    }
}

impl ToSchema for Item {
    fn name() -> std::borrow::Cow<'static, str> {
        "BatchItemRequest".into()
    }
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        StartRequest::schemas(schemas);
    }
}

/// What became of a batch.
#[derive(Serialize, ToSchema)]
#[schema(as = Batch)]
pub(super) struct BatchBody {
    /// In the order of the request.
    data: Vec<ItemBody>,
    /// How many have a run: a new one, the one of the same idempotency key, or the one that has their
    /// key with `"if_running": "use_existing"`.
    started: usize,
    /// How many were refused.
    refused: usize,
}

/// What became of one start.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchItem)]
struct ItemBody {
    /// As the answer to this start alone would have: 202, or the status of the problem.
    status: u16,
    /// An earlier request with this idempotency key started the run.
    replayed: bool,
    /// The run, without its payloads; null if it was refused.
    run: Option<RunBody>,
    /// Why it was refused.
    #[schema(value_type = Option<ProblemBody>)]
    problem: Option<Box<RawValue>>,
}

/// A start that was read; it says itself which function.
fn item<'a>(f: &mut Fields<'a>) -> (String, Wanted<'a>) {
    let function = f.value("function");
    let function = f.need("function", function).unwrap_or_default();
    (function, read(f))
}

/// The starts of a request, each or why it is refused.
fn starts(
    state: &ApiState,
    caller: &Caller,
    headers: &HeaderMap,
    body: &axum::body::Bytes,
) -> Result<Vec<Result<Start, Problem>>, Problem> {
    let items: Vec<&RawValue> = fields::read(body, |f| {
        let items: Option<Vec<&RawValue>> = f.value("runs");
        let items = f.need("runs", items).unwrap_or_default();
        if f.is_sound("runs") && !(1..=MOST_STARTS).contains(&items.len()) {
            let count = items.len();
            f.fault("runs", format!("has {count} starts; a batch has 1 to {MOST_STARTS}"));
        }
        items
    })?;
    let read = |(i, raw): (usize, &RawValue)| {
        let (function, wanted) = fields::read_one(raw, format!("#/runs/{i}"), item)?;
        wanted.check()?;
        state.engine.check_receivers(&caller.namespace, &wanted.on_complete)?;
        Ok(wanted.start(state, caller, function, headers))
    };
    Ok(items.into_iter().enumerate().map(read).collect())
}

/// Start many runs.
///
/// One transaction, and each start for itself: what is fine is durable when this answers, what is
/// refused is told in its place, as the start alone would have been. A repeat with the same
/// `Idempotency-Key` and body answers with the same runs, and tries again what was refused. Refused in a
/// batch are the policies that wait for the end of another run (`cancel_existing`,
/// `terminate_existing`, singletons that cancel) and functions with `debounce` or
/// `gather`.
#[utoipa::path(
    post, path = "/v1/runs/batch", tag = "runs",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body start each run once"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, carried into every invocation"),
    ),
    request_body(content = BatchRequest, content_type = "application/json"),
    responses((status = 202, description = "Each was started or refused", body = BatchBody, headers(
        ("Idempotent-Replayed" = String, description = "`true` where all had been started before")))),
    extensions(("x-problems" = json!(["idempotency-key-reused"])))
)]
pub(super) async fn start_runs(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    params: Params,
    Headers(headers): Headers,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    let idempotency = idempotency(&headers, &format!("POST {PATH}"), &sent.0)?;
    let read = starts(&state, &caller, &headers, &sent.0)?;
    let now = state.engine.now();
    let fine: Vec<(usize, Start)> = (read.iter().enumerate())
        .filter_map(|(place, start)| Some((place, start.as_ref().ok()?.clone())))
        .collect();
    let mut outcomes = state.engine.start_batch(fine, idempotency.as_ref()).await?.into_iter();
    let told: Vec<Result<(Start, Started), Problem>> = read
        .into_iter()
        .map(|read| {
            let start = read?;
            let lost = || Problem::internal("an outcome of a batch is missing");
            let started = outcomes.next().ok_or_else(lost)??;
            Ok((start, started))
        })
        .collect();
    let id = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let (state, ns) = (&state, &caller.namespace);
    let data: Vec<ItemBody> = futures::stream::iter(told)
        .map(|told| async move {
            match told {
                Ok((start, started)) => {
                    let view = match started {
                        Started::New(_) => None,
                        // As it stands by now; accepted it is also where it cannot be read.
                        _ => state.engine.view(ns, started.run()).await.ok(),
                    };
                    let view = view.unwrap_or_else(|| accepted(&start, now, started));
                    let view = RunView { input: None, output: None, error: None, ..view };
                    let replayed = matches!(started, Started::Replayed(_));
                    ItemBody { status: 202, replayed, run: Some(view.into()), problem: None }
                }
                Err(problem) => ItemBody {
                    status: problem.code().status().as_u16(),
                    replayed: false,
                    run: None,
                    problem: serde_json::from_slice(&problem.body(PATH, id)).ok(),
                },
            }
        })
        .buffered(AT_A_TIME)
        .collect()
        .await;
    let refused = data.iter().filter(|item| item.run.is_none()).count();
    let replayed = data.iter().all(|item| item.replayed);
    let body = BatchBody { started: data.len() - refused, refused, data };
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn accepted(start: &Start, now: Timestamp, started: Started) -> RunView {
    RunView::of_start(start, axum::body::Bytes::new(), now, started.run())
}
