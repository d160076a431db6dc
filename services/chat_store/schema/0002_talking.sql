-- What every turn does: append and read, each in one round trip. The tenant is set inside, for the statements that follow.
--
-- Plans are by index whatever the statistics say: planning anew would cost more than running.

-- outcome: 1 stored, 2 stored before, 3 no such conversation, 4 request_id reused, 5 message_id taken (`name`), 6 closed
CREATE FUNCTION append(
    p_tenant text, p_user text, p_conversation text, p_request text, p_fingerprint text, p_now timestamptz,
    p_ids text[], p_said text[], p_sizes integer[], p_types text[], p_authors text[], p_terms text[], p_texts text[],
    p_sha text[], p_content bytea[], p_sums bigint[], p_preview text
) RETURNS TABLE (outcome smallint, first_seq bigint, at timestamptz, name text) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    c conversations; v_known happenings; v_taken record; v_at timestamptz; v_first bigint;
    v_stored integer := 0; n integer := cardinality(p_ids);
BEGIN
    PERFORM set_config('app.tenant', p_tenant, true);
    -- Not the row's own lock: whoever waits for that may get a transaction id before it is their turn (0001).
    PERFORM pg_advisory_xact_lock(hashtextextended(p_tenant || ':' || p_conversation, 0));
    SELECT * INTO c FROM conversations
     WHERE tenant_id = p_tenant AND conversation_id = p_conversation FOR NO KEY UPDATE;
    IF NOT FOUND OR c.user_id <> p_user OR c.status = 'deleted' OR c.expire_time <= p_now THEN
        RETURN QUERY SELECT 3::smallint, NULL::bigint, NULL::timestamptz, ''::text;
        RETURN;
    END IF;
    IF p_request <> '' THEN
        SELECT * INTO v_known FROM happenings
         WHERE tenant_id = p_tenant AND conversation_id = p_conversation AND kind = 2 AND request_id = p_request
           AND request_id <> '';
        IF FOUND AND v_known.fingerprint <> p_fingerprint THEN
            RETURN QUERY SELECT 4::smallint, NULL::bigint, NULL::timestamptz, ''::text;
            RETURN;
        END IF;
    END IF;
    v_at := greatest(p_now, c.last_activity_time);
    v_first := c.last_seq + 1;
    IF v_known.place IS NULL AND NOT c.closed THEN
        -- The index itself says whether an id is taken: asking it before would leave the way there to the planner.
        INSERT INTO messages (tenant_id, conversation_id, seq, message_id, first_seq, create_time, size, said, bodies)
        SELECT p_tenant, p_conversation, c.last_seq + m.o, m.id, v_first, v_at, m.size, m.said,
               CASE WHEN m.body = '' THEN '{}' ELSE ARRAY[m.body] END
          FROM unnest(p_ids, p_said, p_sizes, p_texts) WITH ORDINALITY m(id, said, size, body, o)
            ON CONFLICT ON CONSTRAINT messages_message_id_key DO NOTHING;
        GET DIAGNOSTICS v_stored = ROW_COUNT;
    END IF;
    IF v_known.place IS NULL AND v_stored < n THEN
        DELETE FROM messages m
         WHERE m.tenant_id = p_tenant AND m.conversation_id = p_conversation AND m.seq > c.last_seq;
        SELECT m.message_id, m.first_seq INTO v_taken FROM messages m
         WHERE m.tenant_id = p_tenant AND m.conversation_id = p_conversation AND m.message_id = ANY (p_ids)
         ORDER BY array_position(p_ids, m.message_id) LIMIT 1;
        IF NOT FOUND THEN
            RETURN QUERY SELECT 6::smallint, NULL::bigint, NULL::timestamptz, ''::text;
            RETURN;
        END IF;
        SELECT * INTO v_known FROM happenings
         WHERE tenant_id = p_tenant AND conversation_id = p_conversation AND kind = 2 AND place = v_taken.first_seq;
        IF v_known.fingerprint <> p_fingerprint THEN
            RETURN QUERY SELECT 5::smallint, NULL::bigint, NULL::timestamptz, v_taken.message_id;
            RETURN;
        END IF;
    END IF;
    IF v_known.place IS NOT NULL THEN
        RETURN QUERY SELECT 2::smallint, v_known.place, v_known.time, ''::text;
        RETURN;
    END IF;

    INSERT INTO message_terms (tenant_id, conversation_id, seq, user_id, type, create_time, terms)
    SELECT p_tenant, p_conversation, c.last_seq + m.o, c.user_id, m.type, v_at, m.terms::bigint[]
      FROM unnest(p_types, p_terms) WITH ORDINALITY m(type, terms, o);
    IF cardinality(p_sha) > 0 THEN
        INSERT INTO bodies (tenant_id, conversation_id, sha256, content)
        SELECT p_tenant, p_conversation, b.sha, b.content FROM unnest(p_sha, p_content) b(sha, content)
            ON CONFLICT DO NOTHING;
    END IF;
    IF EXISTS (SELECT FROM unnest(p_authors) a WHERE a NOT IN ('', c.user_id)) THEN
        INSERT INTO guests (tenant_id, user_id, conversation_id, seq)
        SELECT p_tenant, m.author, p_conversation, c.last_seq + m.o
          FROM unnest(p_authors) WITH ORDINALITY m(author, o) WHERE m.author NOT IN ('', c.user_id);
    END IF;
    INSERT INTO happenings (tenant_id, conversation_id, slot, since, kind, place, time, size, n, request_id, fingerprint)
    VALUES (p_tenant, p_conversation, c.slot, c.create_time, 2, v_first, v_at,
            (SELECT sum(s) FROM unnest(p_sizes) s), n, p_request, p_fingerprint);
    UPDATE conversations
       SET last_activity_time = v_at,
           expire_time = CASE WHEN c.ttl_seconds > 0 THEN v_at + c.ttl_seconds * interval '1 second' END,
           last_seq = c.last_seq + n,
           sums = (SELECT array_agg(x.a + x.b ORDER BY x.o)
                     FROM unnest(c.sums, p_sums) WITH ORDINALITY x(a, b, o)),
           preview = p_preview
     WHERE tenant_id = p_tenant AND conversation_id = p_conversation;
    RETURN QUERY SELECT 1::smallint, v_first, v_at, ''::text;
