-- What nobody has, nobody pays for: users and keys without a limit are not read, prices are looked up once, and statements
-- that could find nothing are left out. What hold and settle decide is what they decided before.

-- Holds tokens for new reservations or, with p_extend, for those that are held already.
--
-- A slot is a subject (level 1 the tenant, 2 a user, 3 a key) on a day; NULL is today. Slots of one subject and month
-- share a row of `balances`: p_slot_row is the first of them. The first slots are the tenants, in their order, unless
-- p_extend. Requests point to tenants, slots and parents by their places, from 1.
CREATE OR REPLACE FUNCTION hold(
    p_tenants text[], p_extend boolean,
    p_slot_tenant int[], p_slot_level smallint[], p_slot_subject text[], p_slot_day date[], p_slot_row int[],
    p_parents text[], p_parent_tenant int[],
    p_tenant int[], p_tenant_slot int[], p_user_slot int[], p_key_slot int[], p_parent int[],
    p_reservation text[], p_user text[], p_key text[], p_key_name text[],
    p_tokens bigint[], p_minimum bigint[], p_lease_seconds int[],
    p_model text[], p_conversation text[], p_assistant text[], p_request text[], p_fingerprint bytea[],
    -- 1 granted, 2 repeated, 3 denied, 4 no such tenant, 5 tenant deactivated, 6 no price, 7 no such reservation,
    -- 8 expired or released, 9 committed, 10 its parent is a child, 11 its parent has not enough left
    OUT outcome smallint[], OUT granted bigint[], OUT granted_cost bigint[], OUT known_id text[], OUT now timestamptz,
    -- Of an extension: all that it holds now, its cost, and when its lease ends.
    OUT total bigint[], OUT total_cost bigint[], OUT expire_times timestamptz[],
    -- Of children: whom they belong to, which is whom their parents belong to.
    OUT holders text[],
    -- Of a denied request, by level and of day, month and cost: [limits, used, held]; seconds to the ends of day, month.
    OUT denials text[]
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET enable_memoize = off
AS $$
DECLARE
    v_count int := cardinality(p_tenant);
    v_named text := set_config('app.tenants', jsonb_object(p_tenants, p_tenants)::text, true);  -- no statement for it
    v_active boolean[]; v_zone text[]; v_plan text[]; v_plan_time timestamptz[]; v_bits smallint[]; v_weights bigint[];
    v_seen smallint; v_slots int := cardinality(p_slot_tenant);
    v_place tid[]; v_counts boolean[]; v_start boolean[]; v_new_level boolean; v_day date[]; v_month date[]; v_refuse boolean[];
    v_day_limit bigint[]; v_month_limit bigint[]; v_cost_limit bigint[];
    v_day_used bigint[]; v_day_held bigint[]; v_used bigint[]; v_held bigint[]; v_cost_used bigint[]; v_cost_held bigint[];
    v_day_left bigint[]; v_left bigint[]; v_cost_left bigint[];
    v_day_taken bigint[]; v_taken bigint[]; v_cost_taken bigint[]; v_topped bigint[];
    v_price bigint[]; v_costly boolean; v_top_ups boolean; v_children boolean;
    v_lease_end timestamptz[]; v_state smallint[]; v_counted smallint[]; v_reservation tid[];
    v_parent_state smallint[]; v_parent_left bigint[]; v_parent_cost bigint[]; v_parent_lent bigint[];
    v_parent_lent_cost bigint[]; v_parent_user text[]; v_parent_key text[]; v_parent_key_name text[];
    v_parent_day date[]; v_parent_month date[]; v_parent_counted smallint[];
    u_tenant int[]; u_id text[]; u_left bigint[]; u_taken bigint[];
    d_at int[]; d_id text[]; d_tokens bigint[];
    v_grant bigint; v_most bigint; v_own bigint; v_extra bigint; v_cost bigint; v_part bigint;
    i int; t int; ts int; us int; ks int; tr int; ur int; kr int; s int;
BEGIN
    SELECT array_agg(x.active ORDER BY n), array_agg(x.time_zone ORDER BY n), array_agg(x.plan_id ORDER BY n),
           array_agg(x.plan_time ORDER BY n), array_agg(x.counted ORDER BY n), array_agg(x.share_weights ORDER BY n),
           bit_or(x.counted | CASE WHEN x.plan_id <> '' THEN 6 ELSE 0 END)
      INTO v_active, v_zone, v_plan, v_plan_time, v_bits, v_weights, v_seen
      FROM generate_series(1, cardinality(p_tenants)) n
      LEFT JOIN LATERAL (SELECT t.active, t.time_zone, t.plan_id, t.plan_time, t.counted, t.share_weights
                           FROM tenants t WHERE t.tenant_id = p_tenants[n] FOR NO KEY UPDATE) x ON true;
    now := clock_timestamp();
    v_top_ups := coalesce(v_seen & 8 > 0, false);
    v_children := cardinality(p_parents) > 0;
    IF v_top_ups THEN
        PERFORM end_top_ups(p_tenants, now);
    END IF;
    -- Without a plan, users and keys have limits where a quota gave them one; else the tenants' slots are all there is to
    -- read, and whatever is asked of the others below is NULL.
    IF NOT p_extend AND coalesce(v_seen & 6, 0) = 0 THEN
        v_slots := cardinality(p_tenants);
    END IF;

    LOOP
        WITH slots AS (
            SELECT n, p_slot_tenant[n] AS t, p_slot_level[n] AS level,
                   coalesce(p_slot_day[n], (now AT TIME ZONE v_zone[p_slot_tenant[n]])::date) AS day
              FROM generate_series(1, v_slots) n
        ), limited AS (
            SELECT x.n, x.t, x.level, x.day, date_trunc('month', x.day)::date AS month,
                   extract(day FROM x.day)::int AS d,
                   coalesce(q.unlimited, false) AS unlimited,
                   CASE WHEN q.tokens_per_day IS NOT NULL THEN q.enforcement ELSE p.enforcement END <> 2 AS day_hard,
                   coalesce(q.tokens_per_day, CASE x.level WHEN 1 THEN p.tokens_per_day WHEN 2 THEN p.user_tokens_per_day
                                              ELSE p.key_tokens_per_day END) AS day_limit,
                   CASE WHEN q.tokens_per_month IS NOT NULL THEN q.enforcement ELSE p.enforcement END <> 2 AS month_hard,
                   coalesce(q.tokens_per_month, CASE x.level WHEN 1 THEN p.tokens_per_month
                                                WHEN 2 THEN p.user_tokens_per_month
                                                ELSE p.key_tokens_per_month END) AS month_limit,
                   CASE WHEN q.cost_micros_per_month IS NOT NULL THEN q.enforcement ELSE p.enforcement END <> 2 AS cost_hard,
                   coalesce(q.cost_micros_per_month, CASE x.level WHEN 1 THEN p.cost_micros_per_month END) AS cost_limit,
                   CASE WHEN x.level = 2 AND NOT coalesce(q.unlimited, false) AND NOT coalesce(w.unlimited, false)
                         AND CASE WHEN w.tokens_per_month IS NOT NULL THEN w.enforcement ELSE p.enforcement END <> 2 THEN
                       fair_share(coalesce(w.tokens_per_month, p.tokens_per_month),
                                  coalesce(nullif(q.fair_share_weight, 0), 1), v_weights[x.t],
                                  coalesce(w.fair_share_borrow_percent, p.fair_share_borrow_percent)) END AS share,
                   coalesce(q.unpriced_models, p.unpriced_models, 1) <> 2 AS refuse,
                   greatest(q.update_time, w.update_time, p.update_time, v_plan_time[x.t]) AS since
              FROM slots x
              LEFT JOIN LATERAL (SELECT o.* FROM quotas o
                                  WHERE o.level = x.level AND o.subject = p_slot_subject[x.n] AND o.tenant_id =
                        CASE WHEN x.level = 1 OR v_bits[x.t] & (2 * x.level - 2) > 0 THEN p_tenants[x.t] END
                                 OFFSET 0) q ON true
              LEFT JOIN LATERAL (SELECT o.* FROM quotas o WHERE o.level = 1 AND o.subject = '' AND o.tenant_id =
                        CASE WHEN x.level = 2 AND (v_bits[x.t] & 2 > 0 OR v_plan[x.t] <> '') THEN p_tenants[x.t] END
                                 OFFSET 0) w ON true
              LEFT JOIN LATERAL (SELECT o.* FROM plans o WHERE o.plan_id = nullif(v_plan[x.t], '') OFFSET 0) p ON true
        ), levels AS (
            SELECT l.*, NOT l.unlimited AND coalesce(l.day_limit, l.month_limit, l.cost_limit) IS NOT NULL
                        OR l.share IS NOT NULL AS is_limited,
                   CASE WHEN l.day_hard AND NOT l.unlimited THEN l.day_limit END AS day_most,
                   least(CASE WHEN l.month_hard AND NOT l.unlimited THEN l.month_limit END, l.share) AS month_most,
                   CASE WHEN l.cost_hard AND NOT l.unlimited THEN l.cost_limit END AS cost_most
              FROM limited l
        )
        SELECT array_agg(b.ctid ORDER BY l.n),
               array_agg(l.level = 1 OR b.ctid IS NOT NULL OR l.is_limited ORDER BY l.n),
               array_agg(l.level > 1 AND b.ctid IS NULL AND l.n = p_slot_row[l.n] AND l.is_limited
                         AND l.since > l.month::timestamp AT TIME ZONE v_zone[l.t] - interval '1 day' ORDER BY l.n),
               bool_or(l.level > 1 AND l.is_limited AND v_bits[l.t] & (2 * l.level - 2) = 0),
               bool_or(l.cost_most IS NOT NULL),
               array_agg(l.day ORDER BY l.n), array_agg(l.month ORDER BY l.n), array_agg(l.refuse ORDER BY l.n),
               array_agg(l.day_most ORDER BY l.n), array_agg(l.month_most ORDER BY l.n), array_agg(l.cost_most ORDER BY l.n),
               array_agg(coalesce(b.day_used[l.d], 0) ORDER BY l.n), array_agg(coalesce(b.day_held[l.d], 0) ORDER BY l.n),
               array_agg(coalesce(b.used, 0) ORDER BY l.n), array_agg(coalesce(b.held, 0) ORDER BY l.n),
               array_agg(coalesce(b.cost_used, 0) ORDER BY l.n), array_agg(coalesce(b.cost_held, 0) ORDER BY l.n),
               array_agg(l.day_most - coalesce(b.day_used[l.d] + b.day_held[l.d] - coalesce(b.day_topped_used[l.d], 0)
                                               - coalesce(b.day_topped_held[l.d], 0), 0) ORDER BY l.n),
               array_agg(l.month_most - coalesce(b.used + b.held - b.topped_used - b.topped_held, 0) ORDER BY l.n),
               array_agg(l.cost_most - coalesce(b.cost_used + b.cost_held, 0) ORDER BY l.n),
               array_agg(0::bigint)
          INTO v_place, v_counts, v_start, v_new_level, v_costly, v_day, v_month, v_refuse, v_day_limit, v_month_limit,
               v_cost_limit, v_day_used, v_day_held, v_used, v_held, v_cost_used, v_cost_held, v_day_left, v_left,
               v_cost_left, v_taken
          FROM levels l
          LEFT JOIN LATERAL (SELECT o.ctid, o.* FROM balances o
                              WHERE o.level = l.level AND o.subject = p_slot_subject[l.n] AND o.month = l.month
                                AND o.tenant_id = CASE WHEN l.level = 1 OR v_bits[l.t] & (2 * l.level - 2) > 0
                                                       THEN p_tenants[l.t] END
                             OFFSET 0) b ON true;
        IF v_new_level THEN
            UPDATE tenants t SET counted = t.counted | x.bits
              FROM (SELECT p_slot_tenant[n] AS at, bit_or(2 * p_slot_level[n] - 2) AS bits
                      FROM generate_series(1, cardinality(v_counts)) n WHERE v_counts[n] GROUP BY 1) x
             WHERE t.tenant_id = p_tenants[x.at];
            FOR s IN 1 .. cardinality(v_counts) LOOP
                IF v_counts[s] THEN
                    v_bits[p_slot_tenant[s]] := v_bits[p_slot_tenant[s]] | (2 * p_slot_level[s] - 2);
                END IF;
            END LOOP;
        END IF;
        EXIT WHEN array_position(v_start, true) IS NULL;
        PERFORM start_counter(p_tenants[p_slot_tenant[n]], p_slot_level[n], p_slot_subject[n], v_month[n])
           FROM generate_series(1, cardinality(v_start)) n WHERE v_start[n];
    END LOOP;
    v_cost_taken := v_taken;
    v_day_taken := v_taken;
    v_topped := v_taken;

    outcome := array_fill(3::smallint, ARRAY[v_count]);
    granted := array_fill(NULL::bigint, ARRAY[v_count]);
    granted_cost := array_fill(0::bigint, ARRAY[v_count]);
    denials := array_fill(NULL::text, ARRAY[v_count]);
    IF p_extend THEN
        SELECT array_agg(q.request_id ORDER BY n), array_agg(r.state ORDER BY n), array_agg(r.expire_time ORDER BY n),
               array_agg(r.granted ORDER BY n), array_agg(r.granted_cost ORDER BY n), array_agg(r.counted ORDER BY n),
               array_agg(r.ctid ORDER BY n)
          INTO known_id, v_state, v_lease_end, total, total_cost, v_counted, v_reservation
          FROM generate_series(1, v_count) n
          LEFT JOIN LATERAL (SELECT o.request_id FROM requests o
                              WHERE o.tenant_id = p_tenants[p_tenant[n]] AND o.method = 'ExtendReservation'
                                AND o.request_id = p_request[n] OFFSET 0) q ON true
          LEFT JOIN LATERAL (SELECT o.ctid, o.* FROM reservations o
                              WHERE o.tenant_id = p_tenants[p_tenant[n]] AND o.reservation_id = p_reservation[n]
                             OFFSET 0) r ON true;
    ELSE
        SELECT array_agg(r.reservation_id ORDER BY n) INTO known_id
          FROM generate_series(1, v_count) n
          LEFT JOIN LATERAL (SELECT o.reservation_id FROM reservations o
                              WHERE o.tenant_id = p_tenants[p_tenant[n]] AND o.request_id = p_request[n]
                             OFFSET 0) r ON true;
    END IF;
    IF v_costly THEN
        SELECT array_agg((SELECT greatest(c.input_micros, c.cached_input_micros, c.output_micros, c.reasoning_micros)
                            FROM prices c WHERE c.model = p_model[n] AND c.effective_time <= now
                           ORDER BY c.effective_time DESC LIMIT 1) ORDER BY n)
          INTO v_price FROM generate_series(1, v_count) n;
    END IF;
    IF v_top_ups THEN
        SELECT array_agg(n ORDER BY o), array_agg(top_up_id ORDER BY o), array_agg(rest ORDER BY o),
               array_agg(0::bigint)
          INTO u_tenant, u_id, u_left, u_taken
          FROM (SELECT n, u.top_up_id, u.tokens - u.used - u.held - u.ended AS rest,
                       row_number() OVER (ORDER BY n, u.priority, u.expire_time NULLS LAST, u.create_time, u.top_up_id) AS o
                  FROM generate_series(1, cardinality(p_tenants)) n
                 CROSS JOIN LATERAL (SELECT o.* FROM top_ups o
                                      WHERE o.tenant_id = p_tenants[n] AND o.used + o.held + o.ended < o.tokens
                                     OFFSET 0) u) x;
    END IF;
    IF v_children THEN
        SELECT array_agg(CASE WHEN r.parent_reservation_id <> '' THEN 0::smallint
                              WHEN r.state = 1 AND r.expire_time <= now THEN 4::smallint ELSE r.state END ORDER BY n),
               array_agg(r.granted - r.spent - r.lent ORDER BY n),
               array_agg(r.granted_cost - r.spent_cost - r.lent_cost ORDER BY n),
               array_agg(0::bigint), array_agg(0::bigint), array_agg(r.user_id ORDER BY n),
               array_agg(r.key_id ORDER BY n), array_agg(r.key_display_name ORDER BY n),
               array_agg(r.day ORDER BY n), array_agg(r.month ORDER BY n), array_agg(r.counted ORDER BY n)
          INTO v_parent_state, v_parent_left, v_parent_cost, v_parent_lent, v_parent_lent_cost, v_parent_user,
               v_parent_key, v_parent_key_name, v_parent_day, v_parent_month, v_parent_counted
          FROM generate_series(1, cardinality(p_parents)) n
          LEFT JOIN LATERAL (SELECT o.ctid, o.* FROM reservations o
                              WHERE o.tenant_id = p_tenants[p_parent_tenant[n]] AND o.reservation_id = p_parents[n]
                             OFFSET 0) r ON true;
    END IF;

    -- Each in its turn. A missing limit, and the levels that do not concern a caller, are NULL, which LEAST passes over.
    FOR i IN 1 .. v_count LOOP
        t := p_tenant[i];
        IF v_active[t] IS NULL THEN
            outcome[i] := 4; CONTINUE;
        ELSIF known_id[i] IS NOT NULL THEN
            outcome[i] := 2; CONTINUE;
        ELSIF NOT v_active[t] THEN
            outcome[i] := 5; CONTINUE;
        ELSIF p_extend AND (v_state[i] = 1 AND v_lease_end[i] > now) IS NOT TRUE THEN
            outcome[i] := CASE WHEN v_state[i] IS NULL THEN 7 WHEN v_state[i] = 2 THEN 9 ELSE 8 END; CONTINUE;
        END IF;
        IF p_parent[i] IS NOT NULL THEN
            s := p_parent[i];
            IF v_parent_state[s] IS DISTINCT FROM 1 THEN
                outcome[i] := CASE v_parent_state[s] WHEN 0 THEN 10 WHEN 2 THEN 9 WHEN 3 THEN 8 WHEN 4 THEN 8 ELSE 7 END;
                CONTINUE;
            END IF;
            v_grant := CASE WHEN p_tokens[i] = 0 THEN 0 ELSE least(p_tokens[i], v_parent_left[s]) END;
            IF v_grant < p_minimum[i] THEN
                outcome[i] := 11;
                denials[i] := v_parent_left[s];
                CONTINUE;
            END IF;
            v_cost := CASE WHEN v_grant = 0 THEN 0
                           ELSE floor(v_parent_cost[s]::numeric * v_grant / v_parent_left[s])::bigint END;
            v_parent_left[s] := v_parent_left[s] - v_grant;
            v_parent_cost[s] := v_parent_cost[s] - v_cost;
            v_parent_lent[s] := v_parent_lent[s] + v_grant;
            v_parent_lent_cost[s] := v_parent_lent_cost[s] + v_cost;
            outcome[i] := 1;
            granted[i] := v_grant;
            granted_cost[i] := v_cost;
            p_user[i] := v_parent_user[s];
            p_key[i] := v_parent_key[s];
            p_key_name[i] := v_parent_key_name[s];
            CONTINUE;
        END IF;

        ts := p_tenant_slot[i]; us := p_user_slot[i]; ks := p_key_slot[i];
        tr := p_slot_row[ts]; ur := p_slot_row[us]; kr := p_slot_row[ks];
        v_own := least(v_day_left[ts], v_left[tr]);
        v_most := least(p_tokens[i], v_day_left[us], v_left[ur], v_day_left[ks], v_left[kr]);
        v_cost := 0;
        IF v_costly AND coalesce(v_cost_left[tr], v_cost_left[ur], v_cost_left[kr]) IS NOT NULL THEN
            IF v_price[i] IS NOT NULL THEN
                v_most := least(v_most, floor(least(v_cost_left[tr], v_cost_left[ur], v_cost_left[kr])::numeric
                                              * 1000000 / nullif(v_price[i], 0)))::bigint;
            ELSIF v_refuse[tr] THEN
                outcome[i] := 6; CONTINUE;
            END IF;
        END IF;
        v_grant := least(v_most, v_own);
        v_part := 0;
        v_extra := 0;
        IF v_top_ups AND v_grant < greatest(v_most, p_minimum[i]) THEN
            v_extra := coalesce((SELECT sum(u_left[n]) FROM generate_series(1, cardinality(u_id)) n
                                  WHERE u_tenant[n] = t), 0);
            IF v_grant < v_most THEN
                v_part := least(v_most - greatest(v_own, 0), v_extra);
                v_grant := greatest(v_own, 0) + v_part;
            END IF;
        END IF;
        IF p_tokens[i] = 0 THEN
            v_grant := 0; v_part := 0;
        END IF;
        IF v_grant < p_minimum[i] THEN
            denials[i] := jsonb_build_array(
                ARRAY[v_day_limit[ts], v_month_limit[tr], v_cost_limit[tr], v_day_limit[us], v_month_limit[ur],
                      v_cost_limit[ur], v_day_limit[ks], v_month_limit[kr], v_cost_limit[kr]],
                ARRAY[v_day_used[ts], v_used[tr], v_cost_used[tr], v_day_used[us], v_used[ur], v_cost_used[ur],
                      v_day_used[ks], v_used[kr], v_cost_used[kr]],
                ARRAY[v_day_held[ts] + v_day_taken[ts], v_held[tr] + v_taken[tr], v_cost_held[tr] + v_cost_taken[tr],
                      v_day_held[us] + v_day_taken[us], v_held[ur] + v_taken[ur], v_cost_held[ur] + v_cost_taken[ur],
                      v_day_held[ks] + v_day_taken[ks], v_held[kr] + v_taken[kr], v_cost_held[kr] + v_cost_taken[kr]],
                -- What is left is not always limit - used - held: top-ups cover a part, and give more.
                ARRAY[v_day_left[ts], v_left[tr], v_cost_left[tr], v_day_left[us], v_left[ur], v_cost_left[ur],
                      v_day_left[ks], v_left[kr], v_cost_left[kr]],
                ARRAY[extract(epoch FROM (v_day[ts] + 1)::timestamp AT TIME ZONE v_zone[t] - now),
                      extract(epoch FROM (v_month[tr] + interval '1 month') AT TIME ZONE v_zone[t] - now)],
                v_extra, v_price[i]);
            CONTINUE;
        END IF;

        IF v_costly AND v_price[i] IS NOT NULL
           AND coalesce(v_cost_left[tr], v_cost_left[ur], v_cost_left[kr]) IS NOT NULL THEN
            v_cost := ceil(v_grant::numeric * v_price[i] / 1000000)::bigint;
            FOREACH s IN ARRAY ARRAY[tr, ur, kr] LOOP
                IF s IS NOT NULL THEN
                    v_cost_left[s] := v_cost_left[s] - v_cost;
                    v_cost_taken[s] := v_cost_taken[s] + v_cost;
                END IF;
            END LOOP;
        END IF;
        outcome[i] := 1;
        granted[i] := v_grant;
        granted_cost[i] := v_cost;
        v_day_left[ts] := v_day_left[ts] - v_grant + v_part;
        v_left[tr] := v_left[tr] - v_grant + v_part;
        v_day_taken[ts] := v_day_taken[ts] + v_grant;
        v_taken[tr] := v_taken[tr] + v_grant;
        -- An extension is counted where its reservation is.
        IF v_counts[us] AND (NOT p_extend OR v_counted[i] & 2 > 0) THEN
            v_day_left[us] := v_day_left[us] - v_grant;
            v_left[ur] := v_left[ur] - v_grant;
            v_day_taken[us] := v_day_taken[us] + v_grant;
            v_taken[ur] := v_taken[ur] + v_grant;
        END IF;
        IF v_counts[ks] AND (NOT p_extend OR v_counted[i] & 4 > 0) THEN
            v_day_left[ks] := v_day_left[ks] - v_grant;
            v_left[kr] := v_left[kr] - v_grant;
            v_day_taken[ks] := v_day_taken[ks] + v_grant;
            v_taken[kr] := v_taken[kr] + v_grant;
        END IF;
        FOR s IN 1 .. coalesce(cardinality(u_id), 0) LOOP
            EXIT WHEN v_part = 0;
            IF u_tenant[s] = t AND u_left[s] > 0 THEN
                v_extra := least(v_part, u_left[s]);
                u_left[s] := u_left[s] - v_extra;
                u_taken[s] := u_taken[s] + v_extra;
                d_at := d_at || i; d_id := d_id || u_id[s]; d_tokens := d_tokens || v_extra;
                v_topped[ts] := v_topped[ts] + v_extra;
                v_part := v_part - v_extra;
            END IF;
        END LOOP;
    END LOOP;

    IF p_extend THEN
        UPDATE reservations r
           SET granted = r.granted + hold.granted[n], granted_cost = r.granted_cost + hold.granted_cost[n],
               expire_time = greatest(r.expire_time, hold.now + make_interval(secs => p_lease_seconds[n])),
               extend_times = r.extend_times || hold.now,
               top_ups = CASE WHEN n = ANY (d_at) THEN r.top_ups || (SELECT array_agg(d_id[m] ORDER BY m)
                   FROM generate_series(1, cardinality(d_at)) m WHERE d_at[m] = n) ELSE r.top_ups END,
               topped = CASE WHEN n = ANY (d_at) THEN r.topped || (SELECT array_agg(d_tokens[m] ORDER BY m)
                   FROM generate_series(1, cardinality(d_at)) m WHERE d_at[m] = n) ELSE r.topped END
          FROM generate_series(1, v_count) n
         WHERE hold.granted[n] IS NOT NULL AND r.ctid = v_reservation[n];
        INSERT INTO requests (tenant_id, method, request_id, fingerprint)
        SELECT p_tenants[p_tenant[n]], 'ExtendReservation', p_request[n], p_fingerprint[n]
          FROM generate_series(1, v_count) n WHERE hold.granted[n] IS NOT NULL AND p_request[n] IS NOT NULL;
        SELECT array_agg(hold.total[n] + hold.granted[n] ORDER BY n),
               array_agg(hold.total_cost[n] + hold.granted_cost[n] ORDER BY n),
               array_agg(greatest(v_lease_end[n], hold.now + make_interval(secs => p_lease_seconds[n])) ORDER BY n)
          INTO total, total_cost, expire_times FROM generate_series(1, v_count) n;
    ELSE
        INSERT INTO reservations (tenant_id, reservation_id, user_id, key_id, key_display_name, state, granted,
                                  granted_cost, day, month, counted, model, conversation_id, assistant_id, create_time,
                                  expire_time, request_id, fingerprint)
        SELECT p_tenants[p_tenant[n]], p_reservation[n], p_user[n], p_key[n], p_key_name[n], 1, hold.granted[n],
               hold.granted_cost[n], v_day[p_tenant_slot[n]], v_month[p_tenant_slot[n]],
               CASE WHEN v_counts[p_user_slot[n]] THEN 2 ELSE 0 END + CASE WHEN v_counts[p_key_slot[n]] THEN 4 ELSE 0 END,
               p_model[n], p_conversation[n], p_assistant[n], hold.now,
               hold.now + make_interval(secs => p_lease_seconds[n]), p_request[n], p_fingerprint[n]
          FROM generate_series(1, v_count) n WHERE hold.granted[n] IS NOT NULL AND p_parent[n] IS NULL;
        IF d_at IS NOT NULL THEN
            UPDATE reservations r SET top_ups = d.ids, topped = d.tokens
              FROM (SELECT d_at[m] AS n, array_agg(d_id[m] ORDER BY m) AS ids, array_agg(d_tokens[m] ORDER BY m) AS tokens
                      FROM generate_series(1, cardinality(d_at)) m GROUP BY d_at[m]) d
             CROSS JOIN LATERAL (SELECT o.ctid FROM reservations o
                                  WHERE o.tenant_id = p_tenants[p_tenant[d.n]] AND o.reservation_id = p_reservation[d.n]
                                 OFFSET 0) f
             WHERE r.ctid = f.ctid;
        END IF;
        IF v_children THEN
            INSERT INTO reservations (tenant_id, reservation_id, user_id, key_id, key_display_name, state, granted,
                                      granted_cost, day, month, counted, model, conversation_id, assistant_id,
                                      create_time, expire_time, request_id, fingerprint, parent_reservation_id)
            SELECT p_tenants[p_tenant[n]], p_reservation[n], p_user[n], p_key[n], p_key_name[n], 1, hold.granted[n],
                   hold.granted_cost[n], v_parent_day[p_parent[n]], v_parent_month[p_parent[n]],
                   v_parent_counted[p_parent[n]], p_model[n], p_conversation[n], p_assistant[n], hold.now,
                   hold.now + make_interval(secs => p_lease_seconds[n]), p_request[n], p_fingerprint[n],
                   p_parents[p_parent[n]]
              FROM generate_series(1, v_count) n
             WHERE hold.granted[n] IS NOT NULL AND p_parent[n] IS NOT NULL;
            UPDATE tenants SET counted = counted | 16 WHERE tenant_id = ANY (p_tenants) AND counted & 16 = 0;
        END IF;
    END IF;
    IF v_children THEN
        holders := p_user;
        UPDATE reservations r SET lent = r.lent + v_parent_lent[n], lent_cost = r.lent_cost + v_parent_lent_cost[n]
          FROM generate_series(1, cardinality(p_parents)) n
         CROSS JOIN LATERAL (SELECT o.ctid FROM reservations o
                              WHERE o.tenant_id = p_tenants[p_parent_tenant[n]] AND o.reservation_id = p_parents[n]
                             OFFSET 0) f
         WHERE r.ctid = f.ctid AND v_parent_lent[n] > 0;
    END IF;

    -- A child moves nothing: its parent holds what it holds.
    INSERT INTO ledger (tenant_id, create_time, kind, reservation_id, parent_reservation_id, user_id, key_id,
                        key_display_name, model, conversation_id, assistant_id, available_delta, held_delta, used_delta,
                        cost_micros)
    SELECT p_tenants[p_tenant[n]], hold.now, 1, p_reservation[n], coalesce(p_parents[p_parent[n]], ''), p_user[n],
           p_key[n], p_key_name[n], p_model[n], p_conversation[n], p_assistant[n],
           CASE WHEN p_parent[n] IS NULL THEN -hold.granted[n] ELSE 0 END,
           CASE WHEN p_parent[n] IS NULL THEN hold.granted[n] ELSE 0 END, 0, 0
      FROM generate_series(1, v_count) n WHERE hold.granted[n] IS NOT NULL;

    UPDATE balances b
       SET held = b.held + v_taken[n], cost_held = b.cost_held + v_cost_taken[n],
           day_held[extract(day FROM v_day[n])::int] = b.day_held[extract(day FROM v_day[n])::int] + v_day_taken[n]
      FROM generate_series(1, cardinality(v_place)) n
     WHERE b.ctid = v_place[n] AND p_slot_row[n] = n AND v_taken[n] > 0;
    IF array_position(v_place, NULL) IS NOT NULL THEN
        INSERT INTO balances (tenant_id, level, subject, month, held, cost_held, day_held)
        SELECT p_tenants[p_slot_tenant[n]], p_slot_level[n], p_slot_subject[n], v_month[n], v_taken[n], v_cost_taken[n],
               array_fill(0::bigint, ARRAY[extract(day FROM v_day[n])::int - 1]) || v_day_taken[n]
               || array_fill(0::bigint, ARRAY[31 - extract(day FROM v_day[n])::int])
          FROM generate_series(1, cardinality(v_place)) n
         WHERE v_place[n] IS NULL AND p_slot_row[n] = n AND v_taken[n] > 0;
    END IF;
    -- Two days of a month, of extensions only; and what top-ups cover.
    IF p_extend OR d_at IS NOT NULL THEN
        FOR s IN 1 .. cardinality(v_place) LOOP
            IF p_slot_row[s] <> s AND v_day_taken[s] > 0 THEN
                v_count := extract(day FROM v_day[s]);
                UPDATE balances b SET day_held[v_count] = b.day_held[v_count] + v_day_taken[s]
                 WHERE b.tenant_id = p_tenants[p_slot_tenant[s]] AND b.level = p_slot_level[s]
                   AND b.subject = p_slot_subject[s] AND b.month = v_month[s];
            END IF;
            IF v_topped[s] > 0 THEN
                PERFORM top(p_tenants[p_slot_tenant[s]], v_day[s], v_topped[s], 0);
            END IF;
        END LOOP;
    END IF;
    IF d_at IS NOT NULL THEN
        UPDATE top_ups u SET held = u.held + u_taken[n]
          FROM generate_series(1, cardinality(u_id)) n
         CROSS JOIN LATERAL (SELECT o.ctid FROM top_ups o
                              WHERE o.tenant_id = p_tenants[u_tenant[n]] AND o.top_up_id = u_id[n] OFFSET 0) f
         WHERE u.ctid = f.ctid AND u_taken[n] > 0;
    END IF;
END $$;

-- Moves reservations out of the state "held": target 2 commits, 3 releases, 4 expires those whose lease ended.
-- A lease that ended makes every movement an expiry, and the end of a parent ends its children. Returns those that moved
-- by this call; the caller reads what became of the others.
CREATE OR REPLACE FUNCTION settle(
    p_tenants text[], p_tenant int[], p_reservation text[], p_target smallint[],
    p_input bigint[], p_cached bigint[], p_output bigint[], p_reasoning bigint[],
    p_source smallint[], p_cost bigint[], p_model text[]
) RETURNS reservations[] LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET enable_memoize = off
AS $$
#variable_conflict use_column
DECLARE
    v_named text := set_config('app.tenants', jsonb_object(p_tenants, p_tenants)::text, true);  -- no statement for it
    v_now timestamptz;
    v_count int := cardinality(p_tenant);
    v_seen smallint;
    v_prices boolean;
    v_moved reservations[]; v_children reservations[]; v_orphans reservations[];
    v_days date[]; v_day date; v_groups int; v_updated int;
BEGIN
    SELECT bit_or(x.counted) INTO v_seen
      FROM generate_series(1, cardinality(p_tenants)) n
     CROSS JOIN LATERAL (SELECT t.counted FROM tenants t WHERE t.tenant_id = p_tenants[n] FOR NO KEY UPDATE) x;
    v_now := clock_timestamp();
    v_prices := EXISTS (SELECT FROM prices);

    -- Children first: what they use, their parents hold no more.
    IF v_seen & 16 > 0 THEN
        WITH moved AS (
            UPDATE reservations r
               SET state = e.state, settle_time = v_now, model = e.model,
                   input_tokens = CASE WHEN e.state = 2 THEN p_input[n] END,
                   cached_input_tokens = CASE WHEN e.state = 2 THEN p_cached[n] END,
                   output_tokens = CASE WHEN e.state = 2 THEN p_output[n] END,
                   reasoning_tokens = CASE WHEN e.state = 2 THEN p_reasoning[n] END,
                   usage_source = CASE WHEN e.state = 2 THEN p_source[n] END,
                   cost_micros = e.cost, priced = e.price IS NOT NULL,
                   spent = CASE WHEN e.state = 2
                                THEN least(c.granted, p_input[n] + p_cached[n] + p_output[n] + p_reasoning[n]) ELSE 0 END,
                   spent_cost = least(c.granted_cost, e.cost)
              FROM generate_series(1, v_count) n
             CROSS JOIN LATERAL (SELECT o.ctid, o.* FROM reservations o
                                  WHERE o.tenant_id = p_tenants[p_tenant[n]] AND o.reservation_id = p_reservation[n]
                                    AND o.state < 2 AND o.parent_reservation_id <> '' OFFSET 0) c
             CROSS JOIN LATERAL (SELECT o.expire_time FROM reservations o
                                  WHERE o.tenant_id = c.tenant_id AND o.reservation_id = c.parent_reservation_id
                                 OFFSET 0) p
             CROSS JOIN LATERAL (SELECT CASE WHEN least(c.expire_time, p.expire_time) <= v_now THEN 4::smallint
                                             ELSE p_target[n] END AS state,
                                        coalesce(nullif(p_model[n], ''), c.model) AS model) k
             CROSS JOIN LATERAL (SELECT CASE WHEN v_prices AND k.state = 2 THEN price_of(
                 k.model, c.create_time, p_input[n], p_cached[n], p_output[n], p_reasoning[n]) END AS price) f
             CROSS JOIN LATERAL (SELECT k.state, k.model, f.price,
                                        CASE WHEN k.state = 2 THEN coalesce(f.price, p_cost[n]) ELSE 0 END AS cost) e
             WHERE r.ctid = c.ctid
               AND (p_target[n] <> 4 OR e.state = 4 AND least(c.expire_time, p.expire_time) <= v_now)
            RETURNING r
        )
        SELECT array_agg(m.r) INTO v_children FROM moved m;
        UPDATE reservations p
           SET spent = p.spent + x.spent, spent_cost = p.spent_cost + x.spent_cost, lent = p.lent - x.lent,
               lent_cost = p.lent_cost - x.lent_cost, child_tokens = p.child_tokens + x.used
          FROM (SELECT tenant_id, parent_reservation_id, sum(spent)::bigint AS spent, sum(granted)::bigint AS lent,
                       sum(spent_cost)::bigint AS spent_cost, sum(granted_cost)::bigint AS lent_cost,
                       sum(coalesce(input_tokens + cached_input_tokens + output_tokens + reasoning_tokens, 0))::bigint AS used
                  FROM unnest(v_children) GROUP BY tenant_id, parent_reservation_id) x
         CROSS JOIN LATERAL (SELECT o.ctid FROM reservations o
                              WHERE o.tenant_id = x.tenant_id AND o.reservation_id = x.parent_reservation_id OFFSET 0) f
         WHERE p.ctid = f.ctid;
    END IF;

    -- `state < 2` means held; `state = 1` would lure the planner into the index of the sweeper.
    WITH moved AS (
        UPDATE reservations r
           SET state = CASE WHEN f.is_late THEN 4 ELSE p_target[n] END,
               input_tokens = CASE WHEN NOT f.is_late THEN p_input[n] END,
               cached_input_tokens = CASE WHEN NOT f.is_late THEN p_cached[n] END,
               output_tokens = CASE WHEN NOT f.is_late THEN p_output[n] END,
               reasoning_tokens = CASE WHEN NOT f.is_late THEN p_reasoning[n] END,
               usage_source = CASE WHEN NOT f.is_late THEN p_source[n] END,
               cost_micros = CASE WHEN f.is_late THEN 0 ELSE coalesce(f.price, p_cost[n]) END,
               priced = f.price IS NOT NULL,
               model = coalesce(nullif(p_model[n], ''), r.model),
               settle_time = v_now
          FROM generate_series(1, v_count) n
         CROSS JOIN LATERAL (
            SELECT o.ctid, o.expire_time <= v_now AS is_late,
                   CASE WHEN v_prices AND p_target[n] = 2 AND o.expire_time > v_now THEN price_of(
                       coalesce(nullif(p_model[n], ''), o.model), o.create_time, p_input[n], p_cached[n], p_output[n],
                       p_reasoning[n]) END AS price
              FROM reservations o
             WHERE o.tenant_id = p_tenants[p_tenant[n]] AND o.reservation_id = p_reservation[n]
               AND o.state < 2 AND o.parent_reservation_id = '' AND (p_target[n] <> 4 OR o.expire_time <= v_now)
            OFFSET 0) f
         WHERE r.ctid = f.ctid
        RETURNING r
    )
    SELECT array_agg(m.r) INTO v_moved FROM moved m;
    IF v_seen & 16 > 0 THEN
        WITH moved AS (
            UPDATE reservations c SET state = 4, settle_time = v_now
              FROM unnest(v_moved) m
             CROSS JOIN LATERAL (SELECT o.ctid FROM reservations o
                                  WHERE o.tenant_id = m.tenant_id AND o.parent_reservation_id = m.reservation_id
                                    AND o.parent_reservation_id <> '' AND o.state < 2 OFFSET 0) f
             WHERE m.lent > 0 AND c.ctid = f.ctid
            RETURNING c
        )
        SELECT array_agg(m.c) INTO v_orphans FROM moved m;
        v_moved := v_children || v_moved || v_orphans;
    END IF;
    IF v_moved IS NULL THEN
        RETURN NULL;
    END IF;

    INSERT INTO ledger (tenant_id, create_time, kind, reservation_id, parent_reservation_id, user_id, key_id,
                        key_display_name, model, conversation_id, assistant_id, available_delta, held_delta, used_delta,
                        input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, usage_source, cost_micros,
                        priced)
    SELECT m.tenant_id, v_now, m.state, m.reservation_id, m.parent_reservation_id, m.user_id, m.key_id,
           m.key_display_name, m.model, m.conversation_id, m.assistant_id, h.held - h.used, -h.held, h.used,
           m.input_tokens, m.cached_input_tokens, m.output_tokens, m.reasoning_tokens, m.usage_source, m.cost_micros,
           m.priced
      FROM unnest(v_moved) m
     CROSS JOIN LATERAL (
        SELECT CASE WHEN m.parent_reservation_id = '' THEN m.granted - m.spent ELSE m.spent END AS held,
               coalesce(m.input_tokens + m.cached_input_tokens + m.output_tokens + m.reasoning_tokens, 0) AS used) h;

    -- A day at a time, because a statement changes a row once; a batch has more than one around a midnight only.
    SELECT array_agg(DISTINCT m.day) INTO v_days FROM unnest(v_moved) m;
    FOREACH v_day IN ARRAY v_days LOOP
        UPDATE balances b
           SET held = b.held - x.held, used = b.used + x.used,
               cost_held = b.cost_held - x.cost_held, cost_used = b.cost_used + x.cost_used,
               day_held[extract(day FROM v_day)::int] = b.day_held[extract(day FROM v_day)::int] - x.held,
               day_used[extract(day FROM v_day)::int] = b.day_used[extract(day FROM v_day)::int] + x.used
          FROM (SELECT m.tenant_id, l.level, l.subject, m.month,
                       sum(CASE WHEN m.parent_reservation_id = '' THEN m.granted - m.spent ELSE m.spent END)::bigint AS held,
                       sum(CASE WHEN m.parent_reservation_id = '' THEN m.granted_cost - m.spent_cost
                                ELSE m.spent_cost END)::bigint AS cost_held,
                       sum(coalesce(m.input_tokens + m.cached_input_tokens + m.output_tokens + m.reasoning_tokens, 0)
                           )::bigint AS used,
                       sum(m.cost_micros)::bigint AS cost_used
                  FROM unnest(v_moved) m
                 CROSS JOIN LATERAL (
                    SELECT 1::smallint AS level, ''::text AS subject
                     UNION ALL SELECT 2::smallint, m.user_id WHERE m.counted & 2 > 0
                     UNION ALL SELECT 3::smallint, m.key_id WHERE m.counted & 4 > 0) l
                 WHERE m.day = v_day
                 GROUP BY m.tenant_id, l.level, l.subject, m.month) x
         CROSS JOIN LATERAL (SELECT o.ctid FROM balances o
                              WHERE o.tenant_id = x.tenant_id AND o.level = x.level AND o.subject = x.subject
                                AND o.month = x.month OFFSET 0) f
         WHERE b.ctid = f.ctid;
    END LOOP;

    WITH told AS MATERIALIZED (
        SELECT m.tenant_id, m.day, m.user_id, m.key_id, m.model, count(*) AS requests,
               sum(m.input_tokens)::bigint AS input_tokens, sum(m.cached_input_tokens)::bigint AS cached_input_tokens,
               sum(m.output_tokens)::bigint AS output_tokens, sum(m.reasoning_tokens)::bigint AS reasoning_tokens,
               sum(m.cost_micros)::bigint AS cost_micros
          FROM unnest(v_moved) m WHERE m.state = 2
         GROUP BY m.tenant_id, m.day, m.user_id, m.key_id, m.model
    ), added AS (
        UPDATE usage_days u
           SET requests = u.requests + t.requests, input_tokens = u.input_tokens + t.input_tokens,
               cached_input_tokens = u.cached_input_tokens + t.cached_input_tokens,
               output_tokens = u.output_tokens + t.output_tokens,
               reasoning_tokens = u.reasoning_tokens + t.reasoning_tokens, cost_micros = u.cost_micros + t.cost_micros
          FROM told t
         CROSS JOIN LATERAL (SELECT o.ctid FROM usage_days o
                              WHERE o.tenant_id = t.tenant_id AND o.day = t.day AND o.user_id = t.user_id
                                AND o.key_id = t.key_id AND o.model = t.model OFFSET 0) f
         WHERE u.ctid = f.ctid
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM told), (SELECT count(*) FROM added) INTO v_groups, v_updated;
    IF v_groups > v_updated THEN
        INSERT INTO usage_days
        SELECT m.tenant_id, m.day, m.user_id, m.key_id, m.model, count(*), sum(m.input_tokens),
               sum(m.cached_input_tokens), sum(m.output_tokens), sum(m.reasoning_tokens), sum(m.cost_micros)
          FROM unnest(v_moved) m
         WHERE m.state = 2 AND NOT EXISTS (
            SELECT FROM usage_days u WHERE u.tenant_id = m.tenant_id AND u.day = m.day AND u.user_id = m.user_id
                                       AND u.key_id = m.key_id AND u.model = m.model OFFSET 0)
         GROUP BY m.tenant_id, m.day, m.user_id, m.key_id, m.model;
    END IF;
    IF v_seen & 8 > 0 THEN
        PERFORM settle_draw(m) FROM unnest(v_moved) m WHERE m.top_ups IS NOT NULL;
        PERFORM end_top_ups(p_tenants, v_now);
    END IF;
    RETURN v_moved;
END $$;

