"""Locks on a tenant's usage, and how long to wait for any lock."""

from infra.database import Connection


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
