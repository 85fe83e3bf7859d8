"""The ledger's arithmetic: each call one row, counters and roll-ups their sums, whoever charges at once."""

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from billing.charges import (
    CallIdReusedError,
    LedgerOverloadedError,
    LedgerUnavailableError,
    UnknownAccountError,
)
from billing.meters import ASR_AUDIO_MS, METERS, TTS_CHARACTERS
from infra.database import Pool
from infra.errors import InvalidValueError
from infra.telemetry import Telemetry
from tests.billing_world import NOON, add_account, add_tenant, audit, charge, open_ledger


async def test_concurrent_charges_over_four_ledgers_leave_one_row_each_and_exact_sums(
    database_url: str, pool: Pool
) -> None:
    """Batches of four ledgers cross the same tenants: in the same order for all, so none deadlocks.

    The lock timeout is longer than it takes the server to see a deadlock: it could hide one.
    """
    tenants = [await add_account(pool) for _ in range(12)]
    dice = random.Random(7)
    charges = [
        charge(dice.choice(tenants), dice.choice(METERS).meter, dice.randint(0, 90_000)) for _ in range(3000)
    ]
    async with (
        open_ledger(database_url, lock_timeout_ms=5000) as first,
        open_ledger(database_url, lock_timeout_ms=5000) as second,
        open_ledger(database_url, lock_timeout_ms=5000) as third,
        open_ledger(database_url, lock_timeout_ms=5000) as fourth,
    ):
        ledgers = (first, second, third, fourth)
        answers = await asyncio.gather(*(ledgers[n % 4].charge(one) for n, one in enumerate(charges)))
        assert sum(ledger.depth() for ledger in ledgers) == 0
    assert not any(answer.is_repeat for answer in answers)
    assert {answer.period for answer in answers} == {"2025-11"}
    assert audit(database_url) == (3000, sum(one.units for one in charges))
    with psycopg.connect(database_url) as connection:
        deadlocks = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert deadlocks == (0,)


async def test_a_charge_sent_twice_counts_once_and_is_answered_alike(database_url: str, pool: Pool) -> None:
    one = charge(await add_account(pool), ASR_AUDIO_MS, 1234)
    async with open_ledger(database_url) as ledger:
        first = await ledger.charge(one)
        again = await ledger.charge(one)
    assert (first.is_repeat, again.is_repeat) == (False, True)
    assert (first.period, first.units_before) == (again.period, again.units_before)
    assert audit(database_url) == (1, 1234)


async def test_the_same_charges_sent_at_once_by_two_ledgers_count_once(database_url: str, pool: Pool) -> None:
    tenants = [await add_account(pool) for _ in range(3)]
    charges = [charge(tenants[n % 3], TTS_CHARACTERS, n) for n in range(300)]
    async with open_ledger(database_url) as first, open_ledger(database_url) as second:
        sent = [*charges, *charges, *reversed(charges)]
        answers = await asyncio.gather(
            *((first, second)[n % 2].charge(one) for n, one in enumerate(sent)), return_exceptions=True
        )
    assert [answer for answer in answers if isinstance(answer, BaseException)] == []
    assert sum(not answer.is_repeat for answer in answers if not isinstance(answer, BaseException)) == 300
    assert audit(database_url) == (300, sum(range(300)))


async def test_calls_ready_together_are_charged_together_and_measured(database_url: str, pool: Pool) -> None:
    """One id twice at once goes into two batches: in one it would undo the batch for its mates."""
    reader = InMemoryMetricReader()
    telemetry = Telemetry(None, MeterProvider([reader]).get_meter("test"), lambda: None)
    tenant_id = await add_account(pool)
    charges = [charge(tenant_id) for _ in range(200)]
    async with open_ledger(database_url, telemetry=telemetry) as ledger:
        await asyncio.gather(*(ledger.charge(one) for one in (*charges, *charges)))
        seen = reader.get_metrics_data()
    assert seen is not None
    (scope,) = seen.resource_metrics[0].scope_metrics
    points = {metric.name: metric.data.data_points[0] for metric in scope.metrics if metric.data.data_points}
    batches = points["aiaas.charge.batch_size"]
    assert isinstance(batches, HistogramDataPoint)
    assert (batches.count, batches.sum) == (2, 400)
    assert dict(points["aiaas.queue.depth"].attributes or {}) == {"queue": "ledger"}
    assert audit(database_url) == (200, 200)


