"""Where a tenant's calls may be answered: set by the vendor's operator, carried with the tenant's keys."""

from infra.database import Pool, borrow
from infra.errors import InvalidValueError
from tenants import store
from tenants.records import PLACEMENTS, Placement, Tenant
from tenants.tenants import no_such_tenant


async def operator_set_placement(pool: Pool, tenant_id: str, placement: Placement) -> Tenant:
    """Set where a tenant's calls may be answered; it holds in every worker within a second.

    Raises:
        InvalidValueError: there is no such policy.
        NotFoundError: there is no such tenant.
        UnavailableError: PostgreSQL does not answer.
    """
    if placement not in PLACEMENTS:
        raise InvalidValueError(f"A placement is one of: {', '.join(PLACEMENTS)}.", "placement")
    async with borrow(pool) as connection:
        found = await store.set_placement(connection, tenant_id, placement)
    if found is None:
        raise no_such_tenant()
    return found
