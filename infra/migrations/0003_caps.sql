-- Hard caps: what a tenant, or one of its keys, may use in a month, in money or in units of a meter.

CREATE TABLE billing.cap (
    tenant_id text NOT NULL REFERENCES billing.account,
    key_id    text,                               -- NULL: the tenant's own cap, over all its keys
    meter     text REFERENCES billing.meter,      -- NULL: a cap in money
    at_most   bigint NOT NULL CHECK (at_most >= 0),  -- a month, in units of the meter, or in nanos
    set_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (tenant_id, key_id, meter)
);

-- What a capped key has used of a month. There are rows for capped keys only, one for every meter; they
-- change under the locks of the tenant's counters, as a cap is only ever decided under those.
CREATE TABLE billing.key_counter (
    tenant_id text NOT NULL,
    period    text NOT NULL,
    key_id    text NOT NULL,
    meter     text NOT NULL REFERENCES billing.meter,
    units     bigint NOT NULL,
    rated     numeric NOT NULL,  -- nanos times the price's per_units, each call at the tenant's price then
    PRIMARY KEY (tenant_id, period, key_id, meter),
    FOREIGN KEY (tenant_id, period) REFERENCES billing.period
) WITH (fillfactor = 50);


-- Rating in the database: whole numbers, nanos times `per_units`, so that nothing is divided or rounded.
-- Amounts of several meters are added at a common scale, the product of all their `per_units`.

CREATE AGGREGATE billing.product(numeric) (sfunc = numeric_mul, stype = numeric, initcond = '1');

-- `MeterPrice.rate(units) * per` of billing/prices.py, over the same tiers.
CREATE FUNCTION billing.rate(up_to_units bigint[], nanos bigint[], units bigint) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    total    numeric := 0;
    begins   bigint := 0;
    ends     bigint;
BEGIN
    FOR tier IN 1 .. cardinality(nanos) LOOP
        ends := least(units, up_to_units[tier]);
        EXIT WHEN ends <= begins;
        total := total + nanos[tier]::numeric * (ends - begins);
        begins := ends;
    END LOOP;
    RETURN total;
END $$;

-- How many units more cost `room` at most (nanos times per_units), when the month stands at `units`; NULL
-- when there is no end to it.
CREATE FUNCTION billing.units_within(up_to_units bigint[], nanos bigint[], units bigint, room numeric)
RETURNS bigint LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    left_over numeric := room;
    reached   bigint := units;
    price     bigint;
    fits      numeric;
BEGIN
    IF room < 0 THEN
        RETURN 0;
    END IF;
    FOR tier IN 1 .. cardinality(nanos) LOOP
        CONTINUE WHEN up_to_units[tier] <= reached;
        price := nanos[tier];
        IF price > 0 THEN
            fits := div(left_over, price);
            IF up_to_units[tier] IS NULL OR reached + fits < up_to_units[tier] THEN
                RETURN least(reached + fits - units, 9223372036854775807);
            END IF;
            left_over := left_over - price::numeric * (up_to_units[tier] - reached);
        END IF;
        EXIT WHEN up_to_units[tier] IS NULL;
        reached := up_to_units[tier];
    END LOOP;
    RETURN NULL;
END $$;

CREATE TYPE billing.tiers AS (up_to_units bigint[], nanos bigint[]);

-- A price version's meters. `scale` brings a meter's rated amount to the version's common scale, where a
-- nano is `nano`.
CREATE FUNCTION billing.meter_prices(version text)
RETURNS TABLE (meter text, scale numeric, nano numeric, up_to_units bigint[], nanos bigint[])
LANGUAGE sql STABLE AS $$
    SELECT price.meter, div(common.nano, price.per_units), common.nano, tiers.up_to_units, tiers.nanos
    FROM billing.meter_price price
    CROSS JOIN (
        SELECT billing.product(per_units) AS nano FROM billing.meter_price WHERE price_version_id = version
    ) AS common
    CROSS JOIN LATERAL (
        SELECT array_agg(tier.up_to_units ORDER BY tier.tier) AS up_to_units,
               array_agg(tier.nanos ORDER BY tier.tier) AS nanos
        FROM billing.price_tier tier
        WHERE tier.price_version_id = version AND tier.meter = price.meter
    ) AS tiers
    WHERE price.price_version_id = version
$$;

