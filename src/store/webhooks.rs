//! Webhooks as they are registered. Every change is a new version of the catalog, which the nodes hear
//! of with their next tick.

use std::collections::BTreeMap;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::Store;
use super::catalog::{BUMP, headers_json};
use super::error::{Error, Result};
use super::wire::{self, Raw, Ts};
use crate::machine::{RetrySpec, Timestamp, WebhookId};

/// A receiver that is told of what happens in a namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// The number that deliveries name.
    pub id: i32,
    /// The id that users see.
    pub public: WebhookId,
    /// Its namespace.
    pub ns: i32,
    /// What is sent, to whom, and how.
    pub spec: WebhookSpec,
    /// Signing secrets, the newest first: one or two.
    pub secrets: Vec<String>,
    /// When the older one ceases to sign.
    pub old_until: Option<Timestamp>,
    /// Since when, by whom and why nothing is recorded for it or sent.
    pub disabled: Option<(Timestamp, String, Option<String>)>,
    /// Grows with every change.
    pub version: i32,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// What people say of a webhook.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WebhookSpec {
    /// Unique in the namespace.
    pub name: String,
    /// Where deliveries are posted.
    pub url: String,
    /// Of which events it is told; none: of all.
    pub events: Option<Vec<String>>,
    /// Of whose runs; none: of all.
    pub functions: Option<Vec<String>>,
    /// Whether outputs and errors go with it.
    pub payloads: bool,
    /// Extra headers of every delivery.
    pub headers: BTreeMap<String, String>,
    /// Its policy of attempts, over the defaults.
    pub retry: RetrySpec,
}

/// Whether a webhook is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switch {
    /// It is.
    On,
    /// It is not: by whom, and why.
    Off(String, Option<String>),
}

macro_rules! columns {
    () => {
        "id, public_id, ns, name, url, events, functions, payloads, headers::text as headers,
       retry::text as retry, secret, old_secret, old_until, disabled_at, disabled_by, disabled_reason,
       version, created_at, updated_at"
    };
}

pub(super) const ALL: &str =
    concat!("select ", columns!(), " from webhooks where deleted_at is null order by id");

pub(super) const CREATE: &str = concat!(
    "insert into webhooks (public_id, ns, name, url, events, functions, payloads, headers, retry, secret)
values ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9::text::jsonb, $10)
on conflict (ns, name) where deleted_at is null do nothing returning ",
    columns!()
);

pub(super) const UPDATE: &str = concat!(
    "update webhooks set name = $4, url = $5, events = $6, functions = $7, payloads = $8,
       headers = $9::text::jsonb, retry = $10::text::jsonb, version = version + 1, updated_at = now()
 where public_id = $1 and ns = $2 and version = $3 and deleted_at is null returning ",
    columns!()
);

/// Who is on or off already stays so, since when and by whom it is.
pub(super) const SWITCH: &str =
    "update webhooks set disabled_at = case when $3::text is not null then now() end,
       disabled_by = $3::text, disabled_reason = $4::text, version = version + 1, updated_at = now()
 where id = $1 and ns = $2 and deleted_at is null and (disabled_at is null) = ($3::text is not null)";

pub(super) const ROTATE: &str = concat!(
    "update webhooks set old_secret = secret, old_until = $4, secret = $3,
       version = version + 1, updated_at = now()
 where public_id = $1 and ns = $2 and deleted_at is null returning ",
    columns!()
);

pub(super) const DELETE: &str = "update webhooks set deleted_at = now(), version = version + 1
 where public_id = $1 and ns = $2 and version = $3 and deleted_at is null";

/// What happened to an endpoint, to each who is told of it; due by whichever clock.
pub(super) const TELL_OF_ENDPOINT: &str = r#"insert into webhook_deliveries
    (id, ns, webhook, queue, event, at, body, next_at)
