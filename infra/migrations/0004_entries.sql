-- What a charge needs to survive everything: entries that take a call back and charge it again, a record of
-- the calls in flight, requests that are known again, months that close, prepaid credit, partitions by time.


-- Usage, partitioned by time. A call id begins with its time (UUID version 7), so a range of ids is a range
-- of time, an id belongs to one partition for ever, and the primary key is unique over all of them. There is
-- no default partition: an id from a range that was detached, or is not made yet, is refused.

CREATE FUNCTION billing.first_call_id(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

ALTER TABLE billing.usage_row RENAME TO usage_row_before;
ALTER INDEX billing.usage_row_pkey RENAME TO usage_row_before_pkey;
DROP INDEX billing.usage_row_by_tenant;

-- The entries of a call's slice alternate: a charge (0), its void (1), charged again (2), and so on. What a
-- call counts for is the sum of its entries.
CREATE TABLE billing.usage_row (
    call_id      uuid NOT NULL,
    slice        int NOT NULL CHECK (slice >= 0),
    entry        smallint NOT NULL CHECK (entry >= 0),
    calls        smallint NOT NULL,
    units        bigint NOT NULL,
    units_before bigint NOT NULL,  -- the month's units of this meter when this row was written
    occurred_at  timestamptz NOT NULL,
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    tenant_id    text NOT NULL,
    key_id       text NOT NULL,
    period       text NOT NULL,
    meter        text NOT NULL,
    model        text NOT NULL,
    engine       text NOT NULL,
    is_late      boolean NOT NULL,  -- its own month was closed: it counts in the one that was open
    written_in   xid8 NOT NULL DEFAULT pg_current_xact_id(),
    session_id   bigint,  -- the charging session that wrote it, or that took it over: who may take it back
    PRIMARY KEY (call_id, slice, entry),
    CHECK (CASE WHEN entry % 2 = 0 THEN units >= 0 AND calls IN (0, 1) ELSE units <= 0 AND calls IN (-1, 0) END)
) PARTITION BY RANGE (call_id);
CREATE INDEX usage_row_by_tenant ON billing.usage_row (tenant_id, period, call_id);

CREATE TABLE billing.usage_partition (
    partition   text PRIMARY KEY,
    begins_at   timestamptz NOT NULL,
    ends_at     timestamptz NOT NULL,
    detached_at timestamptz
);

-- Makes the partitions of this calendar month (UTC) and of the next two; what is there stays. Attached, not
-- made as partitions: that takes no lock that a charge would wait for.
CREATE FUNCTION billing.make_usage_partitions(today timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    begins timestamptz;
    ends   timestamptz;
    name   text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('billing.make_usage_partitions'));
    FOR ahead IN 0 .. 2 LOOP
        begins := date_trunc('month', today, 'UTC') + make_interval(months => ahead);
        begins := date_trunc('month', begins + interval '12 hours', 'UTC');
        ends := date_trunc('month', begins + interval '32 days', 'UTC');
        CONTINUE WHEN EXISTS (
            SELECT FROM billing.usage_partition known
            WHERE known.begins_at <= begins AND begins < known.ends_at);
        name := 'usage_row_' || to_char(begins AT TIME ZONE 'UTC', 'YYYY_MM');
        EXECUTE format('CREATE TABLE billing.%I (LIKE billing.usage_row INCLUDING ALL)', name);
        EXECUTE format('ALTER TABLE billing.usage_row ATTACH PARTITION billing.%I FOR VALUES FROM (%L) TO (%L)',
                       name, billing.first_call_id(begins), billing.first_call_id(ends));
        INSERT INTO billing.usage_partition VALUES (name, begins, ends);
    END LOOP;
END $$;

DO $$
DECLARE
    ends timestamptz := date_trunc('month', date_trunc('month', now(), 'UTC') + interval '32 days', 'UTC');
BEGIN
    EXECUTE format('CREATE TABLE billing.usage_row_first PARTITION OF billing.usage_row '
                   'FOR VALUES FROM (MINVALUE) TO (%L)', billing.first_call_id(ends));
    INSERT INTO billing.usage_partition VALUES ('usage_row_first', '-infinity', ends);
END $$;
SELECT billing.make_usage_partitions(now());

INSERT INTO billing.usage_row (call_id, slice, entry, calls, units, units_before, occurred_at, recorded_at,
                               tenant_id, key_id, period, meter, model, engine, is_late)
SELECT call_id, slice, 0, 1, units, units_before, occurred_at, recorded_at,
       tenant_id, key_id, period, meter, model, engine, false
FROM billing.usage_row_before;
DROP TABLE billing.usage_row_before;


-- Months close. A charge for a closed month counts in the tenant's next open one.

ALTER TABLE billing.period ADD COLUMN closed_at timestamptz;
CREATE INDEX period_open ON billing.period (tenant_id, starts_at) WHERE closed_at IS NULL;
CREATE INDEX period_ending ON billing.period (ends_at, tenant_id) WHERE closed_at IS NULL;


-- Who charges, and which of its charged calls are not answered yet. A session is a connection that holds the
-- advisory lock of its id: while the lock is held, its transactions may still commit; when it can be taken,
-- none will any more. A call is voided for the session that its row names, by the right of being in flight
-- of it, and by nothing else: what a session says of calls that another one charged since counts for nothing.

CREATE TABLE billing.charging_session (
    session_id    bigint PRIMARY KEY,
    in_flight     uuid[] NOT NULL DEFAULT '{}',
    opened_at     timestamptz NOT NULL DEFAULT now(),
    missing_since timestamptz
) WITH (fillfactor = 50);
ALTER TABLE billing.charging_session ALTER COLUMN in_flight SET STORAGE EXTERNAL;  -- random: nothing to compress


-- Requests that are known again: by the caller's Idempotency-Key, or by their body when the caller's client
-- says that it tries again. Whether one is done is not stored: it is when its call has a usage row.

CREATE TABLE billing.idempotent_request (
    claim         bytea PRIMARY KEY CHECK (length(claim) = 32),
    fingerprint   bytea NOT NULL CHECK (length(fingerprint) = 32),
    call_id       uuid NOT NULL,
    occurred_at   timestamptz NOT NULL,  -- the call's, which decides its period however often it is sent
    holder        bigint,                -- the charging session of the worker that runs it; NULL: nobody
    lease_ends_at timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    media_type    text,
    body          bytea
);
CREATE INDEX idempotent_request_by_end ON billing.idempotent_request (expires_at);

-- Claims a request for a session. Answers one row:
--   run       run it, under the call id that is given
--   running   somebody runs it
--   done      its call was charged; with its answer, where that was kept
--   mismatch  another request was made under this claim
CREATE FUNCTION billing.claim_request(
    the_claim bytea, the_fingerprint bytea, new_call_id uuid, new_occurred_at timestamptz, session bigint,
    lease interval, keep interval
) RETURNS TABLE (
    outcome text, call_id uuid, occurred_at timestamptz, key_id text, units bigint, model text, engine text,
    media_type text, body bytea
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    known   billing.idempotent_request;
    charged billing.usage_row;
BEGIN
    INSERT INTO billing.idempotent_request AS request (claim, fingerprint, call_id, occurred_at, holder,
                                                       lease_ends_at, expires_at)
    VALUES (the_claim, the_fingerprint, new_call_id, new_occurred_at, session, now() + lease, now() + keep)
    ON CONFLICT (claim) DO UPDATE
    SET fingerprint = excluded.fingerprint, call_id = excluded.call_id, occurred_at = excluded.occurred_at,
        holder = excluded.holder, lease_ends_at = excluded.lease_ends_at, expires_at = excluded.expires_at,
        media_type = NULL, body = NULL
    WHERE request.expires_at <= now();
    SELECT request.* INTO STRICT known FROM billing.idempotent_request request
    WHERE request.claim = the_claim FOR UPDATE;
    SELECT usage.* INTO charged FROM billing.usage_row usage
    WHERE usage.call_id = known.call_id AND usage.slice = 0 AND usage.entry = 0;

    outcome := CASE
        WHEN known.fingerprint <> the_fingerprint THEN 'mismatch'
        WHEN known.call_id = new_call_id THEN 'run'
        WHEN charged.call_id IS NOT NULL THEN 'done'
        WHEN known.holder IS NULL OR known.lease_ends_at <= now() THEN 'run'
        WHEN known.holder IS DISTINCT FROM session AND pg_try_advisory_xact_lock(known.holder) THEN 'run'
        ELSE 'running'
    END;
    IF outcome = 'run' THEN
        UPDATE billing.idempotent_request request SET holder = session, lease_ends_at = now() + lease
        WHERE request.claim = the_claim;
    END IF;
    RETURN QUERY SELECT outcome, known.call_id, known.occurred_at, charged.key_id, charged.units, charged.model,
                        charged.engine, known.media_type, known.body;
END $$;

-- Notes requests whose clients may try again by themselves; of equal ones, the latest is remembered.
CREATE FUNCTION billing.note_requests(requests json, session bigint, keep interval) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO billing.idempotent_request AS request (claim, fingerprint, call_id, occurred_at, holder,
                                                       lease_ends_at, expires_at)
    SELECT DISTINCT ON (named.claim) named.claim, decode(fingerprint, 'base64'), call_id, occurred_at,
           session, now() + make_interval(secs => lease_s), now() + keep
    FROM json_to_recordset(requests)
         AS given (claim text, fingerprint text, call_id uuid, occurred_at timestamptz, lease_s float)
    CROSS JOIN LATERAL (SELECT decode(given.claim, 'base64')) AS named (claim)
    ORDER BY named.claim, occurred_at DESC  -- the order in which all who lock several requests take them
    ON CONFLICT (claim) DO UPDATE
    SET fingerprint = excluded.fingerprint, call_id = excluded.call_id, occurred_at = excluded.occurred_at,
        holder = excluded.holder, lease_ends_at = excluded.lease_ends_at, expires_at = excluded.expires_at
    WHERE request.occurred_at < excluded.occurred_at
$$;


-- Prepaid credit: a cap in money that holds over all months. `at_most` is all that was ever granted;
-- `settled_nanos` is what closed months came to, each rounded up.

ALTER TABLE billing.cap
    ADD COLUMN is_credit boolean NOT NULL DEFAULT false,
    ADD COLUMN settled_nanos bigint NOT NULL DEFAULT 0,
    DROP CONSTRAINT cap_tenant_id_key_id_meter_key,
    ADD UNIQUE NULLS NOT DISTINCT (tenant_id, key_id, meter, is_credit),
    ADD CHECK (NOT is_credit OR (key_id IS NULL AND meter IS NULL)),
    ADD CHECK (is_credit OR settled_nanos = 0);

CREATE TABLE billing.credit_grant (
    grant_id   text PRIMARY KEY,
    tenant_id  text NOT NULL REFERENCES billing.account,
    nanos      bigint NOT NULL CHECK (nanos > 0),
    note       text NOT NULL DEFAULT '' CHECK (length(note) <= 200),
    granted_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX credit_grant_by_tenant ON billing.credit_grant (tenant_id, granted_at);

-- What a month has come to, in whole nanos, rounded up.
CREATE FUNCTION billing.month_nanos(of_tenant text, of_period text, version text) RETURNS numeric
LANGUAGE sql STABLE AS $$
    SELECT coalesce(div(sum(billing.rate(price.up_to_units, price.nanos, counter.units) * price.scale)
                        + max(price.nano) - 1, max(price.nano)), 0)
    FROM billing.period_counter counter
    JOIN billing.meter_prices(version) price ON price.meter = counter.meter
    WHERE counter.tenant_id = of_tenant AND counter.period = of_period
$$;

-- As in 0003, and of the credit what is left besides the tenant's other open months.
DROP FUNCTION billing.cap_rooms(text, text, text, text[]);
CREATE FUNCTION billing.cap_rooms(of_tenant text, of_period text, version text, of_keys text[])
RETURNS TABLE (key_id text, meter text, measure text, room numeric)
LANGUAGE sql STABLE AS $$
    SELECT cap.key_id, cap.meter, CASE WHEN cap.is_credit THEN 'credit' ELSE coalesce(cap.meter, 'money') END,
    CASE
        WHEN cap.key_id IS NULL AND cap.meter IS NOT NULL THEN (
            SELECT cap.at_most - counter.units::numeric FROM billing.period_counter counter
            WHERE counter.tenant_id = of_tenant AND counter.period = of_period AND counter.meter = cap.meter)
        WHEN cap.meter IS NOT NULL THEN (
            SELECT cap.at_most - counter.units::numeric FROM billing.key_counter counter
            WHERE counter.tenant_id = of_tenant AND counter.period = of_period
              AND counter.key_id = cap.key_id AND counter.meter = cap.meter)
        WHEN cap.key_id IS NULL THEN (
            SELECT (cap.at_most::numeric - cap.settled_nanos - coalesce(others.nanos, 0)) * max(price.nano)
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
    LEFT JOIN LATERAL (
        SELECT sum(billing.month_nanos(month.tenant_id, month.period, month.price_version_id)) AS nanos
        FROM billing.period month
        WHERE cap.is_credit AND month.tenant_id = of_tenant AND month.closed_at IS NULL
          AND month.period <> of_period
    ) AS others ON true
    WHERE cap.tenant_id = of_tenant AND (cap.key_id IS NULL OR cap.key_id = ANY(of_keys))
    ORDER BY cap.key_id NULLS FIRST, cap.meter NULLS FIRST, cap.is_credit
$$;

-- As in 0003; a cap is named by its measure, which may be the credit.
CREATE OR REPLACE FUNCTION billing.caps_hit(
    of_tenant text, of_period text, key_ids text[], meters text[], amounts bigint[]
) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    version    text;
    cap_keys   text[];     -- the caps in question, and of each:
    cap_meters text[];
    measures   text[];
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
    SELECT array_agg(cap.key_id), array_agg(cap.meter), array_agg(cap.measure), array_agg(cap.room)
    INTO cap_keys, cap_meters, measures, rooms
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
                hit := CASE WHEN cap_keys[c] IS NULL THEN 'tenant ' ELSE 'key ' END || measures[c];
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

-- As in 0003; a cap is named by its measure.
DROP FUNCTION billing.cap_view(text[], timestamptz);
CREATE FUNCTION billing.cap_view(tenant_ids text[], moment timestamptz)
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
-- The order of the steps is what keeps it exact. The counter rows of the batch are locked first, in one
-- order for everyone, so two batches cannot deadlock: those of the calls' meters, and of a tenant with a
-- cap all meters of the month, since a cap in money is compared with their sum; then tenants' credits, the
-- requests that calls answer, and the session itself. What they hold is read by the statements after, whose
-- snapshots (READ COMMITTED) are taken when the locks are held: read in the same statement, it would be from
-- before the wait. A tenant's usage, roll-up and counters of one meter change under that counter's lock only,
-- and so does the session that a row names; caps are set and months closed under the locks of all the tenant's
-- counters. A tenant that got its first cap during the wait is not locked as it must be, and a month that
-- closed does not take the call: the batch is undone and sent again. A unique violation (one id under two
-- counters at once, or twice in a batch) undoes the batch.
--
-- The calls of a capped tenant are taken together where they fit; if not, they are decided one by one, in
-- the batch's order, so that a smaller call may fit where a larger one before it did not.
--
-- The tables are empty when the plan is first made and huge later, and index lookups are right for both: the
-- caller's session is set so (`billing.store.charges.set_up_session`), since settings of the function itself
-- cost a tenth of a small batch's time.
DROP FUNCTION billing.charge(uuid[], int[], text[], text[], text[], bigint[], text[], text[], timestamptz[]);
CREATE FUNCTION billing.charge(session bigint, in_flight uuid[], calls json)
RETURNS TABLE (outcome text, period text, units_before bigint, cap text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    call_ids   uuid[];
    slices     int[];
    tenant_ids text[];
    key_ids    text[];
    meters     text[];
    amounts    bigint[];
    models     text[];
    engines    text[];
    moments    timestamptz[];
    voiders    bigint[];   -- NULL where a call is charged
    elsewhere  uuid[];
    claims     bytea[];
    prints     bytea[];
    keeps      float[];
    media      text[];
    bodies     bytea[];
    periods    text[];
    zones      text[];
    lates      boolean[];
    capped     text[];
    hits       text[];
    month      record;
    month_hits text[];
    voidable   uuid[];
    taken      uuid[];
BEGIN
    -- The rows of a function and of lateral joins to it stay in its order.
    SELECT array_agg(call_id), array_agg(slice), array_agg(tenant_id), array_agg(key_id), array_agg(meter),
           array_agg(units), array_agg(model), array_agg(engine), array_agg(occurred_at),
           array_agg(voided_from), array_agg(call_id) FILTER (WHERE maybe_elsewhere),
           array_agg(CASE WHEN own.closed_at IS NULL THEN own.period ELSE next_open.period END),
           array_agg(coalesce(next_open.time_zone, own.time_zone)), array_agg(next_open.period IS NOT NULL)
    INTO call_ids, slices, tenant_ids, key_ids, meters, amounts, models, engines, moments, voiders, elsewhere,
         periods, zones, lates
    FROM json_to_recordset(calls) AS given (
        call_id uuid, slice int, tenant_id text, key_id text, meter text, units bigint, model text,
        engine text, occurred_at timestamptz, voided_from bigint, maybe_elsewhere boolean)
    LEFT JOIN LATERAL (
        SELECT period.period, period.time_zone, period.starts_at, period.ends_at, period.closed_at
        FROM billing.period
        WHERE period.tenant_id = given.tenant_id AND period.starts_at <= given.occurred_at
        ORDER BY period.starts_at DESC LIMIT 1
    ) AS own ON given.occurred_at < own.ends_at
    LEFT JOIN LATERAL (  -- a month that is closed and has no open one after it is as good as not open
        SELECT period.period, period.time_zone
        FROM billing.period
        WHERE own.closed_at IS NOT NULL AND period.tenant_id = given.tenant_id
          AND period.starts_at > own.starts_at AND period.closed_at IS NULL
        ORDER BY period.starts_at LIMIT 1
    ) AS next_open ON true;
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
    IF capped <> '{}' THEN
        PERFORM FROM billing.cap WHERE cap.tenant_id = ANY(capped) AND cap.is_credit
        ORDER BY cap.tenant_id FOR UPDATE;
    END IF;

    IF EXISTS (
        SELECT FROM billing.cap WHERE cap.tenant_id = ANY(tenant_ids) AND cap.tenant_id <> ALL(capped)
    ) OR EXISTS (
        SELECT FROM (SELECT DISTINCT * FROM unnest(tenant_ids, periods)) AS given (tenant_id, period)
        JOIN billing.period ON period.tenant_id = given.tenant_id AND period.period = given.period
        WHERE period.closed_at IS NOT NULL
    ) THEN
        RAISE EXCEPTION 'a first cap was set or a month closed meanwhile: charge again'
            USING ERRCODE = 'serialization_failure';
    END IF;

    IF strpos(calls::text, '"claim"') > 0 THEN
        SELECT array_agg(decode(claim, 'base64')), array_agg(decode(fingerprint, 'base64')), array_agg(kept_s),
               array_agg(media_type), array_agg(decode(body, 'base64'))
        INTO claims, prints, keeps, media, bodies
        FROM json_to_recordset(calls)
             AS given (claim text, fingerprint text, kept_s float, media_type text, body text);
        PERFORM FROM billing.idempotent_request request WHERE request.claim = ANY(claims)
        ORDER BY request.claim FOR UPDATE;
    END IF;
    IF array_remove(voiders, NULL) <> '{}' THEN
        voidable := ARRAY(
            SELECT unnest(flying.in_flight) FROM billing.charging_session flying
            WHERE flying.session_id = ANY(voiders));
    END IF;
    IF elsewhere IS NOT NULL THEN
        WITH moved AS (
            UPDATE billing.usage_row usage SET session_id = session
            FROM unnest(elsewhere) AS known (call_id), billing.charging_session flying
            WHERE usage.call_id = known.call_id AND usage.session_id <> session
              AND flying.session_id = usage.session_id AND usage.call_id = ANY(flying.in_flight)
            RETURNING usage.call_id
        )
        SELECT array_agg(moved.call_id) INTO taken FROM moved;
    END IF;
    IF session IS NOT NULL THEN
        UPDATE billing.charging_session flying SET in_flight = charge.in_flight
        WHERE flying.session_id = session;
    END IF;

    IF capped <> '{}' THEN
        FOR month IN
            SELECT given.tenant_id, given.period, array_agg(given.place ORDER BY given.place)::int[] AS places,
                   array_agg(given.key_id ORDER BY given.place) AS key_ids,
                   array_agg(given.meter ORDER BY given.place) AS meters,
                   array_agg(given.units ORDER BY given.place) AS amounts
            FROM unnest(call_ids, slices, tenant_ids, key_ids, meters, amounts, periods, voiders) WITH ORDINALITY
                 AS given (call_id, slice, tenant_id, key_id, meter, units, period, voided_from, place)
            WHERE given.period IS NOT NULL AND given.tenant_id = ANY(capped) AND given.voided_from IS NULL
              AND (
                  SELECT earlier.entry FROM billing.usage_row earlier
                  WHERE earlier.call_id = given.call_id AND earlier.slice = given.slice
                  ORDER BY earlier.entry DESC LIMIT 1) % 2 IS DISTINCT FROM 0
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
    END IF;

    RETURN QUERY
    WITH decided AS (
        SELECT given.*, earlier.period AS earlier_period, earlier.units_before AS earlier_units_before,
               coalesce(earlier.entry + 1, 0) AS entry,
               CASE
                   WHEN given.voided_from IS NULL THEN (given.slice = 0)::int
                   WHEN earlier.units = -given.units THEN -earlier.calls
                   ELSE 0
               END AS calls,
               CASE
                   WHEN given.voided_from IS NOT NULL THEN CASE
                       WHEN earlier.entry % 2 <> 0 OR given.call_id = ANY(voidable) IS NOT TRUE
                           OR earlier.session_id IS DISTINCT FROM given.voided_from
                           OR -given.units > earlier.units THEN 'not_in_flight'
                       WHEN given.period IS NULL THEN 'period_not_open'
                       ELSE 'voided'
                   END
                   WHEN earlier.entry % 2 = 0 AND (earlier.tenant_id, earlier.meter, earlier.units)
                       = (given.tenant_id, given.meter, given.units) THEN CASE
                       WHEN given.call_id = ANY(taken) THEN 'taken_over'
                       ELSE 'already_charged'
                   END
                   WHEN earlier.entry % 2 = 0 THEN 'call_id_reused'
                   WHEN given.cap = 'uncounted' THEN 'period_not_open'
                   WHEN given.cap IS NOT NULL THEN 'over_cap'
                   WHEN given.period IS NOT NULL THEN 'charged'
                   WHEN EXISTS (SELECT FROM billing.account WHERE account.tenant_id = given.tenant_id)
                       THEN 'period_not_open'
                   ELSE 'unknown_tenant'
               END AS outcome
        FROM unnest(call_ids, slices, tenant_ids, key_ids, meters, amounts, models, engines, moments,
                    voiders, periods, zones, lates, hits) WITH ORDINALITY
             AS given (call_id, slice, tenant_id, key_id, meter, units, model, engine, moment,
                       voided_from, period, time_zone, is_late, cap, place)
        LEFT JOIN LATERAL (
            SELECT * FROM billing.usage_row latest
            WHERE latest.call_id = given.call_id AND latest.slice = given.slice
            ORDER BY latest.entry DESC LIMIT 1
        ) AS earlier ON true
    ), placed AS MATERIALIZED (
        SELECT decided.*, decided.outcome IN ('charged', 'voided') AS is_new,
               CASE WHEN decided.outcome IN ('charged', 'voided') THEN counter.units - decided.units + (
                   sum(decided.units) FILTER (WHERE decided.outcome IN ('charged', 'voided')) OVER (
                       PARTITION BY decided.tenant_id, decided.period, decided.meter
                       ORDER BY decided.place ROWS UNBOUNDED PRECEDING
                   ))::bigint END AS units_before
        FROM decided
        LEFT JOIN billing.period_counter counter
            ON counter.tenant_id = decided.tenant_id AND counter.period = decided.period
           AND counter.meter = decided.meter
    ), written AS (
        INSERT INTO billing.usage_row (call_id, slice, entry, calls, units, units_before, occurred_at, tenant_id,
                                       key_id, period, meter, model, engine, is_late, session_id)
        SELECT call_id, slice, entry, calls, units, units_before, moment, tenant_id,
               key_id, period, meter, model, engine, is_late, session
        FROM placed WHERE is_new
    ), counted AS (
        UPDATE billing.period_counter counter
        SET calls = counter.calls + added.calls, units = counter.units + added.units
        FROM (
            SELECT tenant_id, period, meter, sum(calls) AS calls, sum(units)::bigint AS units
            FROM placed WHERE is_new GROUP BY tenant_id, period, meter
        ) AS added
        WHERE (counter.tenant_id, counter.period, counter.meter)
            = (added.tenant_id, added.period, added.meter)
    ), rolled_up AS (
        INSERT INTO billing.hourly_usage AS hourly (tenant_id, period, hour, meter, key_id, calls, units)
        SELECT tenant_id, period, date_trunc('hour', moment, time_zone), meter, key_id, sum(calls), sum(units)
        FROM placed WHERE is_new GROUP BY 1, 2, 3, 4, 5
        ON CONFLICT (tenant_id, period, hour, meter, key_id)
        DO UPDATE SET calls = hourly.calls + excluded.calls, units = hourly.units + excluded.units
    )
    SELECT outcome, CASE WHEN is_new OR outcome = 'period_not_open' THEN period ELSE earlier_period END,
           CASE WHEN is_new THEN units_before ELSE earlier_units_before END,
           CASE WHEN outcome = 'over_cap' THEN cap END
    FROM placed ORDER BY place;

    IF claims IS NOT NULL THEN
        UPDATE billing.idempotent_request request SET media_type = given.media_type, body = given.body
        FROM unnest(call_ids, claims, media, bodies) AS given (call_id, claim, media_type, body)
        WHERE given.body IS NOT NULL AND request.claim = given.claim AND request.call_id = given.call_id
          AND EXISTS (SELECT FROM billing.usage_row usage WHERE usage.call_id = given.call_id);
        INSERT INTO billing.idempotent_request AS request (claim, fingerprint, call_id, occurred_at, holder,
                                                           lease_ends_at, expires_at)
        SELECT DISTINCT ON (given.claim) given.claim, given.fingerprint, given.call_id, given.moment, session,
               now(), now() + make_interval(secs => given.kept_s)
        FROM unnest(call_ids, moments, claims, prints, keeps)
             AS given (call_id, moment, claim, fingerprint, kept_s)
        WHERE given.fingerprint IS NOT NULL
          AND EXISTS (SELECT FROM billing.usage_row usage WHERE usage.call_id = given.call_id)
        ORDER BY given.claim, given.moment DESC
        ON CONFLICT (claim) DO UPDATE
        SET call_id = excluded.call_id, occurred_at = excluded.occurred_at, holder = excluded.holder,
            lease_ends_at = excluded.lease_ends_at, expires_at = excluded.expires_at
        WHERE request.occurred_at < excluded.occurred_at;
    END IF;
    IF capped <> '{}' THEN  -- the rows of this transaction bear its time, and others may to the microsecond
        UPDATE billing.key_counter counter
        SET units = counter.units + added.units, rated = counter.rated + added.rated
        FROM (
            SELECT usage.tenant_id, usage.period, usage.key_id, usage.meter, sum(usage.units)::bigint AS units,
                   coalesce(sum(
                       billing.rate(price.up_to_units, price.nanos, usage.units_before + usage.units)
                       - billing.rate(price.up_to_units, price.nanos, usage.units_before)), 0) AS rated
            FROM (SELECT DISTINCT unnest(call_ids)) AS ours (call_id)
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
