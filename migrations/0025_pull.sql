-- Endpoints whose handlers fetch their work.

comment on column endpoints.url is 'Where invocations go; `pull:` where the handler fetches them.';
comment on column deployments.url is 'The URL at the time; `pull:` where the handler fetches its work.';
