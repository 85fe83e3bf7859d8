-- Prices that change: versions that replace one another, and changes of plan in the middle of a month.


-- Which version a month takes: the latest that holds at its start, a tenant's own before everyone's. Of two that
-- are valid from the same moment, the one made last: so a mistake is put right before it holds.
ALTER TABLE billing.price_version DROP CONSTRAINT price_version_plan_currency_tenant_id_valid_from_key;
CREATE INDEX price_version_by_plan ON billing.price_version (plan, currency, tenant_id, valid_from);
CREATE INDEX price_version_by_age ON billing.price_version (created_at, price_version_id);

CREATE FUNCTION billing.price_version_at(of_tenant text, of_plan text, of_currency text, moment timestamptz)
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT version.price_version_id FROM billing.price_version version
    WHERE version.plan = of_plan AND version.currency = of_currency AND version.valid_from <= moment
      AND (version.tenant_id IS NULL OR version.tenant_id = of_tenant)
    ORDER BY version.tenant_id IS NULL, version.valid_from DESC, version.created_at DESC LIMIT 1
$$;


-- Changes of plan at once. Each ends a segment of the running month: it is kept here with the prices that held in
-- it and what the counters stood at; the segment that runs now, or ran last, is the month itself.
--
-- A usage row is of the segment in which it was charged. The account's lock, under which a segment ends, decides:
-- what was committed before it is in `snapshot`. A charge that waited for the lock bears an earlier time, but is
-- not in it. The time is asked too: restored into another server, transactions count from another number.

