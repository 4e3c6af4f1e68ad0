-- What people make of a kind of error: it is resolved until it comes back, or ignored.

alter table errors
  add column state smallint not null default 0,
  add column state_at timestamptz,
  add column state_by text,
  add column reason text,
  add column returned_at timestamptz,
  add constraint errors_state check (state in (0, 1, 2));
comment on table errors is 'Kinds of errors. Written with the first run that ends or pauses by one, by acts of people, and once when one comes back that was resolved.';
comment on column errors.state is '0 open, 1 resolved, 2 ignored.';
comment on column errors.state_at is 'Since when it is resolved or ignored; of an open one that has come back: when it was resolved; null: nobody did anything.';
comment on column errors.state_by is 'Who did that.';
comment on column errors.reason is 'Why.';
comment on column errors.returned_at is 'When a run failed or paused by it again after it was resolved; null: none has.';
