-- Objects: durable state under a key, and the runs that wait for their turn to change it.

create table objects (
  ns integer not null,
  fn integer not null,
  shard smallint not null,
  key text not null,
  field text not null,
  value bytea not null,
  constraint objects_pkey primary key (shard, ns, fn, key, field),
  constraint objects_value_format check (octet_length(value) > 0)
);
alter table objects alter value set storage external;
create index objects_list on objects (ns, fn, key);
comment on table objects is 'The state of objects as everybody sees it: a row per field, written with the end of a run that has the object, or by hand while no run has it.';
comment on column objects.ns is 'Namespace.';
comment on column objects.fn is 'The function that the object is of.';
comment on column objects.shard is 'The shard of the key.';
comment on column objects.key is 'The object.';
comment on column objects.field is 'Name of the field.';
comment on column objects.value is 'A format byte and the value.';

create table object_queue (
  run_id uuid not null,
  pos bigint not null,
  ns integer not null,
  fn integer not null,
  shard smallint not null,
  key text not null,
  constraint object_queue_pkey primary key (shard, ns, fn, key, pos),
  constraint object_queue_run unique (shard, run_id)
);
comment on table object_queue is 'Runs that wait for an object which another one has; run_keys says which. Whoever adds or takes away holds that row of run_keys.';
comment on column object_queue.run_id is 'Who waits.';
comment on column object_queue.pos is 'In which order: the smallest has it next.';
comment on column object_queue.ns is 'Namespace.';
comment on column object_queue.fn is 'The function that the object is of.';
comment on column object_queue.shard is 'The shard of the key, and of the run.';
comment on column object_queue.key is 'The object.';

alter table run_active add column object smallint,
  add column reads integer,
  add constraint run_active_object check (object in (1, 2, 3)),
  add constraint run_active_reads check ((reads is null) = (object is distinct from 3));
comment on column run_active.object is 'What the run is to an object: 1 it has it, 2 it waits for its turn, parked, 3 it only reads it; null: nothing.';
comment on column run_active.reads is 'Of a run that only reads an object: the function that the object is of.';
