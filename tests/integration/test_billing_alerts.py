"""Thresholds exactly at the edge, once, armed again; days out of line, once; the outbox whole."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from billing import outbox
from billing.alerts import evaluate, list_alerts
from billing.caps import set_caps
from billing.credit import grant_credit
from billing.ledger import Ledger
from billing.meters import ASR_AUDIO_MS, CREDIT, INTENT_CALLS, MONEY, TTS_CHARACTERS
from billing.store.alerts import Occasion, try_evaluation_lock
from billing.webhooks import add_webhook
from infra.database import Pool
from tests.billing_world import NOON, add_account, charge, open_ledger

CALL_NANOS = 400_000  # an intent call, at the standard prices


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    async with open_ledger(database_url) as opened:
        yield opened


async def use(
    ledger: Ledger, tenant_id: str, units: int, meter: str = INTENT_CALLS, at: datetime = NOON
) -> None:
    await ledger.charge(charge(tenant_id, meter, units, at))


async def told(pool: Pool, tenant_id: str, now: datetime = NOON) -> list[tuple[Any, ...]]:
    """Evaluates, a second after the alert before; the alerts there are, oldest first."""
    await evaluate(pool, now + timedelta(seconds=len(await list_alerts(pool, tenant_id))))
    alerts = reversed(await list_alerts(pool, tenant_id))
    fields = ("key_id", "measure", "at_most", "threshold_percent", "used")
    return [tuple(one.data[field] for field in fields) for one in alerts]


async def test_each_threshold_is_told_when_its_unit_is_used_and_once(pool: Pool, ledger: Ledger) -> None:
    tenant_id = await add_account(pool)
    await set_caps(pool, tenant_id, {INTENT_CALLS: 100})
    seen = []
    for units in (49, 1, 29, 1, 19, 1):
        await use(ledger, tenant_id, units)
        seen.append([percent for *_, percent, _ in await told(pool, tenant_id)])
        assert await evaluate(pool, NOON) == 0
    assert seen == [[], [50], [50], [50, 80], [50, 80], [50, 80, 100]]


async def test_of_several_thresholds_crossed_at_once_the_highest_is_told(pool: Pool, ledger: Ledger) -> None:
    tenant_id = await add_account(pool)
    await set_caps(pool, tenant_id, {INTENT_CALLS: 100})
    await use(ledger, tenant_id, 85)
    assert await told(pool, tenant_id) == [(None, INTENT_CALLS, 100, 80, 85)]


async def test_money_is_compared_as_it_is_rated_to_the_last_fraction(pool: Pool, ledger: Ledger) -> None:
    tenant_id = await add_account(pool)
    # 30,000 ms cost 2,150,000 nanos; one ms costs 71 nanos and two thirds.
    await set_caps(pool, tenant_id, {MONEY: 2 * (2_150_000 + 3 * CALL_NANOS)})
    await use(ledger, tenant_id, 3)
    await use(ledger, tenant_id, 29_999, ASR_AUDIO_MS)
    assert await told(pool, tenant_id) == []
    await use(ledger, tenant_id, 1, ASR_AUDIO_MS)
    assert await told(pool, tenant_id) == [(None, MONEY, 6_700_000, 50, 3_350_000)]


async def test_a_raised_cap_is_armed_again_and_the_same_cap_is_not(pool: Pool, ledger: Ledger) -> None:
    tenant_id = await add_account(pool)
    await set_caps(pool, tenant_id, {INTENT_CALLS: 10})
    await use(ledger, tenant_id, 10)
    assert [alert[2:4] for alert in await told(pool, tenant_id)] == [(10, 100)]
    await set_caps(pool, tenant_id, {INTENT_CALLS: 20})
    assert [alert[2:4] for alert in await told(pool, tenant_id)] == [(10, 100), (20, 50)]
    await set_caps(pool, tenant_id, {INTENT_CALLS: 10})
    await set_caps(pool, tenant_id, {INTENT_CALLS: 20})
    assert len(await told(pool, tenant_id)) == 2
    await use(ledger, tenant_id, 6)
    assert [alert[2:4] for alert in await told(pool, tenant_id)] == [(10, 100), (20, 50), (20, 80)]


async def test_a_keys_caps_are_told_apart_from_its_tenants(pool: Pool, ledger: Ledger) -> None:
    tenant_id = await add_account(pool)
    key_id = charge(tenant_id).key_id
    await set_caps(pool, tenant_id, {INTENT_CALLS: 10})
    await set_caps(pool, tenant_id, {INTENT_CALLS: 6, MONEY: 5 * CALL_NANOS}, key_id)
    await use(ledger, tenant_id, 5)
    assert sorted(await told(pool, tenant_id), key=str) == sorted(
        [
            (None, INTENT_CALLS, 10, 50, 5),
            (key_id, INTENT_CALLS, 6, 80, 5),
            (key_id, MONEY, 5 * CALL_NANOS, 100, 5 * CALL_NANOS),
        ],
        key=str,
    )


async def test_a_months_cap_and_the_credit_are_each_measured_against_their_own_amount(
    pool: Pool, ledger: Ledger
) -> None:
    tenant_id = await add_account(pool)
    await set_caps(pool, tenant_id, {MONEY: 20 * CALL_NANOS})
    await use(ledger, tenant_id, 4)  # before it is prepaid: of the month's cap alone
    seen = []
    for granted, units in ((8, 4), (0, 2), (0, 2), (40, 4)):
        if granted:
            await grant_credit(pool, tenant_id, granted * CALL_NANOS)
        await use(ledger, tenant_id, units)
        seen.append((await told(pool, tenant_id))[len(seen) :])
    assert seen == [
        [(None, CREDIT, 8 * CALL_NANOS, 50, 4 * CALL_NANOS)],
        [(None, MONEY, 20 * CALL_NANOS, 50, 10 * CALL_NANOS)],
        [(None, CREDIT, 8 * CALL_NANOS, 100, 8 * CALL_NANOS)],
        [(None, MONEY, 20 * CALL_NANOS, 80, 16 * CALL_NANOS)],
    ]


async def test_a_credit_as_large_as_the_cap_is_told_of_too_and_once_over_all_months(
    pool: Pool, ledger: Ledger
) -> None:
    tenant_id = await add_account(pool, "UTC")
    ten_calls = 10 * CALL_NANOS
    await set_caps(pool, tenant_id, {MONEY: ten_calls})
    await grant_credit(pool, tenant_id, ten_calls)
    await use(ledger, tenant_id, 5)
    both = {(None, measure, ten_calls, 50, ten_calls // 2) for measure in (MONEY, CREDIT)}
    assert set(await told(pool, tenant_id)) == both
    just_after = datetime(2025, 12, 1, 1, tzinfo=UTC)
    await use(ledger, tenant_id, 1, at=just_after)
    assert set(await told(pool, tenant_id, just_after)) == both


async def test_a_new_month_begins_anew_and_the_last_seconds_of_the_old_one_are_told_too(
    pool: Pool, ledger: Ledger
) -> None:
    tenant_id = await add_account(pool, "UTC")
    await set_caps(pool, tenant_id, {INTENT_CALLS: 10})
    month_end = datetime(2025, 12, 1, tzinfo=UTC)
    await use(ledger, tenant_id, 5, at=month_end - timedelta(seconds=1))
    await use(ledger, tenant_id, 8, at=month_end)
    with psycopg.connect(pool.conninfo) as connection:
        connection.execute("UPDATE billing.cap SET set_at = %s", [NOON])
    await evaluate(pool, month_end + timedelta(seconds=5))
    alerts = await list_alerts(pool, tenant_id)
    assert sorted((one.data["period"], one.data["threshold_percent"]) for one in alerts) == [
        ("2025-11", 50),
        ("2025-12", 80),
    ]


async def test_a_cap_set_after_a_month_says_nothing_of_that_month(pool: Pool, ledger: Ledger) -> None:
    tenant_id = await add_account(pool, "UTC")
    month_end = datetime(2025, 12, 1, tzinfo=UTC)
    await use(ledger, tenant_id, 50, at=month_end - timedelta(seconds=1))
    await set_caps(pool, tenant_id, {INTENT_CALLS: 10})
    assert await told(pool, tenant_id, month_end + timedelta(hours=1)) == []


async def test_nothing_used_is_told_of_no_cap_not_even_of_zero(pool: Pool) -> None:
    tenant_id = await add_account(pool)
    await set_caps(pool, tenant_id, {INTENT_CALLS: 0, MONEY: 0})
    assert await told(pool, tenant_id) == []


async def test_many_evaluating_at_once_tell_each_thing_once(pool: Pool, ledger: Ledger) -> None:
    tenants = [await add_account(pool) for _ in range(3)]
    for tenant_id in tenants:
        await set_caps(pool, tenant_id, {INTENT_CALLS: 10})
        await use(ledger, tenant_id, 9)
    await asyncio.gather(*(evaluate(pool, NOON) for _ in range(8)))
    for tenant_id in tenants:
        assert [alert[3] for alert in await told(pool, tenant_id)] == [80]


async def test_while_one_evaluates_nobody_else_does(pool: Pool, ledger: Ledger) -> None:
    """Or an 80 that was seen early could be told after the 100 that another saw late."""
    tenant_id = await add_account(pool)
    await set_caps(pool, tenant_id, {INTENT_CALLS: 10})
    await use(ledger, tenant_id, 9)
    async with pool.connection() as other, other.transaction():
        assert await try_evaluation_lock(other)
        assert await told(pool, tenant_id) == []
    assert len(await told(pool, tenant_id)) == 1


async def weeks_before(ledger: Ledger, tenant_id: str, units: int, days: int = 28) -> None:
    await asyncio.gather(
        *(
            use(ledger, tenant_id, units + day % 3, at=NOON - timedelta(days=day))
            for day in range(1, days + 1)
        )
    )


async def days_told(pool: Pool, tenant_id: str, now: datetime) -> list[tuple[str, str, int, int]]:
    await evaluate(pool, now)
    alerts = await list_alerts(pool, tenant_id)
    return [tuple(one.data[f] for f in ("meter", "day", "units", "usual_units")) for one in alerts]  # type: ignore[misc]


async def test_a_day_far_over_the_weeks_before_is_told_once_for_meter_and_day(
    pool: Pool, ledger: Ledger
) -> None:
    tenant_id, steady = await add_account(pool), await add_account(pool)
    for each in (tenant_id, steady):
        await weeks_before(ledger, each, 1000)
        await use(ledger, each, 1200)
    assert await days_told(pool, tenant_id, NOON) == []
    await use(ledger, tenant_id, 20_000)
    await use(ledger, tenant_id, 900_000, TTS_CHARACTERS)  # its first day: no weeks to compare with
    expected = [(INTENT_CALLS, "2025-11-15", 21_200, 1001)]
    assert await days_told(pool, tenant_id, NOON) == expected
    await use(ledger, tenant_id, 20_000)
    assert await days_told(pool, tenant_id, NOON + timedelta(hours=3)) == expected
    assert await days_told(pool, steady, NOON) == []


async def test_a_day_is_one_of_the_tenants_clock_and_still_told_after_its_end(
    pool: Pool, ledger: Ledger
) -> None:
    tenant_id = await add_account(pool, "Asia/Taipei")
    await weeks_before(ledger, tenant_id, 1000)
    midnight = datetime(2025, 11, 15, 16, tzinfo=UTC)
    for moment in (midnight - timedelta(hours=20), midnight - timedelta(seconds=1)):
        await use(ledger, tenant_id, 4_000, at=moment)  # together over the floor, and of one day
    expected = [(INTENT_CALLS, "2025-11-15", 8_000, 1001)]
    assert await days_told(pool, tenant_id, midnight + timedelta(seconds=5)) == expected


async def test_corrections_below_zero_count_as_days_without_usage(pool: Pool, ledger: Ledger) -> None:
    tenant_id = await add_account(pool, "UTC")
    await weeks_before(ledger, tenant_id, 1000)
    with psycopg.connect(pool.conninfo) as connection:
        connection.execute("UPDATE billing.hourly_usage SET units = -5000 WHERE hour < '2025-10-25'")
        connection.execute("UPDATE billing.hourly_usage SET units = 999999 WHERE hour < '2025-10-19'")
    await use(ledger, tenant_id, 500_000)
    assert await days_told(pool, tenant_id, NOON) == []  # more was used on a day of the weeks before
    await use(ledger, tenant_id, 500_000)
    assert [one[2] for one in await days_told(pool, tenant_id, NOON)] == [1_000_000]


async def test_an_alert_its_messages_and_their_jobs_are_written_together_or_not_at_all(pool: Pool) -> None:
    tenant_id = await add_account(pool)
    for _ in range(2):
        await add_webhook(pool, tenant_id, "https://hooks.example.com/", private_allowed=False)

    async def raise_one(undo: bool) -> None:
        occasion = Occasion(meter=INTENT_CALLS, day=NOON)
        async with pool.connection() as connection, connection.transaction(force_rollback=undo):
            assert await outbox.raise_alert(connection, tenant_id, outbox.USAGE_ANOMALY, NOON, occasion, {})

    await raise_one(undo=True)
    assert written(pool) == (0, 0, 0)
    await raise_one(undo=False)
    assert written(pool) == (1, 2, 2)


def written(pool: Pool) -> tuple[int, ...]:
    tables = ("billing.alert", "billing.webhook_message", "procrastinate.procrastinate_jobs")
    with psycopg.connect(pool.conninfo) as connection:
        return tuple(
            int(row[0])
            for table in tables
            if (row := connection.execute(f"SELECT count(*) FROM {table}").fetchone())
        )
