//! Starting runs: the journal's first row, the run's standing, its key and its idempotency key.

use std::collections::HashMap;

use sqlx::postgres::{PgBindIterExt as _, PgConnection};
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::error::{Error, Result};
use super::locks::{self, Taker};
use super::objects::{self, ObjectPlace, Role};
use super::wire::{MINUS_INFINITY, Raw, Ts};
use super::{Lane, SILENCE, Wait, events, heard};
use crate::machine::{Message, MessageId, Row, RunId, ScheduleId, Shard, Timestamp};

/// What may happen to a run key whose run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(i16)]
pub enum IfClosed {
    /// The new run has it.
    #[default]
    Allow = 0,
    /// The new run has it unless the last one completed.
    AllowIfFailed = 1,
    /// The new run is refused.
    Reject = 2,
}

/// A run key that a new run asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// As the user gave it. The run must be on the shard of namespace, function and key.
    pub key: String,
    /// What if its last run has ended.
    pub if_closed: IfClosed,
}

/// An idempotency key that a request came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idem {
    /// Of the run in the request's address, else of the key itself.
    pub shard: Shard,
    /// Scope (method and path) and the key as it was sent.
    pub key: String,
    /// SHA-256 of the request's body.
    pub hash: [u8; 32],
    /// Kept until then, and for a start as long as its run lives.
    pub expires_at: Timestamp,
}

/// A run to be started.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRun {
    /// Its id.
    pub run: RunId,
    /// Its namespace.
    pub ns: i32,
    /// Its function.
    pub function_id: i32,
    /// The deployment that it starts on, for row 0 too.
    pub dep: i32,
    /// Whether it was put there by name, and goes on with no other.
    pub pinned: bool,
    /// Its status for lists.
    pub status: i16,
    /// Row 0, `created`; its `ref` is the parent. Its `dep`, `seq`, `cp`, `ms` and `pos` are not read.
    pub row: Row,
    /// Parked until then; none: hot, its owner drives it at once.
    pub wake_at: Option<Timestamp>,
    /// The run key that it asks for.
    pub key: Option<NewKey>,
    /// The idempotency key of the request.
    pub idem: Option<Idem>,
    /// JSON object of strings; none: no tags.
    pub tags: Option<String>,
    /// What it is to an object; whether it waits for its turn is decided here.
    pub object: Option<NewPart>,
    /// The objects that it is to have under its locks, each once.
    pub locks: Vec<ObjectPlace>,
    /// The schedule that starts it.
    pub schedule: Option<ScheduleId>,
    /// The events that cancel it.
    pub waits: Vec<Wait>,
    /// Messages that are in its inbox from the start, such as `new` and a first signal. Their
    /// positions are given here, from 1.
    pub messages: Vec<Message>,
}

impl NewRun {
    /// Whether it has a part in objects, so that who has those is to be read with it.
    #[must_use]
    pub const fn has_objects(&self) -> bool {
        self.object.is_some() || !self.locks.is_empty()
    }
}

/// What a new run is to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewPart {
    /// It is to have the object of its key.
    Has,
    /// It reads the object of its key, of this function.
    Reads(i32),
}

/// What became of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateOutcome {
    /// The run exists (also when it did already by an earlier call with the same run id).
    Created,
    /// It exists, and waits for its object, parked.
    Queued,
    /// The same request started this run before.
    IdemSame(RunId),
    /// The idempotency key was used with another body.
    IdemReused,
    /// Another run has the key.
    KeyHeld {
        /// Which.
        run: RunId,
        /// How it ended; none: it lives.
        status: Option<i16>,
    },
}

