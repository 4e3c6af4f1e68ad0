//! Runs that ended elsewhere are recorded as ended, whole, in one transaction; what is told about
//! them beside their journal is in a table of its own.

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::{PgBindIterExt as _, PgRow};
use uuid::Uuid;

use super::Store;
use super::error::Result;
use super::wire::{self, Raw, Ts};
use crate::machine::{LogPart, Row, RunId, Timestamp};

/// A run that ended elsewhere.
#[derive(Debug, Clone)]
pub struct NewImport {
    /// Its id here.
    pub run: RunId,
    /// Its namespace.
    pub ns: i32,
    /// Its function, hosted or not.
    pub function: String,
    /// The deployment that had it; 0: that is not known here.
    pub dep: i32,
    /// How it ended.
    pub status: i16,
    /// Its key, which it does not hold.
    pub key: Option<String>,
    /// The run that started it.
    pub parent: Option<Uuid>,
    /// The schedule that did.
    pub schedule: Option<Uuid>,
    /// JSON object of strings.
    pub tags: String,
    /// What its handler said last, JSON.
    pub custom_status: Option<Bytes>,
    /// When it was started.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Now: how long it is kept counts from here.
    pub at: Timestamp,
    /// From 1.
    pub generation: i32,
    /// Its journal; the last row ends it.
    pub rows: Vec<Row>,
    /// What is told about it.
    pub told: Vec<ImportedItem>,
}

/// A part of what is told about an imported run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum ImportedPart {
    /// What happened.
    History = 0,
    /// Lines of its log.
    Log = 1,
    /// Chunks of its output streams.
    Outputs = 2,
    /// Its signals.
    Signals = 3,
}

/// Something that is told about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedItem {
    /// What it is.
    pub part: i16,
    /// Its number in the document.
    pub n: i64,
    /// When it was.
    pub at: Timestamp,
    /// Epoch, or length.
    pub number: i32,
    /// Type, level, stream or name.
    pub name: String,
    /// Author, message or step.
    pub text: String,
    /// Data, JSON.
    pub body: Option<Bytes>,
}

/// What became of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// The run is there now.
    Done,
    /// A run of the namespace has the id already, and is as it was.
    Known,
    /// A run of another namespace has it.
    Taken,
}

/// Who imports the same run at the same time waits.
pub(super) const ALONE: &str =
    "select pg_advisory_xact_lock(hashtextextended('stepwell.import ' || $1::text, 0))::text";
pub(super) const WHOSE: &str = "select ns from run_active where shard = $1 and run_id = $2
union all select ns from run_done where shard = $1 and run_id = $2
union all select ns from journal where shard = $1 and run_id = $2 and n = 0
union all select ns from journal_long where shard = $1 and run_id = $2
 limit 1";
pub(super) const FUNCTION: &str =
    "insert into functions (ns, name) values ($1, $2) on conflict (ns, name) do nothing";
pub(super) const NUMBER: &str = "select id from functions where ns = $1 and name = $2";
pub(super) const ROWS: &str = "insert into journal_long
    (shard,run_id,n,kind,flags,seq,epoch,cp,ms,dep,ns,at,due,ref,step,body)
select $1,$2,n,kind,flags,seq,epoch,0,ms,dep,$3,at,due,null,step,body
  from unnest($4::int4[],$5::int2[],$6::int2[],$7::int4[],$8::int4[],$9::int4[],$10::int4[],
      $11::timestamptz[],$12::timestamptz[],$13::text[],$14::bytea[])
    as t(n,kind,flags,seq,epoch,ms,dep,at,due,step,body)";
pub(super) const DONE: &str = "insert into run_done
    (shard,run_id,ns,fn,dep,created_at,ended_at,was_ended_at,last_n,base_n,gen_n,generation,home,status,
     key,parent,schedule,tags,custom_status)
values ($1,$2,$3,$4,$5,$6,$7,$8,$9,0,0,$10,1,$11,$12,$13,$14,nullif($15::jsonb,'{}'),$16)";
pub(super) const TOLD: &str = "insert into imported (shard,run_id,part,n,at,number,name,text,body)
select $1,$2,part,n,at,number,name,text,body
  from unnest($3::int2[],$4::int8[],$5::timestamptz[],$6::int4[],$7::text[],$8::text[],$9::bytea[])
    as t(part,n,at,number,name,text,body)";
pub(super) const ITEMS: &str = "select part, n, at, number, name, text, body from imported
 where shard = $1 and run_id = $2 and part = any($3::int2[]) and n > $4
   and ($5::text is null or name = $5) order by n limit $6";

/// Rows of one statement.
const TOGETHER: usize = 5_000;

