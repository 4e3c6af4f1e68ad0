//! Circuits of endpoints: read by all nodes, moved by whoever compares first.
//!
//! A row is there once an endpoint has failed. `next_probe_at` and `probe_by` are what is compared:
//! of many nodes that want the probe one moves them, and only that one may say what came of it.

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::Store;
use super::error::Result;
use super::webhooks::tell_of_endpoint;
use super::wire::{self, Ts};
use crate::machine::{NodeId, Timestamp};

/// The circuit of an endpoint that is not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Its endpoint's number.
    pub endpoint_id: i32,
    /// Probes that failed since it opened.
    pub failures: u32,
    /// The last failure, in words.
    pub detail: String,
    /// Since when it is open.
    pub opened_at: Timestamp,
    /// When one node may probe.
    pub next_probe_at: Timestamp,
    /// The node whose probe is out.
    pub probe_by: Option<NodeId>,
}

/// What a node that has the probe compares: nobody has moved it since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The node.
    pub by: NodeId,
    /// `next_probe_at` as the node left it.
    pub at: Timestamp,
}

pub(super) const OPEN: &str =
    "select endpoint_id, failures, detail, opened_at, next_probe_at, probe_by
  from endpoint_health where state <> 0 order by endpoint_id";

/// Who opens one that is open changes nothing: another node was first.
pub(super) const TRIP: &str = "insert into endpoint_health as h
    (endpoint_id, state, failures, detail, opened_at, next_probe_at)
values ($1, 1, 0, $2, $3, $4)
on conflict (endpoint_id) do update
   set state = 1, failures = 0, detail = excluded.detail, opened_at = excluded.opened_at,
       next_probe_at = excluded.next_probe_at, probe_by = null, updated_at = now()
 where h.state = 0";

/// A probe whose node is no member any more is nobody's.
pub(super) const TAKE: &str = "update endpoint_health h
   set next_probe_at = $3, probe_by = $4, updated_at = now()
 where endpoint_id = $1 and state <> 0 and next_probe_at = $2
   and (probe_by is null or probe_by = $4
        or not exists (select from nodes n where n.id = h.probe_by))";

pub(super) const FAILED: &str = "update endpoint_health
   set failures = $4, detail = $5, next_probe_at = $6, probe_by = null, updated_at = now()
 where endpoint_id = $1 and state <> 0 and probe_by = $2 and next_probe_at = $3";

pub(super) const CLOSE: &str = "update endpoint_health
   set state = 0, failures = 0, opened_at = null, next_probe_at = null, probe_by = null,
       updated_at = now()
 where endpoint_id = $1 and state <> 0 and probe_by = $2 and next_probe_at = $3";

/// What was learnt of an endpoint that was changed is forgotten.
pub(super) const FORGET: &str = "update endpoint_health
   set state = 0, failures = 0, opened_at = null, next_probe_at = null, probe_by = null,
       updated_at = now()
 where endpoint_id = $1 and state <> 0";

/// Of what those who listen are told.
const UNHEALTHY: &str = "endpoint.unhealthy";
const HEALTHY: &str = "endpoint.healthy";

/// Forgets what was learnt of an endpoint, for it has changed.
pub(super) async fn forget(conn: &mut PgConnection, endpoint: i32) -> Result<()> {
    let known = sqlx::query(FORGET).bind(endpoint).execute(&mut *conn).await?.rows_affected();
    if known == 1 {
        tell_of_endpoint(conn, endpoint, HEALTHY, "it was changed and is tried anew").await?;
    }
    Ok(())
}

fn health(row: &PgRow) -> Result<Health> {
    Ok(Health {
        endpoint_id: row.try_get("endpoint_id")?,
        failures: row.try_get::<i32, _>("failures")?.unsigned_abs(),
        detail: row.try_get("detail")?,
        opened_at: wire::at(row, "opened_at")?,
        next_probe_at: wire::at(row, "next_probe_at")?,
        probe_by: row.try_get::<Option<uuid::Uuid>, _>("probe_by")?.map(NodeId::from),
    })
}

impl Store {
    /// The circuits that are open.
    pub async fn open_circuits(&self) -> Result<Vec<Health>> {
        sqlx::query(OPEN).fetch_all(&self.pool).await?.iter().map(health).collect()
    }

    /// Opens a circuit, and tells those who want to know. Returns false if it was open.
    pub async fn open_circuit(
        &self,
        endpoint: i32,
        detail: &str,
        since: Timestamp,
        next_probe_at: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin("begin").await?;
        let query = sqlx::query(TRIP).bind(endpoint).bind(detail);
        let query = query.bind(Ts(since)).bind(Ts(next_probe_at));
        let opened = query.execute(&mut *tx).await?.rows_affected() == 1;
        if opened {
            tell_of_endpoint(&mut tx, endpoint, UNHEALTHY, detail).await?;
        }
        tx.commit().await?;
        Ok(opened)
    }

    /// Takes the probe of an open circuit, if `next_probe_at` is still what the caller read and
    /// no live node has it. Returns whether it did.
    pub async fn take_probe(&self, endpoint: i32, read: Timestamp, ticket: Ticket) -> Result<bool> {
        let query = sqlx::query(TAKE).bind(endpoint).bind(Ts(read));
        let query = query.bind(Ts(ticket.at)).bind(ticket.by.uuid());
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// The probe failed, or was not sent: the next one is due then. Returns false if the ticket
    /// is no longer valid.
    pub async fn probe_failed(
        &self,
        endpoint: i32,
        ticket: Ticket,
        failures: u32,
        detail: &str,
        next_probe_at: Timestamp,
    ) -> Result<bool> {
        let query = sqlx::query(FAILED).bind(endpoint).bind(ticket.by.uuid()).bind(Ts(ticket.at));
        let query = query.bind(i32::try_from(failures).unwrap_or(i32::MAX));
        let query = query.bind(detail).bind(Ts(next_probe_at));
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// The probe went well: the circuit is closed. Returns false if the ticket is no longer valid.
    pub async fn close_circuit(&self, endpoint: i32, ticket: Ticket) -> Result<bool> {
        let mut tx = self.begin("begin").await?;
        let query = sqlx::query(CLOSE).bind(endpoint).bind(ticket.by.uuid()).bind(Ts(ticket.at));
        let closed = query.execute(&mut *tx).await?.rows_affected() == 1;
        if closed {
            tell_of_endpoint(&mut tx, endpoint, HEALTHY, "a probe went well").await?;
        }
        tx.commit().await?;
        Ok(closed)
    }
}
