//! Objects: their state, who has them and who waits.
//!
//! The row of `run_keys` is an object's lock: whoever starts a run of it, ends one or writes its state by
//! hand holds that row first and looks then, in a statement of its own, so that it sees all that was
//! decided before. After it come rows of `run_active`, in the order in which everybody locks those.

use std::collections::{HashMap, HashSet};

use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use sqlx::postgres::{PgBindIterExt as _, PgConnection, PgRow};
use uuid::Uuid;

use super::error::{Error, Result};
use super::wire::{self, Raw};
use super::{SILENCE, Store, heard, locks};
use crate::machine::{ObjectName, RunId, Sealed, Shard, State, field_of_lock};

/// What a run is to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum Role {
    /// It has it.
    Holds = 1,
    /// It waits for its turn.
    Waits = 2,
    /// It only reads it.
    Reads = 3,
    /// It has all of its locks.
    Locks = 4,
    /// It waits for some of its locks.
    WaitsForLocks = 5,
}

impl Role {
    /// Whether a code says that a run has locks.
    pub(super) const fn of_locks(code: i16) -> Option<Self> {
        match code {
            4 => Some(Self::Locks),
            5 => Some(Self::WaitsForLocks),
            _ => None,
        }
    }
}

/// What a run of an object is read with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// It has the object, in this state.
    Held(State),
    /// Another run has it.
    Behind(RunId),
    /// It reads the object, in this state.
    Read(State),
}

/// An object as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRow {
    /// Its fields.
    pub state: State,
    /// The run that has it.
    pub holder: Option<RunId>,
    /// How many wait.
    pub waiting: i64,
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key.
    pub key: String,
    /// How many fields it has.
    pub fields: i64,
    /// Bytes of names and values.
    pub bytes: i64,
}

/// What became of a state that was written by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It is the state.
    Done,
    /// A run has the object.
    Busy(RunId),
    /// The state is not the one that it was to replace.
    Changed,
}

