//! What receivers are told: recorded once, sent by whichever node takes it, listed, sent again.

use std::time::Duration;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::{PgBindIterExt as _, PgRow};
use uuid::Uuid;

use super::error::{Error, Result};
use super::outbox::{Delivery, Slot};
use super::wire::{self, Raw, Ts};
use super::{SILENCE, Store, heard};
use crate::machine::{MessageId, RunId, Timestamp};

/// What somebody is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// What the receiver sees, the same at every attempt.
    pub id: MessageId,
    /// The namespace.
    pub ns: i32,
    /// The webhook's number; 0: the start of the run asked for it.
    pub webhook: i32,
    /// With whom it shares its turns.
    pub queue: i32,
    /// The run that it is about.
    pub run: Option<RunId>,
    /// Where it goes, if no webhook says so.
    pub url: Option<String>,
    /// The secret that signs it, if no webhook has one.
    pub secret: Option<String>,
    /// Of what it tells.
    pub event: String,
    /// When that happened.
    pub at: Timestamp,
    /// The JSON that is sent.
    pub body: Bytes,
}

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum DeliveryStatus {
    /// It is to be sent, or is being sent.
    Pending = 0,
    /// Its receiver has taken it.
    Delivered = 1,
    /// It was given up.
    Dead = 2,
}

impl DeliveryStatus {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Dead];

    /// The word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

/// A delivery as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    /// What it is.
    pub new: NewDelivery,
    /// How it stands.
    pub status: DeliveryStatus,
    /// Attempts since it was last begun.
    pub attempts: u32,
    /// When the first of them began.
    pub first_at: Option<Timestamp>,
    /// When the next one begins.
    pub next_at: Option<Timestamp>,
    /// When the last one ended.
    pub last_at: Option<Timestamp>,
    /// What it was answered with.
    pub last_status: Option<u16>,
    /// What came of it, in words.
    pub last_detail: Option<String>,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempted {
    /// How the delivery stands by it.
    pub status: DeliveryStatus,
    /// When the next attempt begins, where one follows.
    pub next_at: Option<Timestamp>,
    /// When it ended.
    pub at: Timestamp,
    /// What it was answered with.
    pub answered: Option<u16>,
    /// In words.
    pub detail: String,
}

/// What is listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// How they stand.
    pub status: Option<DeliveryStatus>,
    /// Of what they tell.
    pub event: Option<String>,
    /// The run that they are about.
    pub run: Option<RunId>,
    /// Only those before this one: the newest come first.
    pub before: Option<MessageId>,
    /// How many at most.
    pub limit: i64,
}

/// A run as those are told of it who listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noteworthy {
    /// Which row of it is told of.
    pub slot: Slot,
    /// Its function.
    pub function_id: i32,
    /// Its key.
    pub key: Option<String>,
    /// Its generation.
    pub generation: i32,
    /// Its tags, JSON.
    pub tags: Option<String>,
    /// The run that started it.
    pub parent: Option<RunId>,
    /// When it was started.
    pub created_at: Timestamp,
    /// When what is told happened.
    pub at: Timestamp,
    /// The row's payload.
    pub body: Option<Bytes>,
}

macro_rules! columns {
    () => {
        "d.id, d.ns, d.webhook, d.queue, d.run_id, d.url, d.secret_name, d.event, d.at, d.body, d.status,
       d.attempts, d.first_at, d.next_at, d.last_at, d.last_status, d.last_detail"
    };
}

/// Runs and the rows that are told of, wherever they are by now.
pub(super) const NOTEWORTHY: &str = "select u.run_id, u.n, u.k, r.fn, r.key, r.generation, r.tags,
       r.parent, r.created_at, j.at, j.body
  from unnest($1::int2[], $2::uuid[], $3::int4[], $4::int2[]) as u(shard, run_id, n, k)
 cross join lateral (
   select fn, key, generation, tags::text as tags, parent, created_at, home from run_active a
    where a.shard = u.shard and a.run_id = u.run_id
   union all
   select fn, key, generation, tags::text, parent, created_at, home from run_done e
    where e.shard = u.shard and e.run_id = u.run_id
   limit 1) r
 cross join lateral (
   select at, body from journal w
    where r.home = 0 and w.shard = u.shard and w.run_id = u.run_id and w.n = u.n
   union all
   select at, body from journal_long l
    where r.home = 1 and l.shard = u.shard and l.run_id = u.run_id and l.n = u.n
   limit 1) j";

