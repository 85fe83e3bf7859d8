"""What reconciling reads. No usage row leaves the server: sums gather in temporary tables of the session.

All that adds usage up is copied in one statement (`copy_books`), and so is of one moment. The usage rows are
added up after it, part by part, each in a transaction of its own, but only those that were committed at that
moment: rows are written once, and the ones that came later are known by their transaction. Rows are read in
the order of their call ids, all tenants' together: that is the order in which they lie on disk.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import class_row

from infra.database import Connection

_STATEMENT_TIMEOUT: Final = "10min"
LAST_ID: Final = UUID(int=2**128 - 1)


class Month(msgspec.Struct, frozen=True):
    """One tenant's month, and how many roll-ups there are of it."""

    tenant_id: str
    period: str
    roll_ups: int


class Difference(msgspec.Struct, frozen=True):
    """One place that does not agree with the usage rows.

    Attributes:
        what: `counter`, `roll-up`, `key counter`, `invoice` (of a sealed month), `invoice total` (its lines
            add up to another subtotal), or `month` (usage in a month that was never opened).
        key_id: of a roll-up or a key's counter; empty otherwise.
        hour: of a roll-up, in UTC; empty otherwise.
        calls_of_rows, units_of_rows: what the usage rows add up to.
        calls, units: what the place says; a key's counter has no calls of its own, and repeats the rows'.
        rated: by how much a key's counter is off in money, in nanos times the price's `per_units`; of an
            invoice's subtotal, in minor units.
    """

    what: str
    tenant_id: str
    period: str
    meter: str
    key_id: str
    hour: str
    calls_of_rows: int
    units_of_rows: int
    calls: int
    units: int
    rated: int


class Moment(msgspec.Struct, frozen=True):
    """When the books were copied: the transactions that had not committed, and the server's clock.

    Attributes:
        snapshot: a `pg_snapshot`.
    """

    snapshot: str
    copied_at: datetime


@asynccontextmanager
async def workspace(connection: Connection) -> AsyncGenerator[None]:
    """The temporary tables, and the settings that long sums need, on a connection that is kept meanwhile."""
    await connection.execute(
        """
        SELECT set_config('work_mem', '64MB', false), set_config('jit', 'off', false),
               set_config('statement_timeout', %(timeout)s, false)
        """,
        {"timeout": _STATEMENT_TIMEOUT},
    )
    try:
        for table in _TABLES:
            await connection.execute(table)
        yield
    finally:
        with suppress(psycopg.Error):  # a connection that broke takes them along
            for undo in ("DISCARD TEMP", "RESET work_mem", "RESET jit", "RESET statement_timeout"):
                await connection.execute(undo)


async def read_months(
    connection: Connection, period: str | None, after: tuple[str, str], limit: int
) -> list[Month]:
    """The next months after (month, tenant), in that order, but for those with rows that were detached."""
    async with connection.cursor(row_factory=class_row(Month)) as cursor:
        await cursor.execute(
            """
            SELECT tenant_id, period, (
                SELECT count(*) FROM billing.hourly_usage hourly
                WHERE hourly.tenant_id = month.tenant_id AND hourly.period = month.period) AS roll_ups
            FROM billing.period month
            WHERE (period, tenant_id) > (%(after_period)s, %(after_tenant)s)
              AND (%(period)s::text IS NULL OR period = %(period)s)
              AND starts_at >= (
                  SELECT coalesce(max(ends_at), '-infinity') FROM billing.usage_partition
                  WHERE detached_at IS NOT NULL)
            ORDER BY period, tenant_id LIMIT %(limit)s
            """,
            {"period": period, "after_period": after[0], "after_tenant": after[1], "limit": limit},
        )
        return await cursor.fetchall()


async def read_used_months(
    connection: Connection, after: tuple[str, str], limit: int
) -> list[tuple[str, str, bool]]:
    """The next months after (tenant, month) that have usage rows, in order, and whether it was opened."""
    cursor = await connection.execute(
        _USED_MONTHS, {"after_tenant": after[0], "after_period": after[1], "limit": limit}, prepare=False
    )
    return await cursor.fetchall()


async def copy_books(connection: Connection, months: Sequence[tuple[str, str]]) -> Moment:
    """Begin with other months, as (tenant, month): copy all that adds up their usage, in one statement."""
    await connection.execute(
        "TRUNCATE pg_temp.reconciled_month, pg_temp.reconciled_segment, pg_temp.reconciled_price, "
        "pg_temp.reconciled_book, pg_temp.reconciled_usage"
    )
    async with connection.cursor(row_factory=class_row(Moment)) as cursor:
        await cursor.execute(
            _COPY_BOOKS,
            {
                "tenant_ids": [tenant_id for tenant_id, _ in months],
                "periods": [period for _, period in months],
            },
            prepare=False,
        )
        moment = await cursor.fetchone()
    assert moment is not None
    return moment


