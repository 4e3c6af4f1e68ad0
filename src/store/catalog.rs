//! What is registered, read whole by every node: namespaces, endpoints, deployments, functions.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::error::{Error, Result};
use super::health;
use super::namespaces::{self, NamespaceRow};
use super::webhooks::{self, Webhook};
use super::wire::{self, Raw, Ts};
use super::{Store, register, wire::INFINITY};
use crate::machine::{DeploymentId, EndpointId, Timestamp};

/// An endpoint that is not deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The number in other tables.
    pub id: i32,
    /// The id that users see.
    pub public: EndpointId,
    /// Its namespace.
    pub ns: i32,
    /// Unique in the namespace.
    pub name: String,
    /// Where invocations go.
    pub url: String,
    /// Extra headers of every invocation.
    pub headers: BTreeMap<String, String>,
    /// No invocation is sent while true.
    pub disabled: bool,
    /// No run is started here while true.
    pub draining: bool,
    /// How many runs may be on their way to it at once; none: no limit but the nodes'.
    pub concurrency: Option<u32>,
    /// Grows with every change.
    pub version: i32,
    /// Live signing secrets (`whsec_…`), the newest first.
    pub secrets: Vec<String>,
    /// When all but the newest of them cease to sign; none: there is but one.
    pub old_until: Option<Timestamp>,
    /// When it was registered first.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// One immutable registration of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// The number in the journal.
    pub id: i32,
    /// The id that users see.
    pub public: DeploymentId,
    /// What it is a registration of; the endpoint may be deleted.
    pub endpoint_id: i32,
    /// The URL at the time.
    pub url: String,
    /// What the endpoint said it has, JSON.
    pub manifest: Bytes,
    /// When it was first seen.
    pub created_at: Timestamp,
}

/// A function by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionRow {
    /// The number in runs.
    pub id: i32,
    /// Its namespace.
    pub ns: i32,
    /// Unique in the namespace.
    pub name: String,
    /// The endpoint that hosts it and the deployment that new runs start on; none: nobody does.
    pub hosted: Option<(i32, i32)>,
    /// Since when, by whom and why no run of it is invoked.
    pub paused: Option<(Timestamp, String, Option<String>)>,
}

/// All of it, in one snapshot.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    /// What [`super::Tick::config_version`] is compared with.
    pub version: i64,
    /// By number.
    pub namespaces: Vec<NamespaceRow>,
    /// By number.
    pub endpoints: Vec<Endpoint>,
    /// By number, without those that were pruned.
    pub deployments: Vec<Deployment>,
    /// The number and the id of those.
    pub pruned: Vec<(i32, DeploymentId)>,
    /// By number.
    pub functions: Vec<FunctionRow>,
    /// By number.
    pub webhooks: Vec<Webhook>,
}

impl Catalog {
    /// The function of this number.
    #[must_use]
    pub fn function(&self, id: i32) -> Option<&FunctionRow> {
        self.functions.iter().find(|f| f.id == id)
    }
}

/// A change of an endpoint; what is none stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointChange {
    /// Its name.
    pub name: Option<String>,
    /// Where invocations go: a new deployment, of what the one before had.
    pub address: Option<Address>,
    /// Extra headers, all of them.
    pub headers: Option<BTreeMap<String, String>>,
    /// Whether nothing is sent.
    pub disabled: Option<bool>,
    /// Whether no run is started there.
    pub draining: Option<bool>,
    /// How many runs may be on their way to it, or that there is no limit.
    #[expect(clippy::option_option, reason = "left alone, no limit, and a limit are three things")]
    pub concurrency: Option<Option<u32>>,
}

/// The same functions at another address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Where invocations go.
    pub url: String,
    /// What is there, JSON.
    pub manifest: Vec<u8>,
    /// The id of the deployment, if it is new.
    pub deployment: DeploymentId,
}

