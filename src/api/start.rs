//! `POST /v1/functions/{name}/runs`: starts a run.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::{Checked, Operator};
use super::fields::{self, Fields, plain_text};
use super::forward::elsewhere;
use super::problem::Problem;
use super::request::{At, Params, check_input, idempotency, sent, traceparent};
use super::shapes::RunBody;
use super::webhook_shapes::{self, OnCompleteRequest};
use crate::engine::{Caller, IfClosed, IfRunning, RunView, Start, Started};
use crate::machine::{DeploymentId, Hook, RetrySpec, Shard};

/// Says that an idempotency key was used before, and this is what it did then.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Tags of a run.
const MAX_TAGS: usize = 32;

/// What a run is started with. Everything may be left out.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `read` reads")]
pub(super) struct StartRequest {
    /// Any JSON up to 1 MiB, passed on byte for byte. Left out: null.
    #[schema(value_type = serde_json::Value, required = false)]
    input: serde_json::Value,
    /// Names the run: at most one live run of a function has a key.
    #[schema(max_length = 256, min_length = 1)]
    key: Option<String>,
    /// If a run of this key is live: `fail` (409, the default), `use_existing`,
    /// `cancel_existing` or `terminate_existing`.
    #[schema(pattern = "^(fail|use_existing|cancel_existing|terminate_existing)$")]
    if_running: Option<String>,
    /// If a run of this key has ended: `allow` (the default), `allow_if_failed` or `reject`.
    #[schema(pattern = "^(allow|allow_if_failed|reject)$")]
    if_closed: Option<String>,
    /// Starts after this time: `30s`, `7d`, `PT30S`.
    #[schema(example = "30s")]
    delay: Option<String>,
    /// Starts at this moment. Not beside `delay`.
    #[schema(format = DateTime)]
    start_at: Option<String>,
    /// Up to 32 searchable tags.
    tags: Option<BTreeMap<String, String>>,
    /// Among runs that wait for the same limit higher ones go first; by default 0.
    #[schema(minimum = -100, maximum = 100)]
    priority: Option<i16>,
    timeouts: Option<TimeoutsRequest>,
    /// Default policy of its steps, over the function's.
    retry: Option<RetryRequest>,
    /// The deployment to run on (`dep_…`), instead of the newest.
    version: Option<String>,
    /// A signal that is there from the start, or is sent to the existing run with
    /// `"if_running": "use_existing"`.
    signal: Option<SignalWithStart>,
    /// Who is told when it has ended.
    #[schema(max_items = 8)]
    on_complete: Option<Vec<OnCompleteRequest>>,
}

/// How long things may take.
#[derive(ToSchema)]
#[schema(as = Timeouts)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct TimeoutsRequest {
    /// How long it may wait for its first invocation; then it ends as `timed_out`.
    #[schema(example = "10m")]
    start: Option<String>,
    /// The run as a whole.
    #[schema(example = "30d")]
    run: Option<String>,
    /// The longest silence of an exchange with the handler.
    #[schema(example = "60s")]
    invocation: Option<String>,
}

/// A retry policy; what is left out has the default.
#[derive(ToSchema)]
#[schema(as = RetryPolicy)]
#[expect(dead_code, reason = "describes what `Fields::retry` reads")]
pub(super) struct RetryRequest {
    /// Attempts in all.
    #[schema(minimum = 1, maximum = 10000)]
    max_attempts: Option<u32>,
    /// The first delay.
    #[schema(example = "500ms")]
    initial: Option<String>,
    /// What each delay is multiplied by.
    #[schema(minimum = 1, maximum = 100)]
    factor: Option<f64>,
    /// The longest delay.
    #[schema(example = "60s")]
    max_interval: Option<String>,
    /// The part of a delay that is left to chance.
    #[schema(minimum = 0, maximum = 1)]
    jitter: Option<f64>,
    /// No attempt begins later than this after the first.
    #[schema(example = "1h")]
    max_elapsed: Option<String>,
}

/// A signal beside a start.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct SignalWithStart {
    #[schema(max_length = 256, min_length = 1)]
    name: String,
    /// Any JSON. Left out: null.
    #[schema(value_type = serde_json::Value, required = false)]
    payload: serde_json::Value,
}

