//! Tells those outside who listen: what runs have said becomes deliveries, in one transaction with the
//! removal of what said so; whichever node takes one sends it, again and again, until its receiver
//! has it or it is given up.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use url::Url;

use super::catalog::Catalog;
use super::faults::Point;
use super::lanes::Line;
use super::{Engine, Status, lock};
use crate::machine::{
    Hook, Kind, MessageId, RetryPolicy, RunId, Said, Telling, Timestamp, to_bytes,
};
use crate::outbound::Failure;
use crate::protocol::{self, Secret};
use crate::store::{
    self, Attempted, DeliveryRow, DeliveryStatus, NewDelivery, Noteworthy, Posted, Slot, Switch,
};

/// How often a receiver is tried: for about two days.
pub(super) const PATIENCE: RetryPolicy = RetryPolicy {
    max_attempts: 12,
    initial: Duration::from_secs(5),
    factor: 4.0,
    max_interval: Duration::from_hours(12),
    jitter: 0.2,
    max_elapsed: None,
};
/// How long a receiver may take.
const ANSWER: Duration = Duration::from_secs(15);
/// How long others leave alone what a node has taken: longer than a receiver may take.
const LEASE: Duration = Duration::from_mins(1);
/// How often what is due is looked for where nobody says that something is.
const SEARCH: Duration = Duration::from_secs(1);
/// What one queue has on its way from a node, about, and all together.
const OF_EACH: usize = 8;
const AT_ONCE: usize = 64;
/// The largest answer of a receiver that is read; nothing is made of it.
const MAX_ANSWER: usize = 1 << 20;
/// The largest output or error that goes with what is told; the reference names it.
const TOLD_PAYLOAD: usize = 64 << 10;
/// What is kept of an answer that is no success, in characters.
const KEPT: usize = 200;
/// Hosts that starts name share so many queues.
const HOSTS: u32 = 64;

/// The name of the test that somebody asks for.
pub(super) const TEST: &str = "webhook.test";

/// What this node has on its way to receivers.
#[derive(Debug, Default)]
pub(super) struct Tellers {
    nudge: Notify,
    /// By queue.
    open: Mutex<HashMap<i32, usize>>,
}

/// What of a run its receivers are told.
#[derive(Serialize)]
struct RunTold<'a> {
    id: RunId,
    namespace: &'a str,
    function: &'a str,
    key: Option<&'a str>,
    generation: i32,
    status: &'static str,
    created_at: Timestamp,
    ended_at: Option<Timestamp>,
    tags: BTreeMap<String, String>,
    parent: Option<RunId>,
    link: String,
}

#[derive(Serialize)]
struct DataTold<'a> {
    run: &'a RunTold<'a>,
    reopened: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    attention: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<String>,
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    r#type: &'a str,
    timestamp: Timestamp,
    data: T,
}

/// The body of what is told.
pub(super) fn envelope(event: &str, at: Timestamp, data: impl Serialize) -> Bytes {
    to_bytes(&Envelope { r#type: event, timestamp: at, data })
}

/// What a row of this kind is called where it is told.
pub(super) const fn event_of(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Paused => "run.paused",
        Kind::Completed => "run.completed",
        Kind::EndFailed => "run.failed",
        Kind::Cancelled => "run.cancelled",
        Kind::TimedOut => "run.timed_out",
        Kind::Terminated => "run.terminated",
        _ => return None,
    })
}

/// The queue of a receiver that a start names: one host, whatever it is called, has its turns in one.
fn queue_of(url: &str) -> i32 {
    let url = url.parse::<Url>().ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let place = crc32fast::hash(host.as_bytes()) % HOSTS;
    -1 - i32::try_from(place).unwrap_or(0)
}

/// A delivery that nobody was told yet.
pub(super) fn new_delivery(
    ns: i32,
    webhook: i32,
    event: &str,
    at: Timestamp,
    body: Bytes,
) -> NewDelivery {
    NewDelivery {
        id: MessageId::new(at, crate::clock::chance()),
        ns,
        webhook,
        queue: webhook,
        run: None,
        url: None,
        secret: None,
        event: event.to_owned(),
        at,
        body,
    }
}

