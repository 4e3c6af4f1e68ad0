//! What runs have to say to others: read, and delivered in one transaction with its removal.

use std::collections::HashSet;
use std::iter;

use bytes::Bytes;
use sqlx::postgres::{PgBindIterExt as _, PgConnection, PgRow};
use sqlx::{Connection as _, Postgres, Row as _, Transaction};
use uuid::Uuid;

use super::accept::{Accept, Accepted, accept_on};
use super::create::{CreateOutcome, NewRun, create_on, hold_objects};
use super::error::{Error, Result};
use super::journal::TELL;
use super::wire::{self, Raw, Ts};
use super::{Lane, SILENCE, Store, heard};
use crate::machine::{HistoryEntry, OutgoingKind, RunId};

/// The identity of an outbox row: the run, its row, and which one of that row.
pub type Slot = (RunId, i32, i16);

/// An outbox row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// Which.
    pub slot: Slot,
    /// The namespace of who says it.
    pub ns: i32,
    /// What it asks for.
    pub kind: OutgoingKind,
    /// Of which run, where that is known.
    pub to: Option<RunId>,
    /// What is said.
    pub body: Bytes,
    /// The generation of who says it; none: it has ended.
    pub generation: Option<i32>,
}

/// What of some runs is to be delivered now, in the order in which it was said.
pub(super) const POSTED: &str = "select o.run_id, o.ns, o.n, o.k, o.kind, o.to_run, o.body,
       a.generation
  from unnest($1::int2[], $2::uuid[]) as u(shard, run_id)
 cross join lateral (
   select * from outbox x
    where x.shard = u.shard and x.run_id = u.run_id and (x.kind between 1 and 7 or x.kind in (40, 80))
      and (x.due is null or x.due <= now())
    order by x.n, x.k limit $3) o
  left join run_active a on a.shard = o.shard and a.run_id = o.run_id";

/// Whoever holds these rows delivers them: others wait, and then find them gone.
pub(super) const HOLD: &str = "select o.run_id, o.n, o.k
  from unnest($1::int2[], $2::uuid[], $3::int4[], $4::int2[]) as u(shard, run_id, n, k)
  join outbox o using (shard, run_id, n, k)
 order by o.shard, o.run_id, o.n, o.k for update of o";

/// All runs that a delivery may change, locked in the order in which everybody does.
pub(super) const LOCK_RUNS: &str = "select a.run_id
  from unnest($1::int2[], $2::uuid[]) as u(shard, run_id) join run_active a using (shard, run_id)
 order by a.shard, a.run_id for update of a";

pub(super) const ENDED: &str = "select d.run_id
  from unnest($1::int2[], $2::uuid[]) as u(shard, run_id) join run_done d using (shard, run_id)
 where d.ns = $3";

pub(super) const REMOVE: &str = "delete from outbox o
 using unnest($1::int2[], $2::uuid[], $3::int4[], $4::int2[]) as u(shard, run_id, n, k)
 where o.shard = u.shard and o.run_id = u.run_id and o.n = u.n and o.k = u.k";

pub(super) const PUT_OFF: &str = "update outbox o set due = now() + $5 * interval '1 millisecond'
  from unnest($1::int2[], $2::uuid[], $3::int4[], $4::int2[]) as u(shard, run_id, n, k)
 where o.shard = u.shard and o.run_id = u.run_id and o.n = u.n and o.k = u.k";

/// How much of one run's outbox is read at once.
const PAGE: i64 = 64;

impl Store {
    /// What of these runs is to be delivered now.
    pub async fn posted(&self, runs: &[RunId]) -> Result<Vec<Posted>> {
        let rows = sqlx::query(POSTED)
            .bind(runs.iter().map(|r| r.shard().column()).bind_iter())
            .bind(runs.iter().map(|r| r.uuid()).bind_iter())
            .bind(PAGE)
            .fetch_all(&self.pool)
            .await?;
        let posted = |row: &PgRow| {
            let kind: i16 = row.try_get("kind")?;
            let unknown = || Error::corrupt(format!("outbox row of unknown kind {kind}"));
            Ok(Posted {
                slot: slot(row)?,
                ns: row.try_get("ns")?,
                kind: OutgoingKind::from_code(kind).ok_or_else(unknown)?,
                to: row.try_get::<Option<Uuid>, _>("to_run")?.map(RunId::from),
                body: wire::body(row, "body")?.unwrap_or_default(),
                generation: row.try_get("generation")?,
            })
        };
        rows.iter().map(posted).collect()
    }
}

fn slot(row: &PgRow) -> Result<Slot> {
    Ok((wire::run_id(row)?, row.try_get("n")?, row.try_get("k")?))
}

