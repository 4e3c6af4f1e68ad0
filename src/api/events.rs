//! Events: publish one or many, plain or as CloudEvents 1.0; look at them and at what they came to.

use std::fmt;
use std::str::FromStr;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::ApiState;
use super::auth::{Reader, Sender};
use super::catalogue::Code;
use super::fields::{self, Fields, plain_text};
use super::page::{self, Page};
use super::problem::{Fault, Problem};
use super::request::{At, Headers, Params, Sent, check_input, idempotency_key};
use super::start::REPLAYED;
use crate::engine::{
    Error, Event, EventFilter, EventMatch, EventRow, MatchCount, Namespace, Published,
};
use crate::machine::{EventId, RunId, Timestamp, is_cancelling};

/// Events in one request.
const MOST: usize = 1_000;
/// Matches in the answer about one event.
const FIRST_MATCHES: usize = 100;
/// Who publishes, where the request does not say.
const SOURCE: &str = "api";
/// Who publishes under an `Idempotency-Key`.
const KEYED: &str = "idempotency-key";

/// An event to publish.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct EventRequest {
    /// What subscribers ask for, such as `order.paid`.
    #[schema(max_length = 256, min_length = 1)]
    name: String,
    /// Any JSON up to 1 MiB, passed on byte for byte. Left out: null.
    #[schema(value_type = serde_json::Value, required = false)]
    data: serde_json::Value,
    /// What the source calls it: the same source and id is the same event, and is accepted once.
    #[schema(max_length = 256, min_length = 1)]
    id: Option<String>,
    /// Who publishes it; `api` if left out.
    #[schema(max_length = 256, min_length = 1)]
    source: Option<String>,
    /// When it happened; when it was accepted, if left out.
    #[schema(value_type = Option<String>, format = DateTime)]
    time: Option<String>,
}

/// What became of an event that was sent.
#[derive(Serialize, ToSchema)]
#[schema(as = PublishedEvent)]
pub(super) struct PublishedBody {
    /// The event; where it had been published before, that one.
    #[schema(value_type = String)]
    id: EventId,
    /// It had been published before.
    replayed: bool,
    /// Everybody has it who is to have it. Only with `wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    routed: Option<bool>,
    /// The first 100 runs that it started or reached. Only with `wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    matches: Option<Vec<MatchBody>>,
}

/// What became of many.
#[derive(Serialize, ToSchema)]
#[schema(as = PublishedEvents)]
pub(super) struct AllPublishedBody {
    /// In the order of the request.
    data: Vec<PublishedBody>,
}

/// A run that an event started or reached.
#[derive(Serialize, ToSchema)]
#[schema(as = EventMatch)]
pub(super) struct MatchBody {
    /// The run.
    #[schema(value_type = String)]
    run: RunId,
    /// The step that took it; null: no step did.
    step: Option<String>,
    /// `started` the run, `settled` the step, or `cancelled` the run (its function's `cancel_on`).
    #[schema(pattern = "^(started|settled|cancelled)$")]
    did: &'static str,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

/// An event without its data.
#[derive(Serialize, ToSchema)]
#[schema(as = ListedEvent)]
pub(super) struct ListedEventBody {
    #[schema(value_type = String)]
    id: EventId,
    name: String,
    /// Who published it.
    source: String,
    /// What the source calls it.
    source_id: String,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    published_at: Timestamp,
    /// Everybody has it who is to have it.
    routed: bool,
    /// How many runs it started or reached.
    matched: MatchCountBody,
}

/// How many runs an event started or reached, counted to 100. Until it is `routed` there may be more to come.
#[derive(Serialize, ToSchema)]
#[schema(as = EventMatchCount)]
pub(super) struct MatchCountBody {
    count: i64,
    /// How many of them it started; the others had a step that took it, or were cancelled by it.
    started: i64,
    /// Whether there are no more.
    exact: bool,
}

impl From<MatchCount> for MatchCountBody {
    fn from(m: MatchCount) -> Self {
        Self { count: m.count, started: m.started, exact: m.exact }
    }
}

/// An event.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub(super) struct EventBody {
    #[serde(flatten)]
    event: ListedEventBody,
    /// As it came.
    #[schema(value_type = serde_json::Value)]
    data: Box<RawValue>,
    /// The first 100 runs that it started or reached; `…/matches` has all.
    matches: Vec<MatchBody>,
}

impl From<EventMatch> for MatchBody {
    fn from(m: EventMatch) -> Self {
        let (step, did) = match m.step {
            step if step.is_empty() => (None, "started"),
            step if is_cancelling(&step) => (None, "cancelled"),
            step => (Some(step), "settled"),
        };
        Self { run: m.run, step, did, at: m.at }
    }
}