-- What is left of each cap of a tenant's month, of its own and of the given keys': units, or money at the
-- version's common scale. Below zero where a cap was lowered under what had been used; NULL where a key's
-- counters are still to be made. Exact under the locks of the month's counters, a view without.
CREATE FUNCTION billing.cap_rooms(of_tenant text, of_period text, version text, of_keys text[])
RETURNS TABLE (key_id text, meter text, room numeric)
LANGUAGE sql STABLE AS $$
    SELECT cap.key_id, cap.meter, CASE
        WHEN cap.key_id IS NULL AND cap.meter IS NOT NULL THEN (
            SELECT cap.at_most - counter.units::numeric FROM billing.period_counter counter
            WHERE counter.tenant_id = of_tenant AND counter.period = of_period AND counter.meter = cap.meter)
        WHEN cap.meter IS NOT NULL THEN (
            SELECT cap.at_most - counter.units::numeric FROM billing.key_counter counter
            WHERE counter.tenant_id = of_tenant AND counter.period = of_period
              AND counter.key_id = cap.key_id AND counter.meter = cap.meter)
        WHEN cap.key_id IS NULL THEN (
            SELECT cap.at_most * max(price.nano)
                   - sum(billing.rate(price.up_to_units, price.nanos, counter.units) * price.scale)
            FROM billing.period_counter counter
            JOIN billing.meter_prices(version) price ON price.meter = counter.meter
            WHERE counter.tenant_id = of_tenant AND counter.period = of_period)
        ELSE (
            SELECT cap.at_most * max(price.nano) - sum(counter.rated * price.scale)
            FROM billing.key_counter counter
            JOIN billing.meter_prices(version) price ON price.meter = counter.meter
            WHERE counter.tenant_id = of_tenant AND counter.period = of_period
              AND counter.key_id = cap.key_id)
        END
    FROM billing.cap
    WHERE cap.tenant_id = of_tenant AND (cap.key_id IS NULL OR cap.key_id = ANY(of_keys))
    ORDER BY cap.key_id NULLS FIRST, cap.meter NULLS FIRST
$$;

-- Which cap each of a month's new calls would pass, in the order given: NULL where none, 'tenant' or 'key'
-- with the measure ('tenant money', 'key asr.audio_ms'), or 'uncounted' where the key's counters are still
-- to be made. NULL for the whole when every call fits. Call it under the locks of all the month's counters.
CREATE FUNCTION billing.caps_hit(
    of_tenant text, of_period text, key_ids text[], meters text[], amounts bigint[]
) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    version    text;
    cap_keys   text[];     -- the caps in question, and of each:
    cap_meters text[];
    rooms      numeric[];  -- what is left of it, call by call
    names      text[];     -- the month's meters, and of each:
    units      bigint[];   -- what it stands at, call by call
    added      bigint[];   -- what all the calls would add
    scales     numeric[];
    tiers      billing.tiers[];
    in_money   boolean;
    cost       numeric := 0;
    hit        text;
    hits       text[];
    m          int;