/// Everything that one telling comes to.
fn deliveries(
    catalog: &Catalog,
    base: &str,
    ns: i32,
    telling: &Telling,
    run: &Noteworthy,
) -> Vec<NewDelivery> {
    let kind = Kind::from_code(telling.what);
    let Some((kind, event)) = kind.and_then(|kind| Some((kind, event_of(kind)?))) else {
        return Vec::new();
    };
    let function = catalog.recorded.function(run.function_id);
    let function = function.map_or("", |f| f.name.as_str());
    let namespace = catalog.namespace(ns).map_or_else(String::new, |n| n.name);
    let id = run.slot.0;
    let told = RunTold {
        id,
        namespace: &namespace,
        function,
        key: run.key.as_deref(),
        generation: run.generation,
        status: Status::from_code(kind.code()).unwrap_or(Status::Paused).word(),
        created_at: run.created_at,
        ended_at: kind.ends().then_some(run.at),
        tags: run.tags.as_deref().and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default(),
        parent: run.parent,
        link: format!("{base}/v1/runs/{id}"),
    };
    let payload: Option<&RawValue> =
        run.body.as_deref().and_then(|body| serde_json::from_slice(body).ok());
    let fits = payload.filter(|p| p.get().len() <= TOLD_PAYLOAD);
    let body = |payloads: bool| {
        let with = |of: Kind| fits.filter(|_| payloads && kind == of);
        let over = payload.filter(|p| p.get().len() > TOLD_PAYLOAD && payloads);
        let over = over.filter(|_| matches!(kind, Kind::Completed | Kind::EndFailed));
        let data = DataTold {
            run: &told,
            reopened: telling.reopened,
            // What lists show too.
            attention: payload.filter(|_| kind == Kind::Paused),
            output: with(Kind::Completed),
            error: with(Kind::EndFailed),
            left_out: over.map(|p| {
                let what = if kind == Kind::Completed { "output" } else { "error" };
                format!("the {what} has {} bytes; the limit is {TOLD_PAYLOAD}", p.get().len())
            }),
        };
        envelope(event, run.at, data)
    };
    let bodies = [body(false), body(true)];
    let new = |webhook: i32, payloads: bool| NewDelivery {
        run: Some(id),
        ..new_delivery(ns, webhook, event, run.at, bodies[usize::from(payloads)].clone())
    };
    let mut all: Vec<NewDelivery> = catalog
        .webhooks_told(ns, event, Some(function))
        .map(|w| new(w.id, w.spec.payloads))
        .collect();
    all.extend(telling.hooks.iter().map(|Hook { url, secret, payloads }| NewDelivery {
        queue: queue_of(url),
        url: Some(url.clone()),
        secret: secret.clone(),
        ..new(0, *payloads)
    }));
    all
}

impl Engine {
    /// Something may be due to be told.
    pub(super) fn nudge_telling(&self) {
        self.0.tellers.nudge.notify_one();
    }

    /// What runs have said to those who listen becomes deliveries.
    pub(super) async fn tell_listeners(
        &self,
        line: &mut Line,
        posted: &[Posted],
    ) -> store::Result<()> {
        let catalog = match self.fresh_catalog().await {
            Ok(catalog) => catalog,
            Err(_) => self.catalog(),
        };
        let slots: Vec<Slot> = posted.iter().map(|p| p.slot).collect();
        let (mut delivery, held) = line.get().await.delivery(&slots, &[], &[]).await?;
        let rows = delivery.noteworthy(&slots).await?;
        let mut all = Vec::new();
        for Posted { slot, ns, body, .. } in posted.iter().filter(|p| held.contains(&p.slot)) {
            // A run that is gone was purged: nobody is to hear of it.
            let Some(run) = rows.iter().find(|r| r.slot == *slot) else { continue };
            match serde_json::from_slice(body) {
                Ok(Said::Tell(telling)) => {
                    all.extend(deliveries(&catalog, self.public_url(), *ns, &telling, run));
                }
                _ => {
                    tracing::error!(run.id = %slot.0, "what a run has said cannot be read");
                }
            }
        }
        delivery.add(&all).await?;
        delivery.remove(&slots).await?;
        self.faults().reach(Point::DeliverBefore);
        delivery.commit().await?;
        self.faults().reach(Point::DeliverAfter);
        self.nudge_telling();
        Ok(())
    }

