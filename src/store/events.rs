//! Events: accepted with their place in the queue, routed in transactions that take them out of it.
//!
//! Who publishes writes the event and reads then who waits; who waits writes that first and looks
//! for events then. So of an event and a wait at the same time at least one finds the other, and
//! whoever takes the wait's row delivers.

use std::collections::HashMap;

use bytes::Bytes;
use sqlx::postgres::{PgBindIterExt as _, PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::create::{NewRun, hold_objects};
use super::error::Result;
use super::outbox::{Delivery, LOCK_RUNS};
use super::wire::{self, Raw, Ts};
use super::{Lane, SILENCE, Store, heard};
use crate::machine::{EventId, Matching, RunId, Timestamp};

/// An event to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Its id, if it is new.
    pub id: EventId,
    /// Namespace.
    pub ns: i32,
    /// Its name.
    pub name: String,
    /// Who publishes it.
    pub source: String,
    /// What the source calls it.
    pub source_id: String,
    /// SHA-256 of name and data.
    pub hash: [u8; 32],
    /// When it happened, as the source says.
    pub happened_at: Option<Timestamp>,
    /// When it is accepted, not earlier than the true time.
    pub published_at: Timestamp,
    /// JSON.
    pub data: Bytes,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It was accepted.
    New(EventId),
    /// It had been accepted before, as this one; with the same name and data, or not.
    Known(EventId, bool),
}

impl Published {
    /// The event.
    #[must_use]
    pub const fn id(self) -> EventId {
        match self {
            Self::New(id) | Self::Known(id, _) => id,
        }
    }
}

/// An accepted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Its id.
    pub id: EventId,
    /// Namespace.
    pub ns: i32,
    /// Its name.
    pub name: String,
    /// Who published it.
    pub source: String,
    /// What the source calls it.
    pub source_id: String,
    /// When it happened, as the source says.
    pub happened_at: Option<Timestamp>,
    /// When it was accepted.
    pub published_at: Timestamp,
    /// JSON; empty in lists.
    pub data: Bytes,
    /// Everybody has it who is to have it.
    pub routed: bool,
    /// How many runs it started or reached; where one reads about events, not where they are routed.
    pub matched: MatchCount,
}

/// How many runs an event started or reached, counted to 100.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MatchCount {
    /// How many.
    pub count: i64,
    /// How many of them it started.
    pub started: i64,
    /// Whether there are no more.
    pub exact: bool,
}

/// Matches of an event that are counted.
const MATCHES_COUNTED: i64 = 100;

/// What an event came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventMatch {
    /// The run that it started or reached.
    pub run: RunId,
    /// The step that took it; empty: it started the run.
    pub step: String,
    /// When.
    pub at: Timestamp,
}

/// Which events: every field that is there must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Names; empty: all.
    pub names: Vec<String>,
    /// Accepted at or after.
    pub after: Option<Timestamp>,
    /// Accepted before.
    pub before: Option<Timestamp>,
    /// Where the page before ended.
    pub cursor: Option<(Timestamp, EventId)>,
    /// How many at most.
    pub limit: i64,
}

/// A step that waits for an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Whose step.
    pub run: RunId,
    /// Which; or what stands in its place where the event cancels the run.
    pub step: String,
    /// Namespace.
    pub ns: i32,
    /// The event's name.
    pub event: String,
    /// What its fields must be equal to.
    pub matching: Matching,
    /// Events from then on.
    pub since: Timestamp,
    /// But not these.
    pub taken: Vec<Uuid>,
}

/// An event whose turn has come, and where its routing stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The event.
    pub event: EventRow,
    /// The last wait that was reached; none: nothing was done yet.
    pub reached: Option<(RunId, String)>,
}

pub(super) const PUBLISH: &str = "with e as materialized (
  select * from unnest($1::int2[],$2::uuid[],$3::int4[],$4::text[],$5::text[],$6::text[],$7::bytea[],
      $8::timestamptz[],$9::timestamptz[],$10::bytea[])
    as t(shard,id,ns,name,source,source_id,hash,happened_at,published_at,data)),
