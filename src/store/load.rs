//! Reading runs: all that the machine needs to go on with them, in one snapshot.

use std::collections::HashMap;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgBindIterExt as _;

use super::error::Result;
use super::objects::{self, Object, Part, Role};
use super::wire::{self, MINUS_INFINITY, journal_columns};
use super::{Lane, Store, locks};
use crate::machine::{Message, Placement, Row, RunId, Sealed, Timestamp};

/// A run as it is recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Which.
    pub run: RunId,
    /// Its namespace.
    pub ns: i32,
    /// Its function.
    pub function_id: i32,
    /// Which deployment has it.
    pub placement: Placement,
    /// Where its journal is: 0 the week's table, 1 `journal_long`.
    pub home: i16,
    /// From 1.
    pub generation: i32,
    /// Position of the first of `rows`.
    pub base_n: i32,
    /// Messages ever accepted; 0 for an ended run.
    pub inbox: i32,
    /// Whether messages are refused.
    pub closing: bool,
    /// When it wakes if it is parked ([`i64::MAX`] microseconds: only by a message).
    pub parked: Option<Timestamp>,
    /// What keeps it out of memory.
    pub gate: Option<i64>,
    /// Its object, as far as that matters to it.
    pub object: Option<Object>,
    /// How and when it ended.
    pub ended: Option<(i16, Timestamp)>,
    /// When it was started.
    pub created_at: Timestamp,
    /// Its key.
    pub key: Option<String>,
    /// Its tags, JSON.
    pub tags: Option<String>,
    /// What its handler said last, JSON.
    pub custom_status: Option<Bytes>,
    /// The journal from `base_n` on.
    pub rows: Vec<Row>,
    /// What is left in its inbox, in order of position.
    pub messages: Vec<Message>,
}

pub(super) const STANDING: &str =
    "with u as (select * from unnest($1::int2[], $2::uuid[]) as t(shard, run_id))
select a.run_id, a.ns, a.fn, a.dep, a.pinned, a.home, a.generation, a.base_n, a.inbox, a.closing, a.wake_at, a.gate,
       a.created_at, a.key, a.tags::text as tags, a.custom_status,
       null::int2 as status, null::timestamptz as ended_at, a.object, coalesce(a.reads, a.fn) as object_fn
  from u join run_active a using (shard, run_id)
union all
select d.run_id, d.ns, d.fn, d.dep, false, d.home, d.generation, d.base_n, 0, true, '-infinity', null::int8,
       d.created_at, d.key, d.tags::text, d.custom_status, d.status, d.ended_at,
       null::int2, null::int4
  from u join run_done d using (shard, run_id)";

macro_rules! rows {
    ($journal:literal) => {
        concat!(
            "select j.run_id, ",
            journal_columns!(),
            "
  from unnest($1::int2[], $2::uuid[], $3::int4[]) as u(shard, run_id, base)
 cross join lateral (
   select * from ",
            $journal,
            " j
    where j.shard = u.shard and j.run_id = u.run_id and j.n >= u.base order by j.n) j"
        )
    };
}
pub(super) const ROWS: &str = rows!("journal");
pub(super) const ROWS_LONG: &str = rows!("journal_long");

pub(super) const MESSAGES: &str = "select i.run_id, i.pos, i.msg_id, i.kind, i.name, i.body, i.at,
       i.generation
  from unnest($1::int2[], $2::uuid[]) as u(shard, run_id) join inbox i using (shard, run_id)
 order by i.shard, i.run_id, i.pos";

