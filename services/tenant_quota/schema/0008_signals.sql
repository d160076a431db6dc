-- Signals: who has passed which share of a limit; the webhooks that are told; and each signal on its way to each of them.
--
-- Nothing here is on the path of a reservation: record_signals is called beside it, for those whose counters moved.

-- Append-only. Within a tenant ids grow in the order of commits: whoever writes holds the tenant's advisory lock.
CREATE TABLE signals (
    tenant_id         text COLLATE "C" NOT NULL,
    signal_id         bigint GENERATED ALWAYS AS IDENTITY,
    level             smallint NOT NULL,         -- 1 tenant, 2 user, 3 key
    subject           text COLLATE "C" NOT NULL, -- '' for the tenant as a whole
    "window"          smallint NOT NULL,         -- 1 day, 2 month
    measure           smallint NOT NULL,         -- 1 tokens, 2 cost
    period_start      date NOT NULL,
    percent           int NOT NULL,
    limit_amount      bigint NOT NULL,
    used_amount       bigint NOT NULL,
    period_start_time timestamptz NOT NULL,
    create_time       timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, signal_id),
    CONSTRAINT signals_once UNIQUE (tenant_id, level, subject, "window", measure, period_start, percent)
);

-- The secret is derived from secret_version and the pepper; until rotate_time + 24 hours the one before is good too.
CREATE TABLE webhooks (
    tenant_id       text COLLATE "C" NOT NULL REFERENCES tenants,
    webhook_id      text COLLATE "C" NOT NULL,
    url             text NOT NULL,
    display_name    text NOT NULL,
    levels          smallint[] NOT NULL,         -- empty for all
    enabled         boolean NOT NULL DEFAULT true,
    disabled_reason text NOT NULL DEFAULT '',
    failing_since   timestamptz,
    secret_version  int NOT NULL DEFAULT 1,
    rotate_time     timestamptz,
    create_time     timestamptz NOT NULL DEFAULT clock_timestamp(),
    update_time     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, webhook_id)
);

-- The outbox. While an attempt is under way, next_attempt_time is when somebody else may try.
CREATE TABLE deliveries (
    tenant_id         text COLLATE "C" NOT NULL,
    delivery_id       text COLLATE "C" NOT NULL DEFAULT gen_random_uuid()::text,
    webhook_id        text COLLATE "C" NOT NULL,
    signal_id         bigint,                    -- NULL for a test
    state             smallint NOT NULL DEFAULT 1, -- 1 pending, 2 delivered, 3 failed
    attempts          int NOT NULL DEFAULT 0,
    http_status       int NOT NULL DEFAULT 0,
    last_error        text NOT NULL DEFAULT '',
    next_attempt_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    end_time          timestamptz,
    create_time       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, delivery_id),
    FOREIGN KEY (tenant_id, webhook_id) REFERENCES webhooks ON DELETE CASCADE
);
CREATE INDEX deliveries_due ON deliveries (tenant_id, webhook_id, next_attempt_time) WHERE state = 1;
CREATE INDEX deliveries_newest ON deliveries (tenant_id, webhook_id, create_time, delivery_id);
CREATE INDEX deliveries_over ON deliveries (end_time) WHERE state > 1;

ALTER TABLE signals ENABLE ROW LEVEL SECURITY;
ALTER TABLE signals FORCE ROW LEVEL SECURITY;
-- No policy lets anybody update or delete a signal.
CREATE POLICY own_tenant ON signals FOR SELECT
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY named_tenants_read ON signals FOR SELECT
    USING ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);
CREATE POLICY named_tenants ON signals FOR INSERT
    WITH CHECK ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);

ALTER TABLE webhooks ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhooks FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON webhooks
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY named_tenants ON webhooks FOR SELECT
    USING ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);

ALTER TABLE deliveries ENABLE ROW LEVEL SECURITY;
ALTER TABLE deliveries FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON deliveries
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY named_tenants_read ON deliveries FOR SELECT
    USING ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);
CREATE POLICY named_tenants ON deliveries FOR INSERT
    WITH CHECK ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);
-- The worker takes what is due, whosever it is, and forgets what is long over; it reads signals as the tenants named.
CREATE POLICY worker_reads ON deliveries FOR SELECT USING ((SELECT current_setting('app.tenant', true)) = '*');
CREATE POLICY worker_takes ON deliveries FOR UPDATE
    USING ((SELECT current_setting('app.tenant', true)) = '*')
    WITH CHECK ((SELECT current_setting('app.tenant', true)) = '*');
