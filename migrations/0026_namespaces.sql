-- What a namespace may have and do, as its operators set it.

alter table namespaces
  add column settings jsonb not null default '{}',
  add column version integer not null default 1,
  add column updated_at timestamptz not null default now(),
  add constraint namespaces_settings_object check (jsonb_typeof(settings) = 'object'),
  add constraint namespaces_version check (version > 0);
comment on column namespaces.settings is 'Quotas and the hosts of handlers: an object; what is not in it is not limited.';
comment on column namespaces.version is 'Grows with every change; what If-Match compares.';
comment on column namespaces.updated_at is 'When it was changed last.';