CREATE TABLE billing.period_segment (
    tenant_id        text NOT NULL,
    period           text NOT NULL,
    segment          smallint NOT NULL CHECK (segment >= 0),
    price_version_id text NOT NULL REFERENCES billing.price_version,
    starts_at        timestamptz NOT NULL,
    ends_at          timestamptz NOT NULL,
    snapshot         pg_snapshot NOT NULL,
    PRIMARY KEY (tenant_id, period, segment),
    FOREIGN KEY (tenant_id, period) REFERENCES billing.period
);
CREATE TABLE billing.segment_counter (  -- what the month stood at when the segment ended
    tenant_id text NOT NULL,
    period    text NOT NULL,
    segment   smallint NOT NULL,
    meter     text NOT NULL REFERENCES billing.meter,
    calls     bigint NOT NULL,
    units     bigint NOT NULL,
    PRIMARY KEY (tenant_id, period, segment, meter),
    FOREIGN KEY (tenant_id, period, segment) REFERENCES billing.period_segment
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.period_segment
    FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_rewriting();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing.segment_counter
    FOR EACH STATEMENT EXECUTE FUNCTION billing.refuse_rewriting();

CREATE FUNCTION billing.came_before(
    recorded_at timestamptz, written_in xid8, ends_at timestamptz, snapshot pg_snapshot
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT recorded_at < ends_at AND pg_visible_in_snapshot(written_in, snapshot)
$$;

-- All segments of months: those that ended, and after them the one that holds (without a snapshot).
CREATE VIEW billing.month_segment AS
    SELECT tenant_id, period, segment, price_version_id, starts_at, ends_at, snapshot FROM billing.period_segment
    UNION ALL
    SELECT month.tenant_id, month.period, past.segments, month.price_version_id,
           coalesce(past.ends_at, month.starts_at), month.ends_at, NULL
    FROM billing.period month
    CROSS JOIN LATERAL (
        SELECT count(*)::smallint AS segments, max(ended.ends_at) AS ends_at
        FROM billing.period_segment ended
        WHERE ended.tenant_id = month.tenant_id AND ended.period = month.period
    ) AS past;

-- As in 0011, with segments. Late usage came after all segments of its own month: it is of the last. Whether the
-- month has any is asked once, not for each row.
CREATE OR REPLACE FUNCTION billing.month_rows(of_tenant text, of_period text)
RETURNS TABLE (
    usage_period text, segment smallint, meter text, call_id uuid, slice int, entry smallint, calls smallint,
    units bigint, occurred_at timestamptz, recorded_at timestamptz, key_id text, model text, engine text
)
LANGUAGE sql STABLE AS $$
    SELECT coalesce(own.period, usage.period),
           CASE WHEN usage.is_late OR EXISTS (
               SELECT FROM billing.period_segment past WHERE past.tenant_id = of_tenant AND past.period = of_period
           ) THEN (
               SELECT count(*)::smallint FROM billing.period_segment past
               WHERE past.tenant_id = of_tenant AND past.period = coalesce(own.period, of_period)
                 AND NOT billing.came_before(
                     usage.recorded_at, usage.written_in, past.ends_at, past.snapshot)
           ) ELSE 0::smallint END,
           usage.meter, usage.call_id, usage.slice, usage.entry, usage.calls, usage.units, usage.occurred_at,
           usage.recorded_at, usage.key_id, usage.model, usage.engine
    FROM billing.usage_row usage
    LEFT JOIN billing.period own
        ON usage.is_late AND own.tenant_id = usage.tenant_id
       AND own.starts_at <= usage.occurred_at AND usage.occurred_at < own.ends_at
    WHERE usage.tenant_id = of_tenant AND usage.period = of_period
$$;


-- Caps in money across a change at once. A month is rated at the prices that hold now; what it came to before is
-- set right by `offset_nanos`: what the ended segments came to at their own prices, less what all units up to then
-- would have come to at these. Rounded up at each change, so that no cap is passed by a fraction.

ALTER TABLE billing.period ADD COLUMN offset_nanos numeric NOT NULL DEFAULT 0 CHECK (scale(offset_nanos) = 0);

-- As in 0007; rounded up below zero too.
CREATE OR REPLACE FUNCTION billing.whole_nanos(amount numeric, nano numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(CASE WHEN amount > 0 THEN div(amount + nano - 1, nano) ELSE div(amount, nano) END, 0)
$$;

-- As in 0007, with what ended segments came to.
CREATE OR REPLACE FUNCTION billing.standing_of(of_tenant text, of_period text, version text)
RETURNS SETOF billing.standing
LANGUAGE sql STABLE AS $$
    SELECT array_agg(counter.meter), array_agg(counter.units), array_agg(coalesce(price.scale, 0)),
           array_agg((coalesce(price.up_to_units, '{NULL}'), coalesce(price.nanos, '{0}'))::billing.tiers),
           max(price.nano),
           sum(billing.rate(price.up_to_units, price.nanos, counter.units) * price.scale) + max(price.nano) * (
               SELECT month.offset_nanos FROM billing.period month
               WHERE month.tenant_id = of_tenant AND month.period = of_period)
    FROM billing.period_counter counter
    LEFT JOIN billing.meter_prices(version) price ON price.meter = counter.meter
    WHERE counter.tenant_id = of_tenant AND counter.period = of_period
$$;

-- As in 0007, with segments: what a key came to in one that ended is in whole nanos, rounded up, at the scale of
-- the price that holds.
CREATE OR REPLACE FUNCTION billing.open_key_counters(tenant_ids text[], periods text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM billing.account
    WHERE account.tenant_id IN (
        SELECT missing.tenant_id FROM billing.key_counters_missing(tenant_ids, periods) AS missing
    )
    ORDER BY account.tenant_id
    FOR NO KEY UPDATE OF account;

    INSERT INTO billing.key_counter (tenant_id, period, key_id, meter, units, rated)
    SELECT part.tenant_id, part.period, part.key_id, part.meter, sum(part.units)::bigint,
           sum(CASE WHEN part.has_ended THEN billing.whole_nanos(part.rated, part.per_units) * coalesce(now.per_units, 1)
                    ELSE part.rated END)
    FROM (
        SELECT missing.tenant_id, missing.period, missing.key_id, meter.meter, segment.snapshot IS NOT NULL AS has_ended,
               div(price.nano, price.scale) AS per_units, used.units, used.rated
        FROM billing.key_counters_missing(tenant_ids, periods) AS missing
        JOIN billing.month_segment segment USING (tenant_id, period)
        CROSS JOIN billing.meter
        LEFT JOIN billing.meter_prices(segment.price_version_id) price ON price.meter = meter.meter
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(usage.units), 0) AS units,
                   coalesce(sum(billing.rate(price.up_to_units, price.nanos, usage.units_before + usage.units)
                                - billing.rate(price.up_to_units, price.nanos, usage.units_before)), 0) AS rated
            FROM billing.usage_row usage
            WHERE usage.tenant_id = missing.tenant_id AND usage.period = missing.period
              AND usage.key_id = missing.key_id AND usage.meter = meter.meter
              AND segment.segment = (
                  SELECT count(*) FROM billing.period_segment past
                  WHERE past.tenant_id = missing.tenant_id AND past.period = missing.period
                    AND NOT billing.came_before(
                        usage.recorded_at, usage.written_in, past.ends_at, past.snapshot))
        ) AS used
    ) AS part
    JOIN billing.period month USING (tenant_id, period)
    LEFT JOIN billing.meter_price now ON now.price_version_id = month.price_version_id AND now.meter = part.meter
    GROUP BY part.tenant_id, part.period, part.key_id, part.meter
    ON CONFLICT DO NOTHING;
END $$;
