"""What a worker had not answered when it died is taken back once, unless another one took it over."""

import asyncio

import msgspec
import psycopg
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from billing.dead_sessions import void_if_dead
from billing.ledger import Ledger
from billing.meters import ASR_AUDIO_MS
from billing.reconcile import reconcile
from infra.database import Pool, connect
from infra.telemetry import Telemetry
from tests.billing_sessions import (
    end_session,
    entries,
    holders,
    in_flight,
    is_missing,
    kill,
    sessions,
    void_dead,
    waiting_in_the_database,
)
from tests.billing_world import add_account, audit, charge, lock_tenant, open_ledger, until


async def test_the_calls_in_flight_of_a_dead_worker_are_taken_back_once_by_whoever_finds_it(
    database_url: str, pool: Pool
) -> None:
    reader = InMemoryMetricReader()
    telemetry = Telemetry(None, MeterProvider([reader]).get_meter("test"), lambda: None)
    tenants = [await add_account(pool) for _ in range(3)]
    calls = [charge(tenants[n % 3], ASR_AUDIO_MS, 100 + n) for n in range(60)]
    async with open_ledger(database_url) as doomed:
        await asyncio.gather(*(doomed.charge(one) for one in calls))
        for one in calls[:40]:
            doomed.answered(one.call_id)
        unanswered = sorted(one.call_id for one in calls[40:])
        await until(lambda: sorted(in_flight(database_url)) == unanswered)
        await kill(doomed, database_url)
    async with (
        open_ledger(database_url, telemetry=telemetry, grace_s=0.25),
        open_ledger(database_url, telemetry=telemetry, grace_s=0.25),
    ):
        await until(lambda: doomed.session_id not in sessions(database_url))
        assert [len(entries(database_url, one)) for one in calls] == [1] * 40 + [2] * 20
        await until(lambda: _voided(reader) == 20)
    assert audit(database_url) == (40, sum(one.units for one in calls[:40]))
    assert (await reconcile(pool)).difference == 0


def _voided(reader: InMemoryMetricReader) -> int:
    """How many calls of dead workers the metric says were taken back."""
    data = reader.get_metrics_data()
    points = [
        point
        for scope in (data.resource_metrics[0].scope_metrics if data else ())
        for metric in scope.metrics
        if metric.name == "aiaas.voids"
        for point in metric.data.data_points
        if dict(point.attributes or {}) == {"reason": "worker_died"}
    ]
    return sum(int(point.value) for point in points)  # type: ignore[union-attr]


async def test_a_dead_session_is_given_its_time_of_grace(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool)
    one = charge(tenant_id)
    async with open_ledger(database_url) as doomed:
        await doomed.charge(one)
        await kill(doomed, database_url)
    async with await connect(database_url, "test") as connection:
        for _ in range(3):
            assert await void_if_dead(connection, doomed.session_id, 60.0) == 0
        assert entries(database_url, one) == [(0, 1, 1)]
        assert await void_if_dead(connection, doomed.session_id, 0.0) == 1
        assert await void_if_dead(connection, doomed.session_id, 0.0) == 0
    assert audit(database_url) == (0, 0)


async def test_a_live_session_is_never_taken_for_dead(database_url: str, pool: Pool) -> None:
    one = charge(await add_account(pool))
    async with open_ledger(database_url) as worker, await connect(database_url, "test") as connection:
        await worker.charge(one)
        for _ in range(3):
            assert await void_if_dead(connection, worker.session_id, 0.0) == 0
        assert not is_missing(database_url, worker.session_id)
    assert entries(database_url, one) == [(0, 1, 1)]


async def test_one_dead_session_that_cannot_be_taken_back_holds_up_no_other(
    database_url: str, pool: Pool
) -> None:
    locked, free = await add_account(pool), await add_account(pool)
    calls = [charge(locked), charge(free)]
    doomed = list[Ledger]()
    for one in calls:
        async with open_ledger(database_url) as ledger:
            await ledger.charge(one)
            await kill(ledger, database_url)
            doomed.append(ledger)
    with psycopg.connect(database_url) as holder:
        lock_tenant(holder, locked)
        async with open_ledger(database_url, grace_s=0.2) as finder:
            await until(lambda: len(entries(database_url, calls[1])) == 2, timeout_s=8)
            assert len(entries(database_url, calls[0])) == 1
            holder.rollback()
            await until(lambda: len(entries(database_url, calls[0])) == 2, timeout_s=8)
            await until(lambda: sessions(database_url) == {finder.session_id})
    assert audit(database_url) == (0, 0)


async def test_a_live_worker_that_only_lost_its_connection_keeps_its_calls(
    database_url: str, pool: Pool
) -> None:
    """Also one with nothing to charge, whose call is being sent for longer than the time of grace."""
    tenant_id = await add_account(pool)
    one = charge(tenant_id)
    async with (
        open_ledger(database_url) as worker,
        open_ledger(database_url, grace_s=4.0),
    ):
        await worker.charge(one)
        (before,) = holders(database_url, worker.session_id)
        end_session(database_url, worker.session_id)
        await until(lambda: bool(holders(database_url, worker.session_id) - {before}))
        await until(lambda: not is_missing(database_url, worker.session_id))
        assert in_flight(database_url) == [one.call_id]
        worker.answered(one.call_id)
    assert entries(database_url, one) == [(0, 1, 1)]


