//! The audit: what must be true of the data at any time, and what must be true when all is idle.

use sqlx::Row as _;

use super::Store;
use super::error::Result;

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which rule is broken.
    pub rule: &'static str,
    /// Where, in words; at most ten of one rule.
    pub detail: String,
}

/// The journal of a run, wherever it is; what was carried over counts once.
macro_rules! whole {
    () => {
        "w as (
  select shard, run_id, n, kind, seq, epoch, flags, step, ref, at from journal
  union
  select shard, run_id, n, kind, seq, epoch, flags, step, ref, at from journal_long)"
    };
}

macro_rules! journal_rule {
    ($sql:literal) => {
        concat!("with ", whole!(), $sql)
    };
}

/// Rules that hold in every snapshot.
pub(super) const ALWAYS: [(&str, &str); 21] = [
    (
        // Generations that are over go whole, in order.
        "the log is dense",
        "select run_id::text, format('%s rows from %s to %s', count(*), min(n), max(n))
  from (select 0 as home, shard, run_id, n from journal
        union all select 1, shard, run_id, n from journal_long) w
 group by home, shard, run_id having count(*) <> max(n) - min(n) + 1 limit 10",
    ),
    (
        "the journal of a live run is where its generation begins",
        "select a.run_id::text, format('generation %s begins at %s', a.generation, a.gen_n)
  from run_active a
 where (a.generation > 1) <> (a.gen_n > 0) or a.base_n < a.gen_n or (a.generation > 1 and a.home = 0)
    or not exists (
   select from journal j where a.home = 0 and j.shard = a.shard and j.run_id = a.run_id
      and j.n = a.base_n
   union all
   select from journal_long j where a.home = 1 and j.shard = a.shard and j.run_id = a.run_id
      and j.n = a.base_n) limit 10",
    ),
    (
        "a run is on the shard of its id",
        journal_rule!(
            " select run_id::text, format('row %s on shard %s', n, shard)
  from w where shard <> shard_of(run_id) limit 10"
        ),
    ),
    (
        "epochs never fall, seq grows by one at each settling row and restarts only at continued",
        journal_rule!(
            " select run_id::text, format('n %s: epoch %s after %s, seq %s after %s', n, epoch, pe, seq, ps)
  from (select *, lag(epoch) over o pe, lag(seq) over o ps from w
        window o as (partition by shard, run_id order by n)) x
 where epoch < pe or (kind <> 19 and seq <> ps + (kind in (1, 2))::int) or (kind = 19 and seq <> 0)
 limit 10"
        ),
    ),
    (
        "a step settles once in a generation unless it was retaken",
        journal_rule!(
            ", g as (
  select *, count(*) filter (where kind in (16, 18, 19)) over (partition by shard, run_id order by n) as part
    from w)
select run_id::text, format('step %s, %s times', step, count(*)) from g
 where kind in (1, 2) group by shard, run_id, part, step having count(*) > 1 limit 10"
        ),
    ),
    (
        // One that came before anything asked for it arrives once and is taken once.
        "a message is used once",
        journal_rule!(
            " select run_id::text, format('message %s, %s times', ref, count(*)) from w
 where ref is not null and kind in (1, 2, 7, 13, 15, 17) and flags & 64 = 0 and flags >> 8 <> 12
 group by shard, run_id, ref, kind = 7 having count(*) > 1 limit 10"
        ),
    ),
    (
        "an end is last unless the run was reopened",
        journal_rule!(
            " select run_id::text, format('row %s after an end', nx) from (
  select run_id, kind, lead(kind) over (partition by shard, run_id order by n) nx from w) x
 where kind >= 100 and nx <> 21 limit 10"
        ),
    ),
    (
        "a run is live or ended, not both",
        "select a.run_id::text, 'in run_active and run_done'
  from run_active a join run_done d using (shard, run_id) limit 10",
    ),
    (
        "a run has ended once",
        "select run_id::text, format('%s times', count(*)) from run_done
 group by shard, run_id having count(*) > 1 limit 10",
    ),
    (
        "a run in the journal is live or ended",
        "select j.run_id::text, 'created, and neither live nor ended' from journal j
 where n = 0 and not exists (select from run_active a where a.shard = j.shard and a.run_id = j.run_id)
   and not exists (select from run_done d where d.shard = j.shard and d.run_id = j.run_id) limit 10",
    ),
    (
        "a live run has a journal without an end",
        journal_rule!(
            " select a.run_id::text, coalesce(format('last row is of kind %s', l.kind), 'no row')
  from run_active a left join lateral (
    select kind from w where w.shard = a.shard and w.run_id = a.run_id order by n desc limit 1) l on true
 where l.kind is null or l.kind >= 100 limit 10"
        ),
    ),
    (
        "an ended run's last row is its end",
        journal_rule!(
            " select d.run_id::text, format('run_done says %s at %s', d.status, d.last_n) from run_done d
 where not exists (select from w where w.shard = d.shard and w.run_id = d.run_id
                     and w.n = d.last_n and w.kind = d.status and w.at = d.ended_at) limit 10"
        ),
    ),
    (
        "positions in the inbox were given out",
        "select i.run_id::text, format('pos %s, %s accepted', i.pos, a.inbox)
  from inbox i join run_active a using (shard, run_id) where i.pos > a.inbox limit 10",
    ),
    (
        "messages in the journal were counted",
        journal_rule!(
            " select a.run_id::text, format('%s taken, %s accepted', x.taken, a.inbox) from run_active a
  join (select shard, run_id, count(distinct ref) taken from w
         where n > 0 and kind <> 3 and ref is not null group by 1, 2) x using (shard, run_id)
 where x.taken > a.inbox limit 10"
        ),
    ),
    (
        "a live run holds its key",
        "select a.run_id::text, format('key %s', a.key) from run_active a
 where a.key is not null and coalesce(a.object, 1) in (1, 4, 5) and not exists (
   select from run_keys k where k.shard = a.shard and k.ns = a.ns and k.fn = a.fn
      and k.key = a.key and k.run_id = a.run_id and k.status is null) limit 10",
    ),
    (
        "a held key has a live run",
        "select k.run_id::text, format('key %s', k.key) from run_keys k
 where k.status is null and not exists (
   select from run_active a where a.shard = k.shard and a.run_id = k.run_id and a.key = k.key)
  and not exists (
   select from object_locks l join run_active a
       on a.shard = shard_of(l.run_id) and a.run_id = l.run_id and a.object in (4, 5)
    where l.run_id = k.run_id and l.ns = k.ns and l.fn = k.fn and l.key = k.key) limit 10",
    ),
    (
        "who waits for an object is in its queue, and another has it",
        "select a.run_id::text, format('key %s', a.key) from run_active a
 where a.object = 2 and not exists (
   select from object_queue q join run_keys k using (shard, ns, fn, key)
    where q.shard = a.shard and q.run_id = a.run_id and q.key = a.key and q.fn = a.fn
      and k.status is null and k.run_id <> a.run_id) limit 10",
    ),
    (
        "who is in a queue waits",
        "select q.run_id::text, format('key %s pos %s', q.key, q.pos) from object_queue q
 where not exists (
   select from run_active a
    where a.shard = shard_of(q.run_id) and a.run_id = q.run_id and a.object in (2, 5)) limit 10",
    ),
    (
        "who has a lock is live, and has all of them or waits",
        "select l.run_id::text, format('key %s', l.key) from object_locks l left join run_active a
   on a.shard = shard_of(l.run_id) and a.run_id = l.run_id
 where coalesce(a.object, 0) not in (4, 5)
    or (a.object = 5) <> exists (select from object_queue q where q.run_id = l.run_id) limit 10",
    ),
    (
        "a young idempotency key names a run that was created",
        journal_rule!(
            " select e.run_id::text, format('key %s', e.key) from idem e
 where e.expires_at > now() and e.created_at > now() - interval '1 hour' and not exists (
   select from w where w.shard = shard_of(e.run_id) and w.run_id = e.run_id)
   and not exists (select from gathers g where g.run_id = e.run_id) limit 10"
        ),
    ),
    (
        "a run that gathers has as many inputs as starts",
        "select coalesce(g.run_id, i.run_id)::text, format('%s starts, %s inputs', g.starts, i.n)
  from gathers g full join (select run_id, count(*) as n from gathered group by run_id) i
    on i.run_id = g.run_id
 where g.starts is distinct from i.n limit 10",
    ),
];

