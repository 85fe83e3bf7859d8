"""Promise 2, on a live system: counters, roll-ups, keys' counters, invoices are the sums of the usage rows.

Takes the months of all tenants, one calendar month after the other, but for those whose usage rows were
detached (`billing.retention`). A charge writes all that is compared in one transaction, so calls may go on:
what is compared is of one moment, though read in many short transactions (`billing.store.reconcile` says
how). A long one would keep the dead versions of the counters that charges change, and slow these down.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final
from uuid import UUID

import msgspec

from billing.periods import check_label
from billing.store import reconcile as store
from billing.store.reconcile import Difference
from infra.database import Connection, Pool, borrow

ROWS_PER_STATEMENT: Final = 200_000  # a quarter of a second; one with capped keys only: a second
MAX_NAMED: Final = 1000
_MONTHS_PER_PAGE: Final = 500
_ROLL_UPS_AT_ONCE: Final = 500_000  # copied in about a second
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
        async with aclosing(_portions(connection, period)) as portions:
            async for months in portions:
                await _add_up(connection, months, rows_per_statement, tally)
                await tally.note(store.differences(connection))
        after = ("", "")
        while used := await store.read_used_months(connection, after, _MONTHS_PER_PAGE):
            astray = [
                (tenant_id, month)
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
    connection: Connection, months: Sequence[tuple[str, str]], rows_per_statement: int, tally: _Tally
) -> None:
    """Have the usage rows of these months added up as of the moment at which their books are copied."""
    moment = await store.copy_books(connection, months)
    ends = await store.read_ends(connection)
    if ends is not None:
        first, end = ends
        while True:
            last = await store.cut(connection, first, rows_per_statement)
            await store.add_up(connection, moment, first, min(last, end))
            if last >= end:
                break
            first = UUID(int=last.int + 1)
    await store.forget_detached(connection)
    charges, voids = await store.count_entries(connection)
    tally.charges += charges
    tally.voids += voids


async def _portions(connection: Connection, period: str | None) -> AsyncGenerator[list[tuple[str, str]]]:
    """Months that are compared together, as (tenant, month): of one label, whose rows lie together."""
    portion, roll_ups, after = list[tuple[str, str]](), 0, ("", "")
    while page := await store.read_months(connection, period, after, _MONTHS_PER_PAGE):
        for month in page:
            roll_ups += month.roll_ups
            if portion and (portion[-1][1] != month.period or roll_ups > _ROLL_UPS_AT_ONCE):
                yield portion
                portion, roll_ups = [], month.roll_ups
            portion.append((month.tenant_id, month.period))
        after = (page[-1].period, page[-1].tenant_id)
    if portion:
        yield portion