async def test_an_id_that_another_call_was_charged_under_is_refused(database_url: str, pool: Pool) -> None:
    tenant_id, other = await add_account(pool), await add_account(pool)
    one = charge(tenant_id, ASR_AUDIO_MS, 10)
    async with open_ledger(database_url) as ledger:
        await ledger.charge(one)
        for changed in ({"tenant_id": other}, {"units": 11}, {"meter": TTS_CHARACTERS}):
            with pytest.raises(CallIdReusedError):
                await ledger.charge(msgspec.structs.replace(one, **changed))
    assert audit(database_url) == (1, 10)


async def test_slices_of_a_session_are_charged_one_by_one_and_are_one_call(
    database_url: str, pool: Pool
) -> None:
    one = charge(await add_account(pool), ASR_AUDIO_MS, 500)
    slices = [msgspec.structs.replace(one, slice=number) for number in range(3)]
    async with open_ledger(database_url) as ledger:
        answers = [await ledger.charge(part) for part in slices]
    assert [answer.units_before for answer in answers] == [0, 500, 1000]
    assert audit(database_url) == (1, 1500)


async def test_a_tenant_without_an_account_is_refused_and_its_batch_mates_are_charged(
    database_url: str, pool: Pool
) -> None:
    tenant_id, stranger = await add_account(pool), await add_tenant(pool)
    charges = [charge(stranger if n % 5 == 0 else tenant_id) for n in range(50)]
    async with open_ledger(database_url) as ledger:
        answers = await asyncio.gather(*(ledger.charge(one) for one in charges), return_exceptions=True)
    refused = Counter(type(answer) for answer in answers if isinstance(answer, Exception))
    assert refused == {UnknownAccountError: 10}
    assert audit(database_url) == (40, 40)


async def test_a_month_that_nobody_opened_is_opened_by_its_first_charges(
    database_url: str, pool: Pool
) -> None:
    tenants = [await add_account(pool) for _ in range(5)]
    moments = [datetime(2031, 5, 1, tzinfo=UTC) + timedelta(days=20 * n) for n in range(6)]
    charges = [charge(tenant_id, at=moment) for tenant_id in tenants for moment in moments for _ in range(5)]
    async with open_ledger(database_url) as first, open_ledger(database_url) as second:
        answers = await asyncio.gather(*((first, second)[n % 2].charge(one) for n, one in enumerate(charges)))
    assert {answer.period for answer in answers} == {"2031-05", "2031-06", "2031-07", "2031-08"}
    assert audit(database_url) == (150, 150)


@pytest.mark.parametrize(
    ("zone", "moment", "period"),
    [
        ("Asia/Kathmandu", "2025-10-31T18:14:59.999999", "2025-10"),
        ("Asia/Kathmandu", "2025-10-31T18:15:00", "2025-11"),
        ("America/New_York", "2025-11-01T03:59:59", "2025-10"),
        ("America/New_York", "2026-01-01T04:59:59", "2025-12"),
        ("America/Havana", "2015-11-01T04:30:00", "2015-11"),
        ("America/St_Johns", "2009-11-01T02:45:00", "2009-11"),
    ],
)
async def test_a_charge_counts_in_the_month_of_its_tenants_clock(
    database_url: str, pool: Pool, zone: str, moment: str, period: str
) -> None:
    tenant_id = await add_account(pool, zone)
    at = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    async with open_ledger(database_url) as ledger:
        assert (await ledger.charge(charge(tenant_id, at=at))).period == period


async def test_what_can_never_be_charged_is_refused_before_it_is_sent(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool)
    async with open_ledger(database_url) as ledger:
        for bad in (
            charge(tenant_id, "gpu.hours"),
            charge(tenant_id, units=-1),
            charge(tenant_id, units=10**13),
            charge(tenant_id, at=datetime(2025, 11, 1)),
        ):
            with pytest.raises(InvalidValueError):
                await ledger.charge(bad)
    assert audit(database_url) == (0, 0)


async def test_a_full_queue_refuses_at_once_and_nothing_is_written_for_the_refused(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    async with open_ledger(database_url, queue_limit=20) as ledger:
        sent = [ledger.charge(charge(tenant_id)) for _ in range(50)]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        assert Counter(type(answer).__name__ for answer in answers) == {
            "Charged": 20,
            LedgerOverloadedError.__name__: 30,
        }
        await ledger.charge(charge(tenant_id))
    assert audit(database_url) == (21, 21)


async def test_closing_finishes_what_waits_and_takes_no_more(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool)
    async with open_ledger(database_url) as ledger:
        waiting = [asyncio.create_task(ledger.charge(charge(tenant_id, at=NOON))) for _ in range(700)]
        await asyncio.sleep(0)
        await ledger.close()
        assert all(not answer.is_repeat for answer in await asyncio.gather(*waiting))
        with pytest.raises(LedgerUnavailableError):
            await ledger.charge(charge(tenant_id))
    assert audit(database_url) == (700, 700)
