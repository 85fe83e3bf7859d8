"""Usage as it is read: counters, roll-ups, and the rows of one call."""

from datetime import date, datetime
from uuid import UUID

import msgspec
from psycopg.rows import class_row

from infra.database import Connection


class CounterRow(msgspec.Struct, frozen=True):
    """A month's calls and units of one meter."""

    meter: str
    units: int
    calls: int


class DayRow(msgspec.Struct, frozen=True):
    """A day's calls and units of one meter; the day is one of the tenant's clock."""

    day: date
    meter: str
    units: int
    calls: int


class UsageRow(msgspec.Struct, frozen=True):
    """One entry of a call, or of one slice of it, with the price version that held when it was charged."""

    call_id: UUID
    slice: int
    entry: int
    calls: int
    key_id: str
    meter: str
    units: int
    units_before: int
    model: str
    engine: str
    period: str
    price_version_id: str
    occurred_at: datetime
    recorded_at: datetime


async def read_counters(connection: Connection, tenant_id: str, period: str) -> list[CounterRow]:
    """One tenant's counters of a month."""
    async with connection.cursor(row_factory=class_row(CounterRow)) as cursor:
        await cursor.execute(
            """
            SELECT meter, units, calls
            FROM billing.period_counter WHERE tenant_id = %(tenant_id)s AND period = %(period)s
            """,
            {"tenant_id": tenant_id, "period": period},
        )
        return await cursor.fetchall()


async def add_up_counters(connection: Connection, period: str) -> list[CounterRow]:
    """All tenants' counters of a month, added up; for the vendor, never for a tenant."""
    async with connection.cursor(row_factory=class_row(CounterRow)) as cursor:
        await cursor.execute(
            """
            SELECT counter.meter, sum(counter.units)::bigint AS units, sum(counter.calls)::bigint AS calls
            FROM billing.period
            JOIN billing.period_counter counter USING (tenant_id, period)
            WHERE period.period = %(period)s
            GROUP BY counter.meter
            """,
            {"period": period},
        )
        return await cursor.fetchall()


async def read_days(connection: Connection, tenant_id: str, period: str) -> list[DayRow]:
    """One tenant's usage of a month by day and meter, from the hourly roll-up."""
    async with connection.cursor(row_factory=class_row(DayRow)) as cursor:
        await cursor.execute(
            """
            SELECT (hourly.hour AT TIME ZONE period.time_zone)::date AS day, hourly.meter,
                   sum(hourly.units)::bigint AS units, sum(hourly.calls)::bigint AS calls
            FROM billing.hourly_usage hourly
            JOIN billing.period USING (tenant_id, period)
            WHERE hourly.tenant_id = %(tenant_id)s AND hourly.period = %(period)s
            GROUP BY 1, 2 ORDER BY 1, 2
            """,
            {"tenant_id": tenant_id, "period": period},
        )
        return await cursor.fetchall()


async def read_call(connection: Connection, tenant_id: str, call_id: UUID) -> list[UsageRow]:
    """The entries of one call of one tenant, in their order; empty when it is not the tenant's."""
    async with connection.cursor(row_factory=class_row(UsageRow)) as cursor:
        await cursor.execute(
            """
            SELECT usage.call_id, usage.slice, usage.entry, usage.calls, usage.key_id, usage.meter,
                   usage.units, usage.units_before, usage.model, usage.engine, usage.period,
                   coalesce((
                       SELECT past.price_version_id FROM billing.period_segment past
                       WHERE past.tenant_id = usage.tenant_id AND past.period = usage.period
                         AND billing.came_before(
                             usage.recorded_at, usage.written_in, past.ends_at, past.snapshot)
                       ORDER BY past.segment LIMIT 1
                   ), period.price_version_id) AS price_version_id, usage.occurred_at, usage.recorded_at
            FROM billing.usage_row usage
            JOIN billing.period USING (tenant_id, period)
            WHERE usage.call_id = %(call_id)s AND usage.tenant_id = %(tenant_id)s
            ORDER BY usage.slice, usage.entry
            """,
            {"call_id": call_id, "tenant_id": tenant_id},
        )
        return await cursor.fetchall()