/// The arrays of all starts, and the rows that every start writes if it is in `ok`.
macro_rules! head {
    () => {
        head!(")", "")
    };
    ($arrays:literal, $columns:literal) => {
        concat!("with u as materialized (
  select * from unnest($1::int2[],$2::uuid[],$3::int4[],$4::int4[],$5::int4[],$6::int2[],$7::int2[],
      $8::int4[],$9::timestamptz[],$10::timestamptz[],$11::uuid[],$12::text[],$13::bytea[],
      $14::timestamptz[],$15::text[],$16::text[],$17::int4[],$18::int2[],$19::int2[],$20::text[],
      $21::bytea[],$22::timestamptz[],$32::bool[],$33::uuid[]", $arrays, "
    as t(shard,run_id,ns,fn,dep,status,flags,epoch,at,due,ref,step,body,wake_at,tags,key,inbox,
         if_closed,idem_shard,idem_key,idem_hash,idem_expires,pinned,schedule", $columns, ")),
")
    };
}
macro_rules! write {
    () => {
        write!("")
    };
    ($columns:literal) => {
        concat!("j as (
  insert into journal (shard,run_id,n,kind,flags,seq,epoch,cp,ms,dep,ns,at,due,ref,step,body)
  select shard,run_id,0,0,flags,0,epoch,0,0,dep,ns,at,due,ref,step,body from ok
   order by shard, run_id
  on conflict (shard, run_id, n) do nothing returning run_id),
a as (
  insert into run_active (shard,run_id,ns,fn,dep,status,status_at,created_at,wake_at,tags,key,inbox,
                          parent,pinned,schedule", $columns, ")
  select shard,run_id,ns,fn,dep,status,at,at,wake_at,nullif(tags::jsonb, '{}'),key,inbox,ref,pinned,
         schedule",
            $columns, "
    from ok
   where (run_id in (select run_id from j)) is true order by shard, run_id),
m as (
  insert into inbox (shard,run_id,ns,pos,msg_id,kind,name,body,at)
  select shard,run_id,ns,pos,msg_id,kind,name,body,at
    from unnest($23::int2[],$24::uuid[],$25::int4[],$26::int4[],$27::uuid[],$28::int2[],$29::text[],
        $30::bytea[],$31::timestamptz[]) as i(shard,run_id,ns,pos,msg_id,kind,name,body,at)
   where (run_id in (select run_id from j)) is true order by shard, run_id, pos)
")
    };
}

/// Which requests were made before; the rows are locked and read as they are then.
macro_rules! seen {
    () => {
        "seen as materialized (
  select u.run_id, e.run_id as holder, e.hash = u.idem_hash as same,
         e.expires_at <= u.at and not exists (
           select from run_active r where r.shard = shard_of(e.run_id) and r.run_id = e.run_id
         ) as expired
    from u join idem e on e.shard = u.idem_shard and e.ns = u.ns and e.key = u.idem_key
   order by e.shard, e.ns, e.key for update of e),
"
    };
}
/// What is kept of requests.
macro_rules! remembered {
    () => {
        "renewed as (
  update idem e set hash = o.idem_hash, run_id = o.run_id, msg_id = null, created_at = o.at,
                    expires_at = o.idem_expires
    from ok o
   where e.shard = o.idem_shard and e.ns = o.ns and e.key = o.idem_key
     and (o.run_id in (select run_id from seen)) is true),
remembered as (
  insert into idem (shard, ns, key, hash, run_id, created_at, expires_at)
  select idem_shard, ns, idem_key, idem_hash, run_id, at, idem_expires from ok
   where idem_key is not null and (run_id in (select run_id from seen)) is not true
   order by 1, 2, 3),
"
    };
}

/// Starts without keys: nothing to look up.
pub(super) const CREATE: &str = concat!(
    head!(),
    "ok as (select * from u),
",
    write!(),
    "select run_id, 0::int2 as what, null::uuid as holder, null::int2 as status, false as same from j"
);

/// Starts with keys. `seen` and `held` lock what is there, in order, and read its latest state.
/// Whatever a concurrent start adds unseen is loud: `fresh` returns nothing for it, `idem` has no
/// conflict clause. Then the start is tried again and sees it.
pub(super) const CREATE_KEYED: &str = concat!(
    head!(),
    seen!(),
    "want as materialized (
  select * from u where (run_id in (select run_id from seen where not expired)) is not true),
