//! Brings the schema up to date: the files of `migrations/`, embedded, in order, once each.

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqlSafeStr as _};

use super::error::{Error, Result};
use super::{SCHEMA, Store, wire};
use crate::machine::Timestamp;

/// Version, what it is about, and the text of every migration.
const MIGRATIONS: [(i64, &str, &str); 31] = [
    (1, "cluster", include_str!("../../migrations/0001_cluster.sql")),
    (2, "catalog", include_str!("../../migrations/0002_catalog.sql")),
    (3, "journal", include_str!("../../migrations/0003_journal.sql")),
    (4, "runs", include_str!("../../migrations/0004_runs.sql")),
    (5, "messages", include_str!("../../migrations/0005_messages.sql")),
    (6, "telling", include_str!("../../migrations/0006_telling.sql")),
    (7, "partitions", include_str!("../../migrations/0007_partitions.sql")),
    (8, "leaving", include_str!("../../migrations/0008_leaving.sql")),
    (9, "gates", include_str!("../../migrations/0009_gates.sql")),
    (10, "between", include_str!("../../migrations/0010_between.sql")),
    (11, "call secrets", include_str!("../../migrations/0011_call_secrets.sql")),
    (12, "retaken", include_str!("../../migrations/0012_retaken.sql")),
    (13, "events", include_str!("../../migrations/0013_events.sql")),
    (14, "generations", include_str!("../../migrations/0014_generations.sql")),
    (15, "versions", include_str!("../../migrations/0015_versions.sql")),
    (16, "objects", include_str!("../../migrations/0016_objects.sql")),
    (17, "schedules", include_str!("../../migrations/0017_schedules.sql")),
    (18, "flow", include_str!("../../migrations/0018_flow.sql")),
    (20, "run lists", include_str!("../../migrations/0020_run_lists.sql")),
    (21, "sql", include_str!("../../migrations/0021_sql.sql")),
    (22, "bulk", include_str!("../../migrations/0022_bulk.sql")),
    (23, "webhooks", include_str!("../../migrations/0023_webhooks.sql")),
    (24, "audit", include_str!("../../migrations/0024_audit.sql")),
    (25, "pull", include_str!("../../migrations/0025_pull.sql")),
    (26, "namespaces", include_str!("../../migrations/0026_namespaces.sql")),
    (27, "errors", include_str!("../../migrations/0027_errors.sql")),
    (28, "gathers", include_str!("../../migrations/0028_gathers.sql")),
    (29, "locks", include_str!("../../migrations/0029_locks.sql")),
    (30, "imports", include_str!("../../migrations/0030_imports.sql")),
    (31, "turns and ends", include_str!("../../migrations/0031_turns_and_ends.sql")),
    (32, "error states", include_str!("../../migrations/0032_error_states.sql")),
];

/// One migration and whether the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// From 1.
    pub version: i64,
    /// What it is about.
    pub description: &'static str,
    /// When it was applied; none: not yet.
    pub applied_at: Option<Timestamp>,
}

fn migrator() -> Migrator {
    let all = MIGRATIONS.map(|(version, description, sql)| {
        let kind = MigrationType::Simple;
        Migration::new(version, description.into(), kind, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(all.into())
}

pub(super) const SCHEMA_EXISTS: &str = "select to_regnamespace('stepwell') is not null";
pub(super) const TABLE_EXISTS: &str = "select to_regclass('stepwell._sqlx_migrations') is not null";
/// Prepared by hand only: its table is the migrator's own.
pub(super) const APPLIED: &str =
    "select version, installed_on from stepwell._sqlx_migrations where success order by version";

impl Store {
    /// Applies what is missing and makes the partitions of the coming weeks. Safe to call from
    /// several nodes at once; refuses a database whose applied migrations differ from this
    /// version's, or that a newer version has migrated.
    pub async fn migrate_up(&self) -> Result<()> {
        let options =
            self.options.clone().options([("statement_timeout", "0"), ("lock_timeout", "10s")]);
        let mut conn = options.connect().await?;
        let mut migrator = migrator();
        // Creating a schema needs a right that a later, lesser role may lack.
        if !sqlx::query_scalar(SCHEMA_EXISTS).fetch_one(&mut conn).await? {
            migrator.create_schema(SCHEMA);
        }
        migrator.run_direct(None, &mut conn, false).await?;
        conn.close().await?;
        let now = self.now().await?;
        self.ensure_partitions(now).await?;
        Ok(())
    }

    /// All migrations of this version, and which of them the database has.
    pub async fn migrate_status(&self) -> Result<Vec<MigrationStatus>> {
        let mut applied = std::collections::BTreeMap::new();
        if sqlx::query_scalar(TABLE_EXISTS).fetch_one(&self.pool).await? {
            for row in sqlx::query(APPLIED).fetch_all(&self.pool).await? {
                applied.insert(row.try_get::<i64, _>(0)?, wire::at(&row, "installed_on")?);
            }
        }
        let known = MIGRATIONS.map(|(version, description, _)| MigrationStatus {
            version,
            description,
            applied_at: applied.remove(&version),
        });
        match applied.last_key_value() {
            Some((newer, _)) => Err(Error::Migration(format!(
                "the database has migration {newer}, which this version does not know"
            ))),
            None => Ok(known.into()),
        }
    }

    /// The SQL of all migrations after `from`, for people who apply them themselves.
    #[must_use]
    pub fn migrate_print(from: i64) -> String {
        let mut text =
            format!("create schema if not exists {SCHEMA};\nset search_path = {SCHEMA};\n");
        for (version, description, sql) in MIGRATIONS.iter().filter(|m| m.0 > from) {
            text.extend([&format!("\n-- {version:04} {description}\n"), *sql]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::TestDb;

    #[tokio::test]
    async fn all_are_applied_once_and_the_status_says_so() {
        let db = TestDb::new().await;
        let status = db.store.migrate_status().await.unwrap();
        assert_eq!(status.len(), MIGRATIONS.len());
        assert!(status.iter().all(|m| m.applied_at.is_some()), "{status:?}");
        db.store.migrate_up().await.unwrap();
        assert_eq!(
            db.store.migrate_status().await.unwrap(),
            status,
            "a second call changes nothing"
        );
    }

    #[test]
    fn every_file_is_a_migration() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let files = std::fs::read_dir(folder).unwrap();
        let mut files: Vec<String> =
            files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        files.sort_unstable();
        let known = MIGRATIONS
            .map(|(version, about, _)| format!("{version:04}_{}.sql", about.replace(' ', "_")));
        assert_eq!(files, known);
    }

    #[test]
    fn print_is_the_text_after_a_version() {
        let all = Store::migrate_print(0);
        let last = Store::migrate_print(6);
        assert!(all.contains("create table journal") && !last.contains("create table journal"));
        assert!(last.contains("create function ensure_partitions"));
    }
}
