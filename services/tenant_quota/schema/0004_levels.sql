-- The account at three levels at once (tenant, user, API key), in tokens and in money; top-ups; usage by day.
--
-- What was kept stays, to the token: the old counters, quotas and entries are carried over.

-- The migration may run as an owner whom row-level security would bind, too.
ALTER TABLE tenants NO FORCE ROW LEVEL SECURITY;
ALTER TABLE users NO FORCE ROW LEVEL SECURITY;
ALTER TABLE quotas NO FORCE ROW LEVEL SECURITY;
ALTER TABLE balances NO FORCE ROW LEVEL SECURITY;
ALTER TABLE reservations NO FORCE ROW LEVEL SECURITY;
ALTER TABLE ledger NO FORCE ROW LEVEL SECURITY;

-- Plans and prices belong to the platform: everybody reads them, the platform writes them.
CREATE TABLE plans (
    plan_id      text COLLATE "C" PRIMARY KEY,
    display_name text NOT NULL,
    tokens_per_day            bigint CHECK (tokens_per_day >= 0),
    tokens_per_month          bigint CHECK (tokens_per_month >= 0),
    cost_micros_per_month     bigint CHECK (cost_micros_per_month >= 0),
    requests_per_minute       integer CHECK (requests_per_minute >= 0),
    enforcement               smallint NOT NULL DEFAULT 1,
    threshold_percents        integer[] NOT NULL DEFAULT '{}',
    unpriced_models           smallint NOT NULL DEFAULT 1,  -- 1 refuse, 2 admit
    fair_share_borrow_percent integer CHECK (fair_share_borrow_percent >= 0),
    -- What each user and each key of the tenant may at the most, unless its own quota says otherwise.
    user_tokens_per_day       bigint CHECK (user_tokens_per_day >= 0),
    user_tokens_per_month     bigint CHECK (user_tokens_per_month >= 0),
    user_requests_per_minute  integer CHECK (user_requests_per_minute >= 0),
    key_tokens_per_day        bigint CHECK (key_tokens_per_day >= 0),
    key_tokens_per_month      bigint CHECK (key_tokens_per_month >= 0),
    key_requests_per_minute   integer CHECK (key_requests_per_minute >= 0),
    create_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
    update_time  timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE plans ENABLE ROW LEVEL SECURITY;
ALTER TABLE plans FORCE ROW LEVEL SECURITY;
CREATE POLICY everybody_reads ON plans FOR SELECT USING (true);
CREATE POLICY platform ON plans
    USING ((SELECT current_setting('app.tenant', true)) = '*')
    WITH CHECK ((SELECT current_setting('app.tenant', true)) = '*');

-- In millionths of the currency per million tokens, from effective_time on until the model's next price.
CREATE TABLE prices (
    model               text COLLATE "C" NOT NULL,
    effective_time      timestamptz NOT NULL,
    input_micros        bigint NOT NULL CHECK (input_micros >= 0),
    cached_input_micros bigint NOT NULL CHECK (cached_input_micros >= 0),
    output_micros       bigint NOT NULL CHECK (output_micros >= 0),
    reasoning_micros    bigint NOT NULL CHECK (reasoning_micros >= 0),
    create_time         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (model, effective_time)
);
ALTER TABLE prices ENABLE ROW LEVEL SECURITY;
ALTER TABLE prices FORCE ROW LEVEL SECURITY;
CREATE POLICY everybody_reads ON prices FOR SELECT USING (true);
CREATE POLICY platform ON prices
    USING ((SELECT current_setting('app.tenant', true)) = '*')
    WITH CHECK ((SELECT current_setting('app.tenant', true)) = '*');

-- `counted` says what the account has to look for, so that nobody pays for what they do not use. Bits are set by the
-- first use and never cleared: 2 a user is counted, 4 a key is counted, 8 top-ups, 16 child reservations.
-- `share_weights` is the sum of the weights of the active users, kept by the triggers below.
ALTER TABLE tenants
    ADD COLUMN plan_id       text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN plan_time     timestamptz,  -- when the plan was given
    ADD COLUMN counted       smallint NOT NULL DEFAULT 0,
    ADD COLUMN share_weights bigint NOT NULL DEFAULT 0;

-- Level 1 is the tenant as a whole (subject ''), 2 a user, 3 an API key.
ALTER TABLE quotas RENAME COLUMN user_id TO subject;
ALTER TABLE quotas
    ADD COLUMN level                     smallint NOT NULL DEFAULT 1 CHECK (level BETWEEN 1 AND 3),
    ADD COLUMN cost_micros_per_month     bigint CHECK (cost_micros_per_month >= 0),
    ADD COLUMN requests_per_minute       integer CHECK (requests_per_minute >= 0),
    ADD COLUMN threshold_percents        integer[] NOT NULL DEFAULT '{}',
    ADD COLUMN unlimited                 boolean NOT NULL DEFAULT false,
    ADD COLUMN unpriced_models           smallint,
    ADD COLUMN fair_share_borrow_percent integer CHECK (fair_share_borrow_percent >= 0),
    ADD COLUMN fair_share_weight         integer NOT NULL DEFAULT 0 CHECK (fair_share_weight >= 0);
UPDATE quotas SET level = 2 WHERE subject <> '';
ALTER TABLE quotas ALTER COLUMN level DROP DEFAULT;
ALTER TABLE quotas DROP CONSTRAINT quotas_pkey;
ALTER TABLE quotas ADD CONSTRAINT quotas_pkey PRIMARY KEY (tenant_id, level, subject);

-- A row a subject and month; its days are places in arrays. So a movement changes one row a level.
ALTER TABLE balances RENAME TO old_balances;
ALTER INDEX balances_pkey RENAME TO old_balances_pkey;
CREATE TABLE balances (
    tenant_id   text COLLATE "C" NOT NULL,
    level       smallint NOT NULL,
    subject     text COLLATE "C" NOT NULL,
    month       date NOT NULL,                -- its first day
    used        bigint NOT NULL DEFAULT 0 CHECK (used >= 0),
    held        bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
    cost_used   bigint NOT NULL DEFAULT 0 CHECK (cost_used >= 0),
    cost_held   bigint NOT NULL DEFAULT 0 CHECK (cost_held >= 0),
    day_used    bigint[] NOT NULL DEFAULT array_fill(0::bigint, ARRAY[31]),
    day_held    bigint[] NOT NULL DEFAULT array_fill(0::bigint, ARRAY[31]) CHECK (0 <= ALL (day_held)),
    -- Of the tenant as a whole: what of the above a top-up covers, which does not count against the limits.
    topped_used bigint NOT NULL DEFAULT 0 CHECK (topped_used >= 0),
    topped_held bigint NOT NULL DEFAULT 0 CHECK (topped_held >= 0),
    day_topped_used bigint[] NOT NULL DEFAULT '{}',  -- both empty until the first
    day_topped_held bigint[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, level, subject, month)
) WITH (fillfactor = 50);
INSERT INTO balances (tenant_id, level, subject, month, used, held, cost_used, day_used, day_held)
SELECT b.tenant_id, CASE b.user_id WHEN '' THEN 1 ELSE 2 END, b.user_id, b.period_start, b.used, b.held,
       coalesce((SELECT sum(r.cost_micros) FROM reservations r
                  WHERE r.tenant_id = b.tenant_id AND r.month = b.period_start AND b.user_id IN ('', r.user_id)), 0),
       d.used, d.held
  FROM old_balances b
 CROSS JOIN LATERAL (SELECT array_agg(coalesce(x.used, 0) ORDER BY n) AS used,
                            array_agg(coalesce(x.held, 0) ORDER BY n) AS held
                       FROM generate_series(0, 30) n
                       LEFT JOIN old_balances x ON x.tenant_id = b.tenant_id AND x.user_id = b.user_id
                                               AND x."window" = 1 AND x.period_start = b.period_start + n
                                               AND date_trunc('month', x.period_start) = b.period_start) d
 WHERE b."window" = 2;
DROP TABLE old_balances;

CREATE TABLE top_ups (
    tenant_id   text COLLATE "C" NOT NULL,
    top_up_id   text COLLATE "C" NOT NULL,
    tokens      bigint NOT NULL CHECK (tokens > 0),
    used        bigint NOT NULL DEFAULT 0 CHECK (used >= 0),
    held        bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
    ended       bigint NOT NULL DEFAULT 0 CHECK (ended >= 0),  -- taken back when it expired or was revoked
    priority    integer NOT NULL,
    reason      text NOT NULL,
    expire_time timestamptz,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, top_up_id),
    CHECK (used + held + ended <= tokens)
) WITH (fillfactor = 70);
CREATE INDEX top_ups_newest ON top_ups (tenant_id, create_time, top_up_id);
CREATE INDEX top_ups_left ON top_ups (tenant_id, priority, expire_time, create_time)
    WHERE used + held + ended < tokens;