held as materialized (
  select w.run_id, e.run_id as holder, e.status,
         e.status is not null and (w.if_closed = 0 or w.if_closed = 1 and e.status <> 100) as free
    from want w join run_keys e
      on e.shard = w.shard and e.ns = w.ns and e.fn = w.fn and e.key = w.key
   order by e.shard, e.ns, e.fn, e.key for update of e),
retaken as (
  update run_keys e set run_id = w.run_id, status = null, ended_at = null
    from want w
   where e.shard = w.shard and e.ns = w.ns and e.fn = w.fn and e.key = w.key
     and (w.run_id in (select run_id from held where free)) is true
  returning e.run_id),
fresh as (
  insert into run_keys (shard, ns, fn, key, run_id)
  select shard, ns, fn, key, run_id from want
   where key is not null and (run_id in (select run_id from held)) is not true
   order by shard, ns, fn, key
  on conflict do nothing returning run_id),
ok as materialized (
  select * from want
   where key is null
      or run_id in (select run_id from retaken) or run_id in (select run_id from fresh)),
",
    remembered!(),
    write!(),
    "select run_id, 0::int2 as what, null::uuid as holder, null::int2 as status, false as same from j
union all
select run_id, 1::int2, holder, null, same from seen where not expired
union all
select run_id, 2::int2, holder, status, false from held where not free"
);

/// Starts of runs of objects, while their rows of `run_keys` are held: each has its object if nobody
/// has, and else is the last of who waits. Where a run of another kind has the key, as one that was
/// started before its function became an object, it is refused: nothing says when that one ends.
pub(super) const CREATE_OBJECT: &str = concat!(
    head!(",$34::int2[],$35::int4[]) with ordinality", ",object,reads,ord"),
    seen!(),
    "want as materialized (
  select * from u
   where (run_id in (select run_id from seen where not expired)) is not true
     and not exists (
       select from journal j where j.shard = u.shard and j.run_id = u.run_id and j.n = 0)),
line as materialized (
  select w.run_id, k.run_id as holder, k.status is null as busy,
         k.status is null and not exists (
           select from run_active a
            where a.shard = shard_of(k.run_id) and a.run_id = k.run_id
              and a.object in (1, 4, 5)) as barred,
         row_number() over (partition by w.shard, w.ns, w.fn, w.key order by w.ord) as nth,
         (select coalesce(max(q.pos), 0) from object_queue q
           where q.shard = w.shard and q.ns = w.ns and q.fn = w.fn and q.key = w.key) as last
    from want w join run_keys k
      on k.shard = w.shard and k.ns = w.ns and k.fn = w.fn and k.key = w.key
   where w.object = 1),
takes as (
  update run_keys k set run_id = w.run_id, status = null, ended_at = null
    from want w join line l using (run_id)
   where not l.busy and l.nth = 1
     and k.shard = w.shard and k.ns = w.ns and k.fn = w.fn and k.key = w.key),
waits as (
  insert into object_queue (shard, ns, fn, key, pos, run_id)
  select w.shard, w.ns, w.fn, w.key, l.last + l.nth, w.run_id
    from want w join line l using (run_id)
   where not l.barred and (l.busy or l.nth > 1) order by 1, 2, 3, 4, 5
  returning run_id),
ok as materialized (
  select shard,run_id,ns,fn,dep,status,flags,epoch,at,due,ref,step,body,
         case when w.waits then coalesce(due, 'infinity') else wake_at end as wake_at, tags,key,inbox,
         idem_shard,idem_key,idem_hash,idem_expires,pinned,schedule,
         case when w.waits then 2::int2 else object end as object, reads
    from (select want.*, run_id in (select run_id from waits) as waits from want
           where (run_id in (select run_id from line where barred)) is not true) w),
