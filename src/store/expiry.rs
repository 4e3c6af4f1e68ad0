//! Ended runs that go before their week does: found in the order of their ends, deleted with
//! everything that is kept of them, a page in a transaction.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Executor as _, Postgres, Row as _};
use uuid::Uuid;

use super::Store;
use super::error::{Error, Result};
use super::purge::rows_of_a_run;
use super::wire::{self, Ts};
use crate::machine::{RunId, Timestamp};

/// An ended run, as far as it matters for how long it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndedRun {
    /// Which.
    pub run: RunId,
    /// Its function's number.
    pub function_id: i32,
    /// How it ended.
    pub status: i16,
    /// When.
    pub ended_at: Timestamp,
}

/// What came of runs that were to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expired {
    /// How many are gone.
    pub gone: u64,
    /// Those that are still there, as they were found.
    pub left: Vec<EndedRun>,
}

/// Walks the ends of a namespace up, first ended first, week by week. That an end is not before where
/// the walk is, is said once more for the weeks before it: a pair does not leave them out.
pub(super) const ENDED: &str = "select run_id, fn, status, ended_at from run_done
 where ns = $1 and ended_at >= $2 and (ended_at, run_id) > ($2, $3) and ended_at < $4
 order by ended_at, run_id limit $5";

/// All that ended before the week of a moment, of any namespace, in the order of the primary key.
pub(super) const ENDED_BEFORE: &str = "select ns, run_id, fn, status, ended_at from run_done
 where ended_at < week_of($1) and (shard, run_id) > ($2, $3)
 order by shard, run_id limit $4";

/// Those that are still as they were found: one that was rewound meanwhile is not, whatever has come
/// of it. Who has others to tell yet, or is held by somebody, is left.
pub(super) const HOLD: &str = "select d.shard, d.run_id from run_done d
  join unnest($1::int2[], $2::uuid[], $3::timestamptz[]) u(shard, run_id, ended_at)
 using (shard, run_id, ended_at)
 where d.ns = $4
   and not exists (select from outbox o where o.shard = d.shard and o.run_id = d.run_id)
   for update of d skip locked";

/// Those of them that are still as they were found.
pub(super) const LEFT: &str = "select d.run_id, d.fn, d.status, d.ended_at from run_done d
  join unnest($1::int2[], $2::uuid[], $3::timestamptz[]) u(shard, run_id, ended_at)
 using (shard, run_id, ended_at)
 where d.ns = $4";

/// A handful of runs among very many rows: by their keys, whatever the planner knows of the tables.
pub(super) const BY_KEYS: &str = "select set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true), set_config('enable_seqscan', 'off', true)";

macro_rules! of_many {
    ($table:literal) => {
        concat!(
            "delete from ",
            $table,
            " r using unnest($1::int2[], $2::uuid[]) u(shard, run_id)
 where r.shard = u.shard and r.run_id = u.run_id"
        )
    };
}
/// As in a purge, but for the run's key, which stays what it is: a start may ask for one that no run has
/// had.
pub(super) const ROWS: [&str; 7] = rows_of_a_run!(of_many);

/// Runs that are looked at at once.
pub const ENDED_PAGE: usize = 500;
/// Runs of one transaction.
const TOGETHER: usize = 100;

fn ended(row: &PgRow) -> Result<EndedRun> {
    Ok(EndedRun {
        run: row.try_get::<Uuid, _>("run_id")?.into(),
        function_id: row.try_get("fn")?,
        status: row.try_get("status")?,
        ended_at: wire::at(row, "ended_at")?,
    })
}

/// A statement about runs as they were found.
fn as_found(
    sql: &'static str,
    ns: i32,
    runs: &[EndedRun],
) -> sqlx::query::Query<'static, Postgres, PgArguments> {
    let shards: Vec<i16> = runs.iter().map(|r| r.run.shard().column()).collect();
    let ids: Vec<Uuid> = runs.iter().map(|r| r.run.uuid()).collect();
    let ends: Vec<Ts> = runs.iter().map(|r| Ts(r.ended_at)).collect();
    sqlx::query(sql).bind(shards).bind(ids).bind(ends).bind(ns)
}

impl Store {
    /// The next runs of a namespace after an end (at one moment: in the order of their ids) that
    /// ended before a moment, [`ENDED_PAGE`] at most.
    pub async fn ended_runs(
        &self,
        ns: i32,
        (at, after): (Timestamp, RunId),
        before: Timestamp,
    ) -> Result<Vec<EndedRun>> {
        let page = i64::try_from(ENDED_PAGE).unwrap_or(i64::MAX);
        let query = sqlx::query(ENDED).bind(ns).bind(Ts(at)).bind(after.uuid());
        let rows = query.bind(Ts(before)).bind(page).fetch_all(&self.pool).await?;
        rows.iter().map(ended).collect()
    }

    /// The next runs of any namespace that ended before the week of a moment, with their namespaces;
    /// [`ENDED_PAGE`] at most.
    pub async fn ended_before(
        &self,
        moment: Timestamp,
        after: Option<RunId>,
    ) -> Result<Vec<(i32, EndedRun)>> {
        let page = i64::try_from(ENDED_PAGE).unwrap_or(i64::MAX);
        let shard = after.map_or(-1, |run| run.shard().column());
        let run = after.map_or(Uuid::nil(), RunId::uuid);
        let query = sqlx::query(ENDED_BEFORE).bind(Ts(moment)).bind(shard).bind(run).bind(page);
        let rows = query.fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((row.try_get("ns")?, ended(row)?))).collect()
    }

    /// Deletes ended runs of a namespace, but for one that was rewound since it was found, that
    /// somebody holds, or that has others to tell yet.
    pub async fn expire_runs(&self, ns: i32, runs: &[EndedRun]) -> Result<Expired> {
        let mut expired = Expired::default();
        let mut parts: Vec<&[EndedRun]> = runs.chunks(TOGETHER).rev().collect();
        while let Some(part) = parts.pop() {
            match self.expire_together(ns, part).await {
                Ok(gone) => {
                    expired.gone += gone;
                    if gone < part.len() as u64 {
                        expired.left.extend(self.left(ns, part).await?);
                    }
                }
                // Too much for one statement, or somebody else is at it: fewer at once.
                Err(Error::Busy(_)) if part.len() > 1 => {
                    let (these, those) = part.split_at(part.len() / 2);
                    parts.extend([those, these]);
                }
                Err(Error::Busy(why)) => {
                    tracing::warn!(run.id = %part[0].run, why, "an ended run is not deleted yet");
                    expired.left.push(part[0]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(expired)
    }

    async fn left(&self, ns: i32, runs: &[EndedRun]) -> Result<Vec<EndedRun>> {
        let rows = as_found(LEFT, ns, runs).fetch_all(&self.pool).await?;
        rows.iter().map(ended).collect()
    }

    async fn expire_together(&self, ns: i32, runs: &[EndedRun]) -> Result<u64> {
        let mut tx = self.begin("begin").await?;
        tx.execute(BY_KEYS).await?;
        let held = as_found(HOLD, ns, runs).fetch_all(&mut *tx).await?;
        if held.is_empty() {
            return Ok(0);
        }
        let (mut shards, mut ids) = (Vec::new(), Vec::new());
        for row in &held {
            shards.push(row.try_get::<i16, _>("shard")?);
            ids.push(row.try_get::<Uuid, _>("run_id")?);
        }
        for sql in ROWS {
            sqlx::query(sql).bind(&shards).bind(&ids).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(held.len() as u64)
    }
}
