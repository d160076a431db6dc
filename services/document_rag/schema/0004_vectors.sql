-- Chunks that programs push, vectors of any dimensions, and what is known of approximate indexes over them.

-- Vectors of several models live side by side: how long one is says the vector itself.
alter table chunks alter column embedding type public.halfvec;
-- Ascends with every write: an approximate index covers a range of it, what came later is compared one by one.
alter table chunks add column number bigint generated always as identity;
create unique index chunks_in_order on chunks (tenant_id, embedding_model, number);

-- Replaced by its program, a chunk gets a new number. There is no foreign key to the collection, for its price a row:
-- a writer holds the collection's row in share instead.
create table pushed_chunks (
    tenant_id        text           not null check (tenant_id <> ''),
    collection_id    uuid           not null,
    chunk_id         text           collate "C" not null,
    number           bigint         generated always as identity,
    body             text           not null,
    metadata         jsonb          not null check (jsonb_typeof(metadata) = 'object'),
    fingerprint      bytea          not null,
    embedding_model  text           not null,
    embedding        public.halfvec not null,
    updated_at       timestamptz    not null default now(),
    primary key (tenant_id, collection_id, chunk_id)
);

alter table pushed_chunks alter column embedding set storage plain;
create unique index pushed_chunks_in_order on pushed_chunks (tenant_id, collection_id, number);

-- Vectors that are compared with one another: those of a model among the documents' chunks, or those of a collection
-- among the pushed ones. Kept by triggers, so that no writer can forget it.
create table vector_spaces (
    tenant_id   text        not null,
    kind        text        not null check (kind in ('documents', 'pushed')),
    key         text        collate "C" not null,
    rows        bigint      not null,
    written_at  timestamptz not null default now(),
    primary key (tenant_id, kind, key)
);

-- An approximate index over a space: of the rows with low < number <= high.
create table vector_segments (
    segment_id  bigint      generated always as identity primary key,
    tenant_id   text        not null,
    kind        text        not null,
    key         text        collate "C" not null,
    dimensions  integer     not null,
    low         bigint      not null,
    high        bigint      not null,
    rows        bigint      not null,
    ready       boolean     not null default false,
    created_at  timestamptz not null default now()
);
create index vector_segments_of_space on vector_segments (tenant_id, kind, key);

-- Chunks whose words are indexed: those with low < number <= high that were there then. The batch stands in `postings` and
-- `document_vocabulary` where a document does; the ordinal of a place there is an index, from 0, into `numbers`.
create table word_batches (
    tenant_id      text     not null,
    collection_id  uuid     not null,
    low            bigint   not null,
    high           bigint   not null,
    batch_id       uuid     not null,
    numbers        bigint[] not null,
    primary key (tenant_id, collection_id, low),
    unique (tenant_id, batch_id)
);

alter table document_vocabulary drop constraint document_vocabulary_tenant_id_document_id_fkey;

create function count_vectors() returns trigger language plpgsql as $$
declare
    kind text := case tg_table_name when 'chunks' then 'documents' else 'pushed' end;
    key  text := case tg_table_name when 'chunks' then 'embedding_model' else 'collection_id::text' end;
    changes text;
begin
    changes := case tg_op
        when 'INSERT' then format('select tenant_id, %s, count(*) from appeared group by 1, 2', key)
        when 'DELETE' then format('select tenant_id, %s, -count(*) from vanished group by 1, 2', key)
        else format('select tenant_id, %1$s, count(*) from appeared group by 1, 2 union all'
                    ' select tenant_id, %1$s, -count(*) from vanished group by 1, 2', key)
    end;
    execute format(
        'insert into vector_spaces as known (tenant_id, kind, key, rows)'
        ' select tenant_id, %L, key, sum(rows) from (%s) as change (tenant_id, key, rows)'
        ' group by tenant_id, key order by tenant_id, key'
        ' on conflict on constraint vector_spaces_pkey'
        ' do update set rows = known.rows + excluded.rows, written_at = clock_timestamp()', kind, changes);
    return null;
end
$$;

do $$
declare
    name text;
begin
    foreach name in array array['chunks', 'pushed_chunks']
    loop
        execute format('create trigger vectors_appeared after insert on %I referencing new table as appeared'
                       ' for each statement execute function count_vectors()', name);
        execute format('create trigger vectors_vanished after delete on %I referencing old table as vanished'
                       ' for each statement execute function count_vectors()', name);
        execute format('create trigger vectors_changed after update on %I'
                       ' referencing new table as appeared old table as vanished'
                       ' for each statement execute function count_vectors()', name);
    end loop;
    foreach name in array array['pushed_chunks', 'vector_spaces', 'vector_segments', 'word_batches']
    loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format(
            'create policy own_tenant on %I'
            ' using (tenant_id = (select nullif(current_setting(''app.tenant'', true), '''')))'
            ' with check (tenant_id = (select nullif(current_setting(''app.tenant'', true), '''')))', name);
        execute format(
            'create policy library_is_read_by_all on %I for select'
            ' using (tenant_id = ''~library'' and (select current_setting(''app.tenant'', true) <> ''''))', name);
    end loop;
    -- Keeping the indexes is work across tenants.
    foreach name in array array['vector_spaces', 'vector_segments']
    loop
        execute format('create policy kept_by_the_service on %I'
                       ' using ((select current_setting(''app.tenant'', true)) = ''*'')'
                       ' with check ((select current_setting(''app.tenant'', true)) = ''*'')', name);
    end loop;
end
$$;