BEGIN
    SELECT price_version_id INTO STRICT version FROM billing.period
    WHERE tenant_id = of_tenant AND period = of_period;
    SELECT array_agg(cap.key_id), array_agg(cap.meter), array_agg(cap.room)
    INTO cap_keys, cap_meters, rooms
    FROM billing.cap_rooms(of_tenant, of_period, version, key_ids) AS cap;
    IF rooms IS NULL THEN
        RETURN NULL;
    END IF;
    in_money := array_position(cap_meters, NULL) IS NOT NULL;

    SELECT array_agg(counter.meter), array_agg(counter.units),
           array_agg((SELECT coalesce(sum(call.amount), 0)::bigint
                      FROM unnest(meters, amounts) AS call (meter, amount)
                      WHERE call.meter = counter.meter))
    INTO names, units, added
    FROM billing.period_counter counter
    WHERE counter.tenant_id = of_tenant AND counter.period = of_period;
    IF in_money THEN
        SELECT array_agg(coalesce(price.scale, 0) ORDER BY name.place),  -- a meter without a price is free
               array_agg((coalesce(price.up_to_units, '{NULL}'), coalesce(price.nanos, '{0}'))::billing.tiers
                         ORDER BY name.place)
        INTO scales, tiers
        FROM unnest(names) WITH ORDINALITY AS name (meter, place)
        LEFT JOIN billing.meter_prices(version) price ON price.meter = name.meter;
        FOR m IN 1 .. cardinality(names) LOOP
            cost := cost + scales[m] * (
                billing.rate((tiers[m]).up_to_units, (tiers[m]).nanos, units[m] + added[m])
                - billing.rate((tiers[m]).up_to_units, (tiers[m]).nanos, units[m]));
        END LOOP;
    END IF;

    -- All of them fit when even their sum does; a key's calls are not more than the tenant's.
    PERFORM FROM unnest(cap_meters, rooms) AS cap (meter, room)
    WHERE (CASE WHEN cap.meter IS NULL THEN cost ELSE added[array_position(names, cap.meter)] END <= cap.room)
        IS NOT TRUE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    hits := array_fill(NULL::text, ARRAY[cardinality(meters)]);
    FOR n IN 1 .. cardinality(meters) LOOP
        m := array_position(names, meters[n]);
        IF in_money THEN
            cost := scales[m] * (
                billing.rate((tiers[m]).up_to_units, (tiers[m]).nanos, units[m] + amounts[n])
                - billing.rate((tiers[m]).up_to_units, (tiers[m]).nanos, units[m]));
        END IF;
        hit := NULL;
        FOR c IN 1 .. cardinality(rooms) LOOP
            CONTINUE WHEN cap_keys[c] <> key_ids[n] OR cap_meters[c] <> meters[n];
            IF rooms[c] IS NULL THEN
                hit := 'uncounted';
            ELSIF (CASE WHEN cap_meters[c] IS NULL THEN cost ELSE amounts[n] END) > rooms[c] THEN
                hit := CASE WHEN cap_keys[c] IS NULL THEN 'tenant ' ELSE 'key ' END
                    || coalesce(cap_meters[c], 'money');
            END IF;
            EXIT WHEN hit IS NOT NULL;
        END LOOP;
        hits[n] := hit;
        CONTINUE WHEN hit IS NOT NULL;
        units[m] := units[m] + amounts[n];
        FOR c IN 1 .. cardinality(rooms) LOOP
            CONTINUE WHEN cap_keys[c] <> key_ids[n] OR cap_meters[c] <> meters[n];
            rooms[c] := rooms[c] - CASE WHEN cap_meters[c] IS NULL THEN cost ELSE amounts[n] END;
        END LOOP;
    END LOOP;
    RETURN hits;
END $$;


-- Capped keys without counters in the given months of tenants.
CREATE FUNCTION billing.key_counters_missing(tenant_ids text[], periods text[])
RETURNS TABLE (tenant_id text, period text, key_id text)
LANGUAGE sql STABLE AS $$
    SELECT DISTINCT cap.tenant_id, period.period, cap.key_id
    FROM unnest(tenant_ids, periods) AS given (tenant_id, period)
    JOIN billing.period USING (tenant_id, period)
    JOIN billing.cap ON cap.tenant_id = given.tenant_id AND cap.key_id IS NOT NULL
    WHERE NOT EXISTS (
        SELECT FROM billing.key_counter counter
        WHERE counter.tenant_id = cap.tenant_id AND counter.period = period.period
          AND counter.key_id = cap.key_id)
$$;

