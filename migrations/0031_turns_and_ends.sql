-- Runs that wait at a limit with `fair`: the values at its path take turns.

alter table permits add column fair text, add column turn bigint not null default 0;
comment on column permits.fair is 'The value at the path of the limit''s fair; null: the limit has none.';
comment on column permits.turn is 'Lower goes first among runs of one priority; those that wait of one value have different ones; 0: the limit has no fair.';

-- Small tables: who waits at limits now.
drop index permits_queue;
create index permits_queue on permits (owner_kind, owner_id, rule, key, priority desc, turn, born, place) where slot is null;
create index permits_turns on permits (owner_kind, owner_id, rule, key, fair, priority, turn) where slot is null and fair is not null;
create index permits_ages on permits (owner_kind, owner_id, rule, key, fair, priority, born, place) where slot is null and fair is not null;
comment on column permits.priority is 'Higher goes first; then the lower turn; then the older run; then who came first.';

-- Runs in the order of their ends. No table has more than six indexes: keys, which have no order of
-- their own, are found by the index over all of a run that few share.
drop index run_done_tags;
drop index run_done_key;
create index run_done_found on run_done using gin (tags jsonb_path_ops, (array_remove(array[key], null)))
 where tags is not null or key is not null;
create index run_done_end on run_done (ns, ended_at, run_id);
