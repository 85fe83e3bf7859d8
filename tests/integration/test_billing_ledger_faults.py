"""What goes wrong stays with whom it concerns, and no charge is lost or counted twice by it."""

import asyncio
import time

import msgspec
import psycopg
from psycopg import sql

from billing.charges import ChargeRejectedError, LedgerUnavailableError
from billing.ledger import Ledger
from billing.meters import INTENT_CALLS
from infra.database import Pool
from tests.billing_world import add_account, audit, charge, lock_tenant, open_ledger, until


def kill_ledgers(database_url: str) -> int:
    with psycopg.connect(database_url, autocommit=True) as admin:
        killed = admin.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'aiaas-ledger%'"
        ).fetchone()
    assert killed is not None
    return int(killed[0])


async def test_a_row_that_the_database_refuses_fails_alone(database_url: str, pool: Pool) -> None:
    tenants = [await add_account(pool) for _ in range(4)]
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("ALTER TABLE billing.usage_row ADD CHECK (units <> 13)")
    charges = [charge(tenants[n % 4], units=13 if n == 57 else 1) for n in range(100)]
    async with open_ledger(database_url) as ledger:
        answers = await asyncio.gather(*(ledger.charge(one) for one in charges), return_exceptions=True)
    refused = {n: type(answer) for n, answer in enumerate(answers) if isinstance(answer, Exception)}
    assert refused == {57: ChargeRejectedError}
    assert audit(database_url) == (99, 99)


async def test_a_value_that_cannot_even_be_sent_fails_alone(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool)
    charges = [charge(tenant_id) for _ in range(20)]
    for text in ("\x00", "\ud800"):
        charges[3] = msgspec.structs.replace(charges[3], model=text)
        async with open_ledger(database_url) as ledger:
            answers = await asyncio.gather(*(ledger.charge(one) for one in charges), return_exceptions=True)
        assert [n for n, answer in enumerate(answers) if isinstance(answer, ChargeRejectedError)] == [3]
    assert audit(database_url) == (19, 19)


async def test_a_locked_tenant_stalls_no_other_and_is_charged_when_released(
    database_url: str, pool: Pool
) -> None:
    locked, *others = [await add_account(pool) for _ in range(5)]
    lock_timeout_s = 1.0
    async with open_ledger(database_url, lock_timeout_ms=int(1000 * lock_timeout_s)) as ledger:
        with psycopg.connect(database_url) as holder:
            lock_tenant(holder, locked)
            waiting = [asyncio.create_task(ledger.charge(charge(locked))) for _ in range(30)]
            began = time.monotonic()
            await asyncio.gather(*(ledger.charge(charge(other)) for other in others for _ in range(20)))
            assert time.monotonic() - began < 3 * lock_timeout_s, "two lock timeouts and a few commits"
            waiting += [asyncio.create_task(ledger.charge(charge(locked))) for _ in range(30)]
            slowest = await _slowest(ledger, others, rounds=30)
            assert slowest < lock_timeout_s, "once set aside, it costs the others nothing"
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)
        assert (await ledger.charge(charge(locked))).units_before == 60
    assert audit(database_url) == (80 + 120 + 61, 80 + 120 + 61)


async def _slowest(ledger: Ledger, tenants: list[str], rounds: int) -> float:
    """The longest that a charge took, in seconds."""
    slowest = 0.0
    for _ in range(rounds):
        began = time.monotonic()
        await asyncio.gather(*(ledger.charge(charge(tenant_id)) for tenant_id in tenants))
        slowest = max(slowest, time.monotonic() - began)
    return slowest


async def test_a_tenant_locked_for_too_long_is_answered_unavailable_and_not_charged(
    database_url: str, pool: Pool
) -> None:
    locked = await add_account(pool)
    async with open_ledger(database_url, charge_timeout_s=0.5, lock_timeout_ms=50) as ledger:
        with psycopg.connect(database_url) as holder:
            lock_tenant(holder, locked)
            answers = await asyncio.gather(
                *(ledger.charge(charge(locked)) for _ in range(10)), return_exceptions=True
            )
            assert {type(answer) for answer in answers} == {LedgerUnavailableError}
            await until(lambda: ledger.depth() == 0)
        assert (await ledger.charge(charge(locked))).units_before == 0
    assert audit(database_url) == (1, 1)


async def test_killed_connections_lose_nothing_and_count_nothing_twice(database_url: str, pool: Pool) -> None:
    tenants = [await add_account(pool) for _ in range(6)]
    answered = 0

    async def caller(ledger: Ledger, number: int) -> None:
        nonlocal answered
        for _ in range(60):
            await ledger.charge(charge(tenants[number % 6]))
            answered += 1

    async with open_ledger(database_url) as first, open_ledger(database_url) as second:
        callers = [asyncio.create_task(caller((first, second)[n % 2], n)) for n in range(40)]
        killed = 0
        for mark in range(200, 2400, 400):
            await until(lambda mark=mark: answered >= mark)
            killed += kill_ledgers(database_url)
        await asyncio.gather(*callers)
    assert killed >= 8
    assert audit(database_url) == (2400, 2400)


async def test_a_server_that_stays_away_is_answered_unavailable_in_time_and_found_again(
    database_url: str, pool: Pool
) -> None:
    """A database that allows no connections refuses them as a server does that is not there."""
    tenant_id = await add_account(pool)
    name = database_url.rsplit("/", 1)[1]
    async with open_ledger(database_url, charge_timeout_s=0.6) as ledger:
        await ledger.charge(charge(tenant_id))
        await pool.close()
        allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        with psycopg.connect(database_url.rsplit("/", 1)[0] + "/postgres", autocommit=True) as admin:
            admin.execute(allow.format(sql.Identifier(name), False))
            admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name]
            )
            began = time.monotonic()
            answers = await asyncio.gather(
                *(ledger.charge(charge(tenant_id)) for _ in range(5)), return_exceptions=True
            )
            assert {type(answer) for answer in answers} == {LedgerUnavailableError}
            assert time.monotonic() - began < 1.5
            admin.execute(allow.format(sql.Identifier(name), True))
        assert (await ledger.charge(charge(tenant_id))).units_before == 1
    assert audit(database_url) == (2, 2)


async def test_callers_that_went_away_do_not_break_the_pump(database_url: str, pool: Pool) -> None:
    tenants = [await add_account(pool) for _ in range(3)]
    async with open_ledger(database_url) as ledger:
        tasks = [asyncio.create_task(ledger.charge(charge(tenants[n % 3]))) for n in range(900)]
        for number, task in enumerate(tasks):
            if number % 3 == 0:
                task.cancel()
            if number % 50 == 0:
                await asyncio.sleep(0.001)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        charged = sum(not isinstance(answer, BaseException) for answer in answers)
        assert charged >= 600
        await ledger.charge(charge(tenants[0], INTENT_CALLS))
        await until(lambda: ledger.depth() == 0)
    calls, units = audit(database_url)
    assert charged + 1 <= calls == units <= 901