async def read_ends(connection: Connection) -> tuple[UUID, UUID] | None:
    """The first and the last call id in these months; None when they have no usage rows."""
    cursor = await connection.execute(_ENDS, prepare=False)
    row = await cursor.fetchone()
    return (row[0], row[1]) if row and row[0] else None


async def cut(connection: Connection, first: UUID, limit: int) -> UUID:
    """The last call id of the next `limit` usage rows, by the index alone; `LAST_ID` for fewer."""
    cursor = await connection.execute(
        """
        SELECT call_id FROM billing.usage_row WHERE call_id >= %(first)s
        ORDER BY call_id OFFSET %(limit)s - 1 LIMIT 1
        """,
        {"first": first, "limit": limit},
        prepare=False,
    )
    row = await cursor.fetchone()
    return row[0] if row else LAST_ID


async def add_up(connection: Connection, moment: Moment, first: UUID, last: UUID) -> None:
    """Add up these months' rows from one call id to another, both included, as of the moment."""
    values = {"first": first, "last": last, **msgspec.structs.asdict(moment)}
    async with connection.transaction():
        # The planner knows nothing of temporary tables: it would sort all rows, and try each month for each.
        await connection.execute(
            "SELECT set_config('enable_sort', 'off', true), set_config('enable_nestloop', 'off', true)"
        )
        await connection.execute(_ADD_UP, values, prepare=False)


async def forget_detached(connection: Connection) -> None:
    """Leave out the months whose rows were detached while they were being added up."""
    await connection.execute(
        """
        WITH detached AS (
            SELECT tenant_id, period FROM billing.period
            WHERE starts_at < (SELECT max(ends_at) FROM billing.usage_partition WHERE detached_at IS NOT NULL)
        ), forgotten AS (
            DELETE FROM pg_temp.reconciled_book WHERE (tenant_id, period) IN (SELECT * FROM detached)
        )
        DELETE FROM pg_temp.reconciled_usage WHERE (tenant_id, period) IN (SELECT * FROM detached)
        """
    )