/// What identifies a state: the same fields have the same, whatever happened between.
#[must_use]
pub fn version_of(state: &State) -> String {
    let mut hash = Sha256::new();
    for (field, value) in state {
        for part in [field.as_bytes(), value] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
    }
    hash.finalize()[..16].iter().fold(String::with_capacity(32), |mut out, byte| {
        use std::fmt::Write as _;
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// An object: shard, namespace, function, key.
pub type ObjectPlace = (i16, i32, i32, String);

/// The row that is an object's lock; one that no run has ever had has it like one whose run is gone.
pub(super) const ENSURE: &str =
    "insert into run_keys (shard, ns, fn, key, run_id, status, ended_at)
select distinct shard, ns, fn, key, '00000000-0000-0000-0000-000000000000'::uuid, 100::int2, now()
  from unnest($1::int2[], $2::int4[], $3::int4[], $4::text[]) as u(shard, ns, fn, key)
 order by 1, 2, 3, 4
on conflict (shard, ns, fn, key) do nothing";

pub(super) const LOCK: &str = "select k.status, k.run_id
  from (select distinct shard, ns, fn, key
          from unnest($1::int2[], $2::int4[], $3::int4[], $4::text[]) as t(shard, ns, fn, key)) u
  join run_keys k using (shard, ns, fn, key)
 order by k.shard, k.ns, k.fn, k.key for update of k";

/// What does not change of the runs of objects among these.
pub(super) const OBJECTS_OF: &str = "select a.run_id, a.shard, a.ns, a.fn, a.key
  from unnest($1::int2[], $2::uuid[]) as u(shard, run_id) join run_active a using (shard, run_id)
 where a.object in (1, 2)";

/// Locks runs, and those that may have their turn when they end.
pub(super) const LOCK_RUNS: &str = "with u as materialized (
  select * from unnest($1::int2[], $2::uuid[]) as t(shard, run_id)),
o as materialized (
  select distinct shard, ns, fn, key
    from unnest($3::int2[], $4::int4[], $5::int4[], $6::text[]) as t(shard, ns, fn, key)),
next as materialized (
  select q.run_id from o cross join lateral (
    select q.run_id from object_queue q
     where q.shard = o.shard and q.ns = o.ns and q.fn = o.fn and q.key = o.key
       and (q.run_id in (select run_id from u)) is not true
     order by q.pos limit 1) q)
select a.run_id from (select shard, run_id from u
                       union select shard_of(run_id), run_id from next) x
  join run_active a using (shard, run_id)
 order by a.shard, a.run_id for update of a";

pub(super) const SET: &str = "insert into objects (shard, ns, fn, key, field, value)
select * from unnest($1::int2[], $2::int4[], $3::int4[], $4::text[], $5::text[], $6::bytea[])
    as t(shard, ns, fn, key, field, value)
 order by 1, 2, 3, 4, 5
on conflict (shard, ns, fn, key, field) do update set value = excluded.value";

pub(super) const UNSET: &str = "delete from objects o
 using unnest($1::int2[], $2::int4[], $3::int4[], $4::text[], $5::text[])
    as t(shard, ns, fn, key, field)
 where o.shard = t.shard and o.ns = t.ns and o.fn = t.fn and o.key = t.key and o.field = t.field";

/// Runs of objects have ended. Who waited waits no more; where one had an object, the next has it, and
/// is hot if it waits for no other, with a message, so that its owner hears of it wherever that is. An
/// object that a run had by a lock and that nobody wants is nobody's; the key of its own run was let go
/// with the end.
pub(super) const RELEASE: &str = "with e as materialized (
  select * from unnest($1::int2[], $2::int4[], $3::int4[], $4::text[], $5::uuid[])
      as t(shard, ns, fn, key, run_id)),
gone as (
  delete from object_queue q using e
   where q.run_id = e.run_id and q.fn = e.fn and q.key = e.key),
unlocked as (
  delete from object_locks l using e
   where l.run_id = e.run_id and l.fn = e.fn and l.key = e.key),
free as materialized (
  select e.shard, e.ns, e.fn, e.key from e join run_keys k using (shard, ns, fn, key)
   where k.run_id = e.run_id),
next as materialized (
  select f.shard, f.ns, f.fn, f.key, q.run_id, q.pos from free f cross join lateral (
    select q.run_id, q.pos from object_queue q
     where q.shard = f.shard and q.ns = f.ns and q.fn = f.fn and q.key = f.key
       and (q.run_id in (select run_id from e)) is not true
     order by q.pos limit 1) q
   order by 1, 2, 3, 4),
left_queue as (
  delete from object_queue q using next n
   where q.shard = n.shard and q.ns = n.ns and q.fn = n.fn and q.key = n.key and q.pos = n.pos),
takes as (
  update run_keys k set run_id = n.run_id, status = null, ended_at = null from next n
   where k.shard = n.shard and k.ns = n.ns and k.fn = n.fn and k.key = n.key),
let_go as (
  update run_keys k set status = 100, ended_at = now() from free f
   where k.shard = f.shard and k.ns = f.ns and k.fn = f.fn and k.key = f.key and k.status is null
     and not exists (
       select from next n
        where n.shard = f.shard and n.ns = f.ns and n.fn = f.fn and n.key = f.key)),
ready as materialized (
  select distinct n.run_id from next n where not exists (
    select from object_queue q where q.run_id = n.run_id and not exists (
      select from next m where m.run_id = q.run_id and m.fn = q.fn and m.key = q.key))),
hot as (
  update run_active a set object = case a.object when 5 then 4 else 1 end, wake_at = '-infinity',
         inbox = a.inbox + 1 from ready n
   where a.shard = shard_of(n.run_id) and a.run_id = n.run_id
  returning a.shard, a.run_id, a.ns, a.inbox),
told as (
  insert into inbox (shard, run_id, ns, pos, msg_id, kind, name, at)
  select shard, run_id, ns, inbox, gen_random_uuid(), 0, '', now() from hot order by 1, 2)
select run_id from hot";

/// The fields of some objects, wherever they are.
pub(super) const STATE: &str = "select o.ns, o.fn, o.key, o.field, o.value
  from (select distinct ns, fn, key
          from unnest($1::int4[], $2::int4[], $3::text[]) as t(ns, fn, key)) u
  join objects o using (ns, fn, key)";

pub(super) const HOLDERS: &str = "select u.run_id, k.run_id as holder
  from unnest($1::int2[], $2::int4[], $3::int4[], $4::text[], $5::uuid[])
    as u(shard, ns, fn, key, run_id)
  join run_keys k using (shard, ns, fn, key)";

pub(super) const WAITING: &str = "select count(*) from object_queue
 where shard = $1 and ns = $2 and fn = $3 and key = $4";

pub(super) const CLEAR: &str = "delete from objects
 where shard = $1 and ns = $2 and fn = $3 and key = $4";

pub(super) const LIST: &str = "select key, count(*) as fields,
       sum(octet_length(field) + octet_length(value) - 1)::int8 as bytes
  from objects where ns = $1 and fn = $2 and ($3::text is null or key > $3)
 group by key order by key limit $4";

fn places<'a>(
    places: impl Iterator<Item = &'a ObjectPlace>,
) -> (Vec<i16>, Vec<i32>, Vec<i32>, Vec<&'a str>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (shard, ns, function, key) in places {
        columns.0.push(*shard);
        columns.1.push(*ns);
        columns.2.push(*function);
        columns.3.push(key.as_str());
    }
    columns
}

