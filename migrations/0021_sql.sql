-- Starts, signals and events from transactions of users: functions that write a row each, which the
-- gateway takes when it is committed.

create table sql_requests (
  id uuid not null,
  place bigint generated always as identity,
  kind smallint not null,
  ns integer not null,
  due timestamptz not null default '-infinity',
  at timestamptz not null default clock_timestamp(),
  by text not null,
  run_id uuid,
  name text not null,
  key text,
  body text not null,
  start_at timestamptz,
  priority smallint,
  tags text,
  source text,
  source_id text,
  constraint sql_requests_pkey primary key (id),
  constraint sql_requests_kind check (kind in (1, 2, 3)),
  constraint sql_requests_signal check ((kind = 2) = (run_id is not null)),
  constraint sql_requests_event check ((kind = 3) = (source is not null and source_id is not null))
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
create index sql_requests_due on sql_requests (due, place);
create index sql_requests_key on sql_requests (ns, name, key) where key is not null;
comment on table sql_requests is 'What users'' transactions ask for by the functions below. Empty when idle: the node that does it removes the row.';
comment on column sql_requests.id is 'Of the run that is to start, of the signal, or of the event.';
comment on column sql_requests.place is 'Their order, as far as they were committed.';
comment on column sql_requests.kind is '1 a start, 2 a signal, 3 an event.';
comment on column sql_requests.ns is 'Namespace.';
comment on column sql_requests.due is 'Not looked at before this moment: it could not be done when it was looked at last.';
comment on column sql_requests.at is 'When the function was called.';
comment on column sql_requests.by is 'The role that called it.';
comment on column sql_requests.run_id is 'Signals: to which run.';
comment on column sql_requests.name is 'Of the function, the signal or the event.';
comment on column sql_requests.key is 'Starts: the run key.';
comment on column sql_requests.body is 'JSON as it came: input, payload or data.';
comment on column sql_requests.start_at is 'Starts: first not before this moment. Events: when it happened.';
comment on column sql_requests.priority is 'Starts: as in the API.';
comment on column sql_requests.tags is 'Starts: JSON object of strings.';
comment on column sql_requests.source is 'Events: who publishes it.';
comment on column sql_requests.source_id is 'Events: what the source calls it.';

create function sql_id(shard integer) returns uuid
  language sql volatile strict
  return (
    select encode(set_byte(set_byte(set_byte(
             substr(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint), 3) || substr(r, 7),
             6, 112 | (get_byte(r, 6) & 15)),
             8, 128 | (shard >> 6)),
             9, ((shard & 63) << 2) | (get_byte(r, 9) & 3)), 'hex')::uuid
      from (select uuid_send(gen_random_uuid()) as r) x);
comment on function sql_id(integer) is 'A new UUIDv7 on a shard.';

create function sql_shard(variadic parts text[]) returns integer
  language sql immutable strict
  return (
    select (get_byte(d, 0) << 4) | (get_byte(d, 1) >> 4)
      from (select sha256(string_agg(convert_to(part, 'UTF8'), '\x00'::bytea order by n)) as d
              from unnest(parts) with ordinality as p(part, n)) x);
comment on function sql_shard(text[]) is 'The shard of these parts: the first twelve bits of their SHA-256.';

create function sql_typed(prefix text, id uuid) returns text
  language sql immutable strict
  return (
    select prefix || '_' || string_agg(
             substr('0123456789abcdefghjkmnpqrstvwxyz', substring(bits from n * 5 + 1 for 5)::bit(5)::integer + 1, 1),
             '' order by n)
      from (select b'00' || ('x' || replace(id::text, '-', ''))::bit(128) as bits) x, generate_series(0, 25) n);
comment on function sql_typed(text, uuid) is 'An id as the API writes it.';

create function sql_uuid(prefix text, id text) returns uuid
  language plpgsql immutable strict as $$
declare
  bits bit varying := b'';
  digit integer;
begin
  if id !~ ('^' || prefix || '_[0-7][0-9a-hjkmnp-tv-z]{25}$') then
    raise exception using errcode = '22023',
      message = format('invalid-id: %L is not an id of the form %s_ and 26 characters', left(id, 64), prefix);
  end if;
  for i in 1..26 loop
    digit := strpos('0123456789abcdefghjkmnpqrstvwxyz', substr(id, length(prefix) + 1 + i, 1)) - 1;
    bits := bits || digit::bit(5);
  end loop;
  -- Four bits are a digit of the UUID; the two that are too many are zero.
  return (select string_agg(to_hex(substring(bits from 3 + n * 4 for 4)::bit(4)::integer), '' order by n)
            from generate_series(0, 31) n)::uuid;