    /// Sends what is due, as long as the node lives.
    pub(super) async fn keep_telling(&self) {
        loop {
            let nudged = self.0.tellers.nudge.notified();
            let taken = self.take_some().await;
            if taken == 0 {
                let _ = tokio::time::timeout(SEARCH, nudged).await;
            }
        }
    }

    /// Begins to send some of what is due; how many.
    async fn take_some(&self) -> usize {
        if self.owner().leaving {
            return 0;
        }
        let (full, room) = {
            let open = lock(&self.0.tellers.open);
            let full = open.iter().filter(|(_, n)| **n >= OF_EACH).map(|(queue, _)| *queue);
            (full.collect::<Vec<i32>>(), AT_ONCE.saturating_sub(open.values().sum()))
        };
        if room == 0 {
            return 0;
        }
        let now = self.clock().upper();
        let (each, room) = (count(OF_EACH), count(room));
        let taken = match self.store().take_deliveries(now, LEASE, each, &full, room).await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::debug!(%error, "cannot look for what is to be told yet");
                return 0;
            }
        };
        let many = taken.len();
        for delivery in taken {
            *lock(&self.0.tellers.open).entry(delivery.new.queue).or_default() += 1;
            let engine = self.clone();
            self.spawn(async move { engine.tell(delivery).await });
        }
        many
    }

    /// One attempt, and what comes of it.
    async fn tell(&self, delivery: DeliveryRow) {
        let came = self.attempt_to_tell(&delivery).await;
        let outcome = match came.status {
            DeliveryStatus::Pending => "failed",
            other => other.word(),
        };
        metrics::counter!("stepwell_webhook_attempts_total", "outcome" => outcome).increment(1);
        let id = delivery.new.id;
        if let Err(error) = self.store().attempted(id, delivery.attempts, &came).await {
            // It is told again when its lease has passed.
            tracing::warn!(delivery.id = %id, %error, "what came of a delivery is not recorded");
        }
        if came.answered == Some(410) && delivery.new.webhook != 0 {
            self.gone(&delivery).await;
        }
        {
            let mut open = lock(&self.0.tellers.open);
            let left = open.entry(delivery.new.queue).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 {
                open.remove(&delivery.new.queue);
            }
        }
        self.nudge_telling();
    }

    /// A receiver says that it is no more.
    async fn gone(&self, delivery: &DeliveryRow) {
        let reason = Some("its receiver answered 410 Gone".to_owned());
        let off = Switch::Off("gateway".to_owned(), reason);
        let (ns, id) = (delivery.new.ns, delivery.new.webhook);
        match self.store().switch_webhook(ns, id, &off).await {
            Ok(true) => {
                tracing::warn!(webhook = id, "a webhook is disabled: its receiver is gone");
                self.reload_catalog().await;
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(webhook = id, %error, "a webhook is not disabled yet"),
        }
    }

    async fn attempt_to_tell(&self, delivery: &DeliveryRow) -> Attempted {
        let new = &delivery.new;
        let hook = self.hook_of(new.webhook).await;
        let policy = hook.as_ref().map_or(PATIENCE, store::Webhook::policy);
        let sent = async {
            let now = self.clock().upper();
            let text = hook.as_ref().map(|w| &w.spec.url).or(new.url.as_ref());
            let url = text.and_then(|url| url.parse::<Url>().ok()).ok_or("it has no URL")?;
            let secrets = match (&hook, &new.secret) {
                (Some(hook), _) => hook.signing(now),
                (None, Some(name)) => vec![self.told_secret(new.ns, name).await?],
                (None, None) => Vec::new(),
            };
            let own = hook.as_ref().map(|w| super::catalog::header_map(&w.spec.headers));
            let headers = self.telling_headers(own.unwrap_or_default(), &secrets, new);
            let post = self.client().post(&url, headers, new.body.clone(), ANSWER, MAX_ANSWER);
            match tokio::time::timeout(ANSWER, post).await {
                // Whatever it has to say is more than anybody wants to know, and it has said 200.
                Ok(Err(Failure::TooLarge(_))) => Ok((200, None, String::new())),
                Ok(Ok(reply)) => {
                    let text = String::from_utf8_lossy(&reply.body);
                    let head: String =
                        text.chars().filter(|c| !c.is_control()).take(KEPT).collect();
                    Ok((reply.status, reply.retry_delay(now), head))
                }
                Ok(Err(failure)) => Err(failure.to_string()),
                Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
            }
        };
        let sent: Result<_, String> = sent.await;
        let at = self.clock().upper();
        let failed = |answered, detail, after| {
            let first = delivery.first_at.unwrap_or(at);
            let next = policy.next(delivery.attempts, first, at, after, crate::clock::jitter());
            let next = next.filter(|_| answered != Some(410));
            let status =
                if next.is_some() { DeliveryStatus::Pending } else { DeliveryStatus::Dead };
            Attempted { status, next_at: next, at, answered, detail }
        };
        match sent {
            Ok((status, ..)) if (200..300).contains(&status) => Attempted {
                status: DeliveryStatus::Delivered,
                next_at: None,
                at,
                answered: Some(status),
                detail: "delivered".to_owned(),
            },
            Ok((status, after, head)) => {
                let said = if head.is_empty() { String::new() } else { format!(": {head}") };
                failed(Some(status), format!("the receiver answered {status}{said}"), after)
            }
            Err(detail) => failed(None, detail, None),
        }
    }

    /// The webhook of a delivery, also one that another node has created a moment ago.
    async fn hook_of(&self, webhook: i32) -> Option<store::Webhook> {
        if webhook == 0 {
            return None;
        }
        match self.catalog().webhook_numbered(webhook) {
            None => self.fresh_catalog().await.ok()?.webhook_numbered(webhook),
            known => known,
        }
    }

    async fn told_secret(&self, ns: i32, name: &str) -> Result<Secret, String> {
        match self.store().secret_value(ns, name).await {
            Ok(Some(value)) => std::str::from_utf8(&value)
                .ok()
                .and_then(|text| Secret::parse(text).ok())
                .ok_or_else(|| format!("the secret `{name}` is no signing secret (`whsec_…`)")),
            Ok(None) => Err(format!("there is no secret `{name}`")),
            Err(_) => Err("the secret could not be read".to_owned()),
        }
    }

    /// Standard Webhooks: what shows that it is ours, over what the receiver wants beside.
    fn telling_headers(&self, own: HeaderMap, secrets: &[Secret], new: &NewDelivery) -> HeaderMap {
        let (id, seconds) = (new.id.to_string(), self.clock().upper().as_secs());
        let mut signature = protocol::sign(&id, seconds, &new.body, secrets);
        if secrets.is_empty() || self.0.settings.sign_publicly {
            let public = self.keys().public().sign(&id, seconds, &new.body);
            signature = if signature.is_empty() { public } else { format!("{signature} {public}") };
        }
        let mut headers = own;
        for (name, value) in [
            ("content-type", "application/json".to_owned()),
            (protocol::WEBHOOK_ID, id),
            (protocol::WEBHOOK_TIMESTAMP, seconds.to_string()),
            (protocol::WEBHOOK_SIGNATURE, signature),
        ] {
            let value = HeaderValue::try_from(value).expect("ids, digits and base64 are ASCII");
            headers.insert(HeaderName::from_static(name), value);
        }
        headers
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_up_after_two_days_or_so() {
        let waits: Duration = (1..PATIENCE.max_attempts).map(|n| PATIENCE.delay(n, 0.0)).sum();
        assert!((Duration::from_hours(48)..Duration::from_hours(72)).contains(&waits), "{waits:?}");
        assert_eq!(PATIENCE.delay(1, 0.0), Duration::from_secs(5));
    }

    #[test]
    fn one_host_has_one_queue() {
        let queue = queue_of("https://a.example/x?y");
        assert_eq!(queue, queue_of("http://a.example:8080/z"));
        assert!((-64..0).contains(&queue));
        assert_ne!(queue, queue_of("https://b.example/x"));
    }
}
