"""Refused calls are counted by tenant, month and code, for those who review invoices."""

import psycopg
import pytest

from billing.refusals import Refusals
from infra.database import Pool
from infra.errors import UnavailableError
from tests.billing_world import add_account, add_tenant


def counted(database_url: str) -> list[tuple[str, str, int]]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT tenant_id, code, calls FROM billing.refusal_counter WHERE period = "
            "to_char(now() AT TIME ZONE 'Asia/Taipei', 'YYYY-MM') ORDER BY tenant_id, code"
        ).fetchall()
    return [(str(tenant_id), str(code), int(calls)) for tenant_id, code, calls in rows]


async def test_workers_add_what_they_counted_to_the_tenants_month(database_url: str, pool: Pool) -> None:
    tenant_id, without_account = await add_account(pool), await add_tenant(pool)
    for worker in (Refusals(pool), Refusals(pool)):
        for code in ("insufficient_quota", "overloaded", "insufficient_quota"):
            worker.note(tenant_id, code)
        worker.note(without_account, "overloaded")
        await worker.flush()
        await worker.flush()
        await worker.close()
    assert counted(database_url) == [(tenant_id, "insufficient_quota", 4), (tenant_id, "overloaded", 2)]


async def test_counts_are_bounded_and_kept_while_postgresql_is_away(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool)
    worker = Refusals(pool, max_counters=1)
    worker.note(tenant_id, "overloaded")
    worker.note(tenant_id, "insufficient_quota")
    worker.note(tenant_id, "overloaded")
    assert worker._calls == {(tenant_id, "overloaded"): 2}
    await pool.close()
    with pytest.raises(UnavailableError):
        await worker.flush()
    assert worker._calls == {(tenant_id, "overloaded"): 2}