/// Rules that hold when every message was taken and every run is parked, paused or ended.
pub(super) const IDLE: [(&str, &str); 4] = [
    (
        "the inbox is empty",
        "select run_id::text, format('pos %s kind %s', pos, kind) from inbox limit 10",
    ),
    (
        "the outbox is empty",
        "select run_id::text, format('n %s kind %s', n, kind) from outbox limit 10",
    ),
    (
        // What asked for a child has its id in `ref`.
        "the end of a child is told to who waits for it",
        journal_rule!(
            " select d.run_id::text, format('step %s of %s', j.step, d.parent) from run_done d
  join run_active p on p.shard = shard_of(d.parent) and p.run_id = d.parent
  join w j on j.shard = p.shard and j.run_id = p.run_id and j.kind = 3 and j.ref = d.run_id
       and j.n >= p.gen_n
 where d.parent is not null and not exists (
   select from w o where o.shard = j.shard and o.run_id = j.run_id and o.step = j.step
      and o.n > j.n and o.kind in (1, 2, 17)) limit 10"
        ),
    ),
    (
        "a live run has a wake",
        "select a.run_id::text, 'parked for ever, and nothing was asked for' from run_active a
 where a.wake_at = 'infinity' and a.gate is null and coalesce(a.object, 0) not in (2, 5) and not exists (
   select from journal j where j.shard = a.shard and j.run_id = a.run_id and j.kind in (3, 14))
   and not exists (
   select from journal_long j where j.shard = a.shard and j.run_id = a.run_id and j.kind in (3, 14))
 limit 10",
    ),
];

impl Store {
    /// Looks for what must never be, at any time. For tests and the doctor: it reads everything.
    pub async fn audit(&self) -> Result<Vec<Finding>> {
        self.check(&ALWAYS).await
    }

    /// Looks for what must not be while nothing happens.
    pub async fn audit_idle(&self) -> Result<Vec<Finding>> {
        self.check(&IDLE).await
    }

    async fn check(&self, rules: &[(&'static str, &'static str)]) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let mut tx = self.begin(super::SNAPSHOT).await?;
        sqlx::query("set local statement_timeout = '5min'").execute(&mut *tx).await?;
        for (rule, sql) in rules {
            for row in sqlx::query(*sql).fetch_all(&mut *tx).await? {
                let (run, what): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                findings.push(Finding { rule, detail: format!("{run}: {what}") });
            }
        }
        tx.commit().await?;
        Ok(findings)
    }
}
