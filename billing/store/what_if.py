"""Whom a price would concern in a past month."""

from collections.abc import Sequence

import msgspec
from psycopg.rows import class_row

from infra.database import Connection


class OnPlan(msgspec.Struct, frozen=True):
    """A tenant, and the plan whose prices its month had at its end."""

    tenant_id: str
    plan: str
    currency: str


async def read_tenants_on(
    connection: Connection, period: str, plans: Sequence[str], after: str, limit: int
) -> list[OnPlan]:
    """The next tenants whose month had prices of these plans, in the order of their ids."""
    async with connection.cursor(row_factory=class_row(OnPlan)) as cursor:
        await cursor.execute(
            """
            SELECT period.tenant_id, version.plan, version.currency
            FROM billing.period
            JOIN billing.price_version version USING (price_version_id)
            WHERE period.period = %(period)s AND period.tenant_id > %(after)s
              AND version.plan = ANY(%(plans)s)
            ORDER BY period.tenant_id LIMIT %(limit)s
            """,
            {"period": period, "plans": list(plans), "after": after, "limit": limit},
        )
        return await cursor.fetchall()
