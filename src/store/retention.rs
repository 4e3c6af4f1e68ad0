//! Making weeks ahead and dropping old ones, without losing what still lives in them.

use std::time::Duration;

use sqlx::Row as _;

use super::Store;
use super::bulk::TRIM as TRIM_BULKS;
use super::error::{Error, Result};
use super::errors::TRIM as TRIM_ERRORS;
use super::events::TRIM_EVENTS;
use super::wire::{self, Ts};
use crate::machine::Timestamp;
use crate::machine::id::GROUPS;

/// What a round of retention did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Partitions that are gone.
    pub partitions: Vec<String>,
    /// Runs whose journal was carried over to `journal_long`.
    pub moved: u64,
    /// Rows that were deleted one by one.
    pub rows: u64,
}

pub(super) const ENSURE: &str = "select ensure_partitions($1)";
pub(super) const EXPIRED: &str = "select name, starts, ends from expired_partitions($1, $2)";
pub(super) const DROP: &str = "select drop_partition($1, $2)::text";

/// Carries live runs of a week over to `journal_long`. The `moved` row takes the next position in
/// the old table: whoever appends there from now on loses, loads the run and finds its new home.
/// An append that is faster takes the position itself; then the run waits for the next round.
/// The run's row is locked first, as every append does that changes it.
pub(super) const MOVE_LIVE: &str = "with a as materialized (
  select shard, run_id, base_n, ns from run_active
   where shard between $4 and $4 + 15
     and run_id >= run_floor($1) and run_id < run_floor($2) and home = 0
   order by shard, run_id limit $3 for update),
last as materialized (
  select a.shard, a.run_id, a.base_n, a.ns, l.n, l.seq, l.epoch, l.cp, l.dep
    from a cross join lateral (
      select n, seq, epoch, cp, dep from journal j
       where j.shard = a.shard and j.run_id = a.run_id order by n desc limit 1) l),
mark as (
  insert into journal (shard,run_id,n,kind,flags,seq,epoch,cp,ms,dep,ns,at,step)
  select shard,run_id,n+1,20,0,seq,epoch,cp,0,dep,ns,now(),'' from last
  on conflict (shard, run_id, n) do nothing returning *),
copied as (
  insert into journal_long (shard,run_id,n,kind,flags,seq,epoch,cp,ms,dep,ns,at,due,ref,step,body)
  select j.shard,j.run_id,j.n,j.kind,j.flags,j.seq,j.epoch,j.cp,j.ms,j.dep,j.ns,j.at,j.due,j.ref,
         j.step,j.body
    from last l join mark m using (shard, run_id)
    join journal j on j.shard = l.shard and j.run_id = l.run_id and j.n >= l.base_n
  union all
  select shard,run_id,n,kind,flags,seq,epoch,cp,ms,dep,ns,at,due,ref,step,body from mark)
update run_active r set home = 1 from mark m where r.shard = m.shard and r.run_id = m.run_id";

/// The same for runs that have ended, but not long enough ago: nobody appends to them.
pub(super) const MOVE_DONE: &str = "with d as materialized (
  select shard, run_id, ended_at, base_n from run_done
   where shard between $4 and $4 + 15
     and run_id >= run_floor($1) and run_id < run_floor($2) and home = 0
     and ended_at >= week_of($5)
   order by shard, run_id limit $3 for update),
copied as (
  insert into journal_long (shard,run_id,n,kind,flags,seq,epoch,cp,ms,dep,ns,at,due,ref,step,body)
  select j.shard,j.run_id,j.n,j.kind,j.flags,j.seq,j.epoch,j.cp,j.ms,j.dep,j.ns,j.at,j.due,j.ref,
         j.step,j.body
    from d join journal j on j.shard = d.shard and j.run_id = d.run_id and j.n >= d.base_n)
update run_done r set home = 1 from d
 where r.shard = d.shard and r.run_id = d.run_id and r.ended_at = d.ended_at";

