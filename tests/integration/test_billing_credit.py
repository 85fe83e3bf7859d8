"""Prepaid credit is never overdrawn, over any number of workers and months."""

import asyncio
from datetime import UTC, datetime

import pytest

from billing.charges import CapReachedError
from billing.closing import close_month
from billing.credit import credit, grant_credit
from billing.ledger import Ledger
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS
from billing.store.charges import CHARGED, OVER_CAP
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from tests.billing_world import NOON, add_account, audit, charge, open_ledger, write

A_CALL = 400_000  # nanos, of the plan `standard`
DECEMBER = datetime(2025, 12, 10, tzinfo=UTC)


async def left(pool: Pool, tenant_id: str) -> int:
    found = await credit(pool, tenant_id)
    assert found is not None
    return found.left_nanos


async def hammer(ledgers: list[Ledger], tenant_id: str, calls: int, *moments: datetime) -> int:
    """How many of so many calls at once are charged."""

    async def call(number: int) -> bool:
        one = charge(tenant_id, at=moments[number % len(moments)])
        try:
            await ledgers[number % len(ledgers)].charge(one)
        except CapReachedError as error:
            assert error.cap == "tenant credit"
            return False
        return True

    return sum(await asyncio.gather(*(call(number) for number in range(calls))))


async def test_credit_lets_exactly_its_calls_through_and_more_of_it_lets_more(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    assert await credit(pool, tenant_id) is None
    async with open_ledger(database_url) as first, open_ledger(database_url) as second:
        await first.charge(charge(tenant_id, units=1000))  # before it is prepaid: not paid from the credit
        assert (await grant_credit(pool, tenant_id, 20 * A_CALL + 1, "paid")).left_nanos == 20 * A_CALL + 1
        assert await hammer([first, second], tenant_id, 64, NOON) == 20
        assert await left(pool, tenant_id) == 1
        await grant_credit(pool, tenant_id, 5 * A_CALL)
        assert await hammer([first, second], tenant_id, 64, NOON) == 5
    assert await left(pool, tenant_id) == 1
    assert audit(database_url) == (26, 1025)


async def test_two_open_months_share_one_credit(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool)
    await grant_credit(pool, tenant_id, 30 * A_CALL)
    async with open_ledger(database_url) as first, open_ledger(database_url) as second:
        assert await hammer([first, second], tenant_id, 120, NOON, DECEMBER) == 30
    assert await left(pool, tenant_id) == 0


async def test_two_open_months_share_one_credit_in_one_batch_too(pool: Pool) -> None:
    tenant_id = await add_account(pool)
    await grant_credit(pool, tenant_id, 3 * A_CALL)
    batch = [charge(tenant_id, at=at) for at in (NOON, DECEMBER) * 4]
    async with pool.connection() as connection:
        outcomes = [one.outcome for one in await write(connection, batch)]
        assert sorted(outcomes) == [CHARGED] * 3 + [OVER_CAP] * 5
        await grant_credit(pool, tenant_id, 8 * A_CALL)
        batch = [charge(tenant_id, at=at) for at in (NOON, DECEMBER) * 4]
        assert {one.outcome for one in await write(connection, batch)} == {CHARGED}
    assert await left(pool, tenant_id) == 0


async def test_a_month_that_closes_stays_paid_and_a_call_taken_back_is_credit_again(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    await grant_credit(pool, tenant_id, 10 * A_CALL)
    async with open_ledger(database_url) as ledger:
        assert await hammer([ledger], tenant_id, 4, NOON) == 4
        async with pool.connection() as connection:
            await close_month(connection, tenant_id, "2025-11", DECEMBER)
        assert await left(pool, tenant_id) == 6 * A_CALL
        assert await hammer([ledger], tenant_id, 20, NOON, DECEMBER) == 6
        assert await left(pool, tenant_id) == 0
        one = charge(tenant_id, at=DECEMBER)
        with pytest.raises(CapReachedError):
            await ledger.charge(one)
        await grant_credit(pool, tenant_id, A_CALL)
        await ledger.charge(one)
        await ledger.void(one)
        assert await left(pool, tenant_id) == A_CALL


async def test_fractions_of_a_nano_cannot_overdraw_it(database_url: str, pool: Pool) -> None:
    """A millisecond costs 71 and two thirds of a nano."""
    tenant_id = await add_account(pool)
    await grant_credit(pool, tenant_id, 143)
    async with open_ledger(database_url) as ledger:
        await ledger.charge(charge(tenant_id, ASR_AUDIO_MS, 1))
        assert await left(pool, tenant_id) == 71
        with pytest.raises(CapReachedError):
            await ledger.charge(charge(tenant_id, ASR_AUDIO_MS, 1))


async def test_a_worker_refuses_before_the_work_when_the_credit_is_used_up(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool, now=datetime.now(UTC))
    await grant_credit(pool, tenant_id, A_CALL - 1)
    async with open_ledger(database_url) as ledger:

        async def work_on() -> None:
            while True:
                with ledger.hold(tenant_id, "key_1", INTENT_CALLS):
                    await asyncio.sleep(0.05)

        with pytest.raises(CapReachedError, match="prepaid credit"):
            await asyncio.wait_for(work_on(), 5)


async def test_what_is_no_credit_is_refused(pool: Pool) -> None:
    tenant_id = await add_account(pool)
    for nanos in (0, -1, 2**63):
        with pytest.raises(InvalidValueError):
            await grant_credit(pool, tenant_id, nanos)
    with pytest.raises(NotFoundError):
        await grant_credit(pool, "ten_nobody", 1)
    await grant_credit(pool, tenant_id, 2**63 - 1)
    with pytest.raises(InvalidValueError):
        await grant_credit(pool, tenant_id, 1)
    assert await left(pool, tenant_id) == 2**63 - 1