pub(super) const VERSION: &str = "select config_version from cluster";
pub(super) const ENDPOINTS: &str = "select id, public_id, ns, name, url, headers::text as headers,
       disabled, draining, concurrency, version, created_at, updated_at from endpoints where deleted_at is null order by id";
pub(super) const SECRETS: &str = "select endpoint_id, secret, expires_at from secrets
 where expires_at > now() order by endpoint_id, id desc";
pub(super) const DEPLOYMENTS: &str = "select id, public_id, endpoint_id, url, manifest, created_at
  from deployments where pruned_at is null order by id";
pub(super) const PRUNED: &str =
    "select id, public_id from deployments where pruned_at is not null order by id";
pub(super) const FUNCTIONS: &str =
    "select id, ns, name, endpoint_id, dep, paused_at, paused_by, paused_reason
  from functions order by id";

pub(super) const BUMP: &str = "update cluster set config_version = config_version + 1";
pub(super) const UPDATE: &str = "update endpoints
   set url = coalesce($3, url), headers = coalesce($4::text::jsonb, headers),
       disabled = coalesce($5, disabled), draining = coalesce($7, draining),
       name = coalesce($8, name),
       concurrency = case when $9 then $10 else concurrency end, version = version + 1, updated_at = now()
 where public_id = $1 and ns = $2 and deleted_at is null and ($6::int4 is null or version = $6)
returning id, version";
pub(super) const DELETE: &str = "update endpoints
   set deleted_at = now(), version = version + 1, updated_at = now()
 where public_id = $1 and ns = $2 and deleted_at is null and ($3::int4 is null or version = $3)
returning id";
pub(super) const UNHOST: &str = "with f as (
  update functions set endpoint_id = null, dep = null where endpoint_id = $1),
s as (delete from secrets where endpoint_id = $1),
d as (update deployments set pruned_at = now() where endpoint_id = $1 and pruned_at is null)
delete from endpoint_health where endpoint_id = $1";
pub(super) const LOCK: &str = "select id from endpoints
 where public_id = $1 and ns = $2 and deleted_at is null for update";
/// The current secret signs until the grace is over; one before it ends now.
pub(super) const ROTATE: &str = "with old as (
  update secrets set expires_at = case when expires_at = 'infinity' then $3 else least(expires_at, now()) end
   where endpoint_id = $1 and expires_at > now())
insert into secrets (endpoint_id, secret) values ($1, $2)";
/// What an endpoint hosts it hosts with one deployment.
pub(super) const REHOST: &str = "update functions set dep = $2 where endpoint_id = $1";
/// Who pauses what is paused changes its reason.
pub(super) const PAUSE_FUNCTION: &str = "update functions
   set paused_at = coalesce(paused_at, now()), paused_by = $2, paused_reason = $3 where id = $1";
pub(super) const RESUME_FUNCTION: &str = "update functions
   set paused_at = null, paused_by = null, paused_reason = null where id = $1 and paused_at is not null";
pub(super) const EXISTS: &str = "select version from endpoints
 where public_id = $1 and ns = $2 and deleted_at is null";

pub(super) fn headers_json(headers: &BTreeMap<String, String>) -> String {
    serde_json::to_string(headers).expect("a map of strings is JSON")
}

/// The secrets of an endpoint, the newest first, and when the old ones expire.
type Secrets = HashMap<i32, (Vec<String>, Option<Timestamp>)>;

fn endpoint(row: &PgRow, secrets: &mut Secrets) -> Result<Endpoint> {
    let id = row.try_get("id")?;
    let (secrets, old_until) = secrets.remove(&id).unwrap_or_default();
    let headers: &str = row.try_get("headers")?;
    Ok(Endpoint {
        id,
        public: row.try_get::<Uuid, _>("public_id")?.into(),
        ns: row.try_get("ns")?,
        name: row.try_get("name")?,
        url: row.try_get("url")?,
        headers: serde_json::from_str(headers)
            .map_err(|e| Error::corrupt(format!("headers of endpoint {id}: {e}")))?,
        disabled: row.try_get("disabled")?,
        draining: row.try_get("draining")?,
        concurrency: row.try_get::<Option<i32>, _>("concurrency")?.map(i32::unsigned_abs),
        version: row.try_get("version")?,
        secrets,
        old_until,
        created_at: wire::at(row, "created_at")?,
        updated_at: wire::at(row, "updated_at")?,
    })
}

