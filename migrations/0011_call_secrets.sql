-- Secrets that calls are made with: named in a run's op, never in its journal.

create table call_secrets (
  ns integer not null,
  name text not null,
  value bytea not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint call_secrets_pkey primary key (ns, name)
);
comment on table call_secrets is 'Secrets that the gateway puts into the headers of calls; written and used, never shown.';
comment on column call_secrets.ns is 'The namespace whose runs may use it.';
comment on column call_secrets.name is 'How ops refer to it.';
comment on column call_secrets.value is 'A format byte and the value.';
comment on column call_secrets.created_at is 'When it was first set.';
comment on column call_secrets.updated_at is 'When it was set last.';
