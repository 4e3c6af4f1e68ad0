//! Starts that wait until no other of their key has come for a while.

use bytes::Bytes;
use sqlx::Connection as _;
use sqlx::Row as _;
use sqlx::postgres::{PgBindIterExt as _, PgRow};

use super::error::Result;
use super::outbox::Delivery;
use super::wire::{self, Raw, Ts};
use super::{Lane, Store};
use crate::machine::{RunId, Timestamp};

/// A start that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debounced {
    /// Namespace.
    pub ns: i32,
    /// The function.
    pub function_id: i32,
    /// What its starts have in common.
    pub key: String,
    /// The run that it will be, unless one waits already.
    pub run: RunId,
    /// When the first of them came.
    pub first_at: Timestamp,
    /// When it starts.
    pub due_at: Timestamp,
    /// When it starts at the latest; not read back.
    pub last_at: Option<Timestamp>,
    /// What is asked for.
    pub start: Bytes,
}

/// The last one counts, and is due no later than the first one allows.
pub(super) const DEBOUNCE: &str =
    "insert into debounces as d (ns, fn, key, run_id, first_at, due_at, start)
values ($1, $2, $3, $4, $5, least($6::timestamptz, $7::timestamptz), $8)
on conflict (ns, fn, key) do update
   set start = excluded.start, calls = d.calls + 1,
       due_at = greatest(d.due_at, least($6, d.first_at + ($7 - $5)))
returning run_id";
pub(super) const DEBOUNCED: &str = "select ns, fn, key, run_id, first_at, due_at, start from debounces where run_id = $1 and ns = $2";
pub(super) const DUE_DEBOUNCES: &str =
    "select ns, fn, key, run_id, first_at, due_at, start from debounces where due_at <= $1
 order by due_at limit $2 for update skip locked";
pub(super) const DEBOUNCE_DONE: &str = "delete from debounces d
 using unnest($1::int4[], $2::int4[], $3::text[]) as k(ns, fn, key)
 where d.ns = k.ns and d.fn = k.fn and d.key = k.key";
pub(super) const DEBOUNCE_LATER: &str = "update debounces d set due_at = $4
  from unnest($1::int4[], $2::int4[], $3::text[]) as k(ns, fn, key)
 where d.ns = k.ns and d.fn = k.fn and d.key = k.key";

fn debounced(row: &PgRow) -> Result<Debounced> {
    Ok(Debounced {
        ns: row.try_get("ns")?,
        function_id: row.try_get("fn")?,
        key: row.try_get("key")?,
        run: wire::run_id(row)?,
        first_at: wire::at(row, "first_at")?,
        due_at: wire::at(row, "due_at")?,
        last_at: None,
        start: wire::body(row, "start")?.unwrap_or_default(),
    })
}

macro_rules! of_debounce {
    ($kept:expr) => {
        sqlx::query(DEBOUNCE)
            .bind($kept.ns)
            .bind($kept.function_id)
            .bind(&$kept.key)
            .bind($kept.run.uuid())
            .bind(Ts($kept.first_at))
            .bind(Ts($kept.due_at))
            .bind($kept.last_at.map(Ts))
            .bind(Raw(&$kept.start))
    };
}

macro_rules! of_keys {
    ($sql:expr, $all:expr) => {
        sqlx::query($sql)
            .bind($all.iter().map(|d| d.ns).bind_iter())
            .bind($all.iter().map(|d| d.function_id).bind_iter())
            .bind($all.iter().map(|d| d.key.as_str()).bind_iter())
    };
}

impl Store {
    /// Keeps a start, in the place of the last of its key. Returns the run that it will be.
    pub async fn debounce(&self, kept: &Debounced) -> Result<RunId> {
        wire::run_id(&of_debounce!(kept).fetch_one(&self.pool).await?)
    }

    /// The start that will be a run.
    pub async fn debounced(&self, ns: i32, run: RunId) -> Result<Option<Debounced>> {
        let query = sqlx::query(DEBOUNCED).bind(run.uuid()).bind(ns);
        query.fetch_optional(&self.pool).await?.as_ref().map(debounced).transpose()
    }
}

impl Lane {
    /// Begins to start what is due, and holds it; none: nothing is.
    pub async fn due_debounces(
        &mut self,
        now: Timestamp,
        limit: i64,
    ) -> Result<Option<(Delivery<'_>, Vec<Debounced>)>> {
        let mut tx = self.conn.begin().await?;
        let rows = sqlx::query(DUE_DEBOUNCES).bind(Ts(now)).bind(limit).fetch_all(&mut *tx).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let due = rows.iter().map(debounced).collect::<Result<_>>()?;
        Ok(Some((Delivery::over(tx), due)))
    }
}

impl Delivery<'_> {
    /// The same as [`Store::debounce`].
    pub async fn debounce(&mut self, kept: &Debounced) -> Result<RunId> {
        wire::run_id(&of_debounce!(kept).fetch_one(self.conn()).await?)
    }

    /// These are started.
    pub async fn debounced(&mut self, done: &[Debounced]) -> Result<()> {
        of_keys!(DEBOUNCE_DONE, done).execute(self.conn()).await?;
        Ok(())
    }

    /// These are started later.
    pub async fn put_off_debounces(&mut self, some: &[Debounced], to: Timestamp) -> Result<()> {
        of_keys!(DEBOUNCE_LATER, some).bind(Ts(to)).execute(self.conn()).await?;
        Ok(())
    }
}