/// A start's body, read.
pub(super) struct Wanted<'a> {
    input: &'a RawValue,
    key: Option<String>,
    if_running: IfRunning,
    if_closed: IfClosed,
    delay: Option<Duration>,
    start_at: Option<crate::machine::Timestamp>,
    tags: BTreeMap<String, String>,
    priority: i16,
    start_timeout: Option<Duration>,
    run_timeout: Option<Duration>,
    invocation_timeout: Option<Duration>,
    retry: Option<RetrySpec>,
    deployment: Option<DeploymentId>,
    signal: Option<(String, Bytes)>,
    pub(super) on_complete: Vec<Hook>,
}

impl Wanted<'_> {
    /// Refuses payloads that are too large.
    pub(super) fn check(&self) -> Result<(), Problem> {
        check_input("input", self.input.get().len())?;
        self.signal
            .as_ref()
            .map_or(Ok(()), |(_, payload)| check_input("signal.payload", payload.len()))
    }

    /// What the engine is asked for.
    pub(super) fn start(
        self,
        state: &ApiState,
        caller: &Caller,
        function: String,
        headers: &HeaderMap,
    ) -> Start {
        Start {
            namespace: caller.namespace.clone(),
            function,
            input: self.input.to_owned(),
            key: self.key,
            if_running: self.if_running,
            if_closed: self.if_closed,
            start_at: self.start_at.or_else(|| self.delay.map(|d| state.engine.now() + d)),
            tags: self.tags,
            priority: self.priority,
            start_timeout: self.start_timeout,
            run_timeout: self.run_timeout,
            invocation_timeout: self.invocation_timeout,
            retry: self.retry,
            deployment: self.deployment,
            signal: self.signal,
            idempotency: None,
            by: caller.by.clone(),
            traceparent: traceparent(headers),
            schedule: None,
            on_complete: self.on_complete,
            gathered: false,
        }
    }
}

pub(super) fn read<'a>(f: &mut Fields<'a>) -> Wanted<'a> {
    let input = f.payload("input").unwrap_or(RawValue::NULL);
    let key = f.text("key", 256);
    let if_running = f.word(
        "if_running",
        &[
            ("fail", IfRunning::Fail),
            ("use_existing", IfRunning::UseExisting),
            ("cancel_existing", IfRunning::CancelExisting),
            ("terminate_existing", IfRunning::TerminateExisting),
        ],
    );
    let if_closed = f.word(
        "if_closed",
        &[
            ("allow", IfClosed::Allow),
            ("allow_if_failed", IfClosed::AllowIfFailed),
            ("reject", IfClosed::Reject),
        ],
    );
    if key.is_none() {
        for (name, given) in
            [("if_running", if_running.is_some()), ("if_closed", if_closed.is_some())]
        {
            if given {
                f.fault(name, "has no meaning without a `key`");
            }
        }
    }
    let (delay, start_at) = (f.duration("delay"), f.moment("start_at"));
    if delay.is_some() && start_at.is_some() {
        f.fault("start_at", "is given beside `delay`; one of them is enough");
    }
    let tags = tags(f);
    let timeouts = f
        .object("timeouts", |f| (f.duration("start"), f.duration("run"), f.duration("invocation")));
    let (start_timeout, run_timeout, invocation_timeout) = timeouts.unwrap_or_default();
    let priority = f.value::<i16>("priority").unwrap_or(0);
    if !(-100..=100).contains(&priority) {
        f.fault("priority", "must be from -100 to 100");
    }
    Wanted {
        input,
        key,
        if_running: if_running.unwrap_or_default(),
        if_closed: if_closed.unwrap_or_default(),
        delay,
        start_at,
        tags,
        priority,
        start_timeout,
        run_timeout,
        invocation_timeout,
        retry: f.retry("retry"),
        deployment: f.parsed("version", |text| text.parse().map_err(|e| format!("{e}"))),
        signal: f.object("signal", signal).flatten(),
        on_complete: webhook_shapes::hooks(f),
    }
}

fn signal(f: &mut Fields<'_>) -> Option<(String, Bytes)> {
    let name = f.text("name", 256);
    let name = f.need("name", name);
    let payload = f.payload("payload").unwrap_or(RawValue::NULL).get().to_owned();
    Some((name?, payload.into()))
}

fn tags(f: &mut Fields<'_>) -> BTreeMap<String, String> {
    some_tags(f).unwrap_or_default()
}