pub(super) const LEFT: &str = "select exists (
  select from run_active
   where shard between $3 and $3 + 15
     and run_id >= run_floor($1) and run_id < run_floor($2) and home = 0)
    or exists (
  select from run_done
   where shard between $3 and $3 + 15
     and run_id >= run_floor($1) and run_id < run_floor($2) and home = 0
     and ended_at >= week_of($4))";

/// Ended runs whose journal is in `journal_long` go before their week does: that table is not
/// dropped with it.
pub(super) const TRIM_LONG: &str = "with d as materialized (
  select shard, run_id, ended_at from run_done
   where ended_at >= $1 and ended_at < $2 and home = 1 limit $3 for update),
j as (
  delete from journal_long j using d where j.shard = d.shard and j.run_id = d.run_id),
i as (
  delete from imported i using d where i.shard = d.shard and i.run_id = d.run_id)
delete from run_done r using d
 where r.shard = d.shard and r.run_id = d.run_id and r.ended_at = d.ended_at";

pub(super) const TRIM_IDEM: &str = "with old as (
  select shard, ns, key from idem e
   where expires_at < $1
     and not exists (select from run_active r
                      where r.shard = shard_of(e.run_id) and r.run_id = e.run_id and e.msg_id is null)
   limit $2 for update skip locked)
delete from idem e using old o where e.shard = o.shard and e.ns = o.ns and e.key = o.key";

/// Rows of generations that have been over since then, of live runs and of ended ones. Whoever might
/// take one of their positions now is refused by where the run's generation begins.
pub(super) const TRIM_GENERATIONS: &str = "with p as materialized (
  select shard, run_id, n from past_generations where at < $1 order by at limit $2
   for update skip locked),
j as (
  delete from journal_long j using (select shard, run_id, max(n) as n from p group by 1, 2) x
   where j.shard = x.shard and j.run_id = x.run_id and j.n < x.n)
delete from past_generations g using p
 where g.shard = p.shard and g.run_id = p.run_id and g.n = p.n";

pub(super) const TRIM_KEYS: &str = "with old as (
  select shard, ns, fn, key from run_keys where ended_at < $1 limit $2 for update skip locked)
delete from run_keys k using old o
 where k.shard = o.shard and k.ns = o.ns and k.fn = o.fn and k.key = o.key";

/// Runs or rows of one statement.
const PAGE: i64 = 500;
/// Generations of one statement: each has many rows.
const GENERATIONS: i64 = 50;
/// How long rows of a generation that is over are kept, for who looks at what happened.
const GENERATION_KEPT: Duration = Duration::from_hours(1);
/// Statements of one kind in a round; what is left waits for the next.
const PAGES: u32 = 200;

impl Store {
    /// Makes the partitions of the week before `now`, this one and four ahead. Returns how many
    /// were missing. To be called at least weekly, by any node.
    pub async fn ensure_partitions(&self, now: Timestamp) -> Result<i32> {
        Ok(sqlx::query_scalar(ENSURE).bind(Ts(now)).fetch_one(&self.pool).await?)
    }

    /// One round of retention: drops the weeks that ended before `older_than`, and deletes keys
    /// of runs that ended before it, acts on many runs that did, and idempotency keys that expired before `now`. Journals of
    /// runs that live, or whose end is kept, are carried over first. Work is bounded; what a round
    /// does not reach, or what is locked, is left for the next. One node at a time.
    pub async fn drop_partitions(&self, older_than: Timestamp, now: Timestamp) -> Result<Dropped> {
        let mut done = Dropped::default();
        for (name, starts, ends) in self.expired("journal", older_than).await? {
            if self.empty_week(starts, ends, older_than, &mut done.moved).await? {
                self.drop_one("journal", name, &mut done).await?;
            }
        }
        for (name, starts, ends) in self.expired("run_done", older_than).await? {
            let page = || sqlx::query(TRIM_LONG).bind(Ts(starts)).bind(Ts(ends)).bind(PAGE);
            let mut pages = PAGES;
            while pages > 0 && page().execute(&self.pool).await?.rows_affected() > 0 {
                pages -= 1;
            }
            if pages > 0 {
                self.drop_one("run_done", name, &mut done).await?;
            }
        }
        for table in ["history", "logs"] {
            for (name, ..) in self.expired(table, older_than).await? {
                self.drop_one(table, name, &mut done).await?;
            }
        }
        done.rows = self.trim(older_than, now).await?;
        Ok(done)
    }

