//! Locks: runs that have several objects at once.
//!
//! Such a run takes what is free and its place in the queues of the rest in one transaction, in which
//! all of these objects are held. So of two runs the same one is before the other at every object that
//! both want, and nobody waits in a circle. It is hot when it has the last of them, and lets all go
//! with its end.

use std::collections::{HashMap, HashSet};

use sqlx::Row as _;
use sqlx::postgres::{PgBindIterExt as _, PgConnection};
use uuid::Uuid;

use super::create::NewRun;
use super::error::Result;
use super::objects::{Object, ObjectPlace, Role};
use super::wire::{self, Ts};
use super::{SILENCE, heard};
use crate::machine::{ObjectName, RunId, State, Timestamp};

/// Where an object that is no object yet has its key: a run has it that says nothing of its end to who
/// waits, as one that was started before its function became an object.
pub(super) const BARRED: &str = "select w.run_id, k.run_id as holder
  from unnest($1::uuid[], $2::int4[], $3::int2[], $4::int4[], $5::text[]) as w(run_id, ns, shard, fn, key)
  join run_keys k using (shard, ns, fn, key)
 where k.status is null and not exists (
   select from run_active a
    where a.shard = shard_of(k.run_id) and a.run_id = k.run_id and a.object in (1, 4, 5))";

/// Runs that are new take their objects, those that somebody has after who waits already.
pub(super) const TAKE: &str = "with w as materialized (
  select u.* from unnest($1::uuid[], $2::int4[], $3::int2[], $4::int4[], $5::text[], $6::timestamptz[])
      with ordinality as u(run_id, ns, shard, fn, key, due, ord)
    join run_active a on a.shard = shard_of(u.run_id) and a.run_id = u.run_id),
new as (
  insert into object_locks (run_id, ns, fn, shard, key)
  select run_id, ns, fn, shard, key from w order by run_id, fn, key
  on conflict do nothing returning run_id, fn, key),
line as materialized (
  select w.*, k.status is null as busy,
         row_number() over (partition by w.shard, w.ns, w.fn, w.key order by w.ord) as nth,
         (select coalesce(max(q.pos), 0) from object_queue q
           where q.shard = w.shard and q.ns = w.ns and q.fn = w.fn and q.key = w.key) as last
    from w join new using (run_id, fn, key) join run_keys k
      on k.shard = w.shard and k.ns = w.ns and k.fn = w.fn and k.key = w.key),
takes as (
  update run_keys k set run_id = l.run_id, status = null, ended_at = null from line l
   where not l.busy and l.nth = 1
     and k.shard = l.shard and k.ns = l.ns and k.fn = l.fn and k.key = l.key),
waits as (
  insert into object_queue (shard, ns, fn, key, pos, run_id)
  select shard, ns, fn, key, last + nth, run_id from line where busy or nth > 1
   order by 1, 2, 3, 4, 5
  returning run_id),
each as (
  select run_id, min(due) as due, bool_or(busy or nth > 1) as waits from line group by run_id)
update run_active a set object = case when e.waits then 5 else 4 end,
       wake_at = case when e.waits then coalesce(e.due, 'infinity') else a.wake_at end
  from each e where a.shard = shard_of(e.run_id) and a.run_id = e.run_id
returning a.run_id, e.waits";

/// The objects of runs with locks.
pub(super) const OF_RUNS: &str = "select l.run_id, l.shard, l.ns, l.fn, l.key, f.name as function
  from object_locks l join functions f on f.id = l.fn where l.run_id = any($1::uuid[])";

/// The fields of the objects of runs that have all of their locks.
pub(super) const STATES: &str = "select l.run_id, l.key, f.name as function, o.field, o.value
  from object_locks l join functions f on f.id = l.fn
  join objects o on o.shard = l.shard and o.ns = l.ns and o.fn = l.fn and o.key = l.key
 where l.run_id = any($1::uuid[])";

/// Who has an object that such a run waits for.
pub(super) const BEFORE: &str = "select distinct on (q.run_id) q.run_id, k.run_id as holder
  from object_queue q join run_keys k using (shard, ns, fn, key)
 where q.run_id = any($1::uuid[]) order by q.run_id, q.fn, q.key";

/// A run that is to have objects.
pub(super) struct Taker<'a> {
    pub(super) run: RunId,
    pub(super) locks: &'a [ObjectPlace],
    /// When it ends in any case.
    pub(super) due: Option<Timestamp>,
}