end $$;
comment on function sql_uuid(text, text) is 'The UUID of an id as the API writes it.';

create function sql_check(what text, value text, most integer) returns void
  language plpgsql immutable as $$
begin
  if value is null or value = '' or octet_length(value) > most or value ~ '[[:cntrl:]]' or value in ('.', '..') then
    raise exception using errcode = '22023',
      message = format('invalid-request: `%s` must have 1 to %s bytes, no control characters, and not be `.` or `..`', what, most);
  end if;
end $$;
comment on function sql_check(text, text, integer) is 'Refuses what is no name or key.';

create function sql_payload(what text, value json) returns text
  language plpgsql immutable as $$
begin
  if octet_length(value::text) > 1048576 then
    raise exception using errcode = '22023',
      message = format('payload-too-large: `%s` has %s bytes; the limit is 1048576 (1 MiB)', what, octet_length(value::text));
  end if;
  return coalesce(value::text, 'null');
end $$;
comment on function sql_payload(text, json) is 'The text of a payload; refuses one over the limit.';

create function sql_namespace(given text) returns integer
  language plpgsql stable as $$
declare
  found integer;
begin
  select id into found from namespaces where name = given;
  if found is null then
    raise exception using errcode = 'SW404', message = format('namespace-not-found: there is no namespace %L', given);
  end if;
  return found;
end $$;
comment on function sql_namespace(text) is 'The number of a namespace.';

create function start_run(
  function text, input json default null, key text default null, tags json default null,
  delay interval default null, start_at timestamptz default null, priority integer default 0,
  namespace text default 'default'
) returns text
  language plpgsql volatile security definer set search_path = stepwell, pg_temp as $$
#variable_conflict use_column
declare
  of_ns constant integer := sql_namespace(namespace);
  of_function integer;
  holder uuid;
  at_shard integer := floor(random() * 4096)::integer;
  new_id uuid;
  begins timestamptz := start_run.start_at;
