//! What webhooks and their deliveries look like in requests and answers.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::endpoint_request::{check_url, extra_headers};
use super::fields::{Fields, plain_text};
use super::shapes::Payload;
use super::start::RetryRequest;
use crate::engine::{
    DeliveryRow, DeliveryStatus, ON_COMPLETE, WEBHOOK_EVENTS, Webhook, WebhookPatch, WebhookSpec,
};
use crate::machine::time::format_duration;
use crate::machine::{Hook, MessageId, RetrySpec, RunId, Timestamp, WebhookId};

/// Functions that a webhook names.
const MOST_FUNCTIONS: usize = 100;
/// Receivers that a start names.
const MOST_HOOKS: usize = 8;

/// A webhook to create.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `read` reads")]
pub(super) struct WebhookRequest {
    /// Unique in the namespace.
    #[schema(max_length = 128, min_length = 1)]
    name: String,
    /// Where it is told.
    #[schema(format = "uri", example = "https://example.com/hooks/stepwell", max_length = 2048)]
    url: String,
    /// Of which events: `run.completed`, `run.failed`, `run.cancelled`, `run.timed_out`,
    /// `run.terminated`, `run.paused`, `endpoint.unhealthy`, `endpoint.healthy`. Left out or null: of all.
    #[schema(min_items = 1)]
    events: Option<Vec<String>>,
    /// Of the runs of these functions; left out or null: of all. Events of endpoints come all the same.
    #[schema(min_items = 1, max_items = 100)]
    functions: Option<Vec<String>>,
    /// Whether outputs and errors of up to 64 KiB go with it; by default not.
    payloads: Option<bool>,
    /// Extra request headers. Their values are never shown again.
    headers: Option<BTreeMap<String, String>>,
    /// How often it is tried and when, over the defaults: 12 attempts, from 5 s by 4 to 12 h.
    retry: Option<RetryRequest>,
    /// A signing secret of your own (`whsec_…`); left out: one is made and shown once.
    secret: Option<String>,
}

/// A change of a webhook; what is left out stays.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `read_patch` reads")]
pub(super) struct PatchWebhookRequest {
    #[schema(max_length = 128, min_length = 1)]
    name: Option<String>,
    #[schema(format = "uri", max_length = 2048)]
    url: Option<String>,
    /// Null: of all.
    #[schema(min_items = 1)]
    events: Option<Vec<String>>,
    /// Null: of all.
    #[schema(min_items = 1, max_items = 100)]
    functions: Option<Vec<String>>,
    payloads: Option<bool>,
    /// All of them: those that are left out go.
    headers: Option<BTreeMap<String, String>>,
    /// All of it: what is left out has its default; null: the defaults.
    retry: Option<RetryRequest>,
    /// One that is not enabled is told of nothing that happens meanwhile; what is on its way waits.
    enabled: Option<bool>,
    /// Why it is not.
    #[schema(max_length = 1024)]
    reason: Option<String>,
}

/// A new secret.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct RotateWebhookRequest {
    /// A signing secret of your own (`whsec_…`); left out: one is made.
    secret: Option<String>,
}

/// Which of those that were given up.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct RedeliverRequest {
    /// What happened from then on.
    #[schema(format = DateTime)]
    since: Option<String>,
    /// What happened before.
    #[schema(format = DateTime)]
    until: Option<String>,
    /// Of this event alone.
    #[schema(max_length = 64)]
    event: Option<String>,
}

/// Who is told when a run has ended.
#[derive(ToSchema)]
#[schema(as = OnComplete)]
#[expect(dead_code, reason = "describes what `hooks` reads")]
pub(super) struct OnCompleteRequest {
    /// Where.
    #[schema(format = "uri", max_length = 2048)]
    url: String,
    /// The name of a secret (`/v1/secrets`) whose value is a signing secret (`whsec_…`). Left out: the
    /// cluster's public key alone signs.
    #[schema(max_length = 128, min_length = 1)]
    secret: Option<String>,
    /// Whether an output or error of up to 64 KiB goes with it; by default not.
    payloads: Option<bool>,
}

fn events(f: &mut Fields<'_>) -> Option<Vec<String>> {
    let events: Vec<String> = f.value("events")?;
    if events.is_empty() {
        f.fault("events", "must name one at least; leave it out for all");
    }
    for event in &events {
        if !WEBHOOK_EVENTS.contains(&event.as_str()) {
            let known = WEBHOOK_EVENTS.join(", ");
            f.fault("events", format!("`{event}` is none; there are {known}"));
        }
    }
    Some(sorted(events))
}

