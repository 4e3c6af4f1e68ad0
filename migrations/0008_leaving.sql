-- A node that is asked to end says so, so that the others take its share while it still works.

alter table nodes add column leaving boolean not null default false;
comment on column nodes.leaving is 'It hands over what it drives and takes nothing new.';
