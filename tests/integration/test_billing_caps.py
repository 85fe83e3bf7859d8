"""Promise 3: a hard cap is never overrun, by one unit, at any concurrency over any number of ledgers."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from fractions import Fraction

import msgspec
import psycopg
import pytest

from billing.caps import Cap, caps, change_caps, set_caps
from billing.charges import CapReachedError, Charge
from billing.ledger import Ledger
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS, METERS, MONEY, TTS_CHARACTERS
from billing.store import charges as store
from billing.store.accounts import open_key_counters
from billing.store.prices import read_price_versions
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from tests.billing_world import NOON, add_account, add_tenant, audit, charge, open_ledger, write

INTENT_NANOS = (400_000, 320_000)  # plan `standard`: up to 100,000 calls, and beyond
INTENT_EDGE = 100_000


async def open_ledgers(stack: AsyncExitStack, database_url: str, count: int = 4) -> list[Ledger]:
    """Lock time-outs longer than it takes the server to see a deadlock: they could hide one."""
    opened = [open_ledger(database_url, lock_timeout_ms=5000) for _ in range(count)]
    return [await stack.enter_async_context(ledger) for ledger in opened]


def deadlocks(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


def units_charged(database_url: str, tenant_id: str, meter: str = INTENT_CALLS) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT coalesce(sum(units), 0) FROM billing.usage_row WHERE tenant_id = %s AND meter = %s",
            [tenant_id, meter],
        ).fetchone()
    assert row is not None
    return int(row[0])


async def spent(pool: Pool, tenant_id: str) -> Fraction:
    """The month's nanos at the plan's prices, from the usage rows, by the code that rates invoices."""
    async with pool.connection() as connection:
        version = (await read_price_versions(connection, ["standard-usd-1"]))["standard-usd-1"]
        cursor = await connection.execute(
            "SELECT meter, sum(units)::bigint FROM billing.usage_row WHERE tenant_id = %s GROUP BY meter",
            [tenant_id],
        )
        used = await cursor.fetchall()
    return sum((version.prices[meter].rate(units) for meter, units in used), Fraction(0))


async def hammer(ledgers: list[Ledger], tenant_id: str, calls_each: int) -> Counter[str]:
    """64 callers over the ledgers, each with calls one after the other; what became of them."""
    seen: Counter[str] = Counter()

    async def caller(number: int) -> None:
        for _ in range(calls_each):
            try:
                await ledgers[number % len(ledgers)].charge(charge(tenant_id))
                seen["charged"] += 1
            except CapReachedError as error:
                seen[error.cap] += 1

    await asyncio.gather(*(caller(number) for number in range(64)))
    return seen


async def others_go_on(ledgers: list[Ledger], tenants: list[str]) -> int:
    charges = [charge(tenants[n % len(tenants)], METERS[n % 3].meter, n) for n in range(1200)]
    await asyncio.gather(*(ledgers[n % len(ledgers)].charge(one) for n, one in enumerate(charges)))
    return len(charges)


@pytest.mark.parametrize("allowed", [1, 137, 500])
async def test_a_cap_in_units_allows_exactly_its_calls_over_four_ledgers_while_other_tenants_go_on(
    database_url: str, pool: Pool, allowed: int
) -> None:
    tenant_id, others = await add_account(pool), [await add_account(pool) for _ in range(5)]
    await set_caps(pool, others[0], {MONEY: 10**15})
    await set_caps(pool, tenant_id, {INTENT_CALLS: allowed})
    async with AsyncExitStack() as stack:
        ledgers = await open_ledgers(stack, database_url)
        seen, _ = await asyncio.gather(hammer(ledgers, tenant_id, 15), others_go_on(ledgers, others))
    assert seen == {"charged": allowed, f"tenant {INTENT_CALLS}": 64 * 15 - allowed}
    assert units_charged(database_url, tenant_id) == allowed
    assert audit(database_url)[0] == allowed + 1200
    assert deadlocks(database_url) == 0


async def test_a_cap_in_money_allows_exactly_its_calls_across_a_tiers_edge(
    database_url: str, pool: Pool
) -> None:
    """100 calls at the first tier's price, then 211 at the second's, and change that buys none."""
    tenant_id, others = await add_account(pool), [await add_account(pool) for _ in range(5)]
    used = charge(tenant_id, units=INTENT_EDGE - 100)
    audio = charge(tenant_id, ASR_AUDIO_MS, 1)
    async with AsyncExitStack() as stack:
        ledgers = await open_ledgers(stack, database_url)
        await ledgers[0].charge(used)
        await ledgers[1].charge(audio)  # a 60,000th of 4,300,000 nanos: the cap is compared to the fraction
        before = await spent(pool, tenant_id)
        allowed = 311
        cap = int(before) + 100 * INTENT_NANOS[0] + 211 * INTENT_NANOS[1] + INTENT_NANOS[1] - 1
        await set_caps(pool, tenant_id, {MONEY: cap})
        seen, _ = await asyncio.gather(hammer(ledgers, tenant_id, 12), others_go_on(ledgers, others))
    assert seen == {"charged": allowed, f"tenant {MONEY}": 64 * 12 - allowed}
    assert await spent(pool, tenant_id) <= cap
    assert deadlocks(database_url) == 0


async def test_a_cap_in_money_holds_over_meters_charged_at_once_by_different_ledgers(
    database_url: str, pool: Pool
) -> None:
    """Each ledger has a meter of its own: only the locks of all meters keep their sum under the cap."""
    tenant_id = await add_account(pool)
    cap = 90_000_000
    await set_caps(pool, tenant_id, {MONEY: cap})
    uses = [(INTENT_CALLS, 1), (ASR_AUDIO_MS, 5581), (TTS_CHARACTERS, 27)]  # 400,000 nanos each, about
    async with AsyncExitStack() as stack:
        ledgers = await open_ledgers(stack, database_url, 3)

        async def caller(number: int) -> int:
            meter, units = uses[number % 3]
            refused = 0
            for _ in range(10):
                try:
                    await ledgers[number % 3].charge(charge(tenant_id, meter, units))
                except CapReachedError:
                    refused += 1
            return refused

        refused = sum(await asyncio.gather(*(caller(number) for number in range(63))))
    assert cap - 410_000 < await spent(pool, tenant_id) <= cap
    assert 400 <= refused < 410
    assert deadlocks(database_url) == 0


async def test_a_fraction_of_a_nano_over_a_cap_in_money_is_refused(database_url: str, pool: Pool) -> None:
    """1 ms of audio is 71 2/3 nanos: 3 ms are 215, and 216 leave no room for a fourth, nor do 286."""
    for cap, fits in ((214, 2), (215, 3), (216, 3), (286, 3), (287, 4)):
        tenant_id = await add_account(pool)
        await set_caps(pool, tenant_id, {MONEY: cap})
        async with open_ledger(database_url) as ledger:
            answers = await asyncio.gather(
                *(ledger.charge(charge(tenant_id, ASR_AUDIO_MS, 1)) for _ in range(6)), return_exceptions=True
            )
        assert [isinstance(one, CapReachedError) for one in answers] == [False] * fits + [True] * (6 - fits)


async def test_a_smaller_call_fits_where_a_larger_one_before_it_did_not(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    await set_caps(pool, tenant_id, {TTS_CHARACTERS: 100})
    async with open_ledger(database_url) as ledger:
        sent = [charge(tenant_id, TTS_CHARACTERS, units) for units in (60, 50, 30, 20, 10, 0, 1)]
        answers = await asyncio.gather(*(ledger.charge(one) for one in sent), return_exceptions=True)
    refused = [isinstance(one, CapReachedError) for one in answers]
    assert refused == [False, True, False, True, False, False, True]
    assert units_charged(database_url, tenant_id, TTS_CHARACTERS) == 100


async def test_a_call_charged_before_is_answered_as_charged_when_the_cap_is_reached(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    await set_caps(pool, tenant_id, {INTENT_CALLS: 1, MONEY: 400_000})
    one = charge(tenant_id)
    async with open_ledger(database_url) as ledger:
        await ledger.charge(one)
        with pytest.raises(CapReachedError):
            await ledger.charge(charge(tenant_id))
        assert (await ledger.charge(one)).is_repeat
        await set_caps(pool, tenant_id, {INTENT_CALLS: 0, MONEY: 0})
        assert (await ledger.charge(one)).is_repeat
    assert audit(database_url) == (1, 1)


async def test_a_cap_lowered_below_the_usage_refuses_at_once_and_one_raised_or_taken_away_admits(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    async with open_ledger(database_url) as ledger:
        for _ in range(5):
            await ledger.charge(charge(tenant_id))
        await set_caps(pool, tenant_id, {INTENT_CALLS: 3})
        with pytest.raises(CapReachedError):
            await ledger.charge(charge(tenant_id))
        await ledger.charge(charge(tenant_id, TTS_CHARACTERS, 7))
        await set_caps(pool, tenant_id, {INTENT_CALLS: 6})
        await ledger.charge(charge(tenant_id))
        with pytest.raises(CapReachedError):
            await ledger.charge(charge(tenant_id))
        await set_caps(pool, tenant_id, {INTENT_CALLS: None})
        await ledger.charge(charge(tenant_id))
    assert await caps(pool, tenant_id) == []


async def test_caps_set_while_calls_run_hold_from_then_on(database_url: str, pool: Pool) -> None:
    """First caps and later ones, of a tenant without one: each leaves what it found, and not a unit more."""
    tenants = [await add_account(pool) for _ in range(3)]
    async with AsyncExitStack() as stack:
        ledgers = await open_ledgers(stack, database_url)

        async def cap(tenant_id: str) -> None:
            for room in (40, 0, 25):
                async with pool.connection() as connection:
                    row = await (
                        await connection.execute(
                            "SELECT sum(units)::bigint FROM billing.period_counter WHERE tenant_id = %s",
                            [tenant_id],
                        )
                    ).fetchone()
                assert row is not None
                await set_caps(pool, tenant_id, {INTENT_CALLS: row[0] + room, MONEY: 10**15})
                at_most = max(units_charged(database_url, tenant_id), row[0] + room)
                await asyncio.gather(*(hammer(ledgers, tenant_id, 1) for _ in range(2)))
                assert units_charged(database_url, tenant_id) == at_most
                await set_caps(pool, tenant_id, {INTENT_CALLS: None, MONEY: None})

        await asyncio.gather(*(cap(one) for one in tenants), *(hammer(ledgers, one, 0) for one in tenants))
    audit(database_url)
    assert deadlocks(database_url) == 0


async def test_the_first_cap_is_kept_by_calls_that_were_waiting_while_it_was_set(
    database_url: str, pool: Pool
) -> None:
    """Batches that found no cap, and locked one meter alone, wait for the cap's transaction and obey it."""
    dice = [charge_meter.meter for charge_meter in METERS]
    tenant_id = await add_account(pool)
    async with AsyncExitStack() as stack:
        ledgers = await open_ledgers(stack, database_url)
        sent = [charge(tenant_id, dice[n % 3], 1) for n in range(2000)]
        running = [asyncio.create_task(ledgers[n % 4].charge(one)) for n, one in enumerate(sent)]
        await set_caps(pool, tenant_id, {MONEY: 0})
        before = len(sent) - len([one for one in running if not one.done()])
        after_set = [asyncio.create_task(ledgers[n % 4].charge(charge(tenant_id))) for n in range(64)]
        refused = await asyncio.gather(*after_set, return_exceptions=True)
        answers = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(one, CapReachedError) for one in refused)
    assert {type(one) for one in answers if isinstance(one, BaseException)} <= {CapReachedError}
    assert before <= sum(not isinstance(one, BaseException) for one in answers)
    assert deadlocks(database_url) == 0


