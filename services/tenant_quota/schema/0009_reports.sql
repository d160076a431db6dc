-- What statements read instead of the ledger, and what the nightly audit found.

-- Tokens of top-ups given and taken back, by the tenant's day on which it happened. As with usage_days, the day is kept:
-- a tenant that moves to another time zone moves no month that is over.
CREATE TABLE top_up_days (
    tenant_id text COLLATE "C" NOT NULL,
    day       date NOT NULL,
    given     bigint NOT NULL CHECK (given >= 0),
    ended     bigint NOT NULL CHECK (ended >= 0),
    PRIMARY KEY (tenant_id, day)
);

-- Only entries of top-ups have it run: reservations pay for nothing but the look at their kind.
CREATE FUNCTION note_top_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO top_up_days (tenant_id, day, given, ended)
    SELECT NEW.tenant_id, (NEW.create_time AT TIME ZONE t.time_zone)::date,
           CASE NEW.kind WHEN 5 THEN NEW.available_delta ELSE 0 END, CASE NEW.kind WHEN 6 THEN NEW.issued_delta ELSE 0 END
      FROM tenants t WHERE t.tenant_id = NEW.tenant_id
    ON CONFLICT (tenant_id, day)
       DO UPDATE SET given = top_up_days.given + excluded.given, ended = top_up_days.ended + excluded.ended;
    RETURN NULL;
END $$;
CREATE TRIGGER top_up_days AFTER INSERT ON ledger
    FOR EACH ROW WHEN (NEW.kind > 4) EXECUTE FUNCTION note_top_up();

-- Each tenant's last turn to be audited, and what the last audit that came to its end found.
CREATE TABLE audits (
    tenant_id           text COLLATE "C" PRIMARY KEY,
    turn_time           timestamptz NOT NULL,
    audit_time          timestamptz,
    discrepancies       integer NOT NULL DEFAULT 0,
    phantom_held_tokens bigint NOT NULL DEFAULT 0,
    overshoot_tokens    bigint NOT NULL DEFAULT 0
);

ALTER TABLE top_up_days ENABLE ROW LEVEL SECURITY;
ALTER TABLE top_up_days FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON top_up_days FOR SELECT
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
CREATE POLICY named_tenants ON top_up_days
    USING ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id)
    WITH CHECK ((SELECT nullif(current_setting('app.tenants', true), '')::jsonb) ? tenant_id);

ALTER TABLE audits ENABLE ROW LEVEL SECURITY;
ALTER TABLE audits FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON audits
    USING (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')))
    WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.tenant', true), '')));
-- Whom to audit next, and what all audits found together.
CREATE POLICY platform_reads ON audits FOR SELECT USING ((SELECT current_setting('app.tenant', true)) = '*');
