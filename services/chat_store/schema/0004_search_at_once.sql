-- What is asked and kept most often, in one round trip each, as in 0002.

-- The messages at those places, in their order; of one above p_bytes only its place and time.
CREATE FUNCTION messages_at(p_tenant text, p_conversations text[], p_seqs bigint[], p_bytes integer)
RETURNS TABLE (conversation_id text, seq bigint, create_time timestamptz, said text, changed text) LANGUAGE plpgsql
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant', p_tenant, true);
    -- "OFFSET 0" has each place looked up by itself. The planner would rather read all messages of a tenant that its
    -- statistics do not know yet.
    RETURN QUERY
    SELECT m.conversation_id, m.seq, m.create_time,
           CASE WHEN m.size <= p_bytes THEN m.said END, CASE WHEN m.size <= p_bytes THEN m.changed END
      FROM unnest(p_conversations, p_seqs) WITH ORDINALITY w(conversation_id, seq, place) CROSS JOIN LATERAL (
               SELECT * FROM messages
                WHERE tenant_id = p_tenant AND conversation_id = w.conversation_id AND seq = w.seq OFFSET 0) m
     ORDER BY w.place;
END $$;

-- A search. First a row with seq 0: how many of the `seen` newest messages have each of the words, and whether only the
-- newest were looked at. Then the messages, the newest first, at most p_wanted; of one above p_bytes only its place.
CREATE FUNCTION found(
    p_tenant text, p_user text, p_conversation text, p_assistant text, p_team text, p_statuses text[], p_deleted boolean,
    p_types text[], p_words text[], p_start timestamptz, p_end timestamptz,
    p_before_time timestamptz, p_before_conversation text, p_before_seq bigint,
    p_wanted integer, p_most integer, p_now timestamptz, p_bytes integer
) RETURNS TABLE (conversation_id text, seq bigint, create_time timestamptz, said text, changed text,
                 seen integer, counts integer[], partial boolean) LANGUAGE plpgsql
AS $$
DECLARE v_matches record;
BEGIN
    PERFORM set_config('app.tenant', p_tenant, true);
    SELECT * INTO v_matches FROM matches(
        p_user, p_conversation, p_assistant, p_team, p_statuses, p_deleted, p_types, p_words, p_start, p_end,
        p_before_time, p_before_conversation, p_before_seq, p_wanted, p_most, p_now);
    seq := 0;
    seen := v_matches.seen;
    counts := v_matches.counts;
    partial := v_matches.partial;
    RETURN NEXT;
    RETURN QUERY
    SELECT m.*, NULL::integer, NULL::integer[], NULL::boolean
      FROM messages_at(p_tenant, v_matches.conversations[:p_wanted], v_matches.seqs[:p_wanted], p_bytes) m;
END $$;

-- Whether the link took its place in the chain.
CREATE FUNCTION keep_link(
    p_tenant text, p_number bigint, p_first_entry bigint, p_entries text, p_previous_hash text, p_hash text
) RETURNS boolean LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM set_config('app.tenant', p_tenant, true);
    INSERT INTO audit_links VALUES (p_tenant, p_number, p_first_entry, p_entries, p_previous_hash, p_hash)
        ON CONFLICT DO NOTHING;
    RETURN FOUND;
END $$;
