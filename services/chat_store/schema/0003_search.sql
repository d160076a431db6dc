-- Search. The operators of a term index are not leakproof: under row-level security the planner would not use it. So the
-- index is read with the owner's rights, by this function alone, which takes the tenant from app.tenant, never from its
-- caller, and finds nothing without one. Each term's hash covers its tenant, so that a tenant's share of the index is apart.
--
-- First the newest p_most messages in scope are looked through: that finds all in most scopes, and tells how common the
-- words are. Common ones (a tenth and more) are not followed further: `partial`. Of rarer ones the index finds what is
-- older, in slices of time that grow until p_wanted are found, so that even then not much more is looked at.
-- `counts` says how many of the `seen` newest messages have each of the words.
CREATE FUNCTION matches(
    p_user text, p_conversation text, p_assistant text, p_team text, p_statuses text[], p_deleted boolean,
    p_types text[], p_words text[], p_start timestamptz, p_end timestamptz,
    p_before_time timestamptz, p_before_conversation text, p_before_seq bigint,
    p_wanted integer, p_most integer, p_now timestamptz
) RETURNS TABLE (conversations text[], seqs bigint[], seen integer, counts integer[], partial boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = chat_store, pg_temp
AS $$
DECLARE
    v_tenant text := current_setting('app.tenant', true);
    v_order text; v_scope text; v_fit text; v_words text; v_older text; v_more_conversations text[]; v_more_seqs bigint[];
    v_having integer; v_last timestamptz; v_first timestamptz; v_low timestamptz; v_high timestamptz; v_span interval;
    v_oldest timestamptz;
BEGIN
    IF coalesce(v_tenant, '') IN ('', '*') THEN
        RETURN;
    END IF;
    v_scope := 't.tenant_id = $1'
        || CASE WHEN p_conversation <> '' THEN ' AND t.conversation_id = $3' ELSE '' END
        || CASE WHEN p_user IS NOT NULL THEN ' AND t.user_id = $2' ELSE '' END
        || CASE WHEN p_start IS NOT NULL THEN ' AND t.create_time >= $7' ELSE '' END
        || CASE WHEN p_end IS NOT NULL THEN ' AND t.create_time < $8' ELSE '' END
        || CASE WHEN p_before_time IS NOT NULL
                THEN ' AND (t.create_time, t.conversation_id, t.seq) < ($9, $10, $11)' ELSE '' END;
    -- Within a conversation, seq and time are one order.
    v_order := CASE WHEN p_conversation <> '' THEN 't.seq DESC'
                    ELSE 't.create_time DESC, t.conversation_id DESC, t.seq DESC' END;
    SELECT string_agg(format('t.terms && %L::bigint[]', w), ' AND ') INTO v_words FROM unnest(p_words) w;
    v_fit := 't.type = ANY ($6) AND EXISTS (SELECT FROM conversations c WHERE c.tenant_id = $1'
        ' AND c.conversation_id = t.conversation_id AND c.status = ANY ($4) AND (c.status <> ''deleted'' OR $12)'
        ' AND (c.expire_time IS NULL OR c.expire_time > $13) AND ($5[1] = '''' OR c.assistant_id = $5[1])'
        ' AND ($5[2] = '''' OR c.team_id = $5[2]))';

    EXECUTE format(
        'WITH t AS MATERIALIZED (SELECT * FROM message_terms t WHERE %s ORDER BY %s LIMIT $14 + 1),'
        ' fit AS MATERIALIZED (SELECT t.conversation_id, t.seq, t.create_time FROM t WHERE %s AND %s)'
        ' SELECT count(*), min(t.create_time), max(t.create_time), count(*) FILTER (WHERE %s),'
        ' (SELECT array_agg(t.conversation_id ORDER BY %s) FROM fit t),'
        ' (SELECT array_agg(t.seq ORDER BY %s) FROM fit t),'
        ' (SELECT array_agg((SELECT count(*) FROM t WHERE t.terms && w.w::bigint[])::integer ORDER BY w.o)'
        '    FROM unnest($15) WITH ORDINALITY w(w, o)) FROM t',
        v_scope, v_order, v_words, v_fit, v_words, v_order, v_order)
    INTO seen, v_last, v_first, v_having, conversations, seqs, counts
    USING v_tenant, p_user, p_conversation, p_statuses, ARRAY[p_assistant, p_team], p_types, p_start, p_end,
          p_before_time, p_before_conversation, p_before_seq, p_deleted, p_now, p_most, p_words;
    conversations := coalesce(conversations, '{}');
    seqs := coalesce(seqs, '{}');
    -- Who wants as many as are looked at wants to rank all there are.
    partial := seen > p_most AND v_having * 10 >= p_most AND (cardinality(seqs) < p_wanted OR p_wanted = p_most);
    IF seen <= p_most OR partial OR cardinality(seqs) >= p_wanted THEN
        RETURN NEXT;
        RETURN;
    END IF;

    EXECUTE format('SELECT t.create_time FROM message_terms t WHERE %s ORDER BY %s LIMIT 1',
                   v_scope, replace(v_order, 'DESC', 'ASC'))
    INTO v_oldest
    USING v_tenant, p_user, p_conversation, p_statuses, ARRAY[p_assistant, p_team], p_types, p_start, p_end,
          p_before_time, p_before_conversation, p_before_seq;
    -- Materialized: in an order and with a limit, the planner would rather walk through time than ask the index. What the
    -- first look has seen of the moment at which it ended is not taken twice.
    v_older := format(
        'WITH t AS MATERIALIZED (SELECT t.conversation_id, t.seq, t.create_time, t.type FROM message_terms t'
        ' WHERE %s AND %s AND t.create_time >= $16 AND t.create_time %s $17)'
        ' SELECT array_agg(t.conversation_id ORDER BY %s), array_agg(t.seq ORDER BY %s) FROM ('
        'SELECT t.* FROM t WHERE %s'
        ' AND NOT EXISTS (SELECT FROM unnest($18, $19) k(c, s) WHERE k.c = t.conversation_id AND k.s = t.seq)'
        ' ORDER BY %s LIMIT $14) t',
        v_scope, v_words, '%s', v_order, v_order, v_fit, v_order);
    v_high := v_last;
    v_span := greatest(v_first - v_last, interval '1 second') * 8;
    LOOP
        v_low := v_high - v_span;
        EXECUTE format(v_older, CASE WHEN v_high = v_last THEN '<=' ELSE '<' END)
        INTO v_more_conversations, v_more_seqs
        USING v_tenant, p_user, p_conversation, p_statuses, ARRAY[p_assistant, p_team], p_types, p_start, p_end,
              p_before_time, p_before_conversation, p_before_seq, p_deleted, p_now, p_wanted - cardinality(seqs), p_words,
              v_low, v_high, conversations, seqs;
        conversations := conversations || coalesce(v_more_conversations, '{}');
        seqs := seqs || coalesce(v_more_seqs, '{}');
        EXIT WHEN cardinality(seqs) >= p_wanted OR v_low <= v_oldest;
        v_high := v_low;
        v_span := v_span * 8;
    END LOOP;
    partial := p_wanted = p_most AND cardinality(seqs) >= p_wanted;
    RETURN NEXT;
END $$;