new as (
  insert into events (shard,id,ns,name,source,source_id,hash,happened_at,published_at,data)
  select shard,id,ns,name,source,source_id,hash,happened_at,published_at,data from e
   order by shard, ns, source, source_id
  on conflict on constraint events_source_id do nothing returning shard, id),
queued as (
  insert into event_queue (shard, event_id, due)
  select shard, id, clock_timestamp() + $11 * interval '1 millisecond' from new)
select id from new";

/// For who published what was known already: under which id, and whether it was the same.
pub(super) const KNOWN: &str = "select u.ord, e.id, e.hash = u.hash as same
  from unnest($1::int2[],$2::int4[],$3::text[],$4::text[],$5::bytea[]) with ordinality
    as u(shard,ns,source,source_id,hash,ord)
  join events e using (shard, ns, source, source_id)";

pub(super) const DUE: &str =
    "select event_id from event_queue where due <= now() order by due limit $1";

/// Whoever holds the queue's row routes the event; others leave it alone.
pub(super) const HOLD_EVENT: &str =
    "select e.id, e.ns, e.name, e.source, e.source_id, e.happened_at,
       e.published_at, e.data, false as routed, q.run_id, q.step
  from event_queue q join events e on e.shard = q.shard and e.id = q.event_id
 where q.shard = $1 and q.event_id = $2 for update of q skip locked";

/// The sets of fields that somebody waits with for events of a name: one look into the index each.
pub(super) const SHAPES: &str = "with recursive s(paths) as (
  (select paths from event_waits where ns = $1 and event = $2 order by paths limit 1)
  union all
  select (select w.paths from event_waits w
           where w.ns = $1 and w.event = $2 and w.paths > s.paths order by w.paths limit 1)
    from s where s.paths is not null)
select paths from s where paths is not null";

/// Who waits for an event: in order, from where the page before ended.
pub(super) const WAITING: &str = "select w.run_id, w.step
  from unnest($3::text[], $4::bytea[]) as u(paths, hash)
 cross join lateral (
   select run_id, step from event_waits x
    where x.ns = $1 and x.event = $2 and x.paths = u.paths and x.hash = u.hash
      and (x.run_id, x.step) > ($5, $6) and x.since <= $7 and not ($8 = any(x.taken))
    order by x.run_id, x.step limit $9) w
 order by 1, 2 limit $9";

/// Who takes a wait's row away delivers to it.
pub(super) const TAKE_WAITS: &str = "delete from event_waits w
 using unnest($1::int2[], $2::uuid[], $3::text[]) as u(shard, run_id, step)
 where w.shard = u.shard and w.run_id = u.run_id and w.step = u.step
returning w.run_id, w.step";

pub(super) const TAKE_ALL_WAITS: &str = "delete from event_waits where shard = $1 and run_id = $2";

pub(super) const MATCHED: &str = "insert into event_matches (shard, event_id, run_id, step, at)
select $1, $2, run_id, step, clock_timestamp() from unnest($3::uuid[], $4::text[]) as u(run_id, step)
    on conflict do nothing";

pub(super) const ROUTED: &str = "delete from event_queue where shard = $1 and event_id = $2";

pub(super) const ROUTED_TO: &str = "update event_queue set run_id = $3, step = $4, due = now()
 where shard = $1 and event_id = $2";

pub(super) const LISTEN: &str = "insert into event_waits
  (shard, run_id, step, ns, event, paths, hash, since, taken) values ($1,$2,$3,$4,$5,$6,$7,$8,$9)
  on conflict do nothing";

/// Events that a step may wait for, oldest first, from where the page before ended.
pub(super) const SINCE: &str = "select id, ns, name, source, source_id, happened_at, published_at,
       data, true as routed
  from events
 where ns = $1 and name = $2 and published_at >= $3 and (published_at, id) > ($4, $5)
   and not (id = any($6))
 order by published_at, id limit $7";

