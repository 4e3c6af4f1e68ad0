//! Errors by their kind: what each is, how many runs have it, which was the last.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgBindIterExt as _, PgRow};
use uuid::Uuid;

use super::Store;
use super::error::Result;
use super::lists::RunCount;
use super::wire::{self, Ts};
use crate::machine::{RunId, Timestamp};

/// A kind of error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorRow {
    /// Which.
    pub fingerprint: Uuid,
    /// Its function's number.
    pub function_id: i32,
    /// Its function's name.
    pub function: String,
    /// The step that had failed last.
    pub step: Option<String>,
    /// The type of the error, or the code of the pause.
    pub code: String,
    /// The message without what differs from run to run.
    pub message: String,
    /// The message as the first run had it.
    pub example: String,
    /// When a run had it first.
    pub first_at: Timestamp,
    /// When the newest run that has it ended or paused.
    pub last_at: Timestamp,
    /// That run.
    pub run: RunId,
    /// What people made of it: 0 nothing, 1 it is resolved, 2 it is ignored.
    pub state: i16,
    /// Since when it is resolved or ignored; where it has come back: when it was resolved.
    pub state_at: Option<Timestamp>,
    /// Who did that.
    pub state_by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When it came back after that.
    pub returned_at: Option<Timestamp>,
}

/// What somebody makes of a kind of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorMark<'a> {
    /// 0 open, 1 resolved, 2 ignored.
    pub state: i16,
    /// When; not later than the true time, so that no run that fails after it was earlier.
    pub at: Timestamp,
    /// Who.
    pub by: &'a str,
    /// Why.
    pub reason: Option<&'a str>,
}

/// What runs say about a kind of error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorRuns {
    /// Runs by their status' code.
    pub by_status: Vec<(i16, RunCount)>,
    /// The deployments of the newest hundred that have ended, and of those that are paused.
    pub deps: Vec<i32>,
    /// Of the newest thousand runs of each status, those that were started in each of the last hours, the
    /// oldest first.
    pub hourly: [i64; HOURS],
}

/// So many hours are told apart.
pub const HOURS: usize = 24;

/// Which kinds of errors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorFilter {
    /// Function names; empty: all.
    pub functions: Vec<String>,
    /// This very one.
    pub fingerprint: Option<Uuid>,
    /// Kinds that a run of one of these statuses has; empty: any.
    pub status: Vec<i16>,
    /// In one of these states; empty: in any.
    pub states: Vec<i16>,
}

/// How many kinds are looked at: the newest.
const KINDS: i64 = 1000;
/// How far the runs of one kind are counted.
const COUNTED: i64 = 1000;

/// Whether a live run has this kind of error, by the index that it shares with other ids.
macro_rules! has_it {
    () => {
        "a.fingerprint = e.fingerprint
     and array_remove(array[a.schedule, a.fingerprint], null) @> array[e.fingerprint]"
    };
}

/// The run of each kind that is last by its id, ended or live: one step down an index each.
pub(super) const KINDS_OF: &str = concat!(
    "select e.fingerprint, e.fn, f.name as function, e.step, e.code, e.message,
       e.example, e.first_at, e.state, e.state_at, e.state_by, e.reason, e.returned_at, l.run_id, l.at
  from (select * from errors
         where ns = $1 and ($2::int4[] is null or fn = any($2))
           and ($3::uuid is null or fingerprint = $3)
           and ($6::int2[] is null or state = any($6))
         order by first_at desc limit $5) e
  join functions f on f.id = e.fn
 cross join lateral (
   select run_id, at from (
     (select d.run_id, d.ended_at as at from run_done d
       where d.ns = $1 and d.status = 101 and d.fn = e.fn and d.fingerprint = e.fingerprint
         and ($4::int2[] is null or 101 = any($4))
       order by (case when d.fingerprint is not null then d.run_id end) desc limit 1)
     union all
     (select d.run_id, d.ended_at as at from run_done d
       where d.ns = $1 and d.status = 103 and d.fn = e.fn and d.fingerprint = e.fingerprint
         and ($4::int2[] is null or 103 = any($4))
       order by (case when d.fingerprint is not null then d.run_id end) desc limit 1)
     union all
     (select a.run_id, coalesce(a.status_at, a.created_at) as at from run_active a
       where a.ns = $1 and ",
    has_it!(),
    "
         and ($4::int2[] is null or a.status = any($4))
       order by a.run_id desc limit 1)) x
   order by at desc limit 1) l"
);

