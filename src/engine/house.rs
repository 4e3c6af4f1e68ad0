//! Weeks made and dropped, what nobody needs any more removed.

use std::time::Duration;

use super::{Dropped, Engine, Error};

/// How long a key of a limit that nobody uses is remembered.
const KEYS_KEPT: Duration = Duration::from_hours(24);

/// How long a delivery is remembered that was taken or given up.
const DELIVERIES_KEPT: Duration = Duration::from_hours(30 * 24);
/// How long who did what is remembered.
const ACTS_KEPT: Duration = Duration::from_hours(400 * 24);
/// How many are removed at once.
const TRIMMED: i64 = 10_000;

impl Engine {
    /// Drops the weeks that are over for all, once what ended in them is in the archive. By one node
    /// at a time.
    pub async fn drop_weeks(&self) -> Result<Dropped, Error> {
        let now = self.clock().upper();
        let older_than = now - self.retention();
        match self.archive_weeks(older_than).await {
            Ok(true) => Ok(self.store().drop_partitions(older_than, now).await?),
            // They wait; the rest does not.
            waits => {
                let rows = self.store().trim(older_than, now).await?;
                waits.map(|_| Dropped { rows, ..Dropped::default() })
            }
        }
    }

    /// Weeks made and dropped, old rows removed, as long as the node lives.
    pub(super) async fn keep_house(&self) {
        loop {
            let now = self.clock().upper();
            if let Err(error) = self.store().ensure_partitions(now).await {
                tracing::warn!(%error, "partitions could not be made ahead");
            }
            // One node at a time drops: the one that drives the first group.
            if self.is_ours_group(0) {
                if let Err(error) = self.store().trim_generations(now).await {
                    tracing::warn!(%error, "generations that are over wait for the next round");
                }
                if let Err(error) = self.store().forget_limit_keys(now - KEYS_KEPT).await {
                    tracing::warn!(%error, "unused keys of limits wait for the next round");
                }
                if let Err(error) = self.store().trim_acts(now - ACTS_KEPT, TRIMMED).await {
                    tracing::warn!(%error, "old entries of the audit log wait for the next round");
                }
                let settled_before = now - DELIVERIES_KEPT;
                if let Err(error) = self.store().trim_deliveries(settled_before, TRIMMED).await {
                    tracing::warn!(%error, "old deliveries wait for the next round");
                }
                if let Err(error) = self.expire_runs().await {
                    tracing::warn!(%error, "runs whose time is up wait for the next round");
                }
                match self.drop_weeks().await {
                    Ok(dropped) => tracing::debug!(?dropped, "retention"),
                    Err(error) => tracing::warn!(%error, "retention waits for the next round"),
                }
            }
            tokio::time::sleep(Duration::from_mins(10)).await;
        }
    }
}
