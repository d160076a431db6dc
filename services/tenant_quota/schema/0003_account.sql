-- The account: every movement of tokens goes through these functions, many requests in one call.
--
-- The lock order is the same everywhere: the rows of the tenants concerned, in the order of their ids, before anything else.
-- Whoever holds a tenant's row is alone in that tenant's balances, reservations and ledger, on every replica.
-- The clock is read after the lock, so time within a tenant never runs backwards between two movements. A tenant whose row
-- somebody else keeps locked is not waited for long: the batch is then done one by one, and only that tenant's part fails.

-- One plan per statement and connection, by index only: planning anew would cost more than running, and a plan made while
-- the tables were small must stay right when they are large.
CREATE FUNCTION reserve(
    p_tenant text[], p_user text[], p_key text[], p_reservation text[],
    p_tokens bigint[], p_minimum bigint[], p_lease_seconds int[],
    p_model text[], p_conversation text[], p_assistant text[], p_request text[], p_fingerprint bytea[],
    -- The distinct (tenant, user) that count, each tenant as a whole ('') among them, and where each request finds its own.
    p_subject_tenant text[], p_subject_user text[], p_tenant_subject int[], p_user_subject int[]
) RETURNS TABLE (
    -- outcome: 1 granted, 2 repeated, 3 denied, 4 no such tenant, 5 tenant deactivated
    n int, outcome smallint, granted bigint, create_time timestamptz, expire_time timestamptz, known_id text,
    -- Of a denied request: tenant day, tenant month, user day, user month.
    limits bigint[], used bigint[], held bigint[], period_end timestamptz[]
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    v_now timestamptz;
    v_active boolean[];
    v_day date[]; v_month date[]; v_day_end timestamptz[]; v_month_end timestamptz[];
    v_limit bigint[]; v_used bigint[]; v_held bigint[]; v_taken bigint[]; v_row tid[];
    v_known text[];
    v_outcome smallint[] := array_fill(3::smallint, ARRAY[cardinality(p_tenant)]);
    v_granted bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(p_tenant)]);
    v_grant bigint; i int; td int; tm int; ud int; um int;