def of_key(one: Charge, key_id: str) -> Charge:
    return msgspec.structs.replace(one, key_id=key_id)


async def test_a_keys_cap_counts_its_own_calls_at_the_tenants_price(database_url: str, pool: Pool) -> None:
    """The other key's calls bring the month to the tier's edge: the capped key pays less from there on."""
    tenant_id = await add_account(pool)
    async with AsyncExitStack() as stack:
        ledgers = await open_ledgers(stack, database_url)
        await ledgers[0].charge(of_key(charge(tenant_id, units=1), "key_capped"))
        await set_caps(pool, tenant_id, {MONEY: 2 * INTENT_NANOS[0] + 150 * INTENT_NANOS[1]}, "key_capped")
        await ledgers[0].charge(of_key(charge(tenant_id, units=INTENT_EDGE - 2), "key_free"))
        sent = [of_key(charge(tenant_id), "key_capped") for _ in range(400)]
        answers = await asyncio.gather(
            *(ledgers[n % 4].charge(one) for n, one in enumerate(sent)), return_exceptions=True
        )
        await ledgers[0].charge(of_key(charge(tenant_id), "key_free"))
        seen = Counter(one.cap if isinstance(one, CapReachedError) else "charged" for one in answers)
        assert seen == {"charged": 151, "key money": 249}
        await set_caps(pool, tenant_id, {MONEY: None, INTENT_CALLS: 160}, "key_capped")
        sent = [of_key(charge(tenant_id), "key_capped") for _ in range(50)]
        answers = await asyncio.gather(*(ledgers[1].charge(one) for one in sent), return_exceptions=True)
    assert sum(isinstance(one, CapReachedError) for one in answers) == 50 - (160 - 152)
    assert deadlocks(database_url) == 0


