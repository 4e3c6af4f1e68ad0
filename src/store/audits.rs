//! Who did what through the API: a row before the act, its result after it.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::Store;
use super::error::Result;
use super::wire::{self, Ts};
use crate::machine::{AuditId, Timestamp};

/// An act, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// Its entry.
    pub id: AuditId,
    /// The namespace of who did it.
    pub ns: i32,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// From where.
    pub peer: Option<String>,
    /// From where before that, as the request says.
    pub forwarded_for: Option<String>,
    /// The operation.
    pub action: String,
    /// Its path.
    pub target: String,
    /// Why.
    pub reason: Option<String>,
    /// The id of the request.
    pub request_id: String,
}

/// An act and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// The act.
    pub act: Act,
    /// The status of the answer; none: nobody knows.
    pub status: Option<u16>,
    /// The code of its problem.
    pub code: Option<String>,
}

/// What is listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Who.
    pub by: Option<String>,
    /// The operation.
    pub action: Option<String>,
    /// What the path begins with.
    pub target: Option<String>,
    /// From then on.
    pub since: Option<Timestamp>,
    /// Before then.
    pub until: Option<Timestamp>,
    /// Only those before this one: the newest come first.
    pub before: Option<AuditId>,
    /// How many at most.
    pub limit: i64,
}

pub(super) const NOTE: &str =
    "insert into audit (ns, id, at, by, peer, forwarded_for, action, target, reason, request_id)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
pub(super) const CAME: &str =
    "update audit set status = $3, code = $4 where ns = $1 and id = $2 and status is null";
pub(super) const LIST: &str = "select ns, id, at, by, peer, forwarded_for, action, target, reason,
       request_id, status, code
  from audit
 where ns = $1 and ($2::uuid is null or id < $2) and ($3::text is null or by = $3)
   and ($4::text is null or action = $4) and ($5::text is null or starts_with(target, $5))
   and ($6::timestamptz is null or at >= $6) and ($7::timestamptz is null or at < $7)
 order by id desc limit $8";
/// The oldest first, some of each namespace.
pub(super) const TRIM: &str = "delete from audit a using namespaces n
 cross join lateral (
   select o.id from audit o where o.ns = n.id and o.id < $1 order by o.id limit $2) old
 where a.ns = n.id and a.id = old.id";

fn audit(row: &PgRow) -> Result<AuditRow> {
    let status: Option<i16> = row.try_get("status")?;
    Ok(AuditRow {
        act: Act {
            id: row.try_get::<Uuid, _>("id")?.into(),
            ns: row.try_get("ns")?,
            at: wire::at(row, "at")?,
            by: row.try_get("by")?,
            peer: row.try_get("peer")?,
            forwarded_for: row.try_get("forwarded_for")?,
            action: row.try_get("action")?,
            target: row.try_get("target")?,
            reason: row.try_get("reason")?,
            request_id: row.try_get("request_id")?,
        },
        status: status.and_then(|status| u16::try_from(status).ok()),
        code: row.try_get("code")?,
    })
}

impl Store {
    /// Notes an act that is about to be done.
    pub async fn note_act(&self, act: &Act) -> Result<()> {
        let query = sqlx::query(NOTE)
            .bind(act.ns)
            .bind(act.id.uuid())
            .bind(Ts(act.at))
            .bind(&act.by)
            .bind(act.peer.as_deref())
            .bind(act.forwarded_for.as_deref())
            .bind(&act.action)
            .bind(&act.target)
            .bind(act.reason.as_deref())
            .bind(&act.request_id);
        query.execute(&self.pool).await?;
        Ok(())
    }

    /// Notes what came of it.
    pub async fn act_came(
        &self,
        ns: i32,
        id: AuditId,
        status: u16,
        code: Option<&str>,
    ) -> Result<()> {
        let status = i16::try_from(status).unwrap_or(i16::MAX);
        let query = sqlx::query(CAME).bind(ns).bind(id.uuid()).bind(status).bind(code);
        query.execute(&self.pool).await?;
        Ok(())
    }

    /// Acts in a namespace, the newest first.
    pub async fn acts(&self, ns: i32, filter: &AuditFilter) -> Result<Vec<AuditRow>> {
        let query = sqlx::query(LIST)
            .bind(ns)
            .bind(filter.before.map(AuditId::uuid))
            .bind(filter.by.as_deref())
            .bind(filter.action.as_deref())
            .bind(filter.target.as_deref())
            .bind(filter.since.map(Ts))
            .bind(filter.until.map(Ts))
            .bind(filter.limit);
        query.fetch_all(&self.pool).await?.iter().map(audit).collect()
    }

    /// Removes what is older, at most so much of each namespace.
    pub async fn trim_acts(&self, older_than: Timestamp, most: i64) -> Result<u64> {
        let query = sqlx::query(TRIM).bind(AuditId::new(older_than, 0).uuid()).bind(most);
        Ok(query.execute(&self.pool).await?.rows_affected())
    }
}
