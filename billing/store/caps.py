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
