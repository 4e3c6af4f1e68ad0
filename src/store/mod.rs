//! Floor 1: Postgres and nothing else. All SQL of the project is in here.
//!
//! Reads, configuration and the tick go through a small pool, the hot writes through [`Lane`]s.

mod accept;
mod append;
mod audit;
mod catalog;
mod create;
mod error;
mod health;
mod history;
mod journal;
mod keys;
mod leases;
mod lists;
mod load;
mod migrate;
mod register;
mod retention;
mod takeover;
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tests;
mod wire;

use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

pub use accept::{Accept, Accepted};
pub use audit::Finding;
pub use catalog::{Catalog, Deployment, Endpoint, EndpointChange, FunctionRow, NamespaceRow};
pub use create::{CreateOutcome, Idem, IfClosed, NewKey, NewRun};
pub use error::{Error, Result};
pub use health::{Health, HealthState};
pub use history::{Happened, Place, SignalRow};
pub use journal::{JournalEntry, StoredLog};
pub use keys::{ApiKey, NewApiKey};
pub use leases::{NodeBeat, Tick};
pub use lists::{ListedRun, RunFilter};
pub use load::Loaded;
pub use migrate::MigrationStatus;
pub use register::{Registered, Registration};
pub use retention::Dropped;
pub use takeover::Projection;

/// A pool of connections to one database: for reads, configuration and the tick.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    options: PgConnectOptions,
}

/// One connection of its own, for the statements that record: one after another, one in flight.
#[derive(Debug)]
pub struct Lane {
    conn: PgConnection,
}

/// The schema that holds everything, so that users can keep their own tables in the database.
const SCHEMA: &str = "stepwell";

impl Store {
    /// Connects. `max_connections` bounds the pool; lanes come on top of it.
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
            .acquire_timeout(Duration::from_secs(5))
            .connect_with(options.clone())
            .await?;
        Ok(Self { pool, options })
    }

    /// A store of a database that never answers.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        let options = PgConnectOptions::new().host("127.0.0.1").port(1);
        let pool = PgPoolOptions::new()
            .acquire_timeout(Duration::from_millis(50))
            .connect_lazy_with(options.clone());
        Self { pool, options }
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
        Ok(Lane { conn: options.connect().await? })
    }

    /// Closes the pool, waiting for what is under way.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
