-- Who did what through the API.

create table audit (
  ns integer not null,
  id uuid not null,
  at timestamptz not null,
  by text not null,
  peer text,
  forwarded_for text,
  action text not null,
  target text not null,
  reason text,
  request_id text not null,
  status smallint,
  code text,
  constraint audit_pkey primary key (ns, id)
);
create index audit_by on audit (ns, by, id);
comment on table audit is 'Changes that people and programs made through the API; a row is there before its change.';
comment on column audit.ns is 'The namespace of who did it.';
comment on column audit.id is 'The id that users see; it grows with time.';
comment on column audit.at is 'When it was asked for.';
comment on column audit.by is 'Who: the name of an API key, the subject of a JWT, or local.';
comment on column audit.peer is 'The address that the request came from.';
comment on column audit.forwarded_for is 'What it says of where it came from before that; nobody has checked it.';
comment on column audit.action is 'The method and the path of the operation, as the reference has them.';
comment on column audit.target is 'The path as it was asked for.';
comment on column audit.reason is 'Why, if they said.';
comment on column audit.request_id is 'The id of the request, as in logs and answers.';
comment on column audit.status is 'The HTTP status of the answer; null: nobody knows what came of it.';
comment on column audit.code is 'The code of the problem that it was answered with, if it was.';
