"""Months close under the charge's lock; what comes later counts in the next month, and says so."""

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from billing.closing import CLOSE_AFTER, close_ended_months, close_month
from billing.ledger import Ledger
from billing.meters import INTENT_CALLS
from billing.reconcile import reconcile
from billing.usage import usage
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from tests.billing_world import NOON, add_account, audit, charge, lock_tenant, open_ledger

DECEMBER = datetime(2025, 12, 10, tzinfo=UTC)


async def close(pool: Pool, tenant_id: str, period: str = "2025-11", now: datetime = DECEMBER) -> bool:
    async with pool.connection() as connection:
        return await close_month(connection, tenant_id, period, now)


async def calls(pool: Pool, tenant_id: str, period: str) -> int:
    return (await usage(pool, tenant_id, period)).meters[INTENT_CALLS].calls


def lates(database_url: str) -> list[tuple[str, bool]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(
            "SELECT DISTINCT period, is_late FROM billing.usage_row ORDER BY period"
        ).fetchall()


async def test_a_charge_for_a_closed_month_counts_in_the_next_and_is_marked_late(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    early = charge(tenant_id)
    async with open_ledger(database_url) as ledger:
        assert (await ledger.charge(early)).period == "2025-11"
        assert await close(pool, tenant_id)
        assert not await close(pool, tenant_id), "closing again changes nothing"
        assert (await ledger.charge(early)).period == "2025-11", "a repeat stays where it was counted"
        assert (await ledger.charge(charge(tenant_id))).period == "2025-12"
    assert lates(database_url) == [("2025-11", False), ("2025-12", True)]
    assert await calls(pool, tenant_id, "2025-11") == await calls(pool, tenant_id, "2025-12") == 1
    assert audit(database_url) == (2, 2)
    assert (await reconcile(pool)).difference == 0


async def test_a_call_that_is_taken_back_after_its_month_closed_is_taken_off_the_next(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    one = charge(tenant_id)
    async with open_ledger(database_url) as ledger:
        await ledger.charge(one)
        await close(pool, tenant_id)
        await ledger.void(one)
    assert await calls(pool, tenant_id, "2025-11") == 1
    assert await calls(pool, tenant_id, "2025-12") == -1
    assert audit(database_url) == (0, 0)
    assert (await reconcile(pool)).difference == 0


async def test_a_month_closes_only_when_it_is_over_and_after_those_before_it(pool: Pool) -> None:
    tenant_id = await add_account(pool)
    with pytest.raises(InvalidValueError, match="not over"):
        await close(pool, tenant_id, now=NOON)
    with pytest.raises(InvalidValueError, match="earlier"):
        await close(pool, tenant_id, "2025-12", datetime(2026, 1, 5, tzinfo=UTC))
    with pytest.raises(NotFoundError):
        await close(pool, tenant_id, "2031-01")


async def test_charges_race_with_the_closing_and_each_is_counted_on_one_side(
    database_url: str, pool: Pool
) -> None:
    tenant_ids = [await add_account(pool) for _ in range(3)]
    periods: list[str] = []

    async def call(ledger: Ledger, number: int) -> None:
        for _ in range(40):
            charged = await ledger.charge(charge(tenant_ids[number % 3]))
            periods.append(charged.period)

    async with open_ledger(database_url) as first, open_ledger(database_url) as second:
        callers = [asyncio.create_task(call((first, second)[n % 2], n)) for n in range(24)]
        while len(periods) < 200:
            await asyncio.sleep(0.002)
        for tenant_id in tenant_ids:
            assert await close(pool, tenant_id)
        await asyncio.gather(*callers)
    november = sum([await calls(pool, tenant_id, "2025-11") for tenant_id in tenant_ids])
    assert november == periods.count("2025-11") >= 200
    assert len(periods) == 960 > november
    assert audit(database_url) == (960, 960)


async def test_months_close_an_hour_after_their_end_on_each_tenants_clock(pool: Pool) -> None:
    """Kathmandu is 5:45 ahead of UTC, Sydney 11:00 in summer, New York 4:00 behind until 2 November."""
    clocks = {
        "Asia/Kathmandu": datetime(2025, 11, 30, 18, 15, tzinfo=UTC),
        "Australia/Sydney": datetime(2025, 11, 30, 13, 0, tzinfo=UTC),
        "America/New_York": datetime(2025, 12, 1, 5, 0, tzinfo=UTC),
    }
    for zone in clocks:
        await add_account(pool, zone)
    closed = 0
    for ends_at in sorted(clocks.values()):
        just_before = ends_at + CLOSE_AFTER - timedelta(microseconds=1)
        assert await close_ended_months(pool, just_before) == 0
        assert await close_ended_months(pool, ends_at + CLOSE_AFTER) == 1
        closed += 1
    assert closed == 3


async def test_a_year_ends_and_a_late_call_finds_january(database_url: str, pool: Pool) -> None:
    new_year = datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)
    tenant_id = await add_account(pool, "UTC", new_year)
    late = charge(tenant_id, at=new_year)
    assert await close_ended_months(pool, new_year + timedelta(hours=2)) == 1
    async with open_ledger(database_url) as ledger:
        assert (await ledger.charge(late)).period == "2026-01"
    assert lates(database_url) == [("2026-01", True)]


async def test_closing_waits_for_charges_and_gives_up_on_a_tenant_that_stays_locked(
    database_url: str, pool: Pool
) -> None:
    locked, free = await add_account(pool), await add_account(pool)
    with psycopg.connect(database_url) as holder:
        lock_tenant(holder, locked)
        assert await close_ended_months(pool, DECEMBER) == 1
    assert await close_ended_months(pool, DECEMBER) == 1
    async with pool.connection() as connection:
        rows = await connection.execute("SELECT tenant_id FROM billing.period WHERE closed_at IS NOT NULL")
        assert {row[0] for row in await rows.fetchall()} == {locked, free}