pub(super) const ADD: &str = "insert into webhook_deliveries
    (id, ns, webhook, queue, run_id, url, secret_name, event, at, body, next_at)
select id, ns, webhook, queue, run_id, url, secret_name, event, at, body, at
  from unnest($1::uuid[], $2::int4[], $3::int4[], $4::int4[], $5::uuid[], $6::text[], $7::text[],
              $8::text[], $9::timestamptz[], $10::bytea[])
    as t(id, ns, webhook, queue, run_id, url, secret_name, event, at, body)";

/// Takes what is due, some of each queue that is not named as full: from queue to queue by the index,
/// however much waits in each. Nothing of a webhook that is disabled or gone.
pub(super) const TAKE: &str = concat!(
    "with recursive queues(queue) as (
  (select queue from webhook_deliveries where status = 0 order by queue limit 1)
  union all
  select (select d.queue from webhook_deliveries d
           where d.status = 0 and d.queue > q.queue order by d.queue limit 1)
    from queues q where q.queue is not null),
open as (
  select q.queue from queues q
   where q.queue is not null and not (q.queue = any($4::int4[]))
     and (q.queue < 0 or exists (
       select from webhooks w
        where w.id = q.queue and w.disabled_at is null and w.deleted_at is null))),
due as materialized (
  select p.id from open q cross join lateral (
    select d.id from webhook_deliveries d
     where d.status = 0 and d.queue = q.queue and d.next_at <= $1
     order by d.next_at limit $3 for update skip locked) p
   limit $5)
update webhook_deliveries d
   set next_at = $1 + $2 * interval '1 millisecond', attempts = d.attempts + 1,
       first_at = coalesce(d.first_at, $1)
  from due where d.id = due.id returning ",
    columns!()
);

/// Only by whoever sent it last.
pub(super) const ATTEMPTED: &str = "update webhook_deliveries
   set status = $3::int2, next_at = $4, last_at = $5, last_status = $6, last_detail = $7,
       settled_at = case when $3::int2 <> 0 then $5::timestamptz end
 where id = $1 and status = 0 and attempts = $2";

pub(super) const LIST: &str = concat!(
    "select ",
    columns!(),
    " from webhook_deliveries d
 where d.ns = $1 and d.webhook = $2 and ($3::uuid is null or d.id < $3)
   and ($4::int2 is null or d.status = $4) and ($5::text is null or d.event = $5)
   and ($6::uuid is null or d.run_id = $6)
 order by d.id desc limit $7"
);

/// The same of what was given up, which is rare among much that was not.
pub(super) const LIST_DEAD: &str = concat!(
    "select ",
    columns!(),
    " from webhook_deliveries d
 where d.ns = $1 and d.webhook = $2 and ($3::uuid is null or d.id < $3) and d.status = 2
   and ($4::text is null or d.event = $4) and ($5::uuid is null or d.run_id = $5)
 order by d.id desc limit $6"
);

pub(super) const ONE: &str = concat!(
    "select ",
    columns!(),
    " from webhook_deliveries d where d.ns = $1 and d.webhook = $2 and d.id = $3"
);

macro_rules! again {
    ($which:literal) => {
        concat!(
            "update webhook_deliveries d
   set status = 0, attempts = 0, first_at = null, next_at = $3, settled_at = null
 where d.ns = $1 and d.webhook = $2 and ",
            $which
        )
    };
}
pub(super) const AGAIN: &str = concat!(again!("d.id = $4 returning "), columns!());
pub(super) const ALL_AGAIN: &str = again!(
    "d.id in (
   select x.id from webhook_deliveries x
    where x.ns = $1 and x.webhook = $2 and x.status = 2
      and ($4::timestamptz is null or x.at >= $4) and ($5::timestamptz is null or x.at < $5)
      and ($6::text is null or x.event = $6)
    order by x.id limit $7 for update)"
);

