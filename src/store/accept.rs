//! Accepting messages for runs: counted under the run's row lock, in the order of commits.

use std::collections::HashMap;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::{PgBindIterExt as _, PgConnection};
use uuid::Uuid;

use super::error::{Error, Result};
use super::wire::{self, Raw, Ts};
use super::{Idem, Lane, SILENCE, Store, heard};
use crate::machine::{Message, MessageId, RunId, UpdateId};

/// A message for a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// To whom.
    pub run: RunId,
    /// The namespace of the request: a run of another one is not there.
    pub ns: i32,
    /// What; its position is given here.
    pub message: Message,
    /// The idempotency key of the request; if it is a start's, on the shard of that.
    pub idem: Option<Idem>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It has this position in the run's inbox.
    At(i32),
    /// A message of this id is in the inbox already.
    Repeat,
    /// The same request was accepted before, as this message.
    IdemSame(MessageId),
    /// The idempotency key was used with another body.
    IdemReused,
    /// The run is about to end and takes no more messages.
    Closing,
    /// It is about a step of a generation that is over.
    OtherGeneration,
    /// The run has ended, or there is none.
    Gone,
}

/// A run that is closing refuses signals and callbacks (kinds under 4); operators' acts it takes. A
/// callback is refused whose generation is over: the run's row, locked here, says which one it is.
///
/// Any node, any number of messages. `lk` orders all who touch a run; what is in the inbox stays
/// there until the owner's append takes it, so nothing that is accepted can be lost.
pub(super) const ACCEPT: &str = "with m as materialized (
  select * from unnest($1::int2[],$2::uuid[],$3::uuid[],$4::int2[],$5::text[],$6::bytea[],
      $7::timestamptz[],$8::text[],$9::bytea[],$10::timestamptz[],$11::int4[],$12::int4[],
      $13::int2[]) with ordinality
    as t(shard,run_id,msg_id,kind,name,body,at,idem_key,idem_hash,idem_expires,ns,generation,
         idem_shard,ord)),
lk as materialized (
  select a.shard, a.run_id, a.inbox, a.closing, a.generation
    from (select distinct shard, run_id, ns from m) d join run_active a using (shard, run_id, ns)
   order by a.shard, a.run_id for update of a),
seen as materialized (
  select m.ord, e.msg_id, e.hash = m.idem_hash as same, e.expires_at <= m.at as expired
    from m join idem e on e.shard = m.idem_shard and e.ns = m.ns and e.key = m.idem_key
   order by e.shard, e.ns, e.key for update of e),
ins as (
  insert into inbox (shard,run_id,ns,pos,msg_id,kind,name,body,at,generation)
  select m.shard, m.run_id, m.ns,
         lk.inbox + row_number() over (partition by m.shard, m.run_id order by m.ord),
         m.msg_id, m.kind, m.name, m.body, m.at, m.generation
    from m join lk using (shard, run_id)
   where not (lk.closing and m.kind < 4) and coalesce(m.generation = lk.generation, true)
     and (m.ord in (select ord from seen where not expired)) is not true
   order by 1, 2, 4
  on conflict (shard, run_id, msg_id) do nothing returning shard, run_id, pos, msg_id),
up as (
  update run_active a set inbox = x.top
    from (select shard, run_id, max(pos) as top from ins group by 1, 2) x
   where a.shard = x.shard and a.run_id = x.run_id),
asked as materialized (
  select m.* from m join ins using (shard, run_id, msg_id) where m.idem_key is not null),
renewed as (
  update idem e set hash = o.idem_hash, run_id = o.run_id, msg_id = o.msg_id, created_at = o.at,
                    expires_at = o.idem_expires
    from asked o
   where e.shard = o.idem_shard and e.ns = o.ns and e.key = o.idem_key
     and (o.ord in (select ord from seen)) is true),
remembered as (
  insert into idem (shard, ns, key, hash, run_id, msg_id, created_at, expires_at)
  select idem_shard, ns, idem_key, idem_hash, run_id, msg_id, at, idem_expires from asked
   where (ord in (select ord from seen)) is not true order by 1, 2, 3)
select 0::int2 as what, run_id, null::uuid as msg_id, generation as pos, null::int8 as ord,
       closing as flag from lk
union all select 1::int2, run_id, msg_id, pos, null, null from ins
union all select 2::int2, null, msg_id, null, ord, same from seen where not expired";

/// Takes repeats of messages that were drained before out of the inbox.
pub(super) const DISCARD: &str =
    "delete from inbox i using unnest($1::int2[], $2::uuid[], $3::int4[]) as p(shard, run_id, pos)
 where i.shard = p.shard and i.run_id = p.run_id and i.pos = p.pos";

/// Whether a message was accepted, whatever has become of it.
pub(super) const HAS_MESSAGE: &str =
    "select exists (select from inbox where shard = $1 and run_id = $2 and msg_id = $3)
    or exists (select from journal where shard = $1 and run_id = $2 and ref = $3)
    or exists (select from journal_long where shard = $1 and run_id = $2 and ref = $3)
    or exists (select from history where shard = $1 and run_id = $2 and what = 'message.untaken'
       and convert_from(substr(data, 2), 'UTF8')::jsonb ->> 'id' = $3::text)";

/// What an update was answered: the first of its replies, in whatever generation.
pub(super) const ANSWER: &str = "select step, body from (
  select n, step, body from journal
   where shard = $1 and run_id = $2 and ref = $3 and kind = 1 and flags >> 8 = 12
  union all
  select n, step, body from journal_long
   where shard = $1 and run_id = $2 and ref = $3 and kind = 1 and flags >> 8 = 12) x
 order by n limit 1";