async def test_a_keys_cap_holds_in_months_opened_before_and_after_it_was_set(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    months = [datetime(2031, month, 10, tzinfo=UTC) for month in (3, 4)]
    async with open_ledger(database_url) as ledger:
        for at in (NOON, months[0]):
            await ledger.charge(of_key(charge(tenant_id, at=at), "key_capped"))
        await set_caps(pool, tenant_id, {INTENT_CALLS: 3}, "key_capped")
        for at, left in ((NOON, 2), (months[0], 2), (months[1], 3)):
            sent = [of_key(charge(tenant_id, at=at), "key_capped") for _ in range(5)]
            answers = await asyncio.gather(*(ledger.charge(one) for one in sent), return_exceptions=True)
            assert sum(not isinstance(one, BaseException) for one in answers) == left
    audit(database_url)


async def test_caps_are_checked_and_read_back(pool: Pool) -> None:
    tenant_id = await add_account(pool)
    for bad in ({"gpu.hours": 1}, {MONEY: -1}, {INTENT_CALLS: 2**63}):
        with pytest.raises(InvalidValueError):
            await set_caps(pool, tenant_id, bad)
    with pytest.raises(NotFoundError):
        await set_caps(pool, await add_tenant(pool), {MONEY: 1})
    await set_caps(pool, tenant_id, {INTENT_CALLS: 5, MONEY: 7})
    await set_caps(pool, tenant_id, {MONEY: 8}, "key_1")
    assert await caps(pool, tenant_id) == [
        Cap(None, MONEY, 7),
        Cap(None, INTENT_CALLS, 5),
        Cap("key_1", MONEY, 8),
    ]


async def wait_for_locks(pool: Pool, application_name: str, count: int) -> None:
    """Until so many connections of that name wait for a lock."""
    deadline = asyncio.get_running_loop().time() + 4
    while True:
        async with pool.connection() as connection:
            row = await (
                await connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND application_name = %s AND wait_event_type = 'Lock'",
                    [application_name],
                )
            ).fetchone()
        if row == (count,):
            return
        assert asyncio.get_running_loop().time() < deadline, "nobody waits for the lock"
        await asyncio.sleep(0.01)