",
    remembered!(),
    write!(",object,reads"),
    "select run_id, case when run_id in (select run_id from waits) then 3::int2 else 0::int2 end as what,
       null::uuid as holder, null::int2 as status, false as same from j
union all
select run_id, 1::int2, holder, null, same from seen where not expired
union all
select run_id, 2::int2, holder, null, false from line where barred"
);

/// How often a start that met a concurrent one is tried again.
const TRIES: u32 = 5;

impl Lane {
    /// Starts runs, each whole or not at all, in one transaction (another one for those of objects, and
    /// where a start met a concurrent one with the same key). Outcomes are in the order of the batch.
    ///
    /// Repeating a call with the same run ids is harmless. No two starts of a batch may share a
    /// run key or an idempotency key; then the batch fails as a whole.
    pub async fn create(&mut self, batch: &[NewRun]) -> Result<Vec<CreateOutcome>> {
        if !batch.iter().any(is_more) {
            return create_on(&mut self.conn, batch).await;
        }
        let (more, others): (Vec<NewRun>, Vec<NewRun>) = batch.iter().cloned().partition(is_more);
        let mut others = create_on(&mut self.conn, &others).await?.into_iter();
        let mut more = self.create_in_transaction(&more).await?.into_iter();
        let outcome = |new: &NewRun| {
            let of_kind = if is_more(new) { &mut more } else { &mut others };
            of_kind.next().unwrap_or(CreateOutcome::Created)
        };
        Ok(batch.iter().map(outcome).collect())
    }