-- Makes the counters of capped keys that are missing in the given months of tenants, from the usage there
-- is, under the locks of the months' counters.
CREATE FUNCTION billing.open_key_counters(tenant_ids text[], periods text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM billing.period_counter counter
    WHERE (counter.tenant_id, counter.period) IN (
        SELECT missing.tenant_id, missing.period
        FROM billing.key_counters_missing(tenant_ids, periods) AS missing
    )
    ORDER BY counter.tenant_id, counter.period, counter.meter
    FOR UPDATE OF counter;

    INSERT INTO billing.key_counter (tenant_id, period, key_id, meter, units, rated)
    SELECT missing.tenant_id, missing.period, missing.key_id, meter.meter,
           coalesce(used.units, 0), coalesce(used.rated, 0)
    FROM billing.key_counters_missing(tenant_ids, periods) AS missing
    JOIN billing.period USING (tenant_id, period)
    CROSS JOIN billing.meter
    LEFT JOIN billing.meter_prices(period.price_version_id) price ON price.meter = meter.meter
    CROSS JOIN LATERAL (
        SELECT sum(usage.units)::bigint AS units,
               sum(billing.rate(price.up_to_units, price.nanos, usage.units_before + usage.units)
                   - billing.rate(price.up_to_units, price.nanos, usage.units_before)) AS rated
        FROM billing.usage_row usage
        WHERE usage.tenant_id = missing.tenant_id AND usage.period = missing.period
          AND usage.key_id = missing.key_id AND usage.meter = meter.meter
    ) AS used
    ON CONFLICT DO NOTHING;
END $$;


-- What is left for a worker's own view of its tenants' caps: a row for every cap and every meter it holds
-- back; `units_left` is NULL where a meter costs nothing more.
CREATE FUNCTION billing.cap_view(tenant_ids text[], moment timestamptz)
RETURNS TABLE (tenant_id text, key_id text, cap_meter text, meter text, units_left bigint)
LANGUAGE sql STABLE AS $$
    SELECT month.tenant_id, cap.key_id, cap.meter, counter.meter,
           CASE WHEN cap.meter IS NOT NULL THEN greatest(cap.room, 0)::bigint
                ELSE billing.units_within(price.up_to_units, price.nanos, counter.units,
                                          CASE WHEN cap.room < 0 THEN -1 ELSE div(cap.room, price.scale) END)
           END
    FROM (SELECT DISTINCT cap.tenant_id FROM billing.cap WHERE cap.tenant_id = ANY(tenant_ids)) AS wanted
    CROSS JOIN LATERAL (
        SELECT period.* FROM billing.period
        WHERE period.tenant_id = wanted.tenant_id AND period.starts_at <= moment
        ORDER BY period.starts_at DESC LIMIT 1
    ) AS month
    CROSS JOIN LATERAL billing.cap_rooms(
        month.tenant_id, month.period, month.price_version_id,
        ARRAY(SELECT cap.key_id FROM billing.cap
              WHERE cap.tenant_id = month.tenant_id AND cap.key_id IS NOT NULL)
    ) AS cap
    JOIN billing.period_counter counter
        ON counter.tenant_id = month.tenant_id AND counter.period = month.period
       AND counter.meter = coalesce(cap.meter, counter.meter)
    JOIN billing.meter_prices(month.price_version_id) price ON price.meter = counter.meter
    WHERE moment < month.ends_at AND cap.room IS NOT NULL
$$;


-- Charges a batch of calls in one transaction; element n of every array belongs to call n.
--
-- Answers one row a call, in the order given:
--   charged          the row was written now
--   already_charged  the same call was there: it is counted once, and no cap concerns it again
--   call_id_reused   another call was there under this id: nothing is written
--   over_cap         the call would pass the cap named in `cap`: nothing is written
--   period_not_open  the month, or a capped key, has no counters yet: nothing is written; open and send again
--   unknown_tenant   no account: nothing is written
--
-- The order of the steps is what keeps it exact. The counter rows of the batch are locked first, in one
-- order for everyone, so two batches cannot deadlock: those of the calls' meters, and of a tenant with a
-- cap all meters of the month, since a cap in money is compared with their sum. What they hold is read by
-- the statements after, whose snapshots (READ COMMITTED) are taken when the locks are held: read in the
-- same statement, it would be from before the wait. A tenant's usage, roll-up and counters of one meter
-- change under that counter's lock only, and caps are set under the locks of all the tenant's counters. A
-- tenant that got its first cap during the wait is not locked as it must be: the batch is undone and sent
-- again. A unique violation (one id under two counters at once, or twice in a batch) undoes the batch.
--
-- The calls of a capped tenant are taken together where they fit; if not, they are decided one by one, in
-- the batch's order, so that a smaller call may fit where a larger one before it did not.
--
-- The settings: the tables are empty when the plan is first made and huge later, and index lookups are
-- right for both.
DROP FUNCTION billing.charge(uuid[], int[], text[], text[], text[], bigint[], text[], text[], timestamptz[]);
CREATE FUNCTION billing.charge(
    call_ids uuid[], slices int[], tenant_ids text[], key_ids text[], meters text[], amounts bigint[],
    models text[], engines text[], moments timestamptz[]
) RETURNS TABLE (outcome text, period text, units_before bigint, cap text)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    periods    text[];
    zones      text[];
    capped     text[];
    hits       text[];
    month      record;
    month_hits text[];
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
    capped := ARRAY(SELECT DISTINCT cap.tenant_id FROM billing.cap WHERE cap.tenant_id = ANY(tenant_ids));

    PERFORM FROM billing.period_counter counter
    JOIN (
        SELECT given.tenant_id, given.period, given.meter
        FROM unnest(tenant_ids, periods, meters) AS given (tenant_id, period, meter)
        UNION
        SELECT given.tenant_id, given.period, meter.meter
        FROM unnest(tenant_ids, periods) AS given (tenant_id, period), billing.meter
        WHERE given.tenant_id = ANY(capped)
    ) AS touched USING (tenant_id, period, meter)
    ORDER BY counter.tenant_id, counter.period, counter.meter
    FOR UPDATE OF counter;

    IF EXISTS (
        SELECT FROM billing.cap WHERE cap.tenant_id = ANY(tenant_ids) AND cap.tenant_id <> ALL(capped)
    ) THEN
        RAISE EXCEPTION 'a first cap was set meanwhile: charge again' USING ERRCODE = 'serialization_failure';
    END IF;
    FOR month IN
        SELECT given.tenant_id, given.period, array_agg(given.place ORDER BY given.place)::int[] AS places,
               array_agg(given.key_id ORDER BY given.place) AS key_ids,
               array_agg(given.meter ORDER BY given.place) AS meters,
               array_agg(given.units ORDER BY given.place) AS amounts
        FROM unnest(call_ids, slices, tenant_ids, key_ids, meters, amounts, periods) WITH ORDINALITY
             AS given (call_id, slice, tenant_id, key_id, meter, units, period, place)
        WHERE given.period IS NOT NULL AND given.tenant_id = ANY(capped)
          AND NOT EXISTS (
              SELECT FROM billing.usage_row earlier
              WHERE earlier.call_id = given.call_id AND earlier.slice = given.slice)
        GROUP BY given.tenant_id, given.period
    LOOP
        month_hits := billing.caps_hit(
            month.tenant_id, month.period, month.key_ids, month.meters, month.amounts);
        FOR n IN 1 .. coalesce(cardinality(month_hits), 0) LOOP
            hits[month.places[n]] := month_hits[n];
        END LOOP;
    END LOOP;
    IF hits IS NOT NULL THEN  -- filled in out of order, it begins where its first element does
        hits := ARRAY(SELECT hits[place] FROM generate_subscripts(call_ids, 1) AS place ORDER BY place);
    END IF;

    RETURN QUERY
    WITH decided AS (
        SELECT given.*, earlier.period AS earlier_period, earlier.units_before AS earlier_units_before,
               CASE
                   WHEN (earlier.tenant_id, earlier.meter, earlier.units)
                      = (given.tenant_id, given.meter, given.units) THEN 'already_charged'
                   WHEN earlier.call_id IS NOT NULL THEN 'call_id_reused'
                   WHEN given.cap = 'uncounted' THEN 'period_not_open'
                   WHEN given.cap IS NOT NULL THEN 'over_cap'
                   WHEN given.period IS NOT NULL THEN 'charged'
                   WHEN EXISTS (SELECT FROM billing.account WHERE account.tenant_id = given.tenant_id)
                       THEN 'period_not_open'
                   ELSE 'unknown_tenant'
               END AS outcome
        FROM unnest(call_ids, slices, tenant_ids, key_ids, meters, amounts, models, engines, moments,
                    periods, zones, hits) WITH ORDINALITY
             AS given (call_id, slice, tenant_id, key_id, meter, units, model, engine, moment,
                       period, time_zone, cap, place)
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
    ), counted_by_key AS (
        UPDATE billing.key_counter counter
        SET units = counter.units + added.units, rated = counter.rated + added.rated
        FROM (
            SELECT placed.tenant_id, placed.period, placed.key_id, placed.meter,
                   sum(placed.units)::bigint AS units,
                   coalesce(sum(
                       billing.rate(price.up_to_units, price.nanos, placed.units_before + placed.units)
                       - billing.rate(price.up_to_units, price.nanos, placed.units_before)), 0) AS rated
            FROM placed
            JOIN billing.period ON period.tenant_id = placed.tenant_id AND period.period = placed.period
            LEFT JOIN LATERAL (
                SELECT found.up_to_units, found.nanos FROM billing.meter_prices(period.price_version_id) found
                WHERE found.meter = placed.meter
            ) AS price ON true
            WHERE placed.outcome = 'charged' AND placed.tenant_id = ANY(capped)
              AND EXISTS (
                  SELECT FROM billing.cap
                  WHERE cap.tenant_id = placed.tenant_id AND cap.key_id = placed.key_id)
            GROUP BY placed.tenant_id, placed.period, placed.key_id, placed.meter
        ) AS added
        WHERE (counter.tenant_id, counter.period, counter.key_id, counter.meter)
            = (added.tenant_id, added.period, added.key_id, added.meter)
    )
    SELECT outcome, coalesce(earlier_period, period), coalesce(earlier_units_before, units_before),
           CASE WHEN outcome = 'over_cap' THEN cap END
    FROM placed ORDER BY place;
END $$;