fn functions(f: &mut Fields<'_>) -> Option<Vec<String>> {
    let functions: Vec<String> = f.value("functions")?;
    if !(1..=MOST_FUNCTIONS).contains(&functions.len()) {
        f.fault("functions", format!("must name 1 to {MOST_FUNCTIONS}; leave it out for all"));
    }
    for name in &functions {
        if let Err(why) = plain_text(name, 256) {
            f.fault("functions", format!("the name of a function {why}"));
        }
    }
    Some(sorted(functions))
}

fn sorted(mut words: Vec<String>) -> Vec<String> {
    words.sort_unstable();
    words.dedup();
    words
}

fn name(f: &mut Fields<'_>) -> Option<String> {
    f.parsed("name", |text| {
        plain_text(text, 128)?;
        if text == ON_COMPLETE || text.parse::<WebhookId>().is_ok() {
            return Err(format!("must not be `{ON_COMPLETE}` nor look like an id"));
        }
        Ok(text.to_owned())
    })
}

fn retry(f: &mut Fields<'_>) -> Option<RetrySpec> {
    let retry = f.retry("retry")?;
    if retry.max_attempts.is_some_and(|n| n > 100) {
        f.fault("retry", "has at most 100 attempts");
    }
    Some(retry)
}

/// Reads a webhook that is to be created.
pub(super) fn read(f: &mut Fields<'_>) -> WebhookSpec {
    let name = name(f);
    let name = f.need("name", name);
    let url = f.parsed("url", check_url);
    let url = f.need("url", url);
    WebhookSpec {
        name: name.unwrap_or_default(),
        url: url.unwrap_or_default(),
        events: events(f),
        functions: functions(f),
        payloads: f.value("payloads").unwrap_or(false),
        headers: extra_headers(f),
        retry: retry(f).unwrap_or_default(),
    }
}

/// Reads a change of a webhook.
pub(super) fn read_patch(f: &mut Fields<'_>, it: &Webhook) -> WebhookPatch {
    let mut spec = it.spec.clone();
    if let Some(name) = name(f) {
        spec.name = name;
    }
    if let Some(url) = f.parsed("url", check_url) {
        spec.url = url;
    }
    if f.is_null("events") {
        spec.events = None;
    } else if let Some(events) = events(f) {
        spec.events = Some(events);
    }
    if f.is_null("functions") {
        spec.functions = None;
    } else if let Some(functions) = functions(f) {
        spec.functions = Some(functions);
    }
    spec.payloads = f.value("payloads").unwrap_or(spec.payloads);
    if f.has("headers") {
        spec.headers = extra_headers(f);
    }
    if f.is_null("retry") {
        spec.retry = RetrySpec::default();
    } else if let Some(retry) = retry(f) {
        spec.retry = retry;
    }
    let enabled: Option<bool> = f.value("enabled");
    let reason = super::acts::reason(f);
    if reason.is_some() && enabled != Some(false) {
        f.fault("reason", "has no meaning without `\"enabled\": false`");
    }
    WebhookPatch { spec: Some(spec), enabled: enabled.map(|on| (on, reason)) }
}

/// Reads who is told when a run has ended.
pub(super) fn hooks(f: &mut Fields<'_>) -> Vec<Hook> {
    let hooks = f.objects("on_complete", |f| {
        let url = f.parsed("url", check_url);
        let url = f.need("url", url).unwrap_or_default();
        let (secret, payloads) = (f.text("secret", 128), f.value("payloads").unwrap_or(false));
        Hook { url, secret, payloads }
    });
    let hooks = hooks.unwrap_or_default();
    if hooks.len() > MOST_HOOKS {
        f.fault("on_complete", format!("has {} receivers; the limit is {MOST_HOOKS}", hooks.len()));
    }
    hooks
}

/// Since when, by whom and why a webhook is told of nothing.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookDisabled)]
pub(super) struct DisabledBody {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `gateway` where the receiver answered 410.
    by: String,
    reason: Option<String>,
}

/// A policy of attempts in force.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookRetry)]
pub(super) struct WebhookRetryBody {
    max_attempts: u32,
    initial: String,
    factor: f64,
    max_interval: String,
    jitter: f64,
    max_elapsed: Option<String>,
}

