-- One tenant's trouble is no other's: neither the sweeper nor webhooks wait for it. Erasing somebody whose reservation is
-- being extended; a user's fair share that is used up.

-- Gives back up to p_most reservations whose lease ended, and takes back what is left of top-ups that expired; returns
-- how many of both. One replica sweeps at a time: the others have nothing to add, and the lock ends with the statement,
-- so a replica that dies holds nobody up. A tenant that somebody keeps locked is passed by, and so is one whose account
-- is at fault, which is told once nobody else is due.
CREATE OR REPLACE FUNCTION sweep(p_most int) RETURNS int LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE
    v_tenants text[]; v_tenant int[]; v_reservation text[]; v_none bigint[];
    v_only text[]; v_passed_by text[] := '{}'; v_fault text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('tenant_quota.sweep', 0)) THEN
        RETURN 0;
    END IF;
    LOOP
        PERFORM set_config('app.tenant', '*', true);
        SELECT array_agg(c.tenant_id ORDER BY c.n) FILTER (WHERE c.is_first), array_agg(c.place ORDER BY c.n),
               array_agg(c.reservation_id ORDER BY c.n)
          INTO v_tenants, v_tenant, v_reservation
          FROM (SELECT tenant_id, reservation_id, dense_rank() OVER by_tenant AS place,
                       row_number() OVER everywhere AS n, row_number() OVER within_tenant = 1 AS is_first
                  FROM (SELECT tenant_id, reservation_id FROM reservations
                         WHERE state = 1 AND expire_time <= clock_timestamp() AND tenant_id <> ALL (v_passed_by)
                           AND (v_only IS NULL OR tenant_id = ANY (v_only))
                         ORDER BY expire_time LIMIT p_most) e
                WINDOW by_tenant AS (ORDER BY tenant_id), everywhere AS (ORDER BY tenant_id, reservation_id),
                       within_tenant AS (PARTITION BY tenant_id ORDER BY reservation_id)) c;
        IF v_tenants IS NULL THEN
            SELECT array_agg(DISTINCT e.tenant_id ORDER BY e.tenant_id) INTO v_tenants
              FROM (SELECT tenant_id FROM top_ups
                     WHERE expire_time <= clock_timestamp() AND used + held + ended < tokens
                       AND tenant_id <> ALL (v_passed_by) AND (v_only IS NULL OR tenant_id = ANY (v_only))
                     ORDER BY expire_time LIMIT p_most) e;
        END IF;
        PERFORM set_config('app.tenant', '', true);
        IF v_tenants IS NULL AND v_fault IS NOT NULL THEN
            RAISE EXCEPTION 'cannot be swept: %', v_fault;
        ELSIF v_tenants IS NULL THEN
            RETURN 0;
        END IF;
        PERFORM set_config('app.tenants', jsonb_object(v_tenants, v_tenants)::text, true);
        BEGIN
            IF v_reservation IS NOT NULL THEN
                v_none := array_fill(NULL::bigint, ARRAY[cardinality(v_tenant)]);
                RETURN coalesce(cardinality(settle(
                    v_tenants, v_tenant, v_reservation, array_fill(4::smallint, ARRAY[cardinality(v_tenant)]),
                    v_none, v_none, v_none, v_none, v_none::smallint[],
                    array_fill(0::bigint, ARRAY[cardinality(v_tenant)]),
                    array_fill(''::text, ARRAY[cardinality(v_tenant)]))), 0);
            END IF;
            -- In a statement of their own, so that the tenants are locked in order.
            PERFORM 1 FROM tenants WHERE tenant_id = ANY (v_tenants) ORDER BY tenant_id FOR NO KEY UPDATE;
            PERFORM end_top_ups(v_tenants, clock_timestamp());
            RETURN cardinality(v_tenants);
        EXCEPTION
            WHEN lock_not_available THEN
                -- Then those that nobody keeps locked, which are ours now and not waited for; else whoever else is due.
                v_only := ARRAY(SELECT tenant_id FROM tenants WHERE tenant_id = ANY (v_tenants)
                                 ORDER BY tenant_id FOR NO KEY UPDATE SKIP LOCKED);
                v_passed_by := v_passed_by || ARRAY(SELECT unnest(v_tenants) EXCEPT SELECT unnest(v_only));
                v_only := nullif(v_only, '{}');
            WHEN OTHERS THEN
                IF cardinality(v_tenants) > 1 THEN
                    v_only := v_tenants[1:1];
                ELSE
                    v_fault := concat_ws('; ', v_fault, v_tenants[1] || ': ' || SQLERRM);
                    v_passed_by := v_passed_by || v_tenants;
                    v_only := NULL;
                END IF;
        END;
    END LOOP;
