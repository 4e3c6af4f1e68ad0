//! Pages of one run's journal, values, history and logs, for reading.

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgBindIterExt as _;
use sqlx::postgres::PgRow;

use super::Store;
use super::error::Result;
use super::wire::{self, Raw, Ts, journal_columns};
use crate::machine::{HistoryEntry, LogLine, LogPart, Row, RunId, Timestamp};

/// A settled step.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalEntry {
    /// The row that settled it: `done` or `failed`.
    pub row: Row,
    /// How many attempts it took.
    pub attempts: i32,
    /// When it was asked for; none: it settled at its first report.
    pub asked_at: Option<Timestamp>,
}

/// A log line and where reading goes on after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLog {
    /// Tells lines of one moment apart.
    pub k: i16,
    /// The line.
    pub line: LogLine,
}

/// Of the generation that begins at `$5`. `n > $5 + $3` holds because `seq` never exceeds how far
/// `n` is from there: the walk along the key starts near the page.
/// A `failed` row carries its attempts in `tried` rows before it, one less than were made. What was
/// taken back later (kind 16, which has an index of its own) is left out.
macro_rules! page {
    ($journal:literal) => {
        concat!(
            "with back as materialized (
  select step, max(n) as n from ",
            $journal,
            " where shard = $1 and run_id = $2 and n > $5::int4 + $3::int4 and kind = 16 group by step),
j as materialized (
  select ",
            journal_columns!(),
            " from ",
            $journal,
            " j
   where shard = $1 and run_id = $2 and n > $5::int4 + $3::int4 and seq > $3 and kind in (1, 2)
     and not exists (select from back b where b.step = j.step and b.n > j.n)
   order by n limit $4),
before as materialized (
  select step, count(*) filter (where kind = 4)::int4 as tried,
         min(at) filter (where kind = 3) as asked_at
    from ",
            $journal,
            "
   where shard = $1 and run_id = $2 and n >= $5 and kind in (3, 4)
     and step in (select step from j)
   group by step)
select ",
            journal_columns!(),
            ", coalesce(b.tried, 0) + 1 as attempts, b.asked_at
  from j left join before b using (step) order by j.n"
        )
    };
}
pub(super) const PAGE: &str = page!("journal");
pub(super) const PAGE_LONG: &str = page!("journal_long");

macro_rules! after {
    ($journal:literal) => {
        concat!(
            "select ",
            journal_columns!(),
            " from ",
            $journal,
            " j
 where shard = $1 and run_id = $2 and n > $3 order by n limit $4"
        )
    };
}
pub(super) const AFTER: &str = after!("journal");
pub(super) const AFTER_LONG: &str = after!("journal_long");

macro_rules! value {
    ($journal:literal) => {
        concat!("select body from ", $journal, " where shard = $1 and run_id = $2 and n = $3")
    };
}
pub(super) const VALUE: &str = value!("journal");
pub(super) const VALUE_LONG: &str = value!("journal_long");

pub(super) const HISTORY: &str = "select at, epoch, what, by, data from history
 where shard = $1 and run_id = $2 order by at, k limit $3";

pub(super) const TELL: &str =
    "insert into history (shard, run_id, ns, at, k, epoch, what, by, data)
select $1, $2, $3, at, k, epoch, what, by, data
  from unnest($4::timestamptz[],$5::int2[],$6::int4[],$7::text[],$8::text[],$9::bytea[])
    as h(at,k,epoch,what,by,data) on conflict do nothing";

pub(super) const LOGS: &str = "select at, k, level, message, fields, stream from logs
 where shard = $1 and run_id = $2 and ($3::timestamptz is null or (at, k) > ($3, $4))
   and case $6::int2 when 0 then stream is null when 1 then stream = $7
       when 2 then stream is not null else true end
 order by at, k limit $5";

