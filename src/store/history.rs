//! What happened to one run, for reading: journal and history side by side, one step, its signals.

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::Store;
use super::error::Result;
use super::wire::{self, Ts, journal_columns};
use crate::machine::{HistoryEntry, MessageId, Row, RunId, Timestamp};

/// A part of a run's journal and what its history has from the same moment on, in one snapshot.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Happened {
    /// Journal rows in order.
    pub rows: Vec<Row>,
    /// History entries that are not older than the row asked for, in order.
    pub entries: Vec<HistoryEntry>,
}

/// What the journal or the inbox tells about one signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalRow {
    /// The signal.
    pub id: MessageId,
    /// Its name.
    pub name: String,
    /// When it was accepted; of one that was taken at once, when it was taken.
    pub at: Timestamp,
    /// Length of its payload.
    pub bytes: usize,
    /// The step that took it.
    pub step: Option<String>,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its namespace.
    pub ns: i32,
    /// Where its journal is: 0 the week's table, 1 `journal_long`.
    pub home: i16,
    /// From 1.
    pub generation: i32,
    /// Where the journal of its generation begins.
    pub gen_n: i32,
    /// When it was started.
    pub created_at: Timestamp,
    /// It ended elsewhere: what is told about it is in a table of its own.
    pub imported: bool,
}

pub(super) const PLACE: &str = "select ns, home, generation, gen_n, created_at, false as imported from run_active
 where shard = $1 and run_id = $2
union all select ns, home, generation, gen_n, created_at, was_ended_at is not null from run_done where shard = $1 and run_id = $2";

macro_rules! settled {
    ($journal:literal) => {
        concat!(
            "select seq from ",
            $journal,
            " where shard = $1 and run_id = $2 order by n desc limit 1"
        )
    };
}
pub(super) const SETTLED: &str = settled!("journal");
pub(super) const SETTLED_LONG: &str = settled!("journal_long");

macro_rules! from {
    ($journal:literal) => {
        concat!(
            "select ",
            journal_columns!(),
            " from ",
            $journal,
            " j where shard = $1 and run_id = $2 and n >= $3 order by n limit $4"
        )
    };
}
pub(super) const FROM: &str = from!("journal");
/// What is in `journal_long`, and before it what the week's table has still: rows that were carried
/// over are in both.
pub(super) const FROM_LONG: &str = concat!(
    "(select ",
    journal_columns!(),
    " from journal j where shard = $1 and run_id = $2 and n >= $3
   and not exists (select from journal_long l where l.shard = $1 and l.run_id = $2 and l.n = j.n)
 order by n limit $4)
union all
(select ",
    journal_columns!(),
    " from journal_long j where shard = $1 and run_id = $2 and n >= $3 order by n limit $4)
order by n limit $4"
);

pub(super) const SINCE: &str = "select at, epoch, what, by, data from history
 where shard = $1 and run_id = $2 and at >= $3 order by at, k limit $4";

macro_rules! of_step {
    ($journal:literal) => {
        concat!(
            "select ",
            journal_columns!(),
            " from ",
            $journal,
            " j where shard = $1 and run_id = $2 and n >= $4 and step = $3
   and (kind between 1 and 5 or kind = 16)
 order by n"
        )
    };
}
pub(super) const OF_STEP: &str = of_step!("journal");
pub(super) const OF_STEP_LONG: &str = of_step!("journal_long");

/// The name of a signal that was taken at once is in the row that asked for it. What an operator
/// has settled (flag 128) took none. What was carried over (flag 64) says when it came in `due`.
macro_rules! signals {
    ($journal:literal) => {
        concat!(
            "with j as materialized (
  select n, kind, step, ref, body,
         case when kind = 7 and flags & 64 <> 0 then coalesce(due, at) else at end as at
    from ",
            $journal,
            "
   where shard = $1 and run_id = $2 and n >= $3 and flags >> 8 = 2 and flags & 128 = 0
     and (kind = 3 or kind in (1, 7) and ref is not null))
select j.ref as msg_id, j.kind, j.step, j.at, octet_length(j.body) - 1 as bytes, a.body as asked
  from j left join j a on j.kind = 1 and a.kind = 3 and a.step = j.step
 where j.kind <> 3 order by j.n"
        )
    };
}
pub(super) const SIGNALS: &str = signals!("journal");
pub(super) const SIGNALS_LONG: &str = signals!("journal_long");

/// Accepted, and either not drained by the run's owner yet, or left over at the run's end.
pub(super) const WAITING: &str = "select msg_id, name, at, octet_length(body) - 1 as bytes, pos
  from inbox where shard = $1 and run_id = $2 and kind = 1
union all
select (x.data ->> 'id')::uuid, x.data ->> 'name', (x.data ->> 'accepted_at')::timestamptz,
       octet_length(x.data ->> 'payload'), x.k::int4
  from (select convert_from(substr(data, 2), 'UTF8')::jsonb as data, k from history
         where shard = $1 and run_id = $2 and what = 'message.untaken') x
 where x.data ->> 'kind' = '1'
 order by pos";

