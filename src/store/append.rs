//! The one statement that records what happens to runs: gated compare-and-append, many runs at once.

use std::borrow::Borrow;
use std::collections::HashSet;

use sqlx::Connection as _;
use sqlx::Row as _;
use sqlx::postgres::{PgBindIterExt as _, PgConnection};
use uuid::Uuid;

use super::error::Result;
use super::wire::{Raw, Ts};
use super::{Lane, SILENCE, heard, objects};
use crate::machine::{Flags, Row, RunId, Sealed, Timestamp};

/// The journal's columns, in the order of the arrays.
macro_rules! columns {
    () => {
        "shard,run_id,n,kind,flags,seq,epoch,cp,ms,dep,ns,at,due,ref,step,body"
    };
}

/// In `journal_long` the rows of generations that are over are deleted some time later. Whoever was
/// stopped for so long that it would take one of their positions is refused by this; elsewhere the
/// position itself refuses it.
macro_rules! since {
    ($row:literal) => {
        concat!(
            " and exists (select from run_active a where a.shard = ",
            $row,
            ".shard and a.run_id = ",
            $row,
            ".run_id and a.gen_n < ",
            $row,
            ".n)"
        )
    };
}

/// For batches of plain rows: the head row of each append decides, the rest follows it.
///
/// `(… in …) is true` keeps the planner from making a join of it: a hashed look-up, not a product.
macro_rules! lean {
    ($journal:literal, $since:expr) => {
        concat!(
            "with u as materialized (
  select * from unnest($1::int2[],$2::uuid[],$3::int4[],$4::int4[],$5::int2[],$6::int2[],$7::int4[],
      $8::int4[],$9::int4[],$10::int4[],$11::int4[],$12::int4[],$13::timestamptz[],
      $14::timestamptz[],$15::uuid[],$16::text[],$17::bytea[])
    as t(shard,run_id,first,n,kind,flags,seq,epoch,cp,ms,dep,ns,at,due,ref,step,body)),
head as (
  insert into ", $journal, " (", columns!(), ")
  select ", columns!(), " from u where n = first", $since, " order by shard, run_id
  on conflict (shard, run_id, n) do nothing returning run_id),
rest as (
  insert into ", $journal, " (", columns!(), ")
  select ", columns!(), " from u
   where n > first and (run_id in (select run_id from head)) is true order by shard, run_id, n)
select run_id from head"
        )
    };
}

/// For batches of plain appends of one row each, which is what steps are: nothing to look up.
macro_rules! single {
    ($journal:literal, $since:expr) => {
        concat!(
            "insert into ",
            $journal,
            " (",
            columns!(),
            ")
select ",
            columns!(),
            "
  from unnest($1::int2[],$2::uuid[],$3::int4[],$4::int4[],$5::int2[],$6::int2[],$7::int4[],
      $8::int4[],$9::int4[],$10::int4[],$11::int4[],$12::int4[],$13::timestamptz[],
      $14::timestamptz[],$15::uuid[],$16::text[],$17::bytea[])
    as t(shard,run_id,first,n,kind,flags,seq,epoch,cp,ms,dep,ns,at,due,ref,step,body)
 where true",
            $since,
            "
 order by shard, run_id
on conflict (shard, run_id, n) do nothing returning run_id"
        )
    };
}

