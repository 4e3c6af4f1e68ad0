//! An ended run becomes live again: one transaction, rare, and so in plain statements.

use sqlx::Row as _;

use super::Store;
use super::create::NewPart;
use super::error::Result;
use super::events::{self, Wait};
use super::locks::{self, Taker};
use super::objects::{self, ObjectPlace, Role};
use super::wire::{Raw, Ts};
use crate::machine::{Message, OutgoingKind, RunId, Sealed};

/// What became of a reopening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reopened {
    /// The run is live.
    Done,
    /// It is not as it was read: another has reopened it, or it is gone.
    Lost,
    /// Another run has its key by now.
    KeyHeld(RunId),
}

pub(super) const DONE: &str = "select fn, key, last_n from run_done
 where shard = $1 and run_id = $2 and ns = $3 for update";

/// Asked with the row held: what was erased while somebody was about to reopen it stays ended.
pub(super) const ERASED: &str = "select exists (
  select from history where shard = $1 and run_id = $2 and what = 'run.erased')";

/// The key is the run's again, unless a live run has it.
pub(super) const KEY: &str = "with had as materialized (
  select run_id, status from run_keys
   where shard = $1 and ns = $2 and fn = $3 and key = $4 for update),
again as (
  update run_keys set run_id = $5, status = null, ended_at = null
   where shard = $1 and ns = $2 and fn = $3 and key = $4
     and exists (select from had where status is not null)),
fresh as (
  insert into run_keys (shard, ns, fn, key, run_id)
  select $1, $2, $3, $4, $5 where not exists (select from had))
select run_id from had where status is null";

macro_rules! row {
    ($journal:literal) => {
        concat!(
            "insert into ",
            $journal,
            " (shard,run_id,ns,n,kind,flags,seq,epoch,cp,ms,dep,at,due,ref,step,body)
values ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16)
on conflict (shard, run_id, n) do nothing"
        )
    };
}
pub(super) const ROW: &str = row!("journal");
pub(super) const ROW_LONG: &str = row!("journal_long");

/// Its counter of messages goes on after those that the journal has taken, and the one of this act.
pub(super) const LIVE: &str =
    "insert into run_active (run_id, created_at, wake_at, ns, fn, dep, inbox,
    base_n, gen_n, generation, shard, home, status, status_at, key, parent, schedule, tags, custom_status,
    pinned, object, reads)
select run_id, created_at, '-infinity', ns, fn, dep, $3, base_n, gen_n, generation, shard, home, 1, $4,
       key, parent, schedule, tags, custom_status, $5, $6, $7
  from run_done where shard = $1 and run_id = $2";

pub(super) const GONE: &str = "delete from run_done where shard = $1 and run_id = $2";

pub(super) const TOLD: &str =
    "insert into inbox (shard, run_id, ns, pos, msg_id, kind, name, body, at)
values ($1, $2, $3, $4, $5, $6, '', $7, $8)";

/// That it waits no more was said at its end: done here, for later it would take away what it waits
/// for from now on.
pub(super) const LISTENS: &str =
    "delete from outbox where shard = $1 and run_id = $2 and kind = $3";

impl Store {
    /// Makes an ended run live again: its rows are recorded behind its end, its key is its own, it
    /// is hot, and `message` is in its inbox so that its owner hears of it. `taken`: how many
    /// messages its journal has. One that has an `object`, or `locks`, gets them if nobody has them.
    /// It waits for events as `waits` says.
    pub async fn reopen(
        &self,
        sealed: &Sealed,
        taken: i32,
        message: &Message,
        object: Option<NewPart>,
        locks: &[ObjectPlace],
        waits: &[Wait],
    ) -> Result<Reopened> {
        let (run, ns) = (sealed.run, sealed.ns);
        let (shard, id) = (run.shard().column(), run.uuid());
        let mut tx = self.begin("begin").await?;
        if !locks.is_empty() {
            // Objects before runs, as everywhere.
            let held = objects::hold(&mut tx, locks).await?;
            if let Some((_, holder)) = held.into_iter().find(|(status, _)| status.is_none()) {
                return Ok(Reopened::KeyHeld(holder));
            }
        }
        let done = sqlx::query(DONE).bind(shard).bind(id).bind(ns).fetch_optional(&mut *tx).await?;
        let Some(done) = done else { return Ok(Reopened::Lost) };
        let first = sealed.append.rows.first().map_or(0, |r| r.n);
        if done.try_get::<i32, _>("last_n")? != first - 1 {
            return Ok(Reopened::Lost);
        }
        if sqlx::query_scalar(ERASED).bind(shard).bind(id).fetch_one(&mut *tx).await? {
            return Ok(Reopened::Lost);
        }
        let function: i32 = done.try_get("fn")?;
        let key: Option<String> = done.try_get("key")?;
        let (role, reads) = match object {
            None => (None, None),
            Some(NewPart::Has) => (Some(Role::Holds as i16), None),
            Some(NewPart::Reads(function)) => (Some(Role::Reads as i16), Some(function)),
        };
        // Who only reads has no key to itself.
        if let Some(key) = key.filter(|_| reads.is_none()) {
            let holder: Option<uuid::Uuid> = sqlx::query_scalar(KEY)
                .bind(shard)
                .bind(ns)
                .bind(function)
                .bind(key)
                .bind(id)
                .fetch_optional(&mut *tx)
                .await?;
            if let Some(holder) = holder {
                return Ok(Reopened::KeyHeld(holder.into()));
            }
        }
        for row in &sealed.append.rows {
            let inserted = sqlx::query(if sealed.home == 0 { ROW } else { ROW_LONG })
                .bind(shard)
                .bind(id)
                .bind(ns)
                .bind(row.n)
                .bind(row.kind.code())
                .bind(row.flags.0)
                .bind(row.seq)
                .bind(row.epoch)
                .bind(row.cp)
                .bind(row.ms)
                .bind(row.dep)
                .bind(Ts(row.at))
                .bind(row.due.map(Ts))
                .bind(row.refer)
                .bind(row.step.as_str())
                .bind(row.body.as_deref().map(Raw))
                .execute(&mut *tx)
                .await?;
            if inserted.rows_affected() == 0 {
                return Ok(Reopened::Lost);
            }
        }
        let inbox = taken.saturating_add(1);
        let at = Ts(message.at);
        let pinned = sealed.append.placement.is_some_and(|p| p.pinned);
        sqlx::query(LIVE)
            .bind(shard)
            .bind(id)
            .bind(inbox)
            .bind(at)
            .bind(pinned)
            .bind(role)
            .bind(reads)
            .execute(&mut *tx)
            .await?;
        if !locks.is_empty() {
            locks::take(&mut tx, &[Taker { run, locks, due: None }]).await?;
        }
        sqlx::query(GONE).bind(shard).bind(id).execute(&mut *tx).await?;
        sqlx::query(TOLD)
            .bind(shard)
            .bind(id)
            .bind(ns)
            .bind(inbox)
            .bind(message.id.uuid())
            .bind(message.kind as i16)
            .bind(Raw(&message.body))
            .bind(at)
            .execute(&mut *tx)
            .await?;
        let unlisten = OutgoingKind::Unlisten as i16;
        sqlx::query(LISTENS).bind(shard).bind(id).bind(unlisten).execute(&mut *tx).await?;
        sqlx::query(events::TAKE_ALL_WAITS).bind(shard).bind(id).execute(&mut *tx).await?;
        events::listen_on(&mut tx, waits).await?;
        tx.commit().await?;
        Ok(Reopened::Done)
    }
}
