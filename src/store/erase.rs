//! The payloads of an ended run are taken away, and its shape stays: one transaction, rare, and so in
//! plain statements.

use bytes::Bytes;
use sqlx::postgres::PgBindIterExt as _;

use super::Store;
use super::error::{Error, Result};
use super::purge::{Purged, TELLS};
use super::wire::{self, Raw, Ts, journal_columns};
use crate::machine::{Row, RunId, Timestamp, Unreadable};

pub(super) const ENDED: &str = "select fn from run_done
 where shard = $1 and run_id = $2 and ns = $3 for update";

macro_rules! read {
    ($journal:literal) => {
        concat!(
            "select ",
            journal_columns!(),
            " from ",
            $journal,
            " j where shard = $1 and run_id = $2 and body is not null order by n"
        )
    };
}
macro_rules! write {
    ($journal:literal) => {
        concat!(
            "update ",
            $journal,
            " j set body = u.body from unnest($3::int4[], $4::bytea[]) u(n, body)
 where j.shard = $1 and j.run_id = $2 and j.n = u.n"
        )
    };
}
/// Of each table what is there, and how it is written back.
pub(super) const JOURNALS: [(&str, &str); 2] =
    [(read!("journal"), write!("journal")), (read!("journal_long"), write!("journal_long"))];

/// What is beside the journal.
pub(super) const REST: [&str; 6] = [
    // The kind of error that it ended by may have its words as the example.
    "update errors e set example = e.message from run_done d
 where d.shard = $1 and d.run_id = $2 and e.ns = d.ns and e.fingerprint = d.fingerprint",
    "update history set data = '\\x007b7d'::bytea where shard = $1 and run_id = $2",
    "delete from logs where shard = $1 and run_id = $2",
    "update imported set body = '\\x007b7d'::bytea where shard = $1 and run_id = $2 and part = 0",
    "delete from imported where shard = $1 and run_id = $2 and part in (1, 2)",
    "update run_done set custom_status = null where shard = $1 and run_id = $2",
];
pub(super) const TOLD: &str =
    "insert into history (shard, run_id, ns, at, k, epoch, what, by, data)
values ($1, $2, $3, $4, 0, 0, 'run.erased', $5, $6) on conflict do nothing";

/// The same where the history of an imported run is.
pub(super) const TOLD_IMPORTED: &str =
    "insert into imported (shard, run_id, part, n, at, number, name, text, body)
select $1, $2, 0, max(n) + 1, $3, 0, 'run.erased', $4, $5 from imported
 where shard = $1 and run_id = $2 and part = 0 having count(*) > 0";

impl Store {
    /// Takes the payloads of an ended run away; what is left of each row is for the caller to say.
    /// Its history says who did it.
    pub async fn erase(
        &self,
        (ns, run): (i32, RunId),
        at: Timestamp,
        by: &str,
        why: &Bytes,
        left: impl Fn(&Row) -> std::result::Result<Row, Unreadable> + Send + Sync,
    ) -> Result<Purged> {
        let (shard, id) = (run.shard().column(), run.uuid());
        let mut tx = self.begin("begin").await?;
        let ended = sqlx::query(ENDED).bind(shard).bind(id).bind(ns);
        if ended.fetch_optional(&mut *tx).await?.is_none() {
            return Ok(Purged::NotEnded);
        }
        if sqlx::query_scalar(TELLS).bind(shard).bind(id).fetch_one(&mut *tx).await? {
            return Ok(Purged::Telling);
        }
        for (read, write) in JOURNALS {
            let found = sqlx::query(read).bind(shard).bind(id).fetch_all(&mut *tx).await?;
            let mut rows = Vec::new();
            for row in found {
                let row = wire::journal_row(&row)?;
                rows.push(left(&row).map_err(|e| Error::corrupt(e.to_string()))?);
            }
            sqlx::query(write)
                .bind(shard)
                .bind(id)
                .bind(rows.iter().map(|r| r.n).bind_iter())
                .bind(rows.iter().map(|r| r.body.as_deref().map(Raw)).bind_iter())
                .execute(&mut *tx)
                .await?;
        }
        for sql in REST {
            sqlx::query(sql).bind(shard).bind(id).execute(&mut *tx).await?;
        }
        let told = sqlx::query(TOLD).bind(shard).bind(id).bind(ns).bind(Ts(at)).bind(by);
        told.bind(Raw(why)).execute(&mut *tx).await?;
        let told = sqlx::query(TOLD_IMPORTED).bind(shard).bind(id).bind(Ts(at)).bind(by);
        told.bind(Raw(why)).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(Purged::Done)
    }
}
