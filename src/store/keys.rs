//! API keys: only their SHA-256 is kept.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::Store;
use super::error::{Error, Result};
use super::wire::{self, INFINITY, Ts};
use crate::machine::{KeyId, Timestamp};

/// A key to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApiKey {
    /// The public part of its text.
    pub id: KeyId,
    /// The namespace that it opens; none: all.
    pub ns: Option<i32>,
    /// For people.
    pub name: String,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// What it may do.
    pub scopes: Vec<String>,
    /// Valid until then; none: for ever.
    pub expires_at: Option<Timestamp>,
}

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The public part of its text.
    pub id: KeyId,
    /// The namespace that it opens; none: all.
    pub ns: Option<i32>,
    /// For people.
    pub name: String,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Valid until then; none: for ever.
    pub expires_at: Option<Timestamp>,
    /// About when it was used last.
    pub last_used_at: Option<Timestamp>,
    /// Since when it is not valid any more.
    pub revoked_at: Option<Timestamp>,
}

macro_rules! columns {
    () => {
        "id, ns, name, hash, scopes, created_at, expires_at, last_used_at, revoked_at"
    };
}
pub(super) const CREATE: &str = concat!(
    "insert into api_keys (id, ns, name, hash, scopes, expires_at)
values ($1, $2, $3, $4, $5, $6) returning ",
    columns!()
);
pub(super) const LIST: &str = concat!(
    "select ",
    columns!(),
    " from api_keys where $1::int4 is null or ns = $1 order by id desc"
);
pub(super) const FIND: &str = concat!("select ", columns!(), " from api_keys where id = $1");
pub(super) const FIND_HASH: &str = concat!("select ", columns!(), " from api_keys where hash = $1");
pub(super) const REVOKE: &str = "update api_keys set revoked_at = coalesce(revoked_at, now())
 where id = $1 and ($2::int4 is null or ns = $2)";
/// At most one write a minute and key.
pub(super) const USED: &str = "update api_keys set last_used_at = $2
 where id = $1 and (last_used_at is null or last_used_at < $2::timestamptz - interval '1 minute')";

fn key(row: &PgRow) -> Result<ApiKey> {
    let expires_at = wire::at(row, "expires_at")?;
    let hash: &[u8] = row.try_get("hash")?;
    Ok(ApiKey {
        id: row.try_get::<Uuid, _>("id")?.into(),
        ns: row.try_get("ns")?,
        name: row.try_get("name")?,
        hash: hash.try_into().map_err(|_| Error::corrupt("a key's hash is not 32 bytes long"))?,
        scopes: row.try_get("scopes")?,
        created_at: wire::at(row, "created_at")?,
        expires_at: (expires_at < INFINITY).then_some(expires_at),
        last_used_at: wire::maybe_at(row, "last_used_at")?,
        revoked_at: wire::maybe_at(row, "revoked_at")?,
    })
}

impl Store {
    /// Keeps a new key.
    pub async fn create_key(&self, new: &NewApiKey) -> Result<ApiKey> {
        let row = sqlx::query(CREATE)
            .bind(new.id.uuid())
            .bind(new.ns)
            .bind(new.name.as_str())
            .bind(new.hash.as_slice())
            .bind(new.scopes.as_slice())
            .bind(Ts(new.expires_at.unwrap_or(INFINITY)))
            .fetch_one(&self.pool)
            .await?;
        key(&row)
    }

    /// All keys of a namespace (none: of all), revoked ones too, newest first.
    pub async fn list_keys(&self, ns: Option<i32>) -> Result<Vec<ApiKey>> {
        sqlx::query(LIST).bind(ns).fetch_all(&self.pool).await?.iter().map(key).collect()
    }

    /// The key of an id.
    pub async fn find_key(&self, id: KeyId) -> Result<Option<ApiKey>> {
        let row = sqlx::query(FIND).bind(id.uuid()).fetch_optional(&self.pool).await?;
        row.as_ref().map(key).transpose()
    }

    /// The key of a hash.
    pub async fn find_key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>> {
        let row = sqlx::query(FIND_HASH).bind(hash.as_slice()).fetch_optional(&self.pool).await?;
        row.as_ref().map(key).transpose()
    }

    /// Revokes a key of a namespace (none: of any). Returns whether there is one. Idempotent.
    pub async fn revoke_key(&self, id: KeyId, ns: Option<i32>) -> Result<bool> {
        let done = sqlx::query(REVOKE).bind(id.uuid()).bind(ns).execute(&self.pool).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes that a key was used; writes at most once a minute.
    pub async fn key_used(&self, id: KeyId, at: Timestamp) -> Result<()> {
        sqlx::query(USED).bind(id.uuid()).bind(Ts(at)).execute(&self.pool).await?;
        Ok(())
    }
}
