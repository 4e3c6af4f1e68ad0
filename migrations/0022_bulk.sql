-- Acts on many runs: what is asked for, how far it has come, and what came of it.

create table bulks (
  shard          smallint not null,
  id             uuid not null,
  ns             integer not null,
  status         smallint not null default 0,
  action         text not null,
  rate           integer not null,
  created_by     text not null,
  ended_by       text,
  created_at     timestamptz not null,
  updated_at     timestamptz not null,
  ended_at       timestamptz,
  next_at        timestamptz,
  before         timestamptz not null,
  claim          integer not null default 0,
  cursor         uuid,
  page           uuid[],
  page_to        uuid,
  expected       bigint not null,
  expected_exact boolean not null,
  matched        bigint not null default 0,
  done           bigint not null default 0,
  skipped        bigint not null default 0,
  failed         bigint not null default 0,
  request_key    text,
  request_hash   bytea not null,
  spec           bytea not null,
  reasons        bytea not null,
  constraint bulks_pkey primary key (shard, id),
  constraint bulks_request unique (ns, request_key),
  constraint bulks_shard check (shard between 0 and 4095),
  constraint bulks_status check (status in (0, 1, 2)),
  constraint bulks_ended check ((status = 0) = (ended_at is null) and (status = 0) = (next_at is not null)),
  constraint bulks_hash_length check (octet_length(request_hash) = 32),
  constraint bulks_formats check (octet_length(spec) > 0 and octet_length(reasons) > 0)
) with (fillfactor = 70);
alter table bulks alter column spec set storage external;
comment on table bulks is 'Acts on many runs: a page of them is written down, acted on, and counted.';
comment on column bulks.shard is 'Of the id: the node that drives this shard carries it out.';
comment on column bulks.id is 'Holds the shard, so that it is found by its id alone.';
comment on column bulks.ns is 'Namespace.';
comment on column bulks.status is '0: goes on, 1: came to the last run, 2: aborted.';
comment on column bulks.action is 'What is done to each run, in a word; spec has the rest.';
comment on column bulks.rate is 'How many runs a second at most.';
comment on column bulks.created_by is 'Who asked for it: the name of an API key, or local.';
comment on column bulks.ended_by is 'Who aborted it.';
comment on column bulks.created_at is 'When it was asked for.';
comment on column bulks.updated_at is 'When a page was counted last.';
comment on column bulks.ended_at is 'When it came to the last run or was aborted.';
comment on column bulks.next_at is 'When a page is due, or who is at one has been too long; null: it has ended.';
comment on column bulks.before is 'Runs that were created at this moment or later are left alone.';
comment on column bulks.claim is 'Grows with every node that takes a page: only the last one counts it.';
comment on column bulks.cursor is 'The last run that it has come to, new to old; null: none yet.';
comment on column bulks.page is 'The runs that are acted on just now; null: none.';
comment on column bulks.page_to is 'Where it goes on behind the page; null: the page is the last.';
comment on column bulks.expected is 'How many runs matched when it was asked for, counted to a limit.';
comment on column bulks.expected_exact is 'Whether there were no more than that.';
comment on column bulks.matched is 'How many runs it has come to.';
comment on column bulks.done is 'Of them, those that were acted on.';
comment on column bulks.skipped is 'Of them, those whose state left nothing to do.';
comment on column bulks.failed is 'Of them, those on which the act failed.';
comment on column bulks.request_key is 'The idempotency key of the request.';
comment on column bulks.request_hash is 'SHA-256 of the request''s body.';
comment on column bulks.spec is 'A format byte and JSON: filter, action and reason.';
comment on column bulks.reasons is 'A format byte and JSON: why runs were skipped or failed, and how many.';
create index bulks_due on bulks (next_at) where next_at is not null;
create index bulks_list on bulks (ns, id);