END $$;

-- The conversation within reach, or no row. p_deleted: deleted ones are within reach.
CREATE FUNCTION conversation(p_tenant text, p_user text, p_conversation text, p_deleted boolean, p_now timestamptz)
RETURNS SETOF conversations LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
AS $$
BEGIN
    PERFORM set_config('app.tenant', p_tenant, true);
    RETURN QUERY SELECT * FROM conversations c
     WHERE c.tenant_id = p_tenant AND c.conversation_id = p_conversation AND (p_user IS NULL OR c.user_id = p_user)
       AND (p_deleted OR c.status <> 'deleted') AND (c.expire_time IS NULL OR c.expire_time > p_now);
END $$;

-- What it is at: nothing of it that is large is looked at.
CREATE FUNCTION version(p_tenant text, p_user text, p_conversation text, p_deleted boolean, p_now timestamptz)
RETURNS TABLE (since timestamptz, first_seq bigint, last_seq bigint, revision bigint) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
AS $$
BEGIN
    PERFORM set_config('app.tenant', p_tenant, true);
    RETURN QUERY SELECT c.create_time, c.first_seq, c.last_seq, c.revision FROM conversations c
     WHERE c.tenant_id = p_tenant AND c.conversation_id = p_conversation AND (p_user IS NULL OR c.user_id = p_user)
       AND (p_deleted OR c.status <> 'deleted') AND (c.expire_time IS NULL OR c.expire_time > p_now);
END $$;