CREATE INDEX top_ups_to_end ON top_ups (expire_time) WHERE used + held + ended < tokens;

-- `counted` has the bits of tenants.counted at which it is counted beside the tenant as a whole.
-- A child has its parent's user, key and periods; it moves its parent's counters. `spent` is what of `granted` is held
-- no more: of a parent what its children have used, of a child what it has used itself; `lent` is held by open children.
ALTER TABLE reservations
    ADD COLUMN parent_reservation_id text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN counted          smallint NOT NULL DEFAULT 0,
    ADD COLUMN granted_cost     bigint NOT NULL DEFAULT 0 CHECK (granted_cost >= 0),
    ADD COLUMN spent            bigint NOT NULL DEFAULT 0,
    ADD COLUMN spent_cost       bigint NOT NULL DEFAULT 0,
    ADD COLUMN lent             bigint NOT NULL DEFAULT 0,
    ADD COLUMN lent_cost        bigint NOT NULL DEFAULT 0,
    ADD COLUMN child_tokens     bigint NOT NULL DEFAULT 0,
    ADD COLUMN priced           boolean NOT NULL DEFAULT false,
    ADD COLUMN key_display_name text NOT NULL DEFAULT '',
    ADD COLUMN extend_times     timestamptz[],
    ADD COLUMN top_ups          text[],    -- drawn on, in this order,
    ADD COLUMN topped           bigint[],  -- and how much; after the end, how much of it was used
    ADD CHECK (spent + lent <= granted OR state > 1),
    SET (fillfactor = 50);
