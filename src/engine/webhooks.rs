//! Webhooks as people see and change them, and what was delivered to each.

use super::telling::{PATIENCE, TEST, envelope, event_of, new_delivery};
use super::{Engine, Error, Namespace};
use crate::engine::catalog::Catalog;
use crate::machine::{Hook, Kind, Listened, MessageId, RetryPolicy, Timestamp, WebhookId};
use crate::protocol::Secret;
use crate::store::{DeliveryFilter, DeliveryRow, DeliveryStatus, Switch, Webhook, WebhookSpec};

/// The events of which a webhook can be told.
pub const WEBHOOK_EVENTS: [&str; 8] = [
    "run.completed",
    "run.failed",
    "run.cancelled",
    "run.timed_out",
    "run.terminated",
    "run.paused",
    "endpoint.unhealthy",
    "endpoint.healthy",
];
/// Stands for all that starts have asked to be told of.
pub const ON_COMPLETE: &str = "on-complete";
/// Webhooks of a namespace.
const MOST_WEBHOOKS: usize = 100;
/// Deliveries that one request begins anew.
pub const MOST_REDELIVERED: usize = 10_000;

/// What a creation led to.
#[derive(Debug, Clone, PartialEq)]
pub enum WebhookCreated {
    /// A new one, and its secret.
    New(Box<Webhook>, String),
    /// The same one was there.
    Same(Box<Webhook>),
}

/// What is changed of a webhook; what is none stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WebhookPatch {
    /// What is said of it, as it is to be then.
    pub spec: Option<WebhookSpec>,
    /// Whether it is on; and if it is not, why.
    pub enabled: Option<(bool, Option<String>)>,
}

impl Webhook {
    /// How often it is tried, and when.
    #[must_use]
    pub fn policy(&self) -> RetryPolicy {
        self.spec.retry.over(&PATIENCE)
    }

    /// The secrets that sign at a moment.
    pub(super) fn signing(&self, now: Timestamp) -> Vec<Secret> {
        let live = if self.old_until.is_some_and(|until| until <= now) { 1 } else { 2 };
        self.secrets.iter().take(live).filter_map(|text| Secret::parse(text).ok()).collect()
    }

    /// Whether it is told of this; what happens to endpoints is of no function.
    fn hears(&self, event: &str, function: Option<&str>) -> bool {
        let named = |all: &Option<Vec<String>>, one: &str| {
            all.as_ref().is_none_or(|all| all.iter().any(|name| name == one))
        };
        self.disabled.is_none()
            && named(&self.spec.events, event)
            && function.is_none_or(|function| named(&self.spec.functions, function))
    }
}

impl Catalog {
    /// The webhooks that are told of an event.
    pub(super) fn webhooks_told(
        &self,
        ns: i32,
        event: &str,
        function: Option<&str>,
    ) -> impl Iterator<Item = &Webhook> {
        let all = self.recorded.webhooks.iter().filter(move |w| w.ns == ns);
        all.filter(move |w| w.hears(event, function))
    }

    /// Of what the runs of a function have to tell.
    pub(super) fn listened(&self, ns: i32, function: &str) -> Listened {
        let mut listened = Listened::default();
        if self.recorded.webhooks.is_empty() {
            return listened;
        }
        for kind in Kind::ALL {
            let event = event_of(kind);
            let told = |event| self.webhooks_told(ns, event, Some(function)).next().is_some();
            if event.is_some_and(told) {
                listened.add(kind);
            }
        }
        listened
    }

    /// A webhook by its number.
    pub(super) fn webhook_numbered(&self, id: i32) -> Option<Webhook> {
        self.recorded.webhooks.iter().find(|w| w.id == id).cloned()
    }

    fn webhook(&self, ns: i32, text: &str) -> Option<&Webhook> {
        let id = text.parse::<WebhookId>().ok();
        let mine = |w: &&Webhook| w.ns == ns && (Some(w.public) == id || w.spec.name == text);
        self.recorded.webhooks.iter().find(mine)
    }
}

