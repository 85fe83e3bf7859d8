-- Review and corrections: comments on invoices, and credit notes against issued ones.


-- What people say of an invoice while they review it: beside its content, and only ever added to.

CREATE TABLE billing.invoice_comment (
    comment_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invoice_id text NOT NULL REFERENCES billing.invoice,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor      text NOT NULL CHECK (length(actor) BETWEEN 1 AND 200),
    text       text NOT NULL CHECK (length(text) BETWEEN 1 AND 2000)
);
CREATE INDEX invoice_comment_by_invoice ON billing.invoice_comment (invoice_id, comment_id);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.invoice_comment
    FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_rewriting();


-- Credit notes. What one says is written once; a wrong one is withdrawn, as long as it is not issued. Numbers
-- and hash chain are a series of their own beside the issuer's invoices.

ALTER TABLE billing.issuer
    ADD COLUMN last_credit_number bigint NOT NULL DEFAULT 0,
    ADD COLUMN last_credit_chain_sha256 bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex');

CREATE TABLE billing.credit_note (
    credit_note_id text PRIMARY KEY,
    invoice_id     text NOT NULL REFERENCES billing.invoice,
    tenant_id      text NOT NULL,
    issuer_id      text NOT NULL REFERENCES billing.issuer,
    status         text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'approved', 'issued', 'withdrawn')),
    -- its content, with the lines
    reason         text NOT NULL CHECK (length(reason) BETWEEN 1 AND 1000),
    remedy         text NOT NULL CHECK (remedy IN ('carry', 'refund')),  -- of what was paid already
    subtotal_minor bigint NOT NULL CHECK (subtotal_minor > 0),
    tax_minor      bigint NOT NULL CHECK (tax_minor >= 0),
    total_minor    bigint NOT NULL,
    content_sha256 bytea NOT NULL CHECK (length(content_sha256) = 32),
    -- its way
    prepared_at    timestamptz NOT NULL DEFAULT now(),
    prepared_by    text NOT NULL CHECK (length(prepared_by) BETWEEN 1 AND 200),
    approved_at    timestamptz,
    approved_by    text,
    issued_at      timestamptz,
    issued_by      text,
    number_in_issuer bigint,
    number         text,
    previous_chain_sha256 bytea,
    chain_sha256   bytea,
    -- where its total went
    reduces_minor  bigint CHECK (reduces_minor >= 0),  -- what was still open on the invoice
    carries_minor  bigint CHECK (carries_minor >= 0),  -- the tenant's next invoice
    refunds_minor  bigint CHECK (refunds_minor >= 0),  -- paid back
    UNIQUE (issuer_id, number_in_issuer),
    CHECK (total_minor = subtotal_minor + tax_minor),
    CHECK (approved_by <> prepared_by AND issued_by <> prepared_by),
    CHECK (num_nulls(approved_at, approved_by) IN (0, 2)),
    CHECK (status NOT IN ('approved', 'issued') OR approved_by IS NOT NULL),
    CHECK ((status = 'issued') = (number IS NOT NULL)),
    CHECK (num_nulls(number, number_in_issuer, issued_at, issued_by, previous_chain_sha256, chain_sha256,
                     reduces_minor, carries_minor, refunds_minor) IN (0, 9)),
    CHECK (number IS NULL OR (length(previous_chain_sha256) = 32 AND length(chain_sha256) = 32)),
    CHECK (total_minor = reduces_minor + carries_minor + refunds_minor)
);
CREATE INDEX credit_note_by_invoice ON billing.credit_note (invoice_id);
CREATE INDEX credit_note_by_tenant ON billing.credit_note (tenant_id, prepared_at, credit_note_id);
CREATE INDEX credit_note_by_age ON billing.credit_note (prepared_at, credit_note_id);

