//! How many runs are live, by how they stand.

use sqlx::Row as _;

use super::Store;
use super::error::Result;

/// So many live runs are counted; where there are more, it would take too long each time.
const MOST: i64 = 100_000;

pub(super) const LIVE: &str = "select status, count(*) as runs
  from (select status from run_active limit $1) r group by status";

impl Store {
    /// Live runs by status code, as lists have it; none: there are too many to count.
    pub async fn live_runs(&self) -> Result<Option<Vec<(i16, u64)>>> {
        let rows = sqlx::query(LIVE).bind(MOST).fetch_all(&self.pool).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            all.push((row.try_get("status")?, row.try_get::<i64, _>("runs")?.unsigned_abs()));
        }
        let sum: u64 = all.iter().map(|(_, runs)| runs).sum();
        Ok((sum < MOST.unsigned_abs()).then_some(all))
    }
}
