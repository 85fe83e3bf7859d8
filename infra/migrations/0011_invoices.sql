-- Invoices that finance can trust: months are sealed, every line says which rows it stands for, an issued invoice
-- cannot change, and who did what is kept.


-- Who bills, and who is billed.

CREATE TABLE billing.issuer (
    issuer_id         text PRIMARY KEY,
    name              text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    address           text NOT NULL DEFAULT '' CHECK (length(address) <= 500),
    tax_id            text NOT NULL DEFAULT '' CHECK (length(tax_id) <= 50),
    email             text NOT NULL DEFAULT '' CHECK (length(email) <= 254),
    number_prefix     text NOT NULL CHECK (length(number_prefix) BETWEEN 1 AND 20),
    payment_days      int NOT NULL DEFAULT 30 CHECK (payment_days BETWEEN 0 AND 365),
    last_number       bigint NOT NULL DEFAULT 0,  -- one lock for all that issue: numbers have no gaps
    last_chain_sha256 bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex')
);
INSERT INTO billing.issuer (issuer_id, name, number_prefix) VALUES ('default', 'AIaaS Gateway', 'AG-');

CREATE TABLE billing.profile (
    tenant_id text PRIMARY KEY REFERENCES billing.account,
    issuer_id text NOT NULL DEFAULT 'default' REFERENCES billing.issuer,
    name      text NOT NULL CHECK (length(name) <= 200),
    address   text NOT NULL DEFAULT '' CHECK (length(address) <= 500),
    tax_id    text NOT NULL DEFAULT '' CHECK (length(tax_id) <= 50),
    email     text NOT NULL DEFAULT '' CHECK (length(email) <= 254),
    language  text NOT NULL DEFAULT 'en' CHECK (language IN ('en', 'zh-TW')),
    tax_name  text NOT NULL DEFAULT '' CHECK (length(tax_name) <= 50),
    tax_ppm   int NOT NULL DEFAULT 0 CHECK (tax_ppm BETWEEN 0 AND 1000000)
);
INSERT INTO billing.profile (tenant_id, name)
SELECT tenant_id, tenant.name FROM billing.account JOIN tenants.tenant USING (tenant_id);


-- Seals: what a closed month's usage rows are, once and for all. A row that was charged late counts in the month
-- that was open (`period`), and is usage of its own month (`usage_period`). Segments count the prices of a month:
-- 0, and one more for each change of plan at once.

ALTER TABLE billing.period
    ADD COLUMN sealed_at timestamptz,
    ADD COLUMN credit_nanos bigint NOT NULL DEFAULT 0;  -- what the month's closing took off the prepaid credit
CREATE INDEX period_unsealed ON billing.period (tenant_id, period) WHERE closed_at IS NOT NULL AND sealed_at IS NULL;

CREATE TABLE billing.seal (
    tenant_id    text NOT NULL,
    period       text NOT NULL,
    usage_period text NOT NULL,
    segment      smallint NOT NULL CHECK (segment >= 0),
    meter        text NOT NULL REFERENCES billing.meter,
    row_count    bigint NOT NULL,
    calls        bigint NOT NULL,
    units        bigint NOT NULL,
    digest       bytea NOT NULL CHECK (length(digest) = 32),
    PRIMARY KEY (tenant_id, period, usage_period, segment, meter),
    FOREIGN KEY (tenant_id, period) REFERENCES billing.period
);
CREATE INDEX seal_by_usage_period ON billing.seal (tenant_id, usage_period);