-- A page: first a row with seq 0 that stands for the conversation (no row: it is out of reach), then the messages, at
-- most p_limit, fewer when they would pass p_bytes. `found` counts those in the window, up to one beyond the limit.
CREATE FUNCTION page(
    p_tenant text, p_user text, p_conversation text, p_deleted boolean, p_now timestamptz,
    p_after bigint, p_before bigint, p_newest_first boolean, p_limit integer, p_bytes bigint
) RETURNS TABLE (seq bigint, create_time timestamptz, said text, changed text, found bigint) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
AS $$
BEGIN
    PERFORM set_config('app.tenant', p_tenant, true);
    PERFORM FROM conversations c
     WHERE c.tenant_id = p_tenant AND c.conversation_id = p_conversation AND (p_user IS NULL OR c.user_id = p_user)
       AND (p_deleted OR c.status <> 'deleted') AND (c.expire_time IS NULL OR c.expire_time > p_now);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    seq := 0;
    RETURN NEXT;
    IF p_newest_first THEN
        RETURN QUERY
        SELECT k.seq, k.create_time, k.said, k.changed, k.found
          FROM (SELECT m.*, row_number() OVER w AS number, sum(m.size) OVER w AS bytes, count(*) OVER () AS found
                  FROM (SELECT m.seq, m.create_time, m.said, m.changed, m.size FROM messages m
                         WHERE m.tenant_id = p_tenant AND m.conversation_id = p_conversation
                           AND m.seq > p_after AND m.seq < p_before
                         ORDER BY m.seq DESC LIMIT p_limit + 1) m
                WINDOW w AS (ORDER BY m.seq DESC ROWS UNBOUNDED PRECEDING)) k
         WHERE k.number <= p_limit AND (k.number = 1 OR k.bytes <= p_bytes) ORDER BY k.number;
    ELSE
        RETURN QUERY
        SELECT k.seq, k.create_time, k.said, k.changed, k.found
          FROM (SELECT m.*, row_number() OVER w AS number, sum(m.size) OVER w AS bytes, count(*) OVER () AS found
                  FROM (SELECT m.seq, m.create_time, m.said, m.changed, m.size FROM messages m
                         WHERE m.tenant_id = p_tenant AND m.conversation_id = p_conversation
                           AND m.seq > p_after AND m.seq < p_before
                         ORDER BY m.seq LIMIT p_limit + 1) m
                WINDOW w AS (ORDER BY m.seq ROWS UNBOUNDED PRECEDING)) k
         WHERE k.number <= p_limit AND (k.number = 1 OR k.bytes <= p_bytes) ORDER BY k.number;
    END IF;
END $$;

-- Makes a conversation; when it was created, or nothing when the id is in use. An id that is used again gets a time of
-- its own: events are told apart by it.
CREATE FUNCTION create_conversation(
    p_tenant text, p_conversation text, p_user text, p_assistant text, p_team text, p_facts text, p_ttl_seconds bigint,
    p_slot integer, p_request text, p_fingerprint text, p_now timestamptz
) RETURNS timestamptz LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
AS $$
DECLARE v_at timestamptz;
BEGIN
    PERFORM set_config('app.tenant', p_tenant, true);
    PERFORM FROM conversations WHERE tenant_id = p_tenant AND conversation_id = p_conversation;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended(p_tenant || ':' || p_conversation, 0));
    SELECT greatest(p_now, max(h.since) + interval '1 millisecond') INTO v_at FROM happenings h
     WHERE h.tenant_id = p_tenant AND h.conversation_id = p_conversation AND h.kind = 4;
    INSERT INTO conversations (tenant_id, conversation_id, user_id, assistant_id, team_id, status, closed, facts,
                               create_time, last_activity_time, ttl_seconds, expire_time, slot, request_id, fingerprint)
    VALUES (p_tenant, p_conversation, p_user, p_assistant, p_team, 'active', false, p_facts, v_at, v_at, p_ttl_seconds,
            CASE WHEN p_ttl_seconds > 0 THEN v_at + p_ttl_seconds * interval '1 second' END,
            p_slot, p_request, p_fingerprint)
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO happenings (tenant_id, conversation_id, slot, since, kind, place, time)
    VALUES (p_tenant, p_conversation, p_slot, v_at, 1, 0, v_at);
    RETURN v_at;
END $$;