async fn lock<'a>(
    conn: &mut PgConnection,
    which: impl Iterator<Item = &'a ObjectPlace>,
) -> Result<Vec<PgRow>> {
    let (shards, namespaces, functions, keys) = places(which);
    let query = sqlx::query(LOCK).bind(shards).bind(namespaces).bind(functions).bind(keys);
    heard(SILENCE, query.fetch_all(conn)).await
}

/// Makes sure that these objects have their lock, and takes it. Returns whose they are: status and run.
pub(super) async fn hold(
    conn: &mut PgConnection,
    which: &[ObjectPlace],
) -> Result<Vec<(Option<i16>, RunId)>> {
    let distinct = which.iter().collect::<HashSet<_>>().len();
    loop {
        let (shards, namespaces, functions, keys) = places(which.iter());
        let ensure = sqlx::query(ENSURE).bind(shards).bind(namespaces).bind(functions).bind(keys);
        heard(SILENCE, ensure.execute(&mut *conn)).await?;
        let rows = lock(conn, which.iter()).await?;
        // One that was there may have been so old that it went just now.
        if rows.len() >= distinct {
            return rows.iter().map(|r| Ok((r.try_get("status")?, wire::run_id(r)?))).collect();
        }
    }
}

/// The objects of the runs of a batch that change some, held: the one of a run's key has no name.
pub(super) struct Held(HashMap<RunId, Vec<(Option<ObjectName>, ObjectPlace)>>);

impl Held {
    fn places(&self) -> impl Iterator<Item = &ObjectPlace> + Clone {
        self.0.values().flatten().map(|(_, place)| place)
    }

    /// Where a field is published, as the run knows it.
    fn place_of<'a>(&'a self, run: RunId, field: &'a str) -> Option<(&'a ObjectPlace, &'a str)> {
        let places = self.0.get(&run)?;
        let Some((function, key, field)) = field_of_lock(field) else {
            return places.iter().find(|(name, _)| name.is_none()).map(|(_, p)| (p, field));
        };
        let named = |name: &ObjectName| name.function == function && name.key == key;
        let found = places.iter().find(|(name, _)| name.as_ref().is_some_and(named));
        found.map(|(_, place)| (place, field))
    }
}

/// Before appends that change objects: holds the objects, then the runs.
pub(super) async fn before_append(conn: &mut PgConnection, batch: &[&Sealed]) -> Result<Held> {
    let rows = {
        let query = sqlx::query(OBJECTS_OF)
            .bind(batch.iter().map(|s| s.run.shard().column()).bind_iter())
            .bind(batch.iter().map(|s| s.run.uuid()).bind_iter());
        heard(SILENCE, query.fetch_all(&mut *conn)).await?
    };
    let mut held: HashMap<RunId, Vec<_>> = HashMap::with_capacity(rows.len());
    for row in &rows {
        let place: ObjectPlace =
            (row.try_get("shard")?, row.try_get("ns")?, row.try_get("fn")?, row.try_get("key")?);
        held.insert(wire::run_id(row)?, vec![(None, place)]);
    }
    let others: Vec<Uuid> =
        batch.iter().filter(|s| !held.contains_key(&s.run)).map(|s| s.run.uuid()).collect();
    if !others.is_empty() {
        for (run, name, place) in locks::of_runs(&mut *conn, &others).await? {
            held.entry(run).or_default().push((Some(name), place));
        }
    }
    let held = Held(held);
    lock(conn, held.places()).await?;
    let (shards, namespaces, functions, keys) = places(held.places());
    let query = sqlx::query(LOCK_RUNS)
        .bind(batch.iter().map(|s| s.run.shard().column()).bind_iter())
        .bind(batch.iter().map(|s| s.run.uuid()).bind_iter())
        .bind(shards)
        .bind(namespaces)
        .bind(functions)
        .bind(keys);
    heard(SILENCE, query.fetch_all(conn)).await?;
    Ok(held)
}