-- The usage rows that count in a tenant's month, each with the month and the segment whose usage it is. Written so
-- that the planner inlines it: what is asked of it (a meter, rows after a call's id, a limit) reaches the index.
CREATE FUNCTION billing.month_rows(of_tenant text, of_period text)
RETURNS TABLE (
    usage_period text, segment smallint, meter text, call_id uuid, slice int, entry smallint, calls smallint,
    units bigint, occurred_at timestamptz, recorded_at timestamptz, key_id text, model text, engine text
)
LANGUAGE sql STABLE AS $$
    SELECT coalesce(own.period, usage.period), 0::smallint, usage.meter, usage.call_id, usage.slice, usage.entry,
           usage.calls, usage.units, usage.occurred_at, usage.recorded_at, usage.key_id, usage.model, usage.engine
    FROM billing.usage_row usage
    LEFT JOIN billing.period own
        ON usage.is_late AND own.tenant_id = usage.tenant_id
       AND own.starts_at <= usage.occurred_at AND usage.occurred_at < own.ends_at
    WHERE usage.tenant_id = of_tenant AND usage.period = of_period
$$;

-- A usage row as its digest has it, and as it is exported: comma-separated, without the line's end.
CREATE FUNCTION billing.usage_line(
    call_id uuid, slice int, entry smallint, calls smallint, units bigint, occurred_at timestamptz, key_id text,
    model text, engine text
) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT concat_ws(',', call_id, slice, entry, calls, units, (extract(epoch FROM occurred_at) * 1000000)::bigint,
                     key_id, model, engine)
$$;

-- What the usage rows of a tenant's month are. The digest of rows: in the order of (call_id, slice, entry) they
-- fall into chunks by the first 32 bits of the call's id, a minute or so each; SHA-256 over a chunk's lines, each
-- with a line feed; SHA-256 over all these digests. So a digest takes little memory, however many rows there are.
CREATE FUNCTION billing.month_proof(of_tenant text, of_period text)
RETURNS TABLE (
    usage_period text, segment smallint, meter text, row_count bigint, calls bigint, units bigint, digest bytea
)
LANGUAGE sql STABLE AS $$
    SELECT chunk.usage_period, chunk.segment, chunk.meter, sum(chunk.row_count)::bigint,
           sum(chunk.calls)::bigint, sum(chunk.units)::bigint,
           sha256(string_agg(chunk.digest, ''::bytea ORDER BY chunk.chunk))
    FROM (
        SELECT usage_period, segment, meter, substr(uuid_send(call_id), 1, 4) AS chunk, count(*) AS row_count,
               sum(calls) AS calls, sum(units) AS units,
               sha256(convert_to(string_agg(
                   billing.usage_line(call_id, slice, entry, calls, units, occurred_at, key_id, model, engine)
                   || E'\n', '' ORDER BY call_id, slice, entry), 'UTF8')) AS digest
        FROM billing.month_rows(of_tenant, of_period)
        GROUP BY 1, 2, 3, 4
    ) AS chunk
    GROUP BY 1, 2, 3
$$;


-- Who did what, and what was refused to whom. Written in the transaction of the deed; never changed.

CREATE TABLE billing.audit_event (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor    text NOT NULL CHECK (length(actor) BETWEEN 1 AND 200),
    action   text NOT NULL CHECK (length(action) BETWEEN 1 AND 50),
    subject  text NOT NULL CHECK (length(subject) BETWEEN 1 AND 200),
    refused  boolean NOT NULL DEFAULT false,
    detail   jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_event_by_subject ON billing.audit_event (subject, event_id);

CREATE FUNCTION billing.refuse_rewriting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what is recorded in % is not changed', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.audit_event
    FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_rewriting();


-- Invoices. Until now there were drafts only, which are made anew whenever they are asked for.

DROP TABLE billing.invoice_line;
DROP TABLE billing.invoice;

-- What is carried in, source by source: `[{"source", "id", "number", "amount_minor"}]`, from invoices that left
-- something, and from credit notes. A source that a void invoice took is free again.
CREATE FUNCTION billing.carried_sum(carried jsonb) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(sum((one ->> 'amount_minor')::bigint), 0)::bigint FROM jsonb_array_elements(carried) AS one
$$;

CREATE TABLE billing.invoice (
    invoice_id        text PRIMARY KEY,
    tenant_id         text NOT NULL,
    period            text NOT NULL,
    revision          int NOT NULL DEFAULT 1 CHECK (revision >= 1),
    replaces          text REFERENCES billing.invoice,  -- the revision before, which is void
    status            text NOT NULL DEFAULT 'draft' CHECK (status IN (
                          'draft', 'in_review', 'approved', 'issued', 'paid', 'void', 'uncollectible')),
    -- its content, with the lines
    issuer_id         text NOT NULL REFERENCES billing.issuer,
    issuer            jsonb NOT NULL,
    bill_to           jsonb NOT NULL,
    language          text NOT NULL,
    currency          text NOT NULL,
    period_complete   boolean NOT NULL,  -- the month is sealed: no usage is added to it any more
    subtotal_minor    bigint NOT NULL,
    tax_name          text NOT NULL,
    tax_ppm           int NOT NULL,
    tax_minor         bigint NOT NULL,
    total_minor       bigint NOT NULL,
    carried_in_minor  bigint NOT NULL,
    carried           jsonb NOT NULL DEFAULT '[]',
    carried_out_minor bigint NOT NULL,
    due_minor         bigint NOT NULL CHECK (due_minor >= 0),
    content_sha256    bytea NOT NULL CHECK (length(content_sha256) = 32),
    -- its way
    drafted_at        timestamptz NOT NULL DEFAULT now(),
    prepared_by       text[] NOT NULL,  -- all who made or changed it: none of them may approve it
    approved_at       timestamptz,
    approved_by       text,
    approved_sha256   bytea,
    number_in_issuer  bigint,
    number            text,
    issued_at         timestamptz,
    due_on            date,
    previous_chain_sha256 bytea,
    chain_sha256      bytea,
    settled_at        timestamptz,
    to_be_reissued    boolean NOT NULL DEFAULT false,
    UNIQUE (tenant_id, period, revision),
    UNIQUE (issuer_id, number_in_issuer),
    FOREIGN KEY (tenant_id, period) REFERENCES billing.period,
    CHECK (total_minor = subtotal_minor + tax_minor),
    CHECK (due_minor = total_minor + carried_in_minor - carried_out_minor),
    CHECK (carried_in_minor = billing.carried_sum(carried)),
    CHECK (status IN ('draft', 'in_review') OR (
        period_complete AND approved_at IS NOT NULL AND approved_by IS NOT NULL
        AND approved_by <> ALL (prepared_by) AND approved_sha256 IS NOT DISTINCT FROM content_sha256)),
    CHECK (status NOT IN ('draft', 'in_review') OR approved_sha256 IS NULL),
    CHECK (status IN ('draft', 'in_review', 'approved') = (number IS NULL)),
    CHECK (number IS NULL OR (number_in_issuer IS NOT NULL AND issued_at IS NOT NULL AND due_on IS NOT NULL
                              AND length(previous_chain_sha256) = 32 AND length(chain_sha256) = 32))
);
CREATE UNIQUE INDEX invoice_of_month ON billing.invoice (tenant_id, period) WHERE status <> 'void';
CREATE INDEX invoice_by_period ON billing.invoice (period, tenant_id);
CREATE INDEX invoice_by_status ON billing.invoice (status, period, tenant_id);

CREATE TABLE billing.invoice_line (
    invoice_id       text NOT NULL REFERENCES billing.invoice ON DELETE CASCADE,
    line             int NOT NULL CHECK (line >= 1),
    kind             text NOT NULL CHECK (kind IN ('usage', 'discount', 'minimum', 'credit')),
    usage_period     text NOT NULL,
    segment          smallint NOT NULL,
    meter            text REFERENCES billing.meter,
    price_version_id text REFERENCES billing.price_version,
    model            text,
    per_units        bigint,
    row_count        bigint NOT NULL,
    calls            bigint NOT NULL,
    units            bigint NOT NULL,
    digest           bytea,
    cutoff_at        timestamptz NOT NULL,
    tiers            jsonb NOT NULL,
    basis            jsonb NOT NULL,
    exact_nanos      text NOT NULL,
    amount_minor     bigint NOT NULL,
    PRIMARY KEY (invoice_id, line),
    CHECK ((kind = 'usage') = (meter IS NOT NULL))
);

-- Promise 7: an issued invoice never changes. What may change of it is what became of it.
CREATE FUNCTION billing.guard_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    settling text[] := '{status,settled_at,to_be_reissued}';
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.number IS NOT NULL THEN
            RAISE EXCEPTION 'an issued invoice is not deleted' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN OLD;
    END IF;
    IF OLD.number IS NOT NULL AND to_jsonb(NEW) - settling <> to_jsonb(OLD) - settling THEN
        RAISE EXCEPTION 'an issued invoice is not changed' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF OLD.status <> NEW.status AND (OLD.status, NEW.status) NOT IN (
        ('draft', 'in_review'), ('in_review', 'draft'), ('in_review', 'approved'), ('approved', 'in_review'),
        ('approved', 'issued'), ('issued', 'paid'), ('issued', 'void'), ('issued', 'uncollectible'),
        ('uncollectible', 'paid'))
    THEN
        RAISE EXCEPTION 'an invoice does not go from % to %', OLD.status, NEW.status
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guarded BEFORE UPDATE OR DELETE ON billing.invoice
    FOR EACH ROW EXECUTE FUNCTION billing.guard_invoice();
CREATE TRIGGER not_emptied BEFORE TRUNCATE ON billing.invoice
    FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_rewriting();

-- Lines change with drafts alone: an approval is of the lines too.
CREATE FUNCTION billing.guard_invoice_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM billing.invoice
        WHERE invoice.invoice_id IN (NEW.invoice_id, OLD.invoice_id) AND invoice.status NOT IN ('draft', 'in_review')
    ) THEN
        RAISE EXCEPTION 'the lines of an approved or issued invoice are not changed'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER guarded BEFORE INSERT OR UPDATE OR DELETE ON billing.invoice_line
    FOR EACH ROW EXECUTE FUNCTION billing.guard_invoice_line();
CREATE TRIGGER not_emptied BEFORE TRUNCATE ON billing.invoice_line
    FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_rewriting();