END $$;

-- Locks the tenants, and says that these reservations are still of these users; when one is not, because that person was
-- erased meanwhile, what was read of it before is read again.
CREATE FUNCTION still_of(p_tenants text[], p_tenant int[], p_reservation text[], p_user text[]) RETURNS boolean
LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
BEGIN
    PERFORM set_config('app.tenants', jsonb_object(p_tenants, p_tenants)::text, true);
    PERFORM t.tenant_id FROM generate_series(1, cardinality(p_tenants)) n
      CROSS JOIN LATERAL (SELECT o.tenant_id FROM tenants o WHERE o.tenant_id = p_tenants[n] FOR NO KEY UPDATE) t;
    IF EXISTS (SELECT FROM generate_series(1, cardinality(p_reservation)) n
                CROSS JOIN LATERAL (SELECT o.user_id FROM reservations o
                                     WHERE o.tenant_id = p_tenants[p_tenant[n]] AND o.reservation_id = p_reservation[n]
                                    OFFSET 0) r
                WHERE r.user_id <> p_user[n]) THEN
        RAISE EXCEPTION 'somebody was erased meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN true;
END $$;

-- The limits of tokens and cost that hold for these subjects now, and the shares at which it is said that they are passed:
-- what a quota leaves open the plan decides, as `hold` has it, and a user's month is their fair share at the most.
CREATE OR REPLACE FUNCTION effective_limits(p_tenant text[], p_level smallint[], p_subject text[]) RETURNS TABLE (
    tenant_id text, level smallint, subject text, "window" smallint, measure smallint, amount bigint, percents int[]
) LANGUAGE sql STABLE AS $$
    SELECT a.tenant_id, a.level, a.subject, m."window", m.measure, m.amount,
           coalesce(nullif(q.threshold_percents, '{}'), nullif(p.threshold_percents, '{}'), '{80,100}')
      FROM unnest(p_tenant, p_level, p_subject) a(tenant_id, level, subject)
      JOIN tenants t ON t.tenant_id = a.tenant_id
      LEFT JOIN plans p ON p.plan_id = nullif(t.plan_id, '')
      LEFT JOIN quotas q ON q.tenant_id = a.tenant_id AND q.level = a.level AND q.subject = a.subject
      LEFT JOIN quotas w ON w.tenant_id = a.tenant_id AND w.level = 1 AND w.subject = ''
     CROSS JOIN LATERAL (
        SELECT CASE WHEN a.level = 2 AND NOT coalesce(w.unlimited, false)
                     AND CASE WHEN w.tokens_per_month IS NOT NULL THEN w.enforcement ELSE p.enforcement END <> 2 THEN
               fair_share(coalesce(w.tokens_per_month, p.tokens_per_month), coalesce(nullif(q.fair_share_weight, 0), 1),
                          t.share_weights, coalesce(w.fair_share_borrow_percent, p.fair_share_borrow_percent))
               END AS share) f
     CROSS JOIN LATERAL (VALUES
            (1::smallint, 1::smallint, coalesce(q.tokens_per_day, CASE a.level WHEN 1 THEN p.tokens_per_day
                WHEN 2 THEN p.user_tokens_per_day ELSE p.key_tokens_per_day END)),
            (2::smallint, 1::smallint, least(f.share, coalesce(q.tokens_per_month, CASE a.level
                WHEN 1 THEN p.tokens_per_month WHEN 2 THEN p.user_tokens_per_month ELSE p.key_tokens_per_month END))),
            (2::smallint, 2::smallint, coalesce(q.cost_micros_per_month,
                CASE WHEN a.level = 1 THEN p.cost_micros_per_month END))) m("window", measure, amount)
     WHERE m.amount IS NOT NULL AND NOT coalesce(q.unlimited, false)
