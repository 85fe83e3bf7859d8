"""Caps: what is allowed, and the view of what is left of it."""

from collections.abc import Sequence

import msgspec
from psycopg.rows import class_row

from infra.database import Connection

CHANNEL = "aiaas_cap_changed"


class CapRow(msgspec.Struct, frozen=True):
    """One cap. `key_id` None: the tenant's own. `meter` None: in money, `at_most` nanos."""

    key_id: str | None
    meter: str | None
    at_most: int


class RoomRow(msgspec.Struct, frozen=True):
    """How many units of a meter a cap leaves room for; `units_left` None: any number."""

    tenant_id: str
    key_id: str | None
    measure: str
    meter: str
    units_left: int | None


async def upsert_cap(
    connection: Connection, tenant_id: str, key_id: str | None, meter: str | None, at_most: int
) -> None:
    """Set one cap. Call it under `billing.locks.lock_tenant`."""
    await connection.execute(
        """
        INSERT INTO billing.cap (tenant_id, key_id, meter, at_most)
        VALUES (%(tenant_id)s, %(key_id)s, %(meter)s, %(at_most)s)
        ON CONFLICT (tenant_id, key_id, meter, is_credit)
        DO UPDATE SET at_most = excluded.at_most, set_at = now()
        """,
        {"tenant_id": tenant_id, "key_id": key_id, "meter": meter, "at_most": at_most},
    )


async def delete_cap(connection: Connection, tenant_id: str, key_id: str | None, meter: str | None) -> None:
    """Remove one cap, if it is there. Call it under `billing.locks.lock_tenant`."""
    await connection.execute(
        """
        DELETE FROM billing.cap
        WHERE tenant_id = %(tenant_id)s AND key_id IS NOT DISTINCT FROM %(key_id)s::text
          AND meter IS NOT DISTINCT FROM %(meter)s::text AND NOT is_credit
        """,
        {"tenant_id": tenant_id, "key_id": key_id, "meter": meter},
    )


async def read_wrongly_capped(connection: Connection, tenant_ids: Sequence[str], limit: int) -> list[str]:
    """Of these tenants, those with caps in money or prepaid credit that have volume or package prices in a
    month that is not closed, or will have.
    """
    cursor = await connection.execute(
        """
        SELECT account.tenant_id FROM billing.account
        WHERE account.tenant_id = ANY(%(tenant_ids)s)
          AND EXISTS (SELECT FROM billing.cap WHERE cap.tenant_id = account.tenant_id AND cap.meter IS NULL)
          AND EXISTS (
              SELECT FROM billing.meter_price price
              WHERE price.model IN ('volume', 'package') AND price.price_version_id IN (
                  SELECT segment.price_version_id
                  FROM billing.period JOIN billing.month_segment segment USING (tenant_id, period)
                  WHERE period.tenant_id = account.tenant_id AND period.closed_at IS NULL
                  UNION ALL
                  SELECT billing.price_version_at(
                      account.tenant_id, account.plan, account.currency, ahead.valid_from)
                  FROM billing.price_version ahead
                  WHERE ahead.plan = account.plan AND ahead.currency = account.currency
                    AND (ahead.tenant_id IS NULL OR ahead.tenant_id = account.tenant_id)
                    AND ahead.valid_from > now()))
        ORDER BY account.tenant_id LIMIT %(limit)s
        """,
        {"tenant_ids": list(tenant_ids), "limit": limit},
    )
    return [str(tenant_id) for (tenant_id,) in await cursor.fetchall()]


async def match_key_counters(connection: Connection, tenant_id: str) -> None:
    """Have counters for the tenant's capped keys, and no others. Call it under `billing.locks.lock_tenant`.

    Made for the months that are not over; those of an older month are made when a late call needs them.
    """
    await connection.execute(
        """
        DELETE FROM billing.key_counter counter
        WHERE counter.tenant_id = %(tenant_id)s AND NOT EXISTS (
            SELECT FROM billing.cap WHERE cap.tenant_id = counter.tenant_id AND cap.key_id = counter.key_id)
        """,
        {"tenant_id": tenant_id},
    )
    await connection.execute(
        """
        SELECT billing.open_key_counters(array_agg(tenant_id), array_agg(period))
        FROM billing.period WHERE tenant_id = %(tenant_id)s AND ends_at > now()
        """,
        {"tenant_id": tenant_id},
    )


async def announce_change(connection: Connection, tenant_id: str) -> None:
    """Tell every worker, when the transaction commits."""
    await connection.execute(
        "SELECT pg_notify(%(channel)s, %(tenant_id)s)", {"channel": CHANNEL, "tenant_id": tenant_id}
    )


async def read_caps(connection: Connection, tenant_id: str) -> list[CapRow]:
    """All caps of a tenant and of its keys, the tenant's own first."""
    async with connection.cursor(row_factory=class_row(CapRow)) as cursor:
        await cursor.execute(
            """
            SELECT key_id, meter, at_most FROM billing.cap WHERE tenant_id = %(tenant_id)s AND NOT is_credit
            ORDER BY key_id NULLS FIRST, meter NULLS FIRST
            """,
            {"tenant_id": tenant_id},
        )
        return await cursor.fetchall()


async def read_rooms(connection: Connection, tenant_ids: Sequence[str]) -> list[RoomRow]:
    """What the caps of these tenants leave of their current months; nothing for tenants without caps."""
    async with connection.cursor(row_factory=class_row(RoomRow)) as cursor:
        await cursor.execute(
            """
            SELECT tenant_id, key_id, measure, meter, units_left
            FROM billing.cap_view(%(tenant_ids)s::text[], now())
            """,
            {"tenant_ids": list(tenant_ids)},
        )
        return await cursor.fetchall()
