//! Acts on many runs: rows that say how far each has come. A page of runs is written down before it
//! is acted on, so that whoever goes on after a crash is at the same runs, and is counted by the
//! node that has the row's last claim alone.

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::error::Result;
use super::lists::RunCount;
use super::wire::{self, Raw, Ts};
use super::{SILENCE, Store, heard};
use crate::machine::{BulkId, RunId, Timestamp};

/// How an act on many runs stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum BulkStatus {
    /// There are runs that it has not come to.
    Running = 0,
    /// It has come to the last run.
    Completed = 1,
    /// Somebody has stopped it.
    Aborted = 2,
}

impl BulkStatus {
    /// All, in the order of their codes.
    pub const ALL: [Self; 3] = [Self::Running, Self::Completed, Self::Aborted];

    /// The word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Aborted => "aborted",
        }
    }
}

/// An act on many runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkRow {
    /// Which.
    pub id: BulkId,
    /// Namespace.
    pub ns: i32,
    /// How it stands.
    pub status: BulkStatus,
    /// What is done, in a word.
    pub action: String,
    /// Runs a second.
    pub rate: i32,
    /// Who asked for it.
    pub created_by: String,
    /// Who aborted it.
    pub ended_by: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When a page was counted last.
    pub updated_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Later runs are left alone.
    pub before: Timestamp,
    /// The claim of who works on it.
    pub claim: i32,
    /// The last run that it has come to.
    pub cursor: Option<RunId>,
    /// The runs that are acted on just now.
    pub page: Option<Vec<RunId>>,
    /// Where it goes on behind them.
    pub page_to: Option<RunId>,
    /// How many runs matched at the start.
    pub expected: RunCount,
    /// What came of those it has come to.
    pub counts: BulkCounts,
    /// The idempotency key of the request.
    pub request_key: Option<String>,
    /// SHA-256 of the request's body.
    pub request_hash: [u8; 32],
    /// JSON.
    pub spec: Bytes,
    /// JSON.
    pub reasons: Bytes,
}

/// What came of runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BulkCounts {
    /// Runs that matched.
    pub matched: i64,
    /// Acted on.
    pub done: i64,
    /// Nothing to do.
    pub skipped: i64,
    /// The act failed.
    pub failed: i64,
}

/// Which acts on many runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BulkFilter {
    /// In one of these; empty: in any.
    pub status: Vec<i16>,
    /// Of one of these; empty: any.
    pub actions: Vec<String>,
    /// Only those before this one: the list goes from new to old.
    pub after: Option<BulkId>,
    /// How many at most.
    pub limit: i64,
}

macro_rules! columns {
    () => {
        "b.id, b.ns, b.status, b.action, b.rate, b.created_by, b.ended_by, b.created_at, b.updated_at,
       b.ended_at, b.before, b.claim, b.cursor, b.page, b.page_to, b.expected, b.expected_exact,
       b.matched, b.done, b.skipped, b.failed, b.request_key, b.request_hash, b.spec, b.reasons"
    };
}

pub(super) const CREATE: &str = "insert into bulks
  (shard, id, ns, action, rate, created_by, created_at, updated_at, next_at, before, expected,
   expected_exact, request_key, request_hash, spec, reasons)
values ($1, $2, $3, $4, $5, $6, $7, $7, $7, $8, $9, $10, $11, $12, $13, $14)
on conflict on constraint bulks_request do nothing";

pub(super) const GET: &str =
    concat!("select ", columns!(), " from bulks b where b.shard = $1 and b.id = $2 and b.ns = $3");

pub(super) const OF_REQUEST: &str =
    concat!("select ", columns!(), " from bulks b where b.ns = $1 and b.request_key = $2");

pub(super) const LIST: &str = concat!(
    "select ",
    columns!(),
    " from bulks b
 where b.ns = $1 and b.id < $2 and (cardinality($3::int2[]) = 0 or b.status = any($3))
   and (cardinality($4::text[]) = 0 or b.action = any($4))
 order by b.id desc limit $5"
);

/// What is due within the horizon on shards of these groups, and what is overdue wherever it is.
pub(super) const DUE: &str = "select id, next_at from bulks
 where next_at <= $2 and (next_at <= $1 or (shard >> 4) = any($3::int2[]))
 order by next_at limit $4";

