-- Limits, counters, reservations and the ledger that explains every change of a counter.
--
-- Statements that serve several tenants at once (one per event-loop tick) name them in app.tenants, the keys of a JSON
-- object, and see only those.

CREATE TABLE quotas (
    tenant_id        text COLLATE "C" NOT NULL,
    user_id          text COLLATE "C" NOT NULL,  -- '' for the tenant as a whole
    tokens_per_day   bigint CHECK (tokens_per_day >= 0),
    tokens_per_month bigint CHECK (tokens_per_month >= 0),
    enforcement      smallint NOT NULL,
    update_time      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, user_id)
);

-- A period is named by its first local day, not by an instant: a tenant that changes its time zone keeps its counters.
CREATE TABLE balances (
    tenant_id    text COLLATE "C" NOT NULL,
    user_id      text COLLATE "C" NOT NULL,  -- '' for the tenant as a whole
    "window"     smallint NOT NULL,          -- 1 day, 2 month
    period_start date NOT NULL,
    used         bigint NOT NULL DEFAULT 0 CHECK (used >= 0),
    held         bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
    PRIMARY KEY (tenant_id, user_id, "window", period_start)
) WITH (fillfactor = 50);

CREATE TABLE reservations (
    tenant_id       text COLLATE "C" NOT NULL,
    reservation_id  text COLLATE "C" NOT NULL,
    user_id         text COLLATE "C" NOT NULL,
    key_id          text COLLATE "C" NOT NULL,
    state           smallint NOT NULL,       -- 1 held, 2 committed, 3 released, 4 expired
    granted         bigint NOT NULL CHECK (granted > 0),
    day             date NOT NULL,
    month           date NOT NULL,
    model           text NOT NULL,
    conversation_id text NOT NULL,
    assistant_id    text NOT NULL,
    input_tokens        bigint,
    cached_input_tokens bigint,
    output_tokens       bigint,
    reasoning_tokens    bigint,
    usage_source    smallint,
    cost_micros     bigint NOT NULL DEFAULT 0,
    create_time     timestamptz NOT NULL,
    expire_time     timestamptz NOT NULL,
    settle_time     timestamptz,
    request_id      text COLLATE "C",
    fingerprint     bytea,
    PRIMARY KEY (tenant_id, reservation_id)
);
CREATE UNIQUE INDEX reservations_request ON reservations (tenant_id, request_id) WHERE request_id IS NOT NULL;
CREATE INDEX reservations_lease ON reservations (expire_time) WHERE state = 1;

-- Append-only. create_time is taken under the tenant's lock, so it and entry_id grow together within a tenant.
-- The entries of a reservation are found by its own two times, which costs no index.
CREATE TABLE ledger (
    tenant_id       text COLLATE "C" NOT NULL,
    create_time     timestamptz NOT NULL,
    entry_id        bigint GENERATED ALWAYS AS IDENTITY,
    kind            smallint NOT NULL,       -- 1 reserved, 2 settled, 3 released, 4 expired
    reservation_id  text COLLATE "C" NOT NULL,
    user_id         text COLLATE "C" NOT NULL,
    key_id          text COLLATE "C" NOT NULL,
    model           text NOT NULL,
    conversation_id text NOT NULL,
    assistant_id    text NOT NULL,
    held_delta      bigint NOT NULL,
    used_delta      bigint NOT NULL,
    input_tokens        bigint,
    cached_input_tokens bigint,
    output_tokens       bigint,
    reasoning_tokens    bigint,
    usage_source    smallint,
    cost_micros     bigint NOT NULL,
    PRIMARY KEY (tenant_id, create_time, entry_id)
);
CREATE INDEX ledger_by_user ON ledger (tenant_id, user_id, create_time, entry_id);

CREATE POLICY named_tenants ON tenants
    USING ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id)
    WITH CHECK (false);

ALTER TABLE quotas ENABLE ROW LEVEL SECURITY;
ALTER TABLE quotas FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON quotas
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY named_tenants ON quotas FOR SELECT
    USING ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);

ALTER TABLE balances ENABLE ROW LEVEL SECURITY;
ALTER TABLE balances FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON balances
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY named_tenants ON balances
    USING ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id)
    WITH CHECK ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);

ALTER TABLE reservations ENABLE ROW LEVEL SECURITY;
ALTER TABLE reservations FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON reservations
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY named_tenants ON reservations
    USING ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id)
    WITH CHECK ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);
-- The sweeper finds leases that ended, whosever they are; it settles them as the tenants named.
CREATE POLICY sweeper_reads ON reservations FOR SELECT USING ((SELECT current_setting('app.tenant', true)) = '*');

ALTER TABLE ledger ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger FORCE ROW LEVEL SECURITY;
-- No policy lets anybody update or delete an entry.
CREATE POLICY own_tenant ON ledger FOR SELECT
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY named_tenants ON ledger FOR INSERT
    WITH CHECK ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);