impl<'a> Taker<'a> {
    pub(super) fn of(new: &'a NewRun) -> Self {
        Self { run: new.run, locks: &new.locks, due: new.row.due }
    }
}

/// Runs with the objects of their locks, in columns.
type Columns<'a> = (Vec<Uuid>, Vec<i32>, Vec<i16>, Vec<i32>, Vec<&'a str>);

fn columns<'a>(takers: &[Taker<'a>]) -> Columns<'a> {
    let mut all = Columns::default();
    for taker in takers {
        for (shard, ns, function, key) in taker.locks {
            all.0.push(taker.run.uuid());
            all.1.push(*ns);
            all.2.push(*shard);
            all.3.push(*function);
            all.4.push(key.as_str());
        }
    }
    all
}

/// Of runs with locks, those that cannot be started, because a run has one of the objects that tells
/// nobody of its end. The objects are held.
pub(super) async fn barred(
    conn: &mut PgConnection,
    takers: &[Taker<'_>],
) -> Result<HashMap<RunId, RunId>> {
    let (runs, namespaces, shards, functions, keys) = columns(takers);
    let query = sqlx::query(BARRED).bind(runs).bind(namespaces).bind(shards);
    let query = query.bind(functions).bind(keys);
    let rows = heard(SILENCE, query.fetch_all(conn)).await?;
    let holder = |row| wire::run_id(row).and_then(|run| Ok((run, holder(row)?)));
    rows.iter().map(holder).collect()
}

/// Runs with locks that were just started take them, while all of the objects are held. Returns those
/// that have to wait.
pub(super) async fn take(conn: &mut PgConnection, takers: &[Taker<'_>]) -> Result<HashSet<RunId>> {
    let (runs, namespaces, shards, functions, keys) = columns(takers);
    let due = takers.iter().flat_map(|t| t.locks.iter().map(|_| t.due.map(Ts)));
    let query = sqlx::query(TAKE).bind(runs).bind(namespaces).bind(shards);
    let query = query.bind(functions).bind(keys).bind(due.bind_iter());
    let rows = heard(SILENCE, query.fetch_all(conn)).await?;
    let mut waiting = HashSet::new();
    for row in &rows {
        if row.try_get("waits")? {
            waiting.insert(wire::run_id(row)?);
        }
    }
    Ok(waiting)
}

/// The objects of the locks of these runs.
pub(super) async fn of_runs(
    conn: &mut PgConnection,
    runs: &[Uuid],
) -> Result<Vec<(RunId, ObjectName, ObjectPlace)>> {
    let rows = heard(SILENCE, sqlx::query(OF_RUNS).bind(runs).fetch_all(conn)).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let key: String = row.try_get("key")?;
        let name = ObjectName { function: row.try_get("function")?, key: key.clone() };
        let place = (row.try_get("shard")?, row.try_get("ns")?, row.try_get("fn")?, key);
        found.push((wire::run_id(row)?, name, place));
    }
    Ok(found)
}

/// What runs with locks are read with, in the snapshot of who reads them.
pub(super) async fn read(
    conn: &mut PgConnection,
    runs: &[(RunId, Role)],
) -> Result<HashMap<RunId, Object>> {
    let of = |role| {
        let runs = runs.iter().filter(move |(_, r)| *r == role);
        runs.map(|(run, _)| run.uuid()).collect::<Vec<_>>()
    };
    let (have, wait) = (of(Role::Locks), of(Role::WaitsForLocks));
    let mut found = HashMap::with_capacity(runs.len());
    if !wait.is_empty() {
        for row in &sqlx::query(BEFORE).bind(wait).fetch_all(&mut *conn).await? {
            found.insert(wire::run_id(row)?, Object::Behind(holder(row)?));
        }
    }
    if !have.is_empty() {
        let mut states: HashMap<RunId, State> =
            have.iter().map(|run| (RunId::from(*run), State::new())).collect();
        for row in &sqlx::query(STATES).bind(have).fetch_all(&mut *conn).await? {
            let object =
                ObjectName { function: row.try_get("function")?, key: row.try_get("key")? };
            let value = wire::body(row, "value")?.unwrap_or_default();
            let state = states.entry(wire::run_id(row)?).or_default();
            state.insert(object.field(row.try_get("field")?), value);
        }
        found.extend(states.into_iter().map(|(run, state)| (run, Object::Held(state))));
    }
    Ok(found)
}

fn holder(row: &sqlx::postgres::PgRow) -> Result<RunId> {
    Ok(row.try_get::<Uuid, _>("holder")?.into())
}
