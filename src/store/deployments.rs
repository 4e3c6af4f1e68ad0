//! Which live runs need which deployment, and the end of deployments that nobody needs.

use sqlx::Row as _;
use sqlx::postgres::PgBindIterExt as _;

use super::Store;
use super::catalog::BUMP;
use super::error::Result;
use super::wire;
use crate::machine::RunId;

/// Live runs of one function that one deployment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Population {
    /// The deployment.
    pub dep: i32,
    /// The function.
    pub function_id: i32,
    /// Whether they are pinned there by hand.
    pub pinned: bool,
    /// Their status' code, at most a second late.
    pub status: i16,
    /// How many.
    pub runs: i64,
}

/// Which live runs: those of functions, wherever they are but for those that are pinned by hand
/// elsewhere; and those that certain deployments have and that go on with no other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needing {
    /// The namespace.
    pub ns: i32,
    /// All runs of these functions.
    pub functions: Vec<i32>,
    /// Of these deployments those that are pinned by hand, and …
    pub deployments: Vec<i32>,
    /// … those of a deployment and a function that is pinned there, once they were invoked.
    pub pinned: Vec<(i32, i32)>,
    /// Only runs after this one.
    pub after: Option<RunId>,
    /// How many at most.
    pub limit: i64,
}

/// A live run and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// The run.
    pub run: RunId,
    /// Its function.
    pub function_id: i32,
    /// The deployment that has it.
    pub dep: i32,
}

/// Asked for by people, and so read from what there is instead of counted at every move.
pub(super) const POPULATION: &str =
    "select dep, fn, pinned, status, count(*) as runs from run_active
 where ns = $1 and dep = any($2::int4[]) group by 1, 2, 3, 4 order by 1, 2, 3, 4";

/// A run that was never invoked goes to the newest deployment, whatever its function says.
pub(super) const NEEDING: &str = "select run_id, fn, dep from run_active a
 where ns = $1 and run_id > $6
   and (fn = any($2::int4[]) and not (pinned and not dep = any($3::int4[]))
        or dep = any($3::int4[])
           and (pinned or status <> 0 and exists (
                  select from unnest($4::int4[], $5::int4[]) as p(dep, fn)
                   where p.dep = a.dep and p.fn = a.fn)))
 order by run_id limit $7";

/// A deployment that hosts a function, perhaps since a moment ago, is needed.
pub(super) const PRUNE: &str = "update deployments d set pruned_at = now()
 where d.id = any($1::int4[]) and d.pruned_at is null
   and not exists (select from functions f where f.dep = d.id)
returning d.id";

impl Store {
    /// The live runs that deployments have, by deployment, function, pin and status.
    pub async fn population(&self, ns: i32, deployments: &[i32]) -> Result<Vec<Population>> {
        let rows = sqlx::query(POPULATION).bind(ns).bind(deployments);
        let of = |row: &sqlx::postgres::PgRow| {
            Ok(Population {
                dep: row.try_get("dep")?,
                function_id: row.try_get("fn")?,
                pinned: row.try_get("pinned")?,
                status: row.try_get("status")?,
                runs: row.try_get("runs")?,
            })
        };
        rows.fetch_all(&self.pool).await?.iter().map(of).collect()
    }

    /// Live runs that need something, oldest first.
    pub async fn needing(&self, what: &Needing) -> Result<Vec<Resident>> {
        let rows = sqlx::query(NEEDING)
            .bind(what.ns)
            .bind(what.functions.as_slice())
            .bind(what.deployments.as_slice())
            .bind(what.pinned.iter().map(|p| p.0).bind_iter())
            .bind(what.pinned.iter().map(|p| p.1).bind_iter())
            .bind(what.after.map_or(uuid::Uuid::nil(), RunId::uuid))
            .bind(what.limit)
            .fetch_all(&self.pool)
            .await?;
        let of = |row: &sqlx::postgres::PgRow| {
            Ok(Resident {
                run: wire::run_id(row)?,
                function_id: row.try_get("fn")?,
                dep: row.try_get("dep")?,
            })
        };
        rows.iter().map(of).collect()
    }

    /// Retires those of these deployments that host no function; which they were. Their ids stay
    /// known, for the runs that ended there.
    pub async fn prune_deployments(&self, deployments: &[i32]) -> Result<Vec<i32>> {
        let mut tx = self.begin("begin").await?;
        sqlx::query(BUMP).execute(&mut *tx).await?;
        let gone = sqlx::query_scalar(PRUNE).bind(deployments).fetch_all(&mut *tx).await?;
        if gone.is_empty() {
            return Ok(gone);
        }
        tx.commit().await?;
        Ok(gone)
    }
}