impl Store {
    /// Settled steps after `seq` of the generation that begins at `gen_n`, in order.
    pub async fn journal_page(
        &self,
        run: RunId,
        home: i16,
        gen_n: i32,
        after_seq: i32,
        limit: i64,
    ) -> Result<Vec<JournalEntry>> {
        let rows = sqlx::query(if home == 0 { PAGE } else { PAGE_LONG })
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(after_seq)
            .bind(limit)
            .bind(gen_n)
            .fetch_all(&self.pool)
            .await?;
        let entry = |row: &PgRow| {
            Ok(JournalEntry {
                row: wire::journal_row(row)?,
                attempts: row.try_get("attempts")?,
                asked_at: wire::maybe_at(row, "asked_at")?,
            })
        };
        rows.iter().map(entry).collect()
    }

    /// Rows after position `n` (-1 for all), in order.
    pub async fn rows_after(&self, run: RunId, home: i16, n: i32, limit: i64) -> Result<Vec<Row>> {
        let rows = sqlx::query(if home == 0 { AFTER } else { AFTER_LONG })
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(n)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(wire::journal_row).collect()
    }

    /// The body of one row.
    pub async fn value(&self, run: RunId, home: i16, n: i32) -> Result<Option<Bytes>> {
        let row = sqlx::query(if home == 0 { VALUE } else { VALUE_LONG })
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(n)
            .fetch_optional(&self.pool)
            .await?;
        row.map_or(Ok(None), |row| wire::body(&row, "body"))
    }

    /// History entries that are no journal rows, oldest first.
    pub async fn history(&self, run: RunId, limit: i64) -> Result<Vec<HistoryEntry>> {
        let rows = sqlx::query(HISTORY)
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        let entry = |row: &PgRow| {
            Ok(HistoryEntry {
                at: wire::at(row, "at")?,
                epoch: row.try_get("epoch")?,
                what: row.try_get("what")?,
                by: row.try_get("by")?,
                data: wire::body(row, "data")?.unwrap_or_default(),
            })
        };
        rows.iter().map(entry).collect()
    }

    /// Log lines and chunks after (`at`, `k`), oldest first.
    pub async fn logs(
        &self,
        run: RunId,
        which: LogPart<'_>,
        after: Option<(Timestamp, i16)>,
        limit: i64,
    ) -> Result<Vec<StoredLog>> {
        let (what, stream) = match which {
            LogPart::Lines => (0_i16, None),
            LogPart::Stream(name) => (1, Some(name)),
            LogPart::Chunks => (2, None),
            LogPart::All => (3, None),
        };
        let rows = sqlx::query(LOGS)
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(after.map(|a| wire::Ts(a.0)))
            .bind(after.map_or(0, |a| a.1))
            .bind(limit)
            .bind(what)
            .bind(stream)
            .fetch_all(&self.pool)
            .await?;
        let line = |row: &PgRow| {
            Ok(StoredLog {
                k: row.try_get("k")?,
                line: LogLine {
                    at: wire::at(row, "at")?,
                    level: row.try_get("level")?,
                    message: row.try_get("message")?,
                    fields: wire::body(row, "fields")?,
                    stream: row.try_get("stream")?,
                },
            })
        };
        rows.iter().map(line).collect()
    }

    /// Notes things for the history of a run that no append carries.
    pub async fn add_history(&self, run: RunId, ns: i32, entries: &[HistoryEntry]) -> Result<()> {
        let ordinal = |i: usize| i16::try_from(i).unwrap_or(i16::MAX);
        sqlx::query(TELL)
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(ns)
            .bind(entries.iter().map(|h| Ts(h.at)).bind_iter())
            .bind((0..entries.len()).map(ordinal).bind_iter())
            .bind(entries.iter().map(|h| h.epoch).bind_iter())
            .bind(entries.iter().map(|h| h.what.as_str()).bind_iter())
            .bind(entries.iter().map(|h| h.by.as_str()).bind_iter())
            .bind(entries.iter().map(|h| Raw(&h.data)).bind_iter())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