/// What nobody asks for any more: what was settled long ago, what belongs to a webhook that is gone.
pub(super) const TRIM: &str = "delete from webhook_deliveries where id in (
  (select id from webhook_deliveries where status <> 0 and settled_at < $1 order by settled_at limit $2)
  union all
  (select d.id from webhooks w
    cross join lateral (select id from webhook_deliveries x
                         where x.ns = w.ns and x.webhook = w.id limit $2) d
    where w.deleted_at is not null limit $2))";
pub(super) const FORGET: &str = "delete from webhooks w where w.deleted_at is not null
   and not exists (select from webhook_deliveries d where d.ns = w.ns and d.webhook = w.id)";

fn delivery(row: &PgRow) -> Result<DeliveryRow> {
    let status: i16 = row.try_get("status")?;
    let known = DeliveryStatus::ALL.into_iter().find(|s| *s as i16 == status);
    let answered: Option<i32> = row.try_get("last_status")?;
    Ok(DeliveryRow {
        new: NewDelivery {
            id: row.try_get::<Uuid, _>("id")?.into(),
            ns: row.try_get("ns")?,
            webhook: row.try_get("webhook")?,
            queue: row.try_get("queue")?,
            run: row.try_get::<Option<Uuid>, _>("run_id")?.map(RunId::from),
            url: row.try_get("url")?,
            secret: row.try_get("secret_name")?,
            event: row.try_get("event")?,
            at: wire::at(row, "at")?,
            body: wire::body(row, "body")?.unwrap_or_default(),
        },
        status: known.ok_or_else(|| Error::corrupt(format!("delivery of status {status}")))?,
        attempts: row.try_get::<i32, _>("attempts")?.unsigned_abs(),
        first_at: wire::maybe_at(row, "first_at")?,
        next_at: wire::maybe_at(row, "next_at")?,
        last_at: wire::maybe_at(row, "last_at")?,
        last_status: answered.and_then(|status| u16::try_from(status).ok()),
        last_detail: row.try_get("last_detail")?,
    })
}

fn add(new: &[NewDelivery]) -> sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments> {
    sqlx::query(ADD)
        .bind(new.iter().map(|d| d.id.uuid()).bind_iter())
        .bind(new.iter().map(|d| d.ns).bind_iter())
        .bind(new.iter().map(|d| d.webhook).bind_iter())
        .bind(new.iter().map(|d| d.queue).bind_iter())
        .bind(new.iter().map(|d| d.run.map(RunId::uuid)).bind_iter())
        .bind(new.iter().map(|d| d.url.as_deref()).bind_iter())
        .bind(new.iter().map(|d| d.secret.as_deref()).bind_iter())
        .bind(new.iter().map(|d| d.event.as_str()).bind_iter())
        .bind(new.iter().map(|d| Ts(d.at)).bind_iter())
        .bind(new.iter().map(|d| Raw(&d.body)).bind_iter())
}

impl Delivery<'_> {
    /// The runs, and their rows, that are told of; what is not there any more is left out.
    pub async fn noteworthy(&mut self, slots: &[Slot]) -> Result<Vec<Noteworthy>> {
        let query = sqlx::query(NOTEWORTHY)
            .bind(slots.iter().map(|s| s.0.shard().column()).bind_iter())
            .bind(slots.iter().map(|s| s.0.uuid()).bind_iter())
            .bind(slots.iter().map(|s| s.1).bind_iter())
            .bind(slots.iter().map(|s| s.2).bind_iter());
        let rows = heard(SILENCE, query.fetch_all(self.conn())).await?;
        let noteworthy = |row: &PgRow| {
            Ok(Noteworthy {
                slot: (wire::run_id(row)?, row.try_get("n")?, row.try_get("k")?),
                function_id: row.try_get("fn")?,
                key: row.try_get("key")?,
                generation: row.try_get("generation")?,
                tags: row.try_get("tags")?,
                parent: row.try_get::<Option<Uuid>, _>("parent")?.map(RunId::from),
                created_at: wire::at(row, "created_at")?,
                at: wire::at(row, "at")?,
                body: wire::body(row, "body")?,
            })
        };
        rows.iter().map(noteworthy).collect()
    }

    /// Records what is to be told.
    pub async fn add(&mut self, new: &[NewDelivery]) -> Result<()> {
        if !new.is_empty() {
            heard(SILENCE, add(new).execute(self.conn())).await?;
        }
        Ok(())
    }
}

