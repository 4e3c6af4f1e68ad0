-- Messages on their way: to runs (inbox) and from them (outbox). Both are empty when all is idle.

create table inbox (
  run_id uuid not null,
  msg_id uuid not null,
  at timestamptz not null,
  pos integer not null,
  ns integer not null,
  shard smallint not null,
  kind smallint not null,
  name text not null,
  body bytea,
  constraint inbox_pkey primary key (shard, run_id, pos),
  constraint inbox_message unique (shard, run_id, msg_id),
  constraint inbox_pos check (pos > 0),
  constraint inbox_body_format check (octet_length(body) > 0)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
comment on table inbox is 'Accepted messages that no journal row has taken yet.';
comment on column inbox.run_id is 'To whom.';
comment on column inbox.msg_id is 'Its identity: a repeat has the same.';
comment on column inbox.at is 'When it was accepted.';
comment on column inbox.pos is 'Arrival number at the run, in the order of commits.';
comment on column inbox.ns is 'Namespace.';
comment on column inbox.shard is 'First part of every key.';
comment on column inbox.kind is 'What it is; codes are for ever.';
comment on column inbox.name is 'Signal name or step id; empty for operators'' acts.';
comment on column inbox.body is 'A format byte and the payload.';

create table outbox (
  run_id uuid not null,
  at timestamptz not null,
  to_run uuid,
  n integer not null,
  ns integer not null,
  k smallint not null,
  shard smallint not null,
  kind smallint not null,
  body bytea,
  constraint outbox_pkey primary key (shard, run_id, n, k),
  constraint outbox_body_format check (octet_length(body) > 0)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
comment on table outbox is 'What a run has to say to others and has not said yet.';
comment on column outbox.run_id is 'From whom.';
comment on column outbox.at is 'Since when.';
comment on column outbox.to_run is 'To whom, if it is a run.';
comment on column outbox.n is 'The journal row that said it; run, n and k are the message''s identity.';
comment on column outbox.ns is 'Namespace.';
comment on column outbox.k is 'Which one of that row.';
comment on column outbox.shard is 'First part of every key.';
comment on column outbox.kind is 'What it is; codes are for ever.';
comment on column outbox.body is 'A format byte and the payload.';