/// Whoever moves `next_at` has the page until then.
pub(super) const CLAIM: &str = concat!(
    "update bulks b set claim = b.claim + 1, next_at = $4
 where (b.shard, b.id) in (
   select shard, id from bulks where shard = $1 and id = $2 and next_at <= $3
   for update skip locked)
returning ",
    columns!()
);

pub(super) const PLAN: &str = "update bulks set page = $4, page_to = $5
 where shard = $1 and id = $2 and claim = $3 and status = 0";

/// Counts a page. One that was aborted meanwhile stays so.
pub(super) const COUNTED: &str = "update bulks
   set cursor = coalesce(page_to, cursor), page = null, page_to = null, updated_at = $4,
       matched = matched + $5, done = done + $6, skipped = skipped + $7, failed = failed + $8,
       reasons = $9,
       next_at = case when status = 0 and page_to is not null then $10::timestamptz end,
       status = case when status = 0 and page_to is null then 1 else status end,
       ended_at = case when status = 0 and page_to is null then $4 else ended_at end
 where shard = $1 and id = $2 and claim = $3";

pub(super) const LATER: &str = "update bulks set next_at = $4
 where shard = $1 and id = $2 and claim = $3 and status = 0";

pub(super) const ABORT: &str =
    "update bulks set status = 2, ended_at = $4, ended_by = $5, next_at = null
 where shard = $1 and id = $2 and ns = $3 and status = 0";

pub(super) const TRIM: &str = "delete from bulks b
 where (b.shard, b.id) in (
   select shard, id from bulks where ended_at < $1 limit $2 for update skip locked)";

fn status(code: i16) -> BulkStatus {
    BulkStatus::ALL.into_iter().find(|s| *s as i16 == code).unwrap_or(BulkStatus::Completed)
}

fn bulk(row: &PgRow) -> Result<BulkRow> {
    let run = |column: &str| row.try_get::<Option<Uuid>, _>(column);
    let page: Option<Vec<Uuid>> = row.try_get("page")?;
    let hash: Vec<u8> = row.try_get("request_hash")?;
    Ok(BulkRow {
        id: row.try_get::<Uuid, _>("id")?.into(),
        ns: row.try_get("ns")?,
        status: status(row.try_get("status")?),
        action: row.try_get("action")?,
        rate: row.try_get("rate")?,
        created_by: row.try_get("created_by")?,
        ended_by: row.try_get("ended_by")?,
        created_at: wire::at(row, "created_at")?,
        updated_at: wire::at(row, "updated_at")?,
        ended_at: wire::maybe_at(row, "ended_at")?,
        before: wire::at(row, "before")?,
        claim: row.try_get("claim")?,
        cursor: run("cursor")?.map(RunId::from),
        page: page.map(|page| page.into_iter().map(RunId::from).collect()),
        page_to: run("page_to")?.map(RunId::from),
        expected: RunCount {
            count: row.try_get("expected")?,
            exact: row.try_get("expected_exact")?,
        },
        counts: BulkCounts {
            matched: row.try_get("matched")?,
            done: row.try_get("done")?,
            skipped: row.try_get("skipped")?,
            failed: row.try_get("failed")?,
        },
        request_key: row.try_get("request_key")?,
        request_hash: hash.try_into().unwrap_or_default(),
        spec: wire::body(row, "spec")?.unwrap_or_default(),
        reasons: wire::body(row, "reasons")?.unwrap_or_default(),
    })
}

macro_rules! of_claim {
    ($sql:expr, $row:expr) => {
        sqlx::query($sql).bind($row.id.shard().column()).bind($row.id.uuid()).bind($row.claim)
    };
}