/// A webhook.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(super) struct WebhookBody {
    #[schema(value_type = String)]
    id: WebhookId,
    name: String,
    url: String,
    /// Of which events it is told; null: of all.
    events: Option<Vec<String>>,
    /// Of whose runs; null: of all.
    functions: Option<Vec<String>>,
    payloads: bool,
    /// Names of the extra request headers; their values are not shown.
    headers: Vec<String>,
    retry: WebhookRetryBody,
    enabled: bool,
    disabled: Option<DisabledBody>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// Its signing secret: only in the answer to its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl WebhookBody {
    pub(super) fn of(w: Webhook, secret: Option<String>) -> Self {
        let retry = w.policy();
        Self {
            id: w.public,
            name: w.spec.name,
            url: w.spec.url,
            events: w.spec.events,
            functions: w.spec.functions,
            payloads: w.spec.payloads,
            headers: w.spec.headers.into_keys().collect(),
            retry: WebhookRetryBody {
                max_attempts: retry.max_attempts,
                initial: format_duration(retry.initial),
                factor: retry.factor,
                max_interval: format_duration(retry.max_interval),
                jitter: retry.jitter,
                max_elapsed: retry.max_elapsed.map(format_duration),
            },
            enabled: w.disabled.is_none(),
            disabled: w.disabled.map(|(at, by, reason)| DisabledBody { at, by, reason }),
            created_at: w.created_at,
            updated_at: w.updated_at,
            secret,
        }
    }
}

/// A webhook's new secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RotatedWebhook)]
pub(super) struct RotatedWebhookBody {
    pub(super) webhook: WebhookBody,
    /// The new secret. It is not shown again.
    pub(super) secret: String,
    /// Until when deliveries are signed with the old one too.
    #[schema(value_type = String, format = DateTime)]
    pub(super) old_until: Timestamp,
}

/// The last attempt of a delivery.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LastAttempt)]
pub(super) struct LastAttemptBody {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// The HTTP status; null: there was no answer.
    status: Option<u16>,
    detail: String,
}

/// What a receiver is told, or was.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
pub(super) struct DeliveryBody {
    /// What the receiver gets as `webhook-id`, the same at every attempt.
    #[schema(value_type = String)]
    id: MessageId,
    event: String,
    /// When that happened.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// The run that it is about.
    #[schema(value_type = Option<String>)]
    run: Option<RunId>,
    /// Where it goes, where no webhook says so.
    url: Option<String>,
    /// `pending`, `delivered` or `dead`: given up.
    #[schema(pattern = "^(pending|delivered|dead)$")]
    status: &'static str,
    /// Attempts since it was last begun.
    attempts: u32,
    last_attempt: Option<LastAttemptBody>,
    /// When the next attempt begins; while one is under way, when it counts as lost.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt_at: Option<Timestamp>,
}

impl From<DeliveryRow> for DeliveryBody {
    fn from(d: DeliveryRow) -> Self {
        let status = d.last_status;
        Self {
            id: d.new.id,
            event: d.new.event,
            at: d.new.at,
            run: d.new.run,
            url: d.new.url,
            status: d.status.word(),
            attempts: d.attempts,
            last_attempt: d.last_at.map(|at| LastAttemptBody {
                at,
                status,
                detail: d.last_detail.unwrap_or_default(),
            }),
            next_attempt_at: d.next_at,
        }
    }
}

/// One delivery with what is sent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WholeDelivery)]
pub(super) struct WholeDeliveryBody {
    #[serde(flatten)]
    delivery: DeliveryBody,
    /// The body, as it is sent and signed.
    #[schema(value_type = serde_json::Value)]
    body: Payload,
}

impl From<DeliveryRow> for WholeDeliveryBody {
    fn from(d: DeliveryRow) -> Self {
        let body = Payload(Some(d.new.body.clone()));
        Self { delivery: d.into(), body }
    }
}

/// What was begun anew.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Redelivered)]
pub(super) struct RedeliveredBody {
    /// How many.
    pub(super) redelivered: u64,
    /// There may be more: a request takes 10,000, the oldest first.
    pub(super) more: bool,
}

/// The word of a status in a query.
pub(super) fn status(text: &str) -> Result<DeliveryStatus, String> {
    DeliveryStatus::ALL
        .into_iter()
        .find(|s| s.word() == text)
        .ok_or_else(|| "must be `pending`, `delivered` or `dead`".to_owned())
}