/// What an event came to, for one more match than are counted: that tells whether there are more.
macro_rules! counted {
    ($counted:literal) => {
        concat!(
            " cross join lateral (
   select count(*) as matched, count(*) filter (where step = '') as started
     from (select step from event_matches m where m.shard = e.shard and m.event_id = e.id
            order by run_id, step limit ",
            $counted,
            " + 1) x) m"
        )
    };
}

pub(super) const ONE: &str = concat!(
    "select e.id, e.ns, e.name, e.source, e.source_id, e.happened_at,
       e.published_at, e.data, q.event_id is null as routed, m.matched, m.started
  from events e left join event_queue q on q.shard = e.shard and q.event_id = e.id",
    counted!("$4"),
    " where e.shard = $1 and e.id = $2 and e.ns = $3"
);

pub(super) const MATCHES: &str = "select run_id, step, at from event_matches
 where shard = $1 and event_id = $2 and (run_id, step) > ($3, $4) order by run_id, step limit $5";

pub(super) const EVENTS: &str = concat!(
    "select e.id, e.ns, e.name, e.source, e.source_id, e.happened_at,
       e.published_at, e.data, q.event_id is null as routed, m.matched, m.started
  from (select id, shard, ns, name, source, source_id, happened_at, published_at,
               '\\x00'::bytea as data
          from events
         where ns = $1 and (cardinality($2::text[]) = 0 or name = any($2))
           and published_at >= coalesce($3::timestamptz, '-infinity')
           and published_at < coalesce($4::timestamptz, 'infinity')
           and (published_at, id) < ($5, $6)
         order by published_at desc, id desc limit $7) e
  left join event_queue q on q.shard = e.shard and q.event_id = e.id",
    counted!("$8"),
    " order by e.published_at desc, e.id desc"
);

/// What retention takes: matches with their event; what is still queued stays.
pub(super) const TRIM_EVENTS: &str = "with old as materialized (
  select shard, id from events e where published_at < $1
     and not exists (select from event_queue q where q.shard = e.shard and q.event_id = e.id)
   order by published_at limit $2 for update skip locked),
m as (delete from event_matches m using old o where m.shard = o.shard and m.event_id = o.id)
delete from events e using old o where e.shard = o.shard and e.id = o.id";

fn event(row: &PgRow) -> Result<EventRow> {
    Ok(EventRow {
        id: row.try_get::<Uuid, _>("id")?.into(),
        ns: row.try_get("ns")?,
        name: row.try_get("name")?,
        source: row.try_get("source")?,
        source_id: row.try_get("source_id")?,
        happened_at: wire::maybe_at(row, "happened_at")?,
        published_at: wire::at(row, "published_at")?,
        data: wire::body(row, "data")?.unwrap_or_default(),
        routed: row.try_get("routed")?,
        matched: MatchCount::default(),
    })
}

/// An event with what it came to.
fn counted(row: &PgRow) -> Result<EventRow> {
    let (count, started): (i64, i64) = (row.try_get("matched")?, row.try_get("started")?);
    let matched = MatchCount {
        count: count.min(MATCHES_COUNTED),
        started: started.min(MATCHES_COUNTED),
        exact: count <= MATCHES_COUNTED,
    };
    Ok(EventRow { matched, ..event(row)? })
}

