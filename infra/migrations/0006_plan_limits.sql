-- What a tenant may ask for at once, by its plan. NULL: the installation's own default, from its settings.
CREATE TABLE tenants.plan (
    plan                        text PRIMARY KEY CHECK (plan ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    requests_per_minute         int CHECK (requests_per_minute > 0),
    requests_per_minute_per_key int CHECK (requests_per_minute_per_key > 0),
    max_concurrent_calls        int CHECK (max_concurrent_calls > 0)
);
INSERT INTO tenants.plan (plan) VALUES ('standard');

ALTER TABLE tenants.tenant ADD COLUMN plan text NOT NULL DEFAULT 'standard' REFERENCES tenants.plan;

-- Until now a plan was a name in the prices alone.
INSERT INTO tenants.plan (plan) SELECT DISTINCT plan FROM billing.account ON CONFLICT DO NOTHING;
UPDATE tenants.tenant SET plan = account.plan FROM billing.account WHERE account.tenant_id = tenant.tenant_id;

-- Limits travel with the keys that workers hold in memory: a change of a plan, or of a tenant's plan, is a
-- change of many keys at once. It moves the epoch by one, and is announced as `<epoch> *`.
CREATE FUNCTION tenants.announce_limits_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    new_epoch bigint;
BEGIN
    UPDATE tenants.key_epoch SET epoch = epoch + 1 RETURNING epoch INTO STRICT new_epoch;
    PERFORM pg_notify('aiaas_key_changed', new_epoch || ' *');
    RETURN NULL;
END $$;

-- Deferred as `api_key_changed` is: the epoch's row is the last lock that a transaction takes.
CREATE CONSTRAINT TRIGGER plan_changed
    AFTER UPDATE ON tenants.plan DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
    EXECUTE FUNCTION tenants.announce_limits_change();
CREATE CONSTRAINT TRIGGER tenant_plan_changed
    AFTER UPDATE OF plan ON tenants.tenant DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.plan IS DISTINCT FROM NEW.plan)
    EXECUTE FUNCTION tenants.announce_limits_change();
