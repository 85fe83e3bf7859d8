"""Seals of closed months, and the usage rows they are made from."""

from collections.abc import Sequence
from typing import Any

import msgspec
from psycopg.rows import class_row

from infra.database import Connection


class Seal(msgspec.Struct, frozen=True):
    """What a month counted of one meter in a segment of `usage_period`, and the digest of its rows."""

    tenant_id: str
    period: str
    usage_period: str
    segment: int
    meter: str
    row_count: int
    calls: int
    units: int
    digest: bytes


async def read_unsealed(
    connection: Connection, period: str | None, after: tuple[str, str], limit: int
) -> list[tuple[str, str]]:
    """The next closed months without a seal, as (tenant, month): of one label, or of all."""
    cursor = await connection.execute(
        """
        SELECT tenant_id, period FROM billing.period
        WHERE closed_at IS NOT NULL AND sealed_at IS NULL
          AND (%(period)s::text IS NULL OR period = %(period)s)
          AND (tenant_id, period) > (%(after_tenant)s, %(after_period)s)
        ORDER BY tenant_id, period LIMIT %(limit)s
        """,
        {"period": period, "after_tenant": after[0], "after_period": after[1], "limit": limit},
    )
    return [(str(tenant_id), str(month)) for tenant_id, month in await cursor.fetchall()]


async def seal_months(connection: Connection, months: Sequence[tuple[str, str]]) -> int:
    """Seal closed months, each once; returns how many were. In a transaction."""
    cursor = await connection.execute(
        """
        WITH ours AS (
            SELECT tenant_id, period FROM billing.period
            JOIN unnest(%(tenant_ids)s::text[], %(periods)s::text[]) AS given (tenant_id, period)
                USING (tenant_id, period)
            WHERE closed_at IS NOT NULL AND sealed_at IS NULL
            ORDER BY tenant_id, period FOR NO KEY UPDATE OF period
        )
        UPDATE billing.period month SET sealed_at = now()
        FROM ours WHERE (month.tenant_id, month.period) = (ours.tenant_id, ours.period)
        RETURNING month.tenant_id, month.period
        """,
        _months(months),
    )
    ours = await cursor.fetchall()
    await connection.execute(
        """
        INSERT INTO billing.seal (tenant_id, period, usage_period, segment, meter, row_count, calls, units,
                                  digest)
        SELECT month.tenant_id, month.period, proof.*
        FROM unnest(%(tenant_ids)s::text[], %(periods)s::text[]) AS month (tenant_id, period)
        CROSS JOIN LATERAL billing.month_proof(month.tenant_id, month.period) AS proof
        """,
        _months(ours),
    )
    return len(ours)


async def read_proof(connection: Connection, tenant_id: str, period: str) -> list[Seal]:
    """What the usage rows of a month say now: its seals, computed anew."""
    async with connection.cursor(row_factory=class_row(Seal)) as cursor:
        await cursor.execute(
            """
            SELECT %(tenant_id)s AS tenant_id, %(period)s AS period, usage_period, segment, meter, row_count,
                   calls, units, digest
            FROM billing.month_proof(%(tenant_id)s, %(period)s)
            ORDER BY usage_period, segment, meter
            """,
            {"tenant_id": tenant_id, "period": period},
        )
        return await cursor.fetchall()


async def read_seals(connection: Connection, period: str, tenant_ids: Sequence[str]) -> list[Seal]:
    """All that concerns these tenants' invoices of a month: the month's seals, and of each month whose usage
    came late to it, the seals of before.
    """
    async with connection.cursor(row_factory=class_row(Seal)) as cursor:
        await cursor.execute(
            """
            SELECT tenant_id, period, usage_period, segment, meter, row_count, calls, units, digest
            FROM billing.seal
            WHERE period = %(period)s AND tenant_id = ANY(%(tenant_ids)s)
            UNION
            SELECT earlier.tenant_id, earlier.period, earlier.usage_period, earlier.segment, earlier.meter,
                   earlier.row_count, earlier.calls, earlier.units, earlier.digest
            FROM billing.seal late
            JOIN billing.seal earlier
                ON earlier.tenant_id = late.tenant_id AND earlier.usage_period = late.usage_period
               AND earlier.period < late.period
            WHERE late.period = %(period)s AND late.usage_period <> late.period
              AND late.tenant_id = ANY(%(tenant_ids)s)
            ORDER BY tenant_id, usage_period, segment, meter, period
            """,
            {"period": period, "tenant_ids": list(tenant_ids)},
        )
        return await cursor.fetchall()


def _months(months: Sequence[Sequence[Any]]) -> dict[str, list[str]]:
    return {"tenant_ids": [month[0] for month in months], "periods": [month[1] for month in months]}