impl Store {
    /// Records something that is to be told.
    pub async fn add_delivery(&self, new: &NewDelivery) -> Result<()> {
        add(std::slice::from_ref(new)).execute(&self.pool).await?;
        Ok(())
    }

    /// Takes what is due, some of each queue but of those named, at most `most`. Whoever hears
    /// nothing of it for `lease` may take it again.
    pub async fn take_deliveries(
        &self,
        now: Timestamp,
        lease: Duration,
        of_each: i64,
        full: &[i32],
        most: i64,
    ) -> Result<Vec<DeliveryRow>> {
        let query = sqlx::query(TAKE)
            .bind(Ts(now))
            .bind(lease.as_secs_f64() * 1_000.0)
            .bind(of_each)
            .bind(full)
            .bind(most);
        query.fetch_all(&self.pool).await?.iter().map(delivery).collect()
    }

    /// Records what came of attempt `attempt` of a delivery; whether it was still the last one.
    pub async fn attempted(&self, id: MessageId, attempt: u32, came: &Attempted) -> Result<bool> {
        let query = sqlx::query(ATTEMPTED)
            .bind(id.uuid())
            .bind(i32::try_from(attempt).unwrap_or(i32::MAX))
            .bind(came.status as i16)
            .bind(came.next_at.map(Ts))
            .bind(Ts(came.at))
            .bind(came.answered.map(i32::from))
            .bind(&came.detail);
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// Deliveries of a webhook, the newest first.
    pub async fn deliveries(
        &self,
        ns: i32,
        webhook: i32,
        filter: &DeliveryFilter,
    ) -> Result<Vec<DeliveryRow>> {
        let (event, run) = (filter.event.as_deref(), filter.run.map(RunId::uuid));
        let before = filter.before.map(MessageId::uuid);
        let dead = filter.status == Some(DeliveryStatus::Dead);
        let query = sqlx::query(if dead { LIST_DEAD } else { LIST }).bind(ns).bind(webhook);
        let query = query.bind(before);
        let query = if dead { query } else { query.bind(filter.status.map(|s| s as i16)) };
        let query = query.bind(event).bind(run).bind(filter.limit);
        query.fetch_all(&self.pool).await?.iter().map(delivery).collect()
    }

    /// One delivery of a webhook.
    pub async fn delivery_of(
        &self,
        ns: i32,
        webhook: i32,
        id: MessageId,
    ) -> Result<Option<DeliveryRow>> {
        let query = sqlx::query(ONE).bind(ns).bind(webhook).bind(id.uuid());
        query.fetch_optional(&self.pool).await?.as_ref().map(delivery).transpose()
    }

    /// Begins a delivery anew, whatever came of it.
    pub async fn redeliver(
        &self,
        ns: i32,
        webhook: i32,
        id: MessageId,
        now: Timestamp,
    ) -> Result<Option<DeliveryRow>> {
        let query = sqlx::query(AGAIN).bind(ns).bind(webhook).bind(Ts(now)).bind(id.uuid());
        query.fetch_optional(&self.pool).await?.as_ref().map(delivery).transpose()
    }

    /// Begins anew what was given up, the oldest first; how many that are.
    pub async fn redeliver_dead(
        &self,
        ns: i32,
        webhook: i32,
        now: Timestamp,
        (since, until): (Option<Timestamp>, Option<Timestamp>),
        event: Option<&str>,
        most: i64,
    ) -> Result<u64> {
        let query = sqlx::query(ALL_AGAIN)
            .bind(ns)
            .bind(webhook)
            .bind(Ts(now))
            .bind(since.map(Ts))
            .bind(until.map(Ts))
            .bind(event)
            .bind(most);
        Ok(query.execute(&self.pool).await?.rows_affected())
    }

    /// Removes at most about `most` of what was settled before, or is of webhooks that are gone.
    pub async fn trim_deliveries(&self, settled_before: Timestamp, most: i64) -> Result<u64> {
        let query = sqlx::query(TRIM).bind(Ts(settled_before)).bind(most);
        let removed = query.execute(&self.pool).await?.rows_affected();
        sqlx::query(FORGET).execute(&self.pool).await?;
        Ok(removed)
    }
}
