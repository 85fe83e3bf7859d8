"""Prepaid credit: grants, and the cap that keeps them."""

from infra.database import Connection


async def add_credit(connection: Connection, grant_id: str, tenant_id: str, nanos: int, note: str) -> None:
    """Add a grant. Call it under `billing.locks.lock_tenant`.

    What the open months came to before the first grant is not paid from it.

    Raises:
        psycopg.errors.NumericValueOutOfRange: all grants together are out of range.
    """
    await connection.execute(
        """
        INSERT INTO billing.credit_grant (grant_id, tenant_id, nanos, note)
        VALUES (%(grant_id)s, %(tenant_id)s, %(nanos)s, %(note)s)
        """,
        {"grant_id": grant_id, "tenant_id": tenant_id, "nanos": nanos, "note": note},
    )
    await connection.execute(
        """
        INSERT INTO billing.cap (tenant_id, is_credit, at_most, settled_nanos)
        SELECT %(tenant_id)s, true, %(nanos)s, -coalesce(sum(
            billing.month_nanos(month.tenant_id, month.period, month.price_version_id)), 0)
        FROM billing.period month
        WHERE month.tenant_id = %(tenant_id)s AND month.closed_at IS NULL
        ON CONFLICT (tenant_id, key_id, meter, is_credit)
        DO UPDATE SET at_most = cap.at_most + excluded.at_most, set_at = now()
        """,
        {"tenant_id": tenant_id, "nanos": nanos},
    )


async def read_credit(connection: Connection, tenant_id: str) -> tuple[int, int] | None:
    """All that was granted, and what is left of it, in nanos."""
    cursor = await connection.execute(
        """
        SELECT cap.at_most, (cap.at_most - cap.settled_nanos - coalesce((
            SELECT sum(billing.month_nanos(month.tenant_id, month.period, month.price_version_id))
            FROM billing.period month
            WHERE month.tenant_id = cap.tenant_id AND month.closed_at IS NULL), 0))::bigint
        FROM billing.cap WHERE cap.tenant_id = %(tenant_id)s AND cap.is_credit
        """,
        {"tenant_id": tenant_id},
    )
    row = await cursor.fetchone()
    return (int(row[0]), int(row[1])) if row else None


async def settle_month(connection: Connection, tenant_id: str, period: str) -> None:
    """Take a month that closes off the credit, if there is one. Call it under `billing.locks.lock_tenant`."""
    await connection.execute(
        """
        WITH settled AS (
            UPDATE billing.cap
            SET settled_nanos = cap.settled_nanos
                + billing.month_nanos(month.tenant_id, month.period, month.price_version_id)::bigint
            FROM billing.period month
            WHERE month.tenant_id = %(tenant_id)s AND month.period = %(period)s
              AND cap.tenant_id = month.tenant_id AND cap.is_credit
            RETURNING cap.tenant_id, cap.settled_nanos
        )
        UPDATE billing.period month
        SET credit_nanos = greatest(least(
            settled.settled_nanos,
            billing.month_nanos(month.tenant_id, month.period, month.price_version_id)), 0)::bigint
        FROM settled
        WHERE month.tenant_id = settled.tenant_id AND month.period = %(period)s
        """,
        {"tenant_id": tenant_id, "period": period},
    )
