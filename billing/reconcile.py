"""Promise 2, on a live system: counters, roll-ups, keys' counters, invoices are the sums of the usage rows.

Walks the months of all tenants in pages, but for those whose usage rows were detached (`billing.retention`).
Each page is compared inside the database by one statement, a transaction of its own. A charge writes all that
is compared in one transaction, so calls may go on.
"""

from typing import Final

import msgspec

from billing.periods import check_label
from billing.store import reconcile as store
from billing.store.reconcile import Difference, Month
from infra.database import Pool, borrow

_MONTHS_PER_PAGE: Final = 500
_CALLS_PER_STATEMENT: Final = 250_000
_STATEMENT_TIMEOUT_S: Final = 600.0  # one tenant's month is one statement, however large
MAX_NAMED: Final = 1000


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


async def reconcile(pool: Pool, period: str | None = None) -> Reconciliation:
    """Compare everything that adds usage up with the usage rows, of one month `YYYY-MM` or of all.

    Raises:
        InvalidValueError: the period's label.
    """
    if period is not None:
        check_label(period)
    usage_rows, voided, difference, named = 0, 0, 0, list[Difference]()
    after = ("", "")
    while True:
        async with borrow(pool) as connection:
            page = await store.read_months(connection, period, after, _MONTHS_PER_PAGE)
        if not page:
            break
        for months in _portions(page):
            async with borrow(pool, use_timeout_s=_STATEMENT_TIMEOUT_S) as connection:
                charges, voids, found = await store.compare(connection, months)
            usage_rows += charges
            voided += voids
            difference += sum(size(one) for one in found)
            named += found[: MAX_NAMED - len(named)]
        after = (page[-1].tenant_id, page[-1].period)
    async with borrow(pool, use_timeout_s=_STATEMENT_TIMEOUT_S) as connection:
        found = await store.read_usage_without_month(connection, period)
    usage_rows += sum(one.calls_of_rows for one in found)
    difference += sum(size(one) for one in found)
    return Reconciliation(usage_rows, voided, difference, named + found[: MAX_NAMED - len(named)])


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


def _portions(page: list[Month]) -> list[list[Month]]:
    """Months that are compared together: few calls to a statement, so that its snapshot is a short one."""
    portions: list[list[Month]] = []
    calls = _CALLS_PER_STATEMENT
    for month in page:
        if calls + month.calls >= _CALLS_PER_STATEMENT:
            portions.append([])
            calls = 0
        portions[-1].append(month)
        calls += month.calls
    return portions
