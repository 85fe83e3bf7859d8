CREATE SCHEMA billing;

CREATE TABLE billing.meter (
    meter   text PRIMARY KEY,
    product text NOT NULL,
    unit    text NOT NULL
);
INSERT INTO billing.meter (meter, product, unit) VALUES
    ('asr.audio_ms',   'asr',    'millisecond of audio'),
    ('intent.calls',   'intent', 'call'),
    ('tts.characters', 'tts',    'character');


-- Prices. A version never changes once the transaction that made it has committed.

CREATE TABLE billing.price_version (
    price_version_id text PRIMARY KEY,
    plan             text NOT NULL,
    currency         text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    valid_from       timestamptz NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    created_in       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    UNIQUE (plan, currency, valid_from)
);

CREATE TABLE billing.meter_price (
    price_version_id text NOT NULL REFERENCES billing.price_version,
    meter            text NOT NULL REFERENCES billing.meter,
    per_units        bigint NOT NULL CHECK (per_units > 0),
    PRIMARY KEY (price_version_id, meter)
);

-- Graduated: a tier's price holds for the month's units after the tier before it, up to `up_to_units`.
CREATE TABLE billing.price_tier (
    price_version_id text NOT NULL,
    meter            text NOT NULL,
    tier             int NOT NULL CHECK (tier >= 1),
    up_to_units      bigint CHECK (up_to_units > 0),
    nanos            bigint NOT NULL CHECK (nanos >= 0),
    PRIMARY KEY (price_version_id, meter, tier),
    FOREIGN KEY (price_version_id, meter) REFERENCES billing.meter_price
);

CREATE FUNCTION billing.refuse_price_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a price version is immutable: make a new one'
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE FUNCTION billing.refuse_price_growth() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM billing.price_version
        WHERE price_version_id = NEW.price_version_id AND created_in = pg_current_xact_id()
    ) THEN
        RAISE EXCEPTION 'a price version is immutable: make a new one'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.price_version
    FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_price_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.meter_price
    FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_price_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.price_tier
    FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_price_change();
CREATE TRIGGER complete_when_made BEFORE INSERT ON billing.meter_price
    FOR EACH ROW EXECUTE FUNCTION billing.refuse_price_growth();
CREATE TRIGGER complete_when_made BEFORE INSERT ON billing.price_tier
    FOR EACH ROW EXECUTE FUNCTION billing.refuse_price_growth();

INSERT INTO billing.price_version (price_version_id, plan, currency, valid_from) VALUES
    ('standard-usd-1', 'standard', 'USD', '-infinity');
INSERT INTO billing.meter_price (price_version_id, meter, per_units) VALUES
    ('standard-usd-1', 'asr.audio_ms', 60000),
    ('standard-usd-1', 'intent.calls', 1),
    ('standard-usd-1', 'tts.characters', 1000000);
INSERT INTO billing.price_tier (price_version_id, meter, tier, up_to_units, nanos) VALUES
    ('standard-usd-1', 'asr.audio_ms', 1, 60000000, 4300000),
    ('standard-usd-1', 'asr.audio_ms', 2, 600000000, 3900000),
    ('standard-usd-1', 'asr.audio_ms', 3, NULL, 3500000),
    ('standard-usd-1', 'intent.calls', 1, 100000, 400000),
    ('standard-usd-1', 'intent.calls', 2, 1000000, 320000),
    ('standard-usd-1', 'intent.calls', 3, NULL, 250000),
    ('standard-usd-1', 'tts.characters', 1, 1000000, 15000000000),
    ('standard-usd-1', 'tts.characters', 2, 10000000, 13500000000),
    ('standard-usd-1', 'tts.characters', 3, NULL, 12000000000);


-- Accounts and their months.

CREATE TABLE billing.account (
    tenant_id text PRIMARY KEY REFERENCES tenants.tenant,
    plan      text NOT NULL,
    currency  text NOT NULL,
    time_zone text NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now()
);

-- Bounds are kept, not recomputed: an account that moves to another time zone keeps its past months.
CREATE TABLE billing.period (
    tenant_id        text NOT NULL REFERENCES billing.account,
    period           text NOT NULL CHECK (period ~ '^[0-9]{4}-(0[1-9]|1[0-2])$'),
    starts_at        timestamptz NOT NULL,
    ends_at          timestamptz NOT NULL,
    time_zone        text NOT NULL,
    price_version_id text NOT NULL REFERENCES billing.price_version,
    PRIMARY KEY (tenant_id, period),
    UNIQUE (tenant_id, starts_at),
    CHECK (starts_at < ends_at)
);
CREATE INDEX period_by_label ON billing.period (period, tenant_id);

