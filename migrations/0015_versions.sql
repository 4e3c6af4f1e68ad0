-- Versions that outlive deploys: which deployment a live run needs, and endpoints that take no new runs.

alter table endpoints add column draining boolean not null default false;
comment on column endpoints.draining is 'No run is started here while true; those that are live go on.';

alter table run_active add column pinned boolean not null default false;
comment on column run_active.pinned is 'Somebody has put it on its deployment, and it goes on with no other.';
comment on column run_active.dep is 'The deployment that it is pinned to by hand, else the one that it was last invoked on; before its first invocation the newest at its start.';

alter table deployments add column pruned_at timestamptz;
comment on column deployments.pruned_at is 'Since when nothing can be put on it; the row stays for the runs that ended there. Registering the same content brings it back.';

-- The names of other relations are no dates: nothing is read out of a name before it is known to be
-- a partition's, whatever the planner thinks.
create or replace function expired_partitions(of_table text, older_than timestamptz)
  returns table (name text, starts timestamptz, ends timestamptz)
  language sql stable as $$
  with parts as materialized (
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
     where i.inhparent = to_regclass(format('%I.%I', current_schema(), of_table))),
  weeks as materialized (
    select p.relname, to_timestamp(right(p.relname, 8), 'YYYYMMDD')::timestamp at time zone 'UTC' as w
      from parts p)
  select relname::text, w, w + interval '7 days' from weeks
   where w + interval '7 days' <= older_than order by 2 $$;
