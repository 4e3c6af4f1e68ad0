//! Schedules: create, read, change, delete; pause, resume, trigger, backfill, coming moments.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::{Reader, Scheduler};
use super::catalogue::Code;
use super::fields;
use super::page::{self, Page};
use super::problem::Problem;
use super::request::{At, Headers, Params, Sent, at_hand, check_input, is_asked_for};
use super::schedule_request::{
    PatchScheduleRequest, PutScheduleRequest, ScheduleRequest, check_name, note, read, read_patch,
};
use super::schedule_shapes::{MomentBody, ScheduleBody, TriggeredBody};
use crate::engine::{
    Error, NewSchedule, ScheduleCreated, SchedulePatch, ScheduleRef, ScheduleSearch, ScheduleView,
};
use crate::machine::schedule::{Backfill, Overlap};

fn named(text: &str) -> ScheduleRef {
    ScheduleRef { id: text.parse().ok(), text: text.to_owned() }
}

fn etag(view: &ScheduleView) -> HeaderValue {
    HeaderValue::try_from(format!("\"{}\"", view.row.version)).expect("a number in quotes")
}

fn answer(status: StatusCode, view: ScheduleView) -> Response {
    let headers = [(header::ETAG, etag(&view))];
    (status, headers, Json(ScheduleBody::from(view))).into_response()
}

fn created(view: ScheduleView) -> Response {
    let location = format!("/v1/schedules/{}", view.row.id);
    let mut response = answer(StatusCode::CREATED, view);
    let location = HeaderValue::try_from(location).expect("ids are letters and digits");
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// The version that `If-Match` asks for, if the schedule has it.
fn if_match(headers: &HeaderMap, view: &ScheduleView) -> Result<Option<i32>, Problem> {
    match is_asked_for(headers, &etag(view)) {
        None => Ok(None),
        Some(true) => Ok(Some(view.row.version)),
        Some(false) => Err(Error::ScheduleStale.into()),
    }
}

/// Create a schedule.
///
/// Repeating it changes nothing: a schedule that is just the same is answered with 200.
#[utoipa::path(
    post, path = "/v1/schedules", tag = "schedules",
    request_body(content = ScheduleRequest, content_type = "application/json"),
    responses(
        (status = 201, description = "Created", body = ScheduleBody, headers(
            ("Location" = String, description = "The schedule"),
            ("ETag" = String, description = "Its version"))),
        (status = 200, description = "It was there, just the same", body = ScheduleBody),
    ),
    extensions(("x-problems" = json!(["function-not-found", "schedule-exists"])))
)]
pub(super) async fn create_schedule(
    State(state): State<ApiState>,
    Scheduler(caller): Scheduler,
    params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    let new = fields::read(&sent.0, |f| read(f, None, state.engine.now()))?;
    check_input("input", new.input.len())?;
    match state.engine.create_schedule(&caller.namespace, new, &caller.by).await? {
        ScheduleCreated::New(view) => Ok(created(*view)),
        ScheduleCreated::Same(view) => Ok(answer(StatusCode::OK, *view)),
    }
}

/// List schedules, by id: in the order in which they were created.
#[utoipa::path(
    get, path = "/v1/schedules", tag = "schedules",
    params(
        ("function" = Option<Vec<String>>, Query, explode, description = "The function whose runs they start"),
        ("q" = Option<String>, Query, description = "A part of name or function"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of schedules", body = Page<ScheduleBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn list_schedules(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let search = ScheduleSearch {
        functions: params.all("function", |name| Ok(name.to_owned())),
        q: params.one("q", |text| Ok(text.to_owned())),
        after: page::cursor(&mut params),
        limit: params.limit(),
    };
    params.finish()?;
    let page = state.engine.schedules(&caller.namespace, search).await?;
    let data = page.schedules.into_iter().map(ScheduleBody::listed).collect();
    Ok(Page::new(data, page.next).answer(&uri))
}

