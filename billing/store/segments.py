"""Segments of months: what ends when a plan is changed at once."""

from datetime import datetime

import msgspec
from psycopg.rows import class_row

from infra.database import Connection


class RunningMonth(msgspec.Struct, frozen=True):
    """A month that has begun, its prices, the prices that the account's plan has for it, and how many of its
    segments have ended. `has_all_prices`: those of the plan name every meter.
    """

    period: str
    starts_at: datetime
    price_version_id: str
    new_version_id: str | None
    has_all_prices: bool
    segments: int


async def read_running_month(connection: Connection, tenant_id: str, now: datetime) -> RunningMonth | None:
    """The tenant's month at this moment, if it is open."""
    async with connection.cursor(row_factory=class_row(RunningMonth)) as cursor:
        await cursor.execute(
            """
            SELECT month.period, month.starts_at, month.price_version_id, new.version AS new_version_id,
                   NOT EXISTS (
                       SELECT FROM billing.meter WHERE NOT EXISTS (
                           SELECT FROM billing.meter_price price
                           WHERE price.price_version_id = new.version AND price.meter = meter.meter)
                   ) AS has_all_prices,
                   (SELECT count(*) FROM billing.period_segment past
                    WHERE past.tenant_id = month.tenant_id AND past.period = month.period) AS segments
            FROM billing.period month
            JOIN billing.account USING (tenant_id)
            CROSS JOIN LATERAL billing.price_version_at(
                account.tenant_id, account.plan, account.currency, month.starts_at) AS new (version)
            WHERE month.tenant_id = %(tenant_id)s AND month.closed_at IS NULL
              AND month.starts_at <= %(now)s AND %(now)s < month.ends_at
            """,
            {"tenant_id": tenant_id, "now": now},
        )
        return await cursor.fetchone()


async def end_segment(connection: Connection, tenant_id: str, period: str, new_version_id: str) -> datetime:
    """End the segment that runs, and go on at other prices; returns when. Call it under
    `billing.locks.lock_tenant`: the snapshot is taken when no charge of the tenant is under way.
    """
    parameters = {"tenant_id": tenant_id, "period": period, "version": new_version_id}
    cursor = await connection.execute(
        """
        INSERT INTO billing.period_segment (tenant_id, period, segment, price_version_id, starts_at, ends_at,
                                            snapshot)
        SELECT tenant_id, period, segment, price_version_id, starts_at, clock_timestamp(),
               pg_current_snapshot()
        FROM billing.month_segment
        WHERE tenant_id = %(tenant_id)s AND period = %(period)s AND snapshot IS NULL
        RETURNING ends_at
        """,
        parameters,
    )
    row = await cursor.fetchone()
    assert row is not None
    await connection.execute(
        """
        INSERT INTO billing.segment_counter (tenant_id, period, segment, meter, calls, units)
        SELECT tenant_id, period, ended.segment, counter.meter, counter.calls, counter.units
        FROM billing.period_counter counter
        CROSS JOIN (
            SELECT max(segment) AS segment FROM billing.period_segment
            WHERE tenant_id = %(tenant_id)s AND period = %(period)s
        ) AS ended
        WHERE tenant_id = %(tenant_id)s AND period = %(period)s
        """,
        parameters,
    )
    await connection.execute(
        """
        UPDATE billing.key_counter counter
        SET rated = billing.whole_nanos(counter.rated, was.per_units) * becomes.per_units
        FROM billing.period month, billing.meter_price was, billing.meter_price becomes
        WHERE counter.tenant_id = %(tenant_id)s AND counter.period = %(period)s
          AND (month.tenant_id, month.period) = (counter.tenant_id, counter.period)
          AND (was.price_version_id, was.meter) = (month.price_version_id, counter.meter)
          AND (becomes.price_version_id, becomes.meter) = (%(version)s, counter.meter)
        """,
        parameters,
    )
    await connection.execute(
        """
        UPDATE billing.period month
        SET price_version_id = %(version)s,
            offset_nanos = month.offset_nanos + billing.whole_nanos(
                coalesce(was.spent, 0) * becomes.nano - becomes.spent * coalesce(was.nano, 1),
                coalesce(was.nano, 1) * becomes.nano)
        FROM billing.period known
        CROSS JOIN LATERAL billing.standing_of(known.tenant_id, known.period, known.price_version_id) AS was
        CROSS JOIN LATERAL billing.standing_of(known.tenant_id, known.period, %(version)s) AS becomes
        WHERE known.tenant_id = %(tenant_id)s AND known.period = %(period)s
          AND (month.tenant_id, month.period) = (known.tenant_id, known.period)
        """,
        parameters,
    )
    return row[0]