select (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
        || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid,
       w.ns, w.id, w.id, $2, now(),
       '\x00'::bytea || convert_to(json_build_object(
         'type', $2::text,
         'timestamp', to_char(now() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
         'data', json_build_object(
           'namespace', n.name, 'endpoint', e.name, 'url', e.url, 'detail', $3::text))::text, 'UTF8'),
       now() - interval '1 minute'
  from endpoints e
  join namespaces n on n.id = e.ns
  join webhooks w on w.ns = e.ns
 where e.id = $1 and w.deleted_at is null and w.disabled_at is null
   and (w.events is null or $2 = any(w.events))"#;

fn webhook(row: &PgRow) -> Result<Webhook> {
    let text = |bytes: bytes::Bytes| {
        String::from_utf8(bytes.into())
            .map_err(|_| Error::corrupt("a webhook's signing secret is not text"))
    };
    let mut secrets = Vec::new();
    for column in ["secret", "old_secret"] {
        secrets.extend(wire::body(row, column)?.map(text).transpose()?);
    }
    let headers: &str = row.try_get("headers")?;
    let retry: &str = row.try_get("retry")?;
    let bad = |_| Error::corrupt("a webhook's headers or policy cannot be read");
    let disabled = match wire::maybe_at(row, "disabled_at")? {
        Some(at) => Some((at, row.try_get("disabled_by")?, row.try_get("disabled_reason")?)),
        None => None,
    };
    Ok(Webhook {
        id: row.try_get("id")?,
        public: row.try_get::<Uuid, _>("public_id")?.into(),
        ns: row.try_get("ns")?,
        spec: WebhookSpec {
            name: row.try_get("name")?,
            url: row.try_get("url")?,
            events: row.try_get("events")?,
            functions: row.try_get("functions")?,
            payloads: row.try_get("payloads")?,
            headers: serde_json::from_str(headers).map_err(bad)?,
            retry: serde_json::from_str(retry).map_err(bad)?,
        },
        secrets,
        old_until: wire::maybe_at(row, "old_until")?,
        disabled,
        version: row.try_get("version")?,
        created_at: wire::at(row, "created_at")?,
        updated_at: wire::at(row, "updated_at")?,
    })
}

/// All webhooks, for the catalog.
pub(super) async fn all(conn: &mut PgConnection) -> Result<Vec<Webhook>> {
    sqlx::query(ALL).fetch_all(conn).await?.iter().map(webhook).collect()
}

/// Tells what happened to an endpoint to those who want to know.
pub(super) async fn tell_of_endpoint(
    conn: &mut PgConnection,
    endpoint: i32,
    event: &str,
    detail: &str,
) -> Result<()> {
    let query = sqlx::query(TELL_OF_ENDPOINT).bind(endpoint).bind(event).bind(detail);
    query.execute(conn).await?;
    Ok(())
}

fn json(retry: &RetrySpec) -> String {
    serde_json::to_string(retry).expect("numbers and texts are JSON")
}

impl Store {
    /// Creates a webhook; none: there is one of this name.
    pub async fn create_webhook(
        &self,
        ns: i32,
        public: WebhookId,
        spec: &WebhookSpec,
        secret: &str,
    ) -> Result<Option<Webhook>> {
        let mut tx = self.begin("begin").await?;
        sqlx::query(BUMP).execute(&mut *tx).await?;
        let row = sqlx::query(CREATE)
            .bind(public.uuid())
            .bind(ns)
            .bind(&spec.name)
            .bind(&spec.url)
            .bind(spec.events.as_ref())
            .bind(spec.functions.as_ref())
            .bind(spec.payloads)
            .bind(headers_json(&spec.headers))
            .bind(json(&spec.retry))
            .bind(Raw(secret.as_bytes()))
            .fetch_optional(&mut *tx)
            .await?;
        tx.commit().await?;
        row.as_ref().map(webhook).transpose()
    }

    /// Changes a webhook that is at this version; none: it is not, or there is none. A name that
    /// another has is an error of kind `Conflict`.
    pub async fn update_webhook(
        &self,
        ns: i32,
        public: WebhookId,
        version: i32,
        spec: &WebhookSpec,
    ) -> Result<Option<Webhook>> {
        let mut tx = self.begin("begin").await?;
        sqlx::query(BUMP).execute(&mut *tx).await?;
        let row = sqlx::query(UPDATE)
            .bind(public.uuid())
            .bind(ns)
            .bind(version)
            .bind(&spec.name)
            .bind(&spec.url)
            .bind(spec.events.as_ref())
            .bind(spec.functions.as_ref())
            .bind(spec.payloads)
            .bind(headers_json(&spec.headers))
            .bind(json(&spec.retry))
            .fetch_optional(&mut *tx)
            .await?;
        tx.commit().await?;
        row.as_ref().map(webhook).transpose()
    }

    /// Turns a webhook on or off. Whether that changed anything.
    pub async fn switch_webhook(&self, ns: i32, id: i32, to: &Switch) -> Result<bool> {
        let (by, reason) = match to {
            Switch::On => (None, None),
            Switch::Off(by, reason) => (Some(by.as_str()), reason.as_deref()),
        };
        let mut tx = self.begin("begin").await?;
        sqlx::query(BUMP).execute(&mut *tx).await?;
        let query = sqlx::query(SWITCH).bind(id).bind(ns).bind(by).bind(reason);
        let changed = query.execute(&mut *tx).await?.rows_affected() == 1;
        tx.commit().await?;
        Ok(changed)
    }

    /// Gives a webhook a new signing secret; the one before signs too until `old_until`.
    pub async fn rotate_webhook(
        &self,
        ns: i32,
        public: WebhookId,
        secret: &str,
        old_until: Timestamp,
    ) -> Result<Option<Webhook>> {
        let mut tx = self.begin("begin").await?;
        sqlx::query(BUMP).execute(&mut *tx).await?;
        let query = sqlx::query(ROTATE).bind(public.uuid()).bind(ns);
        let query = query.bind(Raw(secret.as_bytes())).bind(Ts(old_until));
        let row = query.fetch_optional(&mut *tx).await?;
        tx.commit().await?;
        row.as_ref().map(webhook).transpose()
    }

    /// Deletes a webhook that is at this version. Whether it did.
    pub async fn delete_webhook(&self, ns: i32, public: WebhookId, version: i32) -> Result<bool> {
        let mut tx = self.begin("begin").await?;
        sqlx::query(BUMP).execute(&mut *tx).await?;
        let query = sqlx::query(DELETE).bind(public.uuid()).bind(ns).bind(version);
        let deleted = query.execute(&mut *tx).await?.rows_affected() == 1;
        tx.commit().await?;
        Ok(deleted)
    }
}