UPDATE reservations SET counted = 2 WHERE user_id <> '';
CREATE INDEX reservations_children ON reservations (tenant_id, parent_reservation_id)
    WHERE parent_reservation_id <> '';

-- Each entry adds up: what is issued, available, held and used changes by zero together.
ALTER TABLE ledger
    ADD COLUMN issued_delta          bigint NOT NULL DEFAULT 0,
    ADD COLUMN available_delta       bigint,
    ADD COLUMN parent_reservation_id text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN top_up_id             text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN key_display_name      text NOT NULL DEFAULT '',
    ADD COLUMN priced                boolean NOT NULL DEFAULT false;
UPDATE ledger e SET available_delta = -(held_delta + used_delta),
                    key_display_name = coalesce((SELECT k.display_name FROM api_keys k
                                                  WHERE k.key_id = e.key_id AND k.tenant_id = e.tenant_id), '');
ALTER TABLE ledger
    ALTER COLUMN available_delta SET NOT NULL,
    ADD CONSTRAINT ledger_adds_up CHECK (issued_delta + available_delta + held_delta + used_delta = 0);

-- What was used, for reports and statements: they never read the ledger. `day` is the reservation's.
CREATE TABLE usage_days (
    tenant_id text COLLATE "C" NOT NULL,
    day       date NOT NULL,
    user_id   text COLLATE "C" NOT NULL,
    key_id    text COLLATE "C" NOT NULL,
    model     text COLLATE "C" NOT NULL,
    requests            bigint NOT NULL,
    input_tokens        bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    output_tokens       bigint NOT NULL,
    reasoning_tokens    bigint NOT NULL,
    cost_micros         bigint NOT NULL,
    PRIMARY KEY (tenant_id, day, user_id, key_id, model)
) WITH (fillfactor = 50);
INSERT INTO usage_days
SELECT tenant_id, day, user_id, key_id, model, count(*), sum(input_tokens), sum(cached_input_tokens),
       sum(output_tokens), sum(reasoning_tokens), sum(cost_micros)
  FROM reservations WHERE state = 2 GROUP BY tenant_id, day, user_id, key_id, model;

