"""Tenants for tests."""

from infra.database import Pool
from tenants.records import Tenant
from tenants.tenants import operator_create_tenant


async def make_tenant(pool: Pool, name: str) -> Tenant:
    async with pool.connection() as connection:
        return await operator_create_tenant(connection, name)
