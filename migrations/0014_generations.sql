-- Runs that continue as new: what is left of generations that are over.

create table past_generations (
  run_id uuid not null,
  at timestamptz not null,
  n integer not null,
  shard smallint not null,
  constraint past_generations_pkey primary key (shard, run_id, n)
);
create index past_generations_at on past_generations (at);
comment on table past_generations is 'Generations that are over and whose rows are in journal_long still: they go some time later.';
comment on column past_generations.run_id is 'Of which run.';
comment on column past_generations.at is 'Since when they are over.';
comment on column past_generations.n is 'The first position of the generation that followed.';
comment on column past_generations.shard is 'First part of every key.';