    /// Starts runs whose start is more than one statement.
    async fn create_in_transaction(&mut self, batch: &[NewRun]) -> Result<Vec<CreateOutcome>> {
        for attempt in 1.. {
            let mut tx = heard(SILENCE, self.conn.begin()).await?;
            match create_on(&mut tx, batch).await {
                Ok(outcomes) => {
                    heard(SILENCE, tx.commit()).await?;
                    return Ok(outcomes);
                }
                // A concurrent request with the same idempotency key committed first: now it can
                // be seen.
                Err(Error::Conflict { constraint, .. })
                    if constraint == "idem_pkey" && attempt < TRIES => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy("a run key changed hands too often".to_owned()))
    }
}

/// Whether a start is more than one statement: an object is held first, events that cancel the run
/// are written down with it.
fn is_more(new: &NewRun) -> bool {
    new.has_objects() || !new.waits.is_empty()
}

/// The same on a connection, which may be in a transaction if no start has an idempotency key.
pub(super) async fn create_on(
    conn: &mut PgConnection,
    batch: &[NewRun],
) -> Result<Vec<CreateOutcome>> {
    let mut outcomes: Vec<Option<CreateOutcome>> = vec![None; batch.len()];
    hold_objects(conn, batch.iter()).await?;
    let locking: Vec<Taker<'_>> =
        batch.iter().filter(|new| !new.locks.is_empty()).map(Taker::of).collect();
    if !locking.is_empty() {
        let barred = locks::barred(conn, &locking).await?;
        for (new, outcome) in batch.iter().zip(&mut outcomes) {
            let by = barred.get(&new.run).filter(|by| **by != new.run);
            *outcome = by.map(|run| CreateOutcome::KeyHeld { run: *run, status: None });
        }
    }
    let of_objects: Vec<usize> = (0..batch.len()).filter(|i| batch[*i].object.is_some()).collect();
    if !of_objects.is_empty() {
        let runs: Vec<&NewRun> = of_objects.iter().map(|i| &batch[*i]).collect();
        let told = create_once(conn, &runs).await?;
        for (i, new) in of_objects.into_iter().zip(runs) {
            // What is not told was there: an earlier call of ours.
            outcomes[i] = Some(told.get(&new.run).copied().unwrap_or(CreateOutcome::Created));
        }
    }
    for attempt in 1..=TRIES {
        let open: Vec<usize> = (0..batch.len()).filter(|i| outcomes[*i].is_none()).collect();
        if open.is_empty() {
            break;
        }
        let runs: Vec<&NewRun> = open.iter().map(|i| &batch[*i]).collect();
        let told = match create_once(conn, &runs).await {
            Ok(told) => told,
            // A concurrent request with the same idempotency key committed first. A transaction of
            // several statements is over with that, and begun anew by whom it is of.
            Err(Error::Conflict { constraint, .. })
                if constraint == "idem_pkey" && attempt < TRIES && !batch.iter().any(is_more) =>
            {
                continue;
            }
            Err(e) => return Err(e),
        };
        for (i, run) in open.into_iter().zip(runs) {
            let outcome = told.get(&run.run).copied();
            outcomes[i] = match outcome {
                // The holder may be what the same request started a moment ago: the next try
                // sees its idempotency key.
                Some(CreateOutcome::KeyHeld { .. }) if run.idem.is_some() && attempt == 1 => None,
                // The first row was there: an earlier call of ours.
                None if run.key.is_none() => Some(CreateOutcome::Created),
                other => other,
            };
        }
    }
    let lost = || Error::Busy("a run key changed hands too often".to_owned());
    let mut outcomes: Vec<CreateOutcome> =
        outcomes.into_iter().map(|o| o.ok_or_else(lost)).collect::<Result<_>>()?;
    let begun = |(new, outcome): &(&NewRun, &CreateOutcome)| {
        !new.locks.is_empty() && **outcome == CreateOutcome::Created
    };
    let begun: Vec<Taker<'_>> =
        batch.iter().zip(&outcomes).filter(begun).map(|(new, _)| Taker::of(new)).collect();
    if !begun.is_empty() {
        let waiting = locks::take(conn, &begun).await?;
        for (new, outcome) in batch.iter().zip(&mut outcomes) {
            if waiting.contains(&new.run) {
                *outcome = CreateOutcome::Queued;
            }
        }
    }
    let there = |o: &CreateOutcome| matches!(o, CreateOutcome::Created | CreateOutcome::Queued);
    for (new, _) in batch.iter().zip(&outcomes).filter(|(_, o)| there(o)) {
        events::listen_on(conn, &new.waits).await?;
    }
    Ok(outcomes)
}

/// Holds the objects of all these starts, in the order in which everybody does: before a transaction locks
/// a run, and before it starts some of them after others.
pub(super) async fn hold_objects(
    conn: &mut PgConnection,
    news: impl Iterator<Item = &NewRun>,
) -> Result<()> {
    let objects: Vec<ObjectPlace> = news.flat_map(objects_of).collect();
    if !objects.is_empty() {
        objects::hold(conn, &objects).await?;
    }
    Ok(())
}

/// The objects that a new run is to have.
fn objects_of(new: &NewRun) -> impl Iterator<Item = ObjectPlace> {
    let key = new.key.as_ref().filter(|_| new.object == Some(NewPart::Has));
    let own = key.map(|k| (new.run.shard().column(), new.ns, new.function_id, k.key.clone()));
    own.into_iter().chain(new.locks.iter().cloned())
}

async fn create_once(
    conn: &mut PgConnection,
    runs: &[&NewRun],
) -> Result<HashMap<RunId, CreateOutcome>> {
    let keyed = runs.iter().any(|r| r.key.is_some() || r.idem.is_some());
    let all = || runs.iter().copied();
    let idem = || runs.iter().map(|r| r.idem.as_ref());
    let messages =
        || all().flat_map(|r| r.messages.iter().zip(1i32..).map(move |(m, pos)| (r, m, pos)));
    let inbox = |r: &NewRun| i32::try_from(r.messages.len()).unwrap_or(i32::MAX);
    let of_objects = runs.iter().any(|r| r.object.is_some());
    let sql = match (of_objects, keyed) {
        (true, _) => CREATE_OBJECT,
        (false, true) => CREATE_KEYED,
        (false, false) => CREATE,
    };
    let mut query = sqlx::query(sql)
        .bind(all().map(|r| r.run.shard().column()).bind_iter())
        .bind(all().map(|r| r.run.uuid()).bind_iter())
        .bind(all().map(|r| r.ns).bind_iter())
        .bind(all().map(|r| r.function_id).bind_iter())
        .bind(all().map(|r| r.dep).bind_iter())
        .bind(all().map(|r| r.status).bind_iter())
        .bind(all().map(|r| r.row.flags.0).bind_iter())
        .bind(all().map(|r| r.row.epoch).bind_iter())
        .bind(all().map(|r| Ts(r.row.at)).bind_iter())
        .bind(all().map(|r| r.row.due.map(Ts)).bind_iter())
        .bind(all().map(|r| r.row.refer).bind_iter())
        .bind(all().map(|r| r.row.step.as_str()).bind_iter())
        .bind(all().map(|r| r.row.body.as_deref().map(Raw)).bind_iter())
        .bind(all().map(|r| Ts(r.wake_at.unwrap_or(MINUS_INFINITY))).bind_iter())
        .bind(all().map(|r| r.tags.as_deref()).bind_iter())
        .bind(all().map(|r| r.key.as_ref().map(|k| k.key.as_str())).bind_iter())
        .bind(all().map(inbox).bind_iter())
        .bind(all().map(|r| r.key.as_ref().map_or(0, |k| k.if_closed as i16)).bind_iter())
        .bind(idem().map(|i| i.map(|i| i.shard.column())).bind_iter())
        .bind(idem().map(|i| i.map(|i| i.key.as_str())).bind_iter())
        .bind(idem().map(|i| i.map(|i| i.hash.as_slice())).bind_iter())
        .bind(idem().map(|i| i.map(|i| Ts(i.expires_at))).bind_iter())
        .bind(messages().map(|(r, ..)| r.run.shard().column()).bind_iter())
        .bind(messages().map(|(r, ..)| r.run.uuid()).bind_iter())
        .bind(messages().map(|(r, ..)| r.ns).bind_iter())
        .bind(messages().map(|(.., pos)| pos).bind_iter())
        .bind(messages().map(|(_, m, _)| MessageId::uuid(m.id)).bind_iter())
        .bind(messages().map(|(_, m, _)| m.kind as i16).bind_iter())
        .bind(messages().map(|(_, m, _)| m.name.as_str()).bind_iter())
        .bind(messages().map(|(_, m, _)| Raw(&m.body)).bind_iter())
        .bind(messages().map(|(_, m, _)| Ts(m.at)).bind_iter())
        .bind(all().map(|r| r.pinned).bind_iter())
        .bind(all().map(|r| r.schedule.map(ScheduleId::uuid)).bind_iter());
    if of_objects {
        let role = |part| match part {
            NewPart::Has => Role::Holds as i16,
            NewPart::Reads(_) => Role::Reads as i16,
        };
        let reads = |part| match part {
            NewPart::Has => None,
            NewPart::Reads(function) => Some(function),
        };
        query = query
            .bind(all().map(|r| r.object.map(role)).bind_iter())
            .bind(all().map(|r| r.object.and_then(reads)).bind_iter());
    }
    let rows = heard(SILENCE, query.fetch_all(&mut *conn)).await?;
    let mut told = HashMap::with_capacity(rows.len());
    for row in rows {
        let run: RunId = row.try_get::<Uuid, _>("run_id")?.into();
        let holder = || row.try_get::<Uuid, _>("holder").map(RunId::from);
        let outcome = match row.try_get::<i16, _>("what")? {
            0 => CreateOutcome::Created,
            3 => CreateOutcome::Queued,
            _ if holder()? == run => CreateOutcome::Created,
            1 if row.try_get("same")? => CreateOutcome::IdemSame(holder()?),
            1 => CreateOutcome::IdemReused,
            _ => CreateOutcome::KeyHeld { run: holder()?, status: row.try_get("status")? },
        };
        told.insert(run, outcome);
    }
    Ok(told)
}
