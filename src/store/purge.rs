//! An ended run is taken out of all tables: one transaction, rare, and so in plain statements.

use sqlx::Row as _;

use super::Store;
use super::error::Result;
use crate::machine::RunId;

/// What became of a purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purged {
    /// Nothing is left of the run.
    Done,
    /// There is no ended run of this id in the namespace.
    NotEnded,
    /// It has ended, and others have not been told yet.
    Telling,
}

pub(super) const ENDED: &str = "select fn, key from run_done
 where shard = $1 and run_id = $2 and ns = $3 for update";
pub(super) const TELLS: &str =
    "select exists (select from outbox where shard = $1 and run_id = $2)";
pub(super) const KEY: &str = "delete from run_keys
 where shard = $1 and ns = $2 and fn = $3 and key = $4 and run_id = $5";

/// All that is kept of a run by its id alone, as a statement for each table; its row in `run_done` last.
macro_rules! rows_of_a_run {
    ($statement:ident) => {
        [
            $statement!("journal"),
            $statement!("journal_long"),
            $statement!("past_generations"),
            $statement!("history"),
            $statement!("logs"),
            $statement!("imported"),
            $statement!("run_done"),
        ]
    };
}
pub(super) use rows_of_a_run;

macro_rules! of_one {
    ($table:literal) => {
        concat!("delete from ", $table, " where shard = $1 and run_id = $2")
    };
}
pub(super) const ROWS: [&str; 7] = rows_of_a_run!(of_one);

impl Store {
    /// Deletes an ended run. Its idempotency key is remembered until it expires: the same start
    /// again starts nothing.
    pub async fn purge(&self, ns: i32, run: RunId) -> Result<Purged> {
        let (shard, id) = (run.shard().column(), run.uuid());
        let mut tx = self.begin("begin").await?;
        let ended = sqlx::query(ENDED).bind(shard).bind(id).bind(ns);
        let Some(ended) = ended.fetch_optional(&mut *tx).await? else {
            return Ok(Purged::NotEnded);
        };
        if sqlx::query_scalar(TELLS).bind(shard).bind(id).fetch_one(&mut *tx).await? {
            return Ok(Purged::Telling);
        }
        let function: i32 = ended.try_get("fn")?;
        if let Some(key) = ended.try_get::<Option<&str>, _>("key")? {
            let query = sqlx::query(KEY).bind(shard).bind(ns).bind(function).bind(key).bind(id);
            query.execute(&mut *tx).await?;
        }
        for rows in ROWS {
            sqlx::query(rows).bind(shard).bind(id).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(Purged::Done)
    }
}
