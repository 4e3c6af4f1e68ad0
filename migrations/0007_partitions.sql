-- Weeks: partitions are made ahead and dropped whole. There is never a default partition: a row
-- that fits nowhere is a bug and must be loud.

create function week_of(at timestamptz) returns timestamptz
  language sql stable strict parallel safe
  return date_trunc('week', at, 'UTC');
comment on function week_of(timestamptz) is 'Monday, 00:00 UTC.';

create function run_floor(at timestamptz) returns uuid
  language sql stable strict parallel safe
  return (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;
comment on function run_floor(timestamptz) is 'The earliest run id of a moment.';

create function ensure_partitions(around timestamptz) returns integer
  language plpgsql set lock_timeout = '2s' as $$
declare
  w timestamptz;
  suffix text;
  made integer := 0;
begin
  -- One maker at a time; the others find everything made.
  perform pg_advisory_xact_lock(hashtext('stepwell.partitions'));
  for i in -1 .. 4 loop
    w := week_of(around + i * interval '7 days');
    suffix := to_char(w at time zone 'UTC', 'YYYYMMDD');
    if to_regclass(format('%I.%I', current_schema(), 'journal_' || suffix)) is null then
      execute format('create table %I partition of journal for values from (%L) to (%L)',
        'journal_' || suffix, run_floor(w), run_floor(w + interval '7 days'));
      made := made + 1;
    end if;
    if to_regclass(format('%I.%I', current_schema(), 'run_done_' || suffix)) is null then
      execute format('create table %I partition of run_done for values from (%L) to (%L)',
        'run_done_' || suffix, w, w + interval '7 days');
      made := made + 1;
    end if;
    if to_regclass(format('%I.%I', current_schema(), 'history_' || suffix)) is null then
      execute format('create table %I partition of history for values from (%L) to (%L)',
        'history_' || suffix, w, w + interval '7 days');
      made := made + 1;
    end if;
    if to_regclass(format('%I.%I', current_schema(), 'logs_' || suffix)) is null then
      execute format('create table %I partition of logs for values from (%L) to (%L)',
        'logs_' || suffix, w, w + interval '7 days');
      made := made + 1;
    end if;
  end loop;
  return made;
end $$;
comment on function ensure_partitions(timestamptz) is
  'Makes what is missing of the week before, this one and four ahead; returns how many.';

create function expired_partitions(of_table text, older_than timestamptz)
  returns table (name text, starts timestamptz, ends timestamptz)
  language sql stable as $$
  select c.relname::text, d.w, d.w + interval '7 days'
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    cross join lateral (
      select to_timestamp(right(c.relname, 8), 'YYYYMMDD')::timestamp at time zone 'UTC' as w) d
   where i.inhparent = to_regclass(format('%I.%I', current_schema(), of_table))
     and d.w + interval '7 days' <= older_than
   order by 2 $$;
comment on function expired_partitions(text, timestamptz) is
  'Partitions of a table that end before a moment, oldest first.';

create function drop_partition(of_table text, name text) returns void
  language plpgsql set lock_timeout = '200ms' as $$
begin
  -- Appends queue behind this lock, so it gives up soon and is tried again at the next round.
  if not exists (select from pg_inherits i
                  where i.inhrelid = to_regclass(format('%I.%I', current_schema(), name))
                    and i.inhparent = to_regclass(format('%I.%I', current_schema(), of_table))) then
    raise exception '% is no partition of %', name, of_table;
  end if;
  execute format('drop table %I', name);
end $$;
comment on function drop_partition(text, text) is 'Drops one partition, or gives up after 200 ms.';
