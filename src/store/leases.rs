//! Who drives which shards: nodes, their heartbeat, claims and releases of lease groups.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgBindIterExt as _, PgRow};
use uuid::Uuid;

use super::error::{Error, Result};
use super::health::Health;
use super::wire::Ts;
use super::{PULSE_SILENCE, Store, heard, wire};
use crate::machine::{NodeId, RunId, Timestamp};

/// What a node says of itself once a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeBeat {
    /// Which.
    pub id: NodeId,
    /// Where the others reach it: `http://host:port`.
    pub address: String,
    /// How long it may be silent.
    pub ttl: Duration,
    /// It hands over what it drives and takes nothing new.
    pub leaving: bool,
}

/// What a node hears once a second: one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// Postgres' time at the statement's begin, which lies between the caller's sending of the
    /// request and its receiving of the answer.
    pub now: Timestamp,
    /// The node was reaped: it must drop all its runs and join again under a new id.
    pub fenced: bool,
    /// Nodes that were reaped by this call.
    pub reaped: u64,
    /// Nodes whose lease has not passed, the caller among them.
    pub nodes: Vec<(NodeId, String)>,
    /// How many of them are to stay.
    pub staying: usize,
    /// Owner and term of every group, in order.
    pub groups: Vec<(Option<NodeId>, i64)>,
    /// The level that all speak.
    pub level: i16,
    /// Grows with every change of the catalog.
    pub config_version: i64,
    /// Runs of the caller's groups with messages in their inbox, at most 1,000.
    pub inboxes: Vec<RunId>,
    /// The circuits that are open.
    pub circuits: Vec<Health>,
    /// Runs of the caller's groups with something in their outbox that is not put off, the same.
    pub outboxes: Vec<RunId>,
}

pub(super) const NOW: &str = "select now() as now";

pub(super) const TICK: &str = "with beat as (
  update nodes set lease_until = now() + $3, address = $2, leaving = $5 where id = $1 returning 1),
reaped as (
  delete from nodes where id <> $1 and lease_until < now() - $4::interval returning 1),
mine as materialized (select grp from lease_groups where owner = $1),
live as (select id, address, leaving from nodes where lease_until > now() or id = $1),
ill as materialized (select * from endpoint_health where state <> 0 order by endpoint_id)
select now() as now, c.level, c.config_version,
       (select count(*) from beat) = 0 as fenced,
       (select count(*) from reaped) as reaped,
       array(select id from live order by id) as ids,
       array(select address from live order by id) as addresses,
       (select count(*) from live where not leaving and id <> $1) + (not $5)::int as staying,
       array(select owner from lease_groups order by grp) as owners,
       array(select term from lease_groups order by grp) as terms,
       array(select i.run_id from mine g cross join lateral (
               select distinct shard, run_id from inbox
                where shard between g.grp * 16 and g.grp * 16 + 15
                order by shard, run_id limit 1000) i limit 1000) as inboxes,
       array(select o.run_id from mine g cross join lateral (
               select distinct shard, run_id from outbox
                where shard between g.grp * 16 and g.grp * 16 + 15 and (kind between 1 and 7 or kind in (40, 80))
                  and (due is null or due <= now())
                order by shard, run_id limit 1000) o limit 1000) as outboxes,
       array(select endpoint_id from ill order by endpoint_id) as ill,
       array(select failures from ill order by endpoint_id) as failures,
       array(select detail from ill order by endpoint_id) as details,
       array(select opened_at from ill order by endpoint_id) as opened,
       array(select next_probe_at from ill order by endpoint_id) as probes,
       array(select probe_by from ill order by endpoint_id) as probers
  from cluster c";

/// `me` is locked against the reaper. A group is taken only in the term that the caller saw; also
/// one that it owns and has dropped from memory: in a new term, for it knows no epochs any more.
pub(super) const CLAIM: &str = "with me as (select id from nodes where id = $1 for key share),
free as (
  select g.grp from lease_groups g
    join unnest($2::int2[], $3::int8[]) as w(grp, term) on g.grp = w.grp and g.term = w.term
   where (g.owner is null or g.owner = $1
          or not exists (select from nodes n where n.id = g.owner))
     and exists (select from me)
   order by g.grp for update of g)
update lease_groups g set owner = $1, term = g.term + 1, claimed_at = now()
  from free where g.grp = free.grp returning g.grp, g.term";

pub(super) const RELEASE: &str =
    "update lease_groups set owner = null where owner = $1 and grp = any($2::int2[])";

/// A repeat of one whose answer was lost changes nothing.
pub(super) const JOIN: &str =
    "insert into nodes (id, address, level, lease_until) select $1, $2, $3, now() + $4
  from cluster where level <= $3
  on conflict (id) do update set lease_until = excluded.lease_until";

pub(super) const LEAVE: &str = "with freed as (
  update lease_groups set owner = null where owner = $1)
delete from nodes where id = $1";

pub(super) const SECRET: &str = "select secret from cluster";

/// The level of formats and codes that this version speaks.
pub(super) const LEVEL: i16 = 1;

fn interval(d: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(d.as_micros()).unwrap_or(i64::MAX),
    }
}

