"""Billing accounts: opening one, and making each account's months ahead of time."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from psycopg import errors

from billing import periods
from billing.money import currency as find_currency
from billing.periods import Period
from billing.store import accounts as store
from billing.store.accounts import Account, NewPeriod
from billing.store.prices import find_version
from infra.database import Connection, Pool, borrow
from infra.errors import DomainError, InvalidValueError, NotFoundError

_ACCOUNTS_PER_TRANSACTION: Final = 500


class AccountExistsError(DomainError):
    """The tenant has an account already, with other terms."""

    code = "billing_account_exists"


async def open_account(
    connection: Connection, tenant_id: str, *, plan: str, currency: str, time_zone: str, now: datetime
) -> Account:
    """Open a tenant's account with its current and its next month, in the caller's transaction.

    Opening it again changes nothing.

    Raises:
        InvalidValueError: the plan, the currency or the time zone cannot be used; `param` says which.
        NotFoundError: there is no such tenant.
        AccountExistsError: the account is open, with another plan, currency or time zone.
    """
    find_currency(currency)
    periods.check_time_zone(time_zone)
    async with connection.transaction():
        this_month = periods.period_at(now, ZoneInfo(time_zone))
        await check_prices(connection, tenant_id, plan, currency, this_month.starts_at)
        await _check_with_server(connection, time_zone)
        try:
            await store.insert_account(connection, tenant_id, plan, currency, time_zone)
        except errors.ForeignKeyViolation:
            raise NotFoundError("There is no such tenant.", "tenant_id") from None
        account = await store.read_account(connection, tenant_id)
        assert account is not None
        if (account.plan, account.currency, account.time_zone) != (plan, currency, time_zone):
            raise AccountExistsError("This tenant's billing account is open already, with other terms.")
        await store.insert_periods(connection, this_and_next(account, now))
    return account


async def check_prices(
    connection: Connection, tenant_id: str, plan: str, currency: str, moment: datetime
) -> None:
    """Refuse a plan without prices for a tenant's month that begins at this moment.

    Raises:
        InvalidValueError: see above.
    """
    if await find_version(connection, tenant_id, plan, currency, moment) is None:
        raise InvalidValueError("There is no such plan with prices in this currency.", "plan")


async def _check_with_server(connection: Connection, time_zone: str) -> None:
    try:
        await store.try_time_zone(connection, time_zone)
    except errors.InvalidParameterValue:
        raise InvalidValueError("The database does not know this time zone.", "time_zone") from None


async def account(pool: Pool, tenant_id: str) -> Account:
    """A tenant's account.

    Raises:
        NotFoundError: the tenant has none.
    """
    async with borrow(pool) as connection:
        found = await store.read_account(connection, tenant_id)
    if found is None:
        raise NotFoundError("This tenant has no billing account.", "tenant_id")
    return found


async def current_period(pool: Pool, tenant_id: str, now: datetime) -> Period:
    """The month that `now` falls into on the tenant's clock.

    Raises:
        NotFoundError: the tenant has no account.
    """
    return periods.period_at(now, ZoneInfo((await account(pool, tenant_id)).time_zone))


async def open_periods(pool: Pool, now: datetime) -> int:
    """Make every account's current and next month with their counters; returns how many accounts there are.

    Months that are there stay as they are: safe to run at any time, and from several processes.
    """
    after, seen = "", 0
    while True:
        async with borrow(pool) as connection, connection.transaction():
            page = await store.read_account_page(connection, after, _ACCOUNTS_PER_TRANSACTION)
            await store.insert_periods(connection, [new for one in page for new in this_and_next(one, now)])
        seen += len(page)
        if len(page) < _ACCOUNTS_PER_TRANSACTION:
            return seen
        after = page[-1].tenant_id


async def open_periods_of(connection: Connection, moments: Iterable[tuple[str, datetime]]) -> None:
    """Make the months in which tenants have the given moments; a tenant without an account is passed over."""
    wanted = set(moments)
    tenant_ids = sorted({tenant_id for tenant_id, _ in wanted})
    async with connection.transaction():
        accounts = {one.tenant_id: one for one in await store.read_accounts(connection, tenant_ids)}
        new = {
            _new_period(accounts[tenant_id], moment) for tenant_id, moment in wanted if tenant_id in accounts
        }
        await store.insert_periods(connection, list(new))


def _new_period(account: Account, moment: datetime) -> NewPeriod:
    period = periods.period_at(moment, ZoneInfo(account.time_zone))
    return NewPeriod(account.tenant_id, account.time_zone, period)


def this_and_next(account: Account, now: datetime) -> list[NewPeriod]:
    """The month of this moment, and the one after it."""
    zone = ZoneInfo(account.time_zone)
    this = periods.period_at(now, zone)
    both = (this, periods.next_period(this, zone))
    return [NewPeriod(account.tenant_id, account.time_zone, period) for period in both]
