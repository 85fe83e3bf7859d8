-- From a line of an invoice down to its calls; the monthly run as work that can be carried on; who bills keeps
-- its numbers' prefix.

-- A line is a meter of a month: its rows are found by both, in the order of its digest. Written where the index
-- before it was, once for each row, at the end of what a tenant's meter has.
DROP INDEX billing.usage_row_by_tenant;
CREATE INDEX usage_row_by_meter ON billing.usage_row (tenant_id, period, meter, call_id);
-- Usage that came late is little, and a line of its own among a whole month's rows.
CREATE INDEX usage_row_late ON billing.usage_row (tenant_id, period, meter, call_id) WHERE is_late;

-- A page of invoices, the newest months first.
DROP INDEX billing.invoice_by_period;
CREATE INDEX invoice_by_period ON billing.invoice (period DESC, tenant_id, revision DESC);


-- A run of a month: which tenants have their invoice, page by page. Each page is a transaction that locks the
-- run's row, makes the page's invoices and moves `after_tenant` on: whoever works on it, at the same time or
-- after another one died, takes the next page. A month has one run at hand; a new one takes its place.
CREATE TABLE billing.invoice_run (
    run_id        text PRIMARY KEY,
    period        text NOT NULL,
    requested_by  text NOT NULL CHECK (length(requested_by) BETWEEN 1 AND 200),
    requested_at  timestamptz NOT NULL DEFAULT now(),
    state         text NOT NULL DEFAULT 'waiting'
                  CHECK (state IN ('waiting', 'sealing', 'drafting', 'done', 'failed', 'replaced')),
    after_tenant  text NOT NULL DEFAULT '',
    tenants_done  int NOT NULL DEFAULT 0,  -- while sealing: months sealed for it
    tenants_total int,
    months_open   int,  -- at the end: drafts only, since their month is not closed yet
    started_at    timestamptz,
    finished_at   timestamptz,
    failures      int NOT NULL DEFAULT 0,
    due_at        timestamptz NOT NULL DEFAULT now(),  -- after a failure, when it is tried again
    last_error    text CHECK (length(last_error) <= 1000),
    replaced_by   text REFERENCES billing.invoice_run DEFERRABLE INITIALLY DEFERRED,
    CHECK ((state IN ('done', 'failed', 'replaced')) = (finished_at IS NOT NULL)),
    CHECK ((state = 'replaced') = (replaced_by IS NOT NULL))
);
CREATE UNIQUE INDEX invoice_run_at_hand ON billing.invoice_run (period) WHERE finished_at IS NULL;


-- Numbers without gaps are an issuer's: what they begin with stays once one was given.
CREATE FUNCTION billing.guard_issuer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.last_number + OLD.last_credit_number > 0 AND NEW.number_prefix <> OLD.number_prefix THEN
        RAISE EXCEPTION 'an issuer that has given numbers keeps their prefix'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guarded BEFORE UPDATE ON billing.issuer FOR EACH ROW EXECUTE FUNCTION billing.guard_issuer();


-- As in 0011: lines change with drafts alone. Asked once a statement, not once a line: a page of a run writes
-- hundreds.
DROP TRIGGER guarded ON billing.invoice_line;
CREATE OR REPLACE FUNCTION billing.guard_invoice_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM changed JOIN billing.invoice USING (invoice_id)
        WHERE invoice.status NOT IN ('draft', 'in_review')
    ) THEN
        RAISE EXCEPTION 'the lines of an approved or issued invoice are not changed'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guarded_insert AFTER INSERT ON billing.invoice_line
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION billing.guard_invoice_line();
CREATE TRIGGER guarded_delete AFTER DELETE ON billing.invoice_line
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION billing.guard_invoice_line();
CREATE TRIGGER guarded_update_from AFTER UPDATE ON billing.invoice_line
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION billing.guard_invoice_line();
CREATE TRIGGER guarded_update_to AFTER UPDATE ON billing.invoice_line
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION billing.guard_invoice_line();