impl Store {
    /// Reads runs, live and ended ones, in one snapshot. Unknown ones are left out; the order is
    /// that of `runs`.
    pub async fn load(&self, runs: &[RunId]) -> Result<Vec<Loaded>> {
        let mut tx = self.begin(super::SNAPSHOT).await?;
        let standing = sqlx::query(STANDING)
            .bind(runs.iter().map(|r| r.shard().column()).bind_iter())
            .bind(runs.iter().map(|r| r.uuid()).bind_iter())
            .fetch_all(&mut *tx)
            .await?;
        let mut found: HashMap<RunId, Loaded> = HashMap::with_capacity(standing.len());
        let (mut parts, mut locking) = (Vec::new(), Vec::new());
        for row in &standing {
            let run = wire::run_id(row)?;
            let status: Option<i16> = row.try_get("status")?;
            let ended_at = wire::maybe_at(row, "ended_at")?;
            let wake_at = wire::at(row, "wake_at")?;
            let loaded = Loaded {
                run,
                ns: row.try_get("ns")?,
                function_id: row.try_get("fn")?,
                placement: Placement { dep: row.try_get("dep")?, pinned: row.try_get("pinned")? },
                home: row.try_get("home")?,
                generation: row.try_get("generation")?,
                base_n: row.try_get("base_n")?,
                inbox: row.try_get("inbox")?,
                closing: row.try_get("closing")?,
                parked: (wake_at > MINUS_INFINITY).then_some(wake_at),
                gate: row.try_get("gate")?,
                object: None,
                ended: status.zip(ended_at),
                created_at: wire::at(row, "created_at")?,
                key: row.try_get("key")?,
                tags: row.try_get("tags")?,
                custom_status: wire::body(row, "custom_status")?,
                rows: Vec::new(),
                messages: Vec::new(),
            };
            let role: Option<i16> = row.try_get("object")?;
            if let Some(role) = role.and_then(Role::of_locks) {
                locking.push((run, role));
            } else if let (Some(role), Some(key)) = (role, loaded.key.clone()) {
                let (ns, function) = (loaded.ns, row.try_get("object_fn")?);
                parts.push(Part { run, ns, function, key, role });
            }
            found.insert(run, loaded);
        }
        let mut objects = locks::read(&mut tx, &locking).await?;
        if !parts.is_empty() {
            objects.extend(objects::of_runs(&mut tx, &parts).await?);
        }
        for (run, object) in objects {
            if let Some(loaded) = found.get_mut(&run) {
                loaded.object = Some(object);
            }
        }
        for (home, sql) in [(0, ROWS), (1, ROWS_LONG)] {
            let of_home = || found.values().filter(|l| l.home == home);
            if of_home().next().is_none() {
                continue;
            }
            let rows = sqlx::query(sql)
                .bind(of_home().map(|l| l.run.shard().column()).bind_iter())
                .bind(of_home().map(|l| l.run.uuid()).bind_iter())
                .bind(of_home().map(|l| l.base_n).bind_iter())
                .fetch_all(&mut *tx)
                .await?;
            for row in &rows {
                if let Some(loaded) = found.get_mut(&wire::run_id(row)?) {
                    loaded.rows.push(wire::journal_row(row)?);
                }
            }
        }
        let messages = sqlx::query(MESSAGES)
            .bind(found.keys().map(|r| r.shard().column()).bind_iter())
            .bind(found.keys().map(|r| r.uuid()).bind_iter())
            .fetch_all(&mut *tx)
            .await?;
        for row in &messages {
            if let Some(loaded) = found.get_mut(&wire::run_id(row)?) {
                loaded.messages.push(wire::message(row)?);
            }
        }
        tx.commit().await?;
        // The rows of one run come together and in order by the plan; the contract is kept here.
        for loaded in found.values_mut() {
            loaded.rows.sort_by_key(|r| r.n);
        }
        Ok(runs.iter().filter_map(|r| found.remove(r)).collect())
    }

    /// What is in the inboxes of runs, in order of run and position.
    pub async fn messages(&self, runs: &[RunId]) -> Result<Vec<(RunId, Message)>> {
        let rows = sqlx::query(MESSAGES)
            .bind(runs.iter().map(|r| r.shard().column()).bind_iter())
            .bind(runs.iter().map(|r| r.uuid()).bind_iter())
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok((wire::run_id(row)?, wire::message(row)?))).collect()
    }
}

pub(super) const FIRST_ROW: &str = concat!(
    "select ",
    journal_columns!(),
    " from journal j where j.shard = $1 and j.run_id = $2 and j.n = $3
union all select ",
    journal_columns!(),
    " from journal_long j
 where j.shard = $1 and j.run_id = $2 and j.n = $3 limit 1"
);

impl Lane {
    /// After a lost connection: whether an append that lost did so to itself, because it had been
    /// recorded before the connection went.
    pub async fn is_recorded(&mut self, sealed: &Sealed) -> Result<bool> {
        let Some(first) = sealed.append.rows.first() else { return Ok(false) };
        let found = self.row(sealed.run, first.n).await?;
        // The time of a row is to the microsecond, and the epochs of two owners differ.
        Ok(found.is_some_and(|row| row == Row { pos: 0, ..first.clone() }))
    }

    /// The journal row at a position.
    async fn row(&mut self, run: RunId, n: i32) -> Result<Option<Row>> {
        let row = sqlx::query(FIRST_ROW)
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(n)
            .fetch_optional(&mut self.conn)
            .await?;
        row.as_ref().map(wire::journal_row).transpose()
    }
}
