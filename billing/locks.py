"""Keeping a tenant's charges out while something is changed that they depend on."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from psycopg import errors

from billing.store import locks as store
from infra.database import Connection
from infra.errors import NotFoundError, UnavailableError

_LOCK_TIMEOUT_MS: Final = 4000


async def lock_tenant(connection: Connection, tenant_id: str) -> None:
    """Keep the tenant's charges out until the transaction at hand ends.

    Raises:
        NotFoundError: the tenant has no billing account.
        UnavailableError: another transaction holds the tenant's account.
    """
    await store.set_lock_timeout(connection, _LOCK_TIMEOUT_MS)
    try:
        found = await store.lock_tenant(connection, tenant_id)
    except errors.LockNotAvailable:
        raise UnavailableError("The tenant's usage is locked for the moment. Try again.") from None
    if not found:
        raise NotFoundError("This tenant has no billing account.", "tenant_id")


async def lock_prices(connection: Connection) -> None:
    """Be the only one who changes prices or plans until the transaction at hand ends; no month is opened
    meanwhile. Taken before any tenant's lock.

    Raises:
        UnavailableError: another transaction is at it.
    """
    await store.set_lock_timeout(connection, _LOCK_TIMEOUT_MS)
    with busy_is_unavailable():
        await store.lock_prices(connection)


@contextmanager
def busy_is_unavailable() -> Generator[None]:
    """Raises: UnavailableError: a lock that is needed inside is held by another transaction."""
    try:
        yield
    except errors.LockNotAvailable:
        raise UnavailableError("What this changes is locked for the moment. Try again.") from None
