-- What assistants read and how they answer, and the teams they work in.

alter table assistants
    add column collection_ids  text[]  not null default '{}',
    add column description     text    not null default '',
    add column keywords        text[]  not null default '{}',
    add column search_mode     text    not null default 'hybrid' check (search_mode in ('hybrid', 'vector', 'keyword')),
    add column history_tokens  integer check (history_tokens >= 0),
    add column verify_answers  boolean not null default true;

-- Members and leader are assistants of the tenant when they are named; one that is deleted later stays named here.
create table teams (
    tenant_id          text        not null check (tenant_id <> ''),
    team_id            uuid        not null,
    display_name       text        not null,
    description        text        not null,
    leader_id          text        not null,
    member_ids         text[]      not null check (cardinality(member_ids) > 0),
    strategy           text        not null check (strategy in ('route', 'coordinate', 'sequence')),
    route_threshold    double precision,
    on_member_failure  text        not null check (on_member_failure in ('go_on', 'fail')),
    request_id         text,
    fingerprint        bytea       not null,
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),
    deleted_at         timestamptz,
    primary key (tenant_id, team_id)
);

create unique index teams_request on teams (tenant_id, request_id) where request_id is not null;
create index teams_newest on teams (tenant_id, created_at desc, team_id desc) where deleted_at is null;

alter table teams enable row level security;
alter table teams force row level security;
create policy teams_of_tenant on teams
    using (tenant_id = nullif(current_setting('app.tenant', true), ''))
    with check (tenant_id = nullif(current_setting('app.tenant', true), ''));
