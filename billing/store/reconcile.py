"""What reconciling reads. No usage row leaves the server: sums gather in temporary tables of the session.

All that adds usage up is copied in one statement (`copy_books`), and so is of one moment. The usage rows are
added up after it, part by part, each in a transaction of its own, but only those that were committed at that
moment: rows are written once, and the ones that came later are known by their transaction.
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
_FIRST_ID: Final = UUID(int=0)
_LAST_ID: Final = UUID(int=2**128 - 1)


class Month(msgspec.Struct, frozen=True):
    """One tenant's month, and how many calls its counters claim."""

    tenant_id: str
    period: str
    time_zone: str
    calls: int


class Difference(msgspec.Struct, frozen=True):
    """One place that does not agree with the usage rows.

    Attributes:
        what: `counter`, `roll-up`, `key counter`, `invoice` (of a closed month), `invoice total` (its lines
            add up to another one), or `month` (usage in a month that was never opened).
        key_id: of a roll-up or a key's counter; empty otherwise.
        hour: of a roll-up, in UTC; empty otherwise.
        calls_of_rows, units_of_rows: what the usage rows add up to.
        calls, units: what the place says; a key's counter has no calls of its own, and repeats the rows'.
        rated: by how much a key's counter is off in money, in nanos times the price's `per_units`; of an
            invoice's total, in minor units.
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
        next_xid: the first transaction id, in 64 bits, that was not given away yet.
    """

    snapshot: str
    next_xid: int
    copied_at: datetime


class Stretch(msgspec.Struct, frozen=True):
    """A month's usage rows from one call id to another, both of them included.

    `rows`: how many there are, but for further rows of the last call.
    """

    tenant_id: str
    period: str
    time_zone: str
    first: UUID
    last: UUID
    rows: int

    def after(self) -> "Stretch | None":
        """The rest of the month; None when this is the end of it."""
        if self.last == _LAST_ID:
            return None
        return msgspec.structs.replace(self, first=UUID(int=self.last.int + 1), last=_LAST_ID)


