"""How long usage rows stay: old partitions can be detached, and are tables of their own then.

Counters, roll-ups and invoices stay. A detached partition may be dumped and dropped; a charge that bears an
id of its time finds no place and is refused, so a call can never be counted a second time.
"""

from datetime import datetime
from typing import Final

from psycopg import errors

from billing.store import retention as store
from billing.store.locks import set_lock_timeout
from billing.store.retention import Partition
from infra.database import Pool, borrow
from infra.errors import UnavailableError

_LOCK_TIMEOUT_MS: Final = 100  # charges wait behind it, and are set aside after 250


async def make_partitions(pool: Pool) -> None:
    """Make the partitions of this month and of the next two. Safe to run from several processes."""
    async with borrow(pool) as connection:
        await store.make_partitions(connection)


async def partitions(pool: Pool) -> list[Partition]:
    """All partitions, the detached ones too, the oldest first."""
    async with borrow(pool) as connection:
        return await store.read_partitions(connection)


async def detach_partitions(pool: Pool, before: datetime) -> list[Partition]:
    """Detach the partitions whose time ended by `before`, all of whose months are closed; returns them.

    Each in a transaction of its own, which charges wait for while it lasts: some milliseconds.

    Raises:
        UnavailableError: charges did not let it in; try again.
    """
    detached = list[Partition]()
    for one in await partitions(pool):
        if one.detached_at is not None or one.ends_at > before:
            continue
        async with borrow(pool) as connection, connection.transaction():
            await set_lock_timeout(connection, _LOCK_TIMEOUT_MS)
            if await store.has_open_months(connection, one.ends_at):
                continue
            try:
                await store.detach(connection, one.partition)
            except errors.LockNotAvailable:
                raise UnavailableError("Charges hold the usage rows for the moment. Try again.") from None
            detached.append(one)
    return detached