impl Store {
    /// Records a run that ended elsewhere. It holds no key, and nobody is told of its end.
    pub async fn import(&self, new: &NewImport) -> Result<Imported> {
        let (shard, id) = (new.run.shard().column(), new.run.uuid());
        let mut tx = self.begin("begin").await?;
        sqlx::query(ALONE).bind(id.to_string()).execute(&mut *tx).await?;
        let whose = sqlx::query_scalar::<_, i32>(WHOSE).bind(shard).bind(id);
        if let Some(ns) = whose.fetch_optional(&mut *tx).await? {
            return Ok(if ns == new.ns { Imported::Known } else { Imported::Taken });
        }
        sqlx::query(FUNCTION).bind(new.ns).bind(&new.function).execute(&mut *tx).await?;
        let number = sqlx::query_scalar(NUMBER).bind(new.ns).bind(&new.function);
        let function: i32 = number.fetch_one(&mut *tx).await?;
        for rows in new.rows.chunks(TOGETHER) {
            sqlx::query(ROWS)
                .bind(shard)
                .bind(id)
                .bind(new.ns)
                .bind(rows.iter().map(|r| r.n).bind_iter())
                .bind(rows.iter().map(|r| r.kind.code()).bind_iter())
                .bind(rows.iter().map(|r| r.flags.0).bind_iter())
                .bind(rows.iter().map(|r| r.seq).bind_iter())
                .bind(rows.iter().map(|r| r.epoch).bind_iter())
                .bind(rows.iter().map(|r| r.ms).bind_iter())
                .bind(rows.iter().map(|r| r.dep).bind_iter())
                .bind(rows.iter().map(|r| Ts(r.at)).bind_iter())
                .bind(rows.iter().map(|r| r.due.map(Ts)).bind_iter())
                .bind(rows.iter().map(|r| r.step.as_str()).bind_iter())
                .bind(rows.iter().map(|r| r.body.as_deref().map(Raw)).bind_iter())
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query(DONE)
            .bind(shard)
            .bind(id)
            .bind(new.ns)
            .bind(function)
            .bind(new.dep)
            .bind(Ts(new.created_at))
            .bind(Ts(new.at))
            .bind(Ts(new.ended_at))
            .bind(new.rows.last().map_or(0, |r| r.n))
            .bind(new.generation)
            .bind(new.status)
            .bind(new.key.as_deref())
            .bind(new.parent)
            .bind(new.schedule)
            .bind(&new.tags)
            .bind(new.custom_status.as_deref().map(Raw))
            .execute(&mut *tx)
            .await?;
        for told in new.told.chunks(TOGETHER) {
            sqlx::query(TOLD)
                .bind(shard)
                .bind(id)
                .bind(told.iter().map(|i| i.part).bind_iter())
                .bind(told.iter().map(|i| i.n).bind_iter())
                .bind(told.iter().map(|i| Ts(i.at)).bind_iter())
                .bind(told.iter().map(|i| i.number).bind_iter())
                .bind(told.iter().map(|i| i.name.as_str()).bind_iter())
                .bind(told.iter().map(|i| i.text.as_str()).bind_iter())
                .bind(told.iter().map(|i| i.body.as_deref().map(Raw)).bind_iter())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(Imported::Done)
    }

    /// What is told about an imported run after number `n`, in order: parts that count together.
    pub async fn imported(
        &self,
        run: RunId,
        parts: &[ImportedPart],
        name: Option<&str>,
        after: i64,
        limit: i64,
    ) -> Result<Vec<ImportedItem>> {
        let parts: Vec<i16> = parts.iter().map(|part| *part as i16).collect();
        let rows = sqlx::query(ITEMS)
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(parts)
            .bind(after)
            .bind(name)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        let item = |row: &PgRow| {
            Ok(ImportedItem {
                part: row.try_get("part")?,
                n: row.try_get("n")?,
                at: wire::at(row, "at")?,
                number: row.try_get("number")?,
                name: row.try_get("name")?,
                text: row.try_get("text")?,
                body: wire::body(row, "body")?,
            })
        };
        rows.iter().map(item).collect()
    }

    /// What is read of an imported run's log.
    pub(crate) fn imported_parts(which: LogPart<'_>) -> (&'static [ImportedPart], Option<&str>) {
        match which {
            LogPart::Lines => (&[ImportedPart::Log], None),
            LogPart::Stream(name) => (&[ImportedPart::Outputs], Some(name)),
            LogPart::Chunks => (&[ImportedPart::Outputs], None),
            LogPart::All => (&[ImportedPart::Log, ImportedPart::Outputs], None),
        }
    }
}