begin
  select f.id into of_function from functions f where f.ns = of_ns and f.name = start_run.function;
  if of_function is null then
    raise exception using errcode = 'SW404',
      message = format('function-not-found: no function %L is registered', start_run.function);
  end if;
  if delay is not null and begins is not null then
    raise exception using errcode = '22023',
      message = 'invalid-request: `start_at` is given beside `delay`; one of them is enough';
  end if;
  begins := coalesce(begins, clock_timestamp() + delay);
  if coalesce(start_run.priority, 0) not between -100 and 100 then
    raise exception using errcode = '22023', message = 'invalid-request: `priority` must be from -100 to 100';
  end if;
  if tags is not null and (json_typeof(tags) <> 'object'
      or exists (select from json_each(tags) t where json_typeof(t.value) <> 'string'
                    or octet_length(t.value #>> '{}') > 256 or (t.value #>> '{}') ~ '[[:cntrl:]]'
                    or t.key = '' or octet_length(t.key) > 64 or t.key ~ '[[:cntrl:]]')
      or (select count(*) from json_each(tags)) > 32) then
    raise exception using errcode = '22023',
      message = 'invalid-request: `tags` must be an object of at most 32 strings of up to 256 bytes, with names of up to 64';
  end if;
  if start_run.key is not null then
    perform sql_check('key', start_run.key, 256);
    at_shard := sql_shard(namespace, start_run.function, start_run.key);
    -- Of an object there may be many: they have an order.
    select k.run_id into holder from run_keys k
      left join run_active a on a.shard = k.shard and a.run_id = k.run_id
     where k.shard = at_shard and k.ns = of_ns and k.fn = of_function and k.key = start_run.key
       and k.status is null and a.object is null;
    if holder is not null then
      raise exception using errcode = 'SW409',
        message = format('run-exists: a live run of %L has the key %L', start_run.function, start_run.key),
        detail = sql_typed('run', holder);
    end if;
  end if;
  new_id := sql_id(at_shard);
  insert into sql_requests (id, kind, ns, by, name, key, body, start_at, priority, tags)
  values (new_id, 1, of_ns, session_user, start_run.function, start_run.key, sql_payload('input', input), begins,
          coalesce(start_run.priority, 0)::smallint, nullif(tags::text, '{}'));
  perform pg_notify('stepwell_sql', '');
  return sql_typed('run', new_id);
end $$;
comment on function start_run(text, json, text, json, interval, timestamptz, integer, text) is
  'Starts a run when this transaction commits; returns its id at once.';

create function send_signal(run text, name text, payload json default null) returns text
  language plpgsql volatile security definer set search_path = stepwell, pg_temp as $$
#variable_conflict use_column
declare
  to_run constant uuid := sql_uuid('run', run);
  of_ns integer;
begin
  perform sql_check('name', send_signal.name, 256);
  select a.ns into of_ns from run_active a where a.shard = shard_of(to_run) and a.run_id = to_run;
  if of_ns is null then
    -- It may be about to start, in this transaction too.
    select r.ns into of_ns from sql_requests r where r.id = to_run and r.kind = 1;
  end if;
  if of_ns is null then
    raise exception using errcode = 'SW410', message = format('run-ended: there is no live run %s', run);
  end if;
  insert into sql_requests (id, kind, ns, by, run_id, name, body)
  values (sql_id(0), 2, of_ns, session_user, to_run, send_signal.name, sql_payload('payload', payload));
  perform pg_notify('stepwell_sql', '');
  return run;
end $$;
comment on function send_signal(text, text, json) is 'Sends a signal to a run when this transaction commits; returns the run.';

create function send_signal_to_key(function text, key text, name text, payload json default null, namespace text default 'default')
  returns text
  language plpgsql volatile security definer set search_path = stepwell, pg_temp as $$
#variable_conflict use_column
declare
  of_ns constant integer := sql_namespace(namespace);
  found uuid;
begin
  select k.run_id into found from run_keys k
    join functions f on f.ns = of_ns and f.name = send_signal_to_key.function and f.id = k.fn
   where k.shard = sql_shard(namespace, send_signal_to_key.function, send_signal_to_key.key)
     and k.ns = of_ns and k.key = send_signal_to_key.key and k.status is null;
  if found is null then
    select r.id into found from sql_requests r
     where r.ns = of_ns and r.name = send_signal_to_key.function and r.key = send_signal_to_key.key and r.kind = 1
     order by r.place limit 1;
  end if;
  if found is null then
    raise exception using errcode = 'SW404',
      message = format('run-not-found: no live run of %L has the key %L', send_signal_to_key.function, send_signal_to_key.key);
  end if;
  return send_signal(sql_typed('run', found), send_signal_to_key.name, payload);
end $$;
comment on function send_signal_to_key(text, text, text, json, text) is
  'The same to the run that has a key now, or is about to start with it; returns the run.';

create function publish_event(
  name text, data json default null, id text default null, source text default 'sql',
  happened_at timestamptz default null, namespace text default 'default'
) returns text
  language plpgsql volatile security definer set search_path = stepwell, pg_temp as $$
#variable_conflict use_column
declare
  of_ns constant integer := sql_namespace(namespace);
  own constant text := coalesce(publish_event.id, replace(gen_random_uuid()::text, '-', ''));
  at_shard integer;
  known uuid;
begin
  perform sql_check('name', publish_event.name, 256), sql_check('id', own, 256), sql_check('source', publish_event.source, 256);
  at_shard := sql_shard('event', namespace, publish_event.source, own);
  select e.id into known from events e
   where e.shard = at_shard and e.ns = of_ns and e.source = publish_event.source and e.source_id = own;
  if known is null then
    known := sql_id(at_shard);
    insert into sql_requests (id, kind, ns, by, name, body, start_at, source, source_id)
    values (known, 3, of_ns, session_user, publish_event.name, sql_payload('data', data), happened_at,
            publish_event.source, own);
    perform pg_notify('stepwell_sql', '');
  end if;
  return sql_typed('evt', known);
end $$;
comment on function publish_event(text, json, text, text, timestamptz, text) is
  'Publishes an event when this transaction commits; returns its id at once.';

revoke all on function start_run, send_signal, send_signal_to_key, publish_event,
  sql_id, sql_shard, sql_typed, sql_uuid, sql_check, sql_payload, sql_namespace from public;