fn deployment(row: &PgRow) -> Result<Deployment> {
    Ok(Deployment {
        id: row.try_get("id")?,
        public: row.try_get::<Uuid, _>("public_id")?.into(),
        endpoint_id: row.try_get("endpoint_id")?,
        url: row.try_get("url")?,
        manifest: wire::body(row, "manifest")?.unwrap_or_default(),
        created_at: wire::at(row, "created_at")?,
    })
}

fn function(row: &PgRow) -> Result<FunctionRow> {
    let endpoint: Option<i32> = row.try_get("endpoint_id")?;
    let paused = wire::paused(row)?;
    Ok(FunctionRow {
        id: row.try_get("id")?,
        ns: row.try_get("ns")?,
        name: row.try_get("name")?,
        hosted: endpoint.zip(row.try_get("dep")?),
        paused,
    })
}

impl Store {
    /// The version of what is registered.
    pub async fn config_version(&self) -> Result<i64> {
        Ok(sqlx::query_scalar(VERSION).fetch_one(&self.pool).await?)
    }

    /// Everything that is registered, in one snapshot.
    pub async fn load_catalog(&self) -> Result<Catalog> {
        let mut tx = self.begin(super::SNAPSHOT).await?;
        let version = sqlx::query_scalar(VERSION).fetch_one(&mut *tx).await?;
        let mut secrets = Secrets::new();
        for row in sqlx::query(SECRETS).fetch_all(&mut *tx).await? {
            let secret = wire::body(&row, "secret")?.unwrap_or_default();
            let secret = String::from_utf8(secret.into())
                .map_err(|_| Error::corrupt("a signing secret is not text"))?;
            let (of_it, old_until) = secrets.entry(row.try_get("endpoint_id")?).or_default();
            if !of_it.is_empty() {
                *old_until = Some(wire::at(&row, "expires_at")?);
            }
            of_it.push(secret);
        }
        let endpoints = sqlx::query(ENDPOINTS).fetch_all(&mut *tx).await?;
        let deployments = sqlx::query(DEPLOYMENTS).fetch_all(&mut *tx).await?;
        let pruned = sqlx::query(PRUNED).fetch_all(&mut *tx).await?;
        let functions = sqlx::query(FUNCTIONS).fetch_all(&mut *tx).await?;
        let all = sqlx::query(namespaces::ALL).fetch_all(&mut *tx).await?;
        let webhooks = webhooks::all(&mut tx).await?;
        tx.commit().await?;
        let gone = |row: &PgRow| -> Result<(i32, DeploymentId)> {
            Ok((row.try_get("id")?, row.try_get::<Uuid, _>("public_id")?.into()))
        };
        Ok(Catalog {
            version,
            namespaces: all.iter().map(namespaces::namespace).collect::<Result<_>>()?,
            endpoints: endpoints
                .iter()
                .map(|row| endpoint(row, &mut secrets))
                .collect::<Result<_>>()?,
            deployments: deployments.iter().map(deployment).collect::<Result<_>>()?,
            pruned: pruned.iter().map(gone).collect::<Result<_>>()?,
            functions: functions.iter().map(function).collect::<Result<_>>()?,
            webhooks,
        })
    }