/// Accepts events on a connection; outcomes in the order of the batch. For `patience` milliseconds
/// nobody but the caller routes them.
pub(super) async fn publish_on(
    conn: &mut PgConnection,
    batch: &[NewEvent],
    patience: i32,
) -> Result<Vec<Published>> {
    let all = || batch.iter();
    let query = sqlx::query(PUBLISH)
        .bind(all().map(|e| e.id.shard().column()).bind_iter())
        .bind(all().map(|e| e.id.uuid()).bind_iter())
        .bind(all().map(|e| e.ns).bind_iter())
        .bind(all().map(|e| e.name.as_str()).bind_iter())
        .bind(all().map(|e| e.source.as_str()).bind_iter())
        .bind(all().map(|e| e.source_id.as_str()).bind_iter())
        .bind(all().map(|e| e.hash.as_slice()).bind_iter())
        .bind(all().map(|e| e.happened_at.map(Ts)).bind_iter())
        .bind(all().map(|e| Ts(e.published_at)).bind_iter())
        .bind(all().map(|e| Raw(&e.data)).bind_iter())
        .bind(f64::from(patience));
    let rows = heard(SILENCE, query.fetch_all(&mut *conn)).await?;
    let new = rows.iter().map(|r| Ok(r.try_get::<Uuid, _>("id")?.into()));
    let new = new.collect::<Result<std::collections::HashSet<EventId>>>()?;
    let old: Vec<&NewEvent> = all().filter(|e| !new.contains(&e.id)).collect();
    let mut known: HashMap<EventId, Published> = HashMap::new();
    if !old.is_empty() {
        let query = sqlx::query(KNOWN)
            .bind(old.iter().map(|e| e.id.shard().column()).bind_iter())
            .bind(old.iter().map(|e| e.ns).bind_iter())
            .bind(old.iter().map(|e| e.source.as_str()).bind_iter())
            .bind(old.iter().map(|e| e.source_id.as_str()).bind_iter())
            .bind(old.iter().map(|e| e.hash.as_slice()).bind_iter());
        for row in heard(SILENCE, query.fetch_all(&mut *conn)).await? {
            let place = usize::try_from(row.try_get::<i64, _>("ord")? - 1).unwrap_or(usize::MAX);
            let Some(asked) = old.get(place) else { continue };
            let id = row.try_get::<Uuid, _>("id")?.into();
            known.insert(asked.id, Published::Known(id, row.try_get("same")?));
        }
    }
    Ok(all().map(|e| known.get(&e.id).copied().unwrap_or(Published::New(e.id))).collect())
}

/// Writes down that these wait.
pub(super) async fn listen_on(conn: &mut PgConnection, waits: &[Wait]) -> Result<()> {
    for wait in waits {
        let query = sqlx::query(LISTEN)
            .bind(wait.run.shard().column())
            .bind(wait.run.uuid())
            .bind(&wait.step)
            .bind(wait.ns)
            .bind(&wait.event)
            .bind(wait.matching.paths())
            .bind(wait.matching.hash().to_vec())
            .bind(Ts(wait.since))
            .bind(&wait.taken);
        heard(SILENCE, query.execute(&mut *conn)).await?;
    }
    Ok(())
}

impl Store {
    /// Accepts events, in one transaction. For `patience` milliseconds nobody but the caller routes
    /// them.
    pub async fn publish(&self, batch: &[NewEvent], patience: i32) -> Result<Vec<Published>> {
        let mut tx = self.begin("begin").await?;
        let published = publish_on(&mut tx, batch, patience).await?;
        tx.commit().await?;
        Ok(published)
    }

    /// Events that are to be routed and that nobody seems to be at.
    pub async fn unrouted(&self, limit: i64) -> Result<Vec<EventId>> {
        let rows = sqlx::query_scalar::<_, Uuid>(DUE).bind(limit).fetch_all(&self.pool).await?;
        Ok(rows.into_iter().map(EventId::from).collect())
    }

    /// An event.
    pub async fn event(&self, ns: i32, id: EventId) -> Result<Option<EventRow>> {
        let query = sqlx::query(ONE).bind(id.shard().column()).bind(id.uuid()).bind(ns);
        let row = query.bind(MATCHES_COUNTED).fetch_optional(&self.pool).await?;
        row.as_ref().map(counted).transpose()
    }

