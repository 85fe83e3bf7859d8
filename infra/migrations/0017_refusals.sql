-- Calls that were refused for want of room or money, by month of the tenant's clock: what a review looks at.
-- Counted by the gateway's workers in memory and added every few seconds: a hint, not a record to bill by.
CREATE TABLE billing.refusal_counter (
    tenant_id text NOT NULL REFERENCES billing.account,
    period    text NOT NULL,
    code      text NOT NULL CHECK (length(code) BETWEEN 1 AND 50),
    calls     bigint NOT NULL CHECK (calls > 0),
    last_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, period, code)
);
