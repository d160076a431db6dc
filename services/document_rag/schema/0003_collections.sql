-- Collections, what a document carries to be filtered by, and the library that every tenant reads.

-- A row with deleted_at is a tombstone: its name is free again, its request_id is not.
create table collections (
    tenant_id        text        not null check (tenant_id <> ''),
    collection_id    uuid        not null,
    display_name     text        not null,
    description      text        not null,
    embedding_model  text        not null default '',
    dimensions       integer     not null default 0 check (dimensions between 0 and 4096),
    request_id       text,
    fingerprint      bytea       not null,
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now(),
    deleted_at       timestamptz,
    primary key (tenant_id, collection_id)
);

create unique index collections_name on collections (tenant_id, display_name) where deleted_at is null;
create unique index collections_request on collections (tenant_id, request_id) where request_id is not null;

alter table documents add column collection_id uuid;
alter table documents add column metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object');
-- ISO 639-1: whose stems the document's words were reduced to.
alter table documents add column language text not null default 'pt' check (language ~ '^[a-z]{2,3}$');
alter table documents add foreign key (tenant_id, collection_id) references collections;

create index documents_of_collection on documents (tenant_id, collection_id)
    where deleted_at is null and collection_id is not null;

alter table collections enable row level security;
alter table collections force row level security;
create policy own_tenant on collections
    using (tenant_id = (select nullif(current_setting('app.tenant', true), '')))
    with check (tenant_id = (select nullif(current_setting('app.tenant', true), '')));

-- Every tenant reads the global library (model.GLOBAL_LIBRARY; no tenant can have this id); who writes it must be it.
-- What may be read is one list and not two alternatives: of an "or" the planner makes a scan of all the tenant's rows.
-- It stands in a subquery to be made once a statement and not once a row.
create function libraries_in_reach() returns text[] language sql stable parallel safe as $$
    select case when current_setting('app.tenant', true) <> ''
                then array[current_setting('app.tenant', true), '~library'] else array[]::text[] end
$$;

do $$
declare
    name text;
begin
    foreach name in array array['collections', 'documents', 'chunks', 'postings', 'terms', 'words', 'word_trigrams',
                                'totals']
    loop
        execute format('drop policy own_tenant on %I', name);
        execute format('create policy read_in_reach on %I for select'
                       ' using (tenant_id = any ((select libraries_in_reach())::text[]))', name);
        execute format('create policy added_by_owner on %I for insert'
                       ' with check (tenant_id = (select nullif(current_setting(''app.tenant'', true), '''')))', name);
        execute format('create policy changed_by_owner on %I for update'
                       ' using (tenant_id = (select nullif(current_setting(''app.tenant'', true), '''')))'
                       ' with check (tenant_id = (select nullif(current_setting(''app.tenant'', true), '''')))', name);
        execute format('create policy removed_by_owner on %I for delete'
                       ' using (tenant_id = (select nullif(current_setting(''app.tenant'', true), '''')))', name);
    end loop;
end
$$;
