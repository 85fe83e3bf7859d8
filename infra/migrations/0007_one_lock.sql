-- The charge with one lock a tenant, and no second look at anything.
--
-- Until now a charge locked the counters that it would change: before the lock it had to find out which those
-- are, and after it whether that still held. Now it locks the tenants' accounts, which it knows from the
-- start, and reads everything once, when they are held. A month's prices and counters are read once for all
-- its caps, and keys' counters are looked for only where a key is capped.


-- As in 0003, under the locks of the tenants' accounts.
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


-- Where a month stands: each of its meters with its units and prices (without a price it is free), and what all
-- of them have come to at the price version's common scale, where a nano is `nano`.
CREATE TYPE billing.standing AS (
    meters text[], units bigint[], scales numeric[], tiers billing.tiers[], nano numeric, spent numeric
);
CREATE FUNCTION billing.standing_of(of_tenant text, of_period text, version text)
RETURNS SETOF billing.standing
LANGUAGE sql STABLE AS $$
    SELECT array_agg(counter.meter), array_agg(counter.units), array_agg(coalesce(price.scale, 0)),
           array_agg((coalesce(price.up_to_units, '{NULL}'), coalesce(price.nanos, '{0}'))::billing.tiers),
           max(price.nano), sum(billing.rate(price.up_to_units, price.nanos, counter.units) * price.scale)
    FROM billing.period_counter counter
    LEFT JOIN billing.meter_prices(version) price ON price.meter = counter.meter
    WHERE counter.tenant_id = of_tenant AND counter.period = of_period
$$;

