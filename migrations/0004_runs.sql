-- The standing of runs: live ones, ended ones, their keys, and requests that must count once.

create table run_active (
  run_id uuid not null,
  created_at timestamptz not null,
  wake_at timestamptz not null default '-infinity',
  ns integer not null,
  fn integer not null,
  dep integer not null default 0,
  inbox integer not null default 0,
  base_n integer not null default 0,
  generation integer not null default 1,
  shard smallint not null,
  home smallint not null default 0,
  closing boolean not null default false,
  gate bigint,
  status smallint not null default 0,
  status_at timestamptz,
  attention bytea,
  key text,
  parent uuid,
  schedule uuid,
  tags jsonb,
  custom_status bytea,
  constraint run_active_pkey primary key (shard, run_id),
  constraint run_active_shard check (shard between 0 and 4095),
  constraint run_active_home check (home in (0, 1)),
  constraint run_active_counters check (inbox >= 0 and base_n >= 0 and generation >= 1),
  constraint run_active_status_live check (status between 0 and 99),
  constraint run_active_tags_object check (jsonb_typeof(tags) = 'object')
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.02,
        vacuum_truncate = off);
-- Hot runs sit at -infinity of their group, parked ones at their wake-up.
create index run_active_wake on run_active ((shard >> 4), wake_at, run_id);
create index run_active_list on run_active (ns, run_id);
create index run_active_key on run_active (ns, key) where key is not null;
create index run_active_tags on run_active using gin (tags jsonb_path_ops) where tags is not null;
comment on table run_active is 'One row per run that has not ended; changed at start, park, wake and end, not per step.';
comment on column run_active.run_id is 'The run.';
comment on column run_active.created_at is 'When it was started.';
comment on column run_active.wake_at is '-infinity: hot, its owner drives it; else parked until then; infinity: until a message comes.';
comment on column run_active.ns is 'Namespace.';
comment on column run_active.fn is 'Function.';
comment on column run_active.dep is 'The deployment it was started on.';
comment on column run_active.inbox is 'Messages ever accepted, which is the last position given out.';
comment on column run_active.base_n is 'Where reading the journal begins.';
comment on column run_active.generation is 'From 1; grows at continue.';
comment on column run_active.shard is 'First part of every key.';
comment on column run_active.home is 'Where its journal goes on: 0 the week''s partition, 1 journal_long.';
comment on column run_active.closing is 'Messages are refused from now on.';
comment on column run_active.gate is 'What keeps it from being driven, such as a full limit; null: nothing.';
comment on column run_active.status is 'For lists: projected by the owner, at most a second late.';
comment on column run_active.status_at is 'Since when.';
comment on column run_active.attention is 'For lists: why it does not move; format byte and JSON.';
comment on column run_active.key is 'The run''s key, for lists; run_keys decides.';
comment on column run_active.parent is 'The run that started it.';
comment on column run_active.schedule is 'The schedule that started it.';
comment on column run_active.tags is 'Searchable tags: an object of strings; null: none.';
comment on column run_active.custom_status is 'What the handler said last; format byte and JSON.';

create table run_done (
  run_id uuid not null,
  created_at timestamptz not null,
  ended_at timestamptz not null,
  ns integer not null,
  fn integer not null,
  dep integer not null,
  last_n integer not null,
  base_n integer not null,
  generation integer not null,
  shard smallint not null,
  home smallint not null,
  status smallint not null,
  key text,
  parent uuid,
  schedule uuid,
  tags jsonb,
  custom_status bytea,
  constraint run_done_pkey primary key (shard, run_id, ended_at),
  constraint run_done_status_ended check (status between 100 and 104),
  constraint run_done_home check (home in (0, 1))
) partition by range (ended_at);
create index run_done_list on run_done (ns, run_id);
create index run_done_key on run_done (ns, key) where key is not null;
create index run_done_tags on run_done using gin (tags jsonb_path_ops) where tags is not null;
comment on table run_done is 'Ended runs, by the week of their end: retention counts from there.';
comment on column run_done.run_id is 'The run.';
comment on column run_done.created_at is 'When it was started.';
comment on column run_done.ended_at is 'When it ended.';
comment on column run_done.ns is 'Namespace.';
comment on column run_done.fn is 'Function.';
comment on column run_done.dep is 'The deployment of its last row.';
comment on column run_done.last_n is 'Position of the row that ended it.';
comment on column run_done.base_n is 'Where reading the journal begins.';
comment on column run_done.generation is 'Its last generation.';
comment on column run_done.shard is 'First part of every key.';
comment on column run_done.home is 'Where its journal is: 0 the week''s partition, 1 journal_long.';
comment on column run_done.status is 'How it ended: the kind of its last row.';
comment on column run_done.key is 'The run''s key.';
comment on column run_done.parent is 'The run that started it.';
comment on column run_done.schedule is 'The schedule that started it.';
comment on column run_done.tags is 'Searchable tags: an object of strings; null: none.';
comment on column run_done.custom_status is 'What the handler said last; format byte and JSON.';

create table run_keys (
  shard smallint not null,
  ns integer not null,
  fn integer not null,
  key text not null,
  run_id uuid not null,
  status smallint,
  ended_at timestamptz,
  constraint run_keys_pkey primary key (shard, ns, fn, key),
  constraint run_keys_ended check ((status is null) = (ended_at is null)),
  constraint run_keys_status_ended check (status between 100 and 104)
) with (fillfactor = 80);
comment on table run_keys is 'Who has a run key: at most one live run, else the last one that had it.';
comment on column run_keys.shard is 'The shard of the key, and of all its runs.';
comment on column run_keys.ns is 'Namespace.';
comment on column run_keys.fn is 'Function.';
comment on column run_keys.key is 'As the user gave it.';
comment on column run_keys.run_id is 'The run that has it.';
comment on column run_keys.status is 'How that run ended; null: it lives.';
comment on column run_keys.ended_at is 'When that run ended.';

create table idem (
  shard smallint not null,
  ns integer not null,
  key text not null,
  hash bytea not null,
  run_id uuid not null,
  msg_id uuid,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  constraint idem_pkey primary key (shard, ns, key),
  constraint idem_hash_length check (octet_length(hash) = 32)
);
create index idem_expiry on idem using brin (expires_at);
comment on table idem is 'Requests with an idempotency key, and what they led to.';
comment on column idem.shard is 'Of the run in the address, else of the key itself.';
comment on column idem.ns is 'Namespace.';
comment on column idem.key is 'Scope (method and path) and the key as it was sent.';
comment on column idem.hash is 'SHA-256 of the request''s body: the same key with another body is refused.';
comment on column idem.run_id is 'The run that was started or sent to.';
comment on column idem.msg_id is 'The message that was accepted; null: it was a start.';
comment on column idem.created_at is 'When.';
comment on column idem.expires_at is 'Kept until then, and for a start as long as its run lives.';
