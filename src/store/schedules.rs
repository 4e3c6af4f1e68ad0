//! Schedules: read, and turned under the lock of their row, in the transaction that starts their
//! runs.

use bytes::Bytes;
use sqlx::postgres::{PgBindIterExt as _, PgRow};
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::error::Result;
use super::outbox::{Delivery, Slot};
use super::wire::{self, Raw, Ts};
use super::{Lane, SILENCE, Store, heard};
use crate::machine::{RunId, ScheduleId, Timestamp};

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRow {
    /// Which.
    pub id: ScheduleId,
    /// Namespace.
    pub ns: i32,
    /// Unique in the namespace.
    pub name: String,
    /// The function whose runs it starts.
    pub function: String,
    /// It belongs to the registration of its function.
    pub owned: bool,
    /// Grows with every change that a person makes.
    pub version: i32,
    /// When there is something to decide.
    pub next_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When a person changed it last.
    pub updated_at: Timestamp,
    /// Who created it.
    pub created_by: String,
    /// JSON.
    pub spec: Bytes,
    /// JSON, as it came.
    pub input: Bytes,
    /// JSON.
    pub state: Bytes,
    /// JSON.
    pub result: Option<Bytes>,
}

/// A schedule under lock, and its runs that have not ended, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedSchedule {
    /// The schedule.
    pub row: ScheduleRow,
    /// Its live runs, the first thousand.
    pub live: Vec<RunId>,
}

/// What is written of a schedule when it was turned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnedSchedule {
    /// Which.
    pub id: ScheduleId,
    /// JSON.
    pub state: Bytes,
    /// JSON; none: what is there stays.
    pub result: Option<Bytes>,
    /// When there is something to decide next.
    pub next_at: Option<Timestamp>,
}

/// What a person changes of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleChange {
    /// Which.
    pub id: ScheduleId,
    /// Its name.
    pub name: String,
    /// The function whose runs it starts.
    pub function: String,
    /// JSON.
    pub spec: Bytes,
    /// JSON, as it came.
    pub input: Bytes,
}

/// Which schedules: every field that is there must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScheduleFilter {
    /// Functions; empty: all.
    pub functions: Vec<String>,
    /// A part of the name or the function; case does not count.
    pub q: Option<String>,
    /// Only schedules after this one.
    pub after: Option<ScheduleId>,
    /// How many at most.
    pub limit: i64,
}

macro_rules! columns {
    () => {
        "s.id, s.ns, s.name, s.function, s.owned, s.version, s.next_at, s.created_at, s.updated_at,
       s.created_by, s.spec, s.input, s.state, s.result"
    };
}

pub(super) const CREATE: &str = "insert into schedules
  (shard, id, ns, name, function, owned, version, next_at, created_at, updated_at, created_by, spec,
   input, state)
values ($1, $2, $3, $4, $5, $6, 1, $7, $8, $8, $9, $10, $11, $12)
on conflict on constraint schedules_name do nothing";

pub(super) const GET: &str = concat!(
    "select ",
    columns!(),
    " from schedules s where s.ns = $1 and (s.id = $2 or s.name = $3)"
);

pub(super) const LIST: &str = concat!(
    "select ",
    columns!(),
    " from schedules s
 where s.ns = $1 and s.id > $2 and (cardinality($3::text[]) = 0 or s.function = any($3))
   and ($4::text is null or strpos(lower(s.name), $4) > 0 or strpos(lower(s.function), $4) > 0)
 order by s.id limit $5"
);

/// What is due within the horizon on shards of these groups, and what is overdue wherever it is.
pub(super) const DUE: &str = "select id, next_at from schedules
 where next_at <= $2 and (next_at <= $1 or (shard >> 4) = any($3::int2[]))
 order by next_at limit $4";

/// Whoever holds these rows turns the schedules; who fires them leaves alone what another holds.
pub(super) const HOLD_FREE: &str = concat!(
    "select ",
    columns!(),
    " from unnest($1::int2[], $2::uuid[]) as u(shard, id) join schedules s using (shard, id)
 order by s.shard, s.id for update of s skip locked"
);
pub(super) const HOLD: &str = concat!(
    "select ",
    columns!(),
    " from unnest($1::int2[], $2::uuid[]) as u(shard, id) join schedules s using (shard, id)
 order by s.shard, s.id for update of s"
);

/// Read after the lock is held: a run that ends later tells the schedule so later.
pub(super) const LIVE: &str = "select u.id, a.run_id from unnest($1::uuid[]) as u(id)
 cross join lateral (
   select run_id from run_active
    where schedule = u.id and array_remove(array[schedule, fingerprint], null) @> array[u.id]
    order by run_id limit 1000) a
 order by u.id, a.run_id";

pub(super) const TURNED: &str = "update schedules s
   set state = u.state, result = coalesce(u.result, s.result), next_at = u.next_at
  from unnest($1::int2[], $2::uuid[], $3::bytea[], $4::bytea[], $5::timestamptz[])
    as u(shard, id, state, result, next_at)
 where s.shard = u.shard and s.id = u.id";