/// After them: publishes what those have changed that won, and lets the next have their turn. Returns
/// these.
pub(super) async fn after_append(
    conn: &mut PgConnection,
    batch: &[&Sealed],
    won: &HashSet<RunId>,
    held: &Held,
) -> Result<Vec<RunId>> {
    let winners = || {
        let won = batch.iter().filter(|s| won.contains(&s.run));
        won.filter_map(|s| Some((s.run, s.append.publication.as_ref()?)))
    };
    // Of one object only one run in a batch has changes, for only who has it can make them.
    let mut set: Vec<(&ObjectPlace, &str, &[u8])> = Vec::new();
    let mut unset: Vec<(&ObjectPlace, &str)> = Vec::new();
    for (run, publication) in winners() {
        for (field, value) in &publication.changes {
            let Some((place, field)) = held.place_of(run, field) else {
                return Err(Error::corrupt(format!(
                    "{run} has changed a field of no object of it"
                )));
            };
            match value {
                Some(value) => set.push((place, field, value)),
                None => unset.push((place, field)),
            }
        }
    }
    write(conn, &set).await?;
    if !unset.is_empty() {
        let (shards, namespaces, functions, keys) = places(unset.iter().map(|(place, _)| *place));
        let query = sqlx::query(UNSET).bind(shards).bind(namespaces).bind(functions).bind(keys);
        let query = query.bind(unset.iter().map(|(_, field)| *field).bind_iter());
        heard(SILENCE, query.execute(&mut *conn)).await?;
    }
    let mut ended: Vec<(RunId, &ObjectPlace)> = Vec::new();
    for (run, _) in winners().filter(|(_, p)| p.frees) {
        ended.extend(held.0.get(&run).into_iter().flatten().map(|(_, place)| (run, place)));
    }
    if ended.is_empty() {
        return Ok(Vec::new());
    }
    let (shards, namespaces, functions, keys) = places(ended.iter().map(|(_, place)| *place));
    let query = sqlx::query(RELEASE).bind(shards).bind(namespaces).bind(functions).bind(keys);
    let query = query.bind(ended.iter().map(|(run, _)| run.uuid()).bind_iter());
    let rows = heard(SILENCE, query.fetch_all(conn)).await?;
    rows.iter().map(wire::run_id).collect()
}

async fn write(conn: &mut PgConnection, set: &[(&ObjectPlace, &str, &[u8])]) -> Result<()> {
    if set.is_empty() {
        return Ok(());
    }
    let (shards, namespaces, functions, keys) = places(set.iter().map(|(place, ..)| *place));
    let query = sqlx::query(SET).bind(shards).bind(namespaces).bind(functions).bind(keys);
    let query = query.bind(set.iter().map(|(_, field, _)| *field).bind_iter());
    let query = query.bind(set.iter().map(|(.., value)| Raw(value)).bind_iter());
    heard(SILENCE, query.execute(conn)).await?;
    Ok(())
}

/// A run of an object, as its row in `run_active` says.
pub(super) struct Part {
    pub(super) run: RunId,
    pub(super) ns: i32,
    /// The function that the object is of.
    pub(super) function: i32,
    pub(super) key: String,
    pub(super) role: i16,
}

/// What runs of objects are read with, in the snapshot of who reads them.
pub(super) async fn of_runs(
    conn: &mut PgConnection,
    parts: &[Part],
) -> Result<HashMap<RunId, Object>> {
    let mut found = HashMap::with_capacity(parts.len());
    let (waiting, seeing): (Vec<&Part>, Vec<&Part>) =
        parts.iter().partition(|p| p.role == Role::Waits as i16);
    if !waiting.is_empty() {
        let query = sqlx::query(HOLDERS)
            .bind(waiting.iter().map(|p| p.run.shard().column()).bind_iter())
            .bind(waiting.iter().map(|p| p.ns).bind_iter())
            .bind(waiting.iter().map(|p| p.function).bind_iter())
            .bind(waiting.iter().map(|p| p.key.as_str()).bind_iter())
            .bind(waiting.iter().map(|p| p.run.uuid()).bind_iter());
        for row in query.fetch_all(&mut *conn).await? {
            let holder = row.try_get::<Uuid, _>("holder")?.into();
            found.insert(wire::run_id(&row)?, Object::Behind(holder));
        }
    }
    if seeing.is_empty() {
        return Ok(found);
    }
    let objects = seeing.iter().map(|p| (p.ns, p.function, p.key.as_str()));
    let states = states(conn, objects).await?;
    for part in seeing {
        let state = states.get(&(part.ns, part.function, part.key.clone()));
        let state = state.cloned().unwrap_or_default();
        let holds = part.role == Role::Holds as i16;
        found.insert(part.run, if holds { Object::Held(state) } else { Object::Read(state) });
    }
    Ok(found)
}