/// Tags, if there are any.
pub(super) fn some_tags(f: &mut Fields<'_>) -> Option<BTreeMap<String, String>> {
    let tags: BTreeMap<String, String> = f.value("tags")?;
    if tags.len() > MAX_TAGS {
        f.fault("tags", format!("has {} tags; the limit is {MAX_TAGS}", tags.len()));
    }
    for (name, value) in &tags {
        if let Err(why) = plain_text(name, 64) {
            f.fault("tags", format!("the name of a tag {why}"));
        }
        if value.len() > 256 || value.chars().any(char::is_control) {
            f.fault("tags", "the value of a tag has at most 256 bytes and no control characters");
        }
    }
    Some(tags)
}

/// Start a run.
///
/// Answers when the start is durable. With `wait` it answers when the run has ended, or, with 202,
/// when the time is up.
#[utoipa::path(
    post, path = "/v1/functions/{name}/runs", tag = "runs",
    params(
        ("name" = String, Path, description = "The function"),
        ("wait" = Option<String>, Query, description = "Wait for the end: `30s`, `PT30S` or seconds; at most 300 s"),
        ("Prefer" = Option<String>, Header, description = "`wait=30`, in place of the parameter"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body start one run"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, carried into every invocation"),
    ),
    request_body(content = Option<StartRequest>, content_type = "application/json"),
    responses(
        (status = 202, description = "Started", body = RunBody, headers(
            ("Location" = String, description = "The run"),
            ("Idempotent-Replayed" = String, description = "`true` where the idempotency key was used before"))),
        (status = 200, description = "Started, and ended within `wait`", body = RunBody),
    ),
    extensions(("x-problems" = json!(["function-not-found", "deployment-not-found", "endpoint-draining", "rate-limited", "quota-exceeded", "run-exists",
        "idempotency-in-progress", "idempotency-key-reused", "run-ended", "run-ending",
        "too-many-signals", "node-unreachable"])))
)]
pub(super) async fn start_run(
    State(state): State<ApiState>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let Operator(caller) = Operator::from_request_parts(&mut parts, &state).await?;
    let At(function) = At::<String>::from_request_parts(&mut parts, &state).await?;
    let mut params = Params::of(&parts);
    let body = sent(&parts, body).await?;
    let wait = params.wait();
    params.finish()?;
    let wanted = fields::read(&body, read)?;
    wanted.check()?;
    state.engine.check_receivers(&caller.namespace, &wanted.on_complete)?;
    let call = format!("POST /v1/functions/{function}/runs");
    let idempotency = idempotency(&parts.headers, &call, &body)?;

    let namespace = caller.namespace.name.as_str();
    let shard = match (&wanted.key, &idempotency) {
        (Some(key), _) => Some(Shard::of_key(namespace, &function, key)),
        (None, Some(i)) => Some(Shard::of_idempotency_key(namespace, &i.key)),
        (None, None) => None,
    };
    if let Some(node) = shard.and_then(|shard| elsewhere(&state.engine, &parts, shard)) {
        parts.extensions.insert(Checked::Caller(caller.clone()));
        if let Some(response) = state.nodes.pass(&state.engine, &node, &parts, &body).await? {
            return Ok(response);
        }
    }
    let input = match wanted.input.get() {
        // It may have been left out, and be no part of the body.
        "null" => Bytes::from_static(b"null"),
        text => body.slice_ref(text.as_bytes()),
    };
    let start = Start { idempotency, ..wanted.start(&state, &caller, function, &parts.headers) };
    answer(&state, &caller, start, input, wait).await
}

async fn answer(
    state: &ApiState,
    caller: &Caller,
    start: Start,
    input: Bytes,
    wait: Option<Duration>,
) -> Result<Response, Problem> {
    let now = state.engine.now();
    let accepted = {
        let start = start.clone();
        move |run| RunView::of_start(&start, input, now, run)
    };
    let started = state.engine.start(start).await?;
    let run = started.run();
    let seen = match wait {
        None => state.engine.view(&caller.namespace, run).await,
        Some(wait) => state.wait_end(&caller.namespace, run, wait).await,
    };
    // The start is durable: it is answered as accepted even if the run cannot be read just now.
    let view = seen.unwrap_or_else(|_| accepted(run));
    let ended = wait.is_some() && view.status.ended();
    let mut response = Json(RunBody::from(view)).into_response();
    *response.status_mut() = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    let headers = response.headers_mut();
    let location = format!("/v1/runs/{run}");
    headers.insert(
        header::LOCATION,
        HeaderValue::try_from(location).expect("ids are letters and digits"),
    );
    if !ended {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if matches!(started, Started::Replayed(_)) {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}