async def test_the_slice_that_was_not_answered_is_taken_back_and_the_ones_before_stay(
    database_url: str, pool: Pool
) -> None:
    one = charge(await add_account(pool), ASR_AUDIO_MS, 500)
    async with open_ledger(database_url) as doomed:
        for number in range(3):
            await doomed.charge(msgspec.structs.replace(one, slice=number))
        await kill(doomed, database_url)
        assert await void_dead(database_url, doomed.session_id) == 1
    assert entries(database_url, one) == [(0, 1, 500), (0, 0, 500), (0, 0, 500), (1, 0, -500)]
    assert audit(database_url) == (1, 1000)


async def test_the_record_of_an_idle_worker_follows_its_answers(database_url: str, pool: Pool) -> None:
    one = charge(await add_account(pool))
    async with open_ledger(database_url) as ledger:
        await ledger.charge(one)
        assert in_flight(database_url) == [one.call_id]
        ledger.answered(one.call_id)
        await until(lambda: in_flight(database_url) == [], timeout_s=0.4)


async def test_closing_forgets_the_session_unless_a_call_is_not_answered(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    answered, unanswered = charge(tenant_id), charge(tenant_id)
    async with open_ledger(database_url) as ledger:
        await ledger.charge(answered)
        ledger.answered(answered.call_id)
    assert sessions(database_url) == set()
    async with open_ledger(database_url) as ledger:
        await ledger.charge(answered)
        await ledger.charge(unanswered)
        ledger.answered(answered.call_id)
        await ledger.close()
        assert in_flight(database_url) == [unanswered.call_id]
        assert await void_dead(database_url, ledger.session_id) == 1
    assert audit(database_url) == (1, 1)


async def test_closing_in_the_middle_of_a_charge_leaves_a_true_record(database_url: str, pool: Pool) -> None:
    tenant_id, locked = await add_account(pool), await add_account(pool)
    answered, waiting = charge(tenant_id), charge(locked)
    async with open_ledger(database_url, lock_timeout_ms=5000) as ledger:
        await ledger.charge(answered)
        with psycopg.connect(database_url) as holder:
            lock_tenant(holder, locked)
            charging = asyncio.create_task(ledger.charge(waiting))
            await waiting_in_the_database(database_url)
            ledger.answered(answered.call_id)
            closing = asyncio.create_task(ledger.close())
            await asyncio.sleep(0)
        await asyncio.gather(charging, closing)
    assert in_flight(database_url) == [waiting.call_id]


async def test_a_repeat_takes_a_dead_workers_call_over(database_url: str, pool: Pool) -> None:
    one = charge(await add_account(pool))
    async with open_ledger(database_url) as doomed, open_ledger(database_url) as second:
        await doomed.charge(one)
        await kill(doomed, database_url)
        assert (await second.charge(one, is_known=True)).is_repeat
        assert await void_dead(database_url, doomed.session_id) == 0
        second.answered(one.call_id)
    assert entries(database_url, one) == [(0, 1, 1)]


async def test_a_live_worker_cannot_take_back_what_another_one_took_over(
    database_url: str, pool: Pool
) -> None:
    """Its own record goes on to name the call: with its next batch, and when it connects again."""
    tenant_id = await add_account(pool)
    one = charge(tenant_id)
    async with open_ledger(database_url) as first, open_ledger(database_url) as second:
        await first.charge(one)
        await second.charge(one, is_known=True)
        second.answered(one.call_id)
        await first.charge(charge(tenant_id))
        end_session(database_url, first.session_id)
        await first.charge(charge(tenant_id))
        assert one.call_id in in_flight(database_url)
        await first.void(one)
        await kill(first, database_url)
        assert await void_dead(database_url, first.session_id) == 2
    assert entries(database_url, one) == [(0, 1, 1)]
    assert audit(database_url) == (1, 1)


async def test_a_call_that_was_taken_over_is_taken_back_when_the_second_worker_dies_too(
    database_url: str, pool: Pool
) -> None:
    one = charge(await add_account(pool))
    async with open_ledger(database_url) as first, open_ledger(database_url) as second:
        await first.charge(one)
        await kill(first, database_url)
        await second.charge(one, is_known=True)
        await kill(second, database_url)
        assert await void_dead(database_url, first.session_id) == 0
        assert await void_dead(database_url, second.session_id) == 1
    assert entries(database_url, one) == [(0, 1, 1), (1, -1, -1)]


async def test_a_repeat_of_an_answered_call_cannot_undo_its_charge(database_url: str, pool: Pool) -> None:
    """It stands when the repeat's caller leaves, when its answer breaks off, and when its worker dies."""
    tenant_id = await add_account(pool)
    one = charge(tenant_id)
    async with open_ledger(database_url, lock_timeout_ms=5000) as first, open_ledger(database_url) as second:
        await first.charge(one)
        first.answered(one.call_id)
        await until(lambda: in_flight(database_url) == [])
        for ledger in (first, second):
            await ledger.charge(one, is_known=True)
            await ledger.void(one)
            await until(lambda: in_flight(database_url) == [])
        with psycopg.connect(database_url) as holder:
            lock_tenant(holder, tenant_id)
            leaving = asyncio.create_task(first.charge(one, is_known=True))
            await waiting_in_the_database(database_url)
            leaving.cancel()
            await asyncio.wait([leaving])
        await until(lambda: first.depth() == 0 and in_flight(database_url) == [])
    assert entries(database_url, one) == [(0, 1, 1)]