async def test_a_first_cap_binds_batches_that_were_sent_before_it_was_there(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    async with AsyncExitStack() as stack:
        ledgers = await open_ledgers(stack, database_url, 3)
        async with pool.connection() as connection, connection.transaction():
            await change_caps(connection, tenant_id, {MONEY: 0})
            waiting = [
                asyncio.create_task(ledgers[n].charge(charge(tenant_id, METERS[n].meter, 1)))
                for n in range(3)
            ]
            await wait_for_locks(pool, "aiaas-ledger", 3)
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in answers] == [CapReachedError] * 3
    assert await spent(pool, tenant_id) == 0


async def test_a_cap_is_not_set_past_a_charge_that_is_under_way(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool)
    async with pool.connection() as connection:
        async with connection.transaction():
            await write(connection, [charge(tenant_id)])
            setting = asyncio.create_task(set_caps(pool, tenant_id, {INTENT_CALLS: 0}))
            await wait_for_locks(pool, "aiaas-test", 1)
            assert not setting.done()
        await setting
        (after,) = await write(connection, [charge(tenant_id)])
    assert after.outcome == store.OVER_CAP


async def test_a_keys_counters_are_not_added_up_while_a_charge_or_a_void_is_under_way(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    one = charge(tenant_id, units=7)
    async with pool.connection() as connection:
        await write(connection, [one])
        await set_caps(pool, tenant_id, {INTENT_CALLS: 10}, one.key_id)  # that month is over: no counters yet
        await connection.execute("SET lock_timeout = '100ms'")
        with psycopg.connect(database_url) as holder:
            holder.execute("SELECT FROM billing.account WHERE tenant_id = %s FOR NO KEY UPDATE", [tenant_id])
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await open_key_counters(connection, [(tenant_id, "2025-11")])
        await open_key_counters(connection, [(tenant_id, "2025-11")])
        rows = await connection.execute("SELECT sum(units)::bigint FROM billing.key_counter")
        assert await rows.fetchone() == (7,)
