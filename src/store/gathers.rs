//! Starts that are gathered into one run: a row for the run that will be, one for each input.

use bytes::Bytes;
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::create::Idem;
use super::error::Result;
use super::outbox::Delivery;
use super::wire::{self, Raw, Ts};
use super::{Lane, Store};
use crate::machine::{RunId, Timestamp};

/// A start that is to be gathered with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGathered {
    /// Namespace.
    pub ns: i32,
    /// The function.
    pub function_id: i32,
    /// What starts that are gathered have in common.
    pub key: String,
    /// The run that it will be, unless one is open already.
    pub run: RunId,
    /// Now.
    pub at: Timestamp,
    /// When the run begins at the latest, if it is the first.
    pub due_at: Timestamp,
    /// How many starts the run takes in.
    pub size: i32,
    /// How many bytes its input may have.
    pub most_bytes: i64,
    /// Its input.
    pub input: Bytes,
    /// Who asks.
    pub by: String,
    /// The idempotency key of the request.
    pub idem: Option<Idem>,
}

/// What became of a start that was to be gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatherOutcome {
    /// It is in this run.
    Gathered(RunId),
    /// It has been in this run all along: the same request came before.
    Same(RunId),
    /// The idempotency key was used with another body.
    Reused,
}

/// A run that gathers starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gather {
    /// The run that it will be.
    pub run: RunId,
    /// Namespace.
    pub ns: i32,
    /// The function.
    pub function_id: i32,
    /// When the first start came.
    pub first_at: Timestamp,
    /// When the run begins.
    pub due_at: Timestamp,
    /// Who asked for the first.
    pub by: String,
    /// The inputs, in the order in which they came.
    pub inputs: Vec<Bytes>,
}

/// An input of a list takes a comma more.
const BETWEEN: i64 = 1;

/// Into the open run of its key, or the first of a new one. Whatever makes it full closes it; no row:
/// there is no room for so long an input.
pub(super) const GATHER: &str = "with g as (
  insert into gathers as g (run_id, ns, fn, key, first_at, due_at, starts, bytes, is_open, by)
  values ($1, $2, $3, $4, $5, $6, 1, $7, true, $8)
  on conflict (ns, fn, key) where is_open do update
     set starts = g.starts + 1, bytes = g.bytes + $7, is_open = g.starts + 1 < $9,
         due_at = case when g.starts + 1 < $9 then g.due_at else least(g.due_at, $5) end
   where g.bytes + $7 <= $10
  returning run_id, starts)
insert into gathered (run_id, pos, input) select run_id, starts, $11 from g returning run_id";
pub(super) const CLOSE: &str = "update gathers set is_open = false, due_at = least(due_at, $4)
 where ns = $1 and fn = $2 and key = $3 and is_open and bytes + $5 > $6";
/// As a start's own: what is over counts no more.
pub(super) const REMEMBER: &str =
    "insert into idem as i (shard, ns, key, hash, run_id, msg_id, created_at, expires_at)
values ($1, $2, $3, $4, $5, null, $6, $7)
on conflict (shard, ns, key) do update
   set hash = $4, run_id = $5, msg_id = null, created_at = $6, expires_at = $7
 where i.expires_at <= $6
returning run_id";
pub(super) const REMEMBERED: &str =
    "select run_id, hash = $4 as same from idem where shard = $1 and ns = $2 and key = $3";
pub(super) const GATHER_OF: &str = "select run_id, ns, fn, first_at, due_at, by from gathers
 where run_id = $1 and ns = $2";
pub(super) const DUE_GATHERS: &str = "select run_id, ns, fn, first_at, due_at, by from gathers
 where due_at <= $1 order by due_at limit $2 for update skip locked";
pub(super) const INPUTS: &str =
    "select run_id, input from gathered where run_id = any($1::uuid[]) order by run_id, pos";
pub(super) const GATHERS_DONE: &str = "with gone as (
  delete from gathers where run_id = any($1::uuid[]))
delete from gathered where run_id = any($1::uuid[])";
pub(super) const GATHERS_LATER: &str =
    "update gathers set due_at = $2, is_open = false where run_id = any($1::uuid[])";

fn gather(row: &PgRow) -> Result<Gather> {
    Ok(Gather {
        run: wire::run_id(row)?,
        ns: row.try_get("ns")?,
        function_id: row.try_get("fn")?,
        first_at: wire::at(row, "first_at")?,
        due_at: wire::at(row, "due_at")?,
        by: row.try_get("by")?,
        inputs: Vec::new(),
    })
}