    /// Changes an endpoint if it is still at the version given (none: whatever it is at). Returns
    /// the new version; none: there is no such endpoint, or it is at another version.
    pub async fn update_endpoint(
        &self,
        ns: i32,
        endpoint: EndpointId,
        if_match: Option<i32>,
        change: &EndpointChange,
    ) -> Result<Option<i32>> {
        let mut tx = self.begin("begin").await?;
        // First, as in a registration, so that changes follow one another.
        sqlx::query(BUMP).execute(&mut *tx).await?;
        let updated = sqlx::query(UPDATE)
            .bind(endpoint.uuid())
            .bind(ns)
            .bind(change.address.as_ref().map(|a| a.url.as_str()))
            .bind(change.headers.as_ref().map(headers_json))
            .bind(change.disabled)
            .bind(if_match)
            .bind(change.draining)
            .bind(change.name.as_deref())
            .bind(change.concurrency.is_some())
            .bind(change.concurrency.flatten().map(|n| i32::try_from(n).unwrap_or(i32::MAX)))
            .fetch_optional(&mut *tx)
            .await?;
        let Some(updated) = updated else { return Ok(None) };
        let id: i32 = updated.try_get("id")?;
        if let Some(Address { url, manifest, deployment }) = &change.address {
            let (dep, _) = register::deploy(&mut tx, ns, id, url, manifest, *deployment).await?;
            sqlx::query(REHOST).bind(id).bind(dep).execute(&mut *tx).await?;
        }
        health::forget(&mut tx, id).await?;
        tx.commit().await?;
        Ok(Some(updated.try_get("version")?))
    }

    /// Keeps all runs of a function from being invoked from now on.
    pub async fn pause_function(&self, id: i32, by: &str, reason: Option<&str>) -> Result<()> {
        let mut tx = self.begin("begin").await?;
        sqlx::query(BUMP).execute(&mut *tx).await?;
        let query = sqlx::query(PAUSE_FUNCTION).bind(id).bind(by).bind(reason);
        query.execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// Lets the runs of a function go on.
    pub async fn resume_function(&self, id: i32) -> Result<()> {
        let mut tx = self.begin("begin").await?;
        sqlx::query(BUMP).execute(&mut *tx).await?;
        sqlx::query(RESUME_FUNCTION).bind(id).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// The version of an endpoint, to tell a missing one from one that has changed.
    pub async fn endpoint_version(&self, ns: i32, endpoint: EndpointId) -> Result<Option<i32>> {
        let query = sqlx::query_scalar(EXISTS).bind(endpoint.uuid()).bind(ns);
        Ok(query.fetch_optional(&self.pool).await?)
    }

    /// Deletes an endpoint if it is still at the version given: its functions are hosted by
    /// nobody, its secrets and health are gone, its deployments are pruned.
    /// Returns whether it did.
    pub async fn delete_endpoint(
        &self,
        ns: i32,
        endpoint: EndpointId,
        if_match: Option<i32>,
    ) -> Result<bool> {
        let mut tx = self.begin("begin").await?;
        let id: Option<i32> = sqlx::query_scalar(DELETE)
            .bind(endpoint.uuid())
            .bind(ns)
            .bind(if_match)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(id) = id else { return Ok(false) };
        sqlx::query(UNHOST).bind(id).execute(&mut *tx).await?;
        super::schedules::own(&mut tx, ns, &[], &[]).await?;
        sqlx::query(BUMP).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Gives an endpoint a new signing secret; the one before signs too until `old_until`, one
    /// before that no longer. Returns whether there is such an endpoint.
    pub async fn rotate_secret(
        &self,
        ns: i32,
        endpoint: EndpointId,
        secret: &str,
        old_until: Timestamp,
    ) -> Result<bool> {
        // Infinity is what marks the current secret.
        debug_assert!(old_until < INFINITY, "the old secret must expire");
        let mut tx = self.begin("begin").await?;
        let id: Option<i32> = sqlx::query_scalar(LOCK)
            .bind(endpoint.uuid())
            .bind(ns)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(id) = id else { return Ok(false) };
        sqlx::query(ROTATE)
            .bind(id)
            .bind(Raw(secret.as_bytes()))
            .bind(Ts(old_until))
            .execute(&mut *tx)
            .await?;
        sqlx::query(BUMP).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(true)
    }
}
