-- Conversations, what is said in them, and what happens to them.
--
-- Row-level security binds every table: a transaction sees the tenant named by app.tenant and nothing else. '*' lets the
-- feed of all tenants, upkeep and backups read; it never writes. message_terms alone does not force it on its owner, for
-- the search function's sake (0003).
--
-- Texts that clients chose are JSON (`facts`, `said`, `changed`, `state`), where U+0000 is six harmless characters; in
-- columns they are escaped by the engine.

-- `facts` is the conversation as the last act left it; what an append changes is in columns of its own.
CREATE TABLE conversations (
    tenant_id          text COLLATE "C" NOT NULL,
    conversation_id    text COLLATE "C" NOT NULL,
    user_id            text COLLATE "C" NOT NULL,
    assistant_id       text COLLATE "C" NOT NULL,
    team_id            text COLLATE "C" NOT NULL,
    status             text COLLATE "C" NOT NULL,
    closed             boolean NOT NULL,
    facts              text NOT NULL,
    create_time        timestamptz NOT NULL,
    last_activity_time timestamptz NOT NULL,
    ttl_seconds        bigint NOT NULL,
    expire_time        timestamptz,
    purge_time         timestamptz,
    leave_time         timestamptz GENERATED ALWAYS AS (least(expire_time, purge_time)) STORED,
    revision           bigint NOT NULL DEFAULT 0,
    first_seq          bigint NOT NULL DEFAULT 1,
    last_seq           bigint NOT NULL DEFAULT 0,
    -- input, cached input, output, reasoning, cost, responses, response milliseconds
    sums               bigint[] NOT NULL DEFAULT '{0,0,0,0,0,0,0}',
    preview            text NOT NULL DEFAULT '',
    slot               integer NOT NULL,
    request_id         text COLLATE "C" NOT NULL,
    fingerprint        text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, conversation_id)
) WITH (fillfactor = 80);
CREATE INDEX conversations_of_user ON conversations (tenant_id, user_id, last_activity_time, conversation_id);
CREATE INDEX conversations_of_tenant ON conversations (tenant_id, last_activity_time, conversation_id);
CREATE INDEX conversations_leaving ON conversations (leave_time) WHERE leave_time IS NOT NULL;

-- `said` is the draft as it was appended, `changed` the message as it is now once something was done to it. `first_seq`
-- is the place of the append that it came with; `bodies` the texts apart that it ever had.
CREATE TABLE messages (
    tenant_id       text COLLATE "C" NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    seq             bigint NOT NULL,
    message_id      text COLLATE "C" NOT NULL,
    first_seq       bigint NOT NULL,
    create_time     timestamptz NOT NULL,
    size            integer NOT NULL,
    said            text NOT NULL,
    changed         text,
    bodies          text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, conversation_id, seq),
    -- This way round, so that no plan takes it for walking through a conversation.
    CONSTRAINT messages_message_id_key UNIQUE (message_id, conversation_id, tenant_id)
) WITH (fillfactor = 95);

-- Who else than the conversation's user has said something in it, so that it can be found and forgotten. seq 0: has done
-- something to it.
CREATE TABLE guests (
    tenant_id       text COLLATE "C" NOT NULL,
    user_id         text COLLATE "C" NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    seq             bigint NOT NULL,
    PRIMARY KEY (tenant_id, user_id, conversation_id, seq)
);

CREATE TABLE bodies (
    tenant_id       text COLLATE "C" NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    sha256          text COLLATE "C" NOT NULL,
    content         bytea STORAGE EXTERNAL NOT NULL, -- uncompressed, so that a piece can be read without the rest
    PRIMARY KEY (tenant_id, conversation_id, sha256)
);

CREATE TABLE entries (
    tenant_id       text COLLATE "C" NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    kind            text COLLATE "C" NOT NULL,
    entry_id        text COLLATE "C" NOT NULL,
    label           text COLLATE "C" NOT NULL,
    create_time     timestamptz NOT NULL,
    facts           text NOT NULL,
    PRIMARY KEY (tenant_id, conversation_id, kind, entry_id)
);
CREATE INDEX entries_newest ON entries (tenant_id, conversation_id, kind, create_time, entry_id);