BEGIN
    PERFORM set_config('app.tenants', jsonb_object(p_subject_tenant, p_subject_tenant)::text, true);
    PERFORM 1 FROM tenants WHERE tenant_id = ANY (p_subject_tenant) ORDER BY tenant_id FOR NO KEY UPDATE;
    v_now := clock_timestamp();

    -- Per subject: its periods; per subject and window (day at 2s-1, month at 2s): limit and counters.
    SELECT array_agg(t.active ORDER BY s.n), array_agg(p.day ORDER BY s.n), array_agg(p.month ORDER BY s.n),
           array_agg((p.day + 1)::timestamp AT TIME ZONE t.time_zone ORDER BY s.n),
           array_agg((p.month + interval '1 month') AT TIME ZONE t.time_zone ORDER BY s.n)
      INTO v_active, v_day, v_month, v_day_end, v_month_end
      FROM unnest(p_subject_tenant) WITH ORDINALITY s(tenant_id, n)
      LEFT JOIN tenants t ON t.tenant_id = s.tenant_id
      LEFT JOIN LATERAL (SELECT (v_now AT TIME ZONE t.time_zone)::date AS day,
                                date_trunc('month', v_now AT TIME ZONE t.time_zone)::date AS month) p ON true;
    WITH k AS MATERIALIZED (
        SELECT s.n, s.tenant_id, s.user_id, w.w, w.period_start
          FROM unnest(p_subject_tenant, p_subject_user, v_day, v_month) WITH ORDINALITY s(tenant_id, user_id, day, month, n)
         CROSS JOIN LATERAL (VALUES (1::smallint, s.day), (2::smallint, s.month)) w(w, period_start)
    )
    SELECT array_agg(CASE WHEN q.enforcement = 2 THEN NULL WHEN k.w = 1 THEN q.tokens_per_day ELSE q.tokens_per_month END
                     ORDER BY k.n, k.w),
           array_agg(coalesce(b.used, 0) ORDER BY k.n, k.w),
           array_agg(coalesce(b.held, 0) ORDER BY k.n, k.w),
           array_agg(0::bigint),
           array_agg(b.ctid ORDER BY k.n, k.w)
      INTO v_limit, v_used, v_held, v_taken, v_row
      FROM k
      LEFT JOIN quotas q ON q.tenant_id = k.tenant_id AND q.user_id = k.user_id
      LEFT JOIN balances b ON b.tenant_id = k.tenant_id AND b.user_id = k.user_id AND b."window" = k.w
                          AND b.period_start = k.period_start;
    SELECT array_agg(r.reservation_id ORDER BY a.n)
      INTO v_known
      FROM unnest(p_tenant, p_request) WITH ORDINALITY a(tenant_id, request_id, n)
      LEFT JOIN reservations r ON r.tenant_id = a.tenant_id AND r.request_id = a.request_id;

    -- Each in its turn. A missing limit, and the user's levels of an anonymous caller, are NULL, which LEAST passes over.
    FOR i IN 1 .. cardinality(p_tenant) LOOP
        IF v_active[p_tenant_subject[i]] IS NULL THEN
            v_outcome[i] := 4;
        ELSIF v_known[i] IS NOT NULL THEN
            v_outcome[i] := 2;
        ELSIF NOT v_active[p_tenant_subject[i]] THEN
            v_outcome[i] := 5;
        ELSE
            tm := 2 * p_tenant_subject[i]; td := tm - 1;
            um := 2 * p_user_subject[i]; ud := um - 1;
            v_grant := least(p_tokens[i],
                             v_limit[td] - v_used[td] - v_held[td] - v_taken[td],
                             v_limit[tm] - v_used[tm] - v_held[tm] - v_taken[tm],
                             v_limit[ud] - v_used[ud] - v_held[ud] - v_taken[ud],
                             v_limit[um] - v_used[um] - v_held[um] - v_taken[um]);
            IF v_grant >= p_minimum[i] THEN
                v_outcome[i] := 1;
                v_granted[i] := v_grant;
                v_taken[td] := v_taken[td] + v_grant;
                v_taken[tm] := v_taken[tm] + v_grant;
                IF um IS NOT NULL THEN
                    v_taken[ud] := v_taken[ud] + v_grant;
                    v_taken[um] := v_taken[um] + v_grant;
                END IF;
            END IF;
        END IF;
    END LOOP;

    WITH made AS (
        INSERT INTO reservations (tenant_id, reservation_id, user_id, key_id, state, granted, day, month,
                                  model, conversation_id, assistant_id, create_time, expire_time,
                                  request_id, fingerprint)
        SELECT a.tenant_id, a.reservation_id, a.user_id, a.key_id, 1, a.granted, v_day[a.subject], v_month[a.subject],
               a.model, a.conversation_id, a.assistant_id, v_now, v_now + make_interval(secs => a.lease_seconds),
               a.request_id, a.fingerprint
          FROM unnest(p_tenant, p_reservation, p_user, p_key, v_granted, p_tenant_subject, p_lease_seconds,
                      p_model, p_conversation, p_assistant, p_request, p_fingerprint)
               a(tenant_id, reservation_id, user_id, key_id, granted, subject, lease_seconds,
                 model, conversation_id, assistant_id, request_id, fingerprint)
         WHERE a.granted IS NOT NULL
        RETURNING reservations.*
    )
    INSERT INTO ledger (tenant_id, create_time, kind, reservation_id, user_id, key_id, model, conversation_id,
                        assistant_id, held_delta, used_delta, cost_micros)
    SELECT m.tenant_id, v_now, 1, m.reservation_id, m.user_id, m.key_id, m.model, m.conversation_id,
           m.assistant_id, m.granted, 0, 0
      FROM made m;

    -- Under the tenant's lock nobody else moves a balance, so its place is as good as its name, and quicker.
    UPDATE balances b SET held = b.held + x.taken
      FROM unnest(v_row, v_taken) x(place, taken)
     WHERE b.ctid = x.place AND x.taken > 0;
    IF array_position(v_row, NULL) IS NOT NULL THEN
        INSERT INTO balances (tenant_id, user_id, "window", period_start, held)
        SELECT s.tenant_id, s.user_id, w.w, w.period_start, v_taken[2 * s.n - 2 + w.w]
          FROM unnest(p_subject_tenant, p_subject_user, v_day, v_month) WITH ORDINALITY s(tenant_id, user_id, day, month, n)
         CROSS JOIN LATERAL (VALUES (1::smallint, s.day), (2::smallint, s.month)) w(w, period_start)
         WHERE v_row[2 * s.n - 2 + w.w] IS NULL AND v_taken[2 * s.n - 2 + w.w] > 0;
    END IF;

    RETURN QUERY
    SELECT a.n::int, a.outcome, a.granted, v_now, v_now + make_interval(secs => a.lease_seconds), a.known_id,
           d.limits, d.used, d.held, d.period_end
      FROM unnest(v_outcome, v_granted, p_lease_seconds, v_known, p_tenant_subject, p_user_subject)
           WITH ORDINALITY a(outcome, granted, lease_seconds, known_id, ts, us, n)
      LEFT JOIN LATERAL (
        SELECT ARRAY[v_limit[2*a.ts-1], v_limit[2*a.ts], v_limit[2*a.us-1], v_limit[2*a.us]] AS limits,
               ARRAY[v_used[2*a.ts-1], v_used[2*a.ts], v_used[2*a.us-1], v_used[2*a.us]] AS used,
               ARRAY[v_held[2*a.ts-1] + v_taken[2*a.ts-1], v_held[2*a.ts] + v_taken[2*a.ts],
                     v_held[2*a.us-1] + v_taken[2*a.us-1], v_held[2*a.us] + v_taken[2*a.us]] AS held,
               ARRAY[v_day_end[a.ts], v_month_end[a.ts]] AS period_end
        ) d ON a.outcome = 3
     ORDER BY a.n;
