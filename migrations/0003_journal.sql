-- The truth about runs: append-only rows, fenced by their primary key.

create table journal (
  run_id uuid not null,
  at timestamptz not null,
  due timestamptz,
  ref uuid,
  n integer not null,
  seq integer not null,
  epoch integer not null,
  cp integer not null,
  ns integer not null,
  dep integer not null,
  ms integer not null,
  shard smallint not null,
  kind smallint not null,
  flags smallint not null,
  step text not null,
  body bytea,
  constraint journal_pkey primary key (shard, run_id, n),
  constraint journal_numbers check (n >= 0 and seq >= 0 and seq <= n and epoch >= 0),
  constraint journal_shard check (shard between 0 and 4095),
  constraint journal_body_format check (octet_length(body) > 0)
) partition by range (run_id);
alter table journal alter column body set storage external;
comment on table journal is 'Every fact about a run, in order. Rows are never updated; a week''s partition is dropped whole.';
comment on column journal.run_id is 'The run: a UUIDv7 that carries its shard.';
comment on column journal.at is 'When, in cluster time.';
comment on column journal.due is 'When something is due: see the kinds.';
comment on column journal.ref is 'The message that this row took.';
comment on column journal.n is 'Position, dense from 0.';
comment on column journal.seq is 'Settled steps of this generation so far.';
comment on column journal.epoch is 'The run''s fence; never falls.';
comment on column journal.cp is 'The handler''s checkpoint number.';
comment on column journal.ns is 'Namespace.';
comment on column journal.dep is 'The deployment that was invoked; 0: none yet.';
comment on column journal.ms is 'How long the work took, in milliseconds.';
comment on column journal.shard is 'First part of every key.';
comment on column journal.kind is 'What the row records; codes are for ever.';
comment on column journal.flags is 'Bits in the low byte, the op of the step in the high byte.';
comment on column journal.step is 'Step id or message name; empty: none.';
comment on column journal.body is 'A format byte (0 raw) and opaque bytes.';

create table journal_long (
  like journal including storage including comments,
  constraint journal_long_pkey primary key (shard, run_id, n),
  constraint journal_long_numbers check (n >= 0 and seq >= 0 and seq <= n and epoch >= 0),
  constraint journal_long_shard check (shard between 0 and 4095),
  constraint journal_long_body_format check (octet_length(body) > 0)
);
comment on table journal_long is 'The same for runs that outlive their week''s partition or have many generations.';
