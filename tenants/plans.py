"""Plans, as far as they limit: how many requests a minute, how many calls at the same time.

What a plan costs is billing's; both know a plan by the same name.
"""

import re
from collections.abc import Mapping

from psycopg.errors import ForeignKeyViolation

from infra.database import Connection, Pool, borrow
from infra.errors import InvalidValueError
from tenants import store
from tenants.records import Plan, PlanLimits, Tenant
from tenants.tenants import no_such_tenant

MAX_LIMIT = 1_000_000_000

_NAME = re.compile("[a-z0-9][a-z0-9_-]{0,62}")


async def operator_list_plans(pool: Pool) -> list[Plan]:
    """All plans, by name.

    Raises:
        UnavailableError: PostgreSQL does not answer.
    """
    async with borrow(pool) as connection:
        return await store.operator_plans(connection)


async def operator_set_plan_limits(pool: Pool, name: str, changes: Mapping[str, int | None]) -> Plan:
    """Change a plan's limits, or make a plan; what is not named stays. In every worker within a second.

    Args:
        changes: by the names of `PlanLimits`; from 1, over all workers; None is the installation's default.

    Raises:
        InvalidValueError: a name or a limit that cannot be used.
        UnavailableError: PostgreSQL does not answer.
    """
    if not _NAME.fullmatch(name):
        raise InvalidValueError(
            "A plan's name has at most 63 small letters, digits, `-` and `_`, the first a letter or digit.",
            "plan",
        )
    for limit_name, limit in changes.items():
        if limit_name not in PlanLimits.__struct_fields__:
            raise InvalidValueError(f"The limits are: {', '.join(PlanLimits.__struct_fields__)}.", "limit")
        if limit is not None and not 1 <= limit <= MAX_LIMIT:
            raise InvalidValueError(f"A limit is 1 to {MAX_LIMIT}, or the default.", "limit")
    async with borrow(pool) as connection:
        return await store.operator_set_plan_limits(connection, name, changes)


async def show_tenants_plan(pool: Pool, tenant_id: str) -> Plan:
    """The plan that a tenant is on.

    Raises:
        NotFoundError: there is no such tenant.
        UnavailableError: PostgreSQL does not answer.
    """
    async with borrow(pool) as connection:
        found = await store.plan_of_tenant(connection, tenant_id)
    if found is None:
        raise no_such_tenant()
    return found


async def operator_set_tenant_plan(connection: Connection, tenant_id: str, plan: str) -> Tenant:
    """Put a tenant on a plan, in the caller's transaction; its limits hold within a second of the commit.

    Raises:
        InvalidValueError: there is no such plan.
        NotFoundError: there is no such tenant.
    """
    try:
        async with connection.transaction():
            found = await store.set_tenant_plan(connection, tenant_id, plan)
    except ForeignKeyViolation:
        raise InvalidValueError(
            "There is no such plan. `aiaas plan list` shows them all; `aiaas plan set` makes one.", "plan"
        ) from None
    if found is None:
        raise no_such_tenant()
    return found
