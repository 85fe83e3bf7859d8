-- Where a tenant's calls may be answered. What is not said stays: private data leaves for nobody by default.
ALTER TABLE tenants.tenant
    ADD COLUMN placement text NOT NULL DEFAULT 'local_only'
    CHECK (placement IN ('local_only', 'prefer_local', 'remote'));

-- It travels with the keys that workers hold in memory, as a plan's limits do, and is announced as they are.
CREATE CONSTRAINT TRIGGER tenant_placement_changed
    AFTER UPDATE OF placement ON tenants.tenant DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.placement IS DISTINCT FROM NEW.placement)
    EXECUTE FUNCTION tenants.announce_limits_change();
