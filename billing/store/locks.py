"""Locks on a tenant's usage, and how long to wait for any lock."""

from infra.database import Connection


async def set_lock_timeout(connection: Connection, lock_timeout_ms: int) -> None:
    """Bound the waits for locks in the transaction at hand."""
    await connection.execute(
        "SELECT set_config('lock_timeout', %(timeout)s, true)", {"timeout": f"{lock_timeout_ms}ms"}
    )


async def lock_tenant(connection: Connection, tenant_id: str) -> bool:
    """Keep the tenant's charges out until the transaction ends; False where there is no account.

    `FOR UPDATE`, where a charge takes a weaker lock: it waits for a month that is being opened, too, which
    holds the account by its foreign key, and whose counters are made from what stands.
    """
    cursor = await connection.execute(
        "SELECT FROM billing.account WHERE tenant_id = %(tenant_id)s FOR UPDATE", {"tenant_id": tenant_id}
    )
    return cursor.rowcount == 1