/// Read a schedule.
#[utoipa::path(
    get, path = "/v1/schedules/{schedule}", tag = "schedules",
    params(
        ("schedule" = String, Path, description = "Its id or name"),
        ("If-None-Match" = Option<String>, Header, description = "`*`, or an `ETag` that is at hand; firings do not change it"),
    ),
    responses(
        (status = 200, description = "The schedule", body = ScheduleBody, headers(
            ("ETag" = String, description = "Its version"))),
        (status = 304, description = "It is at hand"),
    ),
    extensions(("x-problems" = json!(["schedule-not-found"])))
)]
pub(super) async fn get_schedule(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(name): At<String>,
    params: Params,
    Headers(headers): Headers,
) -> Result<Response, Problem> {
    params.finish()?;
    let view = state.engine.schedule(&caller.namespace, &named(&name)).await?;
    if let Some(known) = at_hand(&headers, etag(&view)) {
        return Ok(known);
    }
    Ok(answer(StatusCode::OK, view))
}

/// Create a schedule of this name, or put another in its place.
///
/// It goes on where it was: what has come of it stays, and what is left out has its default.
#[utoipa::path(
    put, path = "/v1/schedules/{schedule}", tag = "schedules",
    params(
        ("schedule" = String, Path, description = "Its name; or the id of one that is there"),
        ("If-Match" = Option<String>, Header, description = "Only this version (`ETag`)"),
    ),
    request_body(content = PutScheduleRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The schedule as it is now", body = ScheduleBody, headers(
            ("ETag" = String, description = "Its version"))),
        (status = 201, description = "Created", body = ScheduleBody),
    ),
    extensions(("x-problems" = json!(["function-not-found", "schedule-not-found", "schedule-exists",
        "schedule-owned", "precondition-failed"])))
)]
pub(super) async fn put_schedule(
    State(state): State<ApiState>,
    Scheduler(caller): Scheduler,
    At(name): At<String>,
    params: Params,
    Headers(headers): Headers,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    let (ns, of, by) = (&caller.namespace, named(&name), caller.by.as_str());
    let now = state.engine.now();
    let mut new: NewSchedule = fields::read(&sent.0, |f| read(f, Some(&name), now))?;
    check_input("input", new.input.len())?;
    let view = match state.engine.schedule(ns, &of).await {
        Ok(view) => view,
        Err(Error::ScheduleNotFound(_)) if headers.contains_key(header::IF_MATCH) => {
            return Err(Error::ScheduleStale.into());
        }
        Err(Error::ScheduleNotFound(_)) if of.id.is_none() => {
            let bad = |why| {
                let fault = super::problem::Fault::new("#/name", why);
                Problem::faults(Code::InvalidRequest, vec![fault])
            };
            check_name(&name).map_err(bad)?;
            return match state.engine.create_schedule(ns, new, by).await? {
                ScheduleCreated::New(view) => Ok(created(*view)),
                ScheduleCreated::Same(view) => Ok(answer(StatusCode::OK, *view)),
            };
        }
        Err(error) => return Err(error.into()),
    };
    let version = if_match(&headers, &view)?;
    if !new.anchored {
        new.spec.keep_anchor(&view.plan.spec);
    }
    let patch = SchedulePatch {
        name: None,
        function: Some(new.function),
        spec: Some(new.spec),
        input: Some(new.input),
    };
    let mut view = state.engine.patch_schedule(ns, &of, version, patch).await?;
    if new.paused {
        view = state.engine.pause_schedule(ns, &of, new.note, by).await?;
    }
    Ok(answer(StatusCode::OK, view))
}