-- What happened, one row each, written in the transaction that did it: the feed, how a retry is known, and the history
-- of changes. It refers to messages and does not repeat them.
--   kind 1: created   place 0
--   kind 2: appended  place = seq of the first of `n` messages
--   kind 3: changed   place = revision of the conversation; `state` as `actor` left it, of the `target`
--   kind 4: purged    place = milliseconds of `since`
-- `since` is when the conversation was created, for its id can be used again.
--
-- The feed goes by (xid, position) and reads only below the oldest transaction that still runs. All below that bound has
-- ended, so nothing can appear behind a reader: no gap. Per conversation this is the order of the writes: every writer
-- first holds the conversation's advisory lock, and only then gets its transaction id and its position, and keeps the lock
-- until it commits. (The row's lock would not do: of several who wait for a row that is updated, each gets its
-- transaction id before its turn.) For the same reason a transaction writes what happened to one conversation only.
CREATE TABLE happenings (
    position        bigint GENERATED ALWAYS AS IDENTITY (CACHE 1),
    xid             xid8 NOT NULL DEFAULT pg_current_xact_id(),
    tenant_id       text COLLATE "C" NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    slot            integer NOT NULL,
    since           timestamptz NOT NULL,
    kind            smallint NOT NULL,
    place           bigint NOT NULL,
    time            timestamptz NOT NULL,
    size            integer NOT NULL DEFAULT 0,
    n               integer NOT NULL DEFAULT 0,
    request_id      text COLLATE "C" NOT NULL DEFAULT '',
    fingerprint     text COLLATE "C" NOT NULL DEFAULT '',
    actor           text COLLATE "C" NOT NULL DEFAULT '',
    target          text COLLATE "C" NOT NULL DEFAULT '',
    target_seq      bigint,
    target_revision integer,
    state           text,
    PRIMARY KEY (xid, position)
);
CREATE INDEX happenings_of_tenant ON happenings (tenant_id, xid, position);
CREATE UNIQUE INDEX happenings_by_place ON happenings (tenant_id, conversation_id, kind, place);
CREATE UNIQUE INDEX happenings_by_request ON happenings (tenant_id, conversation_id, kind, request_id)
    WHERE request_id <> '';
CREATE INDEX happenings_of_message ON happenings (tenant_id, conversation_id, target_seq, target_revision)
    WHERE target_seq IS NOT NULL;

CREATE TABLE policies (
    tenant_id text COLLATE "C" PRIMARY KEY,
    policy    text NOT NULL
);

CREATE TABLE audit_links (
    tenant_id     text COLLATE "C" NOT NULL,
    number        bigint NOT NULL,
    first_entry   bigint NOT NULL,
    entries       text NOT NULL,
    previous_hash text NOT NULL,
    hash          text NOT NULL,
    PRIMARY KEY (tenant_id, number)
);
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is never changed' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_links
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The index of search: the terms of a message, each as 64 bits of a hash that also covers the tenant.
CREATE TABLE message_terms (
    tenant_id       text COLLATE "C" NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    seq             bigint NOT NULL,
    user_id         text COLLATE "C" NOT NULL,
    type            text COLLATE "C" NOT NULL,
    create_time     timestamptz NOT NULL,
    terms           bigint[] NOT NULL,
    PRIMARY KEY (tenant_id, conversation_id, seq)
);
CREATE INDEX message_terms_of_tenant ON message_terms (tenant_id, create_time, conversation_id, seq);
CREATE INDEX message_terms_of_user ON message_terms (tenant_id, user_id, create_time, conversation_id, seq);
-- What was said since the list was last merged is looked through one by one: keep it short.
CREATE INDEX message_terms_by_term ON message_terms USING gin (terms) WITH (gin_pending_list_limit = 512);

DO $$
DECLARE v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['conversations', 'messages', 'guests', 'bodies', 'entries', 'happenings', 'policies',
                                   'audit_links', 'message_terms'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', v_table);
        IF v_table <> 'message_terms' THEN
            EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', v_table);
        END IF;
        EXECUTE format($p$CREATE POLICY own_tenant ON %I
            USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
            WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))$p$, v_table);
        EXECUTE format($p$CREATE POLICY platform_reads ON %I FOR SELECT
            USING ((SELECT current_setting('app.tenant', true)) = '*')$p$, v_table);
    END LOOP;
END $$;
