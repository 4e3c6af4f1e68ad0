//! Secrets that calls are made with: set, listed by name, used; never shown.

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::Store;
use super::error::Result;
use super::wire::{self, Raw};
use crate::machine::Timestamp;

/// A secret without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// How ops refer to it.
    pub name: String,
    /// When it was first set.
    pub created_at: Timestamp,
    /// When it was set last.
    pub updated_at: Timestamp,
}

/// `xmax` is zero for a row that was inserted, and not for one that was updated.
pub(super) const SET: &str = "insert into call_secrets (ns, name, value) values ($1, $2, $3)
on conflict (ns, name) do update set value = excluded.value, updated_at = now()
returning name, created_at, updated_at, xmax = 0 as fresh";
pub(super) const LIST: &str =
    "select name, created_at, updated_at from call_secrets where ns = $1 order by name";
pub(super) const VALUE: &str = "select value from call_secrets where ns = $1 and name = $2";
pub(super) const REMOVE: &str = "delete from call_secrets where ns = $1 and name = $2";

fn secret(row: &PgRow) -> Result<SecretRow> {
    Ok(SecretRow {
        name: row.try_get("name")?,
        created_at: wire::at(row, "created_at")?,
        updated_at: wire::at(row, "updated_at")?,
    })
}

impl Store {
    /// Sets a secret; whether it is new.
    pub async fn set_secret(&self, ns: i32, name: &str, value: &[u8]) -> Result<(SecretRow, bool)> {
        let row =
            sqlx::query(SET).bind(ns).bind(name).bind(Raw(value)).fetch_one(&self.pool).await?;
        Ok((secret(&row)?, row.try_get("fresh")?))
    }

    /// All secrets of a namespace, by name.
    pub async fn list_secrets(&self, ns: i32) -> Result<Vec<SecretRow>> {
        sqlx::query(LIST).bind(ns).fetch_all(&self.pool).await?.iter().map(secret).collect()
    }

    /// The value of a secret, to be used.
    pub async fn secret_value(&self, ns: i32, name: &str) -> Result<Option<Bytes>> {
        let row = sqlx::query(VALUE).bind(ns).bind(name).fetch_optional(&self.pool).await?;
        row.map_or(Ok(None), |row| wire::body(&row, "value"))
    }

    /// Removes a secret; whether there was one.
    pub async fn remove_secret(&self, ns: i32, name: &str) -> Result<bool> {
        let done = sqlx::query(REMOVE).bind(ns).bind(name).execute(&self.pool).await?;
        Ok(done.rows_affected() == 1)
    }
}