/// Change a schedule.
///
/// What is left out stays; what is null has its default. A moment that has come and is put off by
/// jitter is fired before times are changed.
#[utoipa::path(
    patch, path = "/v1/schedules/{schedule}", tag = "schedules",
    params(
        ("schedule" = String, Path, description = "Its id or name"),
        ("If-Match" = Option<String>, Header, description = "Only this version (`ETag`)"),
    ),
    request_body(content = Option<PatchScheduleRequest>, content_type = "application/json"),
    responses((status = 200, description = "The schedule as it is now", body = ScheduleBody, headers(
        ("ETag" = String, description = "Its version")))),
    extensions(("x-problems" = json!(["function-not-found", "schedule-not-found", "schedule-exists",
        "schedule-owned", "precondition-failed"])))
)]
pub(super) async fn patch_schedule(
    State(state): State<ApiState>,
    Scheduler(caller): Scheduler,
    At(name): At<String>,
    params: Params,
    Headers(headers): Headers,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    // What is wrong with the request as such is told also where there is no such schedule.
    fields::read(&sent.0, fields::Fields::take_any)?;
    let (ns, of) = (&caller.namespace, named(&name));
    let view = state.engine.schedule(ns, &of).await?;
    let patch = fields::read(&sent.0, |f| read_patch(f, &view, state.engine.now()))?;
    check_input("input", patch.input.as_ref().map_or(0, axum::body::Bytes::len))?;
    let version = if_match(&headers, &view)?;
    // It is read under the version that the patch was made for.
    let version = version.or(Some(view.row.version));
    Ok(answer(StatusCode::OK, state.engine.patch_schedule(ns, &of, version, patch).await?))
}

/// Delete a schedule. Its live runs go on.
#[utoipa::path(
    delete, path = "/v1/schedules/{schedule}", tag = "schedules",
    params(
        ("schedule" = String, Path, description = "Its id or name"),
        ("If-Match" = Option<String>, Header, description = "Only this version (`ETag`)"),
    ),
    responses((status = 204, description = "Deleted")),
    extensions(("x-problems" = json!(["schedule-not-found", "schedule-owned", "precondition-failed"])))
)]
pub(super) async fn delete_schedule(
    State(state): State<ApiState>,
    Scheduler(caller): Scheduler,
    At(name): At<String>,
    params: Params,
    Headers(headers): Headers,
) -> Result<StatusCode, Problem> {
    params.finish()?;
    let (ns, of) = (&caller.namespace, named(&name));
    let view = state.engine.schedule(ns, &of).await?;
    let version = if_match(&headers, &view)?;
    state.engine.delete_schedule(ns, &of, version).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A pause.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct PauseScheduleRequest {
    /// Why.
    #[schema(max_length = 1000)]
    note: Option<String>,
}

/// Pause a schedule: it starts nothing by itself, and moments go by. Its live runs go on.
#[utoipa::path(
    post, path = "/v1/schedules/{schedule}/pause", tag = "schedules",
    params(("schedule" = String, Path, description = "Its id or name")),
    request_body(content = Option<PauseScheduleRequest>, content_type = "application/json"),
    responses((status = 200, description = "Paused", body = ScheduleBody)),
    extensions(("x-problems" = json!(["schedule-not-found"])))
)]
pub(super) async fn pause_schedule(
    State(state): State<ApiState>,
    Scheduler(caller): Scheduler,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    let note = fields::read(&sent.0, note)?;
    let (ns, of) = (&caller.namespace, named(&name));
    Ok(answer(StatusCode::OK, state.engine.pause_schedule(ns, &of, note, &caller.by).await?))
}

/// Let a paused schedule go on. Moments that have gone by meanwhile stay without a run; a backfill
/// fires them.
#[utoipa::path(
    post, path = "/v1/schedules/{schedule}/resume", tag = "schedules",
    params(("schedule" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "It goes on", body = ScheduleBody)),
    extensions(("x-problems" = json!(["schedule-not-found"])))
)]
pub(super) async fn resume_schedule(
    State(state): State<ApiState>,
    Scheduler(caller): Scheduler,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    fields::read(&sent.0, |_| ())?;
    let (ns, of) = (&caller.namespace, named(&name));
    Ok(answer(StatusCode::OK, state.engine.resume_schedule(ns, &of).await?))
}

/// A trigger.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct TriggerScheduleRequest {
    /// In place of the schedule's own policy.
    #[schema(pattern = "^(skip|buffer_one|buffer_all|cancel_other|terminate_other|allow_all)$")]
    overlap: Option<String>,
}