UPDATE tenants t SET counted = 2
 WHERE EXISTS (SELECT FROM balances b WHERE b.tenant_id = t.tenant_id AND b.level = 2)
    OR EXISTS (SELECT FROM quotas q WHERE q.tenant_id = t.tenant_id AND q.level = 2);
UPDATE tenants t SET share_weights = (SELECT count(*) FROM users u WHERE u.tenant_id = t.tenant_id AND u.active);

-- A weight counts while its user is active; 1 when no quota says otherwise.
CREATE FUNCTION weight_of(p_tenant text, p_user text) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT nullif(q.fair_share_weight, 0) FROM quotas q
                      WHERE q.tenant_id = p_tenant AND q.level = 2 AND q.subject = p_user), 1)
$$;
-- The tenant's row is locked first, so that of two changes at once the second sees the first.
CREATE FUNCTION users_change_weights() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_row users := coalesce(NEW, OLD);
    v_change integer := coalesce(NEW.active, false)::int - coalesce(OLD.active, false)::int;
BEGIN
    IF v_change <> 0 THEN
        PERFORM 1 FROM tenants WHERE tenant_id = v_row.tenant_id FOR NO KEY UPDATE;
        UPDATE tenants SET share_weights = share_weights + v_change * weight_of(v_row.tenant_id, v_row.user_id)
         WHERE tenant_id = v_row.tenant_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER weights AFTER INSERT OR UPDATE OF active OR DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION users_change_weights();
CREATE FUNCTION quotas_change_weights() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_row quotas := coalesce(NEW, OLD);
    v_change integer := coalesce(nullif(NEW.fair_share_weight, 0), 1) - coalesce(nullif(OLD.fair_share_weight, 0), 1);
BEGIN
    IF v_row.level = 2 AND v_change <> 0 THEN
        PERFORM 1 FROM tenants WHERE tenant_id = v_row.tenant_id FOR NO KEY UPDATE;
        UPDATE tenants SET share_weights = share_weights + v_change
         WHERE tenant_id = v_row.tenant_id
           AND EXISTS (SELECT FROM users u
                        WHERE u.tenant_id = v_row.tenant_id AND u.user_id = v_row.subject AND u.active);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER weights AFTER INSERT OR UPDATE OF fair_share_weight OR DELETE ON quotas
    FOR EACH ROW EXECUTE FUNCTION quotas_change_weights();

ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
ALTER TABLE users FORCE ROW LEVEL SECURITY;
ALTER TABLE quotas FORCE ROW LEVEL SECURITY;
ALTER TABLE reservations FORCE ROW LEVEL SECURITY;
ALTER TABLE ledger FORCE ROW LEVEL SECURITY;

-- The account notes in a tenant's row what it has to look for.
DROP POLICY named_tenants ON tenants;
CREATE POLICY named_tenants ON tenants
    USING ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id)
    WITH CHECK ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);
-- Extensions are repeated safely, as other writes are.
CREATE POLICY named_tenants ON requests
    USING ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id)
    WITH CHECK ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);

ALTER TABLE balances ENABLE ROW LEVEL SECURITY;
ALTER TABLE balances FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON balances
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY named_tenants ON balances
    USING ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id)
    WITH CHECK ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);

ALTER TABLE top_ups ENABLE ROW LEVEL SECURITY;
ALTER TABLE top_ups FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON top_ups
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY named_tenants ON top_ups
    USING ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id)
    WITH CHECK ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);
-- The sweeper finds those that have expired, whosever they are.
CREATE POLICY sweeper_reads ON top_ups FOR SELECT USING ((SELECT current_setting('app.tenant', true)) = '*');

ALTER TABLE usage_days ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_days FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON usage_days FOR SELECT
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY named_tenants ON usage_days
    USING ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id)
    WITH CHECK ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);
