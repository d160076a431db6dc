-- A person is erased: name, address, password, sessions and keys go; what the account counted stays, under a pseudonym that
-- leads nowhere. This function alone rewrites the ledger, and only whose an entry was.

-- Tokens of the erased may still be on their way for a quarter of an hour. The id is remembered until then, its last
-- traces are erased too, and then it is forgotten.
CREATE TABLE erasures (
    tenant_id   text COLLATE "C" NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    forget_time timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id)
);
CREATE INDEX erasures_oldest ON erasures (forget_time);
ALTER TABLE erasures ENABLE ROW LEVEL SECURITY;
ALTER TABLE erasures FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON erasures
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY platform_reads ON erasures FOR SELECT USING ((SELECT current_setting('app.tenant', true)) = '*');

-- The role of the migrations owns the function below, which runs as that role; the service's own role has no such policy.
CREATE POLICY erasure ON ledger FOR UPDATE TO CURRENT_USER
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY erasure ON usage_days FOR UPDATE TO CURRENT_USER
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY erasure ON signals FOR UPDATE TO CURRENT_USER
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));

CREATE FUNCTION ledger_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.user_id LIKE 'erased-%' AND NEW.key_display_name = ''
       AND to_jsonb(NEW) - 'user_id' - 'key_display_name' = to_jsonb(OLD) - 'user_id' - 'key_display_name' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'an entry of the ledger stays as it is' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER stays BEFORE UPDATE ON ledger FOR EACH ROW EXECUTE FUNCTION ledger_stays();

-- Returns what became of the rows of each table. Callable again and again: what is not there is not counted.
CREATE FUNCTION erase_user(p_tenant text, p_user text) RETURNS TABLE (name text, deleted bigint, renamed bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = tenant_quota, pg_temp AS $$
DECLARE
    v_pseudonym text := 'erased-' || gen_random_uuid();
    v_credentials text[];
    v_entries bigint; v_reservations bigint; v_count bigint;
BEGIN
    IF p_user = '' OR p_tenant IS DISTINCT FROM nullif(current_setting('app.tenant', true), '') THEN
        RAISE EXCEPTION 'a person of the tenant at work' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM set_config('app.tenants', jsonb_build_object(p_tenant, p_tenant)::text, true);

    -- History first and without the tenant's lock: nobody moves it any more, and it may be long.
    UPDATE reservations r SET user_id = v_pseudonym, key_display_name = ''
     WHERE r.tenant_id = p_tenant AND r.user_id = p_user AND r.state > 1
       AND r.reservation_id IN (SELECT e.reservation_id FROM ledger e
                                 WHERE e.tenant_id = p_tenant AND e.user_id = p_user);
    GET DIAGNOSTICS v_reservations = ROW_COUNT;
    UPDATE ledger e SET user_id = v_pseudonym, key_display_name = '' WHERE e.tenant_id = p_tenant AND e.user_id = p_user;
    GET DIAGNOSTICS v_entries = ROW_COUNT;

    -- Then what has moved since, and the counters, alone in the account.
    PERFORM 1 FROM tenants t WHERE t.tenant_id = p_tenant FOR NO KEY UPDATE;
    UPDATE reservations r SET user_id = v_pseudonym, key_display_name = ''
     WHERE r.tenant_id = p_tenant AND r.user_id = p_user
       AND r.reservation_id IN (SELECT e.reservation_id FROM ledger e
                                 WHERE e.tenant_id = p_tenant AND e.user_id IN (p_user, v_pseudonym));
    GET DIAGNOSTICS v_count = ROW_COUNT;
    name := 'reservations'; deleted := 0; renamed := v_reservations + v_count; RETURN NEXT;
    UPDATE ledger e SET user_id = v_pseudonym, key_display_name = '' WHERE e.tenant_id = p_tenant AND e.user_id = p_user;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    name := 'ledger'; renamed := v_entries + v_count; RETURN NEXT;
    UPDATE balances b SET subject = v_pseudonym WHERE b.tenant_id = p_tenant AND b.level = 2 AND b.subject = p_user;
    GET DIAGNOSTICS renamed = ROW_COUNT; name := 'balances'; RETURN NEXT;
    UPDATE usage_days u SET user_id = v_pseudonym WHERE u.tenant_id = p_tenant AND u.user_id = p_user;
    GET DIAGNOSTICS renamed = ROW_COUNT; name := 'usage_days'; RETURN NEXT;
    UPDATE signals s SET subject = v_pseudonym WHERE s.tenant_id = p_tenant AND s.level = 2 AND s.subject = p_user;
    GET DIAGNOSTICS renamed = ROW_COUNT; name := 'signals'; RETURN NEXT;

    renamed := 0;
    SELECT array_agg(c.id) INTO v_credentials
      FROM (SELECT key_id AS id FROM api_keys k WHERE k.tenant_id = p_tenant AND k.user_id = p_user
             UNION ALL
            SELECT session_id FROM sessions s WHERE s.tenant_id = p_tenant AND s.user_id = p_user) c;
    DELETE FROM quotas q WHERE q.tenant_id = p_tenant AND (q.level = 2 AND q.subject = p_user
                                                           OR q.level = 3 AND q.subject = ANY (v_credentials));
    GET DIAGNOSTICS deleted = ROW_COUNT; name := 'quotas'; RETURN NEXT;
    DELETE FROM last_uses l WHERE l.tenant_id = p_tenant AND l.credential_id = ANY (v_credentials);
    GET DIAGNOSTICS deleted = ROW_COUNT; name := 'last_uses'; RETURN NEXT;
    DELETE FROM api_keys k WHERE k.tenant_id = p_tenant AND k.user_id = p_user;
    GET DIAGNOSTICS deleted = ROW_COUNT; name := 'api_keys'; RETURN NEXT;
    DELETE FROM sessions s WHERE s.tenant_id = p_tenant AND s.user_id = p_user;
    GET DIAGNOSTICS deleted = ROW_COUNT; name := 'sessions'; RETURN NEXT;
    DELETE FROM passwords w WHERE w.tenant_id = p_tenant AND w.user_id = p_user;
    GET DIAGNOSTICS deleted = ROW_COUNT; name := 'passwords'; RETURN NEXT;
    DELETE FROM requests r WHERE r.tenant_id = p_tenant AND r.outcome ->> 'user_id' = p_user;
    GET DIAGNOSTICS deleted = ROW_COUNT; name := 'requests'; RETURN NEXT;
    DELETE FROM users u WHERE u.tenant_id = p_tenant AND u.user_id = p_user;
    GET DIAGNOSTICS deleted = ROW_COUNT; name := 'users'; RETURN NEXT;
END $$;
REVOKE ALL ON FUNCTION erase_user(text, text) FROM PUBLIC;
