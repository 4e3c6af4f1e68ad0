//! Whose turn it is at a limit: higher priority first, then the lower turn, then the older run, then
//! who came first.
//!
//! Without `fair` all turns are alike. With it the runs of each value that wait have turns one after
//! the other, and the first of them comes after whoever is first in line: so all values have one in
//! each round, and who comes new waits for two rounds at most, however many of another value wait. A
//! turn belongs to the value: it is the oldest run of the value that goes when it comes. Turns are
//! compared within a priority, and forgotten where nobody waits.

use super::permits::same;

/// Whether two tables speak of runs of one priority and one value at a key of a limit.
macro_rules! same_value {
    ($a:literal, $b:literal) => {
        concat!(
            same!($a, $b),
            " and ",
            $a,
            ".priority = ",
            $b,
            ".priority and ",
            $a,
            ".fair = ",
            $b,
            ".fair"
        )
    };
}

/// Who asks again keeps its place, and what it has. Where a limit has lost its `fair`, who comes new
/// goes behind all who have turns.
pub(super) const ASK: &str = concat!(
    "with a as materialized (
  select * from unnest($1::int2[],$2::int4[],$3::text[],$4::text[],$5::uuid[],$6::int4[],$7::int2[],
      $8::int2[],$9::bool[],$12::timestamptz[],$13::text[]) with ordinality
    as a(owner_kind, owner_id, rule, key, run_id, ns, grp, priority, whole, born, fair, ord)),
was as materialized (
  select p.owner_kind, p.owner_id, p.rule, p.key, p.run_id, p.slot, p.node
    from a join permits p on ", same!("p", "a"), " and p.run_id = a.run_id),
kept as (
  update permits p set node = $10, seen = true, whole = a.whole, priority = a.priority
    from a where ", same!("p", "a"), " and p.run_id = a.run_id),
comes as materialized (
  select a.*, row_number() over (
           partition by owner_kind, owner_id, rule, key, priority, fair order by born, ord) as nth
    from a where not exists (select from was w where ", same!("w", "a"), " and w.run_id = a.run_id)),
lines as materialized (
  select v.*, coalesce(case when v.fair is null then (
           select p.turn from permits p
            where ", same!("p", "v"), " and p.slot is null and p.priority = v.priority
            order by p.turn desc, p.born desc, p.place desc limit 1)
         else greatest((
           select p.turn from permits p
            where ", same!("p", "v"), " and p.slot is null and p.priority = v.priority
            order by p.turn, p.born, p.place limit 1), (
           select p.turn from permits p
            where ", same_value!("p", "v"), " and p.slot is null
            order by p.turn desc limit 1)) end, 0) as turn
    from (select distinct owner_kind, owner_id, rule, key, priority, fair from comes) v),
fresh as (
  insert into permits (owner_kind, owner_id, rule, key, run_id, ns, grp, priority, whole, born, fair,
                       turn, node, asked_at)
  select c.owner_kind, c.owner_id, c.rule, c.key, c.run_id, c.ns, c.grp, c.priority, c.whole, c.born, c.fair,
         case when c.fair is null then l.turn else l.turn + c.nth end, $10, $11
    from comes c join lines l
      on ", same!("l", "c"), " and l.priority = c.priority and l.fair is not distinct from c.fair
   order by c.ord)
select owner_kind, owner_id, rule, key, run_id, node <> $10 as from_another from was where slot is not null"
);

