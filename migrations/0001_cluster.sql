-- Who takes part: the cluster's one row, its nodes, the leases of shard groups, the namespaces.

create table cluster (
  one boolean primary key default true,
  level smallint not null default 1,
  secret bytea not null,
  config_version bigint not null default 1,
  created_at timestamptz not null default now(),
  constraint cluster_one_row check (one),
  constraint cluster_level_positive check (level > 0),
  constraint cluster_secret_length check (octet_length(secret) = 32)
);
comment on table cluster is 'One row: what all nodes of this database share.';
comment on column cluster.one is 'Always true: the key that allows one row.';
comment on column cluster.level is 'The level of formats and codes that every node speaks; it only grows.';
comment on column cluster.secret is 'Root of tokens and callback addresses: 32 bytes of chance, made here once.';
comment on column cluster.config_version is 'Grows with every change of the catalog, so that nodes know when to read it again.';
comment on column cluster.created_at is 'When the schema was made.';
-- gen_random_uuid is the strong source of chance that needs no extension; 122 random bits each.
insert into cluster (secret)
  select sha256(string_agg(uuid_send(gen_random_uuid()), '')) from generate_series(1, 4);

create table nodes (
  id uuid primary key,
  address text not null,
  level smallint not null,
  started_at timestamptz not null default now(),
  lease_until timestamptz not null
);
comment on table nodes is 'The processes that take part; a row is one start of one process.';
comment on column nodes.id is 'New at each start.';
comment on column nodes.address is 'Where the other nodes reach it: http://host:port.';
comment on column nodes.level is 'The highest level that this process speaks.';
comment on column nodes.started_at is 'When it joined.';
comment on column nodes.lease_until is 'Past this moment, by this database''s clock, it may be reaped.';

create table lease_groups (
  grp smallint primary key,
  owner uuid,
  term bigint not null default 0,
  claimed_at timestamptz,
  constraint lease_groups_256 check (grp between 0 and 255),
  constraint lease_groups_term check (term >= 0)
);
comment on table lease_groups is '256 groups of 16 shards; each is driven by one node at a time.';
comment on column lease_groups.grp is 'The shard''s upper eight bits.';
comment on column lease_groups.owner is 'The node that drives it. No foreign key: a reaped node''s groups are simply free.';
comment on column lease_groups.term is 'Grows with every claim.';
comment on column lease_groups.claimed_at is 'When it was claimed last.';
insert into lease_groups (grp) select generate_series(0, 255);

create table namespaces (
  id integer generated always as identity primary key,
  name text not null,
  created_at timestamptz not null default now(),
  constraint namespaces_name unique (name),
  constraint namespaces_name_form check (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$')
);
comment on table namespaces is 'Tenants: every run, key and endpoint belongs to one.';
comment on column namespaces.id is 'The number in every other table.';
comment on column namespaces.name is 'As users write it.';
comment on column namespaces.created_at is 'When it was made.';
insert into namespaces (name) values ('default');

create function shard_of(run_id uuid) returns smallint
  language sql immutable strict parallel safe
  return ((('x' || substr(run_id::text, 20, 4))::bit(16)::integer & 16383) >> 2)::smallint;
comment on function shard_of(uuid) is 'The shard that a run id carries in the top twelve bits of rand_b.';
