//! Limits as people see and handle them: who runs and who waits, pauses of single keys, rates of
//! starts.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::Store;
use super::error::Result;
use super::outbox::Delivery;
use super::permits::{LimitKey, key_of, same};
use super::turns::PLACE;
use super::wire::{self, Ts};
use crate::machine::{RunId, Timestamp};

/// A limit at one value of its key, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRow {
    /// Which.
    pub at: LimitKey,
    /// Runs that it lets through now.
    pub running: i64,
    /// Runs that wait; at most [`COUNTED`].
    pub queued: i64,
    /// Since when, by whom and why nobody is let through.
    pub paused: Option<(Timestamp, String, Option<String>)>,
}

/// Waiting runs are counted up to here.
pub const COUNTED: i64 = 10_000;

/// A run that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InLine {
    /// Since when.
    pub since: Timestamp,
    /// How many go before it; at most [`COUNTED`].
    pub before: i64,
    /// How many were let through.
    pub running: i64,
    /// Nobody is let through.
    pub paused: bool,
}

/// What nobody has used for a day is forgotten.
pub(super) const FORGET_KEYS: &str = concat!(
    "delete from limit_keys l
 where l.paused_at is null and (l.next_at is null or l.next_at < $1)
   and not exists (select from permits p where ",
    same!("p", "l"),
    ")"
);

macro_rules! limit {
    ($rest:literal) => {
        concat!(
            "select l.owner_kind, l.owner_id, l.rule, l.key, l.paused_at, l.paused_by, l.paused_reason,
       (select count(*) from permits p where ", same!("p", "l"), " and p.slot is not null) as running,
       (select count(*) from (
          select from permits p where ", same!("p", "l"), " and p.slot is null limit 10000) q) as queued
  from limit_keys l
", $rest
        )
    };
}

pub(super) const LIMITS: &str = limit!(
    " where l.ns = $1 and (l.owner_kind, l.owner_id, l.rule, l.key) > ($2, $3, $4, $5)
   and ($6::int4 is null or l.owner_kind = 0 and l.owner_id = $6)
   and ($7::text is null or l.key = $7)
   and (not $9 or l.paused_at is not null or exists (
          select from permits w
           where w.owner_kind = l.owner_kind and w.owner_id = l.owner_id and w.rule = l.rule
             and w.key = l.key and w.slot is null))
 order by l.owner_kind, l.owner_id, l.rule, l.key limit $8"
);

pub(super) const LIMIT: &str = limit!(
    " where l.owner_kind = $1 and l.owner_id = $2 and l.rule = $3 and l.key = $4 and l.ns = $5"
);

pub(super) const PAUSE_KEY: &str =
    "insert into limit_keys (owner_kind, owner_id, rule, key, ns, paused_at, paused_by, paused_reason)
values ($1, $2, $3, $4, $5, now(), $6, $7)
on conflict (owner_kind, owner_id, rule, key) do update
   set paused_at = coalesce(limit_keys.paused_at, now()), paused_by = excluded.paused_by,
       paused_reason = excluded.paused_reason";

pub(super) const RESUME_KEY: &str = "update limit_keys
   set paused_at = null, paused_by = null, paused_reason = null
 where owner_kind = $1 and owner_id = $2 and rule = $3 and key = $4 and paused_at is not null";

/// One more is let through, or nobody: then nothing comes back.
pub(super) const TAKE_RATE: &str =
    "insert into limit_keys as l (owner_kind, owner_id, rule, key, ns, next_at)
values ($1, $2, $3, $4, $5, $6::timestamptz + $7::int8 * interval '1 microsecond')
on conflict (owner_kind, owner_id, rule, key) do update
   set next_at = greatest(coalesce(l.next_at, $6), $6) + $7 * interval '1 microsecond'
 where coalesce(l.next_at, $6) <= $6 + $8 * interval '1 microsecond'
returning next_at";

pub(super) const NEXT_AT: &str = "select next_at from limit_keys
 where owner_kind = $1 and owner_id = $2 and rule = $3 and key = $4";

fn limit_row(row: &PgRow) -> Result<LimitRow> {
    let paused = wire::paused(row)?;
    Ok(LimitRow {
        at: key_of(row)?,
        running: row.try_get("running")?,
        queued: row.try_get("queued")?,
        paused,
    })
}

/// Binds one key as the first four parameters.
macro_rules! of_key {
    ($sql:expr, $at:expr) => {{
        let (kind, id) = $at.of.columns();
        sqlx::query($sql).bind(kind).bind(id).bind(&$at.rule).bind(&$at.key)
    }};
}

impl Store {
    /// Forgets keys that nobody has used since.
    pub async fn forget_limit_keys(&self, since: Timestamp) -> Result<u64> {
        let done = sqlx::query(FORGET_KEYS).bind(Ts(since)).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }

    /// Limits at the values of their keys that are in use, after `after`, of a function or of a value
    /// where one is named; `waiting`: only where somebody waits or nobody is let through.
    pub async fn limits(
        &self,
        ns: i32,
        after: Option<&LimitKey>,
        function: Option<i32>,
        key: Option<&str>,
        waiting: bool,
        limit: i64,
    ) -> Result<Vec<LimitRow>> {
        let (kind, id) = after.map_or((-1, 0), |a| a.of.columns());
        let rows = sqlx::query(LIMITS)
            .bind(ns)
            .bind(kind)
            .bind(id)
            .bind(after.map_or("", |a| a.rule.as_str()))
            .bind(after.map_or("", |a| a.key.as_str()))
            .bind(function)
            .bind(key)
            .bind(limit)
            .bind(waiting)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(limit_row).collect()
    }

    /// One of them.
    pub async fn limit(&self, ns: i32, at: &LimitKey) -> Result<Option<LimitRow>> {
        let row = of_key!(LIMIT, at).bind(ns).fetch_optional(&self.pool).await?;
        row.as_ref().map(limit_row).transpose()
    }

    /// Where a run waits; none: it does not wait there.
    pub async fn place_in_line(&self, at: &LimitKey, run: RunId) -> Result<Option<InLine>> {
        let row = of_key!(PLACE, at).bind(run.uuid()).fetch_optional(&self.pool).await?;
        let place = |row: PgRow| {
            Ok(InLine {
                since: wire::at(&row, "asked_at")?,
                before: row.try_get("before")?,
                running: row.try_get("running")?,
                paused: row.try_get("paused")?,
            })
        };
        row.map(place).transpose()
    }

    /// Lets nobody through at a key from now on.
    pub async fn pause_limit(
        &self,
        ns: i32,
        at: &LimitKey,
        by: &str,
        reason: Option<&str>,
    ) -> Result<()> {
        of_key!(PAUSE_KEY, at).bind(ns).bind(by).bind(reason).execute(&self.pool).await?;
        Ok(())
    }

    /// Lets runs through again. Returns false if it was not paused.
    pub async fn resume_limit(&self, at: &LimitKey) -> Result<bool> {
        Ok(of_key!(RESUME_KEY, at).execute(&self.pool).await?.rows_affected() == 1)
    }

    /// Counts one more start, if the rate allows it; else says when the next one is.
    pub async fn take_rate(
        &self,
        ns: i32,
        at: &LimitKey,
        interval: Duration,
        burst: u32,
        now: Timestamp,
    ) -> Result<Option<Timestamp>> {
        if take_rate(&mut *self.pool.acquire().await?, ns, at, interval, burst, now).await? {
            return Ok(None);
        }
        let row = of_key!(NEXT_AT, at).fetch_optional(&self.pool).await?;
        let next = row.as_ref().map(|row| wire::maybe_at(row, "next_at")).transpose()?.flatten();
        let (_, ahead) = micros(interval, burst);
        Ok(Some(
            next.map_or(now, |at| Timestamp::from_micros(at.as_micros().saturating_sub(ahead))),
        ))
    }
}

impl Delivery<'_> {
    /// The same in a transaction: returns whether the rate allows it.
    pub async fn take_rate(
        &mut self,
        ns: i32,
        at: &LimitKey,
        interval: Duration,
        burst: u32,
        now: Timestamp,
    ) -> Result<bool> {
        take_rate(self.conn(), ns, at, interval, burst, now).await
    }
}

/// The interval, and how far ahead of an even pace a burst may be.
fn micros(interval: Duration, burst: u32) -> (i64, i64) {
    let interval = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX).max(1);
    (interval, interval.saturating_mul(i64::from(burst.saturating_sub(1))))
}

async fn take_rate(
    conn: &mut PgConnection,
    ns: i32,
    at: &LimitKey,
    interval: Duration,
    burst: u32,
    now: Timestamp,
) -> Result<bool> {
    let (interval, ahead) = micros(interval, burst);
    let query = of_key!(TAKE_RATE, at).bind(ns).bind(Ts(now)).bind(interval).bind(ahead);
    Ok(query.fetch_optional(conn).await?.is_some())
}
