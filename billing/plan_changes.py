"""Changes of a tenant's plan: from its next month on, or at once.

At the boundary, months that have not begun take the new plan's prices. At once, the running month goes on at
the prices that the new plan has for it: it has one more segment (`statement` says what that comes to). A
charge is of the segment whose prices it was decided at, since both take the account's lock.
"""

from datetime import datetime
from typing import Final

import msgspec

from billing import audit
from billing.accounts import check_prices, this_and_next
from billing.caps import check_caps_are_kept
from billing.locks import busy_is_unavailable, lock_prices, lock_tenant
from billing.store import accounts as store
from billing.store import segments
from billing.store.accounts import Account
from billing.store.caps import announce_change
from infra.database import Connection
from infra.errors import InvalidValueError, NotFoundError

_MOST_SEGMENTS: Final = 32


class PlanChange(msgspec.Struct, frozen=True, kw_only=True):
    """What a change of plan came to.

    Attributes:
        at_once: the running month goes on at the new plan's prices; it was on others.
        period: the first month with the new plan's prices; at once, the running one, from `starts_at` on.
    """

    tenant_id: str
    plan: str
    previous_plan: str
    at_once: bool
    period: str
    starts_at: datetime


async def change_plan(
    connection: Connection, tenant_id: str, plan: str, *, actor: str, now: datetime, at_once: bool = False
) -> PlanChange:
    """Put an account on another plan, in the caller's transaction.

    Args:
        at_once: the running month goes on at the new plan's prices.

    Raises:
        InvalidValueError: the plan has no prices in the account's currency for the months concerned, or the
            running month has changed its plan too often.
        MoneyCapError: the tenant has a cap in money or credit, and the plan volume or package prices.
        NotFoundError: the tenant has no account.
        UnavailableError: another transaction holds what this changes.
    """
    async with connection.transaction():
        await lock_prices(connection)
        account = await store.read_account(connection, tenant_id)
        if account is None:
            raise NotFoundError("This tenant has no billing account.", "tenant_id")
        this, following = this_and_next(account, now)
        await store.insert_periods(connection, [this, following])  # at the prices of the plan until now
        await lock_tenant(connection, tenant_id)
        await store.update_plan(connection, tenant_id, plan)
        await check_prices(connection, tenant_id, plan, account.currency, following.period.starts_at)
        with busy_is_unavailable():
            await store.take_prices(connection, [tenant_id], now)
            changed_at = await _change_at_once(connection, tenant_id, now) if at_once else None
        await check_caps_are_kept(connection, [tenant_id])
        await announce_change(connection, tenant_id)
        made = PlanChange(
            tenant_id=tenant_id,
            plan=plan,
            previous_plan=account.plan,
            at_once=changed_at is not None,
            period=(this if changed_at else following).period.label,
            starts_at=changed_at or following.period.starts_at,
        )
        await _record(connection, actor, account, made)
    return made


async def _change_at_once(connection: Connection, tenant_id: str, now: datetime) -> datetime | None:
    """Have the running month go on at the plan's prices; None where it is on them already."""
    month = await segments.read_running_month(connection, tenant_id, now)
    if month is None or month.new_version_id is None or not month.has_all_prices:
        raise InvalidValueError(
            "This plan has no prices for the month that runs. Change it for the next.", "plan"
        )
    if month.new_version_id == month.price_version_id:
        return None
    if month.segments + 1 >= _MOST_SEGMENTS:
        raise InvalidValueError("This month has changed its plan too often. Change it for the next.", "plan")
    return await segments.end_segment(connection, tenant_id, month.period, month.new_version_id)


async def _record(connection: Connection, actor: str, account: Account, made: PlanChange) -> None:
    await audit.record(
        connection,
        actor,
        "set_plan",
        account.tenant_id,
        plan=made.plan,
        previous_plan=made.previous_plan,
        at_once=made.at_once,
        period=made.period,
        starts_at=made.starts_at.isoformat(),
    )
