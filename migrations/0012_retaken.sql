-- Steps that were taken back are left out of journals as they are read.

create index journal_retaken on journal (shard, run_id, n) where kind = 16;
create index journal_long_retaken on journal_long (shard, run_id, n) where kind = 16;
