"""A customer: a tenant and its billing account, made and changed together or not at all."""

from collections.abc import Mapping
from datetime import UTC, datetime

from billing.accounts import change_plan, open_account
from billing.caps import change_caps
from infra.database import Pool, borrow
from tenants.plans import operator_set_tenant_plan
from tenants.records import Tenant
from tenants.tenants import operator_create_tenant

DEFAULT_PLAN = "standard"
DEFAULT_CURRENCY = "USD"
DEFAULT_TIME_ZONE = "UTC"


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


async def change_customers_plan(pool: Pool, tenant_id: str, plan: str) -> Tenant:
    """Put a tenant on another plan: its limits within a second, its prices from the first month not yet open.

    Raises:
        InvalidValueError: there is no such plan, or it has no prices in the account's currency.
        NotFoundError: there is no such tenant, or it has no billing account.
    """
    async with borrow(pool) as connection, connection.transaction():
        tenant = await operator_set_tenant_plan(connection, tenant_id, plan)
        await change_plan(connection, tenant_id, plan)
    return tenant
