-- Events: named messages to everyone who subscribed, accepted first and routed after.

create table events (
  shard        smallint not null,
  id           uuid not null,
  ns           integer not null,
  name         text not null,
  source       text not null,
  source_id    text not null,
  hash         bytea not null,
  happened_at  timestamptz,
  published_at timestamptz not null,
  data         bytea not null,
  constraint events_pkey primary key (shard, id),
  constraint events_source_id unique (shard, ns, source, source_id),
  constraint events_data_format check (octet_length(data) > 0)
);
alter table events alter column data set storage external;
comment on table events is 'Accepted events, until retention takes them.';
comment on column events.shard is 'Of namespace, source and source_id: who publishes an event again finds it.';
comment on column events.id is 'Holds the shard, so that an event is found by its id alone.';
comment on column events.ns is 'Namespace.';
comment on column events.name is 'What subscribers ask for; the type of a CloudEvent.';
comment on column events.source is 'Who published it.';
comment on column events.source_id is 'What the source calls it: with the source its identity.';
comment on column events.hash is 'SHA-256 of name and data: who publishes something else under the same identity is told.';
comment on column events.happened_at is 'When it happened, as the source says.';
comment on column events.published_at is 'When it was accepted, not earlier than the true time.';
comment on column events.data is 'A format byte and JSON, as it came.';
create index events_listed on events (ns, published_at desc, id desc);
create index events_named on events (ns, name, published_at);

create table event_queue (
  shard    smallint not null,
  event_id uuid not null,
  due      timestamptz not null,
  run_id   uuid,
  step     text,
  constraint event_queue_pkey primary key (shard, event_id)
);
comment on table event_queue is 'Events that are not routed to the end.';
comment on column event_queue.shard is 'Of the event.';
comment on column event_queue.event_id is 'Which.';
comment on column event_queue.due is 'When any node may route it: who accepted it comes first.';
comment on column event_queue.run_id is 'The last run that was reached; null: none, and no function was started either.';
comment on column event_queue.step is 'Which step of it.';
create index event_queue_due on event_queue (due);

create table event_waits (
  shard  smallint not null,
  run_id uuid not null,
  step   text not null,
  ns     integer not null,
  event  text not null,
  paths  text not null,
  hash   bytea not null,
  since  timestamptz not null,
  taken  uuid[] not null,
  constraint event_waits_pkey primary key (shard, run_id, step)
);
comment on table event_waits is 'Steps that wait for an event.';
comment on column event_waits.shard is 'Of the run.';
comment on column event_waits.run_id is 'Whose step.';
comment on column event_waits.step is 'Which.';
comment on column event_waits.ns is 'Namespace.';
comment on column event_waits.event is 'The name of the event.';
comment on column event_waits.paths is 'The fields that must be equal to something, one a line; empty: any event of the name.';
comment on column event_waits.hash is 'Of these fields and what they must be equal to.';
comment on column event_waits.since is 'Events from then on count: when it was asked for, less its look-back.';
comment on column event_waits.taken is 'Events that steps of the run had taken before: looking back does not find them again.';
create index event_waits_match on event_waits (ns, event, paths, hash, run_id, step);

create table event_matches (
  shard    smallint not null,
  event_id uuid not null,
  run_id   uuid not null,
  step     text not null,
  at       timestamptz not null,
  constraint event_matches_pkey primary key (shard, event_id, run_id, step)
);
comment on table event_matches is 'What events came to.';
comment on column event_matches.shard is 'Of the event.';
comment on column event_matches.event_id is 'Which.';
comment on column event_matches.run_id is 'The run that it started or reached.';
comment on column event_matches.step is 'The step that took it; empty: it started the run.';
comment on column event_matches.at is 'When.';