CREATE TABLE billing.period_counter (
    tenant_id text NOT NULL,
    period    text NOT NULL,
    meter     text NOT NULL REFERENCES billing.meter,
    calls     bigint NOT NULL DEFAULT 0,
    units     bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, period, meter),
    FOREIGN KEY (tenant_id, period) REFERENCES billing.period
) WITH (fillfactor = 50);  -- the hottest rows there are: room for updates within the page


-- Usage. Written by billing.charge alone, which finds tenant, period and meter through the counter row:
-- foreign keys would check the same again for every call, and are left out.

-- Call ids are UUID version 7, which begin with their time: partitions by ranges of call_id are
-- partitions by time under the same primary key.
CREATE TABLE billing.usage_row (
    call_id      uuid NOT NULL,
    slice        int NOT NULL CHECK (slice >= 0),
    units        bigint NOT NULL CHECK (units >= 0),
    units_before bigint NOT NULL,  -- the month's units of this meter when this row was charged
    occurred_at  timestamptz NOT NULL,
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    tenant_id    text NOT NULL,
    key_id       text NOT NULL,
    period       text NOT NULL,
    meter        text NOT NULL,
    model        text NOT NULL,
    engine       text NOT NULL,
    PRIMARY KEY (call_id, slice)
);
CREATE INDEX usage_row_by_tenant ON billing.usage_row (tenant_id, period, call_id);

-- An hour is an hour of the tenant's clock, so that hours add up to the tenant's days.
CREATE TABLE billing.hourly_usage (
    tenant_id text NOT NULL,
    period    text NOT NULL,
    hour      timestamptz NOT NULL,
    meter     text NOT NULL,
    key_id    text NOT NULL,
    calls     bigint NOT NULL,
    units     bigint NOT NULL,
    PRIMARY KEY (tenant_id, period, hour, meter, key_id)
) WITH (fillfactor = 80);


-- Invoices. A draft is made from the counters, and made anew as often as it is asked for.

CREATE TABLE billing.invoice (
    invoice_id       text PRIMARY KEY,
    tenant_id        text NOT NULL,
    period           text NOT NULL,
    price_version_id text NOT NULL REFERENCES billing.price_version,
    status           text NOT NULL DEFAULT 'draft',
    period_complete  boolean NOT NULL,  -- whether the period was over when the draft was made
    total_minor      bigint NOT NULL,
    drafted_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, period),
    FOREIGN KEY (tenant_id, period) REFERENCES billing.period
);
CREATE INDEX invoice_by_period ON billing.invoice (period, tenant_id);

CREATE TABLE billing.invoice_line (
    invoice_id   text NOT NULL REFERENCES billing.invoice,
    line         int NOT NULL CHECK (line >= 1),
    meter        text NOT NULL REFERENCES billing.meter,
    calls        bigint NOT NULL,
    units        bigint NOT NULL,
    per_units    bigint NOT NULL,
    tiers        jsonb NOT NULL,
    amount_minor bigint NOT NULL,
    PRIMARY KEY (invoice_id, line)
);


-- Charges a batch of calls in one transaction; element n of every array belongs to call n.
--
-- Answers one row a call, in the order given:
--   charged          the row was written now
--   already_charged  the same call was there: it is counted once
--   call_id_reused   another call was there under this id: nothing is written
--   period_not_open  the tenant's month has no counters yet: nothing is written; open it and send again
--   unknown_tenant   no account: nothing is written
--
-- The order of the steps is what keeps it exact. The counter rows of the batch are locked first, in one
-- order for everyone, so two batches cannot deadlock. What they hold is read by the statement after,
-- whose snapshot (READ COMMITTED) is taken when the locks are held: read in the same statement, it would
-- be from before the wait. A tenant's usage, roll-up and counter of one meter change under that counter's
-- lock only. A unique violation (one id under two counters at once, or twice in a batch) undoes the batch.
--
-- The settings: the tables are empty when the plan is first made and huge later, and index lookups are
-- right for both.
CREATE FUNCTION billing.charge(
    call_ids uuid[], slices int[], tenant_ids text[], key_ids text[], meters text[], amounts bigint[],
    models text[], engines text[], moments timestamptz[]
) RETURNS TABLE (outcome text, period text, units_before bigint)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    periods text[];
    zones   text[];