/// The circuits that a tick tells of.
fn circuits(row: &PgRow) -> Result<Vec<Health>> {
    let endpoints: Vec<i32> = row.try_get("ill")?;
    let failures: Vec<i32> = row.try_get("failures")?;
    let details: Vec<String> = row.try_get("details")?;
    let opened: Vec<Ts> = row.try_get("opened")?;
    let probes: Vec<Ts> = row.try_get("probes")?;
    let probers: Vec<Option<Uuid>> = row.try_get("probers")?;
    let mut of_it = failures.into_iter().zip(details).zip(opened).zip(probes).zip(probers);
    let circuit = |endpoint_id: i32| {
        let ((((failures, detail), opened_at), next_probe_at), probe_by) = of_it.next()?;
        Some(Health {
            endpoint_id,
            failures: failures.unsigned_abs(),
            detail,
            opened_at: opened_at.0,
            next_probe_at: next_probe_at.0,
            probe_by: probe_by.map(NodeId::from),
        })
    };
    Ok(endpoints.into_iter().filter_map(circuit).collect())
}

impl Store {
    /// Postgres' time.
    pub async fn now(&self) -> Result<Timestamp> {
        let row = heard(PULSE_SILENCE, sqlx::query(NOW).fetch_one(&self.pulse)).await?;
        wire::at(&row, "now")
    }

    /// The cluster's secret: 32 bytes, the root of tokens and callback addresses.
    pub async fn cluster_secret(&self) -> Result<[u8; 32]> {
        let secret: Vec<u8> = sqlx::query_scalar(SECRET).fetch_one(&self.pulse).await?;
        secret.try_into().map_err(|_| Error::corrupt("the cluster's secret is not 32 bytes long"))
    }

    /// Makes the node a member. Refused where the cluster speaks a level that this version does
    /// not know.
    pub async fn join(&self, node: &NodeBeat) -> Result<()> {
        let query = sqlx::query(JOIN)
            .bind(node.id.uuid())
            .bind(node.address.as_str())
            .bind(LEVEL)
            .bind(interval(node.ttl));
        let done = heard(PULSE_SILENCE, query.execute(&self.pulse)).await?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(Error::Migration(format!(
                "the cluster speaks a level above {LEVEL}: this version is too old to join it"
            ))),
        }
    }

    /// Renews the node's lease and tells how the cluster stands. With `reap`, removes nodes whose
    /// lease passed longer ago than that.
    pub async fn tick(&self, node: &NodeBeat, reap: Option<Duration>) -> Result<Tick> {
        let query = sqlx::query(TICK)
            .bind(node.id.uuid())
            .bind(node.address.as_str())
            .bind(interval(node.ttl))
            .bind(reap.map(interval))
            .bind(node.leaving);
        let row = heard(PULSE_SILENCE, query.fetch_one(&self.pulse)).await?;
        let ids: Vec<Uuid> = row.try_get("ids")?;
        let addresses: Vec<String> = row.try_get("addresses")?;
        let owners: Vec<Option<Uuid>> = row.try_get("owners")?;
        let terms: Vec<i64> = row.try_get("terms")?;
        let inboxes: Vec<Uuid> = row.try_get("inboxes")?;
        let circuits = circuits(&row)?;
        let outboxes: Vec<Uuid> = row.try_get("outboxes")?;
        let reaped: i64 = row.try_get("reaped")?;
        let staying: i64 = row.try_get("staying")?;
        Ok(Tick {
            now: wire::at(&row, "now")?,
            fenced: row.try_get("fenced")?,
            reaped: reaped.unsigned_abs(),
            staying: usize::try_from(staying).unwrap_or(0),
            nodes: ids.into_iter().map(NodeId::from).zip(addresses).collect(),
            groups: owners.into_iter().map(|o| o.map(NodeId::from)).zip(terms).collect(),
            level: row.try_get("level")?,
            config_version: row.try_get("config_version")?,
            inboxes: inboxes.into_iter().map(RunId::from).collect(),
            circuits,
            outboxes: outboxes.into_iter().map(RunId::from).collect(),
        })
    }

    /// Takes free groups, each given with the term in which the caller saw it free. Returns those
    /// that it has now, with their new terms. A group is free if nobody owns it, if the caller
    /// does, or if its owner is no member any more.
    pub async fn claim(&self, node: NodeId, groups: &[(i16, i64)]) -> Result<Vec<(i16, i64)>> {
        let query = sqlx::query(CLAIM)
            .bind(node.uuid())
            .bind(groups.iter().map(|g| g.0).bind_iter())
            .bind(groups.iter().map(|g| g.1).bind_iter());
        let rows = heard(PULSE_SILENCE, query.fetch_all(&self.pulse)).await?;
        rows.iter().map(|row| Ok((row.try_get("grp")?, row.try_get("term")?))).collect()
    }

    /// Gives groups back; those of others are left alone.
    pub async fn release(&self, node: NodeId, groups: &[i16]) -> Result<()> {
        let query = sqlx::query(RELEASE).bind(node.uuid()).bind(groups);
        heard(PULSE_SILENCE, query.execute(&self.pulse)).await?;
        Ok(())
    }

    /// Gives all groups back and ends the membership.
    pub async fn leave(&self, node: NodeId) -> Result<()> {
        let query = sqlx::query(LEAVE).bind(node.uuid());
        heard(PULSE_SILENCE, query.execute(&self.pulse)).await?;
        Ok(())
    }
}
