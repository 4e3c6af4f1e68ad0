-- Runs that ended elsewhere: what was told about them is not in the weeks of history and logs, which are gone.

create table imported (
  run_id uuid not null,
  n bigint not null,
  at timestamptz not null,
  shard smallint not null,
  part smallint not null,
  number integer not null,
  name text not null,
  text text not null,
  body bytea,
  constraint imported_pkey primary key (shard, run_id, part, n),
  constraint imported_part check (part between 0 and 3)
);
comment on table imported is 'What is told about imported runs beside their journal, as their documents had it. Goes with the run.';
comment on column imported.run_id is 'Of which run.';
comment on column imported.n is 'Its number in the document; of a signal its place.';
comment on column imported.at is 'When it was, elsewhere.';
comment on column imported.shard is 'First part of every key.';
comment on column imported.part is '0 history, 1 log, 2 output streams, 3 signals.';
comment on column imported.number is 'Of history the epoch, of a signal the length of its payload.';
comment on column imported.name is 'Type, level, stream or name.';
comment on column imported.text is 'Of history who it was, of a line its message, of a signal the step that took it.';
comment on column imported.body is 'Data, fields or chunk: a format byte and JSON; null: none.';

alter table run_done add column was_ended_at timestamptz;
comment on column run_done.was_ended_at is
  'Of a run that was imported when it ended, elsewhere; ended_at is then when it was imported. Null: it ended here.';