$$;

-- Takes up to p_most deliveries that are due, few of each webhook, of each tenant's to two webhooks at once, and none of the
-- webhooks that p_busy names (tenant and webhook, with a space between): slow ones must not keep the others waiting. They
-- are due again after the lease, whatever becomes of whoever took them.
CREATE OR REPLACE FUNCTION claim_deliveries(p_most int, p_busy text[], p_lease interval) RETURNS TABLE (
    tenant_id text, delivery_id text, webhook_id text, attempts int, create_time timestamptz,
    url text, secrets int[], signal signals
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
    v_tenant text[]; v_delivery text[];
BEGIN
    PERFORM set_config('app.tenant', '*', true);
    WITH waiting AS (
        SELECT d.tenant_id, d.webhook_id, min(d.next_attempt_time) AS since FROM deliveries d
         WHERE d.state = 1 AND d.next_attempt_time <= v_now AND d.tenant_id || ' ' || d.webhook_id <> ALL (p_busy)
         GROUP BY d.tenant_id, d.webhook_id
    ), turns AS MATERIALIZED (
        SELECT w.tenant_id, w.webhook_id, w.since,
               row_number() OVER (PARTITION BY w.tenant_id ORDER BY w.since, w.webhook_id)
               + (SELECT count(*) FROM unnest(p_busy) b WHERE split_part(b, ' ', 1) = w.tenant_id) AS turn
          FROM waiting w
    ), due AS (
        SELECT x.tenant_id, x.delivery_id
          FROM (SELECT * FROM turns WHERE turn <= 2 ORDER BY turn, since) w
         CROSS JOIN LATERAL (SELECT d.tenant_id, d.delivery_id FROM deliveries d
                              WHERE d.tenant_id = w.tenant_id AND d.webhook_id = w.webhook_id AND d.state = 1
                                AND d.next_attempt_time <= v_now
                              ORDER BY d.next_attempt_time LIMIT 4 FOR UPDATE SKIP LOCKED) x
         LIMIT p_most
    ), taken AS (
        UPDATE deliveries d SET attempts = d.attempts + 1, next_attempt_time = v_now + p_lease
          FROM due
         WHERE d.tenant_id = due.tenant_id AND d.delivery_id = due.delivery_id
        RETURNING d.tenant_id, d.delivery_id
    )
    SELECT array_agg(t.tenant_id), array_agg(t.delivery_id) INTO v_tenant, v_delivery FROM taken t;
    PERFORM set_config('app.tenant', '', true);
    IF v_tenant IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('app.tenants', jsonb_object(v_tenant, v_tenant)::text, true);
    RETURN QUERY
    SELECT d.tenant_id, d.delivery_id, d.webhook_id, d.attempts, d.create_time, w.url,
           CASE WHEN w.rotate_time > v_now - interval '24 hours' THEN ARRAY[w.secret_version, w.secret_version - 1]
                ELSE ARRAY[w.secret_version] END,
           s
      FROM unnest(v_tenant, v_delivery) a(tenant_id, delivery_id)
      JOIN deliveries d ON d.tenant_id = a.tenant_id AND d.delivery_id = a.delivery_id
      JOIN webhooks w ON w.tenant_id = d.tenant_id AND w.webhook_id = d.webhook_id
      LEFT JOIN signals s ON s.tenant_id = d.tenant_id AND s.signal_id = d.signal_id;
END $$;