CREATE POLICY worker_forgets ON deliveries FOR DELETE
    USING ((SELECT current_setting('app.tenant', true)) = '*' AND state > 1);

-- The limits of tokens and cost that hold for these subjects now, and the shares at which it is said that they are passed:
-- what a quota leaves open the plan decides, as `hold` has it.
CREATE FUNCTION effective_limits(p_tenant text[], p_level smallint[], p_subject text[]) RETURNS TABLE (
    tenant_id text, level smallint, subject text, "window" smallint, measure smallint, amount bigint, percents int[]
) LANGUAGE sql STABLE AS $$
    SELECT a.tenant_id, a.level, a.subject, m."window", m.measure, m.amount,
           coalesce(nullif(q.threshold_percents, '{}'), nullif(p.threshold_percents, '{}'), '{80,100}')
      FROM unnest(p_tenant, p_level, p_subject) a(tenant_id, level, subject)
      JOIN tenants t ON t.tenant_id = a.tenant_id
      LEFT JOIN plans p ON p.plan_id = nullif(t.plan_id, '')
      LEFT JOIN quotas q ON q.tenant_id = a.tenant_id AND q.level = a.level AND q.subject = a.subject
     CROSS JOIN LATERAL (VALUES
            (1::smallint, 1::smallint, coalesce(q.tokens_per_day, CASE a.level WHEN 1 THEN p.tokens_per_day
                WHEN 2 THEN p.user_tokens_per_day ELSE p.key_tokens_per_day END)),
            (2::smallint, 1::smallint, coalesce(q.tokens_per_month, CASE a.level WHEN 1 THEN p.tokens_per_month
                WHEN 2 THEN p.user_tokens_per_month ELSE p.key_tokens_per_month END)),
            (2::smallint, 2::smallint, coalesce(q.cost_micros_per_month,
                CASE WHEN a.level = 1 THEN p.cost_micros_per_month END))) m("window", measure, amount)
     WHERE m.amount IS NOT NULL AND NOT coalesce(q.unlimited, false)
$$;

-- The shares that were passed by the subjects named and have no signal yet. The period that ended within the last hour
-- still counts: a reservation is settled in the period it was made in. What a top-up paid does not count.
CREATE FUNCTION crossings(p_tenant text[], p_level smallint[], p_subject text[]) RETURNS TABLE (
    tenant_id text, level smallint, subject text, "window" smallint, measure smallint, period_start date,
    percent int, limit_amount bigint, used_amount bigint, period_start_time timestamptz
) LANGUAGE sql STABLE AS $$
    SELECT l.tenant_id, l.level, l.subject, l."window", l.measure, d.first, p.percent, l.amount, u.used,
           d.first::timestamp AT TIME ZONE t.time_zone
      FROM effective_limits(p_tenant, p_level, p_subject) l
      JOIN tenants t ON t.tenant_id = l.tenant_id
     CROSS JOIN LATERAL (
            SELECT DISTINCT CASE l."window" WHEN 1 THEN m.today ELSE date_trunc('month', m.today)::date END AS first
              FROM (VALUES ((clock_timestamp() AT TIME ZONE t.time_zone)::date),
                           (((clock_timestamp() - interval '1 hour') AT TIME ZONE t.time_zone)::date)) m(today)) d
      JOIN balances b ON b.tenant_id = l.tenant_id AND b.level = l.level AND b.subject = l.subject
                     AND b.month = date_trunc('month', d.first)::date
     CROSS JOIN LATERAL (SELECT d.first - b.month + 1 AS n) i
     CROSS JOIN LATERAL (SELECT CASE WHEN l.measure = 2 THEN b.cost_used
                                     WHEN l."window" = 2 THEN b.used - b.topped_used
                                     ELSE greatest(b.day_used[i.n] - coalesce(b.day_topped_used[i.n], 0), 0) END AS used) u
     CROSS JOIN LATERAL unnest(l.percents) p(percent)
     WHERE u.used > 0 AND u.used::numeric * 100 >= l.amount::numeric * p.percent
       AND NOT EXISTS (SELECT FROM signals s
                        WHERE s.tenant_id = l.tenant_id AND s.level = l.level AND s.subject = l.subject
                          AND s."window" = l."window" AND s.measure = l.measure
                          AND s.period_start = d.first AND s.percent = p.percent)
$$;