/// How often a batch that met a concurrent request with the same idempotency key is tried.
const TRIES: u32 = 5;

impl Lane {
    /// Accepts messages, in one transaction. Outcomes are in the order of the batch, and so are
    /// the positions of the messages of one run.
    ///
    /// Repeating a call with the same message ids is harmless. No two messages of a batch may
    /// share an idempotency key; then the batch fails as a whole.
    pub async fn accept(&mut self, batch: &[Accept]) -> Result<Vec<Accepted>> {
        for _ in 1..TRIES {
            match self.accept_once(batch).await {
                // A concurrent request with the same key committed first: now it can be seen.
                Err(Error::Conflict { constraint, .. }) if constraint == "idem_pkey" => {}
                other => return other,
            }
        }
        self.accept_once(batch).await
    }

    async fn accept_once(&mut self, batch: &[Accept]) -> Result<Vec<Accepted>> {
        accept_on(&mut self.conn, batch).await
    }
}

/// The same on a connection, which may be in a transaction if no message has an idempotency key.
pub(super) async fn accept_on(conn: &mut PgConnection, batch: &[Accept]) -> Result<Vec<Accepted>> {
    let all = || batch.iter();
    let idem = || batch.iter().map(|a| a.idem.as_ref());
    let query = sqlx::query(ACCEPT)
        .bind(all().map(|a| a.run.shard().column()).bind_iter())
        .bind(all().map(|a| a.run.uuid()).bind_iter())
        .bind(all().map(|a| a.message.id.uuid()).bind_iter())
        .bind(all().map(|a| a.message.kind as i16).bind_iter())
        .bind(all().map(|a| a.message.name.as_str()).bind_iter())
        .bind(all().map(|a| Raw(&a.message.body)).bind_iter())
        .bind(all().map(|a| Ts(a.message.at)).bind_iter())
        .bind(idem().map(|i| i.map(|i| i.key.as_str())).bind_iter())
        .bind(idem().map(|i| i.map(|i| i.hash.as_slice())).bind_iter())
        .bind(idem().map(|i| i.map(|i| Ts(i.expires_at))).bind_iter())
        .bind(all().map(|a| a.ns).bind_iter())
        .bind(all().map(|a| a.message.generation).bind_iter())
        .bind(idem().map(|i| i.map(|i| i.shard.column())).bind_iter());
    let rows = heard(SILENCE, query.fetch_all(&mut *conn)).await?;
    let mut closing: HashMap<Uuid, (bool, i32)> = HashMap::new();
    let mut taken: HashMap<(Uuid, Uuid), i32> = HashMap::new();
    let mut seen: HashMap<i64, Accepted> = HashMap::new();
    for row in rows {
        let message = || row.try_get::<Uuid, _>("msg_id");
        match row.try_get::<i16, _>("what")? {
            0 => {
                let stands = (row.try_get("flag")?, row.try_get("pos")?);
                closing.insert(row.try_get("run_id")?, stands);
            }
            1 => {
                taken.insert((row.try_get("run_id")?, message()?), row.try_get("pos")?);
            }
            _ => {
                let same: bool = row.try_get("flag")?;
                let message: Option<Uuid> = row.try_get("msg_id")?;
                let outcome = match message {
                    Some(id) if same => Accepted::IdemSame(id.into()),
                    _ => Accepted::IdemReused,
                };
                seen.insert(row.try_get("ord")?, outcome);
            }
        }
    }
    let outcome = |(a, ord): (&Accept, i64)| {
        let (run, message) = (a.run.uuid(), a.message.id.uuid());
        match (seen.get(&ord), closing.get(&run), taken.get(&(run, message))) {
            // A repeat of this very call: its message is in the inbox, or was drained.
            (Some(Accepted::IdemSame(id)), ..) if *id == a.message.id => Accepted::Repeat,
            (Some(outcome), ..) => *outcome,
            (None, None, _) => Accepted::Gone,
            (None, Some(_), Some(pos)) => Accepted::At(*pos),
            (None, Some((_, generation)), None)
                if a.message.generation.is_some_and(|g| g != *generation) =>
            {
                Accepted::OtherGeneration
            }
            (None, Some((true, _)), None) => Accepted::Closing,
            (None, Some((false, _)), None) => Accepted::Repeat,
        }
    };
    Ok(batch.iter().zip(1..).map(outcome).collect())
}

impl Store {
    /// Whether a message was accepted, whatever has become of it.
    pub async fn has_message(&self, run: RunId, message: MessageId) -> Result<bool> {
        let query = sqlx::query_scalar(HAS_MESSAGE)
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(message.uuid());
        Ok(query.fetch_one(&self.pool).await?)
    }

    /// What an update of a run was answered, JSON, and by which step; none: nothing yet.
    pub async fn answer(&self, run: RunId, update: UpdateId) -> Result<Option<(String, Bytes)>> {
        let query = sqlx::query(ANSWER).bind(run.shard().column()).bind(run.uuid());
        let Some(row) = query.bind(update.uuid()).fetch_optional(&self.pool).await? else {
            return Ok(None);
        };
        let body = wire::body(&row, "body")?.unwrap_or_default();
        Ok(Some((row.try_get("step")?, body)))
    }

    /// Takes messages out of inboxes, by run and position, that repeat what was drained before.
    pub async fn discard(&self, repeats: &[(RunId, i32)]) -> Result<()> {
        sqlx::query(DISCARD)
            .bind(repeats.iter().map(|(run, _)| run.shard().column()).bind_iter())
            .bind(repeats.iter().map(|(run, _)| run.uuid()).bind_iter())
            .bind(repeats.iter().map(|(_, pos)| *pos).bind_iter())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