/// For everything: also ends, gates, parks, wake-ups, taken messages, attributes, logs, history,
/// the outbox.
///
/// - `touch` locks, in order, every row of `run_active` that the statement may change; accepts do
///   the same, so the two never deadlock, and the inbox counter read here is the latest.
/// - `gate`: a gated append wins only if every accepted message was drained; -1 ends regardless.
/// - `kinds`: what a run fails or pauses by is described once, with the first run of that kind.
/// - `rest` has no conflict clause: a clash behind a head that won is a bug and must be loud.
/// - All further branches are driven by rows that won; attributes and placement ride on an append's
///   last row.
/// - `changed` leaves out runs that end here: one statement cannot change a row twice.
/// - `$rest` says which rows behind the head go into the same table, `$more` what else is done.
macro_rules! full {
    ($journal:literal, $since:expr, $rest:expr, $more:expr) => {
        concat!(
            "with u as materialized (
  select * from unnest($1::int2[],$2::uuid[],$3::int4[],$4::int4[],$5::int2[],$6::int2[],$7::int4[],
      $8::int4[],$9::int4[],$10::int4[],$11::int4[],$12::int4[],$13::timestamptz[],
      $14::timestamptz[],$15::uuid[],$16::text[],$17::bytea[],$18::int4[],$19::int4[],$20::bool[],
      $21::text[],$22::bytea[],$40::int8[],$50::int4[],$51::bool[],$53::uuid[])
    as t(shard,run_id,first,n,kind,flags,seq,epoch,cp,ms,dep,ns,at,due,ref,step,body,pos,drained,
         touches,tags,custom,gate,placed,pinned,fingerprint)),
e as materialized (select shard, run_id, flags, drained from u where touches),
touch as materialized (
  select a.run_id, e.flags, e.drained, a.inbox from e join run_active a using (shard, run_id)
   order by a.shard, a.run_id for update of a),
gate as materialized (
  select run_id from touch where flags & 16 <> 0 and (inbox = drained or drained < 0)),
head as (
  insert into ", $journal, " (", columns!(), ")
  select ", columns!(), " from u
   where n = first and (flags & 16 = 0 or run_id in (select run_id from gate))", $since, "
   order by shard, run_id
  on conflict (shard, run_id, n) do nothing returning run_id),
rest as (
  insert into ", $journal, " (", columns!(), ")
  select ", columns!(), " from u
   where n > first and (run_id in (select run_id from head)) is true", $rest, "
   order by shard, run_id, n),
won as materialized (
  select shard, run_id, n, kind, flags, dep, at, due, pos, tags, custom, gate, placed, pinned,
         fingerprint
    from u
   where (pos > 0 or flags & 44 <> 0 or kind in (18, 19) or kind >= 100 or tags is not null
          or placed is not null)
     and (run_id in (select run_id from head)) is true),
took as (
  delete from inbox i using won w
   where w.pos > 0 and i.shard = w.shard and i.run_id = w.run_id and i.pos = w.pos),
ends as materialized (
  select shard, run_id, n, kind, dep, at, tags, custom, fingerprint from won where kind >= 100),
change as materialized (
  select shard, run_id,
         (array_agg(flags order by n desc) filter (where flags & 44 <> 0))[1] as flags,
         (array_agg(due order by n desc) filter (where flags & 44 <> 0))[1] as due,
         max(gate) as gate,
         max(n) filter (where kind in (18, 19)) as base,
         max(n) filter (where kind = 19) as generation,
         count(*) filter (where kind = 19)::int as continued,
         max(tags) as tags,
         (array_agg(custom) filter (where tags is not null))[1] as custom,
         max(placed) as placed, bool_or(pinned) as pinned
    from won
   where (flags & 44 <> 0 or kind in (18, 19) or tags is not null or placed is not null)
     and (run_id in (select run_id from ends)) is not true
   group by 1, 2 order by 1, 2),
changed as (
  update run_active a
     set wake_at = case when c.flags is null then a.wake_at
                        when c.flags & 4 <> 0 then coalesce(c.due, 'infinity')
                        else '-infinity' end,
         gate = case when c.flags is null then a.gate when c.flags & 4 <> 0 then c.gate end,
         closing = case when c.flags is null then a.closing else c.flags & 32 <> 0 end,
         base_n = coalesce(c.base, a.base_n),
         gen_n = coalesce(c.generation, a.gen_n),
         generation = a.generation + c.continued,
         home = case when c.continued > 0 then 1 else a.home end,
         tags = case when c.tags is null then a.tags else nullif(c.tags::jsonb, '{}') end,
         custom_status = case when c.tags is null then a.custom_status else c.custom end,
         dep = coalesce(c.placed, a.dep), pinned = coalesce(c.pinned, a.pinned)
    from change c where a.shard = c.shard and a.run_id = c.run_id),
gone as (
  delete from run_active a using ends e where a.shard = e.shard and a.run_id = e.run_id
  returning a.run_id, a.created_at, e.at, a.ns, a.fn,
            case when a.pinned then a.dep else coalesce(nullif(e.dep, 0), a.dep) end as dep,
            e.n, a.base_n, a.gen_n, a.generation, a.shard, a.home, e.kind, a.key, a.parent, a.schedule,
            case when e.tags is null then a.tags else nullif(e.tags::jsonb, '{}') end as tags,
            case when e.tags is null then a.custom_status else e.custom end as custom, e.fingerprint),
done as (
  insert into run_done (run_id,created_at,ended_at,ns,fn,dep,last_n,base_n,gen_n,generation,shard,home,
                        status,key,parent,schedule,tags,custom_status,fingerprint)
  select run_id,created_at,at,ns,fn,dep,n,base_n,gen_n,generation,shard,home,
         kind,key,parent,schedule,tags,custom,fingerprint from gone),
failed as materialized (
  select a.ns, a.fn, f.fingerprint, f.at, f.step, f.code, f.message, f.example
    from unnest($54::int2[],$55::uuid[],$56::uuid[],$57::timestamptz[],$58::text[],$59::text[],
        $60::text[],$61::text[]) as f(shard,run_id,fingerprint,at,step,code,message,example)
    join run_active a on a.shard = f.shard and a.run_id = f.run_id
   where (f.run_id in (select run_id from head)) is true),
kinds as (
  insert into errors (ns, fingerprint, fn, first_at, step, code, message, example)
  select distinct on (ns, fingerprint) ns, fingerprint, fn, at, step, code, message, example
    from failed order by ns, fingerprint
  on conflict (ns, fingerprint) do nothing),
returned as (
  update errors e set state = 0, returned_at = r.at
    from (select o.ns, o.fingerprint, k.at
            from (select ns, fingerprint, max(at) as at from failed group by 1, 2) k
            join errors o on o.ns = k.ns and o.fingerprint = k.fingerprint
           where o.state = 1 and o.state_at <= k.at
           order by 1, 2 for no key update of o) r
   where e.ns = r.ns and e.fingerprint = r.fingerprint),
freed as (
  update run_keys k set status = g.kind, ended_at = g.at
    from (select shard, ns, fn, key, run_id, kind, at from gone where key is not null
           order by shard, ns, fn, key) g
   where k.shard = g.shard and k.ns = g.ns and k.fn = g.fn and k.key = g.key
     and k.run_id = g.run_id),
logged as (
  insert into logs (shard, run_id, ns, at, k, level, message, fields, stream)
  select * from unnest($23::int2[],$24::uuid[],$25::int4[],$26::timestamptz[],$27::int2[],$28::text[],
      $29::text[],$30::bytea[],$52::text[]) as l(shard,run_id,ns,at,k,level,message,fields,stream)
   where (run_id in (select run_id from head)) is true
  on conflict do nothing),
told as (
  insert into history (shard, run_id, ns, at, k, epoch, what, by, data)
  select * from unnest($31::int2[],$32::uuid[],$33::int4[],$34::timestamptz[],$35::int2[],$36::int4[],
      $37::text[],$38::text[],$39::bytea[]) as h(shard,run_id,ns,at,k,epoch,what,by,data)
   where (run_id in (select run_id from head)) is true
  on conflict do nothing),
sent as (
  insert into outbox (shard, run_id, ns, n, k, kind, to_run, at, body)
  select * from unnest($41::int2[],$42::uuid[],$43::int4[],$44::int4[],$45::int2[],$46::int2[],
      $47::uuid[],$48::timestamptz[],$49::bytea[]) as o(shard,run_id,ns,n,k,kind,to_run,at,body)
   where (run_id in (select run_id from head)) is true order by shard, run_id, n, k)", $more, "
select run_id from head"
        )
    };
}