impl Store {
    /// Keeps a new act on many runs. Returns whether its request is the first of its key.
    pub async fn create_bulk(&self, new: &BulkRow) -> Result<bool> {
        let query = sqlx::query(CREATE)
            .bind(new.id.shard().column())
            .bind(new.id.uuid())
            .bind(new.ns)
            .bind(&new.action)
            .bind(new.rate)
            .bind(&new.created_by)
            .bind(Ts(new.created_at))
            .bind(Ts(new.before))
            .bind(new.expected.count)
            .bind(new.expected.exact)
            .bind(new.request_key.as_deref())
            .bind(new.request_hash.as_slice())
            .bind(Raw(&new.spec))
            .bind(Raw(&new.reasons));
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// An act on many runs.
    pub async fn bulk(&self, ns: i32, id: BulkId) -> Result<Option<BulkRow>> {
        let query = sqlx::query(GET).bind(id.shard().column()).bind(id.uuid()).bind(ns);
        query.fetch_optional(&self.pool).await?.as_ref().map(bulk).transpose()
    }

    /// The one that a request with this idempotency key has made.
    pub async fn bulk_of_request(&self, ns: i32, key: &str) -> Result<Option<BulkRow>> {
        let query = sqlx::query(OF_REQUEST).bind(ns).bind(key);
        query.fetch_optional(&self.pool).await?.as_ref().map(bulk).transpose()
    }

    /// A page of them, new to old.
    pub async fn bulks(&self, ns: i32, filter: &BulkFilter) -> Result<Vec<BulkRow>> {
        let query = sqlx::query(LIST)
            .bind(ns)
            .bind(filter.after.map_or(Uuid::max(), BulkId::uuid))
            .bind(&filter.status)
            .bind(&filter.actions)
            .bind(filter.limit);
        query.fetch_all(&self.pool).await?.iter().map(bulk).collect()
    }

    /// Those with a page to do: of these groups by `soon`, of all by `late`.
    pub async fn due_bulks(
        &self,
        groups: &[i16],
        soon: Timestamp,
        late: Timestamp,
        limit: i64,
    ) -> Result<Vec<(BulkId, Timestamp)>> {
        let query = sqlx::query(DUE).bind(Ts(late)).bind(Ts(soon)).bind(groups).bind(limit);
        let rows = query.fetch_all(&self.pool).await?;
        let due =
            |row: &PgRow| Ok((row.try_get::<Uuid, _>("id")?.into(), wire::at(row, "next_at")?));
        rows.iter().map(due).collect()
    }

    /// Takes one that is due by `now`, until `until`; none: another has it, or it has ended.
    pub async fn claim_bulk(
        &self,
        id: BulkId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<BulkRow>> {
        let query = sqlx::query(CLAIM)
            .bind(id.shard().column())
            .bind(id.uuid())
            .bind(Ts(now))
            .bind(Ts(until));
        let row = heard(SILENCE, query.fetch_optional(&self.pool)).await?;
        row.as_ref().map(bulk).transpose()
    }

    /// Writes down the runs that are acted on next, and where it goes on behind them. Returns
    /// whether the claim is still the last.
    pub async fn plan_bulk(
        &self,
        row: &BulkRow,
        page: &[RunId],
        to: Option<RunId>,
    ) -> Result<bool> {
        let page: Vec<Uuid> = page.iter().map(|run| run.uuid()).collect();
        let query = of_claim!(PLAN, row).bind(page).bind(to.map(RunId::uuid));
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// Counts what came of the page. Returns whether the claim is still the last.
    pub async fn count_bulk(
        &self,
        row: &BulkRow,
        now: Timestamp,
        page: &BulkCounts,
        reasons: &[u8],
        next: Timestamp,
    ) -> Result<bool> {
        let query = of_claim!(COUNTED, row)
            .bind(Ts(now))
            .bind(page.matched)
            .bind(page.done)
            .bind(page.skipped)
            .bind(page.failed)
            .bind(Raw(reasons))
            .bind(Ts(next));
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// Leaves it, with its page, for a while.
    pub async fn put_off_bulk(&self, row: &BulkRow, to: Timestamp) -> Result<()> {
        of_claim!(LATER, row).bind(Ts(to)).execute(&self.pool).await?;
        Ok(())
    }

    /// Stops one that goes on. Returns whether it did.
    pub async fn abort_bulk(&self, ns: i32, id: BulkId, by: &str, now: Timestamp) -> Result<bool> {
        let query = sqlx::query(ABORT)
            .bind(id.shard().column())
            .bind(id.uuid())
            .bind(ns)
            .bind(Ts(now))
            .bind(by);
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }
}
