//! Who is on its way through a limit and who waits for it, decided under the lock of the limit's key.
//!
//! A run asks, and gets a row: with a slot if one is free and nobody goes before it, else without.
//! Whoever gives a slot back gives it to the next in the same transaction, whichever node drives that
//! run. Slots are numbered and unique, so that no mistake of anybody lets one more through.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use sqlx::postgres::{PgBindIterExt as _, PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};

use super::error::{Error, Result};
use super::turns::{ASK, GRANT, PACE};
use super::wire::{self, Ts};
use super::{Lane, Store};
use crate::machine::{NodeId, RunId, Timestamp};

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitOf {
    /// A function's, by number.
    Function(i32),
    /// An endpoint's, by number.
    Endpoint(i32),
}

impl LimitOf {
    pub(super) const fn columns(self) -> (i16, i32) {
        match self {
            Self::Function(id) => (0, id),
            Self::Endpoint(id) => (1, id),
        }
    }

    const fn of(kind: i16, id: i32) -> Self {
        if kind == 0 { Self::Function(id) } else { Self::Endpoint(id) }
    }
}

/// A limit at one value of its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitKey {
    /// Whose.
    pub of: LimitOf,
    /// Which of its limits.
    pub rule: String,
    /// The value; empty where the limit has no key.
    pub key: String,
}

/// How much a limit lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Most {
    /// So many at once.
    Slots(u32),
    /// One in each interval, and so many at once after a pause.
    Pace {
        /// Between two.
        interval: Duration,
        /// How many at once.
        burst: u32,
    },
}

/// A run asks to be let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Where.
    pub at: LimitKey,
    /// How much is let through there.
    pub most: Most,
    /// Its namespace.
    pub ns: i32,
    /// Who.
    pub run: RunId,
    /// Higher goes first.
    pub priority: i16,
    /// Where values take turns: its value. None: the limit has no `fair`.
    pub fair: Option<String>,
    /// When the run was started: among equals the older one goes first.
    pub born: Timestamp,
    /// It keeps its slot to its end.
    pub whole: bool,
}

/// A run gives back what it has, or no longer waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Where.
    pub at: LimitKey,
    /// How much is let through there now.
    pub most: Most,
    /// Its namespace.
    pub ns: i32,
    /// Who; none: only whoever waits there is looked at.
    pub run: Option<RunId>,
    /// Only if this node asked last; none: whoever did.
    pub node: Option<NodeId>,
}

/// What asking and giving back came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passed {
    /// Runs that may go on, of this node and of others.
    pub granted: Vec<Granted>,
    /// Where somebody waits for time to pass, and when the next one may go.
    pub later: Vec<(LimitKey, Timestamp)>,
}

/// A run was let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Where.
    pub at: LimitKey,
    /// Who.
    pub run: RunId,
    /// It had its slot already, by way of a node that may have left something of it open.
    pub from_another: bool,
}

/// Whether two tables speak of the same key of a limit.
macro_rules! same {
    ($a:literal, $b:literal) => {
        concat!(
            $a,
            ".owner_kind = ",
            $b,
            ".owner_kind and ",
            $a,
            ".owner_id = ",
            $b,
            ".owner_id and ",
            $a,
            ".rule = ",
            $b,
            ".rule and ",
            $a,
            ".key = ",
            $b,
            ".key"
        )
    };
}

pub(super) use same;

pub(super) const KEYS: &str = "insert into limit_keys (owner_kind, owner_id, rule, key, ns)
select * from unnest($1::int2[],$2::int4[],$3::text[],$4::text[],$5::int4[])
  as k(owner_kind, owner_id, rule, key, ns) order by 1, 2, 3, 4
on conflict do nothing";

/// In one order, so that no two nodes wait for each other.
pub(super) const LOCK: &str = concat!(
    "select l.owner_kind, l.owner_id, l.rule, l.key, l.paused_at is not null as paused, l.next_at, l.passed
  from unnest($1::int2[],$2::int4[],$3::text[],$4::text[]) as k(owner_kind, owner_id, rule, key)
  join limit_keys l on ", same!("l", "k"), "
 order by l.owner_kind, l.owner_id, l.rule, l.key for update of l"
);

pub(super) const RELEASE_PERMITS: &str = concat!(
    "delete from permits p
 using unnest($1::int2[],$2::int4[],$3::text[],$4::text[],$5::uuid[],$6::uuid[])
   as k(owner_kind, owner_id, rule, key, run_id, node)
 where ",
    same!("p", "k"),
    " and p.run_id = k.run_id and (k.node is null or p.node = k.node)"
);