#[derive(serde::Deserialize)]
struct Asked {
    name: Option<String>,
}

impl Store {
    /// Where a run is, live or ended; none: there is no such run.
    pub async fn place(&self, run: RunId) -> Result<Option<Place>> {
        let row = sqlx::query(PLACE).bind(run.shard().column()).bind(run.uuid());
        let row = row.fetch_optional(&self.pool).await?;
        let place = |row: PgRow| {
            Ok(Place {
                ns: row.try_get("ns")?,
                home: row.try_get("home")?,
                generation: row.try_get("generation")?,
                gen_n: row.try_get("gen_n")?,
                created_at: wire::at(&row, "created_at")?,
                imported: row.try_get("imported")?,
            })
        };
        row.map(place).transpose()
    }

    /// How many steps are settled, as of the run's last row.
    pub async fn settled(&self, run: RunId, home: i16) -> Result<i32> {
        let seq = sqlx::query_scalar(if home == 0 { SETTLED } else { SETTLED_LONG })
            .bind(run.shard().column())
            .bind(run.uuid())
            .fetch_optional(&self.pool)
            .await?;
        Ok(seq.unwrap_or(0))
    }

    /// At most `limit` journal rows from the one before position `n` on, and at most `entries`
    /// history entries from the moment of row `n` on.
    pub async fn happened(
        &self,
        run: RunId,
        home: i16,
        n: i32,
        limit: i64,
        entries: i64,
    ) -> Result<Happened> {
        let mut tx = self.begin(super::SNAPSHOT).await?;
        let rows = sqlx::query(if home == 0 { FROM } else { FROM_LONG })
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(n.saturating_sub(1))
            .bind(limit)
            .fetch_all(&mut *tx)
            .await?;
        let rows = rows.iter().map(wire::journal_row).collect::<Result<Vec<Row>>>()?;
        // Rows of generations that are over may be gone.
        let Some(first) = rows.iter().find(|r| r.n >= n) else { return Ok(Happened::default()) };
        let told = sqlx::query(SINCE)
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(Ts(first.at))
            .bind(entries)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let entry = |row: &PgRow| {
            Ok(HistoryEntry {
                at: wire::at(row, "at")?,
                epoch: row.try_get("epoch")?,
                what: row.try_get("what")?,
                by: row.try_get("by")?,
                data: wire::body(row, "data")?.unwrap_or_default(),
            })
        };
        let entries = told.iter().map(entry).collect::<Result<_>>()?;
        Ok(Happened { rows, entries })
    }

    /// The rows about one step of the present generation, in order: asked, tried, begun, settled, taken back.
    pub async fn rows_of_step(&self, run: RunId, at: &Place, step: &str) -> Result<Vec<Row>> {
        let rows = sqlx::query(if at.home == 0 { OF_STEP } else { OF_STEP_LONG })
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(step)
            .bind(at.gen_n)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(wire::journal_row).collect()
    }

    /// The signals of the present generation in the order of their acceptance; one that a step took has its `step`.
    pub async fn signals(&self, run: RunId, place: &Place) -> Result<Vec<SignalRow>> {
        let mut tx = self.begin(super::SNAPSHOT).await?;
        let recorded = sqlx::query(if place.home == 0 { SIGNALS } else { SIGNALS_LONG })
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(place.gen_n)
            .fetch_all(&mut *tx)
            .await?;
        let waiting = sqlx::query(WAITING)
            .bind(run.shard().column())
            .bind(run.uuid())
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let mut signals: Vec<SignalRow> = Vec::new();
        let bytes = |row: &PgRow| -> Result<usize> {
            Ok(usize::try_from(row.try_get::<Option<i32>, _>("bytes")?.unwrap_or(0)).unwrap_or(0))
        };
        for row in &recorded {
            let id = MessageId::from(row.try_get::<Uuid, _>("msg_id")?);
            let step: String = row.try_get("step")?;
            if row.try_get::<i16, _>("kind")? == 7 {
                let (at, bytes) = (wire::at(row, "at")?, bytes(row)?);
                signals.push(SignalRow { id, name: step, at, bytes, step: None });
            } else if let Some(known) = signals.iter_mut().find(|s| s.id == id) {
                known.step = Some(step);
            } else {
                let asked: Option<Bytes> = wire::body(row, "asked")?;
                let asked = asked.and_then(|a| serde_json::from_slice::<Asked>(&a).ok());
                let name = asked.and_then(|a| a.name).unwrap_or_default();
                let (at, bytes) = (wire::at(row, "at")?, bytes(row)?);
                signals.push(SignalRow { id, name, at, bytes, step: Some(step) });
            }
        }
        for row in &waiting {
            let id = MessageId::from(row.try_get::<Uuid, _>("msg_id")?);
            if signals.iter().all(|s| s.id != id) {
                let (name, at) = (row.try_get("name")?, wire::at(row, "at")?);
                signals.push(SignalRow { id, name, at, bytes: bytes(row)?, step: None });
            }
        }
        Ok(signals)
    }
}
