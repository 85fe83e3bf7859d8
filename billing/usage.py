"""Usage reports, from counters and roll-ups: their cost does not grow with the number of calls."""

import msgspec

from billing.accounts import account
from billing.meters import METERS
from billing.periods import check_label
from billing.store import usage as store
from billing.store.usage import CounterRow, DayRow
from infra.database import Pool, borrow


class MeterUsage(msgspec.Struct, frozen=True):
    """What one meter counted."""

    units: int
    calls: int


class Usage(msgspec.Struct, frozen=True):
    """A month's usage: `{"period": "2025-11", "meters": {"intent.calls": {"units": 3, "calls": 3}, ...}}`.

    Every meter is there, with zeros where nothing was used.
    """

    period: str
    meters: dict[str, MeterUsage]


async def usage(pool: Pool, tenant_id: str, period: str) -> Usage:
    """One tenant's usage of the month `YYYY-MM` of its own clock.

    Raises:
        InvalidValueError: the period's label.
        NotFoundError: the tenant has no account.
    """
    check_label(period)
    await account(pool, tenant_id)
    async with borrow(pool) as connection:
        return _report(period, await store.read_counters(connection, tenant_id, period))


async def usage_of_all(pool: Pool, period: str) -> Usage:
    """All tenants' usage added up, of the month `YYYY-MM` as each tenant's clock has it.

    Raises:
        InvalidValueError: the period's label.
    """
    check_label(period)
    async with borrow(pool) as connection:
        return _report(period, await store.add_up_counters(connection, period))


async def usage_by_day(pool: Pool, tenant_id: str, period: str) -> list[DayRow]:
    """One tenant's usage of a month by day (of its own clock) and meter; days without usage are left out.

    Raises:
        InvalidValueError: the period's label.
        NotFoundError: the tenant has no account.
    """
    check_label(period)
    await account(pool, tenant_id)
    async with borrow(pool) as connection:
        return await store.read_days(connection, tenant_id, period)


def _report(period: str, rows: list[CounterRow]) -> Usage:
    counted = {row.meter: MeterUsage(row.units, row.calls) for row in rows}
    return Usage(period, {meter.meter: counted.get(meter.meter, MeterUsage(0, 0)) for meter in METERS})
