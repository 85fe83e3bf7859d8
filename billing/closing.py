"""Closing months: what is charged later counts in the tenant's next month and is marked late.

A month is closed under the locks that its charges take: a charge comes before the closing and counts in the
month, or after it and does not. An hour passes between a month's end and its closing, longer than any call
takes; months of one tenant close in their order.
"""

from datetime import datetime, timedelta
from typing import Final

from billing.accounts import open_periods_of
from billing.locks import lock_tenant
from billing.store import closing as store
from billing.store import credit as credit_store
from infra.database import Connection, Pool, borrow
from infra.errors import InvalidValueError, NotFoundError, UnavailableError

CLOSE_AFTER: Final = timedelta(hours=1)
_MONTHS_PER_PAGE: Final = 500


async def close_ended_months(pool: Pool, now: datetime) -> int:
    """Close all months that ended an hour before `now` or earlier; returns how many.

    Safe to run at any time, and from several processes. A tenant that is locked is left for the next run.
    """
    closed = 0
    after = ("", "")
    while True:
        async with borrow(pool) as connection:
            page = await store.read_ended_months(connection, now - CLOSE_AFTER, after, _MONTHS_PER_PAGE)
        for tenant_id, period in page:
            try:
                async with borrow(pool) as connection:
                    closed += await close_month(connection, tenant_id, period, now)
            except UnavailableError:
                continue
        if len(page) < _MONTHS_PER_PAGE:
            return closed
        after = page[-1]


async def close_month(connection: Connection, tenant_id: str, period: str, now: datetime) -> bool:
    """Close one month of a tenant; False when it is closed already. In transactions of its own.

    Raises:
        NotFoundError: the tenant has no account, or no such month.
        InvalidValueError: the month is not over, or an earlier one is open.
        UnavailableError: another transaction holds the tenant's account.
    """
    # What comes late needs a month to go to, made before any lock is taken.
    await open_periods_of(connection, [(tenant_id, now)])
    async with connection.transaction():
        await lock_tenant(connection, tenant_id)
        month = await store.read_month(connection, tenant_id, period)
        if month is None:
            raise NotFoundError("There is no such month of this tenant.", "period")
        if month.closed_at is not None:
            return False
        if month.ends_at > now:
            raise InvalidValueError("This month is not over yet.", "period")
        if month.earlier_open:
            raise InvalidValueError("An earlier month of this tenant is open: close that first.", "period")
        await credit_store.settle_month(connection, tenant_id, period)
        await store.mark_closed(connection, tenant_id, period)
    return True