async fn put(conn: &mut PgConnection, new: &NewGathered) -> Result<RunId> {
    let bytes = i64::try_from(new.input.len()).unwrap_or(i64::MAX).saturating_add(BETWEEN);
    loop {
        let row = sqlx::query(GATHER)
            .bind(new.run.uuid())
            .bind(new.ns)
            .bind(new.function_id)
            .bind(&new.key)
            .bind(Ts(new.at))
            .bind(Ts(new.due_at))
            .bind(bytes)
            .bind(&new.by)
            .bind(new.size)
            .bind(new.most_bytes)
            .bind(Raw(&new.input))
            .fetch_optional(&mut *conn)
            .await?;
        if let Some(row) = row {
            return wire::run_id(&row);
        }
        // It has no room: it begins, and this is the first of another.
        sqlx::query(CLOSE)
            .bind(new.ns)
            .bind(new.function_id)
            .bind(&new.key)
            .bind(Ts(new.at))
            .bind(bytes)
            .bind(new.most_bytes)
            .execute(&mut *conn)
            .await?;
    }
}

async fn with_inputs(conn: &mut PgConnection, gathers: &mut [Gather]) -> Result<()> {
    let runs: Vec<Uuid> = gathers.iter().map(|g| g.run.uuid()).collect();
    for row in sqlx::query(INPUTS).bind(runs).fetch_all(conn).await? {
        let run = wire::run_id(&row)?;
        let input = wire::body(&row, "input")?.unwrap_or_default();
        if let Some(of) = gathers.iter_mut().find(|g| g.run == run) {
            of.inputs.push(input);
        }
    }
    Ok(())
}

impl Store {
    /// Takes a start into the open run of its key, with its idempotency key.
    pub async fn gather(&self, new: &NewGathered) -> Result<GatherOutcome> {
        let mut tx = self.pool.begin().await?;
        let run = put(&mut tx, new).await?;
        if let Some(idem) = &new.idem {
            let known = sqlx::query(REMEMBER)
                .bind(idem.shard.column())
                .bind(new.ns)
                .bind(&idem.key)
                .bind(idem.hash.as_slice())
                .bind(run.uuid())
                .bind(Ts(new.at))
                .bind(Ts(idem.expires_at));
            if known.fetch_optional(&mut *tx).await?.is_none() {
                tx.rollback().await?;
                let row = sqlx::query(REMEMBERED)
                    .bind(idem.shard.column())
                    .bind(new.ns)
                    .bind(&idem.key)
                    .bind(idem.hash.as_slice())
                    .fetch_one(&self.pool)
                    .await?;
                let same: bool = row.try_get("same")?;
                let run = wire::run_id(&row)?;
                return Ok(if same { GatherOutcome::Same(run) } else { GatherOutcome::Reused });
            }
        }
        tx.commit().await?;
        Ok(GatherOutcome::Gathered(run))
    }

    /// The run that will be, with what it has so far.
    pub async fn gather_of(&self, ns: i32, run: RunId) -> Result<Option<Gather>> {
        let query = sqlx::query(GATHER_OF).bind(run.uuid()).bind(ns);
        let Some(row) = query.fetch_optional(&self.pool).await? else { return Ok(None) };
        let mut found = [gather(&row)?];
        with_inputs(&mut *self.pool.acquire().await?, &mut found).await?;
        let [found] = found;
        Ok(Some(found))
    }
}

impl Lane {
    /// Begins to start what is due, and holds it; none: nothing is.
    pub async fn due_gathers(
        &mut self,
        now: Timestamp,
        limit: i64,
    ) -> Result<Option<(Delivery<'_>, Vec<Gather>)>> {
        let mut tx = self.conn.begin().await?;
        let rows = sqlx::query(DUE_GATHERS).bind(Ts(now)).bind(limit).fetch_all(&mut *tx).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let mut due = rows.iter().map(gather).collect::<Result<Vec<_>>>()?;
        with_inputs(&mut tx, &mut due).await?;
        Ok(Some((Delivery::over(tx), due)))
    }
}

impl Delivery<'_> {
    /// The same as [`Store::gather`], for a start that has no idempotency key.
    pub async fn gather(&mut self, new: &NewGathered) -> Result<RunId> {
        put(self.conn(), new).await
    }

    /// These runs begin.
    pub async fn gathered(&mut self, runs: &[RunId]) -> Result<()> {
        let runs: Vec<Uuid> = runs.iter().map(|run| run.uuid()).collect();
        sqlx::query(GATHERS_DONE).bind(runs).execute(self.conn()).await?;
        Ok(())
    }

    /// These begin later, and take in no more.
    pub async fn put_off_gathers(&mut self, runs: &[RunId], to: Timestamp) -> Result<()> {
        let runs: Vec<Uuid> = runs.iter().map(|run| run.uuid()).collect();
        sqlx::query(GATHERS_LATER).bind(runs).bind(Ts(to)).execute(self.conn()).await?;
        Ok(())
    }
}