BEGIN
    SELECT array_agg(month.period ORDER BY given.place), array_agg(month.time_zone ORDER BY given.place)
    INTO periods, zones
    FROM unnest(tenant_ids, moments) WITH ORDINALITY AS given (tenant_id, moment, place)
    LEFT JOIN LATERAL (
        SELECT period.period, period.time_zone, period.ends_at
        FROM billing.period
        WHERE period.tenant_id = given.tenant_id AND period.starts_at <= given.moment
        ORDER BY period.starts_at DESC LIMIT 1
    ) AS month ON given.moment < month.ends_at;

    PERFORM FROM billing.period_counter counter
    JOIN (
        SELECT DISTINCT * FROM unnest(tenant_ids, periods, meters) AS given (tenant_id, period, meter)
    ) AS touched USING (tenant_id, period, meter)
    ORDER BY counter.tenant_id, counter.period, counter.meter
    FOR UPDATE OF counter;

    RETURN QUERY
    WITH decided AS (
        SELECT given.*, earlier.period AS earlier_period, earlier.units_before AS earlier_units_before,
               CASE
                   WHEN (earlier.tenant_id, earlier.meter, earlier.units)
                      = (given.tenant_id, given.meter, given.units) THEN 'already_charged'
                   WHEN earlier.call_id IS NOT NULL THEN 'call_id_reused'
                   WHEN given.period IS NOT NULL THEN 'charged'
                   WHEN EXISTS (SELECT FROM billing.account WHERE account.tenant_id = given.tenant_id)
                       THEN 'period_not_open'
                   ELSE 'unknown_tenant'
               END AS outcome
        FROM unnest(call_ids, slices, tenant_ids, key_ids, meters, amounts, models, engines, moments,
                    periods, zones) WITH ORDINALITY
             AS given (call_id, slice, tenant_id, key_id, meter, units, model, engine, moment,
                       period, time_zone, place)
        LEFT JOIN billing.usage_row earlier
            ON earlier.call_id = given.call_id AND earlier.slice = given.slice
    ), placed AS MATERIALIZED (
        SELECT decided.*, CASE WHEN decided.outcome = 'charged' THEN counter.units - decided.units + (
                   sum(decided.units) FILTER (WHERE decided.outcome = 'charged') OVER (
                       PARTITION BY decided.tenant_id, decided.period, decided.meter
                       ORDER BY decided.place ROWS UNBOUNDED PRECEDING
                   ))::bigint END AS units_before
        FROM decided
        LEFT JOIN billing.period_counter counter
            ON counter.tenant_id = decided.tenant_id AND counter.period = decided.period
           AND counter.meter = decided.meter
    ), written AS (
        INSERT INTO billing.usage_row (call_id, slice, units, units_before, occurred_at, tenant_id, key_id,
                                       period, meter, model, engine)
        SELECT call_id, slice, units, units_before, moment, tenant_id, key_id, period, meter, model, engine
        FROM placed WHERE outcome = 'charged'
    ), counted AS (
        UPDATE billing.period_counter counter
        SET calls = counter.calls + added.calls, units = counter.units + added.units
        FROM (
            SELECT tenant_id, period, meter, count(*) AS calls, sum(units)::bigint AS units
            FROM placed WHERE outcome = 'charged' GROUP BY tenant_id, period, meter
        ) AS added
        WHERE (counter.tenant_id, counter.period, counter.meter)
            = (added.tenant_id, added.period, added.meter)
    ), rolled_up AS (
        INSERT INTO billing.hourly_usage AS hourly (tenant_id, period, hour, meter, key_id, calls, units)
        SELECT tenant_id, period, date_trunc('hour', moment, time_zone), meter, key_id, count(*), sum(units)
        FROM placed WHERE outcome = 'charged' GROUP BY 1, 2, 3, 4, 5
        ON CONFLICT (tenant_id, period, hour, meter, key_id)
        DO UPDATE SET calls = hourly.calls + excluded.calls, units = hourly.units + excluded.units
    )
    SELECT outcome, coalesce(earlier_period, period), coalesce(earlier_units_before, units_before)
    FROM placed ORDER BY place;
END $$;
