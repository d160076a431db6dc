-- Signals and settled reservations are kept for a time; the ledger, which explains the account, for ever.

-- How far each tenant's ledger has been walked: what was settled up to there is in `reservations` no more.
CREATE TABLE forgotten (
    tenant_id   text COLLATE "C" PRIMARY KEY,
    until_time  timestamptz NOT NULL,
    until_entry bigint NOT NULL
);
-- What forgotten reservations had drawn on top-ups, by their days: else the audit could explain no top-up.
CREATE TABLE forgotten_draws (
    tenant_id text COLLATE "C" NOT NULL,
    day       date NOT NULL,
    top_up_id text COLLATE "C" NOT NULL,
    tokens    bigint NOT NULL,
    PRIMARY KEY (tenant_id, day, top_up_id)
);
ALTER TABLE forgotten ENABLE ROW LEVEL SECURITY;
ALTER TABLE forgotten FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON forgotten
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
ALTER TABLE forgotten_draws ENABLE ROW LEVEL SECURITY;
ALTER TABLE forgotten_draws FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON forgotten_draws
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));

-- Forgets what one tenant settled before p_before, by the next p_most entries of its ledger: so no index is needed that
-- every reservation would pay for. Children go with their parent, which the entries of its end are complete with.
-- Nobody is waited for: nothing moves a reservation that is over. Returns how many entries were read.
CREATE FUNCTION forget_reservations_of(p_tenant text, p_before timestamptz, p_most int) RETURNS int
LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE
    v_time timestamptz; v_entry bigint; v_read int; v_over text[];
BEGIN
    PERFORM set_config('app.tenant', p_tenant, true);
    SELECT until_time, until_entry INTO v_time, v_entry FROM forgotten WHERE tenant_id = p_tenant;
    SELECT count(*), max(e.create_time), (array_agg(e.entry_id ORDER BY e.create_time DESC, e.entry_id DESC))[1],
           array_agg(e.reservation_id) FILTER (WHERE e.kind IN (2, 3, 4) AND e.parent_reservation_id = '')
      INTO v_read, v_time, v_entry, v_over
      FROM (SELECT create_time, entry_id, kind, reservation_id, parent_reservation_id FROM ledger
             WHERE tenant_id = p_tenant AND create_time < p_before
               AND (create_time, entry_id) > (coalesce(v_time, '-infinity'), coalesce(v_entry, 0))
             ORDER BY create_time, entry_id LIMIT p_most) e;
    IF v_read = 0 THEN
        RETURN 0;
    END IF;
    INSERT INTO forgotten VALUES (p_tenant, v_time, v_entry)
    ON CONFLICT (tenant_id) DO UPDATE SET until_time = excluded.until_time, until_entry = excluded.until_entry;
    WITH gone AS (
        DELETE FROM reservations r
         WHERE r.tenant_id = p_tenant AND r.state > 1 AND r.reservation_id IN (
            SELECT unnest(v_over) UNION ALL
            SELECT c.reservation_id FROM reservations c
             WHERE c.tenant_id = p_tenant AND c.parent_reservation_id = ANY (v_over) AND c.parent_reservation_id <> '')
        RETURNING r.day, r.top_ups, r.topped
    )
    INSERT INTO forgotten_draws
    SELECT p_tenant, g.day, d.top_up_id, sum(d.tokens)
      FROM gone g CROSS JOIN LATERAL unnest(g.top_ups, g.topped) d(top_up_id, tokens)
     GROUP BY g.day, d.top_up_id
    ON CONFLICT (tenant_id, day, top_up_id) DO UPDATE SET tokens = forgotten_draws.tokens + excluded.tokens;
    RETURN v_read;
END $$;

-- The same for the tenants after p_after, as far as p_most entries lead. Gives the tenant after which to go on, and nothing
-- when none are left or another replica is at it.
CREATE FUNCTION forget_reservations(p_after text, p_kept interval, p_most int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_tenants text[]; v_tenant text; v_before timestamptz := clock_timestamp() - p_kept;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('tenant_quota.forget_reservations', 0)) THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('app.tenant', '*', true);
    v_tenants := ARRAY(SELECT tenant_id FROM tenants WHERE tenant_id > p_after ORDER BY tenant_id LIMIT p_most);
    FOREACH v_tenant IN ARRAY v_tenants LOOP
        p_most := p_most - forget_reservations_of(v_tenant, v_before, p_most);
        EXIT WHEN p_most = 0;
        p_after := v_tenant;
    END LOOP;
    RETURN CASE WHEN v_tenants <> '{}' THEN p_after END;
END $$;

CREATE INDEX signals_oldest ON signals (create_time);
-- A signal goes when its period is over for certain: one that went before would be written again.
CREATE POLICY platform_reads ON signals FOR SELECT USING ((SELECT current_setting('app.tenant', true)) = '*');
CREATE POLICY platform_forgets ON signals FOR DELETE
    USING ((SELECT current_setting('app.tenant', true)) = '*' AND create_time < now() - interval '35 days');
