-- Assistants, and the turns in which they answer.

create table assistants (
    tenant_id          text        not null check (tenant_id <> ''),
    assistant_id       uuid        not null,
    display_name       text        not null,
    instructions       text        not null,
    model              text        not null,
    top_k              integer     not null,
    temperature        double precision,
    max_output_tokens  integer     not null,
    document_ids       text[]      not null,
    request_id         text,
    fingerprint        bytea       not null,
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),
    deleted_at         timestamptz,
    primary key (tenant_id, assistant_id)
);

create unique index assistants_request on assistants (tenant_id, request_id) where request_id is not null;
create index assistants_newest on assistants (tenant_id, created_at desc, assistant_id desc) where deleted_at is null;

-- One row per request_id of Ask. A running turn whose lease has ended was abandoned by its process and may be taken
-- over; `attempt` fences the process that lost it.
create table turns (
    tenant_id        text        not null check (tenant_id <> ''),
    user_id          text        not null,
    request_id       text        not null,
    fingerprint      bytea       not null,
    conversation_id  text        not null,
    state            text        not null check (state in ('running', 'failed', 'done')),
    attempt          integer     not null,
    answer_seq       bigint,
    lease_until      timestamptz not null,
    created_at       timestamptz not null default now(),
    primary key (tenant_id, user_id, request_id)
);

create index turns_by_age on turns (created_at);

alter table assistants enable row level security;
alter table assistants force row level security;
create policy assistants_of_tenant on assistants
    using (tenant_id = nullif(current_setting('app.tenant', true), ''))
    with check (tenant_id = nullif(current_setting('app.tenant', true), ''));

alter table turns enable row level security;
alter table turns force row level security;
create policy turns_of_tenant on turns
    using (tenant_id = nullif(current_setting('app.tenant', true), ''))
    with check (tenant_id = nullif(current_setting('app.tenant', true), ''));
-- Forgetting old turns is the one piece of work that crosses tenants.
create policy turns_forgotten on turns for delete using (current_setting('app.tenant', true) = '*');
create policy turns_seen_by_forgetting on turns for select using (current_setting('app.tenant', true) = '*');
