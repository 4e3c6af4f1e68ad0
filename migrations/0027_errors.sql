-- Errors by their kind: runs that failed or paused alike have one fingerprint, and a row says what it is.

create table errors (
  ns          integer not null,
  fingerprint uuid not null,
  fn          integer not null,
  first_at    timestamptz not null,
  step        text,
  code        text not null,
  message     text not null,
  example     text not null,
  constraint errors_pkey primary key (ns, fingerprint)
);
create index errors_first on errors (ns, first_at);
comment on table errors is 'Kinds of errors. Written once, with the first run that ends or pauses by one.';
comment on column errors.ns is 'Namespace.';
comment on column errors.fingerprint is 'Of function, step, code and message without what differs from run to run.';
comment on column errors.fn is 'Function.';
comment on column errors.first_at is 'When the first run ended or paused by it.';
comment on column errors.step is 'The step that had failed last; null: none had.';
comment on column errors.code is 'The type of the error, or the code of the pause.';
comment on column errors.message is 'The message without numbers, ids and texts in quotes.';
comment on column errors.example is 'The message as the first run had it.';

alter table run_active add column fingerprint uuid;
alter table run_done add column fingerprint uuid;
comment on column run_active.fingerprint is 'The kind of error that it is paused by, as late as its status; null: none.';
comment on column run_done.fingerprint is 'The kind of error that ended it; null: none.';

-- No table has more than six indexes. What few runs have is found by one index over all of it: tags,
-- and ids of other things.
drop index run_active_tags;
drop index run_active_schedule;
create index run_active_found on run_active using gin (tags jsonb_path_ops, (array_remove(array[schedule, fingerprint], null)))
 with (gin_pending_list_limit = 256) where tags is not null or schedule is not null or fingerprint is not null;

-- A run comes of a run or of a schedule.
drop index run_done_parent;
drop index run_done_schedule;
create index run_done_from on run_done ((coalesce(parent, schedule)), run_id) where parent is not null or schedule is not null;

-- Runs without an error are told apart by three values that repeat, a few bytes a run; those with one
-- are in the order of their ids behind its kind.
drop index run_done_status;
create index run_done_status on run_done (ns, status, fn, fingerprint, (case when fingerprint is not null then run_id end));
