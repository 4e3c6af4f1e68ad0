-- Schedules: rules that start runs by themselves.

create table schedules (
  shard      smallint not null,
  id         uuid not null,
  ns         integer not null,
  name       text not null,
  function   text not null,
  owned      boolean not null default false,
  version    integer not null default 1,
  next_at    timestamptz,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  created_by text not null,
  spec       bytea not null,
  input      bytea not null,
  state      bytea not null,
  result     bytea,
  constraint schedules_pkey primary key (shard, id),
  constraint schedules_name unique (ns, name),
  constraint schedules_shard check (shard between 0 and 4095),
  constraint schedules_formats check (octet_length(spec) > 0 and octet_length(input) > 0
    and octet_length(state) > 0 and octet_length(result) > 0)
) with (fillfactor = 70);
alter table schedules alter column input set storage external;
alter table schedules alter column result set storage external;
comment on table schedules is 'Rules that start runs. Each change, firings too, is made under the lock of the row.';
comment on column schedules.shard is 'Of the id: the node that drives this shard fires it.';
comment on column schedules.id is 'Holds the shard, so that a schedule is found by its id alone.';
comment on column schedules.ns is 'Namespace.';
comment on column schedules.name is 'Unique in the namespace.';
comment on column schedules.function is 'The function whose runs it starts.';
comment on column schedules.owned is 'It belongs to the registration of its function, which says what it is.';
comment on column schedules.version is 'Grows with every change that a person makes.';
comment on column schedules.next_at is 'When there is something to decide; null: not before something happens to it.';
comment on column schedules.created_at is 'When it was created.';
comment on column schedules.updated_at is 'When a person changed it last.';
comment on column schedules.created_by is 'Who created it: the name of an API key, or local.';
comment on column schedules.spec is 'A format byte and JSON: its rule and its policies.';
comment on column schedules.input is 'A format byte and JSON: the input of its runs, as it came.';
comment on column schedules.state is 'A format byte and JSON: up to when it is decided, what waits, what was.';
comment on column schedules.result is 'A format byte and JSON: the last run that completed and its output.';
create index schedules_due on schedules (next_at) where next_at is not null;
create index schedules_list on schedules (ns, id);
create index schedules_function on schedules (ns, function) where owned;

-- What of a schedule is live is asked at each of its firings; runs of no schedule are in neither.
create index run_active_schedule on run_active (schedule, run_id) where schedule is not null;
create index run_done_schedule on run_done (schedule, run_id) where schedule is not null;