pub(super) const PACED: &str = concat!(
    "update limit_keys l set next_at = k.next_at, passed = k.passed
  from unnest($1::int2[],$2::int4[],$3::text[],$4::text[],$5::timestamptz[],$6::int8[])
    as k(owner_kind, owner_id, rule, key, next_at, passed)
 where ",
    same!("l", "k")
);

/// At which keys somebody waits.
pub(super) const WAITING: &str = concat!(
    "select k.owner_kind, k.owner_id, k.rule, k.key
  from unnest($1::int2[],$2::int4[],$3::text[],$4::text[]) as k(owner_kind, owner_id, rule, key)
 where exists (select from permits p where ",
    same!("p", "k"),
    " and p.slot is null)"
);

/// Grants that whoever drives the run has not heard of.
pub(super) const UNSEEN: &str = "update permits set seen = true
 where grp = any($1) and slot is not null and not seen
returning owner_kind, owner_id, rule, key, run_id";

/// Everybody of these groups that was let through.
pub(super) const HOLDERS: &str = "select distinct run_id from permits
 where grp = any($1) and slot is not null order by run_id";

/// Runs that were let through and still wait outside memory: nobody heard of it.
pub(super) const UNHEARD: &str = "select distinct p.run_id from permits p
  join run_active r on r.shard = shard_of(p.run_id) and r.run_id = p.run_id
 where p.grp = any($1) and p.slot is not null and r.gate = $2 order by p.run_id limit 1000";

/// Slots of runs that have ended or sleep: whoever had them died before it gave them back.
pub(super) const GHOSTS: &str =
    "select p.owner_kind, p.owner_id, p.rule, p.key, p.run_id, p.ns, p.node
  from permits p left join run_active r on r.shard = shard_of(p.run_id) and r.run_id = p.run_id
 where p.grp = any($1) and p.slot is not null
   and (r.run_id is null
        or not p.whole and r.wake_at > '-infinity' and r.gate is distinct from $2)
 order by p.run_id limit 1000";

/// Keys at which somebody waits, wherever: what was to let it through may have died.
pub(super) const STUCK: &str = concat!(
    "select l.owner_kind, l.owner_id, l.rule, l.key, l.ns from limit_keys l
 where l.paused_at is null and exists (
   select from permits p where ",
    same!("p", "l"),
    " and p.slot is null)
 order by l.owner_kind, l.owner_id, l.rule, l.key limit 10000"
);

/// Keys in columns.
struct Columns(Vec<i16>, Vec<i32>, Vec<String>, Vec<String>);

impl Columns {
    fn of<'a>(keys: impl Iterator<Item = &'a LimitKey>) -> Self {
        let mut all = Self(Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for at in keys {
            let (kind, id) = at.of.columns();
            all.0.push(kind);
            all.1.push(id);
            all.2.push(at.rule.clone());
            all.3.push(at.key.clone());
        }
        all
    }
}

/// Binds keys as the first four parameters.
macro_rules! of_keys {
    ($sql:expr, $keys:expr) => {{
        let Columns(kinds, ids, rules, keys) = Columns::of($keys);
        sqlx::query($sql).bind(kinds).bind(ids).bind(rules).bind(keys)
    }};
}

pub(super) fn key_of(row: &PgRow) -> Result<LimitKey> {
    let of = LimitOf::of(row.try_get("owner_kind")?, row.try_get("owner_id")?);
    Ok(LimitKey { of, rule: row.try_get("rule")?, key: row.try_get("key")? })
}

fn granted(row: &PgRow, from_another: bool) -> Result<Granted> {
    Ok(Granted { at: key_of(row)?, run: wire::run_id(row)?, from_another })
}

/// How many may go at `now` where the last was due at `last`, and when the next one may.
fn pace(
    last: Option<Timestamp>,
    now: Timestamp,
    interval: Duration,
    burst: u32,
) -> (i64, Timestamp) {
    let interval = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX).max(1);
    let ahead = interval.saturating_mul(i64::from(burst.saturating_sub(1)));
    let base = last.unwrap_or(now).max(now).as_micros();
    let room = now.as_micros().saturating_add(ahead) - base;
    let n = if room < 0 { 0 } else { room / interval + 1 };
    (n, Timestamp::from_micros(base.saturating_sub(ahead)))
}

impl Lane {
    /// Gives back, asks, and lets through whoever is next, in one transaction. `held` are the lease
    /// groups of this node: their runs need not be told of their grants.
    ///
    /// A key is forgotten at any time while nobody uses it: then the call is refused as busy.
    pub async fn pass(
        &mut self,
        releases: &[Release],
        asks: &[Ask],
        node: NodeId,
        held: &[i16],
        now: Timestamp,
    ) -> Result<Passed> {
        // Who asks twice asks once.
        let mut known = HashSet::new();
        let asks: Vec<&Ask> = asks.iter().filter(|a| known.insert((&a.at, a.run))).collect();
        let mut keys: BTreeMap<&LimitKey, (Most, i32)> = BTreeMap::new();
        keys.extend(releases.iter().map(|r| (&r.at, (r.most, r.ns))));
        keys.extend(asks.iter().map(|a| (&a.at, (a.most, a.ns))));
        let mut tx = self.conn.begin().await?;
        let conn: &mut PgConnection = &mut tx;
        of_keys!(KEYS, keys.keys().copied())
            .bind(keys.values().map(|(_, ns)| *ns).bind_iter())
            .execute(&mut *conn)
            .await?;
        let locked = of_keys!(LOCK, keys.keys().copied()).fetch_all(&mut *conn).await?;
        if locked.len() < keys.len() {
            return Err(Error::Busy("a limit's key was forgotten meanwhile".to_owned()));
        }
        let mut passed = Passed::default();
        let back: Vec<&Release> = releases.iter().filter(|r| r.run.is_some()).collect();
        if !back.is_empty() {
            of_keys!(RELEASE_PERMITS, back.iter().map(|r| &r.at))
                .bind(back.iter().filter_map(|r| r.run).map(RunId::uuid).bind_iter())
                .bind(back.iter().map(|r| r.node.map(NodeId::uuid)).bind_iter())
                .execute(&mut *conn)
                .await?;
        }
        if !asks.is_empty() {
            let had = of_keys!(ASK, asks.iter().map(|a| &a.at))
                .bind(asks.iter().map(|a| a.run.uuid()).bind_iter())
                .bind(asks.iter().map(|a| a.ns).bind_iter())
                .bind(asks.iter().map(|a| i16::from(a.run.shard().group())).bind_iter())
                .bind(asks.iter().map(|a| a.priority).bind_iter())
                .bind(asks.iter().map(|a| a.whole).bind_iter())
                .bind(node.uuid())
                .bind(Ts(now))
                .bind(asks.iter().map(|a| Ts(a.born)).bind_iter())
                .bind(asks.iter().map(|a| a.fair.as_deref()).bind_iter())
                .fetch_all(&mut *conn)
                .await?;
            for row in &had {
                passed.granted.push(granted(row, row.try_get("from_another")?)?);
            }
        }
        let (mut slots, mut paces) = (Vec::new(), Vec::new());
        for row in &locked {
            let at = key_of(row)?;
            if row.try_get("paused")? {
                continue;
            }
            let Some((most, _)) = keys.get(&at) else { continue };
            match *most {
                Most::Slots(most) => slots.push((at, i32::try_from(most).unwrap_or(i32::MAX))),
                Most::Pace { interval, burst } => {
                    let last = wire::maybe_at(row, "next_at")?;
                    let (n, next) = pace(last, now, interval, burst);
                    paces.push((at, n, next, row.try_get::<i64, _>("passed")?, last, interval));
                }
            }
        }
        if !slots.is_empty() {
            let rows = of_keys!(GRANT, slots.iter().map(|(at, _)| at))
                .bind(slots.iter().map(|(_, most)| *most).bind_iter())
                .bind(Ts(now))
                .bind(held)
                .fetch_all(&mut *conn)
                .await?;
            for row in &rows {
                // The others stay, with another turn.
                if row.try_get("goes")? {
                    passed.granted.push(granted(row, false)?);
                }
            }
        }
        if !paces.is_empty() {
            let rows = of_keys!(PACE, paces.iter().map(|p| &p.0))
                .bind(paces.iter().map(|p| p.1).bind_iter())
                .bind(paces.iter().map(|p| p.3).bind_iter())
                .bind(Ts(now))
                .bind(held)
                .fetch_all(&mut *conn)
                .await?;
            let mut counts: BTreeMap<LimitKey, i64> = BTreeMap::new();
            for row in &rows {
                let one = granted(row, false)?;
                *counts.entry(one.at.clone()).or_default() += 1;
                passed.granted.push(one);
            }
            for (at, n, next, before, last, interval) in &mut paces {
                let went = counts.get(at).copied().unwrap_or(0);
                *n = went;
                *before += went;
                let step =
                    Duration::from_micros(u64::try_from(interval.as_micros()).unwrap_or(u64::MAX));
                let went = u32::try_from(went).unwrap_or(u32::MAX);
                *next = *next + step * went;
                if went > 0 {
                    *last = Some(last.unwrap_or(now).max(now) + step * went);
                }
            }
            let moved: Vec<_> = paces.iter().filter(|p| p.1 > 0).collect();
            if !moved.is_empty() {
                of_keys!(PACED, moved.iter().map(|p| &p.0))
                    .bind(moved.iter().map(|p| p.4.map(Ts)).bind_iter())
                    .bind(moved.iter().map(|p| p.3).bind_iter())
                    .execute(&mut *conn)
                    .await?;
            }
            let waiting =
                of_keys!(WAITING, paces.iter().map(|p| &p.0)).fetch_all(&mut *conn).await?;
            let waiting: BTreeSet<LimitKey> = waiting.iter().map(key_of).collect::<Result<_>>()?;
            passed.later = paces
                .into_iter()
                .filter(|p| waiting.contains(&p.0))
                .map(|(at, _, next, ..)| (at, next))
                .collect();
        }
        tx.commit().await?;
        Ok(passed)
    }

    /// Grants to runs of these groups that nobody has told their driver of; they count as told now.
    pub async fn unseen(&mut self, groups: &[i16]) -> Result<Vec<Granted>> {
        let rows = sqlx::query(UNSEEN).bind(groups).fetch_all(&mut self.conn).await?;
        rows.iter().map(|row| granted(row, false)).collect()
    }

    /// Runs of these groups that were let through and wait at `gate` all the same.
    pub async fn unheard(&mut self, groups: &[i16], gate: i64) -> Result<Vec<RunId>> {
        let rows = sqlx::query(UNHEARD).bind(groups).bind(gate).fetch_all(&mut self.conn).await?;
        rows.iter().map(wire::run_id).collect()
    }

    /// Slots of these groups whose runs have ended or sleep (not at `gate`), with who asked for them.
    pub async fn ghosts(
        &mut self,
        groups: &[i16],
        gate: i64,
    ) -> Result<Vec<(LimitKey, RunId, i32, NodeId)>> {
        let rows = sqlx::query(GHOSTS).bind(groups).bind(gate).fetch_all(&mut self.conn).await?;
        let ghost = |row: &PgRow| {
            let node = row.try_get::<uuid::Uuid, _>("node")?.into();
            Ok((key_of(row)?, wire::run_id(row)?, row.try_get("ns")?, node))
        };
        rows.iter().map(ghost).collect()
    }

    /// Keys of all nodes at which somebody waits, with their namespaces.
    pub async fn stuck(&mut self) -> Result<Vec<(LimitKey, i32)>> {
        let rows = sqlx::query(STUCK).fetch_all(&mut self.conn).await?;
        rows.iter().map(|row| Ok((key_of(row)?, row.try_get("ns")?))).collect()
    }
}

impl Store {
    /// Runs of these groups that were let through.
    pub async fn holders(&self, groups: &[i16]) -> Result<Vec<RunId>> {
        let rows = sqlx::query(HOLDERS).bind(groups).fetch_all(&self.pool).await?;
        rows.iter().map(wire::run_id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_lets_a_burst_through_and_then_one_in_each_interval() {
        let at = |s: i64| Timestamp::from_micros(s * 1_000_000);
        let every = Duration::from_secs(6);
        assert_eq!(pace(None, at(100), every, 1), (1, at(100)));
        // One went: the next may go six seconds later.
        assert_eq!(pace(Some(at(106)), at(100), every, 1), (0, at(106)));
        assert_eq!(pace(Some(at(106)), at(106), every, 1).0, 1);
        assert_eq!(pace(None, at(100), every, 3).0, 3);
        assert_eq!(pace(Some(at(118)), at(100), every, 3), (0, at(106)));
        // A long pause lets no more than a burst through.
        assert_eq!(pace(Some(at(0)), at(1_000), every, 3).0, 3);
    }
}