/// The first row of the next generation, where the append has one, and all behind it.
macro_rules! next {
    () => {
        " (select min(c.n) from u c where c.run_id = u.run_id and c.kind = 19)"
    };
}

pub(super) const SINGLE: &str = single!("journal", "");
pub(super) const SINGLE_LONG: &str = single!("journal_long", since!("t"));
pub(super) const LEAN: &str = lean!("journal", "");
pub(super) const LEAN_LONG: &str = lean!("journal_long", since!("u"));
pub(super) const FULL: &str = full!("journal", "", "", "");
pub(super) const FULL_LONG: &str = full!(
    "journal_long",
    since!("u"),
    "",
    ",
past as (
  insert into past_generations (shard, run_id, n, at)
  select shard, run_id, n, at from won where kind = 19 order by 1, 2, 3)"
);
/// For appends that begin in the week's table and go on, with a generation, in `journal_long`.
pub(super) const FULL_OVER: &str = full!(
    "journal",
    "",
    concat!(" and n <", next!()),
    concat!(
        ",
over as (
  insert into journal_long (",
        columns!(),
        ")
  select ",
        columns!(),
        " from u
   where (run_id in (select run_id from head)) is true and n >=",
        next!(),
        " order by shard, run_id, n)"
    )
);

/// Whether the append changes or reads the run's row in `run_active`.
fn touches(s: &Sealed) -> bool {
    s.append.attributes.is_some()
        || s.append.placement.is_some()
        || s.append.rows.iter().any(|r| {
            r.flags.0 & (Flags::PARK | Flags::HOT | Flags::CLOSING | Flags::GATED) != 0
                || r.kind.ends()
                || matches!(
                    r.kind,
                    crate::machine::Kind::Compacted | crate::machine::Kind::Continued
                )
        })
}

/// Whether the append begins in the week's table and goes on in `journal_long`.
fn goes_over(s: &Sealed) -> bool {
    s.home == 0 && s.append.rows.iter().any(|r| r.kind == crate::machine::Kind::Continued)
}

/// Whether the lean statement does all that the append asks for.
fn is_plain(s: &Sealed) -> bool {
    s.append.logs.is_empty()
        && s.append.history.is_empty()
        && s.append.outbox.is_empty()
        && s.append.failing.is_none()
        && s.append.rows.iter().all(|r| r.pos == 0)
        && !touches(s)
}

/// A counter of the entries of one append, which share their moment.
fn ordinal(i: usize) -> i16 {
    i16::try_from(i).unwrap_or(i16::MAX)
}

impl Lane {
    /// Records appends of different runs, each whole or not at all, in one transaction. Returns
    /// in the order of the batch which of them won; the losers' runs must be loaded anew.
    ///
    /// An append loses if its first position is taken, or if its head is gated and a message was
    /// accepted that it has not drained. Two appends of one run in a batch, or an append without
    /// rows, are the caller's mistake. Runs of both homes take two statements, those that change it
    /// a third.
    pub async fn append(&mut self, batch: &[impl Borrow<Sealed>]) -> Result<Vec<bool>> {
        Ok(self.append_and_free(batch).await?.0)
    }

    /// The same. Returns too whose turn it is now, because a run has ended that had its object.
    ///
    /// Appends that change objects are recorded in a transaction of their own, in which the objects
    /// are held before anything else.
    pub async fn append_and_free(
        &mut self,
        batch: &[impl Borrow<Sealed>],
    ) -> Result<(Vec<bool>, Vec<RunId>)> {
        let batch: Vec<&Sealed> = batch.iter().map(Borrow::borrow).collect();
        debug_assert!(
            batch.iter().map(|s| s.run).collect::<HashSet<_>>().len() == batch.len(),
            "two appends of one run in a batch"
        );
        let mut won = HashSet::with_capacity(batch.len());
        let mut next = Vec::new();
        let (changing, others): (Vec<&Sealed>, Vec<&Sealed>) =
            batch.iter().copied().partition(|s| s.append.publication.is_some());
        append_all(&mut self.conn, &others, &mut won).await?;
        if !changing.is_empty() {
            let mut tx = heard(SILENCE, self.conn.begin()).await?;
            let held = objects::before_append(&mut tx, &changing).await?;
            append_all(&mut tx, &changing, &mut won).await?;
            next = objects::after_append(&mut tx, &changing, &won, &held).await?;
            heard(SILENCE, tx.commit()).await?;
        }
        Ok((batch.iter().map(|s| won.contains(&s.run)).collect(), next))
    }

    /// The same through the full statement, whatever the batch holds.
    #[cfg(test)]
    pub(super) async fn append_full(&mut self, batch: &[Sealed]) -> Result<Vec<bool>> {
        let mut won = HashSet::new();
        let here: Vec<&Sealed> = batch.iter().collect();
        append_with(&mut self.conn, FULL, false, &here, &mut won).await?;
        Ok(batch.iter().map(|s| won.contains(&s.run)).collect())
    }
}

/// Records appends of either home, in as few statements as they take.
async fn append_all(
    conn: &mut PgConnection,
    batch: &[&Sealed],
    won: &mut HashSet<RunId>,
) -> Result<()> {
    for (home, over) in [(0, false), (0, true), (1, false)] {
        let here = |s: &&Sealed| s.home == home && goes_over(s) == over;
        let here: Vec<&Sealed> = batch.iter().copied().filter(here).collect();
        if here.is_empty() {
            continue;
        }
        let plain = here.iter().all(|s| is_plain(s));
        let single = plain && here.iter().all(|s| s.append.rows.len() == 1);
        let sql = match (single, plain, home) {
            (true, _, 0) => SINGLE,
            (true, _, _) => SINGLE_LONG,
            (false, true, 0) => LEAN,
            (false, true, _) => LEAN_LONG,
            (false, false, 0) if over => FULL_OVER,
            (false, false, 0) => FULL,
            (false, false, _) => FULL_LONG,
        };
        append_with(conn, sql, plain, &here, won).await?;
    }
    Ok(())
}

async fn append_with(
    conn: &mut PgConnection,
    sql: &'static str,
    plain: bool,
    batch: &[&Sealed],
    won: &mut HashSet<RunId>,
) -> Result<()> {
    let rows = || batch.iter().flat_map(|s| s.append.rows.iter().map(move |r| (*s, r)));
    let first = |s: &Sealed| s.append.rows.first().map_or(0, |r| r.n);
    let mut query = sqlx::query(sql)
        .bind(rows().map(|(s, _)| s.run.shard().column()).bind_iter())
        .bind(rows().map(|(s, _)| s.run.uuid()).bind_iter())
        .bind(rows().map(|(s, _)| first(s)).bind_iter())
        .bind(rows().map(|(_, r)| r.n).bind_iter())
        .bind(rows().map(|(_, r)| r.kind.code()).bind_iter())
        .bind(rows().map(|(_, r)| r.flags.0).bind_iter())
        .bind(rows().map(|(_, r)| r.seq).bind_iter())
        .bind(rows().map(|(_, r)| r.epoch).bind_iter())
        .bind(rows().map(|(_, r)| r.cp).bind_iter())
        .bind(rows().map(|(_, r)| r.ms).bind_iter())
        .bind(rows().map(|(_, r)| r.dep).bind_iter())
        .bind(rows().map(|(s, _)| s.ns).bind_iter())
        .bind(rows().map(|(_, r)| Ts(r.at)).bind_iter())
        .bind(rows().map(|(_, r)| r.due.map(Ts)).bind_iter())
        .bind(rows().map(|(_, r)| r.refer).bind_iter())
        .bind(rows().map(|(_, r)| r.step.as_str()).bind_iter())
        .bind(rows().map(|(_, r)| r.body.as_deref().map(Raw)).bind_iter());
    if !plain {
        // Attributes and placement ride on the last row, which is where an end is.
        let last = |s: &Sealed, r: &Row| s.append.rows.last().is_some_and(|l| l.n == r.n);
        let attributes = |(s, r)| if last(s, r) { s.append.attributes.as_ref() } else { None };
        let placed = |(s, r): (&Sealed, &Row)| s.append.placement.filter(|_| last(s, r));
        let failing = |(s, r): (&Sealed, &Row)| {
            s.append.failing.as_ref().filter(|_| last(s, r)).map(|f| f.fingerprint)
        };
        let failed = || batch.iter().filter_map(|s| Some((*s, s.append.failing.as_ref()?)));
        let logs = || {
            let of = |s: &'_ &Sealed| s.append.logs.len();
            batch.iter().flat_map(move |s| (0..of(s)).map(move |i| (*s, i, &s.append.logs[i])))
        };
        let told = || {
            let of = |s: &'_ &Sealed| s.append.history.len();
            batch.iter().flat_map(move |s| (0..of(s)).map(move |i| (*s, i, &s.append.history[i])))
        };
        let said = || batch.iter().flat_map(|s| s.append.outbox.iter().map(move |o| (*s, o)));
        let said_at = |s: &Sealed| s.append.rows.last().map_or(Timestamp::default(), |r| r.at);
        query = query
            .bind(rows().map(|(_, r)| r.pos).bind_iter())
            .bind(rows().map(|(s, _)| s.append.drained).bind_iter())
            .bind(rows().map(|(s, r)| r.n == first(s) && touches(s)).bind_iter())
            .bind(rows().map(attributes).map(|a| a.map(|a| a.tags.as_str())).bind_iter())
            .bind(
                rows()
                    .map(attributes)
                    .map(|a| a.and_then(|a| a.custom_status.as_deref()).map(Raw))
                    .bind_iter(),
            )
            .bind(logs().map(|(s, ..)| s.run.shard().column()).bind_iter())
            .bind(logs().map(|(s, ..)| s.run.uuid()).bind_iter())
            .bind(logs().map(|(s, ..)| s.ns).bind_iter())
            .bind(logs().map(|(.., l)| Ts(l.at)).bind_iter())
            .bind(logs().map(|(_, i, _)| ordinal(i)).bind_iter())
            .bind(logs().map(|(.., l)| l.level.as_str()).bind_iter())
            .bind(logs().map(|(.., l)| l.message.as_str()).bind_iter())
            .bind(logs().map(|(.., l)| l.fields.as_deref().map(Raw)).bind_iter())
            .bind(told().map(|(s, ..)| s.run.shard().column()).bind_iter())
            .bind(told().map(|(s, ..)| s.run.uuid()).bind_iter())
            .bind(told().map(|(s, ..)| s.ns).bind_iter())
            .bind(told().map(|(.., h)| Ts(h.at)).bind_iter())
            .bind(told().map(|(_, i, _)| ordinal(i)).bind_iter())
            .bind(told().map(|(.., h)| h.epoch).bind_iter())
            .bind(told().map(|(.., h)| h.what.as_str()).bind_iter())
            .bind(told().map(|(.., h)| h.by.as_str()).bind_iter())
            .bind(told().map(|(.., h)| Raw(&h.data)).bind_iter())
            .bind(rows().map(|(s, _)| s.append.gate).bind_iter())
            .bind(said().map(|(s, _)| s.run.shard().column()).bind_iter())
            .bind(said().map(|(s, _)| s.run.uuid()).bind_iter())
            .bind(said().map(|(s, _)| s.ns).bind_iter())
            .bind(said().map(|(_, o)| o.n).bind_iter())
            .bind(said().map(|(_, o)| o.k).bind_iter())
            .bind(said().map(|(_, o)| o.kind as i16).bind_iter())
            .bind(said().map(|(_, o)| o.to.map(RunId::uuid)).bind_iter())
            .bind(said().map(|(s, _)| Ts(said_at(s))).bind_iter())
            .bind(said().map(|(_, o)| Raw(&o.body)).bind_iter())
            .bind(rows().map(placed).map(|p| p.map(|p| p.dep)).bind_iter())
            .bind(rows().map(placed).map(|p| p.map(|p| p.pinned)).bind_iter())
            .bind(logs().map(|(.., l)| l.stream.as_deref()).bind_iter())
            .bind(rows().map(failing).bind_iter())
            .bind(failed().map(|(s, _)| s.run.shard().column()).bind_iter())
            .bind(failed().map(|(s, _)| s.run.uuid()).bind_iter())
            .bind(failed().map(|(_, f)| f.fingerprint).bind_iter())
            .bind(failed().map(|(s, _)| Ts(said_at(s))).bind_iter())
            .bind(failed().map(|(_, f)| f.kind.step.as_deref()).bind_iter())
            .bind(failed().map(|(_, f)| f.kind.code.as_str()).bind_iter())
            .bind(failed().map(|(_, f)| f.kind.message.as_str()).bind_iter())
            .bind(failed().map(|(_, f)| f.kind.example.as_str()).bind_iter());
    }
    for row in heard(SILENCE, query.fetch_all(conn)).await? {
        won.insert(row.try_get::<Uuid, _>(0)?.into());
    }
    Ok(())
}
