//! What a node asks about the shard groups it drives: hot runs, timers, inboxes; and what it tells.

use bytes::Bytes;
use sqlx::postgres::PgBindIterExt as _;

use super::Store;
use super::error::Result;
use super::wire::{self, MINUS_INFINITY, Raw, Ts};
use crate::machine::{RunId, Timestamp};

/// How a live run stands, for lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// Which.
    pub run: RunId,
    /// The status' code, below 100.
    pub status: i16,
    /// Since when; an older projection never replaces a newer one.
    pub at: Timestamp,
    /// Why it does not move, JSON; none while all is well.
    pub attention: Option<Bytes>,
    /// The kind of error that it is paused by.
    pub fingerprint: Option<uuid::Uuid>,
}

/// Per group, never `= any(…)` with an order: so every group is one walk along the index.
pub(super) const HOT: &str = "select r.run_id from unnest($1::int2[]) g cross join lateral (
  select run_id from run_active
   where (shard >> 4) = g and wake_at = '-infinity' and run_id > $2 order by run_id limit $3) r
 order by r.run_id limit $3";

pub(super) const PARKED: &str =
    "select r.run_id, r.wake_at from unnest($1::int2[]) g cross join lateral (
  select run_id, wake_at from run_active
   where (shard >> 4) = g and (wake_at, run_id) > ($3, $4) and wake_at <= $2
   order by wake_at, run_id limit $5) r
 order by r.wake_at, r.run_id limit $5";

/// Which gates keep runs of the groups back: one step along the index for each.
pub(super) const GATES: &str = "with recursive d(g, gate) as (
  select g, (select min(gate) from run_active where (shard >> 4) = g and gate is not null)
    from unnest($1::int2[]) g
  union all
  select g, (select min(gate) from run_active where (shard >> 4) = d.g and gate > d.gate)
    from d where d.gate is not null)
select distinct gate from d where gate is not null order by gate";

pub(super) const GATED: &str = "select r.run_id from unnest($1::int2[]) g cross join lateral (
  select run_id from run_active
   where (shard >> 4) = g and gate = $2 and run_id > $3 order by run_id limit $4) r
 order by r.run_id limit $4";

pub(super) const INBOX_HEADS: &str =
    "select r.run_id from unnest($1::int2[]) g cross join lateral (
  select distinct shard, run_id from inbox
   where shard between g * 16 and g * 16 + 15 order by shard, run_id limit $2) r limit $2";

/// Messages of runs that are no longer live: after a terminate nobody will take them. Their moment
/// is after the end, one microsecond apart, so that who follows the history sees them come last.
/// Word of a new run, and what repeats a message that was taken, go without a trace.
pub(super) const BURY: &str =
    "with u as (select * from unnest($1::int2[], $2::uuid[]) as t(shard, run_id)),
gone as (
  delete from inbox i using u
   where i.shard = u.shard and i.run_id = u.run_id
     and not exists (select from run_active a where a.shard = i.shard and a.run_id = i.run_id)
  returning i.*)
insert into history (shard, run_id, ns, at, k, epoch, what, by, data)
select g.shard, g.run_id, g.ns, greatest(now(), d.ended_at) + g.pos * interval '1 microsecond',
       least(g.pos, 32767)::int2, 0, 'message.untaken', 'gateway',
       '\\x00'::bytea || convert_to(jsonb_build_object('id', msg_id, 'kind', kind, 'name', name,
         'accepted_at', at, 'payload', convert_from(substr(body, 2), 'UTF8'))::text, 'UTF8')
  from gone g left join run_done d using (shard, run_id)
 where g.kind > 0
   and not exists (select from journal j
                    where j.shard = g.shard and j.run_id = g.run_id and j.ref = g.msg_id)
   and not exists (select from journal_long j
                    where j.shard = g.shard and j.run_id = g.run_id and j.ref = g.msg_id)
on conflict do nothing";