impl Engine {
    /// All webhooks of a namespace.
    pub async fn webhooks(&self, ns: &Namespace) -> Result<Vec<Webhook>, Error> {
        let catalog = self.fresh_catalog().await?;
        Ok(catalog.recorded.webhooks.iter().filter(|w| w.ns == ns.id).cloned().collect())
    }

    /// A webhook by id or name.
    pub async fn webhook(&self, ns: &Namespace, named: &str) -> Result<Webhook, Error> {
        let catalog = self.fresh_catalog().await?;
        let found = catalog.webhook(ns.id, named).cloned();
        found.ok_or_else(|| Error::WebhookNotFound(named.to_owned()))
    }

    /// Creates a webhook. It is told of what happens from now on; on other nodes, from their next
    /// tick on.
    pub async fn create_webhook(
        &self,
        ns: &Namespace,
        spec: WebhookSpec,
        secret: Option<&str>,
        by: &str,
    ) -> Result<WebhookCreated, Error> {
        let spec = self.checked(ns, spec)?;
        let secret = match secret {
            Some(text) => super::endpoints::parse_secret(text)?,
            None => Secret::generate(),
        };
        let secret = secret.reveal();
        let known = self.webhooks(ns).await?;
        if let Some(there) = known.iter().find(|w| w.spec.name == spec.name) {
            return if there.spec == spec {
                Ok(WebhookCreated::Same(Box::new(there.clone())))
            } else {
                Err(Error::WebhookExists(spec.name))
            };
        }
        if known.len() >= MOST_WEBHOOKS {
            let detail = format!("there are {MOST_WEBHOOKS} webhooks, which is the limit");
            return Err(Error::Invalid(String::new(), detail));
        }
        let id = WebhookId::new(self.clock().upper(), crate::clock::chance());
        let made = self.store().create_webhook(ns.id, id, &spec, &secret).await?;
        let made = made.ok_or(Error::WebhookExists(spec.name))?;
        self.reload_catalog().await;
        tracing::info!(webhook.id = %id, name = made.spec.name, by, "webhook created");
        Ok(WebhookCreated::New(Box::new(made), secret))
    }

    fn checked(&self, ns: &Namespace, mut spec: WebhookSpec) -> Result<WebhookSpec, Error> {
        spec.url = self.handler_url(ns, &spec.url)?.into();
        Ok(spec)
    }

    /// Changes a webhook that is at this version.
    pub async fn patch_webhook(
        &self,
        ns: &Namespace,
        it: &Webhook,
        patch: WebhookPatch,
        by: &str,
    ) -> Result<Webhook, Error> {
        if let Some(spec) = patch.spec.filter(|spec| *spec != it.spec) {
            let spec = self.checked(ns, spec)?;
            let known = self.webhooks(ns).await?;
            if known.iter().any(|w| w.spec.name == spec.name && w.id != it.id) {
                return Err(Error::WebhookExists(spec.name));
            }
            let changed = self.store().update_webhook(ns.id, it.public, it.version, &spec).await?;
            changed.ok_or(Error::WebhookStale)?;
        }
        if let Some((enabled, reason)) = patch.enabled {
            let to = if enabled { Switch::On } else { Switch::Off(by.to_owned(), reason) };
            self.store().switch_webhook(ns.id, it.id, &to).await?;
        }
        self.reload_catalog().await;
        // What waited for it may go now.
        self.nudge_telling();
        tracing::info!(webhook.id = %it.public, by, "webhook changed");
        self.webhook(ns, &it.public.to_string()).await
    }

    /// A new signing secret; the one before signs too until the moment that is returned.
    pub async fn rotate_webhook(
        &self,
        ns: &Namespace,
        it: &Webhook,
        secret: Option<&str>,
        by: &str,
    ) -> Result<(Webhook, String, Timestamp), Error> {
        let secret = match secret {
            Some(text) => super::endpoints::parse_secret(text)?,
            None => Secret::generate(),
        };
        let (secret, until) =
            (secret.reveal(), self.clock().upper() + super::endpoints::ROTATION_GRACE);
        let rotated = self.store().rotate_webhook(ns.id, it.public, &secret, until).await?;
        let rotated = rotated.ok_or_else(|| Error::WebhookNotFound(it.public.to_string()))?;
        self.reload_catalog().await;
        tracing::info!(webhook.id = %it.public, by, "signing secret of a webhook rotated");
        Ok((rotated, secret, until))
    }

