"""Sealing closed months: one pass over a month's usage rows, after which its invoice needs none of them.

A closed month changes no more (`billing.closing`), so a seal is made once: for each meter, and for each month
whose usage came late, the calls, the units and a digest of the rows (`billing.month_proof` in the database
says how it is computed). It is what an invoice's lines are made from, and what `billing.proofs` compares the
rows with.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from billing.store import seals as store
from infra.database import Pool, borrow

_MONTHS_PER_TRANSACTION: Final = 50
_TIMEOUT_S: Final = 600.0  # a month of ten million rows takes a minute


async def seal_closed_months(
    pool: Pool, period: str | None = None, report: Callable[[int], Awaitable[None]] | None = None
) -> int:
    """Seal all closed months that are not, of one label `YYYY-MM` or of all; returns how many.

    Safe to run at any time, from several processes, and again after it broke off.

    Args:
        report: told after each transaction how many it sealed.
    """
    sealed, after = 0, ("", "")
    while True:
        async with borrow(pool, use_timeout_s=_TIMEOUT_S) as connection:
            page = await store.read_unsealed(connection, period, after, _MONTHS_PER_TRANSACTION)
            async with connection.transaction():
                newly = await store.seal_months(connection, page)
        sealed += newly
        if report is not None:
            await report(newly)
        if len(page) < _MONTHS_PER_TRANSACTION:
            return sealed
        after = page[-1]
