-- Ingestion: how far a document is, who works on it, which versions it has, and vectors that are never bought twice.

-- Titles are compared without case and accents, by the same letters whatever the database's locale.
create function folded_title(title text) returns text language sql immutable parallel safe
    return lower(translate(normalize(title, nfc),
                           'ÁÀÂÃÄáàâãäÉÈÊËéèêëÍÌÎÏíìîïÓÒÔÕÖóòôõöÚÙÛÜúùûüÇçÑñ',
                           'aaaaaaaaaaeeeeeeeeiiiiiiiioooooooooouuuuuuuuccnn'));

alter table documents drop constraint documents_chunk_count_check;
alter table documents drop constraint documents_char_count_check;
alter table documents add constraint documents_counts_check check (chunk_count >= 0 and char_count >= 0);

-- pending: the job says how far it is. skipped: its text is that of related_document_id.
alter table documents add column state text not null default 'ready'
    check (state in ('pending', 'ready', 'failed', 'skipped'));
-- True for what search sees. What it does not see has no row in chunks, postings and the statistics.
alter table documents add column is_current boolean not null default true;
alter table documents add column superseded boolean not null default false;
alter table documents add column source text not null default '';
-- The first version has none: it is the origin itself.
alter table documents add column origin_id uuid;
alter table documents add column previous_version_id uuid;
-- What the uploader called it; "": the title is the file's own.
alter table documents add column given_title text not null default '';
alter table documents add column text_sha256 bytea check (length(text_sha256) = 32);
alter table documents add column verdict text not null default 'new'
    check (verdict in ('new', 'duplicate_of', 'new_version_of', 'suspected'));
alter table documents add column related_document_id uuid;
-- Kept although the same is there: it takes no part in the convergence of equal bytes.
alter table documents add column kept_beside boolean not null default false;
alter table documents add column title_similarity double precision not null default 0;
alter table documents add column ready_at timestamptz;
alter table documents add column empty_page_count integer not null default 0 check (empty_page_count >= 0);
alter table documents add column title_trigrams integer not null
    generated always as (cardinality(public.show_trgm(folded_title(title)))) stored;
alter table documents alter column state set default 'pending';
alter table documents alter column is_current set default false;
alter table documents add check (not is_current or (state = 'ready' and not superseded and deleted_at is null));

-- Concurrent uploads of the same bytes converge on one document, and of one origin each version is there once.
drop index documents_same_bytes;
create unique index documents_same_bytes on documents (tenant_id, sha256)
    where deleted_at is null and not superseded and not kept_beside and state in ('pending', 'ready');
create unique index documents_versions on documents (tenant_id, (coalesce(origin_id, document_id)), version);

create index documents_by_text on documents (tenant_id, text_sha256)
    where deleted_at is null and not superseded and state in ('pending', 'ready');
create index documents_by_source on documents (tenant_id, source, document_id)
    where deleted_at is null and source <> '';
create index documents_by_title on documents (tenant_id, title_trigrams)
    where deleted_at is null and not superseded and state in ('pending', 'ready');
create index documents_by_model on documents (embedding_model) where is_current;
create index documents_skipped on documents (created_at) where state = 'skipped' and deleted_at is null;


alter table upload_requests drop constraint upload_requests_verdict_check;
alter table upload_requests add column kept boolean not null default true;
alter table upload_requests add column title_similarity double precision not null default 0;

