-- Between runs and over generations: what is put off, whose child a run is, where a generation begins.

alter table outbox add column due timestamptz;
comment on column outbox.due is 'Not to be tried before; null: at once.';

alter table inbox add column generation integer;
comment on column inbox.generation is 'For a callback: the generation whose step it is about; null: any.';

alter table run_active add column gen_n integer not null default 0;
comment on column run_active.gen_n is 'Where the journal of its generation begins; base_n is there or later.';
alter table run_done add column gen_n integer not null default 0;
comment on column run_done.gen_n is 'Where the journal of its last generation begins.';

-- Not on run_active, which has six indexes: who asks for the live children of a run walks the list.
create index run_done_parent on run_done (ns, parent, run_id) where parent is not null;

alter table logs add column stream text;
comment on column logs.stream is 'The output stream that this is a chunk of, with the data in `fields`; null: a line.';