/// Counted to a limit, over the same index.
pub(super) const RUNS_OF: &str = concat!(
    "select e.fingerprint, s.status,
       (select count(*) from (
          select from run_done d
           where s.status >= 100 and d.ns = $1 and d.status = s.status and d.fn = e.fn
             and d.fingerprint = e.fingerprint
           limit $4) x)
       + (select count(*) from (
          select from run_active a
           where s.status < 100 and a.ns = $1 and a.status = s.status and ",
    has_it!(),
    "
           limit $4) x) as n,
       array(select distinct dep from (
         (select d.dep from run_done d
           where s.status >= 100 and d.ns = $1 and d.status = s.status and d.fn = e.fn
             and d.fingerprint = e.fingerprint
           order by (case when d.fingerprint is not null then d.run_id end) desc limit 100)
         union all
         (select a.dep from run_active a
           where s.status < 100 and a.ns = $1 and a.status = s.status and ",
    has_it!(),
    "
           limit 100)) x where dep <> 0) as deps
  from unnest($2::uuid[], $3::int4[]) as e(fingerprint, fn)
 cross join unnest('{6, 101, 103}'::int2[]) as s(status)"
);

/// By whole hours before a moment. An id begins with its run's start in milliseconds.
pub(super) const HOURLY: &str = concat!(
    "select e.fingerprint, h.ago, count(*) as n
  from unnest($2::uuid[], $3::int4[]) as e(fingerprint, fn)
 cross join lateral (
   select floor((extract(epoch from $4::timestamptz) * 1000
          - ('x' || translate(left(x.run_id::text, 13), '-', ''))::bit(48)::bigint) / 3600000)::int4 as ago
     from (
       (select d.run_id from run_done d
         where d.ns = $1 and d.status = 101 and d.fn = e.fn and d.fingerprint = e.fingerprint
           and (case when d.fingerprint is not null then d.run_id end) >= run_floor($5)
         order by (case when d.fingerprint is not null then d.run_id end) desc limit $6)
       union all
       (select d.run_id from run_done d
         where d.ns = $1 and d.status = 103 and d.fn = e.fn and d.fingerprint = e.fingerprint
           and (case when d.fingerprint is not null then d.run_id end) >= run_floor($5)
         order by (case when d.fingerprint is not null then d.run_id end) desc limit $6)
       union all
       (select a.run_id from run_active a
         where a.ns = $1 and a.status = 6 and a.run_id >= run_floor($5) and ",
    has_it!(),
    "
         order by a.run_id desc limit $6)) x) h
 where h.ago between 0 and $7 - 1
 group by 1, 2"
);

pub(super) const FUNCTIONS_OF: &str =
    "select distinct fn from errors where ns = $1 and fingerprint = any($2::uuid[])";

/// What is so already is so since then; who did it last and why is told. Open: nothing is.
pub(super) const MARK: &str = "update errors
   set state = $3::int2, returned_at = null,
       state_at = case when $3::int2 = 0 then null when state = $3::int2 then state_at else $4 end,
       state_by = case when $3::int2 <> 0 then $5 end, reason = case when $3::int2 <> 0 then $6 end
 where ns = $1 and fingerprint = $2";

/// Kinds that no run has any more. What is resolved or ignored stays so: it may come again.
pub(super) const TRIM: &str = concat!(
    "with old as (
  select ns, fingerprint from errors e
   where first_at < $1 and state = 0
     and not exists (
       select from run_done d
        where d.ns = e.ns and d.status = any('{101, 103}') and d.fn = e.fn
          and d.fingerprint = e.fingerprint)
     and not exists (
       select from run_active a
        where ",
    has_it!(),
    ")
   limit $2 for update skip locked)
delete from errors e using old o where e.ns = o.ns and e.fingerprint = o.fingerprint"
);

fn kind(row: &PgRow) -> Result<ErrorRow> {
    Ok(ErrorRow {
        fingerprint: row.try_get("fingerprint")?,
        function_id: row.try_get("fn")?,
        function: row.try_get("function")?,
        step: row.try_get("step")?,
        code: row.try_get("code")?,
        message: row.try_get("message")?,
        example: row.try_get("example")?,
        first_at: wire::at(row, "first_at")?,
        last_at: wire::at(row, "at")?,
        run: wire::run_id(row)?,
        state: row.try_get("state")?,
        state_at: wire::maybe_at(row, "state_at")?,
        state_by: row.try_get("state_by")?,
        reason: row.try_get("reason")?,
        returned_at: wire::maybe_at(row, "returned_at")?,
    })
}

