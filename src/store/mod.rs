//! Floor 1: Postgres and nothing else. All SQL of the project is in here.
//!
//! Reads, configuration and the tick go through a small pool, the hot writes through [`Lane`]s.

mod accept;
mod append;
mod audit;
mod audits;
mod batch;
mod bulk;
mod catalog;
mod census;
mod create;
mod debounces;
mod deliveries;
mod deployments;
mod erase;
mod error;
mod errors;
mod events;
mod expiry;
mod gathers;
mod health;
mod history;
mod imports;
mod journal;
mod keys;
mod leases;
mod limits;
mod lists;
mod load;
mod locks;
mod migrate;
mod namespaces;
mod objects;
mod outbox;
mod permits;
mod purge;
mod ranges;
mod register;
mod reopen;
mod retention;
mod run_filters;
mod run_sort;
mod schedules;
mod secrets;
mod sql;
mod takeover;
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tests;
mod turns;
mod webhooks;
mod wire;

use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Postgres, Transaction};

pub use accept::{Accept, Accepted};
pub use audit::Finding;
pub use audits::{Act, AuditFilter, AuditRow};
pub use bulk::{BulkCounts, BulkFilter, BulkRow, BulkStatus};
pub use catalog::{Address, Catalog, Deployment, Endpoint, EndpointChange, FunctionRow};
pub use create::{CreateOutcome, Idem, IfClosed, NewKey, NewPart, NewRun};
pub use debounces::Debounced;
pub use deliveries::{
    Attempted, DeliveryFilter, DeliveryRow, DeliveryStatus, NewDelivery, Noteworthy,
};
pub use deployments::{Needing, Population, Resident};
pub use error::{Error, Result};
pub use errors::{ErrorFilter, ErrorMark, ErrorRow, ErrorRuns, HOURS};
pub use events::{
    EventFilter, EventMatch, EventRow, MatchCount, NewEvent, Published, Queued, Wait,
};
pub use expiry::{ENDED_PAGE, EndedRun, Expired};
pub use gathers::{Gather, GatherOutcome, NewGathered};
pub use health::{Health, Ticket};
pub use history::{Happened, Place, SignalRow};
pub use imports::{Imported, ImportedItem, ImportedPart, NewImport};
pub use journal::{JournalEntry, StoredLog};
pub use keys::{ApiKey, NewApiKey};
pub use leases::{NodeBeat, Tick};
pub use limits::{COUNTED, InLine, LimitRow};
pub use lists::{ListedRun, RunCount, RunsFound};
pub use load::Loaded;
pub use migrate::MigrationStatus;
pub use namespaces::{Kept, NamespaceRemoved, NamespaceRow, NamespaceSettings};
pub use objects::{ListedObject, Object, ObjectPlace, ObjectRow, Role, Written, version_of};
pub use outbox::{Delivery, Posted, Slot};
pub use permits::{Ask, Granted, LimitKey, LimitOf, Most, Passed, Release};
pub use purge::Purged;
pub use ranges::{Bound, Range};
pub use register::{Registered, Registration};
pub use reopen::Reopened;
pub use retention::Dropped;
pub use run_filters::RunFilter;
pub use run_sort::{RunPlace, RunSort};
pub use schedules::{LockedSchedule, ScheduleChange, ScheduleFilter, ScheduleRow, TurnedSchedule};
pub use secrets::SecretRow;
pub use sql::{AskedFor, Ears, SqlRequest};
pub use takeover::Projection;
pub use webhooks::{Switch, Webhook, WebhookSpec};

/// Connections to one database.
#[derive(Debug, Clone)]
pub struct Store {
    /// For reads and configuration.
    pool: PgPool,
    /// For the node's heartbeat and its leases: no read, however slow, may keep it waiting.
    pulse: PgPool,
    options: PgConnectOptions,
}

/// One connection of its own, for the statements that record: one after another, one in flight.
#[derive(Debug)]
pub struct Lane {
    conn: PgConnection,
}

/// Begins a transaction that sees one moment.
const SNAPSHOT: &str = "begin isolation level repeatable read read only";
/// Connections of the pulse.
const PULSE: u32 = 2;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a lane waits for Postgres, which gives every statement up after half of this: then the
/// connection is as good as lost, even if nobody has closed it.
const SILENCE: Duration = Duration::from_secs(10);
/// The same for a heartbeat, which is worth nothing later.
const PULSE_SILENCE: Duration = Duration::from_secs(2);

/// What comes of a statement, or that nothing was heard of it for too long.
async fn heard<T>(
    within: Duration,
    statement: impl Future<Output = std::result::Result<T, sqlx::Error>>,
) -> Result<T> {
    let told = tokio::time::timeout(within, statement).await;
    Ok(told.map_err(|_| Error::silent())??)
}

/// The schema that holds everything, so that users can keep their own tables in the database.
const SCHEMA: &str = "stepwell";

impl Store {
    /// Connects. `max_connections` bounds the pool; lanes and two for the pulse come on top of it.
    pub async fn connect(url: &str, max_connections: u32) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)?
            .application_name("stepwell")
            .options([
                ("search_path", SCHEMA),
                ("statement_timeout", "5s"),
                ("idle_in_transaction_session_timeout", "5s"),
                ("synchronous_commit", "on"),
                ("jit", "off"),
                ("TimeZone", "UTC"),
                // Plans must not outlive the statistics of tables that go from empty to large.
                ("plan_cache_mode", "force_custom_plan"),
            ])
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(CONNECT)
            .connect_with(options.clone())
            .await?;
        let pulse = PgPoolOptions::new()
            .max_connections(PULSE)
            .acquire_timeout(Duration::from_secs(2))
            .connect_lazy_with(options.clone().application_name("stepwell pulse"));
        Ok(Self { pool, pulse, options })
    }

    /// A store of a database that never answers.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        let options = PgConnectOptions::new().host("127.0.0.1").port(1);
        let pool = PgPoolOptions::new()
            .acquire_timeout(Duration::from_millis(50))
            .connect_lazy_with(options.clone());
        Self { pulse: pool.clone(), pool, options }
    }

    /// Begins a transaction. The beginning is a task of its own, which nobody who stops waiting can
    /// cut in two: the connection would go back to the pool inside a transaction that nobody ends,
    /// and swallow what others record on it.
    async fn begin(&self, statement: &'static str) -> Result<Transaction<'static, Postgres>> {
        let pool = self.pool.clone();
        let begun = tokio::spawn(async move { pool.begin_with(statement).await });
        Ok(begun.await.map_err(|e| Error::Unavailable(e.to_string()))??)
    }

    /// A new lane. Its plans are made once, for any batch, and use indexes only.
    pub async fn lane(&self) -> Result<Lane> {
        let options = self.options.clone().application_name("stepwell lane").options([
            ("lock_timeout", "500ms"),
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
        ]);
        let connecting = tokio::time::timeout(CONNECT, options.connect());
        let conn = connecting.await.map_err(|_| Error::silent())??;
        Ok(Lane { conn })
    }

    /// Closes the pool, waiting for what is under way.
    pub async fn close(&self) {
        self.pool.close().await;
        self.pulse.close().await;
    }
}
