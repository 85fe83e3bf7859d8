"""Alerts: a tenant's owner is warned of caps that fill up and of days that are out of line.

Caps: at 50, 80 and 100 % of each cap, of the tenant and of its keys, in money and in units, and of all the
credit that was ever granted. Once for each threshold, month and value of the cap (of the credit, over all
months), so a raised one is armed again; when several thresholds are crossed at once, the highest is told
alone. What is used is rated as the charge rates it, and compared without rounding.
Days: see `billing.anomaly`; once for each meter and day of the tenant's clock.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, Final

from billing import outbox
from billing.anomaly import FLOOR_UNITS, HISTORY_DAYS, is_out_of_line, median
from billing.meters import CREDIT, MONEY
from billing.money import currency, format_nanos, round_half_away
from billing.store import alerts as store
from billing.store.alerts import AlertRow, BusyDayRow, CapUseRow, DayUnitsRow, Occasion
from infra.database import Connection, Pool, borrow

THRESHOLDS_PERCENT: Final = (50, 80, 100)
_TENANTS_PER_TRANSACTION: Final = 200
_PAGE_TIMEOUT_S: Final = 30.0
_MOST_LISTED: Final = 1000

_ReadPage = Callable[[Connection, str, int], Awaitable[list[str]]]
_Warn = Callable[[Connection, list[str], datetime], Awaitable[int]]


async def evaluate(pool: Pool, now: datetime) -> int:
    """Raise the alerts that are due; returns how many were raised.

    Safe to run from several processes: one evaluates at a time, the others find nothing to do.
    """
    of_caps = await _evaluate(pool, now, store.read_capped_tenants, _warn_of_caps)
    return of_caps + await _evaluate(pool, now, store.read_tenants, _warn_of_days)


async def list_alerts(pool: Pool, tenant_id: str) -> list[AlertRow]:
    """A tenant's latest thousand alerts, the newest first."""
    async with borrow(pool) as connection:
        return await store.read_alerts(connection, tenant_id, _MOST_LISTED)


def threshold_reached(used: int, allowed: int, warned_percent: int | None) -> int | None:
    """The highest threshold that is reached and higher than what was told before; None where there is none.

    Nothing used reaches nothing, not even of a cap of 0.
    """
    if used <= 0:
        return None
    reached = [percent for percent in THRESHOLDS_PERCENT if used * 100 >= allowed * percent]
    return reached[-1] if reached and reached[-1] > (warned_percent or 0) else None


async def _evaluate(pool: Pool, now: datetime, read_page: _ReadPage, warn: _Warn) -> int:
    """Warn tenants page by page, each page in a transaction; returns how many alerts were raised."""
    after, raised = "", 0
    while True:
        async with borrow(pool, use_timeout_s=_PAGE_TIMEOUT_S) as connection, connection.transaction():
            if not await store.try_evaluation_lock(connection):
                return raised
            tenant_ids = await read_page(connection, after, _TENANTS_PER_TRANSACTION)
            raised += await warn(connection, tenant_ids, now)
        if len(tenant_ids) < _TENANTS_PER_TRANSACTION:
            return raised
        after = tenant_ids[-1]


async def _warn_of_caps(connection: Connection, tenant_ids: list[str], now: datetime) -> int:
    uses = await store.read_cap_use(connection, tenant_ids, now, THRESHOLDS_PERCENT[0])
    return sum([await _warn_of_cap(connection, use, now) for use in uses])


async def _warn_of_cap(connection: Connection, use: CapUseRow, now: datetime) -> bool:
    percent = threshold_reached(use.used, use.allowed, use.warned_percent)
    if percent is None:
        return False
    occasion = Occasion(
        key_id=use.key_id,
        meter=use.meter,
        is_credit=use.is_credit,
        period=use.period,
        at_most=use.at_most,
        threshold_percent=percent,
    )
    return await outbox.raise_alert(
        connection, use.tenant_id, outbox.CAP_THRESHOLD_REACHED, now, occasion, _told_of_cap(use, percent)
    )


def _told_of_cap(use: CapUseRow, percent: int) -> dict[str, Any]:
    """`at_most` and `used` are in nanos where `measure` is `money` or `credit`, in units otherwise."""
    used = Fraction(use.used, use.nano or 1)
    if use.meter is None:
        unit = currency(use.currency)
        cap, so_far = format_nanos(Fraction(use.at_most), unit), format_nanos(used, unit)
    else:
        cap, so_far = f"{use.at_most} {use.meter}", str(used)
    holder = f" of {use.key_id}" if use.key_id else ""
    what = "the prepaid credit is used" if use.is_credit else f"the cap{holder} for {use.period} is reached"
    return {
        "key_id": use.key_id,
        "measure": CREDIT if use.is_credit else use.meter or MONEY,
        "period": use.period,
        "threshold_percent": percent,
        "at_most": use.at_most,
        "used": int(used),
        "currency": use.currency if use.meter is None else None,
        "message": f"{percent} % of {what}: {so_far} of {cap}.",
    }


async def _warn_of_days(connection: Connection, tenant_ids: list[str], now: datetime) -> int:
    days = await store.read_busy_days(connection, tenant_ids, now, FLOOR_UNITS)
    return sum([await _warn_of_day(connection, busy, now) for busy in days])


async def _warn_of_day(connection: Connection, busy: BusyDayRow, now: datetime) -> bool:
    rows = await store.read_days_before(connection, busy.tenant_id, busy.meter, busy.day, HISTORY_DAYS)
    history = _every_day(rows, busy)
    if not is_out_of_line(busy.units, history, FLOOR_UNITS[busy.meter]):
        return False
    usual_units = round_half_away(median(history))
    data: dict[str, Any] = {
        "meter": busy.meter,
        "day": busy.day.isoformat(),
        "units": busy.units,
        "usual_units": usual_units,
        "message": f"{busy.units} {busy.meter} on {busy.day}: far above the {usual_units} of a usual day.",
    }
    occasion = Occasion(meter=busy.meter, day=busy.day)
    return await outbox.raise_alert(connection, busy.tenant_id, outbox.USAGE_ANOMALY, now, occasion, data)


def _every_day(rows: list[DayUnitsRow], busy: BusyDayRow) -> list[int]:
    """The units of all days from the first that had any to the day before, in order.

    A day that corrections took below zero counts as a day without usage.
    """
    units = {row.day: max(row.units, 0) for row in rows}
    first = next((row.day for row in rows if row.units > 0), busy.day)
    return [units.get(first + timedelta(days=place), 0) for place in range((busy.day - first).days)]
