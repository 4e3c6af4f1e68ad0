-- Flow control: who may be on its way, who waits for that, and what is kept back on purpose.

create table limit_keys (
  owner_kind smallint not null,
  owner_id integer not null,
  rule text not null,
  key text not null,
  ns integer not null,
  next_at timestamptz,
  passed bigint not null default 0,
  paused_at timestamptz,
  paused_by text,
  paused_reason text,
  constraint limit_keys_pkey primary key (owner_kind, owner_id, rule, key),
  constraint limit_keys_owner check (owner_kind in (0, 1)),
  constraint limit_keys_pause check ((paused_at is null) = (paused_by is null))
) with (fillfactor = 70);
comment on table limit_keys is 'One row for each limit and value of its key that was in use lately: its lock decides who goes next.';
comment on column limit_keys.owner_kind is 'Whose limit: 0 a function''s, 1 an endpoint''s.';
comment on column limit_keys.owner_id is 'The number of that function or endpoint.';
comment on column limit_keys.rule is 'Which of its limits: concurrency, throttle or rate, and the path of its key.';
comment on column limit_keys.key is 'The value at that path; empty: the limit has no key.';
comment on column limit_keys.ns is 'Namespace.';
comment on column limit_keys.next_at is 'Throttles and rates: when the last that was let through would have been due at an even pace.';
comment on column limit_keys.passed is 'Throttles: how many were let through; numbers them.';
comment on column limit_keys.paused_at is 'Nobody is let through since then; null: it is not paused.';
comment on column limit_keys.paused_by is 'Who paused it.';
comment on column limit_keys.paused_reason is 'Why.';

create table permits (
  owner_kind smallint not null,
  owner_id integer not null,
  rule text not null,
  key text not null,
  run_id uuid not null,
  ns integer not null,
  grp smallint not null,
  priority smallint not null,
  whole boolean not null,
  seen boolean not null default false,
  born timestamptz not null,
  place bigint generated always as identity,
  slot bigint,
  node uuid not null,
  asked_at timestamptz not null,
  granted_at timestamptz,
  constraint permits_pkey primary key (owner_kind, owner_id, rule, key, run_id),
  constraint permits_granted check ((slot is null) = (granted_at is null))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
-- No two runs can have one slot, whatever anybody believes.
create unique index permits_slot on permits (owner_kind, owner_id, rule, key, slot) where slot is not null;
create index permits_queue on permits (owner_kind, owner_id, rule, key, priority desc, born, place) where slot is null;
create index permits_granted_to on permits (grp, run_id) where slot is not null;
comment on table permits is 'Runs that a limit lets through, and runs that wait for that. Only runs of functions with limits have rows.';
comment on column permits.owner_kind is 'As in limit_keys.';
comment on column permits.owner_id is 'As in limit_keys.';
comment on column permits.rule is 'As in limit_keys.';
comment on column permits.key is 'As in limit_keys.';
comment on column permits.run_id is 'The run.';
comment on column permits.ns is 'Namespace.';
comment on column permits.grp is 'The lease group of the run: whoever drives it must hear of a grant.';
comment on column permits.priority is 'Higher goes first; then the older run; then who came first.';
comment on column permits.born is 'When the run was started.';
comment on column permits.place is 'Grows with each that comes.';
comment on column permits.whole is 'It has the slot to its end, asleep or not; else only while something of it is on its way.';
comment on column permits.seen is 'Whoever drives the run knows that it was granted.';
comment on column permits.slot is 'From 1 to the limit; of a throttle the number of its pass; null: it waits.';
comment on column permits.node is 'The node that asked last for it.';
comment on column permits.asked_at is 'When the run began to wait.';
comment on column permits.granted_at is 'When it was let through.';

create table debounces (
  ns integer not null,
  fn integer not null,
  key text not null,
  run_id uuid not null,
  first_at timestamptz not null,
  due_at timestamptz not null,
  calls integer not null default 1,
  start bytea not null,
  constraint debounces_pkey primary key (ns, fn, key),
  constraint debounces_calls check (calls >= 1)
);
create index debounces_due on debounces (due_at);
create index debounces_run on debounces (run_id);
comment on table debounces is 'Starts that wait until no further one of their key has come for a while. The last one counts.';
comment on column debounces.ns is 'Namespace.';
comment on column debounces.fn is 'The function.';
comment on column debounces.key is 'Value of the debounce''s key; empty: it has none.';
comment on column debounces.run_id is 'The run that it will be.';
comment on column debounces.first_at is 'When the first of them came.';
comment on column debounces.due_at is 'When it starts, if nothing comes before that.';
comment on column debounces.calls is 'How many starts it stands for.';
comment on column debounces.start is 'What the last one asked for; format byte and JSON.';

alter table functions add column paused_at timestamptz, add column paused_by text, add column paused_reason text;
comment on column functions.paused_at is 'No run of it is invoked since then; null: it is not paused.';
comment on column functions.paused_by is 'Who paused it.';
comment on column functions.paused_reason is 'Why.';

alter table endpoints add column concurrency integer,
  add constraint endpoints_concurrency check (concurrency > 0);
comment on column endpoints.concurrency is 'How many runs may be on their way to it at once, in the whole cluster; null: no limit but the nodes''.';