/// Slots go to the first in line. Where one is of a value that an older run waits of, that one goes,
/// and they change turns.
pub(super) const GRANT: &str = concat!(
    "with k as materialized (
  select k.*, k.most - (select count(*) from permits p where ",
    same!("p", "k"),
    " and p.slot is not null) as n
    from unnest($1::int2[],$2::int4[],$3::text[],$4::text[],$5::int4[])
      as k(owner_kind, owner_id, rule, key, most)),
line as materialized (
  select k.owner_kind, k.owner_id, k.rule, k.key, w.run_id, w.priority, w.fair, w.i,
         row_number() over (partition by k.owner_kind, k.owner_id, k.rule, k.key, w.priority, w.fair
                                order by w.i) as nth
    from k cross join lateral (
    select x.*, row_number() over (order by priority desc, turn, born, place) as i from (
      select p.run_id, p.priority, p.fair, p.turn, p.born, p.place from permits p where ",
    same!("p", "k"),
    " and p.slot is null
       order by p.priority desc, p.turn, p.born, p.place limit greatest(k.n, 0)) x) w),
oldest as materialized (
  select v.*, o.run_id, o.turn, o.nth from (
    select owner_kind, owner_id, rule, key, priority, fair, max(nth) as n
      from line where fair is not null group by 1, 2, 3, 4, 5, 6) v cross join lateral (
    select x.*, row_number() over (order by born, place) as nth from (
      select p.run_id, p.turn, p.born, p.place from permits p where ",
    same_value!("p", "v"),
    " and p.slot is null
       order by p.born, p.place limit v.n) x) o),
stays as (
  select l.*, row_number() over (partition by owner_kind, owner_id, rule, key, priority, fair
                                     order by i) as gets
    from line l where fair is not null and not exists (
      select from oldest o where ",
    same!("o", "l"),
    " and o.run_id = l.run_id)),
leaves as (
  select o.*, row_number() over (partition by owner_kind, owner_id, rule, key, priority, fair
                                     order by turn) as gives
    from oldest o where not exists (
      select from line l where ",
    same!("l", "o"),
    " and l.run_id = o.run_id)),
gaps as (
  select k.owner_kind, k.owner_id, k.rule, k.key, g.slot, g.i from k cross join lateral (
    select s as slot, row_number() over () as i from generate_series(1, k.most) as s
     where not exists (select from permits p where ",
    same!("p", "k"),
    " and p.slot = s)
     limit greatest(k.n, 0)) g where k.n > 0),
next as (
  select l.owner_kind, l.owner_id, l.rule, l.key, coalesce(o.run_id, l.run_id) as run_id,
         g.slot, null::int8 as turn
    from line l join gaps g on ",
    same!("g", "l"),
    " and g.i = l.i
    left join oldest o on ",
    same_value!("o", "l"),
    " and o.nth = l.nth
  union all
  select s.owner_kind, s.owner_id, s.rule, s.key, s.run_id, null, g.turn
    from stays s join leaves g on ",
    same_value!("g", "s"),
    " and g.gives = s.gets)
update permits p set slot = n.slot, turn = coalesce(n.turn, p.turn),
       granted_at = case when n.slot is not null then $6::timestamptz end,
       seen = case when n.slot is not null then p.grp = any($7) else p.seen end
  from next n
 where ",
    same!("p", "n"),
    " and p.run_id = n.run_id
returning p.owner_kind, p.owner_id, p.rule, p.key, p.run_id, p.slot is not null as goes"
);

/// The same where the clock decides how many, and the pass is numbered on. Runs ask before they
/// begin, the older first: of a value turns are in their order.
pub(super) const PACE: &str = concat!(
    "with k as materialized (
  select * from unnest($1::int2[],$2::int4[],$3::text[],$4::text[],$5::int8[],$6::int8[])
    as k(owner_kind, owner_id, rule, key, n, passed)),
next as (
  select k.owner_kind, k.owner_id, k.rule, k.key, k.passed, w.run_id, w.i from k cross join lateral (
    select run_id, row_number() over (order by priority desc, turn, born, place) as i from (
      select p.run_id, p.priority, p.turn, p.born, p.place from permits p
       where ", same!("p", "k"), " and p.slot is null
       order by p.priority desc, p.turn, p.born, p.place limit k.n) x) w)
update permits p set slot = n.passed + n.i, granted_at = $7, seen = p.grp = any($8)
  from next n
 where ", same!("p", "n"), " and p.run_id = n.run_id
returning p.owner_kind, p.owner_id, p.rule, p.key, p.run_id"
);

/// Where a run stands: at the turn of its value that comes to it by its age.
pub(super) const PLACE: &str = concat!(
    "select p.asked_at, l.paused_at is not null as paused,
       (select count(*) from permits o where ",
    same!("o", "p"),
    " and o.slot is not null) as running,
       (select count(*) from (
          select from permits o where ",
    same!("o", "p"),
    " and o.slot is null
             and (o.priority > p.priority
                  or o.priority = p.priority and (o.turn, o.born, o.place) < (t.turn, t.born, t.place))
           limit 10000) q) as before
  from permits p join limit_keys l on ",
    same!("l", "p"),
    " cross join lateral (
    select p.turn, p.born, p.place where p.fair is null
    union all
    (select v.turn, v.born, v.place from permits v where ",
    same_value!("v", "p"),
    " and v.slot is null
      order by v.turn offset (select count(*) from (
        select from permits o where ",
    same_value!("o", "p"),
    " and o.slot is null and (o.born, o.place) < (p.born, p.place) limit 10000) q) limit 1)) t
 where p.owner_kind = $1 and p.owner_id = $2 and p.rule = $3 and p.key = $4 and p.run_id = $5
   and p.slot is null"
);