pub(super) const CHANGE: &str = "update schedules
   set name = $3, function = $4, spec = $5, input = $6, version = version + 1, updated_at = $7
 where shard = $1 and id = $2";

pub(super) const TOUCH: &str =
    "update schedules set version = version + 1, updated_at = $3 where shard = $1 and id = $2";

pub(super) const DELETE: &str = "delete from schedules where shard = $1 and id = $2";

/// Schedules that are part of a registration which has others now, or is no more.
pub(super) const DISOWN: &str = "delete from schedules s
 where s.ns = $1 and s.owned and not (s.name = any($2::text[]))
   and (s.function = any($3::text[])
        or not exists (select from functions f
                        where f.ns = s.ns and f.name = s.function and f.endpoint_id is not null))";

fn create(
    new: &ScheduleRow,
) -> sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments> {
    sqlx::query(CREATE)
        .bind(new.id.shard().column())
        .bind(new.id.uuid())
        .bind(new.ns)
        .bind(&new.name)
        .bind(&new.function)
        .bind(new.owned)
        .bind(new.next_at.map(Ts))
        .bind(Ts(new.created_at))
        .bind(&new.created_by)
        .bind(Raw(&new.spec))
        .bind(Raw(&new.input))
        .bind(Raw(&new.state))
}

/// The schedules that are part of the registration of these functions are these; those that were
/// there stay as they are, and those of functions that nobody hosts go.
pub(super) async fn own(
    conn: &mut sqlx::PgConnection,
    ns: i32,
    functions: &[String],
    schedules: &[ScheduleRow],
) -> Result<()> {
    let names: Vec<&str> = schedules.iter().map(|s| s.name.as_str()).collect();
    sqlx::query(DISOWN).bind(ns).bind(names).bind(functions).execute(&mut *conn).await?;
    for new in schedules {
        create(new).execute(&mut *conn).await?;
    }
    Ok(())
}

fn schedule(row: &PgRow) -> Result<ScheduleRow> {
    Ok(ScheduleRow {
        id: row.try_get::<Uuid, _>("id")?.into(),
        ns: row.try_get("ns")?,
        name: row.try_get("name")?,
        function: row.try_get("function")?,
        owned: row.try_get("owned")?,
        version: row.try_get("version")?,
        next_at: wire::maybe_at(row, "next_at")?,
        created_at: wire::at(row, "created_at")?,
        updated_at: wire::at(row, "updated_at")?,
        created_by: row.try_get("created_by")?,
        spec: wire::body(row, "spec")?.unwrap_or_default(),
        input: wire::body(row, "input")?.unwrap_or_default(),
        state: wire::body(row, "state")?.unwrap_or_default(),
        result: wire::body(row, "result")?,
    })
}