END $$;

-- Moves reservations out of the state "held": target 2 commits, 3 releases, 4 expires those whose lease ended.
-- A lease that ended makes every movement an expiry. The caller reads afterwards what became of each.
CREATE FUNCTION settle(
    p_tenant text[], p_reservation text[], p_target smallint[],
    p_input bigint[], p_cached bigint[], p_output bigint[], p_reasoning bigint[],
    p_source smallint[], p_cost bigint[], p_model text[]
) RETURNS TABLE (
    n int, moved boolean,
    reservation_id text, user_id text, state smallint, granted bigint,
    input_tokens bigint, cached_input_tokens bigint, output_tokens bigint, reasoning_tokens bigint,
    usage_source smallint, cost_micros bigint, create_time timestamptz, expire_time timestamptz
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_moved int[];
BEGIN
    PERFORM set_config('app.tenants', jsonb_object(p_tenant, p_tenant)::text, true);
    PERFORM 1 FROM tenants WHERE tenant_id = ANY (p_tenant) ORDER BY tenant_id FOR NO KEY UPDATE;
    v_now := clock_timestamp();

    -- `state < 2` means held; `state = 1` would lure the planner into the index of the sweeper.
    WITH moved AS (
        UPDATE reservations r
           SET state = CASE WHEN r.expire_time <= v_now THEN 4 ELSE a.target END,
               input_tokens = CASE WHEN r.expire_time > v_now THEN a.input END,
               cached_input_tokens = CASE WHEN r.expire_time > v_now THEN a.cached END,
               output_tokens = CASE WHEN r.expire_time > v_now THEN a.output END,
               reasoning_tokens = CASE WHEN r.expire_time > v_now THEN a.reasoning END,
               usage_source = CASE WHEN r.expire_time > v_now THEN a.source END,
               cost_micros = CASE WHEN r.expire_time > v_now THEN a.cost ELSE 0 END,
               model = coalesce(nullif(a.model, ''), r.model),
               settle_time = v_now
          FROM unnest(p_tenant, p_reservation, p_target, p_input, p_cached, p_output, p_reasoning,
                      p_source, p_cost, p_model) WITH ORDINALITY
               a(tenant_id, reservation_id, target, input, cached, output, reasoning, source, cost, model, n)
         WHERE r.tenant_id = a.tenant_id AND r.reservation_id = a.reservation_id AND r.state < 2
           AND (a.target <> 4 OR r.expire_time <= v_now)
        RETURNING a.n, r.*,
                  coalesce(r.input_tokens + r.cached_input_tokens + r.output_tokens + r.reasoning_tokens, 0) AS total
    ), logged AS (
        INSERT INTO ledger (tenant_id, create_time, kind, reservation_id, user_id, key_id, model, conversation_id,
                            assistant_id, held_delta, used_delta, input_tokens, cached_input_tokens, output_tokens,
                            reasoning_tokens, usage_source, cost_micros)
        SELECT m.tenant_id, v_now, m.state, m.reservation_id, m.user_id, m.key_id, m.model, m.conversation_id,
               m.assistant_id, -m.granted, m.total, m.input_tokens, m.cached_input_tokens, m.output_tokens,
               m.reasoning_tokens, m.usage_source, m.cost_micros
          FROM moved m
    ), counted AS (
        UPDATE balances b SET held = b.held - x.granted, used = b.used + x.total
          FROM (SELECT m.tenant_id, l.user_id, l.w, l.period_start, sum(m.granted)::bigint AS granted,
                       sum(m.total)::bigint AS total
                  FROM moved m
                 CROSS JOIN LATERAL (VALUES ('', 1::smallint, m.day), ('', 2::smallint, m.month),
                                            (nullif(m.user_id, ''), 1::smallint, m.day),
                                            (nullif(m.user_id, ''), 2::smallint, m.month)) l(user_id, w, period_start)
                 WHERE l.user_id IS NOT NULL
                 GROUP BY m.tenant_id, l.user_id, l.w, l.period_start) x
         WHERE b.tenant_id = x.tenant_id AND b.user_id = x.user_id AND b."window" = x.w
           AND b.period_start = x.period_start
    )
    SELECT array_agg(m.n::int) INTO v_moved FROM moved m;

    RETURN QUERY
    SELECT a.n::int, a.n = ANY (coalesce(v_moved, '{}')), r.reservation_id, r.user_id, r.state, r.granted,
           r.input_tokens, r.cached_input_tokens, r.output_tokens, r.reasoning_tokens,
           r.usage_source, r.cost_micros, r.create_time, r.expire_time
      FROM unnest(p_tenant, p_reservation) WITH ORDINALITY a(tenant_id, reservation_id, n)
      LEFT JOIN reservations r ON r.tenant_id = a.tenant_id AND r.reservation_id = a.reservation_id
     ORDER BY a.n;
END $$;

-- Gives back up to p_most reservations whose lease ended; returns how many. One replica sweeps at a time: the others
-- have nothing to add, and the lock ends with the statement, so a replica that dies holds nobody up.
CREATE FUNCTION sweep(p_most int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    v_tenant text[]; v_reservation text[]; v_none bigint[]; v_count int;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('tenant_quota.sweep', 0)) THEN
        RETURN 0;
    END IF;
    PERFORM set_config('app.tenant', '*', true);
    SELECT array_agg(c.tenant_id), array_agg(c.reservation_id) INTO v_tenant, v_reservation
      FROM (SELECT tenant_id, reservation_id FROM reservations
             WHERE state = 1 AND expire_time <= clock_timestamp() ORDER BY expire_time LIMIT p_most) c;
    PERFORM set_config('app.tenant', '', true);
    IF v_tenant IS NULL THEN
        RETURN 0;
    END IF;
    v_none := array_fill(NULL::bigint, ARRAY[cardinality(v_tenant)]);
    SELECT count(*) FILTER (WHERE s.moved) INTO v_count
      FROM settle(v_tenant, v_reservation, array_fill(4::smallint, ARRAY[cardinality(v_tenant)]),
                  v_none, v_none, v_none, v_none, v_none::smallint[],
                  array_fill(0::bigint, ARRAY[cardinality(v_tenant)]),
                  array_fill(''::text, ARRAY[cardinality(v_tenant)])) s;
    RETURN v_count;
END $$;
