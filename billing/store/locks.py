"""Locks on a tenant's usage and on prices, and how long to wait for any lock."""

from collections.abc import Sequence
from typing import Final

from infra.database import Connection

_PRICES_LOCK: Final = 0x50524943  # "PRIC"; of two keys, since sessions are locked by their ids


async def set_lock_timeout(connection: Connection, lock_timeout_ms: int) -> None:
    """Bound the waits for locks in the transaction at hand."""
    await connection.execute(
        "SELECT set_config('lock_timeout', %(timeout)s, true)", {"timeout": f"{lock_timeout_ms}ms"}
    )


async def lock_tenant(connection: Connection, tenant_id: str) -> bool:
    """Take the lock that a charge takes, until the transaction ends; False where there is no account.

    A month that is being opened meanwhile holds the account by its foreign key, which this lock lets be: a
    capped key's counters that it lacks then are made when they are first needed.
    """
    cursor = await connection.execute(
        "SELECT FROM billing.account WHERE tenant_id = %(tenant_id)s FOR NO KEY UPDATE",
        {"tenant_id": tenant_id},
    )
    return cursor.rowcount == 1


async def lock_tenants(connection: Connection, tenant_ids: Sequence[str]) -> None:
    """`lock_tenant` for many, in the one order in which accounts are locked."""
    await connection.execute(
        """
        SELECT FROM billing.account WHERE tenant_id = ANY(%(tenant_ids)s)
        ORDER BY tenant_id FOR NO KEY UPDATE
        """,
        {"tenant_ids": list(tenant_ids)},
    )


async def lock_prices(connection: Connection) -> None:
    """Be the only one who changes prices or plans, and keep months from being opened, until the transaction
    ends. Taken before any tenant's lock.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(%(lock)s, 0)", {"lock": _PRICES_LOCK})


async def use_prices(connection: Connection) -> None:
    """Keep prices and plans as they are until the transaction ends; others may too."""
    await connection.execute("SELECT pg_advisory_xact_lock_shared(%(lock)s, 0)", {"lock": _PRICES_LOCK})
