"""What documents say beside an invoice's own content."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from psycopg.rows import class_row

from infra.database import Connection


class MonthBounds(msgspec.Struct, frozen=True):
    """A tenant's month as it was opened."""

    period: str
    starts_at: datetime
    ends_at: datetime


async def read_bounds(connection: Connection, tenant_id: str, periods: Sequence[str]) -> list[MonthBounds]:
    """Bounds of a tenant's months."""
    async with connection.cursor(row_factory=class_row(MonthBounds)) as cursor:
        await cursor.execute(
            """
            SELECT period, starts_at, ends_at
            FROM billing.period WHERE tenant_id = %(tenant_id)s AND period = ANY(%(periods)s)
            """,
            {"tenant_id": tenant_id, "periods": list(periods)},
        )
        return await cursor.fetchall()


async def read_number(connection: Connection, tenant_id: str, invoice_id: str | None) -> str | None:
    """The number of a tenant's invoice; None where it has none."""
    cursor = await connection.execute(
        "SELECT number FROM billing.invoice WHERE tenant_id = %(tenant_id)s AND invoice_id = %(invoice_id)s",
        {"tenant_id": tenant_id, "invoice_id": invoice_id},
    )
    row = await cursor.fetchone()
    return row[0] if row else None
