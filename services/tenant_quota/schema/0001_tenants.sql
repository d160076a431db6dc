-- Tenants, their users, the keys by which programs speak for them, and the writes that may be repeated safely.
--
-- Row-level security is forced on every table: a transaction sees the tenant named by app.tenant and nothing else.
-- app.tenant = '*' opens, by explicit policies, only what work across tenants needs. The setting is read in a subselect,
-- once per statement and not once per row.

CREATE TABLE tenants (
    tenant_id    text COLLATE "C" PRIMARY KEY,
    display_name text NOT NULL,
    time_zone    text NOT NULL,
    active       boolean NOT NULL DEFAULT true,
    create_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
    update_time  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);
CREATE INDEX tenants_newest ON tenants (create_time, tenant_id);

CREATE TABLE users (
    tenant_id    text COLLATE "C" NOT NULL REFERENCES tenants,
    user_id      text COLLATE "C" NOT NULL,
    display_name text NOT NULL,
    email        text COLLATE "C" NOT NULL,
    role         smallint NOT NULL,
    active       boolean NOT NULL DEFAULT true,
    create_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
    update_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT users_pkey PRIMARY KEY (tenant_id, user_id),
    CONSTRAINT users_email_key UNIQUE (email)
);
CREATE INDEX users_newest ON users (tenant_id, create_time, user_id);

-- tenant_id is '' for the keys of platform administrators and internal services.
CREATE TABLE api_keys (
    key_id       text COLLATE "C" PRIMARY KEY,
    tenant_id    text COLLATE "C" NOT NULL,
    user_id      text COLLATE "C" NOT NULL DEFAULT '',
    display_name text NOT NULL DEFAULT '',
    role         smallint NOT NULL,
    secret_hash  bytea NOT NULL,
    create_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expire_time  timestamptz,
    revoke_time  timestamptz
);
CREATE INDEX api_keys_newest ON api_keys (tenant_id, create_time, key_id);

-- What a write with a request_id made, so that repeating it gives the same response. tenant_id is '' for CreateTenant.
CREATE TABLE requests (
    tenant_id   text COLLATE "C" NOT NULL,
    method      text COLLATE "C" NOT NULL,
    request_id  text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    outcome     jsonb,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, method, request_id)
);
CREATE INDEX requests_oldest ON requests (create_time);

ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON tenants
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
-- The platform's administrators create and list tenants; Authenticate asks whether one is active.
CREATE POLICY platform ON tenants
    USING ((SELECT current_setting('app.tenant', true)) = '*')
    WITH CHECK ((SELECT current_setting('app.tenant', true)) = '*');

ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE users FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON users
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
-- Authenticate asks whether the user behind a key is active.
CREATE POLICY platform_reads ON users FOR SELECT USING ((SELECT current_setting('app.tenant', true)) = '*');

ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE api_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON api_keys
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
-- Authenticate finds a key before it knows whose it is; the platform writes only keys that belong to no tenant.
CREATE POLICY platform_reads ON api_keys FOR SELECT USING ((SELECT current_setting('app.tenant', true)) = '*');
CREATE POLICY platform_inserts ON api_keys FOR INSERT
    WITH CHECK ((SELECT current_setting('app.tenant', true)) = '*' AND tenant_id = '');
CREATE POLICY platform_updates ON api_keys FOR UPDATE
    USING ((SELECT current_setting('app.tenant', true)) = '*' AND tenant_id = '')
    WITH CHECK ((SELECT current_setting('app.tenant', true)) = '*' AND tenant_id = '');

ALTER TABLE requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE requests FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON requests
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
-- CreateTenant has no tenant yet; old rows of all tenants are forgotten together.
CREATE POLICY platform ON requests
    USING ((SELECT current_setting('app.tenant', true)) = '*')
    WITH CHECK ((SELECT current_setting('app.tenant', true)) = '*' AND tenant_id = '');
