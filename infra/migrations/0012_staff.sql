-- Who works for the vendor. A member is never deleted: what they did names them for good. One e-mail is one
-- person is one id, also when they leave and come back, so that nobody approves under another id what they
-- prepared under this one.
CREATE TABLE tenants.staff (
    staff_id       text PRIMARY KEY,
    name           text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    email          text NOT NULL UNIQUE CHECK (email = lower(email) AND length(email) BETWEEN 3 AND 254),
    role           text NOT NULL CHECK (role IN ('finance', 'operator')),
    created_at     timestamptz NOT NULL DEFAULT now(),
    revoked_at     timestamptz,
    key_sha256     bytea NOT NULL UNIQUE CHECK (length(key_sha256) = 32),
    key_created_at timestamptz NOT NULL DEFAULT now(),
    key_expires_at timestamptz,
    key_last_used_at timestamptz
);

CREATE INDEX staff_by_age ON tenants.staff (created_at, staff_id);