-- An amount at a scale where a nano is `nano`, in whole nanos, rounded up.
CREATE FUNCTION billing.whole_nanos(amount numeric, nano numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE AS $$ SELECT coalesce(div(amount + nano - 1, nano), 0) $$;

-- What a month has come to, in whole nanos, rounded up.
CREATE OR REPLACE FUNCTION billing.month_nanos(of_tenant text, of_period text, version text) RETURNS numeric
LANGUAGE sql STABLE AS $$
    SELECT billing.whole_nanos(stands.spent, stands.nano)
    FROM billing.standing_of(of_tenant, of_period, version) AS stands
$$;

-- What is left of each cap of a tenant's month, of its own and of the given keys': units, or money at the
-- version's common scale; of the credit, what is left besides the tenant's other open months. Below zero where
-- a cap was lowered under what had been used; NULL where a key's counters are still to be made. Exact under
-- the lock of the tenant's account, a view without.
DROP FUNCTION billing.cap_rooms(text, text, text, text[]);
CREATE FUNCTION billing.cap_rooms(of_tenant text, of_period text, of_keys text[], stands billing.standing)
RETURNS TABLE (key_id text, meter text, measure text, room numeric)
LANGUAGE sql STABLE AS $$
    SELECT cap.key_id, cap.meter, CASE WHEN cap.is_credit THEN 'credit' ELSE coalesce(cap.meter, 'money') END,
    CASE
        WHEN cap.key_id IS NULL AND cap.meter IS NOT NULL THEN
            cap.at_most - (stands.units[array_position(stands.meters, cap.meter)])::numeric
        WHEN cap.meter IS NOT NULL THEN (
            SELECT cap.at_most - counter.units::numeric FROM billing.key_counter counter
            WHERE counter.tenant_id = of_tenant AND counter.period = of_period
              AND counter.key_id = cap.key_id AND counter.meter = cap.meter)
        WHEN cap.key_id IS NULL THEN
            (cap.at_most::numeric - cap.settled_nanos - coalesce(others.nanos, 0)) * stands.nano - stands.spent
        ELSE (
            SELECT cap.at_most * stands.nano
                   - sum(counter.rated * stands.scales[array_position(stands.meters, counter.meter)])
            FROM billing.key_counter counter
            WHERE counter.tenant_id = of_tenant AND counter.period = of_period
              AND counter.key_id = cap.key_id)
        END
    FROM billing.cap
    LEFT JOIN LATERAL (
        SELECT sum(billing.month_nanos(month.tenant_id, month.period, month.price_version_id)) AS nanos
        FROM billing.period month
        WHERE cap.is_credit AND month.tenant_id = of_tenant AND month.closed_at IS NULL
          AND month.period <> of_period
    ) AS others ON true
    WHERE cap.tenant_id = of_tenant AND (cap.key_id IS NULL OR cap.key_id = ANY(of_keys))
    ORDER BY cap.key_id NULLS FIRST, cap.meter NULLS FIRST, cap.is_credit
$$;

-- Which cap each of a month's new calls would pass, in the order given: NULL where none, 'tenant' or 'key' with
-- the measure ('tenant money', 'tenant credit', 'key asr.audio_ms'), or 'uncounted' where the key's counters are
-- still to be made. NULL for the whole when every call fits. Call it under the lock of the tenant's account.
--
-- A credit is shared by a tenant's open months, of which one batch may hold several: `nanos_before` is what the
-- batch adds to months decided before this one, `nanos_more` what it adds to this one, each rounded up.
DROP FUNCTION billing.caps_hit(text, text, text[], text[], bigint[]);
CREATE FUNCTION billing.caps_hit(
    of_tenant text, of_period text, version text, nanos_before numeric, key_ids text[], meters text[],
    amounts bigint[], OUT hits text[], OUT nanos_more numeric
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    stands     billing.standing;
    cap_keys   text[];     -- the caps in question, and of each:
    cap_meters text[];
    measures   text[];
    rooms      numeric[];  -- what is left of it, call by call
    units      bigint[];   -- what each meter stands at, call by call
    added      bigint[];   -- what all the calls would add to each meter
    in_money   boolean;
    all_fit    boolean := true;
    cost       numeric := 0;
    spent      numeric;
    hit        text;
    m          int;
BEGIN
    nanos_more := 0;
    SELECT standing.* INTO stands FROM billing.standing_of(of_tenant, of_period, version) AS standing;
    SELECT array_agg(cap.key_id), array_agg(cap.meter), array_agg(cap.measure), array_agg(cap.room)
    INTO cap_keys, cap_meters, measures, rooms
    FROM billing.cap_rooms(of_tenant, of_period, key_ids, stands) AS cap;
    IF rooms IS NULL THEN
        RETURN;
    END IF;
    in_money := array_position(cap_meters, NULL) IS NOT NULL;
    units := stands.units;
    added := ARRAY(
        SELECT (SELECT coalesce(sum(call.amount), 0)::bigint FROM unnest(meters, amounts) AS call (meter, amount)
                WHERE call.meter = name.meter)
        FROM unnest(stands.meters) WITH ORDINALITY AS name (meter, place) ORDER BY name.place);

    -- All of them fit when even their sum does; a key's calls are not more than the tenant's.
    IF in_money THEN
        FOR m IN 1 .. cardinality(units) LOOP
            cost := cost + stands.scales[m] * (
                billing.rate((stands.tiers[m]).up_to_units, (stands.tiers[m]).nanos, units[m] + added[m])
                - billing.rate((stands.tiers[m]).up_to_units, (stands.tiers[m]).nanos, units[m]));
        END LOOP;
    END IF;
    FOR c IN 1 .. cardinality(rooms) LOOP
        IF measures[c] = 'credit' THEN
            rooms[c] := rooms[c] - nanos_before * stands.nano;
        END IF;
        all_fit := all_fit AND rooms[c] IS NOT NULL AND rooms[c] >= CASE
            WHEN cap_meters[c] IS NULL THEN cost
            ELSE added[array_position(stands.meters, cap_meters[c])]
        END;
    END LOOP;
    IF all_fit THEN
        nanos_more := billing.whole_nanos(stands.spent + cost, stands.nano)
                      - billing.whole_nanos(stands.spent, stands.nano);
        RETURN;
    END IF;

    spent := stands.spent;
    hits := array_fill(NULL::text, ARRAY[cardinality(meters)]);
    FOR n IN 1 .. cardinality(meters) LOOP
        m := array_position(stands.meters, meters[n]);
        IF in_money THEN
            cost := stands.scales[m] * (
                billing.rate((stands.tiers[m]).up_to_units, (stands.tiers[m]).nanos, units[m] + amounts[n])
                - billing.rate((stands.tiers[m]).up_to_units, (stands.tiers[m]).nanos, units[m]));
        END IF;
        hit := NULL;
        FOR c IN 1 .. cardinality(rooms) LOOP
            CONTINUE WHEN cap_keys[c] <> key_ids[n] OR cap_meters[c] <> meters[n];
            IF rooms[c] IS NULL THEN
                hit := 'uncounted';
            ELSIF (CASE WHEN cap_meters[c] IS NULL THEN cost ELSE amounts[n] END) > rooms[c] THEN
                hit := CASE WHEN cap_keys[c] IS NULL THEN 'tenant ' ELSE 'key ' END || measures[c];
            END IF;
            EXIT WHEN hit IS NOT NULL;
        END LOOP;
        hits[n] := hit;
        CONTINUE WHEN hit IS NOT NULL;
        units[m] := units[m] + amounts[n];
        spent := spent + cost;
        FOR c IN 1 .. cardinality(rooms) LOOP
            CONTINUE WHEN cap_keys[c] <> key_ids[n] OR cap_meters[c] <> meters[n];
            rooms[c] := rooms[c] - CASE WHEN cap_meters[c] IS NULL THEN cost ELSE amounts[n] END;
        END LOOP;
    END LOOP;
    nanos_more := billing.whole_nanos(spent, stands.nano) - billing.whole_nanos(stands.spent, stands.nano);
END $$;

-- As in 0004.
CREATE OR REPLACE FUNCTION billing.cap_view(tenant_ids text[], moment timestamptz)
RETURNS TABLE (tenant_id text, key_id text, measure text, meter text, units_left bigint)
LANGUAGE sql STABLE AS $$
    SELECT month.tenant_id, cap.key_id, cap.measure, counter.meter,
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
    CROSS JOIN LATERAL billing.standing_of(month.tenant_id, month.period, month.price_version_id) AS stands
    CROSS JOIN LATERAL billing.cap_rooms(
        month.tenant_id, month.period,
        ARRAY(SELECT cap.key_id FROM billing.cap
              WHERE cap.tenant_id = month.tenant_id AND cap.key_id IS NOT NULL),
        stands
    ) AS cap
    JOIN billing.period_counter counter
        ON counter.tenant_id = month.tenant_id AND counter.period = month.period
       AND counter.meter = coalesce(cap.meter, counter.meter)
    JOIN billing.meter_prices(month.price_version_id) price ON price.meter = counter.meter
    WHERE moment < month.ends_at AND cap.room IS NOT NULL
$$;


-- A call as it is given to be charged, or taken back; see `billing.charge`.
CREATE TYPE billing.given_call AS (
    call_id uuid, slice int, tenant_id text, key_id text, meter text, units bigint, model text, engine text,
    occurred_at timestamptz, voided_from bigint, maybe_elsewhere boolean
);

-- What the calls of a batch meet: the month that takes each of them, and the latest entry of its slice. To be
-- read under the locks of the tenants' accounts.
CREATE FUNCTION billing.calls_met(calls billing.given_call[])
RETURNS TABLE (
    place bigint, call_id uuid, slice int, tenant_id text, key_id text, meter text, units bigint, model text,
    engine text, occurred_at timestamptz, voided_from bigint,
    period text, time_zone text, price_version_id text, is_late boolean,
    earlier_entry smallint, earlier_calls smallint, earlier_units bigint, earlier_units_before bigint,
    earlier_tenant_id text, earlier_meter text, earlier_period text, earlier_session_id bigint
)
LANGUAGE sql STABLE AS $$
    SELECT given.place, given.call_id, given.slice, given.tenant_id, given.key_id, given.meter, given.units,
           given.model, given.engine, given.occurred_at, given.voided_from,
           CASE WHEN own.closed_at IS NULL THEN own.period ELSE next_open.period END,
           coalesce(next_open.time_zone, own.time_zone),
           coalesce(next_open.price_version_id, own.price_version_id), next_open.period IS NOT NULL,
           earlier.entry, earlier.calls, earlier.units, earlier.units_before, earlier.tenant_id, earlier.meter,
           earlier.period, earlier.session_id
    FROM unnest(calls) WITH ORDINALITY AS given (
        call_id, slice, tenant_id, key_id, meter, units, model, engine, occurred_at, voided_from,
        maybe_elsewhere, place)
    LEFT JOIN LATERAL (
        SELECT * FROM billing.period
        WHERE period.tenant_id = given.tenant_id AND period.starts_at <= given.occurred_at
        ORDER BY period.starts_at DESC LIMIT 1
    ) AS own ON given.occurred_at < own.ends_at
    LEFT JOIN LATERAL (  -- a month that is closed and has no open one after it is as good as not open
        SELECT * FROM billing.period
        WHERE own.closed_at IS NOT NULL AND period.tenant_id = given.tenant_id
          AND period.starts_at > own.starts_at AND period.closed_at IS NULL
        ORDER BY period.starts_at LIMIT 1
    ) AS next_open ON true
    LEFT JOIN LATERAL (
        SELECT * FROM billing.usage_row latest
        WHERE latest.call_id = given.call_id AND latest.slice = given.slice
        ORDER BY latest.entry DESC LIMIT 1
    ) AS earlier ON true
$$;


-- Charges a batch of calls, and takes calls back, in one transaction. A call is an object of the array `calls`:
--   call_id, slice, tenant_id, key_id, meter, units, model, engine, occurred_at
--   voided_from              takes the call back: the session that it is in flight of; `units` are negative
--   maybe_elsewhere          the id is an earlier request's: the call may be in flight already
--   claim, media_type, body  the answer to keep for repeats of the request (base64)
--   claim, fingerprint, kept_s  the request itself, to be known again for so long (base64)
--
-- Answers one row a call, in the order given:
--   charged          the row was written now
--   already_charged  the same call was there: it is counted once, and no cap concerns it again
--   taken_over       as already_charged, and in flight of another session: it is in this one's hands now
--   call_id_reused   another call was there under this id: nothing is written
--   over_cap         the call would pass the cap named in `cap`: nothing is written
--   period_not_open  the month, or a capped key in `period`, has no counters yet: nothing is written; open and
--                    send again
--   unknown_tenant   no account: nothing is written
--   voided           the call was taken back
--   not_in_flight    the call is charged no more, or answered, or in another session's hands: nothing is written
--
-- `in_flight` are all calls of the session that are charged, or may be with this batch, and not answered: they
-- are recorded in the same transaction, so that whoever finds the session dead knows what to take back.
--
-- The order of the steps is what keeps it exact. The accounts of the batch's tenants are locked first, in one
-- order for everyone, so two batches cannot deadlock; then the requests that calls answer, and the session
-- itself. What stands is read by the statements after, whose snapshots (READ COMMITTED) are taken when the locks
-- are held: read in the same statement, it would be from before the wait. A tenant's usage, roll-up, counters and
-- the session that a row names change under the account's lock only; caps are set, credit is granted and months
-- are closed under it too. A unique violation (one id under two tenants at once, or twice in a batch) undoes the
-- batch.
--
-- The calls of a capped tenant are taken together where they fit; if not, they are decided one by one, in
-- the batch's order, so that a smaller call may fit where a larger one before it did not.
--
-- The tables are empty when the plan is first made and huge later, and index lookups are right for both: the
-- caller's session is set so (`billing.store.charges.set_up_session`), since settings of the function itself
-- cost a tenth of a small batch's time.
DROP FUNCTION billing.charge(bigint, uuid[], json);
CREATE FUNCTION billing.charge(session bigint, in_flight uuid[], calls json)
RETURNS TABLE (outcome text, period text, units_before bigint, cap text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    batch      billing.given_call[] := ARRAY(
        SELECT given FROM json_populate_recordset(NULL::billing.given_call, calls) AS given);
    tenant_ids text[];
    capped     text[];
    month      record;
    month_hits text[];
    hits       text[];
    of_tenant  text := '';        -- whose months are decided, and what the batch adds to those decided:
    nanos      numeric;
    voidable   uuid[];
    taken      uuid[];
    has_capped_keys boolean;
    has_claims boolean := strpos(calls::text, '"claim"') > 0;
BEGIN
    tenant_ids := ARRAY(
        SELECT account.tenant_id FROM billing.account
        WHERE account.tenant_id = ANY(ARRAY(SELECT given.tenant_id FROM unnest(batch) AS given))
        ORDER BY account.tenant_id FOR NO KEY UPDATE);
    IF has_claims THEN
        PERFORM FROM billing.idempotent_request request
        WHERE request.claim IN (SELECT decode(claim, 'base64') FROM json_to_recordset(calls) AS given (claim text))
        ORDER BY request.claim FOR UPDATE;
    END IF;
    IF strpos(calls::text, '"voided_from"') > 0 THEN
        voidable := ARRAY(
            SELECT unnest(flying.in_flight) FROM billing.charging_session flying
            WHERE flying.session_id IN (SELECT given.voided_from FROM unnest(batch) AS given));
    END IF;
    IF strpos(calls::text, '"maybe_elsewhere"') > 0 THEN
        WITH moved AS (
            UPDATE billing.usage_row usage SET session_id = session
            FROM unnest(batch) AS known, billing.charging_session flying
            WHERE known.maybe_elsewhere AND usage.call_id = known.call_id AND usage.session_id <> session
              AND flying.session_id = usage.session_id AND usage.call_id = ANY(flying.in_flight)
            RETURNING usage.call_id
        )
        SELECT array_agg(moved.call_id) INTO taken FROM moved;
    END IF;
    IF session IS NOT NULL THEN
        UPDATE billing.charging_session flying SET in_flight = charge.in_flight
        WHERE flying.session_id = session;
    END IF;

    SELECT array_agg(DISTINCT cap.tenant_id), coalesce(bool_or(cap.key_id IS NOT NULL), false)
    INTO capped, has_capped_keys
    FROM billing.cap WHERE cap.tenant_id = ANY(tenant_ids);
    IF capped IS NOT NULL THEN
        FOR month IN
            SELECT given.tenant_id, given.period, given.price_version_id,
                   array_agg(given.place ORDER BY given.place)::int[] AS places,
                   array_agg(given.key_id ORDER BY given.place) AS key_ids,
                   array_agg(given.meter ORDER BY given.place) AS meters,
                   array_agg(given.units ORDER BY given.place) AS amounts
            FROM billing.calls_met(batch) AS given
            WHERE given.period IS NOT NULL AND given.tenant_id = ANY(capped) AND given.voided_from IS NULL
              AND given.earlier_entry % 2 IS DISTINCT FROM 0
            GROUP BY given.tenant_id, given.period, given.price_version_id
            ORDER BY given.tenant_id, given.period
        LOOP
            IF month.tenant_id <> of_tenant THEN
                of_tenant := month.tenant_id;
                nanos := 0;
            END IF;
            SELECT decision.hits, nanos + decision.nanos_more INTO month_hits, nanos
            FROM billing.caps_hit(of_tenant, month.period, month.price_version_id, nanos,
                                  month.key_ids, month.meters, month.amounts) AS decision;
            FOR n IN 1 .. coalesce(cardinality(month_hits), 0) LOOP
                hits[month.places[n]] := month_hits[n];
            END LOOP;
        END LOOP;
    END IF;

    RETURN QUERY
    WITH decided AS MATERIALIZED (
        SELECT given.*, hits[given.place] AS cap, coalesce(given.earlier_entry + 1, 0) AS entry,
               CASE
                   WHEN given.voided_from IS NULL THEN (given.slice = 0)::int
                   WHEN given.earlier_units = -given.units THEN -given.earlier_calls
                   ELSE 0
               END AS calls,
               CASE
                   WHEN given.voided_from IS NOT NULL THEN CASE
                       WHEN given.earlier_entry % 2 <> 0 OR given.call_id = ANY(voidable) IS NOT TRUE
                           OR given.earlier_session_id IS DISTINCT FROM given.voided_from
                           OR -given.units > given.earlier_units THEN 'not_in_flight'
                       WHEN given.period IS NULL THEN 'period_not_open'
                       ELSE 'voided'
                   END
                   WHEN given.earlier_entry % 2 = 0
                       AND (given.earlier_tenant_id, given.earlier_meter, given.earlier_units)
                         = (given.tenant_id, given.meter, given.units) THEN CASE
                       WHEN given.call_id = ANY(taken) THEN 'taken_over'
                       ELSE 'already_charged'
                   END
                   WHEN given.earlier_entry % 2 = 0 THEN 'call_id_reused'
                   WHEN hits[given.place] = 'uncounted' THEN 'period_not_open'
                   WHEN hits[given.place] IS NOT NULL THEN 'over_cap'
                   WHEN given.period IS NOT NULL THEN 'charged'
                   WHEN given.tenant_id = ANY(tenant_ids) THEN 'period_not_open'
                   ELSE 'unknown_tenant'
               END AS outcome
        FROM billing.calls_met(batch) AS given
    ), summed AS (  -- a counter is looked up once, at the first of its calls
        SELECT decided.*, outcome IN ('charged', 'voided') AS is_new,
               sum(units) FILTER (WHERE outcome IN ('charged', 'voided')) OVER counter AS units_so_far,
               CASE WHEN row_number() OVER counter = 1 THEN (
                   SELECT counter.units FROM billing.period_counter counter
                   WHERE counter.tenant_id = decided.tenant_id AND counter.period = decided.period
                     AND counter.meter = decided.meter) END AS units_counted
        FROM decided
        WINDOW counter AS (PARTITION BY tenant_id, period, meter ORDER BY place ROWS UNBOUNDED PRECEDING)
    ), placed AS MATERIALIZED (
        SELECT summed.*, (max(units_counted) OVER counter + units_so_far)::bigint - units AS units_before
        FROM summed
        WINDOW counter AS (PARTITION BY tenant_id, period, meter ORDER BY place ROWS UNBOUNDED PRECEDING)
    ), written AS (
        INSERT INTO billing.usage_row (call_id, slice, entry, calls, units, units_before, occurred_at, tenant_id,
                                       key_id, period, meter, model, engine, is_late, session_id)
        SELECT call_id, slice, entry, calls, units, units_before, occurred_at, tenant_id,
               key_id, period, meter, model, engine, is_late, session
        FROM placed WHERE is_new
    ), hours AS MATERIALIZED (
        SELECT tenant_id, period, date_trunc('hour', occurred_at, time_zone) AS hour, meter, key_id,
               sum(calls) AS calls, sum(units)::bigint AS units
        FROM placed WHERE is_new GROUP BY 1, 2, 3, 4, 5
    ), rolled_up AS (
        INSERT INTO billing.hourly_usage AS hourly (tenant_id, period, hour, meter, key_id, calls, units)
        SELECT tenant_id, period, hour, meter, key_id, calls, units FROM hours
        ON CONFLICT (tenant_id, period, hour, meter, key_id)
        DO UPDATE SET calls = hourly.calls + excluded.calls, units = hourly.units + excluded.units
    ), counted AS (
        UPDATE billing.period_counter counter
        SET calls = counter.calls + added.calls, units = counter.units + added.units
        FROM (
            SELECT tenant_id, period, meter, sum(calls) AS calls, sum(units)::bigint AS units
            FROM hours GROUP BY tenant_id, period, meter
        ) AS added
        WHERE (counter.tenant_id, counter.period, counter.meter)
            = (added.tenant_id, added.period, added.meter)
    )
    SELECT outcome, CASE WHEN is_new OR outcome = 'period_not_open' THEN period ELSE earlier_period END,
           CASE WHEN is_new THEN units_before ELSE earlier_units_before END,
           CASE WHEN outcome = 'over_cap' THEN cap END
    FROM placed ORDER BY place;

    IF has_claims THEN
        UPDATE billing.idempotent_request request
        SET media_type = given.media_type, body = decode(given.body, 'base64')
        FROM json_to_recordset(calls) AS given (call_id uuid, claim text, media_type text, body text)
        WHERE given.body IS NOT NULL AND request.claim = decode(given.claim, 'base64')
          AND request.call_id = given.call_id
          AND EXISTS (SELECT FROM billing.usage_row usage WHERE usage.call_id = given.call_id);
        INSERT INTO billing.idempotent_request AS request (claim, fingerprint, call_id, occurred_at, holder,
                                                           lease_ends_at, expires_at)
        SELECT DISTINCT ON (named.claim) named.claim, decode(given.fingerprint, 'base64'), given.call_id,
               given.occurred_at, session, now(), now() + make_interval(secs => given.kept_s)
        FROM json_to_recordset(calls) AS given (
            call_id uuid, occurred_at timestamptz, claim text, fingerprint text, kept_s float)
        CROSS JOIN LATERAL (SELECT decode(given.claim, 'base64')) AS named (claim)
        WHERE given.fingerprint IS NOT NULL
          AND EXISTS (SELECT FROM billing.usage_row usage WHERE usage.call_id = given.call_id)
        ORDER BY named.claim, given.occurred_at DESC
        ON CONFLICT (claim) DO UPDATE
        SET call_id = excluded.call_id, occurred_at = excluded.occurred_at, holder = excluded.holder,
            lease_ends_at = excluded.lease_ends_at, expires_at = excluded.expires_at
        WHERE request.occurred_at < excluded.occurred_at;
    END IF;
    IF has_capped_keys THEN
        -- The rows of this transaction bear its time, and others may to the microsecond.
        UPDATE billing.key_counter counter
        SET units = counter.units + added.units, rated = counter.rated + added.rated
        FROM (
            SELECT usage.tenant_id, usage.period, usage.key_id, usage.meter, sum(usage.units)::bigint AS units,
                   coalesce(sum(
                       billing.rate(price.up_to_units, price.nanos, usage.units_before + usage.units)
                       - billing.rate(price.up_to_units, price.nanos, usage.units_before)), 0) AS rated
            FROM (SELECT DISTINCT given.call_id FROM unnest(batch) AS given) AS ours
            JOIN billing.usage_row usage ON usage.call_id = ours.call_id
            JOIN billing.period ON period.tenant_id = usage.tenant_id AND period.period = usage.period
            LEFT JOIN LATERAL (
                SELECT found.up_to_units, found.nanos FROM billing.meter_prices(period.price_version_id) found
                WHERE found.meter = usage.meter
            ) AS price ON true
            WHERE usage.recorded_at = now() AND usage.session_id IS NOT DISTINCT FROM session
              AND usage.tenant_id = ANY(capped)
              AND EXISTS (
                  SELECT FROM billing.cap
                  WHERE cap.tenant_id = usage.tenant_id AND cap.key_id = usage.key_id)
            GROUP BY usage.tenant_id, usage.period, usage.key_id, usage.meter
        ) AS added
        WHERE (counter.tenant_id, counter.period, counter.key_id, counter.meter)
            = (added.tenant_id, added.period, added.key_id, added.meter);
    END IF;
END $$;
