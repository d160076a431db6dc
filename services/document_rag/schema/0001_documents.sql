-- Documents, their chunks, and the two indexes over the chunks: vectors, and words ranked by BM25.
-- Every table starts with the tenant, in its key and in its row-level-security policy.

create extension if not exists vector with schema public;
create extension if not exists pg_trgm with schema public;

-- A row with deleted_at is a tombstone: everything else about the document is gone.
create table documents (
    tenant_id        text        not null check (tenant_id <> ''),
    document_id      uuid        not null,
    title            text        not null,
    filename         text        not null,
    mime_type        text        not null,
    size_bytes       bigint      not null check (size_bytes > 0),
    sha256           bytea       not null check (length(sha256) = 32),
    version          integer     not null default 1 check (version >= 1),
    page_count       integer     not null check (page_count >= 0),
    chunk_count      integer     not null check (chunk_count > 0),
    token_count      bigint      not null check (token_count >= 0),
    char_count       bigint      not null check (char_count > 0),
    embedding_model  text        not null,
    created_at       timestamptz not null default now(),
    deleted_at       timestamptz,
    primary key (tenant_id, document_id)
);

-- Concurrent uploads of the same bytes converge on one document.
create unique index documents_same_bytes on documents (tenant_id, sha256) where deleted_at is null;

-- What a request_id led to, so that a retry gets the same answer.
create table upload_requests (
    tenant_id    text        not null,
    request_id   text        not null,
    fingerprint  bytea       not null,
    document_id  uuid        not null,
    verdict      text        not null check (verdict in ('new', 'duplicate_of')),
    answered_at  timestamptz not null default now(),
    primary key (tenant_id, request_id),
    foreign key (tenant_id, document_id) references documents
);

create table chunks (
    tenant_id        text           not null,
    document_id      uuid           not null,
    ordinal          integer        not null check (ordinal >= 0),
    chunk_id         uuid           not null,
    page             integer        not null check (page >= 0),
    char_start       bigint         not null check (char_start >= 0),
    char_end         bigint         not null check (char_end > char_start),
    section          text           not null,
    body             text           not null,
    tokens           integer        not null,
    embedding_model  text           not null,
    embedding        public.halfvec(1536) not null,
    primary key (tenant_id, document_id, ordinal),
    foreign key (tenant_id, document_id) references documents
);

-- 3 KB vectors would go to TOAST and cost the exact scan a second look-up each.
alter table chunks alter column embedding set storage plain;

-- One row a document and term: in which of its chunks, how often there, and how long those chunks are in terms.
create table postings (
    tenant_id    text      not null,
    term         text      collate "C" not null,
    document_id  uuid      not null,
    ordinals     integer[] not null,
    counts       integer[] not null,
    lengths      integer[] not null,
    primary key (tenant_id, term, document_id)
);

-- In how many chunks of the tenant a term stands. A term is a Portuguese stem, accents folded.
create table terms (
    tenant_id  text    not null,
    term       text    collate "C" not null,
    chunks     integer not null check (chunks >= 0),
    primary key (tenant_id, term)
);

-- The words as the documents spell them, accents folded, and the terms they stem to.
create table words (
    tenant_id  text    not null,
    word       text    collate "C" not null,
    term       text    collate "C" not null,
    chunks     integer not null check (chunks >= 0),
    primary key (tenant_id, word, term)
);

-- Trigrams of the words, for the correction of misspelt ones. A pg_trgm index cannot serve here: its operators are
-- not leakproof, so row-level security keeps the planner from using it.
create table word_trigrams (
    tenant_id  text    not null,
    trigram    text    collate "C" not null,
    word       text    collate "C" not null,
    size       integer not null,
    primary key (tenant_id, trigram, word) include (size)
);

create table totals (
    tenant_id  text   primary key,
    chunks     bigint not null check (chunks >= 0),
    terms      bigint not null check (terms >= 0)
);

-- What a document added to the statistics, so that its deletion takes away exactly that.
create table document_vocabulary (
    tenant_id    text      not null,
    document_id  uuid      not null,
    terms        text[]    not null,
    term_chunks  integer[] not null,
    words        text[]    not null,
    word_terms   text[]    not null,
    word_chunks  integer[] not null,
    chunk_total  integer   not null,
    term_total   bigint    not null,
    primary key (tenant_id, document_id),
    foreign key (tenant_id, document_id) references documents
);

do $$
declare
    name text;
begin
    foreach name in array array['documents', 'upload_requests', 'chunks', 'postings', 'terms', 'words',
                                'word_trigrams', 'totals', 'document_vocabulary']
    loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format(
            'create policy own_tenant on %I using (tenant_id = nullif(current_setting(''app.tenant'', true), ''''))'
            ' with check (tenant_id = nullif(current_setting(''app.tenant'', true), ''''))', name);
    end loop;
end
$$;
