"""Prepaid credit: money granted ahead, which calls use up and never overdraw.

It is kept by the charge as a cap in money over all months: a call that it does not cover is refused. Calls
count from the first grant on, at the price the tenant pays at that point. A month that closes is settled in
whole nanos, rounded up, so that many months cannot overdraw it by their fractions.
"""

from typing import Final

import msgspec
from psycopg import errors

from billing.caps import check_caps_are_kept
from billing.locks import lock_tenant
from billing.money import MAX_NANOS
from billing.store import caps as caps_store
from billing.store import credit as store
from infra.database import Pool, borrow
from infra.errors import InvalidValueError
from infra.ids import new_id

MAX_NOTE_LENGTH: Final = 200


class Credit(msgspec.Struct, frozen=True):
    """A tenant's prepaid credit, in nanos of its currency; `left_nanos` is rounded down."""

    granted_nanos: int
    left_nanos: int


async def grant_credit(pool: Pool, tenant_id: str, nanos: int, note: str = "") -> Credit:
    """Add prepaid credit, in effect when it returns; a tenant's first grant makes it prepaid.

    Raises:
        InvalidValueError: the amount or the note is out of range.
        MoneyCapError: the tenant's prices are by volume or by the package.
        NotFoundError: the tenant has no billing account.
        UnavailableError: another transaction holds the tenant's account.
    """
    if not 0 < nanos <= MAX_NANOS:
        raise InvalidValueError("Credit is a positive amount.", "amount")
    if len(note) > MAX_NOTE_LENGTH:
        raise InvalidValueError(f"A note has at most {MAX_NOTE_LENGTH} characters.", "note")
    async with borrow(pool) as connection, connection.transaction():
        await lock_tenant(connection, tenant_id)
        try:
            await store.add_credit(connection, new_id("crd"), tenant_id, nanos, note)
        except errors.NumericValueOutOfRange:
            raise InvalidValueError("So much credit cannot be kept.", "amount") from None
        await check_caps_are_kept(connection, [tenant_id])
        await caps_store.announce_change(connection, tenant_id)
        granted = await store.read_credit(connection, tenant_id)
    assert granted is not None
    return Credit(*granted)


async def credit(pool: Pool, tenant_id: str) -> Credit | None:
    """A tenant's prepaid credit; None where it is not prepaid."""
    async with borrow(pool) as connection:
        found = await store.read_credit(connection, tenant_id)
    return Credit(*found) if found else None