impl Store {
    /// Creates a schedule unless there is one of its name. Returns whether it did.
    pub async fn create_schedule(&self, new: &ScheduleRow) -> Result<bool> {
        let query = create(new);
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// The schedules that are part of a registration that is as it was are these.
    pub async fn own_schedules(
        &self,
        ns: i32,
        functions: &[String],
        schedules: &[ScheduleRow],
    ) -> Result<()> {
        let mut tx = self.begin("begin").await?;
        own(&mut tx, ns, functions, schedules).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The schedule of an id or a name; where one has the other's id for a name, that of the id.
    pub async fn schedule(
        &self,
        ns: i32,
        id: Option<ScheduleId>,
        name: &str,
    ) -> Result<Option<ScheduleRow>> {
        let query = sqlx::query(GET).bind(ns).bind(id.map(ScheduleId::uuid)).bind(name);
        let rows = query.fetch_all(&self.pool).await?;
        let mut found = rows.iter().map(schedule).collect::<Result<Vec<_>>>()?;
        found.sort_by_key(|s| Some(s.id) != id);
        Ok(found.into_iter().next())
    }

    /// A page of schedules, by id.
    pub async fn schedules(&self, ns: i32, filter: &ScheduleFilter) -> Result<Vec<ScheduleRow>> {
        let query = sqlx::query(LIST)
            .bind(ns)
            .bind(filter.after.map_or(Uuid::nil(), ScheduleId::uuid))
            .bind(&filter.functions)
            .bind(filter.q.as_deref().map(str::to_lowercase))
            .bind(filter.limit);
        query.fetch_all(&self.pool).await?.iter().map(schedule).collect()
    }

    /// The live runs of a schedule, the oldest first.
    pub async fn live_of_schedule(&self, id: ScheduleId) -> Result<Vec<RunId>> {
        let rows = sqlx::query(LIVE).bind(vec![id.uuid()]).fetch_all(&self.pool).await?;
        rows.iter().map(wire::run_id).collect()
    }

    /// Schedules with something to decide: of these groups by `soon`, of all by `late`.
    pub async fn due_schedules(
        &self,
        groups: &[i16],
        soon: Timestamp,
        late: Timestamp,
        limit: i64,
    ) -> Result<Vec<(ScheduleId, Timestamp)>> {
        let query = sqlx::query(DUE).bind(Ts(late)).bind(Ts(soon)).bind(groups).bind(limit);
        let rows = query.fetch_all(&self.pool).await?;
        let due =
            |row: &PgRow| Ok((row.try_get::<Uuid, _>("id")?.into(), wire::at(row, "next_at")?));
        rows.iter().map(due).collect()
    }

    /// Begins a transaction that changes a schedule; none: there is no such one any more.
    pub async fn hold_schedule(
        &self,
        id: ScheduleId,
    ) -> Result<Option<(Delivery<'static>, LockedSchedule)>> {
        let mut delivery = Delivery::over(self.begin("begin").await?);
        let mut held = delivery.hold_schedules(&[id], false).await?;
        Ok(held.pop().map(|held| (delivery, held)))
    }
}

impl Lane {
    /// Begins to fire these schedules: those that nobody else is at.
    pub async fn firing(
        &mut self,
        ids: &[ScheduleId],
    ) -> Result<(Delivery<'_>, Vec<LockedSchedule>)> {
        let tx = heard(SILENCE, self.conn.begin()).await?;
        let mut delivery = Delivery::over(tx);
        let held = delivery.hold_schedules(ids, true).await?;
        Ok((delivery, held))
    }

    /// Begins to tell schedules of the ends of their runs: holds these outbox rows first, and then
    /// the schedules. Returns the rows that are still to be delivered.
    pub async fn telling(
        &mut self,
        slots: &[Slot],
        ids: &[ScheduleId],
    ) -> Result<(Delivery<'_>, std::collections::HashSet<Slot>, Vec<LockedSchedule>)> {
        let (mut delivery, held) = self.delivery(slots, &[], &[]).await?;
        let schedules = delivery.hold_schedules(ids, false).await?;
        Ok((delivery, held, schedules))
    }
}

impl Delivery<'_> {
    async fn hold_schedules(
        &mut self,
        ids: &[ScheduleId],
        only_free: bool,
    ) -> Result<Vec<LockedSchedule>> {
        let query = sqlx::query(if only_free { HOLD_FREE } else { HOLD })
            .bind(ids.iter().map(|id| id.shard().column()).bind_iter())
            .bind(ids.iter().map(|id| id.uuid()).bind_iter());
        let rows = heard(SILENCE, query.fetch_all(self.conn())).await?;
        let mut held = rows
            .iter()
            .map(|row| Ok(LockedSchedule { row: schedule(row)?, live: Vec::new() }))
            .collect::<Result<Vec<_>>>()?;
        let ids: Vec<Uuid> = held.iter().map(|s| s.row.id.uuid()).collect();
        let rows = heard(SILENCE, sqlx::query(LIVE).bind(ids).fetch_all(self.conn())).await?;
        for row in &rows {
            let of = ScheduleId::from(row.try_get::<Uuid, _>("id")?);
            if let Some(locked) = held.iter_mut().find(|s| s.row.id == of) {
                locked.live.push(wire::run_id(row)?);
            }
        }
        Ok(held)
    }

    /// Writes how schedules stand now.
    pub async fn turned(&mut self, turned: &[TurnedSchedule]) -> Result<()> {
        if turned.is_empty() {
            return Ok(());
        }
        let query = sqlx::query(TURNED)
            .bind(turned.iter().map(|t| t.id.shard().column()).bind_iter())
            .bind(turned.iter().map(|t| t.id.uuid()).bind_iter())
            .bind(turned.iter().map(|t| Raw(&t.state)).bind_iter())
            .bind(turned.iter().map(|t| t.result.as_deref().map(Raw)).bind_iter())
            .bind(turned.iter().map(|t| t.next_at.map(Ts)).bind_iter());
        heard(SILENCE, query.execute(self.conn())).await?;
        Ok(())
    }

    /// Writes what a person has changed of a schedule.
    pub async fn change_schedule(&mut self, change: &ScheduleChange, at: Timestamp) -> Result<()> {
        let query = sqlx::query(CHANGE)
            .bind(change.id.shard().column())
            .bind(change.id.uuid())
            .bind(change.name.clone())
            .bind(change.function.clone())
            .bind(Raw(&change.spec))
            .bind(Raw(&change.input))
            .bind(Ts(at));
        heard(SILENCE, query.execute(self.conn())).await?;
        Ok(())
    }

    /// A person has changed how a schedule stands, and nothing of what it is.
    pub async fn touch_schedule(&mut self, id: ScheduleId, at: Timestamp) -> Result<()> {
        let query = sqlx::query(TOUCH).bind(id.shard().column()).bind(id.uuid()).bind(Ts(at));
        heard(SILENCE, query.execute(self.conn())).await?;
        Ok(())
    }

    /// A schedule is no more; its runs go on.
    pub async fn delete_schedule(&mut self, id: ScheduleId) -> Result<()> {
        let query = sqlx::query(DELETE).bind(id.shard().column()).bind(id.uuid());
        heard(SILENCE, query.execute(self.conn())).await?;
        Ok(())
    }
}