    /// What an event came to, in the order of runs and steps.
    pub async fn event_matches(
        &self,
        id: EventId,
        after: Option<(RunId, String)>,
        limit: i64,
    ) -> Result<Vec<EventMatch>> {
        let (run, step) = after.map_or((Uuid::nil(), String::new()), |(r, s)| (r.uuid(), s));
        let query = sqlx::query(MATCHES).bind(id.shard().column()).bind(id.uuid());
        let rows = query.bind(run).bind(step).bind(limit).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let (run, step) = (wire::run_id(row)?, row.try_get("step")?);
                Ok(EventMatch { run, step, at: wire::at(row, "at")? })
            })
            .collect()
    }

    /// Events of a namespace, new to old, without their data.
    pub async fn events(&self, ns: i32, filter: &EventFilter) -> Result<Vec<EventRow>> {
        let (at, id) =
            filter.cursor.map_or((wire::INFINITY, Uuid::max()), |(at, id)| (at, id.uuid()));
        let query = sqlx::query(EVENTS)
            .bind(ns)
            .bind(&filter.names)
            .bind(filter.after.map(Ts))
            .bind(filter.before.map(Ts))
            .bind(Ts(at))
            .bind(id)
            .bind(filter.limit)
            .bind(MATCHES_COUNTED);
        query.fetch_all(&self.pool).await?.iter().map(counted).collect()
    }

    /// Writes down that these steps wait. Only then may who wrote it look for events.
    pub async fn listen(&self, waits: &[Wait]) -> Result<()> {
        let mut conn = self.pool.acquire().await?;
        listen_on(&mut conn, waits).await
    }
}

impl Lane {
    /// Begins to route an event. None: it is routed, or another is at it.
    pub async fn routing(&mut self, id: EventId) -> Result<Option<(Delivery<'_>, Queued)>> {
        let mut tx = heard(SILENCE, self.conn.begin()).await?;
        let query = sqlx::query(HOLD_EVENT).bind(id.shard().column()).bind(id.uuid());
        let Some(row) = heard(SILENCE, query.fetch_optional(&mut *tx)).await? else {
            return Ok(None);
        };
        let run: Option<Uuid> = row.try_get("run_id")?;
        let step: Option<String> = row.try_get("step")?;
        let reached = run.map(|run| (run.into(), step.unwrap_or_default()));
        let queued = Queued { event: event(&row)?, reached };
        Ok(Some((Delivery::over(tx), queued)))
    }
}

