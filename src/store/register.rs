//! Registering an endpoint: by name, in one transaction, a new deployment for new content.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use sqlx::postgres::PgBindIterExt as _;

use super::Store;
use super::catalog::{BUMP, headers_json};
use super::error::Result;
use super::health;
use super::schedules::{ScheduleRow, own};
use super::wire::Raw;
use crate::machine::{DeploymentId, EndpointId};

/// What is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// In which namespace.
    pub ns: i32,
    /// The endpoint's name: an endpoint of this name is changed.
    pub name: String,
    /// Where invocations go.
    pub url: String,
    /// Extra headers of every invocation.
    pub headers: BTreeMap<String, String>,
    /// What it says it has, JSON.
    pub manifest: Vec<u8>,
    /// The functions in it.
    pub functions: Vec<String>,
    /// The schedules that are part of it.
    pub schedules: Vec<ScheduleRow>,
    /// The id of the endpoint, if it is new.
    pub endpoint: EndpointId,
    /// The id of the deployment, if it is new.
    pub deployment: DeploymentId,
    /// The signing secret (`whsec_…`), if the endpoint is new.
    pub secret: String,
}

/// What a registration led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The endpoint's number.
    pub endpoint_id: i32,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Whether it is new; then its secret is the one given.
    pub new_endpoint: bool,
    /// Its version.
    pub version: i32,
    /// The deployment's number.
    pub deployment_id: i32,
    /// The deployment.
    pub deployment: DeploymentId,
    /// Whether it is new: URL or manifest were not seen before.
    pub new_deployment: bool,
    /// Functions that another endpoint hosted until now.
    pub moved: Vec<String>,
}

pub(super) const ENDPOINT: &str = "insert into endpoints as e (public_id, ns, name, url, headers)
values ($1, $2, $3, $4, $5::text::jsonb)
on conflict (ns, name) where deleted_at is null do update
   set url = excluded.url, headers = excluded.headers, version = e.version + 1, updated_at = now()
returning id, public_id, version";

pub(super) const SECRET: &str = "insert into secrets (endpoint_id, secret) values ($1, $2)";

/// What was there before is there again.
pub(super) const DEPLOYMENT: &str = "insert into deployments as d
    (public_id, ns, endpoint_id, url, manifest, content_hash)
values ($1, $2, $3, $4, $5, $6)
on conflict (endpoint_id, content_hash) do update set pruned_at = null
returning id, public_id";

pub(super) const MOVED: &str = "select name from functions
 where ns = $1 and name = any($2::text[]) and endpoint_id <> $3 order by name";

pub(super) const FUNCTIONS: &str = "insert into functions (ns, name, endpoint_id, dep)
select $1, name, $3, $4 from unnest($2::text[]) as t(name) group by name order by name
on conflict (ns, name) do update set endpoint_id = excluded.endpoint_id, dep = excluded.dep";

/// Functions that the endpoint no longer has: nobody hosts them, their live runs keep their
/// deployment.
pub(super) const DROPPED: &str = "update functions set endpoint_id = null, dep = null
 where endpoint_id = $1 and not (name = any($2::text[]))";

/// The deployment of an endpoint that has this content, a new one if none has: its number and id.
pub(super) async fn deploy(
    tx: &mut sqlx::PgConnection,
    ns: i32,
    endpoint: i32,
    url: &str,
    manifest: &[u8],
    fresh: DeploymentId,
) -> Result<(i32, DeploymentId)> {
    let content = Sha256::new().chain_update(url).chain_update([0]).chain_update(manifest);
    let row = sqlx::query(DEPLOYMENT)
        .bind(fresh.uuid())
        .bind(ns)
        .bind(endpoint)
        .bind(url)
        .bind(Raw(manifest))
        .bind(content.finalize().as_slice())
        .fetch_one(tx)
        .await?;
    let public = row.try_get::<uuid::Uuid, _>("public_id")?;
    Ok((row.try_get("id")?, DeploymentId::from(public)))
}

impl Store {
    /// Registers an endpoint. The same content again changes nothing but the endpoint's version.
    pub async fn register(&self, new: &Registration) -> Result<Registered> {
        let mut tx = self.begin("begin").await?;
        // First, so that concurrent registrations follow one another.
        sqlx::query(BUMP).execute(&mut *tx).await?;
        let row = sqlx::query(ENDPOINT)
            .bind(new.endpoint.uuid())
            .bind(new.ns)
            .bind(new.name.as_str())
            .bind(new.url.as_str())
            .bind(headers_json(&new.headers))
            .fetch_one(&mut *tx)
            .await?;
        let endpoint_id: i32 = row.try_get("id")?;
        let endpoint = EndpointId::from(row.try_get::<uuid::Uuid, _>("public_id")?);
        let version: i32 = row.try_get("version")?;
        let new_endpoint = version == 1;
        health::forget(&mut tx, endpoint_id).await?;
        if new_endpoint {
            sqlx::query(SECRET)
                .bind(endpoint_id)
                .bind(Raw(new.secret.as_bytes()))
                .execute(&mut *tx)
                .await?;
        }
        let (deployment_id, deployment) =
            deploy(&mut tx, new.ns, endpoint_id, &new.url, &new.manifest, new.deployment).await?;
        let moved = sqlx::query_scalar(MOVED)
            .bind(new.ns)
            .bind(&new.functions)
            .bind(endpoint_id)
            .fetch_all(&mut *tx)
            .await?;
        sqlx::query(FUNCTIONS)
            .bind(new.ns)
            .bind(new.functions.iter().map(String::as_str).bind_iter())
            .bind(endpoint_id)
            .bind(deployment_id)
            .execute(&mut *tx)
            .await?;
        sqlx::query(DROPPED).bind(endpoint_id).bind(&new.functions).execute(&mut *tx).await?;
        own(&mut tx, new.ns, &new.functions, &new.schedules).await?;
        tx.commit().await?;
        Ok(Registered {
            endpoint_id,
            endpoint,
            new_endpoint,
            version,
            deployment_id,
            deployment,
            new_deployment: deployment == new.deployment,
            moved,
        })
    }
}
