import asyncio
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction

import msgspec
import pytest

from billing.charges import Charge
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS, TTS_CHARACTERS
from billing.prices import MeterPrice, Tier
from billing.receipts import receipt
from billing.usage import usage, usage_by_day, usage_of_all
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from infra.ids import uuid7
from tests.billing_world import NOON, add_account, add_tenant, charge, open_ledger


async def _charge_all(database_url: str, charges: list[Charge]) -> None:
    async with open_ledger(database_url) as ledger:
        await asyncio.gather(*(ledger.charge(one) for one in charges))


async def test_usage_says_exactly_the_calls_and_units_that_were_charged(
    database_url: str, pool: Pool
) -> None:
    one, two = await add_account(pool), await add_account(pool)
    charges = [charge(one, INTENT_CALLS) for _ in range(7)] + [charge(one, ASR_AUDIO_MS, 1500)] * 2
    await _charge_all(database_url, [*charges, charge(two, ASR_AUDIO_MS, 500)])
    assert msgspec.to_builtins(await usage(pool, one, "2025-11")) == {
        "period": "2025-11",
        "meters": {
            "asr.audio_ms": {"units": 1500, "calls": 1},
            "intent.calls": {"units": 7, "calls": 7},
            "tts.characters": {"units": 0, "calls": 0},
        },
    }
    everyone = await usage_of_all(pool, "2025-11")
    assert (everyone.meters[ASR_AUDIO_MS].units, everyone.meters[ASR_AUDIO_MS].calls) == (2000, 2)
    nothing = await usage(pool, one, "2025-10")
    assert all(meter.calls == 0 for meter in nothing.meters.values())


async def test_usage_of_a_tenant_without_account_or_of_no_month_is_refused(pool: Pool) -> None:
    with pytest.raises(NotFoundError):
        await usage(pool, await add_tenant(pool), "2025-11")
    for report in (usage(pool, "ten_x", "2025-1"), usage_of_all(pool, "now"), usage_by_day(pool, "x", "")):
        with pytest.raises(InvalidValueError):
            await report


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe"])
async def test_days_are_days_of_the_tenants_clock_and_add_up_to_the_month(
    database_url: str, pool: Pool, zone: str
) -> None:
    """Kathmandu's days end at a quarter past a UTC hour; the clocks of the others change by 60 and 30 min."""
    from zoneinfo import ZoneInfo

    tenant_id = await add_account(pool, zone)
    moments = [datetime(2025, 10, 1, tzinfo=UTC) + n * timedelta(minutes=37) for n in range(2200)]
    await _charge_all(database_url, [charge(tenant_id, INTENT_CALLS, 1, moment) for moment in moments])
    for period in ("2025-10", "2025-11"):
        expected: dict[date, int] = {}
        for moment in moments:
            day = moment.astimezone(ZoneInfo(zone)).date()
            if day.strftime("%Y-%m") == period:
                expected[day] = expected.get(day, 0) + 1
        days = await usage_by_day(pool, tenant_id, period)
        assert {row.day: row.calls for row in days} == expected
        total = (await usage(pool, tenant_id, period)).meters[INTENT_CALLS]
        assert sum(row.units for row in days) == total.units == sum(expected.values())


async def test_a_receipt_gives_the_exact_amount_at_the_tiers_the_call_fell_into(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    calls = [charge(tenant_id, TTS_CHARACTERS, units) for units in (999_999, 3, 7, 10_000_000)]
    async with open_ledger(database_url) as ledger:
        for one in calls:
            await ledger.charge(one)
    receipts = [await receipt(pool, tenant_id, one.call_id) for one in calls]
    assert [found.units for found in receipts] == [one.units for one in calls]
    assert receipts[1].amount_nanos == str(15_000 + 2 * 13_500)
    assert receipts[1].amount == "0.000042 USD"
    first = receipts[0]
    assert (first.meter, first.model, first.engine) == (TTS_CHARACTERS, "test-model", "test-engine")
    assert (first.price_version_id, first.period, first.currency) == ("standard-usd-1", "2025-11", "USD")
    assert (first.occurred_at, first.key_id) == (NOON, calls[0].key_id)
    tiers = (Tier(10**6, 15 * 10**9), Tier(10**7, 135 * 10**8), Tier(None, 12 * 10**9))
    month = MeterPrice(10**6, tiers).rate(sum(one.units for one in calls))
    assert sum(Fraction(found.amount_nanos) for found in receipts) == month


async def test_a_sessions_receipt_adds_up_its_slices(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool)
    first = charge(tenant_id, ASR_AUDIO_MS, 1000)
    slices = [msgspec.structs.replace(first, slice=number) for number in range(3)]
    await _charge_all(database_url, slices)
    found = await receipt(pool, tenant_id, first.call_id)
    assert (found.units, found.amount_nanos) == (3000, str(Fraction(4_300_000 * 3000, 60_000)))


async def test_another_tenants_call_is_not_there(database_url: str, pool: Pool) -> None:
    tenant_id, other = await add_account(pool), await add_account(pool)
    one = charge(tenant_id)
    await _charge_all(database_url, [one])
    assert (await receipt(pool, tenant_id, one.call_id)).units == 1
    for asker, call_id in ((other, one.call_id), (tenant_id, uuid7())):
        with pytest.raises(NotFoundError):
            await receipt(pool, asker, call_id)
