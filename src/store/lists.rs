//! Lists of runs: one statement over live and ended ones, in the order of their starts; and one over
//! ended ones, in the order of their ends.

use std::collections::BTreeMap;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::Store;
use super::error::{Error, Result};
use super::run_filters::{Asked, RunFilter, ended, filters, live, range};
use super::run_sort::{RunPlace, RunSort};
use super::wire::{self, Ts};
use crate::machine::{RunId, ScheduleId, Timestamp};

/// A run in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedRun {
    /// Which.
    pub run: RunId,
    /// Its function's number.
    pub function_id: i32,
    /// Its function's name.
    pub function: String,
    /// The deployment that it was started on, for an ended one that it ended on; 0: none.
    pub dep: i32,
    /// Its key.
    pub key: Option<String>,
    /// From 1.
    pub generation: i32,
    /// Its status' code, for a live run at most a second late.
    pub status: i16,
    /// When it was started.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it does not move, JSON.
    pub attention: Option<Bytes>,
    /// What its handler said last, JSON.
    pub custom_status: Option<Bytes>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The run that started it.
    pub parent: Option<RunId>,
    /// The schedule that started it.
    pub schedule: Option<ScheduleId>,
    /// The kind of error that it failed or is paused by.
    pub fingerprint: Option<uuid::Uuid>,
}

/// A number of runs, counted no further than to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunCount {
    /// How many there are, at least.
    pub count: i64,
    /// Whether there are no more.
    pub exact: bool,
}

/// What one look at the runs came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunsFound {
    /// In the order that was asked for.
    pub runs: Vec<ListedRun>,
    /// How far was looked, where it was not to the limit or the end.
    pub looked_to: Option<RunPlace>,
}

/// How many runs are looked at for what has no index, one after the other: little for what is
/// common, and no more than a database does in half a second.
const LOOK: [i64; 2] = [10_000, 200_000];

