"""Hard caps by the month, of a tenant and of each of its keys, in money and in units of meters.

A cap holds for every month until it is changed. Setting, raising and lowering one takes the charge's locks:
calls charged before it counted without it, every call after it is decided by it. `Ledger.charge` keeps it.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from billing.locks import lock_tenant
from billing.meters import METER_NAMES, MONEY
from billing.money import MAX_NANOS
from billing.store import caps as store
from infra.database import Connection, Pool, borrow
from infra.errors import DomainError, InvalidValueError

_MOST_NAMED: Final = 5
_CHANGE_TIMEOUT_S: Final = 60.0  # a key's first cap adds up what the key has used this month


class MoneyCapError(DomainError):
    """A tenant would have volume or package prices and a cap in money, or prepaid credit: what a month comes
    to can fall there as its units rise, or rises by whole packages, and the charge cannot keep the cap.
    """

    code = "money_cap_not_kept"


class Cap(msgspec.Struct, frozen=True):
    """One cap.

    Attributes:
        key_id: the key whose cap it is; None: the tenant's own, over all its keys.
        measure: `money`, or a meter.
        at_most: a month, in nanos for money, in the meter's units otherwise.
    """

    key_id: str | None
    measure: str
    at_most: int


def check_caps(changes: Mapping[str, int | None]) -> None:
    """Refuse what is no cap, before anything is made.

    Raises:
        InvalidValueError: a measure that is neither `money` nor a meter, or an amount out of range.
    """
    for measure, at_most in changes.items():
        if measure != MONEY and measure not in METER_NAMES:
            known = ", ".join(sorted(METER_NAMES))
            raise InvalidValueError(f"A cap is in money or in units of one of: {known}.", "cap")
        if at_most is not None and not 0 <= at_most <= MAX_NANOS:
            raise InvalidValueError(f"A cap is 0 to {MAX_NANOS} units or nanos.", "cap")


async def check_caps_are_kept(connection: Connection, tenant_ids: Sequence[str]) -> None:
    """Refuse caps in money and credit together with prices that they cannot be kept on. Call it after a
    change, under the locks of these accounts.

    Raises:
        MoneyCapError: see above.
    """
    found = await store.read_wrongly_capped(connection, tenant_ids, _MOST_NAMED)
    if found:
        raise MoneyCapError(
            "Caps in money and prepaid credit are not kept on volume and package prices, and this would "
            f"bring both together for {', '.join(found)}. Use other prices, or caps in units."
        )


async def change_caps(
    connection: Connection, tenant_id: str, changes: Mapping[str, int | None], key_id: str | None = None
) -> None:
    """Set caps of a tenant, or of one of its keys, in the caller's transaction; what is not named stays.

    Args:
        changes: `{"money": nanos, "intent.calls": units, ...}`; None takes a cap away.
        key_id: the key whose caps they are; that it is the tenant's, the caller has made sure of.

    Raises:
        InvalidValueError: see `check_caps`.
        MoneyCapError: a cap in money where prices are by volume or by the package.
        NotFoundError: the tenant has no billing account.
        UnavailableError: another transaction holds the tenant's account.
    """
    check_caps(changes)
    async with connection.transaction():
        await lock_tenant(connection, tenant_id)
        for measure, at_most in changes.items():
            meter = None if measure == MONEY else measure
            if at_most is None:
                await store.delete_cap(connection, tenant_id, key_id, meter)
            else:
                await store.upsert_cap(connection, tenant_id, key_id, meter, at_most)
        if changes.get(MONEY) is not None:
            await check_caps_are_kept(connection, [tenant_id])
        await store.match_key_counters(connection, tenant_id)
        await store.announce_change(connection, tenant_id)


async def set_caps(
    pool: Pool, tenant_id: str, changes: Mapping[str, int | None], key_id: str | None = None
) -> None:
    """`change_caps` in a transaction of its own: in effect when it returns.

    Raises:
        InvalidValueError, MoneyCapError, NotFoundError, UnavailableError: see `change_caps`.
    """
    async with borrow(pool, use_timeout_s=_CHANGE_TIMEOUT_S) as connection:
        await change_caps(connection, tenant_id, changes, key_id)


async def caps(pool: Pool, tenant_id: str) -> list[Cap]:
    """All caps of a tenant and of its keys, the tenant's own first."""
    async with borrow(pool) as connection:
        rows = await store.read_caps(connection, tenant_id)
    return [Cap(row.key_id, row.meter or MONEY, row.at_most) for row in rows]