    /// The part of [`Store::drop_partitions`] that is about rows: keys of runs that ended before
    /// `older_than`, acts on many runs that did, events, and idempotency keys that expired before `now`.
    /// Returns how many.
    pub async fn trim(&self, older_than: Timestamp, now: Timestamp) -> Result<u64> {
        let mut gone = 0;
        for (sql, before) in [
            (TRIM_IDEM, now),
            (TRIM_KEYS, older_than),
            (TRIM_EVENTS, older_than),
            (TRIM_BULKS, older_than),
            (TRIM_ERRORS, older_than),
        ] {
            for _ in 0..PAGES {
                let page = sqlx::query(sql).bind(Ts(before)).bind(PAGE);
                let rows = page.execute(&self.pool).await?.rows_affected();
                gone += rows;
                if rows < PAGE.unsigned_abs() {
                    break;
                }
            }
        }
        Ok(gone)
    }

    /// Deletes the rows of generations that have been over for an hour. Returns how many generations
    /// that were. One node at a time; what a round does not reach is left for the next.
    pub async fn trim_generations(&self, now: Timestamp) -> Result<u64> {
        let mut gone = 0;
        for _ in 0..PAGES {
            let before = Ts(now - GENERATION_KEPT);
            let page = sqlx::query(TRIM_GENERATIONS).bind(before).bind(GENERATIONS);
            let rows = page.execute(&self.pool).await?.rows_affected();
            gone += rows;
            if rows < GENERATIONS.unsigned_abs() {
                break;
            }
        }
        Ok(gone)
    }

    async fn expired(
        &self,
        table: &'static str,
        older_than: Timestamp,
    ) -> Result<Vec<(String, Timestamp, Timestamp)>> {
        let rows = sqlx::query(EXPIRED).bind(table).bind(Ts(older_than));
        let rows = rows.fetch_all(&self.pool).await?;
        rows.iter()
            .map(|r| Ok((r.try_get("name")?, wire::at(r, "starts")?, wire::at(r, "ends")?)))
            .collect()
    }

    /// Carries over what still counts of a week's journal. Returns whether nothing is left.
    async fn empty_week(
        &self,
        starts: Timestamp,
        ends: Timestamp,
        older_than: Timestamp,
        moved: &mut u64,
    ) -> Result<bool> {
        for group in 0..i16::try_from(GROUPS).unwrap_or(i16::MAX) {
            let shard = group * 16;
            for sql in [MOVE_LIVE, MOVE_DONE] {
                for _ in 0..PAGES {
                    let page = sqlx::query(sql).bind(Ts(starts)).bind(Ts(ends)).bind(PAGE);
                    let page = page.bind(shard);
                    let page = if sql == MOVE_DONE { page.bind(Ts(older_than)) } else { page };
                    let rows = page.execute(&self.pool).await?.rows_affected();
                    *moved += rows;
                    if rows == 0 {
                        break;
                    }
                }
            }
            let left = sqlx::query_scalar(LEFT)
                .bind(Ts(starts))
                .bind(Ts(ends))
                .bind(shard)
                .bind(Ts(older_than))
                .fetch_one(&self.pool)
                .await?;
            if left {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn drop_one(&self, table: &str, name: String, done: &mut Dropped) -> Result<()> {
        let dropped = sqlx::query(DROP).bind(table).bind(name.as_str()).execute(&self.pool).await;
        match dropped.map_err(Error::from) {
            Ok(_) => done.partitions.push(name),
            // Somebody reads or writes there: the next round tries again.
            Err(Error::Busy(_)) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}
