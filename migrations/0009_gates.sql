-- The circuit of an endpoint is the cluster's: who has its probe. Runs that it keeps back leave memory.

alter table endpoint_health add column probe_by uuid;
comment on column endpoint_health.probe_by is 'The node whose probe is out; null, or no member any more: nobody''s is.';
comment on column endpoint_health.failures is 'Probes that failed since it opened: the wait for the next one doubles with each.';

-- Built at once: before this version no run has a gate.
create index run_active_gate on run_active ((shard >> 4), gate, run_id) where gate is not null;
comment on column run_active.gate is 'What keeps it from being driven while it is out of memory: the number of an endpoint that is unhealthy or disabled, or minus the number of a function that nobody hosts; null: nothing.';