impl From<EventRow> for ListedEventBody {
    fn from(e: EventRow) -> Self {
        let time = e.happened_at.unwrap_or(e.published_at);
        let (id, name, source, source_id) = (e.id, e.name, e.source, e.source_id);
        let (published_at, routed, matched) = (e.published_at, e.routed, e.matched.into());
        Self { id, name, source, source_id, time, published_at, routed, matched }
    }
}

/// Publish events.
///
/// 202 means: accepted in one commit, each once per source and id. Then each starts the functions
/// that have a trigger for it and reaches the steps that wait for it. The body is one event or a
/// list of up to 1,000; or CloudEvents 1.0: `application/cloudevents+json`,
/// `application/cloudevents-batch+json`, or `ce-` headers beside the data. Of a CloudEvent `type`,
/// `source`, `id`, `time` and the data are kept.
#[utoipa::path(
    post, path = "/v1/events", tag = "events",
    params(
        ("wait" = Option<String>, Query, description = "For one event: wait until it is routed, `5s` or seconds; at most 300 s"),
        ("Prefer" = Option<String>, Header, description = "`wait=5`, in place of the parameter"),
        ("Idempotency-Key" = Option<String>, Header, description = "For one event without an `id`: the same key publishes it once"),
    ),
    request_body(content = EventRequest, content_type = "application/json"),
    responses((status = 202, description = "Accepted; `data` for a list", body = inline(Answer), headers(
        ("Idempotent-Replayed" = String, description = "`true` where the event had been published before")))),
    extensions(("x-problems" = json!(["idempotency-key-reused"])))
)]
pub(super) async fn publish_events(
    State(state): State<ApiState>,
    Sender(caller): Sender,
    Headers(headers): Headers,
    mut params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    let wait = params.wait();
    params.finish()?;
    let (mut events, many) = read(&headers, &sent.0)?;
    for event in &events {
        check_input("data", event.data.len())?;
    }
    let mut keyed = false;
    if let (Some(key), [event]) = (idempotency_key(&headers)?, &mut events[..])
        && event.source_id.is_none()
    {
        KEYED.clone_into(&mut event.source);
        // A key may be longer than an id.
        event.source_id = Some(format!("{:x}", Sha256::digest(key)));
        keyed = true;
    }
    let published = state.engine.publish(&caller.namespace, events).await?;
    if keyed && published.iter().any(|p| matches!(p, Published::Known(_, false))) {
        return Err(Error::IdempotencyKeyReused.into());
    }
    let body = |p: &Published| PublishedBody {
        id: p.id(),
        replayed: matches!(p, Published::Known(..)),
        routed: None,
        matches: None,
    };
    let mut all: Vec<PublishedBody> = published.iter().map(body).collect();
    let one = if many { None } else { all.pop() };
    let Some(mut one) = one else {
        return Ok((StatusCode::ACCEPTED, Json(AllPublishedBody { data: all })).into_response());
    };
    if let Some(wait) = wait {
        tokio::select! {
            routed = state.engine.wait_routed(&caller.namespace, one.id, wait) => routed?,
            () = state.shutdown.cancelled() => {}
        }
        one.routed = Some(state.engine.event(&caller.namespace, one.id).await?.routed);
        one.matches = Some(first_matches(&state, one.id).await?);
    }
    let replayed = one.replayed;
    let mut response = (StatusCode::ACCEPTED, Json(one)).into_response();
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// What the reference says an answer looks like.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what is written")]
enum Answer {
    One(PublishedBody),
    Many(AllPublishedBody),
}

/// The events of a request, and whether it was a list.
fn read(headers: &HeaderMap, body: &Bytes) -> Result<(Vec<Event>, bool), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if headers.contains_key("ce-specversion") {
        return Ok((vec![binary(headers, body)?], false));
    }
    let (events, many) = match kind.as_str() {
        "application/cloudevents+json" | "application/cloudevents-batch+json" => {
            fields::read_each(body, |f| cloud(f, body))?
        }
        _ => fields::read_each(body, |f| plain(f, body))?,
    };
    if events.len() > MOST {
        let detail = format!("has {} events; the limit is {MOST}", events.len());
        return Err(Problem::faults(Code::InvalidRequest, vec![Fault::new("#", detail)]));
    }
    Ok((events, many))
}

fn plain<'a>(f: &mut Fields<'a>, body: &'a Bytes) -> Event {
    let name = f.text("name", 256);
    let name = f.need("name", name).unwrap_or_default();
    Event {
        name,
        data: data(f.payload("data"), body),
        source_id: f.text("id", 256),
        source: f.text("source", 256).unwrap_or_else(|| SOURCE.to_owned()),
        happened_at: f.moment("time"),
    }
}

