"""A new customer: a tenant and its billing account, both or neither."""

from collections.abc import Mapping
from datetime import UTC, datetime

from billing.accounts import open_account
from billing.caps import change_caps
from infra.database import Pool, borrow
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
        if caps:
            await change_caps(connection, tenant.tenant_id, caps)
    return tenant