CREATE TABLE billing.credit_note_line (
    credit_note_id text NOT NULL REFERENCES billing.credit_note,
    invoice_id     text NOT NULL,
    line           int NOT NULL,  -- the invoice's line that it takes from
    amount_minor   bigint NOT NULL CHECK (amount_minor > 0),
    PRIMARY KEY (credit_note_id, line),
    FOREIGN KEY (invoice_id, line) REFERENCES billing.invoice_line
);
CREATE INDEX credit_note_line_by_invoice ON billing.credit_note_line (invoice_id, line);

-- Never more than the invoice, whoever credits at once; what a note says is written once; the order of states.
CREATE FUNCTION billing.guard_credit_note() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    way constant text[] := '{status,approved_at,approved_by,issued_at,issued_by,number_in_issuer,number,'
        'previous_chain_sha256,chain_sha256,reduces_minor,carries_minor,refunds_minor}';
    credited billing.invoice;
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'a credit note is not deleted' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF OLD.status IN ('issued', 'withdrawn') OR to_jsonb(NEW) - way <> to_jsonb(OLD) - way THEN
            RAISE EXCEPTION 'a credit note is not changed' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF (OLD.status, NEW.status) NOT IN (('draft', 'approved'), ('draft', 'withdrawn'),
                                            ('approved', 'issued'), ('approved', 'withdrawn')) THEN
            RAISE EXCEPTION 'a credit note does not go from % to %', OLD.status, NEW.status
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NEW;
    END IF;
    SELECT * INTO STRICT credited FROM billing.invoice WHERE invoice_id = NEW.invoice_id FOR UPDATE;
    IF NEW.status <> 'draft' OR credited.number IS NULL OR credited.status = 'void'
        OR (credited.tenant_id, credited.issuer_id) <> (NEW.tenant_id, NEW.issuer_id) THEN
        RAISE EXCEPTION 'a credit note is drafted against an issued invoice'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF EXISTS (
        SELECT FROM billing.credit_note WHERE invoice_id = NEW.invoice_id AND status <> 'withdrawn'
        HAVING coalesce(sum(subtotal_minor), 0) + NEW.subtotal_minor > credited.subtotal_minor
            OR coalesce(sum(tax_minor), 0) + NEW.tax_minor > credited.tax_minor
    ) THEN
        RAISE EXCEPTION 'no more is credited than an invoice says'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guarded BEFORE INSERT OR UPDATE OR DELETE ON billing.credit_note
    FOR EACH ROW EXECUTE FUNCTION billing.guard_credit_note();
CREATE TRIGGER not_emptied BEFORE TRUNCATE ON billing.credit_note
    FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_rewriting();

CREATE FUNCTION billing.guard_credit_note_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM billing.invoice WHERE invoice_id = NEW.invoice_id FOR UPDATE;
    IF NOT EXISTS (
        SELECT FROM billing.credit_note
        WHERE credit_note_id = NEW.credit_note_id AND invoice_id = NEW.invoice_id AND status = 'draft'
    ) THEN
        RAISE EXCEPTION 'the lines of a credit note are not changed'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.amount_minor + (
        SELECT coalesce(sum(line.amount_minor), 0)
        FROM billing.credit_note_line line JOIN billing.credit_note note USING (credit_note_id)
        WHERE line.invoice_id = NEW.invoice_id AND line.line = NEW.line AND note.status <> 'withdrawn'
    ) > (SELECT amount_minor FROM billing.invoice_line WHERE invoice_id = NEW.invoice_id AND line = NEW.line) THEN
        RAISE EXCEPTION 'no more is credited than a line says' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guarded BEFORE INSERT ON billing.credit_note_line
    FOR EACH ROW EXECUTE FUNCTION billing.guard_credit_note_line();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.credit_note_line
    FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_rewriting();

-- What is credited is not voided as well.
CREATE FUNCTION billing.guard_void() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM billing.credit_note WHERE invoice_id = NEW.invoice_id AND status <> 'withdrawn'
    ) THEN
        RAISE EXCEPTION 'an invoice with a credit note is not voided'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER not_voided_when_credited BEFORE UPDATE ON billing.invoice
    FOR EACH ROW WHEN (NEW.status = 'void' AND OLD.status <> 'void') EXECUTE FUNCTION billing.guard_void();
