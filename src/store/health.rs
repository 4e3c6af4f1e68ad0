//! Circuit breakers of endpoints: read by all nodes, moved by whoever compares first.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::Store;
use super::error::{Error, Result};
use super::wire::{self, Ts};
use crate::machine::Timestamp;

/// Whether an endpoint takes invocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(i16)]
pub enum HealthState {
    /// All is well.
    #[default]
    Closed = 0,
    /// Nothing is sent but one probe.
    Open = 1,
    /// A probe went well; invocations ramp up.
    HalfOpen = 2,
}

/// The breaker of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Its endpoint's number.
    pub endpoint_id: i32,
    /// Where it stands.
    pub state: HealthState,
    /// Failures in a row.
    pub failures: i32,
    /// The last failure, in words.
    pub detail: String,
    /// Since when it is not closed.
    pub opened_at: Option<Timestamp>,
    /// When one node may probe; none exactly while it is closed.
    pub next_probe_at: Option<Timestamp>,
}

pub(super) const ALL: &str = "select endpoint_id, state, failures, detail, opened_at, next_probe_at
  from endpoint_health order by endpoint_id";

pub(super) const SET: &str = "insert into endpoint_health as h
    (endpoint_id, state, failures, detail, opened_at, next_probe_at)
select $1, $2, $3, $4, $5, $6
 where $7::timestamptz is null or exists (select from endpoint_health where endpoint_id = $1)
on conflict (endpoint_id) do update
   set state = excluded.state, failures = excluded.failures, detail = excluded.detail,
       opened_at = excluded.opened_at, next_probe_at = excluded.next_probe_at, updated_at = now()
 where h.next_probe_at is not distinct from $7";

fn health(row: &PgRow) -> Result<Health> {
    let state = match row.try_get::<i16, _>("state")? {
        0 => HealthState::Closed,
        1 => HealthState::Open,
        2 => HealthState::HalfOpen,
        other => return Err(Error::corrupt(format!("endpoint health {other}"))),
    };
    Ok(Health {
        endpoint_id: row.try_get("endpoint_id")?,
        state,
        failures: row.try_get("failures")?,
        detail: row.try_get("detail")?,
        opened_at: wire::maybe_at(row, "opened_at")?,
        next_probe_at: wire::maybe_at(row, "next_probe_at")?,
    })
}

impl Store {
    /// The breakers of all endpoints that ever failed.
    pub async fn health(&self) -> Result<Vec<Health>> {
        sqlx::query(ALL).fetch_all(&self.pool).await?.iter().map(health).collect()
    }

    /// Writes a breaker if its `next_probe_at` is still what the caller read (none for one that
    /// is closed or was never written). Returns whether it was: of many nodes that try, one has
    /// the probe.
    pub async fn set_health(&self, new: &Health, read: Option<Timestamp>) -> Result<bool> {
        let done = sqlx::query(SET)
            .bind(new.endpoint_id)
            .bind(new.state as i16)
            .bind(new.failures)
            .bind(new.detail.as_str())
            .bind(new.opened_at.map(Ts))
            .bind(new.next_probe_at.map(Ts))
            .bind(read.map(Ts))
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() == 1)
    }
}
