CREATE SCHEMA tenants;

CREATE TABLE tenants.tenant (
    tenant_id  text PRIMARY KEY,
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX tenant_by_age ON tenants.tenant (created_at, tenant_id);

CREATE TABLE tenants.api_key (
    key_id           text PRIMARY KEY,
    tenant_id        text NOT NULL REFERENCES tenants.tenant,
    name             text NOT NULL DEFAULT '' CHECK (length(name) <= 200),
    mode             text NOT NULL CHECK (mode IN ('live', 'test')),
    secret_sha256    bytea NOT NULL UNIQUE CHECK (length(secret_sha256) = 32),
    scopes           text[] NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ '{asr,intent,tts}'),
    allowed_networks cidr[] NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL DEFAULT now(),
    expires_at       timestamptz,
    revoked_at       timestamptz,
    last_used_at     timestamptz,
    replaced_by      text REFERENCES tenants.api_key
);

CREATE INDEX api_key_by_tenant ON tenants.api_key (tenant_id, created_at, key_id);
CREATE INDEX api_key_by_age ON tenants.api_key (created_at, key_id);

-- What a worker's key cache is compared with: the number of key changes committed so far. A row, not a
-- sequence: a sequence moves before the change can be seen, and its lock puts the changes into one order.
CREATE TABLE tenants.key_epoch (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch    bigint NOT NULL
);
INSERT INTO tenants.key_epoch (epoch) VALUES (0);

-- The payload is `<epoch> <digest in hex>`: a cache that knows epoch N and hears N + 1 drops that digest
-- alone; one that hears more has missed something and drops everything.
CREATE FUNCTION tenants.announce_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    new_epoch bigint;
BEGIN
    UPDATE tenants.key_epoch SET epoch = epoch + 1 RETURNING epoch INTO STRICT new_epoch;
    PERFORM pg_notify(
        'aiaas_key_changed',
        new_epoch || ' ' || encode(coalesce(NEW.secret_sha256, OLD.secret_sha256), 'hex')
    );
    RETURN NULL;
END $$;

-- Inserts too: a cache may hold "no such key". last_used_at is not among the columns: noting a use must
-- not empty the caches. Deferred, so that the epoch's row is the last lock a transaction takes and is
-- held for its commit only: key changes can neither deadlock on it nor wait for a slow one.
CREATE CONSTRAINT TRIGGER api_key_changed
    AFTER INSERT OR DELETE OR UPDATE OF secret_sha256, tenant_id, scopes, allowed_networks, expires_at, revoked_at
    ON tenants.api_key
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION tenants.announce_key_change();