-- Writes the signals of these subjects that are due, and a delivery of each to each webhook that wants it, in one
-- statement; tells listeners whose they are. Returns how many signals were written.
CREATE FUNCTION record_signals(p_tenant text[], p_level smallint[], p_subject text[]) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    v_tenants text[]; v_count int;
BEGIN
    PERFORM set_config('app.tenants', jsonb_object(p_tenant, p_tenant)::text, true);
    SELECT array_agg(DISTINCT c.tenant_id) INTO v_tenants FROM crossings(p_tenant, p_level, p_subject) c;
    IF v_tenants IS NULL THEN
        RETURN 0;
    END IF;
    -- Rarely come to. Alone in each tenant, so that each signal is written once and ids are committed in their order;
    -- the statement after the lock sees what was committed before it.
    PERFORM pg_advisory_xact_lock(hashtext('tenant_quota.signals'), k.key)
       FROM (SELECT DISTINCT hashtext(n.tenant_id) AS key FROM unnest(v_tenants) n(tenant_id) ORDER BY 1) k;
    WITH written AS (
        INSERT INTO signals (tenant_id, level, subject, "window", measure, period_start, percent, limit_amount,
                             used_amount, period_start_time, create_time)
        SELECT c.tenant_id, c.level, c.subject, c."window", c.measure, c.period_start, c.percent, c.limit_amount,
               c.used_amount, c.period_start_time, clock_timestamp()
          FROM crossings(p_tenant, p_level, p_subject) c
         WHERE c.tenant_id = ANY (v_tenants)
         ORDER BY c.tenant_id, c.level, c.percent
        ON CONFLICT DO NOTHING
        RETURNING signals.tenant_id, signals.signal_id, signals.level
    ), outbox AS (
        INSERT INTO deliveries (tenant_id, webhook_id, signal_id)
        SELECT w.tenant_id, w.webhook_id, s.signal_id
          FROM written s
          JOIN webhooks w ON w.tenant_id = s.tenant_id
         WHERE w.enabled AND (w.levels = '{}' OR s.level = ANY (w.levels))
    )
    SELECT count(*) INTO v_count FROM written;
    IF v_count > 0 THEN
        PERFORM pg_notify('tenant_quota_signals', n.tenant_id) FROM unnest(v_tenants) n(tenant_id);
    END IF;
    RETURN v_count;
END $$;

-- As record_signals, for everybody who used something in the next p_most tenants after p_after. Gives the last of these
-- tenants, and nothing when none are left or another replica is at it.
CREATE FUNCTION scan_signals(p_after text, p_most int) RETURNS TABLE (last_tenant text, written int)
LANGUAGE plpgsql AS $$
DECLARE
    v_tenants text[]; v_tenant text[]; v_level smallint[]; v_subject text[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('tenant_quota.scan_signals', 0)) THEN
        RETURN;
    END IF;
    PERFORM set_config('app.tenant', '*', true);
    SELECT array_agg(t.tenant_id ORDER BY t.tenant_id) INTO v_tenants
      FROM (SELECT tenant_id FROM tenants WHERE tenant_id > p_after ORDER BY tenant_id LIMIT p_most) t;
    PERFORM set_config('app.tenant', '', true);
    IF v_tenants IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('app.tenants', jsonb_object(v_tenants, v_tenants)::text, true);
    SELECT array_agg(l.tenant_id), array_agg(l.level), array_agg(l.subject) INTO v_tenant, v_level, v_subject
      FROM (SELECT DISTINCT b.tenant_id, b.level, b.subject FROM balances b
             WHERE b.tenant_id = ANY (v_tenants) AND b.used > 0
               AND b.month >= date_trunc('month', clock_timestamp() - interval '2 days')::date) l;
    last_tenant := v_tenants[cardinality(v_tenants)];
    written := CASE WHEN v_tenant IS NULL THEN 0 ELSE record_signals(v_tenant, v_level, v_subject) END;
    RETURN NEXT;
END $$;

-- Takes up to p_most deliveries that are due, few of each webhook and none of the webhooks that p_busy names (tenant and
-- webhook, with a space between): a slow one must not keep the others waiting. They are due again after the lease, whatever
-- becomes of whoever took them.
CREATE FUNCTION claim_deliveries(p_most int, p_busy text[], p_lease interval) RETURNS TABLE (
    tenant_id text, delivery_id text, webhook_id text, attempts int, create_time timestamptz,
    url text, secrets int[], signal signals
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
    v_tenant text[]; v_delivery text[];
BEGIN
    PERFORM set_config('app.tenant', '*', true);
    WITH waiting AS MATERIALIZED (
        SELECT DISTINCT d.tenant_id, d.webhook_id FROM deliveries d
         WHERE d.state = 1 AND d.next_attempt_time <= v_now AND d.tenant_id || ' ' || d.webhook_id <> ALL (p_busy)
    ), due AS (
        SELECT x.tenant_id, x.delivery_id
          FROM waiting w
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