/// A transaction that delivers outbox rows. What it does to the targets and the removal of the
/// rows are committed together, so that nothing is delivered twice, whoever tries.
#[derive(Debug)]
pub struct Delivery<'a> {
    tx: Transaction<'a, Postgres>,
}

impl Lane {
    /// Begins to deliver: holds these rows, and locks the objects of `news` and the runs
    /// that may hear of it. Returns the rows that are still to be delivered.
    pub async fn delivery(
        &mut self,
        slots: &[Slot],
        runs: &[RunId],
        news: &[&NewRun],
    ) -> Result<(Delivery<'_>, HashSet<Slot>)> {
        let mut tx = heard(SILENCE, self.conn.begin()).await?;
        let rows = heard(SILENCE, of_slots(HOLD, slots).fetch_all(&mut *tx)).await?;
        let held = rows.iter().map(slot).collect::<Result<HashSet<Slot>>>()?;
        hold_objects(&mut tx, news.iter().copied()).await?;
        let lock = sqlx::query(LOCK_RUNS)
            .bind(runs.iter().map(|r| r.shard().column()).bind_iter())
            .bind(runs.iter().map(|r| r.uuid()).bind_iter());
        heard(SILENCE, lock.fetch_all(&mut *tx)).await?;
        Ok((Delivery { tx }, held))
    }
}

type Query = sqlx::query::Query<'static, Postgres, sqlx::postgres::PgArguments>;

fn of_slots(sql: &'static str, slots: &[Slot]) -> Query {
    sqlx::query(sql)
        .bind(slots.iter().map(|s| s.0.shard().column()).collect::<Vec<i16>>())
        .bind(slots.iter().map(|s| s.0.uuid()).collect::<Vec<Uuid>>())
        .bind(slots.iter().map(|s| s.1).collect::<Vec<i32>>())
        .bind(slots.iter().map(|s| s.2).collect::<Vec<i16>>())
}

impl<'a> Delivery<'a> {
    pub(super) const fn over(tx: Transaction<'a, Postgres>) -> Self {
        Self { tx }
    }
}

impl Delivery<'_> {
    pub(super) fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    /// Starts runs; none may have an idempotency key.
    pub async fn create(&mut self, batch: &[NewRun]) -> Result<Vec<CreateOutcome>> {
        if batch.is_empty() { Ok(Vec::new()) } else { create_on(self.conn(), batch).await }
    }

    /// Accepts messages; none may have an idempotency key.
    pub async fn accept(&mut self, batch: &[Accept]) -> Result<Vec<Accepted>> {
        if batch.is_empty() { Ok(Vec::new()) } else { accept_on(self.conn(), batch).await }
    }

    /// Which of these runs of a namespace have ended.
    pub async fn ended(&mut self, ns: i32, runs: &[RunId]) -> Result<HashSet<RunId>> {
        let query = sqlx::query(ENDED)
            .bind(runs.iter().map(|r| r.shard().column()).bind_iter())
            .bind(runs.iter().map(|r| r.uuid()).bind_iter())
            .bind(ns);
        let rows = heard(SILENCE, query.fetch_all(self.conn())).await?;
        rows.iter().map(wire::run_id).collect()
    }

    /// Notes something for the history of a run.
    pub async fn tell(&mut self, run: RunId, ns: i32, entry: &HistoryEntry) -> Result<()> {
        let query = sqlx::query(TELL)
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(ns)
            .bind(iter::once(Ts(entry.at)).bind_iter())
            .bind(iter::once(0i16).bind_iter())
            .bind(iter::once(entry.epoch).bind_iter())
            .bind(iter::once(entry.what.as_str()).bind_iter())
            .bind(iter::once(entry.by.as_str()).bind_iter())
            .bind(iter::once(Raw(&entry.data)).bind_iter());
        heard(SILENCE, query.execute(self.conn())).await?;
        Ok(())
    }

    /// These are delivered.
    pub async fn remove(&mut self, slots: &[Slot]) -> Result<()> {
        heard(SILENCE, of_slots(REMOVE, slots).execute(self.conn())).await?;
        Ok(())
    }

    /// These are tried again, but not before so many milliseconds.
    pub async fn put_off(&mut self, slots: &[Slot], millis: i32) -> Result<()> {
        if !slots.is_empty() {
            let query = of_slots(PUT_OFF, slots).bind(f64::from(millis));
            heard(SILENCE, query.execute(self.conn())).await?;
        }
        Ok(())
    }

    /// Makes it all so.
    pub async fn commit(self) -> Result<()> {
        heard(SILENCE, self.tx.commit()).await
    }
}
