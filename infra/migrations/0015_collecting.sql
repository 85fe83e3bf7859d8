-- Issued invoices are collected through Stripe, where that is on: an outbox with one row an invoice.

-- How invoices that are issued from now on are collected, as the billing worker that started last was told. No
-- method: by hand. Whoever issues reads it here, so that it does not depend on the issuer's environment.
CREATE TABLE billing.collector (
    is_only  boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    method   text CHECK (method IN ('send', 'charge')),
    livemode boolean NOT NULL DEFAULT false,
    set_at   timestamptz NOT NULL DEFAULT now()
);
INSERT INTO billing.collector DEFAULT VALUES;

CREATE TABLE billing.stripe_customer (
    tenant_id   text NOT NULL REFERENCES billing.account,
    livemode    boolean NOT NULL,
    customer_id text NOT NULL UNIQUE,
    made_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, livemode)
);

CREATE TABLE billing.collection (
    invoice_id        text PRIMARY KEY REFERENCES billing.invoice,
    livemode          boolean NOT NULL,
    method            text NOT NULL CHECK (method IN ('send', 'charge')),
    entered_at        timestamptz NOT NULL DEFAULT now(),
    state             text NOT NULL DEFAULT 'waiting' CHECK (state IN (
                          'waiting', 'failed', 'mismatch', 'open', 'past_due', 'payment_failed',
                          'action_required', 'paid', 'uncollectible', 'void', 'withdrawn')),
    reason            text,                -- of a failure, a mismatch, or the last attempt that is tried again
    stripe_invoice_id text UNIQUE,
    delivered_at      timestamptz,         -- sent, or its first charge attempted
    payment_attempts  int NOT NULL DEFAULT 0,
    checked_at        timestamptz,         -- when it was last read from Stripe
    due_at            timestamptz DEFAULT now(),  -- when to look at it next; NULL: when something happens
    attempts          int NOT NULL DEFAULT 0,     -- that failed in a row
    series            int NOT NULL DEFAULT 0      -- part of the idempotency keys; a new one is a new request
);
CREATE INDEX collection_due ON billing.collection (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX collection_by_age ON billing.collection (entered_at, invoice_id);
CREATE INDEX collection_by_state ON billing.collection (state, entered_at, invoice_id);

-- With what of the invoice itself goes with it.
CREATE VIEW billing.collected_invoice AS
SELECT collection.invoice_id, invoice.tenant_id, invoice.period, invoice.revision,
       invoice.status AS invoice_status, invoice.number, invoice.currency, invoice.due_minor,
       collection.livemode, collection.method, collection.entered_at, collection.state, collection.reason,
       customer.customer_id, collection.stripe_invoice_id, collection.delivered_at, collection.payment_attempts,
       collection.checked_at, collection.due_at, collection.attempts, collection.series, now() AS read_at,
       (SELECT coalesce(sum(note.reduces_minor), 0)::bigint FROM billing.credit_note note
        WHERE note.invoice_id = collection.invoice_id) AS credited_minor
FROM billing.collection
JOIN billing.invoice USING (invoice_id)
LEFT JOIN billing.stripe_customer customer
    ON customer.tenant_id = invoice.tenant_id AND customer.livemode = collection.livemode;

-- What becomes of an issued invoice here, by whichever way, is told to Stripe, and so are its credit notes.
CREATE FUNCTION billing.wake_collection() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE billing.collection SET due_at = now() WHERE invoice_id = NEW.invoice_id;
    RETURN NULL;
END $$;
CREATE TRIGGER told_to_stripe AFTER UPDATE OF status ON billing.invoice
    FOR EACH ROW WHEN (OLD.status <> NEW.status AND NEW.number IS NOT NULL)
    EXECUTE FUNCTION billing.wake_collection();
CREATE TRIGGER told_to_stripe AFTER UPDATE OF status ON billing.credit_note
    FOR EACH ROW WHEN (NEW.status = 'issued')
    EXECUTE FUNCTION billing.wake_collection();

-- Events of Stripe by their own ids, each handled once.
CREATE TABLE billing.stripe_event (
    event_id    text PRIMARY KEY CHECK (length(event_id) BETWEEN 1 AND 255),
    type        text NOT NULL CHECK (length(type) <= 255),
    livemode    boolean NOT NULL,
    api_version text CHECK (length(api_version) <= 100),
    invoice_id  text REFERENCES billing.collection,
    outcome     text NOT NULL CHECK (outcome IN ('received', 'applied', 'ignored')),
    reason      text,
    received_at timestamptz NOT NULL DEFAULT now(),
    handled_at  timestamptz
);
CREATE INDEX stripe_event_received ON billing.stripe_event (invoice_id) WHERE outcome = 'received';
CREATE INDEX stripe_event_by_age ON billing.stripe_event (received_at);