fn cloud<'a>(f: &mut Fields<'a>, body: &'a Bytes) -> Event {
    let version: Option<String> = f.value("specversion");
    if f.need("specversion", version).is_some_and(|v| v != "1.0") {
        f.fault("specversion", "must be `1.0`");
    }
    let [name, source, source_id] = ["type", "source", "id"].map(|field| {
        let text = f.text(field, 256);
        f.need(field, text)
    });
    let happened_at = f.moment("time");
    let json = f.payload("data");
    let binary = f.payload("data_base64");
    if json.is_some() && binary.is_some() {
        f.fault("data_base64", "a CloudEvent has `data` or `data_base64`, not both");
    }
    // Extension attributes are anybody's; they are not kept.
    f.take_any();
    Event {
        name: name.unwrap_or_default(),
        source: source.unwrap_or_default(),
        source_id,
        happened_at,
        data: data(json.or(binary), body),
    }
}

/// A CloudEvent in binary mode: its attributes are headers, the body is its data.
fn binary(headers: &HeaderMap, body: &Bytes) -> Result<Event, Problem> {
    let bad = |name: &str, why: &str| {
        Problem::new(Code::MalformedRequest, format!("The header `ce-{name}` {why}."))
    };
    let attribute = |name: &str| -> Result<Option<String>, Problem> {
        let Some(value) = headers.get(format!("ce-{name}")) else { return Ok(None) };
        let text = value.to_str().map_err(|_| bad(name, "is not plain text"))?;
        // Percent-encoded where it is not printable ASCII (HTTP binding of CloudEvents, 3.1.3.2).
        let text = super::forward::percent_decoded(text)
            .ok_or_else(|| bad(name, "is not UTF-8 in percent-encoding"))?;
        plain_text(&text, 256).map_err(|why| bad(name, &why))?;
        Ok(Some(text))
    };
    let needed = |name: &str| attribute(name)?.ok_or_else(|| bad(name, "is needed"));
    if needed("specversion")? != "1.0" {
        return Err(bad("specversion", "must be `1.0`"));
    }
    let time = attribute("time")?.map(|t| t.parse().map_err(|e: String| bad("time", &e)));
    let data = if body.is_empty() {
        Bytes::from_static(b"null")
    } else {
        fields::json(body)?;
        body.clone()
    };
    let (name, source) = (needed("type")?, needed("source")?);
    let source_id = Some(needed("id")?);
    Ok(Event { name, source, source_id, happened_at: time.transpose()?, data })
}

fn data(raw: Option<&RawValue>, body: &Bytes) -> Bytes {
    match raw {
        Some(raw) => body.slice_ref(raw.get().as_bytes()),
        None => Bytes::from_static(b"null"),
    }
}

async fn first_matches(state: &ApiState, id: EventId) -> Result<Vec<MatchBody>, Problem> {
    let found = state.engine.event_matches(id, None, FIRST_MATCHES).await?;
    Ok(found.into_iter().map(MatchBody::from).collect())
}

/// Where a page of events ended.
#[derive(Debug, Clone, Copy)]
struct Place(Timestamp, EventId);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.as_micros(), self.1)
    }
}

impl FromStr for Place {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (at, id) = text.split_once(' ').ok_or(())?;
        let at = Timestamp::from_micros(at.parse().map_err(|_| ())?);
        Ok(Self(at, id.parse().map_err(|_| ())?))
    }
}

/// List events, new to old.
#[utoipa::path(
    get, path = "/v1/events", tag = "events",
    params(
        ("name" = Option<Vec<String>>, Query, explode, description = "Their name"),
        ("published_after" = Option<String>, Query, description = "Accepted at this moment or later, RFC 3339"),
        ("published_before" = Option<String>, Query, description = "Accepted before this moment, RFC 3339"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of events, without their data", body = Page<ListedEventBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn list_events(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let limit = params.limit();
    let filter = EventFilter {
        names: params.all("name", |name| Ok(name.to_owned())),
        after: params.moment("published_after"),
        before: params.moment("published_before"),
        cursor: page::cursor::<Place>(&mut params).map(|Place(at, id)| (at, id)),
        // One more tells whether there is a next page.
        limit: i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1),
    };
    params.finish()?;
    let mut rows = state.engine.events(&caller.namespace, &filter).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|e| Place(e.published_at, e.id));
    let data = rows.into_iter().map(ListedEventBody::from).collect();
    Ok(Page::new(data, next).answer(&uri))
}

fn event_id(text: &str) -> Result<EventId, Problem> {
    let none = |e| Problem::new(Code::EventNotFound, format!("There is no such event: {e}."));
    text.parse().map_err(|e: crate::machine::BadId| none(e))
}

