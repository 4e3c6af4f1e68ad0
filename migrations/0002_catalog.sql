-- What is registered: endpoints with their secrets and health, deployments, functions, API keys.

create table endpoints (
  id integer generated always as identity primary key,
  public_id uuid not null,
  ns integer not null,
  name text not null,
  url text not null,
  headers jsonb not null default '{}',
  disabled boolean not null default false,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  constraint endpoints_public_id unique (public_id),
  constraint endpoints_headers_object check (jsonb_typeof(headers) = 'object'),
  constraint endpoints_version check (version > 0)
);
create unique index endpoints_name on endpoints (ns, name) where deleted_at is null;
comment on table endpoints is 'URLs that host functions.';
comment on column endpoints.id is 'The number that other tables use.';
comment on column endpoints.public_id is 'The id that users see.';
comment on column endpoints.ns is 'Its namespace.';
comment on column endpoints.name is 'Unique among the namespace''s endpoints that are not deleted.';
comment on column endpoints.url is 'Where invocations go.';
comment on column endpoints.headers is 'Extra headers of every invocation: an object of strings.';
comment on column endpoints.disabled is 'No invocation is sent while true.';
comment on column endpoints.version is 'Grows with every change; what If-Match compares.';
comment on column endpoints.created_at is 'When it was registered first.';
comment on column endpoints.updated_at is 'When it was changed last.';
comment on column endpoints.deleted_at is 'When it was deleted; the row stays for the runs that were invoked there.';

create table deployments (
  id integer generated always as identity primary key,
  public_id uuid not null,
  ns integer not null,
  endpoint_id integer not null,
  url text not null,
  manifest bytea not null,
  content_hash bytea not null,
  created_at timestamptz not null default now(),
  constraint deployments_public_id unique (public_id),
  constraint deployments_content unique (endpoint_id, content_hash),
  constraint deployments_hash_length check (octet_length(content_hash) = 32)
);
comment on table deployments is 'Immutable registrations of an endpoint: a new one for every new content.';
comment on column deployments.id is 'The number in the journal.';
comment on column deployments.public_id is 'The id that users see.';
comment on column deployments.ns is 'Its namespace.';
comment on column deployments.endpoint_id is 'What it is a registration of.';
comment on column deployments.url is 'The URL at the time.';
comment on column deployments.manifest is 'What the endpoint says it has: a format byte and JSON.';
comment on column deployments.content_hash is 'SHA-256 of URL and manifest.';
comment on column deployments.created_at is 'When it was first seen.';

create table functions (
  id integer generated always as identity primary key,
  ns integer not null,
  name text not null,
  endpoint_id integer,
  dep integer,
  created_at timestamptz not null default now(),
  constraint functions_name unique (ns, name),
  constraint functions_hosted check ((endpoint_id is null) = (dep is null))
);
create index functions_endpoint on functions (endpoint_id);
comment on table functions is 'Functions by name; their runs name them by number for ever.';
comment on column functions.id is 'The number in runs.';
comment on column functions.ns is 'Its namespace.';
comment on column functions.name is 'Unique in the namespace.';
comment on column functions.endpoint_id is 'Who hosts it now; null: nobody.';
comment on column functions.dep is 'The deployment that new runs start on.';
comment on column functions.created_at is 'When it was first registered.';

create table secrets (
  id integer generated always as identity primary key,
  endpoint_id integer not null,
  secret bytea not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null default 'infinity'
);
create index secrets_endpoint on secrets (endpoint_id);
comment on table secrets is 'Signing secrets of endpoints: one that lasts, and during a rotation the one before.';
comment on column secrets.id is 'Newer ones are higher.';
comment on column secrets.endpoint_id is 'Whose requests it signs.';
comment on column secrets.secret is 'A format byte and the text whsec_….';
comment on column secrets.created_at is 'When it was made.';
comment on column secrets.expires_at is 'Signs until then; infinity: the current one.';

create table endpoint_health (
  endpoint_id integer primary key,
  state smallint not null default 0,
  failures integer not null default 0,
  detail text not null default '',
  opened_at timestamptz,
  next_probe_at timestamptz,
  updated_at timestamptz not null default now(),
  constraint endpoint_health_state check (state between 0 and 2),
  constraint endpoint_health_probe check ((state = 0) = (next_probe_at is null))
);
comment on table endpoint_health is 'Circuit breakers: whether an endpoint takes invocations, and who asks it next.';
comment on column endpoint_health.endpoint_id is 'Whose.';
comment on column endpoint_health.state is '0 closed (well), 1 open (nothing is sent), 2 half open (ramping up).';
comment on column endpoint_health.failures is 'Failures in a row.';
comment on column endpoint_health.detail is 'The last failure, in words.';
comment on column endpoint_health.opened_at is 'Since when it is not closed.';
comment on column endpoint_health.next_probe_at is 'When one node may probe; whoever moves it from what it read has the probe.';
comment on column endpoint_health.updated_at is 'When this row changed last.';

create table api_keys (
  id uuid primary key,
  ns integer,
  name text not null,
  hash bytea not null,
  scopes text[] not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null default 'infinity',
  last_used_at timestamptz,
  revoked_at timestamptz,
  constraint api_keys_hash unique (hash),
  constraint api_keys_hash_length check (octet_length(hash) = 32)
);
comment on table api_keys is 'API keys; the keys themselves are nowhere.';
comment on column api_keys.id is 'Public: a part of the key''s text.';
comment on column api_keys.ns is 'The namespace it opens; null: all.';
comment on column api_keys.name is 'For people, and for who did what.';
comment on column api_keys.hash is 'SHA-256 of the key.';
comment on column api_keys.scopes is 'What it may do.';
comment on column api_keys.created_at is 'When it was made.';
comment on column api_keys.expires_at is 'Valid until then.';
comment on column api_keys.last_used_at is 'About when it was used last.';
comment on column api_keys.revoked_at is 'Since when it is not valid any more.';
