-- Locks: a run has several objects at once. It takes its place in the queues of all of them in one
-- transaction, so that of two runs the same one is before the other wherever they meet.

create table object_locks (
  run_id uuid not null,
  ns integer not null,
  fn integer not null,
  shard smallint not null,
  key text not null,
  constraint object_locks_pkey primary key (run_id, fn, key)
);
comment on table object_locks is 'The objects that a live run has, or waits for, under its locks; gone with its end.';
comment on column object_locks.run_id is 'The run.';
comment on column object_locks.ns is 'Namespace.';
comment on column object_locks.fn is 'The function that the object is of.';
comment on column object_locks.shard is 'The shard of the object, which the run need not be on.';
comment on column object_locks.key is 'The object.';

-- A run may wait for several objects, on shards that are not its own.
alter table object_queue drop constraint object_queue_run;
alter table object_queue add constraint object_queue_run unique (run_id, fn, key);
comment on column object_queue.shard is 'The shard of the object; of the run too, unless it waits for its locks.';

alter table run_active drop constraint run_active_object;
alter table run_active add constraint run_active_object check (object between 1 and 5);
comment on column run_active.object is 'What the run is to objects: 1 it has the one of its key, 2 it waits for its turn at it, parked, 3 it only reads it, 4 it has all of its locks, 5 it has not all of them yet, parked; null: nothing.';
