-- Starts that are gathered into one run, whose input is the list of theirs.

create table gathers (
  run_id uuid not null,
  ns integer not null,
  fn integer not null,
  key text not null,
  first_at timestamptz not null,
  due_at timestamptz not null,
  starts integer not null,
  bytes bigint not null,
  is_open boolean not null,
  by text not null,
  constraint gathers_pkey primary key (run_id),
  constraint gathers_starts check (starts >= 1)
);
create unique index gathers_open on gathers (ns, fn, key) where is_open;
create index gathers_due on gathers (due_at);
comment on table gathers is 'Runs that do not begin yet, for more starts may come that they take in.';
comment on column gathers.run_id is 'The run that it will be.';
comment on column gathers.ns is 'Namespace.';
comment on column gathers.fn is 'The function.';
comment on column gathers.key is 'What its starts have in common; empty: the function gathers all.';
comment on column gathers.first_at is 'When the first start came.';
comment on column gathers.due_at is 'When the run begins.';
comment on column gathers.starts is 'How many starts it has.';
comment on column gathers.bytes is 'How long its input will be, in bytes.';
comment on column gathers.is_open is 'Whether more starts are taken in.';
comment on column gathers.by is 'Who asked for the first start.';

create table gathered (
  run_id uuid not null,
  pos integer not null,
  input bytea not null,
  constraint gathered_pkey primary key (run_id, pos)
);
comment on table gathered is 'The inputs of starts that wait in a gather.';
comment on column gathered.run_id is 'The run that they will be.';
comment on column gathered.pos is 'Their order, from 1.';
comment on column gathered.input is 'The input; format byte and JSON.';