impl Store {
    /// Kinds of errors that runs have, of the newest thousand; the one whose newest run is last comes
    /// first.
    pub async fn errors(&self, ns: i32, filter: &ErrorFilter) -> Result<Vec<ErrorRow>> {
        let functions = if filter.functions.is_empty() {
            None
        } else {
            Some(self.function_ids(ns, &filter.functions).await?)
        };
        let rows = sqlx::query(KINDS_OF)
            .bind(ns)
            .bind(functions)
            .bind(filter.fingerprint)
            .bind((!filter.status.is_empty()).then_some(filter.status.as_slice()))
            .bind(KINDS)
            .bind((!filter.states.is_empty()).then_some(filter.states.as_slice()))
            .fetch_all(&self.pool)
            .await?;
        let mut kinds = rows.iter().map(kind).collect::<Result<Vec<_>>>()?;
        kinds.sort_by_key(|k| std::cmp::Reverse((k.last_at, k.fingerprint)));
        Ok(kinds)
    }

    /// What runs say about each of these kinds, in their order.
    pub async fn runs_of_errors(
        &self,
        ns: i32,
        kinds: &[ErrorRow],
        now: Timestamp,
    ) -> Result<Vec<ErrorRuns>> {
        let rows = sqlx::query(RUNS_OF)
            .bind(ns)
            .bind(kinds.iter().map(|k| k.fingerprint).bind_iter())
            .bind(kinds.iter().map(|k| k.function_id).bind_iter())
            .bind(COUNTED + 1)
            .fetch_all(&self.pool)
            .await?;
        let none = ErrorRuns { by_status: Vec::new(), deps: Vec::new(), hourly: [0; HOURS] };
        let mut found = vec![none; kinds.len()];
        let place_of = |row: &PgRow| -> Result<Option<usize>> {
            let fingerprint: Uuid = row.try_get("fingerprint")?;
            Ok(kinds.iter().position(|k| k.fingerprint == fingerprint))
        };
        for row in rows {
            let Some(place) = place_of(&row)? else { continue };
            let n: i64 = row.try_get("n")?;
            if n > 0 {
                let count = RunCount { count: n.min(COUNTED), exact: n <= COUNTED };
                found[place].by_status.push((row.try_get("status")?, count));
                found[place].deps.extend(row.try_get::<Vec<i32>, _>("deps")?);
            }
        }
        let hours = i32::try_from(HOURS).unwrap_or(i32::MAX);
        let since = now - Duration::from_hours(HOURS as u64);
        let rows = sqlx::query(HOURLY)
            .bind(ns)
            .bind(kinds.iter().map(|k| k.fingerprint).bind_iter())
            .bind(kinds.iter().map(|k| k.function_id).bind_iter())
            .bind(Ts(now))
            .bind(Ts(since))
            .bind(COUNTED)
            .bind(hours)
            .fetch_all(&self.pool)
            .await?;
        for row in rows {
            let ago = usize::try_from(row.try_get::<i32, _>("ago")?).unwrap_or(HOURS);
            if let (Some(place), true) = (place_of(&row)?, ago < HOURS) {
                found[place].hourly[HOURS - 1 - ago] = row.try_get("n")?;
            }
        }
        for runs in &mut found {
            runs.deps.sort_unstable();
            runs.deps.dedup();
        }
        Ok(found)
    }

    /// Notes what somebody makes of a kind of error; false: there is none.
    pub async fn mark_error(&self, ns: i32, which: Uuid, mark: ErrorMark<'_>) -> Result<bool> {
        let ErrorMark { state, at, by, reason } = mark;
        let query = sqlx::query(MARK).bind(ns).bind(which).bind(state).bind(Ts(at));
        let done = query.bind(by).bind(reason).execute(&self.pool).await?;
        Ok(done.rows_affected() > 0)
    }

    /// The functions of these kinds of errors.
    pub(super) async fn functions_of_errors(&self, ns: i32, kinds: &[Uuid]) -> Result<Vec<i32>> {
        let query = sqlx::query_scalar(FUNCTIONS_OF).bind(ns).bind(kinds);
        Ok(query.fetch_all(&self.pool).await?)
    }

    async fn function_ids(&self, ns: i32, names: &[String]) -> Result<Vec<i32>> {
        let named = sqlx::query(super::run_filters::NAMED).bind(ns).bind(names).bind(None::<&str>);
        let rows = named.fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
    }
}