def whole(month: Month) -> Stretch:
    """All rows of a month."""
    return Stretch(month.tenant_id, month.period, month.time_zone, _FIRST_ID, _LAST_ID, month.calls)


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
    """The next months after (tenant, month), in that order, but for those with rows that were detached."""
    async with connection.cursor(row_factory=class_row(Month)) as cursor:
        await cursor.execute(
            """
            SELECT tenant_id, period, time_zone, (
                SELECT coalesce(sum(counter.calls), 0)::bigint FROM billing.period_counter counter
                WHERE counter.tenant_id = month.tenant_id AND counter.period = month.period) AS calls
            FROM billing.period month
            WHERE (tenant_id, period) > (%(after_tenant)s, %(after_period)s)
              AND (%(period)s::text IS NULL OR period = %(period)s)
              AND starts_at >= (
                  SELECT coalesce(max(ends_at), '-infinity') FROM billing.usage_partition
                  WHERE detached_at IS NOT NULL)
            ORDER BY tenant_id, period LIMIT %(limit)s
            """,
            {"period": period, "after_tenant": after[0], "after_period": after[1], "limit": limit},
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


async def copy_books(connection: Connection, months: Sequence[Month]) -> Moment:
    """Begin with other months: copy all that adds up their usage, in one statement."""
    await connection.execute("TRUNCATE pg_temp.reconciled_book, pg_temp.reconciled_usage")
    async with connection.cursor(row_factory=class_row(Moment)) as cursor:
        await cursor.execute(
            _COPY_BOOKS,
            {"tenant_ids": [one.tenant_id for one in months], "periods": [one.period for one in months]},
            prepare=False,
        )
        moment = await cursor.fetchone()
    assert moment is not None
    return moment


async def cut(connection: Connection, stretches: Sequence[Stretch], limit: int) -> list[Stretch]:
    """Of each of these stretches the beginning, about `limit` rows at most; found in the index alone."""
    async with connection.cursor(row_factory=class_row(Stretch)) as cursor:
        await cursor.execute(_CUT, {**_arrays(stretches), "limit": limit, "end": _LAST_ID}, prepare=False)
        return await cursor.fetchall()


async def add_up(connection: Connection, moment: Moment, stretches: Sequence[Stretch]) -> None:
    """Add up the rows of these stretches that were committed when the books were copied."""
    values = {**_arrays(stretches), **msgspec.structs.asdict(moment)}
    async with connection.transaction():
        # The planner takes the stretches for small: it would sort all rows, and compare each with each key.
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


def _arrays(stretches: Sequence[Stretch]) -> dict[str, object]:
    return {
        "tenant_ids": [one.tenant_id for one in stretches],
        "periods": [one.period for one in stretches],
        "time_zones": [one.time_zone for one in stretches],
        "firsts": [one.first for one in stretches],
        "lasts": [one.last for one in stretches],
    }


_TABLES: Final = (
    """
    CREATE TEMPORARY TABLE reconciled_book (
        what text, tenant_id text, period text, meter text, key_id text, hour timestamptz, calls bigint,
        units bigint, rated numeric, up_to_units bigint[], nanos bigint[])
    """,
    """
    CREATE TEMPORARY TABLE reconciled_usage (
        tenant_id text, period text, meter text, key_id text, hour timestamptz, calls bigint, units bigint,
        rated numeric, charges bigint, voids bigint)
    """,
)

# A key's counter comes with its meter's price. An invoice that was drafted while its month was open may lag
# behind it, and is left out.
_COPY_BOOKS: Final = """
    WITH month AS (
        SELECT period.tenant_id, period.period, period.price_version_id, period.closed_at
        FROM unnest(%(tenant_ids)s::text[], %(periods)s::text[]) AS given (tenant_id, period)
        JOIN billing.period USING (tenant_id, period)
    ), invoice AS (
        SELECT tenant_id, period, invoice.invoice_id, invoice.total_minor
        FROM month JOIN billing.invoice USING (tenant_id, period)
        WHERE invoice.drafted_at >= month.closed_at
    ), copied AS (
        INSERT INTO pg_temp.reconciled_book
        SELECT 'counter', tenant_id, period, counter.meter, '', NULL, counter.calls, counter.units, 0,
               NULL::bigint[], NULL::bigint[]
        FROM month JOIN billing.period_counter counter USING (tenant_id, period)
        UNION ALL
        SELECT 'roll-up', tenant_id, period, hourly.meter, hourly.key_id, hourly.hour, hourly.calls,
               hourly.units, 0, NULL, NULL
        FROM month JOIN billing.hourly_usage hourly USING (tenant_id, period)
        UNION ALL
        SELECT 'key counter', tenant_id, period, counter.meter, counter.key_id, NULL, 0, counter.units,
               counter.rated, price.up_to_units, price.nanos
        FROM month
        JOIN billing.key_counter counter USING (tenant_id, period)
        LEFT JOIN LATERAL billing.meter_prices(month.price_version_id) price ON price.meter = counter.meter
        UNION ALL
        SELECT 'invoice', tenant_id, period, line.meter, '', NULL, line.calls, line.units, 0, NULL, NULL
        FROM invoice JOIN billing.invoice_line line USING (invoice_id)
        UNION ALL
        SELECT 'invoice total', tenant_id, period, '', '', NULL, 0, 0, total_minor - (
            SELECT coalesce(sum(line.amount_minor), 0) FROM billing.invoice_line line
            WHERE line.invoice_id = invoice.invoice_id), NULL, NULL
        FROM invoice
    )
    SELECT pg_current_snapshot()::text AS snapshot,
           pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_xid, now() AS copied_at
"""

_CUT: Final = """
    SELECT given.tenant_id, given.period, given.time_zone, given.first,
           coalesce(cut.call_id, %(end)s) AS last,
           CASE WHEN cut.call_id IS NOT NULL THEN %(limit)s ELSE (
               SELECT count(*) FROM billing.usage_row usage
               WHERE usage.tenant_id = given.tenant_id AND usage.period = given.period
                 AND usage.call_id >= given.first
           ) END AS rows
    FROM unnest(%(tenant_ids)s::text[], %(periods)s::text[], %(time_zones)s::text[], %(firsts)s::uuid[])
         AS given (tenant_id, period, time_zone, first)
    LEFT JOIN LATERAL (
        SELECT usage.call_id FROM billing.usage_row usage
        WHERE usage.tenant_id = given.tenant_id AND usage.period = given.period
          AND usage.call_id >= given.first
        ORDER BY usage.call_id OFFSET %(limit)s - 1 LIMIT 1
    ) AS cut ON true
"""

# `xmin` has the lower 32 bits of the transaction that wrote the row. They stand for the nearest id of 64
# bits, which is the right one for a row of the last hour; a row recorded before it was committed long ago,
# since no transaction that writes usage lasts for more than seconds. A subtransaction is not in a snapshot:
# usage rows are written outside of any. `OFFSET 0` has the stretches read along the index, whatever the
# planner thinks of their sizes.
_ADD_UP: Final = """
    INSERT INTO pg_temp.reconciled_usage
    SELECT stretch.tenant_id, stretch.period, used.meter, used.key_id,
           date_trunc('hour', used.occurred_at, stretch.time_zone), sum(used.calls), sum(used.units),
           sum(billing.rate(capped.up_to_units, capped.nanos, used.units_before + used.units)
               - billing.rate(capped.up_to_units, capped.nanos, used.units_before)),
           count(*) FILTER (WHERE used.entry %% 2 = 0), count(*) FILTER (WHERE used.entry %% 2 = 1)
    FROM unnest(%(tenant_ids)s::text[], %(periods)s::text[], %(time_zones)s::text[], %(firsts)s::uuid[],
                %(lasts)s::uuid[]) AS stretch (tenant_id, period, time_zone, first, last)
    CROSS JOIN LATERAL (
        SELECT usage.meter, usage.key_id, usage.occurred_at, usage.entry, usage.calls, usage.units,
               usage.units_before
        FROM billing.usage_row usage
        WHERE usage.tenant_id = stretch.tenant_id AND usage.period = stretch.period
          AND usage.call_id BETWEEN stretch.first AND stretch.last
          AND (usage.recorded_at < %(copied_at)s - interval '1 hour' OR pg_visible_in_snapshot(
              (%(next_xid)s::bigint + 2147483648 - (
                  (%(next_xid)s::bigint - usage.xmin::text::bigint + 2147483648) & 4294967295))::text::xid8,
              %(snapshot)s::pg_snapshot))
        OFFSET 0
    ) AS used
    LEFT JOIN pg_temp.reconciled_book capped
        ON capped.what = 'key counter' AND capped.tenant_id = stretch.tenant_id
       AND capped.period = stretch.period AND capped.meter = used.meter AND capped.key_id = used.key_id
    GROUP BY 1, 2, 3, 4, 5
"""

# What the rows come to and what the books say are put into one list, and added up place by place.
_DIFFERENCES: Final = """
    WITH used AS (
        SELECT tenant_id, period, meter, key_id, hour, sum(calls) AS calls, sum(units) AS units,
               sum(rated) AS rated
        FROM pg_temp.reconciled_usage GROUP BY 1, 2, 3, 4, 5
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
               -coalesce(used.rated, 0)
        FROM used JOIN pg_temp.reconciled_book book USING (tenant_id, period, meter, key_id)
        WHERE book.what = 'key counter'
        UNION ALL
        SELECT 'invoice', tenant_id, period, used.meter, '', NULL, used.calls, used.units, 0, 0, 0
        FROM used_by_meter used JOIN pg_temp.reconciled_book book USING (tenant_id, period)
        WHERE book.what = 'invoice total' AND used.calls > 0
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
