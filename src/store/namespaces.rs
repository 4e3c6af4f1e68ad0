//! Namespaces: what each may have and do, made, changed and removed.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::{Executor as _, Row as _};

use super::Store;
use super::catalog::BUMP;
use super::error::{Error, Result};
use super::wire;
use crate::machine::time::duration;
use crate::machine::{Allowance, Timestamp};

/// What a namespace may have and do; what is none is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceSettings {
    /// Runs that have not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_runs: Option<u32>,
    /// Starts of runs, at one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts: Option<Allowance>,
    /// Requests of all its credentials, at one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<Allowance>,
    /// Where its handlers, webhooks and calls may be: `api.example.com`, `*.example.com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// How long its ended runs are kept.
    #[serde(skip_serializing_if = "is_default")]
    pub retention: Kept,
}

/// How long ended runs are kept, by how they ended; none: as long as the gateway keeps them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// Those with an output.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub completed: Option<Duration>,
    /// Those with an error.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub failed: Option<Duration>,
    /// Those that were cancelled.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub cancelled: Option<Duration>,
    /// Those whose time was up.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub timed_out: Option<Duration>,
    /// Those that an operator has ended.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub terminated: Option<Duration>,
}

impl Kept {
    /// By the codes of statuses.
    #[must_use]
    pub const fn by_status(self) -> [(i16, Option<Duration>); 5] {
        let Self { completed, failed, cancelled, timed_out, terminated } = self;
        [(100, completed), (101, failed), (102, cancelled), (103, timed_out), (104, terminated)]
    }
}

fn is_default(kept: &Kept) -> bool {
    *kept == Kept::default()
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRow {
    /// The number in every table.
    pub id: i32,
    /// The name.
    pub name: String,
    /// What it may have and do.
    pub settings: NamespaceSettings,
    /// Grows with every change.
    pub version: i32,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// What became of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceRemoved {
    /// It is gone.
    Done,
    /// It still has these.
    Has(String),
    /// There is none, or it is at another version.
    Stale,
}

macro_rules! columns {
    () => {
        "id, name, settings::text as settings, version, created_at, updated_at"
    };
}
pub(super) const ALL: &str = concat!("select ", columns!(), " from namespaces order by id");
pub(super) const CREATE: &str = concat!(
    "insert into namespaces (name, settings) values ($1, $2::text::jsonb)
 on conflict (name) do nothing returning ",
    columns!()
);
pub(super) const UPDATE: &str = concat!(
    "update namespaces set settings = $3::text::jsonb, version = version + 1, updated_at = now()
 where id = $1 and version = $2 returning ",
    columns!()
);
pub(super) const DELETE: &str = "delete from namespaces where id = $1 and version = $2";
/// What may not be left behind: it would go on, or be started by itself.
pub(super) const HAS: &str = "select case
  when exists (select from endpoints where ns = $1 and deleted_at is null) then 'endpoints'
  when exists (select from run_active where ns = $1) then 'live runs'
  when exists (select from schedules where ns = $1) then 'schedules'
  when exists (select from webhooks where ns = $1 and deleted_at is null) then 'webhooks'
  when exists (select from sql_requests where ns = $1) then 'starts of transactions'
  when exists (select from debounces where ns = $1)
    or exists (select from gathers where ns = $1) then 'starts that wait' end";
/// Its keys open nothing any more. What has ended goes with its weeks.
pub(super) const EMPTY: [&str; 4] = [
    "update api_keys set revoked_at = coalesce(revoked_at, now()) where ns = $1",
    "delete from call_secrets where ns = $1",
    "delete from objects where ns = $1",
    // What somebody has marked would be kept for the next run that has it.
    "update errors set state = 0 where ns = $1 and state <> 0",
];
/// Counts no further than it matters.
pub(super) const LIVE: &str =
    "select count(*) from (select from run_active where ns = $1 limit $2) r";

pub(super) fn namespace(row: &PgRow) -> Result<NamespaceRow> {
    let settings: &str = row.try_get("settings")?;
    Ok(NamespaceRow {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        settings: serde_json::from_str(settings)
            .map_err(|e| Error::corrupt(format!("the settings of a namespace: {e}")))?,
        version: row.try_get("version")?,
        created_at: wire::at(row, "created_at")?,
        updated_at: wire::at(row, "updated_at")?,
    })
}

fn json(settings: &NamespaceSettings) -> String {
    serde_json::to_string(settings).expect("numbers and texts are JSON")
}

impl Store {
    /// Makes a namespace; none: there is one of this name.
    pub async fn create_namespace(
        &self,
        name: &str,
        settings: &NamespaceSettings,
    ) -> Result<Option<NamespaceRow>> {
        let mut tx = self.begin("begin").await?;
        tx.execute(BUMP).await?;
        let row = sqlx::query(CREATE).bind(name).bind(json(settings));
        let row = row.fetch_optional(&mut *tx).await?;
        tx.commit().await?;
        row.as_ref().map(namespace).transpose()
    }

    /// Changes a namespace that is at this version; none: it is not, or there is none.
    pub async fn update_namespace(
        &self,
        id: i32,
        version: i32,
        settings: &NamespaceSettings,
    ) -> Result<Option<NamespaceRow>> {
        let mut tx = self.begin("begin").await?;
        tx.execute(BUMP).await?;
        let row = sqlx::query(UPDATE).bind(id).bind(version).bind(json(settings));
        let row = row.fetch_optional(&mut *tx).await?;
        tx.commit().await?;
        row.as_ref().map(namespace).transpose()
    }

    /// Removes a namespace that is at this version and has nothing that goes on: its keys are
    /// revoked, its secrets and the state of its objects are deleted.
    pub async fn remove_namespace(&self, id: i32, version: i32) -> Result<NamespaceRemoved> {
        let mut tx = self.begin("begin").await?;
        // First, as in a registration: nothing is registered meanwhile.
        tx.execute(BUMP).await?;
        let has: Option<String> = sqlx::query_scalar(HAS).bind(id).fetch_one(&mut *tx).await?;
        if let Some(has) = has {
            return Ok(NamespaceRemoved::Has(has));
        }
        let gone = sqlx::query(DELETE).bind(id).bind(version).execute(&mut *tx).await?;
        if gone.rows_affected() == 0 {
            return Ok(NamespaceRemoved::Stale);
        }
        for sql in EMPTY {
            sqlx::query(sql).bind(id).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(NamespaceRemoved::Done)
    }

    /// How many runs of a namespace have not ended, counted up to a number.
    pub async fn living_in(&self, ns: i32, up_to: i64) -> Result<u64> {
        let count: i64 =
            sqlx::query_scalar(LIVE).bind(ns).bind(up_to).fetch_one(&self.pool).await?;
        Ok(count.unsigned_abs())
    }
}