/// Read an event, and what it came to.
#[utoipa::path(
    get, path = "/v1/events/{id}", tag = "events",
    params(
        ("id" = String, Path, description = "The event's id (`evt_…`)"),
        ("wait" = Option<String>, Query, description = "Wait until it is routed: `5s` or seconds; at most 300 s"),
        ("Prefer" = Option<String>, Header, description = "`wait=5`, in place of the parameter"),
    ),
    responses((status = 200, description = "The event", body = EventBody)),
    extensions(("x-problems" = json!(["event-not-found"])))
)]
pub(super) async fn get_event(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(id): At<String>,
    mut params: Params,
) -> Result<Json<EventBody>, Problem> {
    let wait = params.wait();
    params.finish()?;
    let id = event_id(&id)?;
    let ns: &Namespace = &caller.namespace;
    if let Some(wait) = wait {
        tokio::select! {
            routed = state.engine.wait_routed(ns, id, wait) => routed?,
            () = state.shutdown.cancelled() => {}
        }
    }
    let mut event = state.engine.event(ns, id).await?;
    let data = std::mem::take(&mut event.data);
    let data = serde_json::from_slice(&data).unwrap_or_else(|_| RawValue::NULL.to_owned());
    let matches = first_matches(&state, id).await?;
    Ok(Json(EventBody { event: event.into(), data, matches }))
}

/// Where a page of matches ended.
#[derive(Debug, Clone)]
struct Match(RunId, String);

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.1)
    }
}

impl FromStr for Match {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (run, step) = text.split_once(' ').ok_or(())?;
        Ok(Self(run.parse().map_err(|_| ())?, step.to_owned()))
    }
}

/// All runs that an event started or reached.
#[utoipa::path(
    get, path = "/v1/events/{id}/matches", tag = "events",
    params(
        ("id" = String, Path, description = "The event's id (`evt_…`)"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of matches, by run and step", body = Page<MatchBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!(["event-not-found"])))
)]
pub(super) async fn list_matches(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(id): At<String>,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let limit = params.limit();
    let after = page::cursor::<Match>(&mut params).map(|Match(run, step)| (run, step));
    params.finish()?;
    let id = event_id(&id)?;
    state.engine.event(&caller.namespace, id).await?;
    let mut found = state.engine.event_matches(id, after, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|m| Match(m.run, m.step.clone()));
    Ok(Page::new(found.into_iter().map(MatchBody::from).collect(), next).answer(&uri))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (n.parse().expect("a name"), HeaderValue::from_static(v)))
            .collect()
    }

    fn one(pairs: &[(&'static str, &'static str)], body: &'static str) -> Event {
        let (mut events, _) =
            read(&headers(pairs), &Bytes::from_static(body.as_bytes())).expect("fine");
        assert_eq!(events.len(), 1);
        events.remove(0)
    }

    #[test]
    fn one_event_is_the_same_in_every_mode() {
        let plain = one(
            &[("content-type", "application/json")],
            r#"{"name": "order.paid", "source": "shop", "id": "o1", "data": {"n": 1.0 }}"#,
        );
        let structured = one(
            &[("content-type", "application/cloudevents+json; charset=utf-8")],
            r#"{"specversion":"1.0","type":"order.paid","source":"shop","id":"o1","myext":1,"data":{"n": 1.0 }}"#,
        );
        let binary = one(
            &[
                ("content-type", "application/json"),
                ("ce-specversion", "1.0"),
                ("ce-type", "order%2Epaid"),
                ("ce-source", "shop"),
                ("ce-id", "o1"),
            ],
            r#"{"n": 1.0 }"#,
        );
        for event in [plain, structured, binary] {
            assert_eq!((event.name.as_str(), event.source.as_str()), ("order.paid", "shop"));
            assert_eq!(event.source_id.as_deref(), Some("o1"));
            assert_eq!(&event.data[..], br#"{"n": 1.0 }"#);
        }
        let batch = r#"[{"specversion":"1.0","type":"a","source":"s","id":"1"},
                        {"specversion":"1.0","type":"b","source":"s","id":"2"}]"#;
        let kind = headers(&[("content-type", "application/cloudevents-batch+json")]);
        let (events, many) = read(&kind, &Bytes::from_static(batch.as_bytes())).expect("fine");
        assert_eq!((events.len(), many), (2, true));
    }

    #[test]
    fn what_is_missing_is_named() {
        let kind = headers(&[("content-type", "application/cloudevents+json")]);
        let problem =
            read(&kind, &Bytes::from_static(b"{\"specversion\":\"0.3\"}")).expect_err("bad");
        assert_eq!(problem.code(), Code::InvalidRequest);
        let listed =
            read(&HeaderMap::new(), &Bytes::from_static(b"[{\"name\":\"a\"},{\"nam\":\"b\"}]"));
        assert_eq!(listed.expect_err("bad").code(), Code::InvalidRequest);
    }
}