impl Delivery<'_> {
    /// Accepts events that runs publish.
    pub async fn publish(&mut self, batch: &[NewEvent], patience: i32) -> Result<Vec<Published>> {
        if batch.is_empty() {
            Ok(Vec::new())
        } else {
            publish_on(self.conn(), batch, patience).await
        }
    }

    /// The sets of fields with which somebody waits for events of a name.
    pub async fn shapes(&mut self, ns: i32, name: &str) -> Result<Vec<String>> {
        let query = sqlx::query_scalar(SHAPES).bind(ns).bind(name);
        heard(SILENCE, query.fetch_all(self.conn())).await
    }

    /// Who waits for an event that hashes to this at these fields, in order, after `after`.
    pub async fn waiting(
        &mut self,
        of: &EventRow,
        hashes: &[(String, [u8; 16])],
        after: Option<&(RunId, String)>,
        limit: i64,
    ) -> Result<Vec<(RunId, String)>> {
        let (run, step) = after.map_or((Uuid::nil(), ""), |(run, step)| (run.uuid(), step));
        let query = sqlx::query(WAITING)
            .bind(of.ns)
            .bind(&of.name)
            .bind(hashes.iter().map(|(paths, _)| paths.as_str()).bind_iter())
            .bind(hashes.iter().map(|(_, hash)| hash.as_slice()).bind_iter())
            .bind(run)
            .bind(step.to_owned())
            .bind(Ts(of.published_at))
            .bind(of.id.uuid())
            .bind(limit);
        let rows = heard(SILENCE, query.fetch_all(self.conn())).await?;
        rows.iter().map(|row| Ok((wire::run_id(row)?, row.try_get("step")?))).collect()
    }

    /// Locks the objects of what it starts, and the runs that may hear of it, in the order in which everybody
    /// does.
    pub async fn lock(&mut self, news: &[NewRun], runs: &[RunId]) -> Result<()> {
        hold_objects(self.conn(), news.iter()).await?;
        let query = sqlx::query(LOCK_RUNS)
            .bind(runs.iter().map(|r| r.shard().column()).bind_iter())
            .bind(runs.iter().map(|r| r.uuid()).bind_iter());
        heard(SILENCE, query.fetch_all(self.conn())).await?;
        Ok(())
    }

    /// Takes these waits away. Returns those that were there: who has them delivers to them.
    pub async fn take_waits(&mut self, waits: &[(RunId, String)]) -> Result<Vec<(RunId, String)>> {
        if waits.is_empty() {
            return Ok(Vec::new());
        }
        let query = sqlx::query(TAKE_WAITS)
            .bind(waits.iter().map(|(run, _)| run.shard().column()).bind_iter())
            .bind(waits.iter().map(|(run, _)| run.uuid()).bind_iter())
            .bind(waits.iter().map(|(_, step)| step.as_str()).bind_iter());
        let rows = heard(SILENCE, query.fetch_all(self.conn())).await?;
        rows.iter().map(|row| Ok((wire::run_id(row)?, row.try_get("step")?))).collect()
    }

    /// No step of a run waits any more.
    pub async fn take_all_waits(&mut self, run: RunId) -> Result<()> {
        let query = sqlx::query(TAKE_ALL_WAITS).bind(run.shard().column()).bind(run.uuid());
        heard(SILENCE, query.execute(self.conn())).await?;
        Ok(())
    }

    /// The first event that a step has waited for.
    pub async fn first_since(&mut self, wait: &Wait) -> Result<Option<EventRow>> {
        const PAGE: i64 = 500;
        let (paths, hash) = (wait.matching.paths(), wait.matching.hash());
        let (mut at, mut id) = (wire::MINUS_INFINITY, Uuid::nil());
        loop {
            let query = sqlx::query(SINCE)
                .bind(wait.ns)
                .bind(&wait.event)
                .bind(Ts(wait.since))
                .bind(Ts(at))
                .bind(id)
                .bind(&wait.taken)
                .bind(PAGE);
            let rows = heard(SILENCE, query.fetch_all(self.conn())).await?;
            for row in &rows {
                let found = event(row)?;
                (at, id) = (found.published_at, found.id.uuid());
                if found.hash_at(&paths) == Some(hash) {
                    return Ok(Some(found));
                }
            }
            if i64::try_from(rows.len()).is_ok_and(|n| n < PAGE) {
                return Ok(None);
            }
        }
    }

    /// Writes down what an event came to.
    pub async fn matched(&mut self, of: EventId, reached: &[(RunId, String)]) -> Result<()> {
        if reached.is_empty() {
            return Ok(());
        }
        let query = sqlx::query(MATCHED)
            .bind(of.shard().column())
            .bind(of.uuid())
            .bind(reached.iter().map(|(run, _)| run.uuid()).bind_iter())
            .bind(reached.iter().map(|(_, step)| step.as_str()).bind_iter());
        heard(SILENCE, query.execute(self.conn())).await?;
        Ok(())
    }

    /// How far the event has come; none: to the end.
    pub async fn routed(&mut self, of: EventId, to: Option<&(RunId, String)>) -> Result<()> {
        let query = match to {
            None => sqlx::query(ROUTED).bind(of.shard().column()).bind(of.uuid()),
            Some((run, step)) => sqlx::query(ROUTED_TO)
                .bind(of.shard().column())
                .bind(of.uuid())
                .bind(run.uuid())
                .bind(step.clone()),
        };
        heard(SILENCE, query.execute(self.conn())).await?;
        Ok(())
    }
}

impl EventRow {
    /// What it hashes to at these fields, if it has them.
    #[must_use]
    pub fn hash_at(&self, paths: &str) -> Option<[u8; 16]> {
        let data = serde_json::from_slice(&self.data).ok()?;
        Matching::hash_of(paths, crate::machine::Matched { source: &self.source, data })
    }
}
