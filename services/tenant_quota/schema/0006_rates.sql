-- Requests per minute: what each of these subjects (level 1 the tenant, 2 a user, 3 an API key) may make, by its own quota
-- or else by the tenant's plan; NULL is no limit.
CREATE FUNCTION rate_limits(p_tenant text[], p_level smallint[], p_subject text[])
RETURNS TABLE (n bigint, requests_per_minute integer) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenants', jsonb_object(p_tenant, p_tenant)::text, true);
    RETURN QUERY
    SELECT a.n, coalesce(q.requests_per_minute, CASE a.level WHEN 1 THEN p.requests_per_minute
                                                             WHEN 2 THEN p.user_requests_per_minute
                                                             ELSE p.key_requests_per_minute END)
      FROM unnest(p_tenant, p_level, p_subject) WITH ORDINALITY a(tenant_id, level, subject, n)
      JOIN tenants t ON t.tenant_id = a.tenant_id
      LEFT JOIN plans p ON p.plan_id = t.plan_id
      LEFT JOIN quotas q ON q.tenant_id = a.tenant_id AND q.level = a.level AND q.subject = a.subject;
END $$;
