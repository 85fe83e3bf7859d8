"""Promise 2, on a live system: counters, roll-ups, keys' counters, invoices are the sums of the usage rows.

Walks the months of all tenants in pages, but for those whose usage rows were detached (`billing.retention`).
A charge writes all that is compared in one transaction, so calls may go on: what is compared is of one
moment, though read in many short transactions (`billing.store.reconcile` says how). A long one would keep the
dead versions of the counters that charges change, and slow these down.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from billing.periods import check_label
from billing.store import reconcile as store
from billing.store.reconcile import Difference, Month, Stretch
from infra.database import Connection, Pool, borrow

ROWS_PER_STATEMENT: Final = 100_000  # a tenth of a second, and a second on a machine with much else to do
MAX_NAMED: Final = 1000
_MONTHS_PER_PAGE: Final = 500
_SMALL_MONTHS_AT_ONCE: Final = 100
_TIMEOUT_S: Final = 12 * 3600.0


class Reconciliation(msgspec.Struct, frozen=True):
    """What was compared.

    Attributes:
        usage_rows: how many charges there are.
        voided: how many voids there are, which take a charge back, or a part of it.
        difference: all differences in calls, units and rated amounts added up; 0 when everything agrees.
        differences: the first `MAX_NAMED` of them.
    """

    usage_rows: int
    voided: int
    difference: int
    differences: list[Difference]


class _Tally:
    """What was found so far; of the differences, no more than are named."""

    def __init__(self) -> None:
        self.charges, self.voids, self.difference = 0, 0, 0
        self.named: list[Difference] = []

    async def note(self, differences: AsyncGenerator[Difference]) -> None:
        """Take differences in."""
        async with aclosing(differences):
            async for one in differences:
                self.difference += size(one)
                if len(self.named) < MAX_NAMED:
                    self.named.append(one)


async def reconcile(
    pool: Pool, period: str | None = None, rows_per_statement: int = ROWS_PER_STATEMENT
) -> Reconciliation:
    """Compare everything that adds usage up with the usage rows, of one month `YYYY-MM` or of all.

    Args:
        rows_per_statement: about how many usage rows are added up in one transaction.

    Raises:
        InvalidValueError: the period's label.
    """
    if period is not None:
        check_label(period)
    tally = _Tally()
    async with borrow(pool, use_timeout_s=_TIMEOUT_S) as connection, store.workspace(connection):
        after = ("", "")
        while page := await store.read_months(connection, period, after, _MONTHS_PER_PAGE):
            for months in _portions(page, rows_per_statement):
                await _add_up(connection, months, rows_per_statement, tally)
                await tally.note(store.differences(connection))
            after = (page[-1].tenant_id, page[-1].period)
        after = ("", "")
        while used := await store.read_used_months(connection, after, _MONTHS_PER_PAGE):
            astray = [
                Month(tenant_id, month, "UTC", 0)
                for tenant_id, month, is_opened in used
                if not is_opened and period in (None, month)
            ]
            if astray:
                await _add_up(connection, astray, rows_per_statement, tally)
                await tally.note(store.usage_by_meter(connection))
            after = used[-1][:2]
    return Reconciliation(tally.charges, tally.voids, tally.difference, tally.named)


def size(one: Difference) -> int:
    """How far off a place is: in calls, units and rated amount together."""
    return abs(one.calls - one.calls_of_rows) + abs(one.units - one.units_of_rows) + one.rated


def describe(one: Difference) -> str:
    """A difference in one line."""
    place = " ".join(part for part in (one.tenant_id, one.period, one.meter, one.key_id, one.hour) if part)
    says = f"says {one.calls} calls, {one.units} units"
    money = f", and is off by {one.rated} in money" if one.rated else ""
    return (
        f"{one.what} {place}: {says}; the usage rows are {one.calls_of_rows} calls, {one.units_of_rows} units"
        f"{money}"
    )


async def _add_up(
    connection: Connection, months: Sequence[Month], rows_per_statement: int, tally: _Tally
) -> None:
    """Have the usage rows of these months added up as of the moment at which their books are copied."""
    moment = await store.copy_books(connection, months)
    async with aclosing(_cut_up(connection, months, rows_per_statement)) as batches:
        async for stretches in batches:
            await store.add_up(connection, moment, stretches)
    await store.forget_detached(connection)
    charges, voids = await store.count_entries(connection)
    tally.charges += charges
    tally.voids += voids


async def _cut_up(
    connection: Connection, months: Sequence[Month], rows_per_statement: int
) -> AsyncGenerator[list[Stretch]]:
    """All rows of these months, in stretches that are added up together: about so many rows at a time."""
    ahead = [store.whole(month) for month in months]
    while ahead:
        stretches = await store.cut(connection, ahead, rows_per_statement)
        for batch in _packed(stretches, rows_per_statement):
            yield batch
        ahead = [rest for stretch in stretches if (rest := stretch.after())]


def _packed(stretches: list[Stretch], rows_per_statement: int) -> Iterator[list[Stretch]]:
    batch, rows = list[Stretch](), 0
    for stretch in stretches:
        if batch and rows + stretch.rows > rows_per_statement:
            yield batch
            batch, rows = [], 0
        batch.append(stretch)
        rows += stretch.rows
    yield batch


def _portions(page: list[Month], rows_per_statement: int) -> Iterator[list[Month]]:
    """Months that are compared together, by what their counters claim; a large one is by itself."""
    portion, calls = list[Month](), 0
    for month in page:
        claimed = max(month.calls, rows_per_statement // _SMALL_MONTHS_AT_ONCE)
        if portion and calls + claimed > rows_per_statement:
            yield portion
            portion, calls = [], 0
        portion.append(month)
        calls += claimed
    yield portion