-- What is to be done about a document. A worker holds it by a lease; `attempt` fences: a worker that was given up can
-- write nothing any more. A job that is done stays as the document's record.
create table ingestion_jobs (
    tenant_id      text        not null,
    document_id    uuid        not null,
    -- ingest: for the first time. reread: from the original again. reembed: new vectors for the chunks as they are.
    kind           text        not null check (kind in ('ingest', 'reread', 'reembed')),
    policy         text        not null default 'skip' check (policy in ('skip', 'replace', 'keep_both', 'ask')),
    -- A client waits for the answer: what cannot be read is told to it and not kept.
    is_awaited     boolean     not null default false,
    stage          text        not null default 'queued'
                   check (stage in ('queued', 'extracting', 'chunking', 'embedding', 'indexing')),
    done           bigint      not null default 0,
    total          bigint      not null default 0,
    attempt        integer     not null default 0,
    failures       integer     not null default 0,
    crashes        integer     not null default 0,
    -- Jobs of one tenant take turns a second apart, so that another tenant's one job goes before most of a thousand.
    turn           timestamptz not null default now(),
    run_after      timestamptz not null default now(),
    lease_until    timestamptz,
    error_stage    text,
    error_reason   text,
    error_message  text,
    error_at       timestamptz,
    -- ready, failed, skipped; rejected: could not be read, and was not kept.
    outcome        text        check (outcome in ('ready', 'failed', 'skipped', 'rejected')),
    finished_at    timestamptz,
    primary key (tenant_id, document_id),
    foreign key (tenant_id, document_id) references documents,
    check ((outcome is null) = (finished_at is null))
);

create index ingestion_jobs_due on ingestion_jobs (turn) where finished_at is null;
create index ingestion_jobs_of_tenant on ingestion_jobs (tenant_id, turn) where finished_at is null;
create index ingestion_jobs_ended on ingestion_jobs (finished_at) where finished_at is not null;

-- Vectors by the text they are of. Per tenant: nobody can learn from it what another tenant has.
create table embedding_cache (
    tenant_id        text           not null,
    embedding_model  text           not null,
    text_sha256      bytea          not null check (length(text_sha256) = 32),
    embedding        public.halfvec not null,
    used_on          date           not null default current_date,
    primary key (tenant_id, embedding_model, text_sha256)
);

create index embedding_cache_by_age on embedding_cache (used_on);

-- The models that replicas were started with; the one declared last is what all vectors are to be of.
create table embedding_targets (
    embedding_model  text        primary key,
    declared_at      timestamptz not null default now()
);

alter table ingestion_jobs enable row level security;
alter table ingestion_jobs force row level security;
create policy own_tenant on ingestion_jobs
    using (tenant_id = (select nullif(current_setting('app.tenant', true), '')))
    with check (tenant_id = (select nullif(current_setting('app.tenant', true), '')));
create policy library_is_read_by_all on ingestion_jobs for select
    using (tenant_id = '~library' and (select current_setting('app.tenant', true) <> ''));
alter table embedding_cache enable row level security;
alter table embedding_cache force row level security;
create policy own_tenant on embedding_cache
    using (tenant_id = (select nullif(current_setting('app.tenant', true), '')))
    with check (tenant_id = (select nullif(current_setting('app.tenant', true), '')));
alter table embedding_targets enable row level security;
alter table embedding_targets force row level security;
create policy of_the_deployment on embedding_targets using (true) with check (true);

-- Workers serve all tenants: they find and lease jobs, and sweep, across them; a document's content they read and
-- write as its tenant.
create policy workers_see_jobs on ingestion_jobs for select using (current_setting('app.tenant', true) = '*');
create policy workers_lease_jobs on ingestion_jobs for update using (current_setting('app.tenant', true) = '*');
create policy workers_sweep_jobs on ingestion_jobs for delete using (current_setting('app.tenant', true) = '*');
create policy workers_add_jobs on ingestion_jobs for insert with check (current_setting('app.tenant', true) = '*');
create policy workers_see_documents on documents for select using (current_setting('app.tenant', true) = '*');
create policy workers_see_cache on embedding_cache for select using (current_setting('app.tenant', true) = '*');
create policy workers_forget_cache on embedding_cache for delete using (current_setting('app.tenant', true) = '*');

-- Chunks are copied into a temporary table first.
do $$
begin
    execute format('grant temporary on database %I to prosa_document_rag', current_database());
end
$$;
