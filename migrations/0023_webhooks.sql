-- Webhooks: who is told of what, and what is on its way to them.

create table webhooks (
  id integer generated always as identity primary key,
  public_id uuid not null,
  ns integer not null,
  name text not null,
  url text not null,
  events text[],
  functions text[],
  payloads boolean not null default false,
  headers jsonb not null default '{}',
  retry jsonb not null default '{}',
  secret bytea not null,
  old_secret bytea,
  old_until timestamptz,
  disabled_at timestamptz,
  disabled_by text,
  disabled_reason text,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  constraint webhooks_public_id unique (public_id),
  constraint webhooks_headers_object check (jsonb_typeof(headers) = 'object'),
  constraint webhooks_retry_object check (jsonb_typeof(retry) = 'object'),
  constraint webhooks_old_secret check ((old_secret is null) = (old_until is null)),
  constraint webhooks_disabled check ((disabled_at is null) = (disabled_by is null)),
  constraint webhooks_version check (version > 0)
);
create unique index webhooks_name on webhooks (ns, name) where deleted_at is null;
comment on table webhooks is 'Receivers that are told of what happens in a namespace.';
comment on column webhooks.id is 'The number that deliveries name.';
comment on column webhooks.public_id is 'The id that users see.';
comment on column webhooks.ns is 'Its namespace.';
comment on column webhooks.name is 'Unique among the namespace''s webhooks that are not deleted.';
comment on column webhooks.url is 'Where deliveries are posted.';
comment on column webhooks.events is 'Of which events it is told; null: of all.';
comment on column webhooks.functions is 'Of whose runs it is told; null: of all.';
comment on column webhooks.payloads is 'Whether outputs and errors go with it.';
comment on column webhooks.headers is 'Extra headers of every delivery: an object of strings.';
comment on column webhooks.retry is 'What its policy of attempts says, over the defaults.';
comment on column webhooks.secret is 'The signing secret: a format byte and the text whsec_….';
comment on column webhooks.old_secret is 'The one before, which signs too for a while.';
comment on column webhooks.old_until is 'Until when it does.';
comment on column webhooks.disabled_at is 'Since when nothing is recorded for it or sent; null: it is enabled.';
comment on column webhooks.disabled_by is 'Who disabled it.';
comment on column webhooks.disabled_reason is 'Why.';
comment on column webhooks.version is 'Grows with every change; what If-Match compares.';
comment on column webhooks.created_at is 'When it was created.';
comment on column webhooks.updated_at is 'When it was changed last.';
comment on column webhooks.deleted_at is 'When it was deleted; the row goes after its deliveries.';

create table webhook_deliveries (
  id uuid primary key,
  ns integer not null,
  webhook integer not null,
  queue integer not null,
  run_id uuid,
  url text,
  secret_name text,
  event text not null,
  at timestamptz not null,
  body bytea not null,
  status smallint not null default 0,
  attempts integer not null default 0,
  first_at timestamptz,
  next_at timestamptz,
  last_at timestamptz,
  last_status integer,
  last_detail text,
  settled_at timestamptz,
  constraint webhook_deliveries_body_format check (octet_length(body) > 0),
  constraint webhook_deliveries_status check (status between 0 and 2),
  constraint webhook_deliveries_next check ((status = 0) = (next_at is not null)),
  constraint webhook_deliveries_settled check ((status = 0) = (settled_at is null)),
  constraint webhook_deliveries_whose check ((webhook = 0) = (url is not null))
);
-- What is to be sent, by whom it is for: a receiver that is slow does not hold up the others.
create index webhook_deliveries_due on webhook_deliveries (queue, next_at) where status = 0;
create index webhook_deliveries_list on webhook_deliveries (ns, webhook, id);
create index webhook_deliveries_dead on webhook_deliveries (ns, webhook, id) where status = 2;
create index webhook_deliveries_settled_at on webhook_deliveries (settled_at) where status <> 0;
comment on table webhook_deliveries is 'What receivers are to be told, or were told lately.';
comment on column webhook_deliveries.id is 'What receivers see as webhook-id, the same at every attempt.';
comment on column webhook_deliveries.ns is 'Namespace.';
comment on column webhook_deliveries.webhook is 'Whose; 0: the start of the run asked for it.';
comment on column webhook_deliveries.queue is 'With whom it shares its turns: the webhook, or a negative number made of a host.';
comment on column webhook_deliveries.run_id is 'The run that it is about, if it is about one.';
comment on column webhook_deliveries.url is 'Where it goes; null: where the webhook says.';
comment on column webhook_deliveries.secret_name is 'The secret that signs it; null: that of the webhook, or none.';
comment on column webhook_deliveries.event is 'Of what it tells.';
comment on column webhook_deliveries.at is 'When that happened.';
comment on column webhook_deliveries.body is 'A format byte and the JSON that is sent.';
comment on column webhook_deliveries.status is '0 to be sent, 1 delivered, 2 given up.';
comment on column webhook_deliveries.attempts is 'How often it was sent since it was last begun.';
comment on column webhook_deliveries.first_at is 'When the first of these attempts began.';
comment on column webhook_deliveries.next_at is 'When it is sent, or, while it is, when others may think that its sender is gone.';
comment on column webhook_deliveries.last_at is 'When the last attempt ended.';
comment on column webhook_deliveries.last_status is 'The HTTP status that it was answered with, if it was.';
comment on column webhook_deliveries.last_detail is 'What came of the last attempt, in words.';
comment on column webhook_deliveries.settled_at is 'When it was delivered or given up.';
