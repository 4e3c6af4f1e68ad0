//! What users' transactions have asked for by the functions of migration 21: taken by one node at a
//! time, in the order of the calls as far as they are committed.
//!
//! There is no cursor: a row that is committed late is there like any other, and one that is not
//! committed yet cannot be seen and keeps nobody.

use sqlx::postgres::{PgBindIterExt as _, PgListener, PgPoolOptions, PgRow};
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::error::Result;
use super::outbox::Delivery;
use super::{CreateOutcome, Lane, NewRun, SILENCE, Store, batch, heard, wire};
use crate::machine::{RunId, Timestamp};

/// What the functions notify.
const CHANNEL: &str = "stepwell_sql";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskedFor {
    /// A start, of the run of the request's id; `name` is the function.
    Start {
        /// The run key.
        key: Option<String>,
        /// First not before this moment.
        start_at: Option<Timestamp>,
        /// Among runs that wait for the same limit.
        priority: i16,
        /// JSON object of strings.
        tags: Option<String>,
    },
    /// A signal to a run.
    Signal(RunId),
    /// An event, of the request's id.
    Event {
        /// Who publishes it.
        source: String,
        /// What the source calls it.
        source_id: String,
        /// When it happened.
        happened_at: Option<Timestamp>,
    },
}

/// What a transaction has asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlRequest {
    /// Its id, and that of the run, message or event.
    pub id: Uuid,
    /// Namespace.
    pub ns: i32,
    /// The role that asked.
    pub by: String,
    /// Of the function, signal or event.
    pub name: String,
    /// JSON as it came.
    pub body: String,
    /// What.
    pub what: AskedFor,
}

pub(super) const ANY: &str = "select exists (select from sql_requests where due <= now())";

/// One node at a time: else two could change the order of what one run is sent. The number is a
/// name that no one else is likely to use.
pub(super) const HOLD: &str = "select pg_try_advisory_xact_lock(8390880602341605735)";

pub(super) const TAKE: &str =
    "select id, kind, ns, by, run_id, name, key, body, start_at, priority, tags, source, source_id
  from sql_requests where due <= now() order by due, place limit $1";

/// Which of these runs are still to be started.
pub(super) const TO_START: &str =
    "select id from sql_requests where kind = 1 and id = any($1::uuid[])";

pub(super) const DONE: &str = "delete from sql_requests where id = any($1::uuid[])";

pub(super) const LATER: &str =
    "update sql_requests set due = clock_timestamp() + $2 * interval '1 millisecond'
 where id = any($1::uuid[])";

fn request(row: &PgRow) -> Result<SqlRequest> {
    let text = |name: &str| row.try_get::<Option<String>, _>(name).map(Option::unwrap_or_default);
    let at = || wire::maybe_at(row, "start_at");
    let what = match row.try_get::<i16, _>("kind")? {
        1 => AskedFor::Start {
            key: row.try_get("key")?,
            start_at: at()?,
            priority: row.try_get::<Option<i16>, _>("priority")?.unwrap_or(0),
            tags: row.try_get("tags")?,
        },
        2 => AskedFor::Signal(wire::run_id(row)?),
        _ => AskedFor::Event {
            source: text("source")?,
            source_id: text("source_id")?,
            happened_at: at()?,
        },
    };
    Ok(SqlRequest {
        id: row.try_get("id")?,
        ns: row.try_get("ns")?,
        by: text("by")?,
        name: text("name")?,
        body: text("body")?,
        what,
    })
}

/// Who hears that a transaction has asked for something. A hint: the table is the truth.
#[derive(Debug)]
pub struct Ears(PgListener);

impl Ears {
    /// Returns when something may have been asked for.
    pub async fn hear(&mut self) -> Result<()> {
        self.0.recv().await?;
        Ok(())
    }
}

impl Store {
    /// Whether something is asked for.
    pub async fn any_sql_requests(&self) -> Result<bool> {
        Ok(sqlx::query_scalar(ANY).fetch_one(&self.pool).await?)
    }

    /// These are looked at again, but not before so many milliseconds.
    pub async fn put_off_sql_requests(&self, ids: &[Uuid], millis: i32) -> Result<()> {
        sqlx::query(LATER).bind(ids).bind(f64::from(millis)).execute(&self.pool).await?;
        Ok(())
    }

    /// Listens, on a connection of its own.
    pub async fn ears(&self) -> Result<Ears> {
        let options = self.options.clone().application_name("stepwell ears");
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(super::CONNECT);
        let mut listener = PgListener::connect_with(&pool.connect_lazy_with(options)).await?;
        listener.listen(CHANNEL).await?;
        Ok(Ears(listener))
    }
}

impl Lane {
    /// Begins to do what was asked for, at most so much of it. None: another node is at it.
    pub async fn sql_requests(
        &mut self,
        limit: i64,
    ) -> Result<Option<(Delivery<'_>, Vec<SqlRequest>)>> {
        let mut tx = heard(SILENCE, self.conn.begin()).await?;
        if !heard(SILENCE, sqlx::query_scalar::<_, bool>(HOLD).fetch_one(&mut *tx)).await? {
            return Ok(None);
        }
        let rows = heard(SILENCE, sqlx::query(TAKE).bind(limit).fetch_all(&mut *tx)).await?;
        let asked = rows.iter().map(request).collect::<Result<_>>()?;
        Ok(Some((Delivery::over(tx), asked)))
    }
}

impl Delivery<'_> {
    /// Starts runs of which several may be after the same key; none may have an idempotency key.
    pub async fn create_each(&mut self, runs: &[NewRun]) -> Result<Vec<CreateOutcome>> {
        if runs.is_empty() { Ok(Vec::new()) } else { batch::all(self.conn(), runs).await }
    }

    /// Which of these runs are still to be started.
    pub async fn awaited(&mut self, runs: &[RunId]) -> Result<Vec<RunId>> {
        let query =
            sqlx::query_scalar(TO_START).bind(runs.iter().map(|run| run.uuid()).bind_iter());
        let ids: Vec<Uuid> = heard(SILENCE, query.fetch_all(self.conn())).await?;
        Ok(ids.into_iter().map(RunId::from).collect())
    }

    /// These are done, and those are looked at again after so many milliseconds.
    pub async fn sql_done(&mut self, done: &[Uuid], later: &[Uuid], millis: i32) -> Result<()> {
        heard(SILENCE, sqlx::query(DONE).bind(done).execute(self.conn())).await?;
        if !later.is_empty() {
            let query = sqlx::query(LATER).bind(later).bind(f64::from(millis));
            heard(SILENCE, query.execute(self.conn())).await?;
        }
        Ok(())
    }
}