/// Start a run now, also while paused. It does not count against `limited_actions`.
#[utoipa::path(
    post, path = "/v1/schedules/{schedule}/trigger", tag = "schedules",
    params(("schedule" = String, Path, description = "Its id or name")),
    request_body(content = Option<TriggerScheduleRequest>, content_type = "application/json"),
    responses((status = 200, description = "What it came to", body = TriggeredBody)),
    extensions(("x-problems" = json!(["schedule-not-found"])))
)]
pub(super) async fn trigger_schedule(
    State(state): State<ApiState>,
    Scheduler(caller): Scheduler,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Json<TriggeredBody>, Problem> {
    params.finish()?;
    let overlap = fields::read(&sent.0, |f| f.word("overlap", &Overlap::WORDS))?;
    let (ns, of) = (&caller.namespace, named(&name));
    Ok(Json(state.engine.trigger_schedule(ns, &of, overlap).await?.into()))
}

/// A backfill.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct BackfillScheduleRequest {
    /// The first moment that may be fired.
    #[schema(format = DateTime)]
    start: String,
    /// The last moment that may be fired; not in the future.
    #[schema(format = DateTime)]
    end: String,
    /// `buffer_all` (the default): one after another, as `max_running` says. `allow_all`: at once.
    #[schema(pattern = "^(buffer_all|allow_all)$")]
    overlap: Option<String>,
    /// Also moments that have had a run.
    again: Option<bool>,
}

/// Fire moments of the past, from `start` to `end`, also while paused.
///
/// A moment that has had a run is left out, unless `again`.
#[utoipa::path(
    post, path = "/v1/schedules/{schedule}/backfill", tag = "schedules",
    params(("schedule" = String, Path, description = "Its id or name")),
    request_body(content = BackfillScheduleRequest, content_type = "application/json"),
    responses((status = 202, description = "Begun; `backfills` shows how far it is", body = ScheduleBody)),
    extensions(("x-problems" = json!(["schedule-not-found"])))
)]
pub(super) async fn backfill_schedule(
    State(state): State<ApiState>,
    Scheduler(caller): Scheduler,
    At(name): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    let now = state.engine.now();
    let backfill = fields::read(&sent.0, |f| {
        let (start, end) = (f.moment("start"), f.moment("end"));
        let (start, end) = (f.need("start", start), f.need("end", end));
        if end.is_some_and(|end| end > now) {
            f.fault("end", "is in the future");
        }
        if let (Some(start), Some(end)) = (start, end)
            && start > end
        {
            f.fault("end", "is before `start`");
        }
        let words = [("buffer_all", false), ("allow_all", true)];
        let at_once = f.word("overlap", &words).unwrap_or(false);
        let again = f.value("again").unwrap_or(false);
        Backfill::of(start.unwrap_or_default(), end.unwrap_or_default(), at_once, again)
    })?;
    let (ns, of) = (&caller.namespace, named(&name));
    let view = state.engine.backfill_schedule(ns, &of, backfill).await?;
    Ok(answer(StatusCode::ACCEPTED, view))
}

/// Coming moments.
#[derive(Serialize, ToSchema)]
#[schema(as = ScheduleMoments)]
pub(super) struct MomentsBody {
    /// In order.
    data: Vec<MomentBody>,
}

/// The moments that are to come, as if the schedule were not paused.
#[utoipa::path(
    get, path = "/v1/schedules/{schedule}/next", tag = "schedules",
    params(
        ("schedule" = String, Path, description = "Its id or name"),
        ("after" = Option<String>, Query, description = "Moments after this one; from now on, if left out. RFC 3339"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
    ),
    responses((status = 200, description = "The moments", body = MomentsBody)),
    extensions(("x-problems" = json!(["schedule-not-found"])))
)]
pub(super) async fn coming_moments(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(name): At<String>,
    mut params: Params,
) -> Result<Json<MomentsBody>, Problem> {
    let (after, limit) = (params.moment("after"), params.limit());
    params.finish()?;
    let coming = state.engine.coming(&caller.namespace, &named(&name), after, limit).await?;
    Ok(Json(MomentsBody { data: coming.into_iter().map(MomentBody::from).collect() }))
}
