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


async def read_numbers(
    connection: Connection, tenant_id: str, invoice_ids: Sequence[str]
) -> dict[str, str | None]:
    """The numbers of a tenant's invoices, by their ids; None where one is not issued."""
    cursor = await connection.execute(
        """
        SELECT invoice_id, number FROM billing.invoice
        WHERE tenant_id = %(tenant_id)s AND invoice_id = ANY(%(invoice_ids)s)
        """,
        {"tenant_id": tenant_id, "invoice_ids": list(invoice_ids)},
    )
    return dict(await cursor.fetchall())