/// Runs in the order of their starts, from the cursor to where a look ends.
macro_rules! by_start {
    ($beyond:literal, $up_to:literal, $order:literal) => {
        concat!(
            "select x.*, x.tags::text as tags_text, f.name as function from (
  (select run_id, fn, dep, key, generation, status, created_at, null::timestamptz as ended_at,
          attention, custom_status, tags, parent, schedule, fingerprint
     from run_active where ",
            live!(),
            " and run_id ",
            $beyond,
            " $2 and ($16::uuid is null or run_id ",
            $up_to,
            " $16) order by run_id ",
            $order,
            " limit $14)
  union all
  (select run_id, fn, dep, key, generation, status, created_at,
          coalesce(was_ended_at, ended_at), null, custom_status, tags, parent, schedule, fingerprint
     from run_done where ",
            ended!(),
            " and run_id ",
            $beyond,
            " $2 and ($16::uuid is null or run_id ",
            $up_to,
            " $16) order by run_id ",
            $order,
            " limit $14)) x
  join functions f on f.id = x.fn order by x.run_id ",
            $order,
            " limit $14"
        )
    };
}

/// Ended runs in the order of their ends: partitions, which are weeks of ends, one after the other.
macro_rules! by_end {
    ($beyond:literal, $up_to:literal, $order:literal) => {
        concat!(
            "select x.*, x.tags::text as tags_text, f.name as function from (
   select run_id, fn, dep, key, generation, status, created_at, ended_at,
          null::bytea as attention, custom_status, tags, parent, schedule, fingerprint
     from run_done where ",
            ended!(),
            " and (ended_at, run_id) ",
            $beyond,
            " ($28::timestamptz, $2) and ($16::uuid is null or (ended_at, run_id) ",
            $up_to,
            " ($29::timestamptz, $16)) order by ended_at ",
            $order,
            ", run_id ",
            $order,
            " limit $14) x
  join functions f on f.id = x.fn order by x.ended_at ",
            $order,
            ", x.run_id ",
            $order,
            " limit $14"
        )
    };
}

pub(super) const LIST: &str = by_start!("<", ">=", "desc");
pub(super) const LIST_OLDEST: &str = by_start!(">", "<=", "asc");
pub(super) const LIST_LAST_ENDED: &str = by_end!("<", ">=", "desc");
pub(super) const LIST_FIRST_ENDED: &str = by_end!(">", "<=", "asc");

/// How many a list would have, at most so many of each half.
pub(super) const COUNT: &str = concat!(
    "select count(*) from (
  (select run_id from run_active where ",
    live!(),
    " and run_id < $2 and ($16::uuid is null or run_id >= $16) order by run_id desc limit $14)
  union all
  (select run_id from run_done where ",
    ended!(),
    " and run_id < $2 and ($16::uuid is null or run_id >= $16) order by run_id desc limit $14)) x"
);

/// The run that is so many beyond the cursor, from the indexes alone.
macro_rules! beyond_by_start {
    ($beyond:literal, $order:literal) => {
        concat!(
            "select run_id, null::timestamptz as ended_at from (
  (select run_id from run_active where ",
            range!(),
            " and run_id ",
            $beyond,
            " $2 order by run_id ",
            $order,
            " limit $5)
  union all
  (select run_id from run_done where ",
            range!(),
            " and run_id ",
            $beyond,
            " $2 order by run_id ",
            $order,
            " limit $5)) x
  order by run_id ",
            $order,
            " offset $5 - 1 limit 1"
        )
    };
}

/// The same by ends, between two moments of them.
macro_rules! beyond_by_end {
    ($beyond:literal, $order:literal) => {
        concat!(
            "select run_id, ended_at from run_done where ",
            range!(),
            " and (ended_at, run_id) ",
            $beyond,
            " ($6::timestamptz, $2) and ended_at >= $7 and ended_at < coalesce($8::timestamptz, 'infinity')
  order by ended_at ",
            $order,
            ", run_id ",
            $order,
            " offset $5 - 1 limit 1"
        )
    };
}

pub(super) const BEYOND: &str = beyond_by_start!("<", "desc");
pub(super) const BEYOND_OLDEST: &str = beyond_by_start!(">", "asc");
pub(super) const BEYOND_LAST_ENDED: &str = beyond_by_end!("<", "desc");
pub(super) const BEYOND_FIRST_ENDED: &str = beyond_by_end!(">", "asc");

pub(super) const GET: &str = "select x.*, x.tags::text as tags_text, f.name as function from (
  select run_id, ns, fn, dep, key, generation, status, created_at, null::timestamptz as ended_at,
         attention, custom_status, tags, parent, schedule, fingerprint
    from run_active where shard = $1 and run_id = $2
  union all
  select run_id, ns, fn, dep, key, generation, status, created_at,
         coalesce(was_ended_at, ended_at), null, custom_status, tags, parent, schedule, fingerprint
    from run_done where shard = $1 and run_id = $2) x
  join functions f on f.id = x.fn where x.ns = $3";

pub(super) const LIVE_OF: &str =
    "select run_id from run_active where fn = any($1::int4[]) order by run_id limit $2";

pub(super) const RUN_OF_KEY: &str = "select run_id, status from run_keys
 where shard = $1 and ns = $2 and fn = $3 and key = $4";

pub(super) const KNOWS_IDEM: &str = "select exists (select from idem
 where shard = $1 and ns = $2 and key = $3 and expires_at > now())";

fn listed(row: &PgRow) -> Result<ListedRun> {
    let tags: Option<&str> = row.try_get("tags_text")?;
    let tags = tags.map(serde_json::from_str).transpose();
    Ok(ListedRun {
        run: wire::run_id(row)?,
        function_id: row.try_get("fn")?,
        function: row.try_get("function")?,
        dep: row.try_get("dep")?,
        key: row.try_get("key")?,
        generation: row.try_get("generation")?,
        status: row.try_get("status")?,
        created_at: wire::at(row, "created_at")?,
        ended_at: wire::maybe_at(row, "ended_at")?,
        attention: wire::body(row, "attention")?,
        custom_status: wire::body(row, "custom_status")?,
        parent: row.try_get::<Option<uuid::Uuid>, _>("parent")?.map(RunId::from),
        schedule: row.try_get::<Option<uuid::Uuid>, _>("schedule")?.map(ScheduleId::from),
        fingerprint: row.try_get("fingerprint")?,
        tags: tags.map_err(|e| Error::corrupt(format!("tags: {e}")))?.unwrap_or_default(),
    })
}

impl Store {
    /// A page of runs, in their order. For what no index has, it looks at so many runs only and says
    /// how far that was.
    pub async fn list_runs(&self, filter: &RunFilter) -> Result<RunsFound> {
        self.list_runs_by(filter, &LOOK).await
    }

    /// The same, where it looks at `windows` runs one after the other.
    pub(super) async fn list_runs_by(
        &self,
        filter: &RunFilter,
        windows: &[i64],
    ) -> Result<RunsFound> {
        let asked = self.asked(filter).await?;
        if asked.is_nobody() {
            return Ok(RunsFound::default());
        }
        if !asked.looks_at_all() {
            let runs = self.runs_between(&asked, filter.cursor, None, filter.limit).await?;
            return Ok(RunsFound { runs, looked_to: None });
        }
        let (mut runs, mut from) = (Vec::new(), filter.cursor);
        for window in windows {
            let to = self.place_beyond(filter, from, *window).await?;
            let room = filter.limit - i64::try_from(runs.len()).unwrap_or(i64::MAX);
            runs.extend(self.runs_between(&asked, from, to, room).await?);
            let full = i64::try_from(runs.len()).is_ok_and(|found| found >= filter.limit);
            if full || to.is_none() {
                return Ok(RunsFound { runs, looked_to: None });
            }
            from = to;
        }
        Ok(RunsFound { runs, looked_to: from })
    }

    /// The place that is so many runs beyond another; none: there are not so many.
    async fn place_beyond(
        &self,
        filter: &RunFilter,
        from: Option<RunPlace>,
        so_many: i64,
    ) -> Result<Option<RunPlace>> {
        let (sql, (first, first_end)) = match filter.sort {
            RunSort::Newest => (BEYOND, filter.sort.beginning()),
            RunSort::Oldest => (BEYOND_OLDEST, filter.sort.beginning()),
            RunSort::LastEnded => (BEYOND_LAST_ENDED, filter.sort.beginning()),
            RunSort::FirstEnded => (BEYOND_FIRST_ENDED, filter.sort.beginning()),
        };
        let mut query = sqlx::query(sql)
            .bind(filter.ns)
            .bind(from.map_or(first, |at| at.run.uuid()))
            .bind(filter.started_after.map(Ts))
            .bind(filter.started_before.map(Ts))
            .bind(so_many);
        if filter.sort.by_end() {
            query = query
                .bind(Ts(from.and_then(|at| at.ended_at).unwrap_or(first_end)))
                .bind(filter.ended_after().map(Ts))
                .bind(filter.ended_before.map(Ts));
        }
        let row = query.fetch_optional(&self.pool).await?;
        let place = |row: &PgRow| {
            Ok(RunPlace { run: wire::run_id(row)?, ended_at: wire::maybe_at(row, "ended_at")? })
        };
        row.as_ref().map(place).transpose()
    }

    /// How many runs a list would have, counted to `filter.limit`, and for what no index has over so
    /// many runs only.
    pub async fn count_runs(&self, filter: &RunFilter) -> Result<RunCount> {
        // In which order does not matter.
        let from = filter.cursor.filter(|_| filter.sort == RunSort::Newest);
        let filter = &RunFilter {
            ended_after: filter.ended_after(),
            sort: RunSort::Newest,
            ..filter.clone()
        };
        let asked = self.asked(filter).await?;
        if asked.is_nobody() {
            return Ok(RunCount { count: 0, exact: true });
        }
        let to = if asked.looks_at_all() {
            self.place_beyond(filter, from, LOOK.iter().sum()).await?
        } else {
            None
        };
        // One more tells whether there are more.
        let query = Self::bound(COUNT, &asked, from, to, filter.limit.saturating_add(1));
        let found: i64 = query.fetch_one(&self.pool).await?.try_get(0)?;
        Ok(RunCount {
            count: found.min(filter.limit),
            exact: found <= filter.limit && to.is_none(),
        })
    }

    /// Runs beyond `from`, and not beyond `to`.
    async fn runs_between(
        &self,
        asked: &Asked<'_>,
        from: Option<RunPlace>,
        to: Option<RunPlace>,
        limit: i64,
    ) -> Result<Vec<ListedRun>> {
        let sort = asked.filter.sort;
        let sql = match sort {
            RunSort::Newest => LIST,
            RunSort::Oldest => LIST_OLDEST,
            RunSort::LastEnded => LIST_LAST_ENDED,
            RunSort::FirstEnded => LIST_FIRST_ENDED,
        };
        let mut query = Self::bound(sql, asked, from, to, limit);
        if sort.by_end() {
            let from = from.and_then(|at| at.ended_at).unwrap_or(sort.beginning().1);
            query = query.bind(Ts(from)).bind(to.and_then(|at| at.ended_at).map(Ts));
        }
        query.fetch_all(&self.pool).await?.iter().map(listed).collect()
    }

    /// One run as lists show it, live or ended, if it is in this namespace.
    pub async fn get_run(&self, ns: i32, run: RunId) -> Result<Option<ListedRun>> {
        let row = sqlx::query(GET)
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(ns)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(listed).transpose()
    }

    /// Live runs of functions, oldest first.
    pub async fn live_runs_of(&self, functions: &[i32], limit: i64) -> Result<Vec<RunId>> {
        let rows = sqlx::query(LIVE_OF).bind(functions).bind(limit);
        rows.fetch_all(&self.pool).await?.iter().map(wire::run_id).collect()
    }

    /// Whether a request with this idempotency key was accepted.
    pub async fn knows_idem(&self, ns: i32, idem: &super::Idem) -> Result<bool> {
        let query = sqlx::query_scalar(KNOWS_IDEM).bind(idem.shard.column()).bind(ns);
        Ok(query.bind(idem.key.as_str()).fetch_one(&self.pool).await?)
    }

    /// Who has a run key, and how it ended (none: it lives).
    pub async fn run_of_key(
        &self,
        ns: i32,
        function: i32,
        shard: crate::machine::Shard,
        key: &str,
    ) -> Result<Option<(RunId, Option<i16>)>> {
        let row = sqlx::query(RUN_OF_KEY)
            .bind(shard.column())
            .bind(ns)
            .bind(function)
            .bind(key)
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| Ok((wire::run_id(&row)?, row.try_get("status")?))).transpose()
    }
}