pub(super) const PROJECT: &str = "update run_active a
   set status = u.status, status_at = u.at, attention = u.attention, fingerprint = u.fingerprint
  from (select * from unnest($1::int2[],$2::uuid[],$3::int2[],$4::timestamptz[],$5::bytea[],
               $6::uuid[])
          as t(shard,run_id,status,at,attention,fingerprint) order by shard, run_id) u
 where a.shard = u.shard and a.run_id = u.run_id and (a.status_at is null or a.status_at <= u.at)";

impl Store {
    /// Hot runs of the groups, in order of their ids, after `after`.
    pub async fn hot_runs(
        &self,
        groups: &[i16],
        after: Option<RunId>,
        limit: i64,
    ) -> Result<Vec<RunId>> {
        let after = after.unwrap_or_else(|| RunId::floor(Timestamp::default()));
        let rows = sqlx::query(HOT).bind(groups).bind(after.uuid()).bind(limit);
        rows.fetch_all(&self.pool).await?.iter().map(wire::run_id).collect()
    }

    /// Parked runs of the groups that wake until then, in order of their wake-ups, after `after`.
    pub async fn parked(
        &self,
        groups: &[i16],
        until: Timestamp,
        after: Option<(Timestamp, RunId)>,
        limit: i64,
    ) -> Result<Vec<(RunId, Timestamp)>> {
        let nil_to_max = RunId::from(uuid::Uuid::max());
        let (at, run) = after.unwrap_or((MINUS_INFINITY, nil_to_max));
        let rows = sqlx::query(PARKED)
            .bind(groups)
            .bind(Ts(until))
            .bind(Ts(at))
            .bind(run.uuid())
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok((wire::run_id(row)?, wire::at(row, "wake_at")?))).collect()
    }

    /// The gates that keep runs of the groups out of memory.
    pub async fn gates(&self, groups: &[i16]) -> Result<Vec<i64>> {
        Ok(sqlx::query_scalar(GATES).bind(groups).fetch_all(&self.pool).await?)
    }

    /// Runs of the groups that a gate keeps out of memory, in order of their ids, after `after`.
    pub async fn gated_runs(
        &self,
        groups: &[i16],
        gate: i64,
        after: Option<RunId>,
        limit: i64,
    ) -> Result<Vec<RunId>> {
        let after = after.unwrap_or_else(|| RunId::floor(Timestamp::default()));
        let query = sqlx::query(GATED).bind(groups).bind(gate).bind(after.uuid()).bind(limit);
        query.fetch_all(&self.pool).await?.iter().map(wire::run_id).collect()
    }

    /// Runs of the groups that have something in their inbox.
    pub async fn inbox_heads(&self, groups: &[i16], limit: i64) -> Result<Vec<RunId>> {
        let rows = sqlx::query(INBOX_HEADS).bind(groups).bind(limit);
        rows.fetch_all(&self.pool).await?.iter().map(wire::run_id).collect()
    }

    /// Moves what is left in the inboxes of ended runs to their history. Live runs are left alone.
    pub async fn bury(&self, runs: &[RunId]) -> Result<u64> {
        let done = sqlx::query(BURY)
            .bind(runs.iter().map(|r| r.shard().column()).bind_iter())
            .bind(runs.iter().map(|r| r.uuid()).bind_iter())
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }

    /// Writes how live runs stand, for lists.
    pub async fn project_status(&self, runs: &[Projection]) -> Result<()> {
        sqlx::query(PROJECT)
            .bind(runs.iter().map(|p| p.run.shard().column()).bind_iter())
            .bind(runs.iter().map(|p| p.run.uuid()).bind_iter())
            .bind(runs.iter().map(|p| p.status).bind_iter())
            .bind(runs.iter().map(|p| Ts(p.at)).bind_iter())
            .bind(runs.iter().map(|p| p.attention.as_deref().map(Raw)).bind_iter())
            .bind(runs.iter().map(|p| p.fingerprint).bind_iter())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
