"""A customer: a tenant and its billing account, made and changed together or not at all."""

from collections.abc import Mapping
from datetime import UTC, datetime

from billing import audit
from billing.accounts import open_account
from billing.caps import change_caps
from billing.plan_changes import PlanChange, change_plan
from infra.database import Pool, borrow
from tenants.plans import operator_set_tenant_plan
from tenants.records import Tenant
from tenants.tenants import operator_create_tenant

DEFAULT_PLAN = "standard"
DEFAULT_CURRENCY = "USD"
DEFAULT_TIME_ZONE = "UTC"
_CHANGE_TIMEOUT_S = 15.0


async def create_customer(
    pool: Pool,
    name: str,
    *,
    plan: str = DEFAULT_PLAN,
    currency: str = DEFAULT_CURRENCY,
    time_zone: str = DEFAULT_TIME_ZONE,
    caps: Mapping[str, int | None] | None = None,
) -> Tenant:
    """Make a tenant that can be charged; `caps` as `billing.caps.change_caps` takes them.

    Args:
        plan: decides its limits, and its prices in `currency`.

    Raises:
        InvalidValueError: the name, plan, currency, time zone or a cap cannot be used; nothing was made.
    """
    async with borrow(pool) as connection, connection.transaction():
        tenant = await operator_create_tenant(connection, name)
        await open_account(
            connection,
            tenant.tenant_id,
            plan=plan,
            currency=currency,
            time_zone=time_zone,
            now=datetime.now(UTC),
        )
        tenant = await operator_set_tenant_plan(connection, tenant.tenant_id, plan)
        if caps:
            await change_caps(connection, tenant.tenant_id, caps)
    return tenant


async def change_customers_plan(
    pool: Pool, tenant_id: str, plan: str, actor: str, *, at_once: bool = False
) -> tuple[Tenant, PlanChange]:
    """Put a tenant on another plan: its limits within a second, its prices from its next month on or at once.
    A refusal is on record.

    Raises:
        InvalidValueError: there is no such plan, or it has no prices in the account's currency.
        MoneyCapError: the plan's prices do not go with the tenant's caps in money.
        NotFoundError: there is no such tenant, or it has no billing account.
        UnavailableError: another transaction holds what this changes.
    """
    async with (
        audit.refusals_recorded(pool, actor, "set_plan", tenant_id),
        borrow(pool, use_timeout_s=_CHANGE_TIMEOUT_S) as connection,
        connection.transaction(),
    ):
        changed = await change_plan(
            connection, tenant_id, plan, actor=actor, now=datetime.now(UTC), at_once=at_once
        )
        return await operator_set_tenant_plan(connection, tenant_id, plan), changed
