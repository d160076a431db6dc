-- Keys that are narrowed, rotated and known to be in use; people who come in with a password.

-- scopes: the permissions of the role to which the key is narrowed; none of them means all of the role.
-- rotated_from: the key whose successor this is; a key has one successor at the most.
ALTER TABLE api_keys
    ADD COLUMN scopes text[] NOT NULL DEFAULT '{}',
    ADD COLUMN rotated_from text COLLATE "C" NOT NULL DEFAULT '';
CREATE UNIQUE INDEX api_keys_successor ON api_keys (tenant_id, rotated_from) WHERE rotated_from <> '';
CREATE INDEX api_keys_of_user ON api_keys (tenant_id, user_id) WHERE user_id <> '';

-- When a key or a session was last presented, to the minute. Apart from api_keys, so that what is written often stays small.
CREATE TABLE last_uses (
    credential_id text COLLATE "C" PRIMARY KEY,
    tenant_id     text COLLATE "C" NOT NULL,
    use_time      timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE passwords (
    tenant_id   text COLLATE "C" NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    hash        text NOT NULL,  -- argon2id, with its parameters and salt
    update_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, user_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);

CREATE TABLE sessions (
    session_id  text COLLATE "C" PRIMARY KEY,
    tenant_id   text COLLATE "C" NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    secret_hash bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    expire_time timestamptz NOT NULL,
    revoke_time timestamptz,
    FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE CASCADE
);
CREATE INDEX sessions_newest ON sessions (tenant_id, user_id, create_time, session_id);
CREATE INDEX sessions_oldest ON sessions (expire_time);

-- Passwords tried, by the keyed hash of an e-mail address, whether anybody has it or not. full_time is when the tries will
-- have been forgotten; the further off it lies, the fewer are left.
CREATE TABLE login_attempts (
    address_hash bytea PRIMARY KEY,
    full_time    timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX login_attempts_oldest ON login_attempts (full_time);

ALTER TABLE last_uses ENABLE ROW LEVEL SECURITY;
ALTER TABLE last_uses FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON last_uses
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
-- One statement notes the uses of all tenants.
CREATE POLICY platform ON last_uses
    USING ((SELECT current_setting('app.tenant', true)) = '*')
    WITH CHECK ((SELECT current_setting('app.tenant', true)) = '*');

ALTER TABLE passwords ENABLE ROW LEVEL SECURITY;
ALTER TABLE passwords FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON passwords
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
-- Login knows an e-mail address before it knows whose it is.
CREATE POLICY platform_reads ON passwords FOR SELECT USING ((SELECT current_setting('app.tenant', true)) = '*');

ALTER TABLE sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON sessions
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
-- Authenticate finds a session before it knows whose it is; those long ended are forgotten together.
CREATE POLICY platform_reads ON sessions FOR SELECT USING ((SELECT current_setting('app.tenant', true)) = '*');
CREATE POLICY platform_forgets ON sessions FOR DELETE
    USING ((SELECT current_setting('app.tenant', true)) = '*' AND expire_time < now());

ALTER TABLE login_attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE login_attempts FORCE ROW LEVEL SECURITY;
CREATE POLICY platform ON login_attempts
    USING ((SELECT current_setting('app.tenant', true)) = '*')
    WITH CHECK ((SELECT current_setting('app.tenant', true)) = '*');
