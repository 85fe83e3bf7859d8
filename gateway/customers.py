"""A new customer: a tenant and its billing account, both or neither."""

from datetime import UTC, datetime

from billing.accounts import open_account
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
) -> Tenant:
    """Make a tenant that can be charged.

    Raises:
        InvalidValueError: the name, plan, currency or time zone cannot be used; nothing was made.
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
    return tenant