/// The states of objects by namespace, function and key; what is empty is left out.
async fn states<'a>(
    conn: &mut PgConnection,
    objects: impl Iterator<Item = (i32, i32, &'a str)> + Clone,
) -> Result<HashMap<(i32, i32, String), State>> {
    let query = sqlx::query(STATE)
        .bind(objects.clone().map(|o| o.0).collect::<Vec<_>>())
        .bind(objects.clone().map(|o| o.1).collect::<Vec<_>>())
        .bind(objects.map(|o| o.2).collect::<Vec<_>>());
    let mut states: HashMap<(i32, i32, String), State> = HashMap::new();
    for row in heard(SILENCE, query.fetch_all(conn)).await? {
        let object = (row.try_get("ns")?, row.try_get("fn")?, row.try_get("key")?);
        let value = wire::body(&row, "value")?.unwrap_or_default();
        states.entry(object).or_default().insert(row.try_get("field")?, value);
    }
    Ok(states)
}

impl Store {
    /// An object as it is recorded; one that nobody has written to is empty.
    pub async fn object(&self, ns: i32, fn_id: i32, shard: Shard, key: &str) -> Result<ObjectRow> {
        let mut tx = self.begin(super::SNAPSHOT).await?;
        let mut states = states(&mut tx, std::iter::once((ns, fn_id, key))).await?;
        let state = states.remove(&(ns, fn_id, key.to_owned())).unwrap_or_default();
        let of_key = |sql| sqlx::query(sql).bind(shard.column()).bind(ns).bind(fn_id).bind(key);
        let holder = of_key(super::lists::RUN_OF_KEY).fetch_optional(&mut *tx).await?;
        let holder = match holder {
            Some(row) if row.try_get::<Option<i16>, _>("status")?.is_none() => {
                Some(wire::run_id(&row)?)
            }
            _ => None,
        };
        let waiting = of_key(WAITING).fetch_one(&mut *tx).await?.try_get(0)?;
        tx.commit().await?;
        Ok(ObjectRow { state, holder, waiting })
    }

    /// Objects of a function that have a state, by key.
    pub async fn list_objects(
        &self,
        ns: i32,
        fn_id: i32,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<ListedObject>> {
        let query = sqlx::query(LIST).bind(ns).bind(fn_id).bind(after).bind(limit);
        let rows = query.fetch_all(&self.pool).await?;
        let listed = |row: &PgRow| {
            let (key, fields) = (row.try_get("key")?, row.try_get("fields")?);
            Ok(ListedObject { key, fields, bytes: row.try_get("bytes")? })
        };
        rows.iter().map(listed).collect()
    }

    /// Replaces an object's state by hand: while no run has it, and if it is what `fits` says.
    pub async fn write_object(
        &self,
        ns: i32,
        fn_id: i32,
        shard: Shard,
        key: &str,
        state: &State,
        fits: impl Fn(&State) -> bool + Send,
    ) -> Result<Written> {
        let place: ObjectPlace = (shard.column(), ns, fn_id, key.to_owned());
        let mut tx = self.begin("begin").await?;
        for (status, run) in hold(&mut tx, std::slice::from_ref(&place)).await? {
            if status.is_none() {
                return Ok(Written::Busy(run));
            }
        }
        let mut before = states(&mut tx, std::iter::once((ns, fn_id, key))).await?;
        if !fits(&before.remove(&(ns, fn_id, key.to_owned())).unwrap_or_default()) {
            return Ok(Written::Changed);
        }
        let clear = sqlx::query(CLEAR).bind(place.0).bind(ns).bind(fn_id).bind(key);
        clear.execute(&mut *tx).await?;
        let set: Vec<_> = state.iter().map(|(f, v)| (&place, f.as_str(), v.as_ref())).collect();
        write(&mut tx, &set).await?;
        tx.commit().await?;
        Ok(Written::Done)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::machine::change;

    #[test]
    fn a_version_is_of_the_content() {
        let state = |fields: &[(&str, &'static str)]| -> State {
            fields
                .iter()
                .map(|(f, v)| ((*f).to_owned(), bytes::Bytes::from_static(v.as_bytes())))
                .collect()
        };
        let one = state(&[("a", "1"), ("b", "2")]);
        assert_eq!(version_of(&one), version_of(&state(&[("b", "2"), ("a", "1")])));
        for other in [&[("a", "1")][..], &[("a", "12"), ("b", "")], &[("a", "1"), ("b", "3")], &[]]
        {
            assert_ne!(version_of(&one), version_of(&state(other)), "{other:?}");
        }
        let mut changed = one;
        change(&mut changed, &BTreeMap::from([("a".to_owned(), None)]));
        assert_eq!(version_of(&changed), version_of(&state(&[("b", "2")])));
    }
}
