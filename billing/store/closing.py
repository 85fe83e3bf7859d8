"""Months that close."""

from datetime import datetime

import msgspec
from psycopg.rows import class_row

from infra.database import Connection


class MonthRow(msgspec.Struct, frozen=True):
    """A tenant's month; `earlier_open`: a month before it is not closed."""

    ends_at: datetime
    closed_at: datetime | None
    earlier_open: bool


async def read_ended_months(
    connection: Connection, ended_by: datetime, after: tuple[str, str], limit: int
) -> list[tuple[str, str]]:
    """The next open months that ended by then, as (tenant, month), in that order."""
    cursor = await connection.execute(
        """
        SELECT tenant_id, period FROM billing.period
        WHERE closed_at IS NULL AND ends_at <= %(ended_by)s
          AND (tenant_id, period) > (%(after_tenant)s, %(after_period)s)
        ORDER BY tenant_id, period LIMIT %(limit)s
        """,
        {"ended_by": ended_by, "after_tenant": after[0], "after_period": after[1], "limit": limit},
    )
    return [(str(tenant_id), str(period)) for tenant_id, period in await cursor.fetchall()]


async def read_month(connection: Connection, tenant_id: str, period: str) -> MonthRow | None:
    """A tenant's month, if there is one."""
    async with connection.cursor(row_factory=class_row(MonthRow)) as cursor:
        await cursor.execute(
            """
            SELECT month.ends_at, month.closed_at, EXISTS (
                SELECT FROM billing.period earlier
                WHERE earlier.tenant_id = month.tenant_id AND earlier.starts_at < month.starts_at
                  AND earlier.closed_at IS NULL) AS earlier_open
            FROM billing.period month
            WHERE month.tenant_id = %(tenant_id)s AND month.period = %(period)s
            """,
            {"tenant_id": tenant_id, "period": period},
        )
        return await cursor.fetchone()


async def mark_closed(connection: Connection, tenant_id: str, period: str) -> None:
    """Close a month. Call it under `billing.locks.lock_tenant`."""
    await connection.execute(
        """
        UPDATE billing.period SET closed_at = now()
        WHERE tenant_id = %(tenant_id)s AND period = %(period)s
        """,
        {"tenant_id": tenant_id, "period": period},
    )
