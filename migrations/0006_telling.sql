-- What is told about runs and is no journal row: history entries and log lines, by week.

create table history (
  run_id uuid not null,
  at timestamptz not null,
  epoch integer not null,
  ns integer not null,
  shard smallint not null,
  k smallint not null,
  what text not null,
  by text not null,
  data bytea not null,
  constraint history_pkey primary key (shard, run_id, at, k)
) partition by range (at);
comment on table history is 'Failed exchanges, late answers, acts of operators, messages that nobody took.';
comment on column history.run_id is 'Of which run.';
comment on column history.at is 'When.';
comment on column history.epoch is 'The epoch that it belongs to; 0: none.';
comment on column history.ns is 'Namespace.';
comment on column history.shard is 'First part of every key.';
comment on column history.k is 'Tells entries of one moment apart.';
comment on column history.what is 'Such as invocation.failed.';
comment on column history.by is 'Who: gateway, handler, or an operator.';
comment on column history.data is 'A format byte and a JSON object.';

create table logs (
  run_id uuid not null,
  at timestamptz not null,
  ns integer not null,
  shard smallint not null,
  k smallint not null,
  level text not null,
  message text not null,
  fields bytea,
  constraint logs_pkey primary key (shard, run_id, at, k)
) partition by range (at);
comment on table logs is 'Lines that handlers log; written with the append, with no promise of once.';
comment on column logs.run_id is 'Of which run.';
comment on column logs.at is 'When it was recorded.';
comment on column logs.ns is 'Namespace.';
comment on column logs.shard is 'First part of every key.';
comment on column logs.k is 'Tells lines of one moment apart.';
comment on column logs.level is 'debug, info, warn or error.';
comment on column logs.message is 'The text.';
comment on column logs.fields is 'A format byte and a JSON object.';
