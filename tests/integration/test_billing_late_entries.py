"""What comes after its month closed, a charge or a void, counts in the next open month and says so."""

from datetime import UTC, datetime

import psycopg
import pytest

from billing.caps import set_caps
from billing.charges import CapReachedError, Charge
from billing.dead_sessions import void_if_dead
from billing.meters import INTENT_CALLS
from billing.reconcile import reconcile
from infra.database import Pool, connect
from tests.billing_sessions import in_flight, kill, query
from tests.billing_world import add_account, audit, charge, lock_tenant, open_ledger, until

NOVEMBER, DECEMBER = "2025-11", "2025-12"


def months(database_url: str, call: Charge) -> list[tuple[str, bool]]:
    """The month that each of a call's entries counts in, and whether it is late."""
    return query(
        database_url,
        "SELECT period, is_late FROM billing.usage_row WHERE call_id = %s ORDER BY slice, entry",
        call.call_id,
    )


def close_month(database_url: str, tenant_id: str, *periods: str) -> None:
    """Close months as `billing.closing` does, before they are over."""
    with psycopg.connect(database_url) as connection:
        lock_tenant(connection, tenant_id)
        connection.execute(
            "UPDATE billing.period SET closed_at = now() WHERE tenant_id = %s AND period = ANY(%s)",
            [tenant_id, list(periods)],
        )


@pytest.mark.parametrize("closed", [(NOVEMBER,), (NOVEMBER, DECEMBER)])
async def test_a_void_into_a_closed_month_counts_in_the_open_one_and_is_late(
    database_url: str, pool: Pool, closed: tuple[str, ...]
) -> None:
    """Also where the open month has to be made first."""
    first, second = await add_account(pool), await add_account(pool)
    own, kept, dead = (charge(first, units=10), charge(first, units=40), charge(second, units=20))
    async with open_ledger(database_url) as ledger, open_ledger(database_url) as doomed:
        await ledger.charge(own)
        await ledger.charge(kept)
        await doomed.charge(dead)
        for tenant_id in (first, second):
            close_month(database_url, tenant_id, *closed)
        await ledger.void(own)
        await kill(doomed, database_url)
        async with await connect(database_url, "test") as connection:
            voided = [await void_if_dead(connection, doomed.session_id, 0.0) for _ in range(3)]
        assert sum(voided) == 1
        ledger.answered(kept.call_id)
        await until(lambda: in_flight(database_url) == [])
    into = DECEMBER if closed == (NOVEMBER,) else datetime.now(UTC).strftime("%Y-%m")
    for one in (own, dead):
        assert months(database_url, one) == [(NOVEMBER, False), (into, True)]
    assert audit(database_url) == (1, 40)


async def test_a_charge_for_a_closed_month_counts_in_the_next_open_one_and_is_late(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    early, late, again = charge(tenant_id), charge(tenant_id), charge(tenant_id)
    async with open_ledger(database_url) as ledger:
        await ledger.charge(early)
        close_month(database_url, tenant_id, NOVEMBER)
        assert (await ledger.charge(late)).period == DECEMBER
        assert (await ledger.charge(early)).period == NOVEMBER
        close_month(database_url, tenant_id, DECEMBER)
        assert (await ledger.charge(again)).period == datetime.now(UTC).strftime("%Y-%m")
        assert (await ledger.charge(late)).is_repeat
    assert [months(database_url, one)[0][1] for one in (early, late, again)] == [False, True, True]
    assert audit(database_url) == (3, 3)


async def test_a_late_charge_of_a_capped_key_counts_in_a_month_that_is_neither_its_own_nor_the_present(
    database_url: str, pool: Pool
) -> None:
    """The key's counters of that month are made for it: the cap was set when it was over."""
    tenant_id = await add_account(pool)
    late, beyond = charge(tenant_id), charge(tenant_id)
    await set_caps(pool, tenant_id, {INTENT_CALLS: 1}, late.key_id)
    async with open_ledger(database_url) as ledger:
        close_month(database_url, tenant_id, NOVEMBER)
        assert (await ledger.charge(late)).period == DECEMBER
        with pytest.raises(CapReachedError):
            await ledger.charge(beyond)
    assert months(database_url, late) == [(DECEMBER, True)]
    assert (await reconcile(pool)).difference == 0
