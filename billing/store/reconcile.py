"""What reconciling reads: months in pages, and per page only what differs. No usage row leaves the server."""

from collections.abc import Sequence

import msgspec
from psycopg.rows import class_row

from infra.database import Connection


class Month(msgspec.Struct, frozen=True):
    """One tenant's month, and how many calls its counters claim."""

    tenant_id: str
    period: str
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


async def read_months(
    connection: Connection, period: str | None, after: tuple[str, str], limit: int
) -> list[Month]:
    """The next months after (tenant, month), in that order, but for those with rows that were detached."""
    async with connection.cursor(row_factory=class_row(Month)) as cursor:
        await cursor.execute(
            """
            SELECT tenant_id, period, (
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


async def compare(connection: Connection, months: Sequence[Month]) -> tuple[int, int, list[Difference]]:
    """How many charges and voids these months have, and what does not agree with them. One statement."""
    async with connection.cursor(row_factory=class_row(Difference)) as cursor:
        await cursor.execute(
            _COMPARE,
            {"tenant_ids": [one.tenant_id for one in months], "periods": [one.period for one in months]},
        )
        found = await cursor.fetchall()
    charges = sum(one.calls_of_rows for one in found if one.what == "rows")
    voids = sum(one.calls for one in found if one.what == "rows")
    return charges, voids, [one for one in found if one.what != "rows"]


async def read_usage_without_month(connection: Connection, period: str | None) -> list[Difference]:
    """Usage rows in months that were never opened; steps from month to month along the index."""
    async with connection.cursor(row_factory=class_row(Difference)) as cursor:
        await cursor.execute(_WITHOUT_MONTH, {"period": period})
        return await cursor.fetchall()


_COMPARE = """
    WITH month AS (
        SELECT period.tenant_id, period.period, period.time_zone, period.price_version_id, period.closed_at
        FROM unnest(%(tenant_ids)s::text[], %(periods)s::text[]) AS given (tenant_id, period)
        JOIN billing.period USING (tenant_id, period)
    ), used AS MATERIALIZED (
        SELECT tenant_id, period, usage.meter, usage.key_id,
               date_trunc('hour', usage.occurred_at, month.time_zone) AS hour,
               sum(usage.calls) AS calls, sum(usage.units) AS units,
               count(*) FILTER (WHERE usage.entry %% 2 = 0) AS charges,
               count(*) FILTER (WHERE usage.entry %% 2 = 1) AS voids
        FROM month JOIN billing.usage_row usage USING (tenant_id, period)
        GROUP BY 1, 2, 3, 4, 5
    ), used_by_meter AS (
        SELECT tenant_id, period, meter, sum(calls) AS calls, sum(units) AS units FROM used GROUP BY 1, 2, 3
    ), counted AS (
        SELECT tenant_id, period, meter, counter.calls, counter.units
        FROM month JOIN billing.period_counter counter USING (tenant_id, period)
    ), rolled_up AS (
        SELECT tenant_id, period, hourly.meter, hourly.key_id, hourly.hour, hourly.calls, hourly.units
        FROM month JOIN billing.hourly_usage hourly USING (tenant_id, period)
    ), by_key AS (
        SELECT tenant_id, period, counter.meter, counter.key_id, counter.units, counter.rated, of_rows.*
        FROM month
        JOIN billing.key_counter counter USING (tenant_id, period)
        LEFT JOIN billing.meter_prices(month.price_version_id) price ON price.meter = counter.meter
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(usage.calls), 0)::bigint AS calls_of_rows,
                   coalesce(sum(usage.units), 0)::bigint AS units_of_rows,
                   coalesce(sum(
                       billing.rate(price.up_to_units, price.nanos, usage.units_before + usage.units)
                       - billing.rate(price.up_to_units, price.nanos, usage.units_before)), 0)
                       AS rated_of_rows
            FROM billing.usage_row usage
            WHERE usage.tenant_id = month.tenant_id AND usage.period = month.period
              AND usage.key_id = counter.key_id AND usage.meter = counter.meter
        ) AS of_rows
    ), invoice AS (  -- one that was drafted while its month was open may lag behind it
        SELECT tenant_id, period, invoice.invoice_id, invoice.total_minor
        FROM month JOIN billing.invoice USING (tenant_id, period)
        WHERE invoice.drafted_at >= month.closed_at
    ), invoiced AS (
        SELECT tenant_id, period, line.meter, line.calls, line.units
        FROM invoice JOIN billing.invoice_line line USING (invoice_id)
    ), to_invoice AS (
        SELECT tenant_id, period, meter, used.calls, used.units
        FROM invoice JOIN used_by_meter used USING (tenant_id, period) WHERE used.calls > 0
    )
    SELECT 'rows' AS what, '' AS tenant_id, '' AS period, '' AS meter, '' AS key_id, '' AS hour,
           coalesce(sum(charges), 0)::bigint AS calls_of_rows, 0 AS units_of_rows,
           coalesce(sum(voids), 0)::bigint AS calls, 0 AS units, 0 AS rated
    FROM used
    UNION ALL
    SELECT 'counter', tenant_id, period, meter, '', '',
           coalesce(used_by_meter.calls, 0)::bigint, coalesce(used_by_meter.units, 0)::bigint,
           coalesce(counted.calls, 0), coalesce(counted.units, 0), 0
    FROM used_by_meter FULL JOIN counted USING (tenant_id, period, meter)
    WHERE (coalesce(used_by_meter.calls, 0), coalesce(used_by_meter.units, 0))
       <> (coalesce(counted.calls, 0), coalesce(counted.units, 0))
    UNION ALL
    SELECT 'roll-up', tenant_id, period, meter, key_id,
           to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"'),
           coalesce(used.calls, 0)::bigint, coalesce(used.units, 0)::bigint,
           coalesce(rolled_up.calls, 0), coalesce(rolled_up.units, 0), 0
    FROM used FULL JOIN rolled_up USING (tenant_id, period, meter, key_id, hour)
    WHERE (coalesce(used.calls, 0), coalesce(used.units, 0))
       <> (coalesce(rolled_up.calls, 0), coalesce(rolled_up.units, 0))
    UNION ALL
    SELECT 'key counter', tenant_id, period, meter, key_id, '',
           calls_of_rows, units_of_rows, calls_of_rows, units, abs(rated - rated_of_rows)::bigint
    FROM by_key WHERE (units, rated) <> (units_of_rows, rated_of_rows)
    UNION ALL
    SELECT 'invoice', tenant_id, period, meter, '', '',
           coalesce(to_invoice.calls, 0)::bigint, coalesce(to_invoice.units, 0)::bigint,
           coalesce(invoiced.calls, 0), coalesce(invoiced.units, 0), 0
    FROM to_invoice FULL JOIN invoiced USING (tenant_id, period, meter)
    WHERE (coalesce(to_invoice.calls, 0), coalesce(to_invoice.units, 0))
       <> (coalesce(invoiced.calls, 0), coalesce(invoiced.units, 0))
    UNION ALL
    SELECT 'invoice total', tenant_id, period, '', '', '', 0, 0, 0, 0, abs(total_minor - lines.amount_minor)
    FROM invoice CROSS JOIN LATERAL (
        SELECT coalesce(sum(line.amount_minor), 0)::bigint AS amount_minor
        FROM billing.invoice_line line WHERE line.invoice_id = invoice.invoice_id
    ) AS lines
    WHERE total_minor <> lines.amount_minor
    ORDER BY 1, 2, 3, 4, 5, 6
"""

_WITHOUT_MONTH = """
    WITH RECURSIVE month AS (
        (SELECT tenant_id, period FROM billing.usage_row ORDER BY tenant_id, period LIMIT 1)
        UNION ALL
        SELECT later.tenant_id, later.period
        FROM month
        CROSS JOIN LATERAL (
            SELECT usage.tenant_id, usage.period FROM billing.usage_row usage
            WHERE (usage.tenant_id, usage.period) > (month.tenant_id, month.period)
            ORDER BY usage.tenant_id, usage.period LIMIT 1
        ) AS later
    )
    SELECT 'month' AS what, usage.tenant_id, usage.period, usage.meter, '' AS key_id, '' AS hour,
           sum(usage.calls)::bigint AS calls_of_rows, sum(usage.units)::bigint AS units_of_rows,
           0 AS calls, 0 AS units, 0 AS rated
    FROM month JOIN billing.usage_row usage USING (tenant_id, period)
    WHERE (%(period)s::text IS NULL OR period = %(period)s)
      AND NOT EXISTS (SELECT FROM billing.period known
                      WHERE known.tenant_id = month.tenant_id AND known.period = month.period)
    GROUP BY usage.tenant_id, usage.period, usage.meter
"""