    /// Deletes a webhook that is at this version, and what is on its way to it.
    pub async fn delete_webhook(
        &self,
        ns: &Namespace,
        it: &Webhook,
        by: &str,
    ) -> Result<(), Error> {
        if !self.store().delete_webhook(ns.id, it.public, it.version).await? {
            return Err(Error::WebhookStale);
        }
        self.reload_catalog().await;
        tracing::info!(webhook.id = %it.public, by, "webhook deleted");
        Ok(())
    }

    /// Refuses receivers that must not be called.
    pub fn check_receivers(&self, ns: &Namespace, hooks: &[Hook]) -> Result<(), Error> {
        for (i, hook) in hooks.iter().enumerate() {
            if let Err(Error::Invalid(_, detail)) = self.handler_url(ns, &hook.url) {
                return Err(Error::Invalid(format!("/on_complete/{i}/url"), detail));
            }
        }
        Ok(())
    }

    /// Sends a webhook something that means nothing.
    pub async fn test_webhook(&self, ns: &Namespace, it: &Webhook) -> Result<DeliveryRow, Error> {
        let at = self.clock().upper();
        let data = serde_json::json!({"namespace": ns.name, "webhook": it.spec.name});
        let new = new_delivery(ns.id, it.id, TEST, at, envelope(TEST, at, data));
        self.store().add_delivery(&new).await?;
        self.nudge_telling();
        self.delivery(ns, it.id, new.id).await
    }

    /// The number under which deliveries to a webhook, or to those whom starts name, are kept.
    pub async fn deliveries_to(&self, ns: &Namespace, named: &str) -> Result<i32, Error> {
        if named == ON_COMPLETE {
            return Ok(0);
        }
        self.webhook(ns, named).await.map(|w| w.id)
    }

    /// Deliveries, the newest first.
    pub async fn deliveries(
        &self,
        ns: &Namespace,
        to: i32,
        filter: &DeliveryFilter,
    ) -> Result<Vec<DeliveryRow>, Error> {
        Ok(self.store().deliveries(ns.id, to, filter).await?)
    }

    /// One delivery.
    pub async fn delivery(
        &self,
        ns: &Namespace,
        to: i32,
        id: MessageId,
    ) -> Result<DeliveryRow, Error> {
        let found = self.store().delivery_of(ns.id, to, id).await?;
        found.ok_or(Error::DeliveryNotFound(id))
    }

    /// Begins a delivery anew, whatever came of it before.
    pub async fn redeliver(
        &self,
        ns: &Namespace,
        to: i32,
        id: MessageId,
        by: &str,
    ) -> Result<DeliveryRow, Error> {
        let again = self.store().redeliver(ns.id, to, id, self.clock().upper()).await?;
        let again = again.ok_or(Error::DeliveryNotFound(id))?;
        debug_assert_eq!(again.status, DeliveryStatus::Pending, "it was begun anew");
        tracing::info!(delivery.id = %id, by, "delivery begun anew");
        self.nudge_telling();
        Ok(again)
    }

    /// Begins anew what was given up, the oldest first; how many that are, at most
    /// [`MOST_REDELIVERED`].
    pub async fn redeliver_dead(
        &self,
        ns: &Namespace,
        to: i32,
        within: (Option<Timestamp>, Option<Timestamp>),
        event: Option<&str>,
        by: &str,
    ) -> Result<u64, Error> {
        let most = i64::try_from(MOST_REDELIVERED).unwrap_or(i64::MAX);
        let now = self.clock().upper();
        let many = self.store().redeliver_dead(ns.id, to, now, within, event, most).await?;
        tracing::info!(webhook = to, many, by, "dead deliveries begun anew");
        self.nudge_telling();
        Ok(many)
    }
}
