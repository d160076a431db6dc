-- A user or key that begins to be counted while children are open: what these use is counted, too. Before, they moved
-- their parents' counters at the tenant alone, and what they had used stayed held for ever.

-- Begins to count a user (level 2) or key (3) in the middle of a month: from what it has used and what it holds.
-- Children hold a part of what their parents hold: they are marked, and add nothing.
CREATE OR REPLACE FUNCTION start_counter(p_tenant text, p_level smallint, p_subject text, p_month date) RETURNS void
LANGUAGE sql AS $$
    WITH marked AS (
        UPDATE reservations r SET counted = r.counted | (2 * (p_level - 1))
         WHERE r.state = 1 AND r.expire_time > '-infinity' AND r.tenant_id = p_tenant AND r.month = p_month
           AND CASE p_level WHEN 2 THEN r.user_id ELSE r.key_id END = p_subject
        RETURNING r.day, r.granted - r.spent AS held, r.granted_cost - r.spent_cost AS cost, r.parent_reservation_id
    ), open AS (
        SELECT day, held, cost FROM marked WHERE parent_reservation_id = ''
    ), past AS (
        SELECT u.day, sum(input_tokens + cached_input_tokens + output_tokens + reasoning_tokens)::bigint AS used,
               sum(cost_micros)::bigint AS cost
          FROM usage_days u
         WHERE u.tenant_id = p_tenant AND u.day >= p_month AND u.day < p_month + interval '1 month'
           AND CASE p_level WHEN 2 THEN u.user_id ELSE u.key_id END = p_subject
         GROUP BY u.day
    ), days AS (
        SELECT n, coalesce((SELECT used FROM past WHERE day = p_month + n), 0) AS used,
               coalesce((SELECT sum(held) FROM open WHERE day = p_month + n), 0)::bigint AS held
          FROM generate_series(0, 30) n
    )
    INSERT INTO balances (tenant_id, level, subject, month, used, held, cost_used, cost_held, day_used, day_held)
    SELECT p_tenant, p_level, p_subject, p_month, sum(used), sum(held),
           coalesce((SELECT sum(cost) FROM past), 0), coalesce((SELECT sum(cost) FROM open), 0),
           array_agg(used ORDER BY n), array_agg(held ORDER BY n)
      FROM days
$$;

-- Those that are open now.
ALTER TABLE reservations NO FORCE ROW LEVEL SECURITY;
UPDATE reservations c SET counted = p.counted
  FROM reservations p
 WHERE c.state = 1 AND c.parent_reservation_id <> '' AND p.tenant_id = c.tenant_id
   AND p.reservation_id = c.parent_reservation_id AND c.counted <> p.counted;
ALTER TABLE reservations FORCE ROW LEVEL SECURITY;