async def count_entries(connection: Connection) -> tuple[int, int]:
    """How many charges and how many voids were added up."""
    cursor = await connection.execute(
        """
        SELECT coalesce(sum(charges), 0)::bigint, coalesce(sum(voids), 0)::bigint
        FROM pg_temp.reconciled_usage
        """
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


async def differences(connection: Connection) -> AsyncGenerator[Difference]:
    """Where the copied books and the sums do not agree."""
    async with connection.cursor(row_factory=class_row(Difference)) as cursor:
        async for one in cursor.stream(_DIFFERENCES):
            yield one


async def usage_by_meter(connection: Connection) -> AsyncGenerator[Difference]:
    """What was added up, as usage in months that were never opened."""
    async with connection.cursor(row_factory=class_row(Difference)) as cursor:
        async for one in cursor.stream(
            """
            SELECT 'month' AS what, tenant_id, period, meter, '' AS key_id, '' AS hour,
                   sum(calls)::bigint AS calls_of_rows, sum(units)::bigint AS units_of_rows,
                   0 AS calls, 0 AS units, 0 AS rated
            FROM pg_temp.reconciled_usage GROUP BY tenant_id, period, meter
            """
        ):
            yield one


_TABLES: Final = (
    "CREATE TEMPORARY TABLE reconciled_month (tenant_id text, period text, time_zone text)",
    """
    CREATE TEMPORARY TABLE reconciled_segment (
        tenant_id text, period text, segment smallint, ends_at timestamptz, snapshot pg_snapshot)
    """,
    """
    CREATE TEMPORARY TABLE reconciled_price (
        tenant_id text, period text, segment smallint, meter text, has_ended boolean, per_units numeric,
        up_to_units bigint[], nanos bigint[])
    """,
    """
    CREATE TEMPORARY TABLE reconciled_book (
        what text, tenant_id text, period text, meter text, key_id text, hour timestamptz, calls bigint,
        units bigint, rated numeric)
    """,
    """
    CREATE TEMPORARY TABLE reconciled_usage (
        tenant_id text, period text, meter text, key_id text, hour timestamptz, segment smallint,
        calls bigint, units bigint, rated numeric, charges bigint, voids bigint)
    """,
)

# Of months with keys' counters, the prices of all segments are copied too. A draft of a month that is not
# sealed may lag behind it: it is left out.
_COPY_BOOKS: Final = """
    WITH month AS (
        SELECT period.tenant_id, period.period, period.price_version_id
        FROM unnest(%(tenant_ids)s::text[], %(periods)s::text[]) AS given (tenant_id, period)
        JOIN billing.period USING (tenant_id, period)
    ), invoice AS (
        SELECT tenant_id, period, invoice.invoice_id, invoice.subtotal_minor
        FROM month JOIN billing.invoice USING (tenant_id, period)
        WHERE invoice.period_complete AND invoice.status <> 'void'
    ), listed AS (  -- one that was never opened too
        INSERT INTO pg_temp.reconciled_month
        SELECT tenant_id, period, coalesce(period.time_zone, 'UTC')
        FROM unnest(%(tenant_ids)s::text[], %(periods)s::text[]) AS given (tenant_id, period)
        LEFT JOIN billing.period USING (tenant_id, period)
    ), ended AS (
        INSERT INTO pg_temp.reconciled_segment
        SELECT tenant_id, period, past.segment, past.ends_at, past.snapshot
        FROM month JOIN billing.period_segment past USING (tenant_id, period)
    ), priced AS (
        INSERT INTO pg_temp.reconciled_price
        SELECT tenant_id, period, segment.segment, price.meter, segment.snapshot IS NOT NULL,
               div(price.nano, price.scale), price.up_to_units, price.nanos
        FROM month
        JOIN billing.month_segment segment USING (tenant_id, period)
        CROSS JOIN LATERAL billing.meter_prices(segment.price_version_id) price
        WHERE EXISTS (
            SELECT FROM billing.key_counter counter
            WHERE counter.tenant_id = month.tenant_id AND counter.period = month.period)
    ), copied AS (
        INSERT INTO pg_temp.reconciled_book
        SELECT 'counter', tenant_id, period, counter.meter, '', NULL, counter.calls, counter.units, 0
        FROM month JOIN billing.period_counter counter USING (tenant_id, period)
        UNION ALL
        SELECT 'roll-up', tenant_id, period, hourly.meter, hourly.key_id, hourly.hour, hourly.calls,
               hourly.units, 0
        FROM month JOIN billing.hourly_usage hourly USING (tenant_id, period)
        UNION ALL
        SELECT 'key counter', tenant_id, period, counter.meter, counter.key_id, NULL, 0, counter.units,
               counter.rated
        FROM month JOIN billing.key_counter counter USING (tenant_id, period)
        UNION ALL
        SELECT 'invoice', tenant_id, period, line.meter, '', NULL, line.calls, line.units, 0
        FROM invoice JOIN billing.invoice_line line USING (invoice_id) WHERE line.kind = 'usage'
        UNION ALL
        SELECT 'invoice total', tenant_id, period, '', '', NULL, 0, 0, subtotal_minor - (
            SELECT coalesce(sum(line.amount_minor), 0) FROM billing.invoice_line line
            WHERE line.invoice_id = invoice.invoice_id)
        FROM invoice
    )
    SELECT pg_current_snapshot()::text AS snapshot, now() AS copied_at
"""

_ENDS: Final = """
    SELECT min(first.call_id::text COLLATE "C")::uuid, max(last.call_id::text COLLATE "C")::uuid
    FROM pg_temp.reconciled_month month
    CROSS JOIN LATERAL (
        SELECT usage.call_id FROM billing.usage_row usage
        WHERE usage.tenant_id = month.tenant_id AND usage.period = month.period
        ORDER BY usage.call_id LIMIT 1
    ) AS first
    CROSS JOIN LATERAL (
        SELECT usage.call_id FROM billing.usage_row usage
        WHERE usage.tenant_id = month.tenant_id AND usage.period = month.period
        ORDER BY usage.call_id DESC LIMIT 1
    ) AS last
"""

# `written_in` is the transaction that wrote the row. One recorded an hour ago was committed long ago, since
# no transaction that writes usage lasts for more than seconds: so rows restored into another server count,
# where the ids of transactions mean nothing. A subtransaction is not in a snapshot: usage rows are written
# outside of any. A row of a key with counters is rated at the prices of its segment.
_ADD_UP: Final = """
    INSERT INTO pg_temp.reconciled_usage
    SELECT tenant_id, period, meter, usage.key_id, date_trunc('hour', usage.occurred_at, usage.time_zone),
           usage.segment, sum(usage.calls), sum(usage.units),
           sum(billing.rate(price.up_to_units, price.nanos, usage.units_before + usage.units)
               - billing.rate(price.up_to_units, price.nanos, usage.units_before)),
           count(*) FILTER (WHERE usage.entry %% 2 = 0), count(*) FILTER (WHERE usage.entry %% 2 = 1)
    FROM (
        SELECT usage.*, month.time_zone, CASE WHEN capped.what IS NOT NULL THEN (
                   SELECT count(*)::smallint FROM pg_temp.reconciled_segment past
                   WHERE past.tenant_id = usage.tenant_id AND past.period = usage.period
                     AND NOT billing.came_before(
                         usage.recorded_at, usage.written_in, past.ends_at, past.snapshot)) END AS segment
        FROM billing.usage_row usage
        JOIN pg_temp.reconciled_month month USING (tenant_id, period)
        LEFT JOIN (
            SELECT * FROM pg_temp.reconciled_book WHERE what = 'key counter'
        ) AS capped USING (tenant_id, period, meter, key_id)
        WHERE usage.call_id BETWEEN %(first)s AND %(last)s
          AND (usage.recorded_at < %(copied_at)s - interval '1 hour'
               OR pg_visible_in_snapshot(usage.written_in, %(snapshot)s::pg_snapshot))
    ) AS usage
    LEFT JOIN pg_temp.reconciled_price price USING (tenant_id, period, meter, segment)
    GROUP BY 1, 2, 3, 4, 5, 6
"""

# What the rows come to and what the books say are put into one list, and added up place by place. What a key
# came to in a segment that ended is in whole nanos, rounded up, at the scale of the price that holds.
_DIFFERENCES: Final = """
    WITH used AS (
        SELECT tenant_id, period, meter, key_id, hour, sum(calls) AS calls, sum(units) AS units
        FROM pg_temp.reconciled_usage GROUP BY 1, 2, 3, 4, 5
    ), used_by_key AS (
        SELECT tenant_id, period, meter, key_id, segment, sum(calls) AS calls, sum(units) AS units,
               coalesce(sum(rated), 0) AS rated
        FROM pg_temp.reconciled_usage WHERE segment IS NOT NULL GROUP BY 1, 2, 3, 4, 5
    ), used_by_meter AS (
        SELECT tenant_id, period, meter, sum(calls) AS calls, sum(units) AS units FROM used GROUP BY 1, 2, 3
    ), side (what, tenant_id, period, meter, key_id, hour, calls_of_rows, units_of_rows, calls, units,
             rated) AS (
        SELECT what, tenant_id, period, meter, key_id, hour, 0, 0, calls, units, rated
        FROM pg_temp.reconciled_book
        UNION ALL
        SELECT 'counter', tenant_id, period, meter, '', NULL, calls, units, 0, 0, 0 FROM used_by_meter
        UNION ALL
        SELECT 'roll-up', tenant_id, period, meter, key_id, hour, calls, units, 0, 0, 0 FROM used
        UNION ALL
        SELECT 'key counter', tenant_id, period, meter, key_id, NULL, used.calls, used.units, used.calls, 0,
               -CASE WHEN price.has_ended
                     THEN billing.whole_nanos(used.rated, price.per_units) * coalesce(now.per_units, 1)
                     ELSE used.rated END
        FROM used_by_key used
        LEFT JOIN pg_temp.reconciled_price price USING (tenant_id, period, meter, segment)
        LEFT JOIN pg_temp.reconciled_price now USING (tenant_id, period, meter)
        WHERE now.has_ended IS NOT TRUE
        UNION ALL
        SELECT 'invoice', tenant_id, period, used.meter, '', NULL, used.calls, used.units, 0, 0, 0
        FROM used_by_meter used JOIN pg_temp.reconciled_book book USING (tenant_id, period)
        WHERE book.what = 'invoice total'
    )
    SELECT what, tenant_id, period, meter, key_id,
           coalesce(to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"'), '') AS hour,
           sum(calls_of_rows)::bigint AS calls_of_rows, sum(units_of_rows)::bigint AS units_of_rows,
           sum(calls)::bigint AS calls, sum(units)::bigint AS units, abs(sum(rated))::bigint AS rated
    FROM side
    GROUP BY what, tenant_id, period, meter, key_id, side.hour
    HAVING (sum(calls_of_rows), sum(units_of_rows), 0) <> (sum(calls), sum(units), sum(rated))
    ORDER BY what, tenant_id, period, meter, key_id, side.hour
"""

# Steps from month to month along the index, and reads nothing else of it.
_USED_MONTHS: Final = """
    WITH RECURSIVE used AS (
        SELECT %(after_tenant)s::text AS tenant_id, %(after_period)s::text AS period, 0 AS place
        UNION ALL
        SELECT later.tenant_id, later.period, used.place + 1
        FROM used
        CROSS JOIN LATERAL (
            SELECT usage.tenant_id, usage.period FROM billing.usage_row usage
            WHERE (usage.tenant_id, usage.period) > (used.tenant_id, used.period)
            ORDER BY usage.tenant_id, usage.period LIMIT 1
        ) AS later
        WHERE used.place < %(limit)s
    )
    SELECT tenant_id, period, EXISTS (
        SELECT FROM billing.period known
        WHERE known.tenant_id = used.tenant_id AND known.period = used.period) AS is_opened
    FROM used WHERE place > 0 ORDER BY place
"""
