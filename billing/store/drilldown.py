"""The usage rows behind a line of an invoice."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg import sql
from psycopg.rows import class_row

from infra.database import Connection


class UsageRow(msgspec.Struct, frozen=True):
    """One entry of a call, or of one slice of it, in the order of a digest: (call_id, slice, entry)."""

    call_id: UUID
    slice: int
    entry: int
    calls: int
    units: int
    occurred_at: datetime
    recorded_at: datetime
    key_id: str
    model: str
    engine: str


class RowPlace(msgspec.Struct, frozen=True):
    """A row's place in the order of a digest."""

    call_id: UUID
    slice: int
    entry: int


FIRST_PLACE = RowPlace(UUID(int=0), -1, -1)


_ROWS = sql.SQL(
    """
    SELECT call_id, slice, entry, calls, units, occurred_at, recorded_at, key_id, model, engine
    FROM billing.month_rows(%(tenant_id)s, %(period)s)
    WHERE meter = %(meter)s AND (call_id, slice, entry) > (%(call_id)s, %(slice)s, %(entry)s) AND {condition}
    ORDER BY call_id, slice, entry LIMIT %(limit)s
    """
)
# The planner takes rows that pass two comparisons for few, and would sort a month for a page of it; of what
# is within `coalesce` it takes every second one to pass, and reads along the index.
_OF_LINE = sql.SQL("coalesce(usage_period = %(usage_period)s AND segment = %(segment)s, false)")
# They are few among the month's: looked up first, by an index of their own.
_LATE = sql.SQL(
    """
    usage_period = %(usage_period)s AND segment = %(segment)s AND (call_id, slice, entry) IN (
        SELECT late.call_id, late.slice, late.entry FROM billing.usage_row late
        WHERE late.tenant_id = %(tenant_id)s AND late.period = %(period)s AND late.meter = %(meter)s
          AND late.is_late AND (late.call_id, late.slice, late.entry) > (%(call_id)s, %(slice)s, %(entry)s))
    """
)
_RECORDED = sql.SQL("recorded_at <= %(recorded_by)s")


async def read_line_rows(
    connection: Connection,
    tenant_id: str,
    period: str,
    meter: str,
    after: RowPlace,
    limit: int,
    *,
    usage_period: str,
    segment: int,
) -> list[UsageRow]:
    """The next rows of a sealed month's meter that are usage of `usage_period`, in a segment of it."""
    condition = _OF_LINE if usage_period == period else _LATE
    given = {"tenant_id": tenant_id, "period": period, "meter": meter, "limit": limit}
    of_line = {"usage_period": usage_period, "segment": segment}
    return await _read(connection, condition, {**given, **of_line, **msgspec.structs.asdict(after)})


async def read_counted_rows(
    connection: Connection,
    tenant_id: str,
    period: str,
    meter: str,
    after: RowPlace,
    limit: int,
    *,
    recorded_by: datetime,
) -> list[UsageRow]:
    """The next rows of a meter in a month that is not sealed, as far as they were recorded by then."""
    given = {"tenant_id": tenant_id, "period": period, "meter": meter, "limit": limit}
    return await _read(
        connection, _RECORDED, {**given, "recorded_by": recorded_by, **msgspec.structs.asdict(after)}
    )


async def _read(connection: Connection, condition: sql.SQL, parameters: dict[str, Any]) -> list[UsageRow]:
    async with connection.cursor(row_factory=class_row(UsageRow)) as cursor:
        await cursor.execute(_ROWS.format(condition=condition), parameters)
        return await cursor.fetchall()
