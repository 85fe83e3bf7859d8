"""Price versions are made from files, once, for months that have not begun; each for good."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from billing.accounts import open_periods
from billing.audit import audit_trail
from billing.caps import MoneyCapError, set_caps
from billing.credit import grant_credit
from billing.meters import INTENT_CALLS, MONEY
from billing.periods import period_labelled
from billing.price_files import PriceFileError
from billing.price_previews import preview
from billing.price_versions import list_prices, load_price_file, show_price
from billing.store.accounts import NewPeriod, insert_periods
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError, UnavailableError
from tests.billing_world import add_account, charge, open_ledger
from tests.price_world import FINANCE, add_plan, file_of, load, price

NOW = datetime(2025, 11, 15, 12, tzinfo=UTC)
DECEMBER_ANYWHERE = datetime(2025, 11, 30, 10, tzinfo=UTC)
VOLUME = {"intent.calls": {"model": "volume", "tiers": [{"price": "0.1"}]}}


def month_prices(database_url: str, tenant_id: str) -> dict[str, str]:
    with psycopg.connect(database_url) as connection:
        return dict(
            connection.execute(
                "SELECT period, price_version_id FROM billing.period WHERE tenant_id = %s", [tenant_id]
            ).fetchall()
        )


async def test_a_new_price_is_taken_by_months_that_have_not_begun(database_url: str, pool: Pool) -> None:
    taipei, new_york = await add_account(pool), await add_account(pool, "America/New_York")
    (made,) = await load(pool, price(valid_from="2025-12-01"), now=NOW)
    assert (made.is_new, made.valid_from, made.replaces) == (True, DECEMBER_ANYWHERE, "standard-usd-1")
    assert (made.tenants, made.tenant_ids, made.months) == (2, tuple(sorted([taipei, new_york])), 2)
    assert [change.what for change in made.changes] == [
        "meters.asr.audio_ms",
        "meters.intent.calls",
        "meters.tts.characters",
    ]
    assert made.changes[1].after == "graduated per 1: 0.001 USD up to 100, then 0.0005 USD"
    await open_periods(pool, datetime(2026, 1, 5, tzinfo=UTC))
    for tenant_id in (taipei, new_york):
        assert month_prices(database_url, tenant_id) == {
            "2025-11": "standard-usd-1",
            **dict.fromkeys(["2025-12", "2026-01", "2026-02"], made.price_version_id),
        }
    (event,) = await audit_trail(pool, made.price_version_id)
    assert (event.actor, event.action, event.detail["plan"]) == (FINANCE, "create_price", "standard")


async def test_loading_a_file_again_changes_nothing_whenever_it_is(database_url: str, pool: Pool) -> None:
    await add_account(pool)
    for given in (price(), price(valid_from="2025-12-01")):
        await load(pool, given, now=NOW)
        for later in (NOW, NOW + timedelta(days=200)):
            (again,) = await load(pool, given, now=later)
            assert (again.is_new, again.changes) == (False, ())
    assert len(await list_prices(pool)) == 2, "the one that was there, and one for both files"


async def test_a_dry_run_says_what_would_change_and_changes_nothing(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool)
    (told,) = await load(pool, price(minimum="50"), now=NOW, dry_run=True)
    assert (told.is_new, told.price_version_id, told.months) == (True, None, 1)
    assert told.changes[-1].before == "0.00 USD"
    assert set(month_prices(database_url, tenant_id).values()) == {"standard-usd-1"}
    assert len(await list_prices(pool)) == 1
    assert await audit_trail(pool) == []


async def test_of_two_prices_from_the_same_moment_the_one_made_last_holds(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    await load(pool, price(minimum="5000"), now=NOW)
    (mended,) = await load(pool, price(minimum="50.00"), now=NOW)
    assert month_prices(database_url, tenant_id)["2025-12"] == mended.price_version_id


async def test_a_tenants_own_price_comes_before_everyones(database_url: str, pool: Pool) -> None:
    special, other = await add_account(pool), await add_account(pool)
    (own,) = await load(pool, price(tenant=special, discount_percent="10"), now=NOW)
    assert (own.tenant_ids, own.replaces) == ((special,), "standard-usd-1")
    (everyones,) = await load(pool, price(), now=NOW)
    assert everyones.tenant_ids == (other,)
    assert month_prices(database_url, special)["2025-12"] == own.price_version_id
    assert month_prices(database_url, other)["2025-12"] == everyones.price_version_id
    await open_periods(pool, datetime(2026, 1, 5, tzinfo=UTC))
    assert month_prices(database_url, special)["2026-02"] == own.price_version_id


async def test_a_month_with_usage_has_begun_whatever_the_clock_says(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool)
    async with open_ledger(database_url) as ledger:
        await ledger.charge(charge(tenant_id, at=datetime(2025, 12, 10, tzinfo=UTC)))
    (made,) = await load(pool, price(), now=NOW)
    assert made.months == 0
    assert set(month_prices(database_url, tenant_id).values()) == {"standard-usd-1"}


async def test_a_month_that_is_being_opened_while_prices_change_takes_the_new_ones(
    database_url: str, pool: Pool
) -> None:
    """The change waits for it: it would not see a month that is not committed yet."""
    tenant_id = await add_account(pool)
    january = period_labelled("2026-01", ZoneInfo("Asia/Taipei"))
    async with pool.connection() as connection, connection.transaction():
        await insert_periods(connection, [NewPeriod(tenant_id, "Asia/Taipei", january)])
        loading = asyncio.create_task(load(pool, price(valid_from="2026-01-01"), now=NOW))
        await asyncio.wait([loading], timeout=0.3)
    (made,) = await loading
    assert month_prices(database_url, tenant_id)["2026-01"] == made.price_version_id


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ([price("nonesuch")], "prices[0].plan"),
        ([price(tenant="ten_none")], "prices[0].tenant"),
        ([price(valid_from="2025-11-01")], "prices[0].valid_from"),
        ([price(valid_from="all")], "prices[0].valid_from"),
        ([price(valid_from="2025-10-15")], "prices[0].valid_from"),
        ([price(valid_from="2025-12-01"), price(valid_from="2025-12-01", minimum="1")], "prices[1]"),
        ([price(valid_from="2026-01-01"), price(currency="XXX")], "prices[1].currency"),
    ],
)
async def test_a_refused_file_changes_nothing_and_is_on_record(
    database_url: str, pool: Pool, given: list[dict[str, Any]], place: str
) -> None:
    await add_account(pool)
    with pytest.raises(PriceFileError) as refusal:
        await load(pool, *given, now=NOW)
    assert refusal.value.param == place
    assert len(await list_prices(pool)) == 1
    (event,) = await audit_trail(pool)
    assert (event.actor, event.action, event.refused) == (FINANCE, "create_price", True)


async def test_a_price_in_a_currency_that_is_not_the_tenants_is_refused(pool: Pool) -> None:
    tenant_id = await add_account(pool)
    with pytest.raises(PriceFileError, match="billed in USD"):
        await load(pool, price(tenant=tenant_id, currency="TWD"), now=NOW)


async def test_a_month_that_began_earlier_on_a_tenants_clock_keeps_its_prices(pool: Pool) -> None:
    """It is December in Taipei already."""
    now = datetime(2025, 11, 30, 17, tzinfo=UTC)
    await add_account(pool, now=now)
    with pytest.raises(PriceFileError, match="2025-12 of ten_"):
        await load(pool, price(valid_from="2025-12-01"), now=now)
    (made,) = await load(pool, price(), now=now)
    assert made.valid_from == datetime(2025, 12, 31, 10, tzinfo=UTC)


@pytest.mark.parametrize("cap", ["money", "key", "credit"])
@pytest.mark.parametrize(
    "meters", [VOLUME, {"intent.calls": {"model": "package", "tiers": [{"price": "1"}]}}]
)
async def test_no_tenant_has_a_cap_in_money_and_prices_it_cannot_be_kept_on(
    pool: Pool, cap: str, meters: dict[str, Any]
) -> None:
    tenant_id = await add_account(pool)

    async def set_it() -> None:
        if cap == "credit":
            await grant_credit(pool, tenant_id, 10**9)
        else:
            await set_caps(pool, tenant_id, {MONEY: 10**9}, "key_x" if cap == "key" else None)

    upcoming = f"{datetime.now().year + 1}-12-01"
    await load(pool, price(meters=meters, valid_from=upcoming), now=NOW)
    with pytest.raises(MoneyCapError, match=tenant_id):
        await set_it()
    await load(pool, price(valid_from=upcoming), now=NOW)
    await set_it()
    for when in ("2025-12-01", upcoming):
        with pytest.raises(MoneyCapError, match=tenant_id):
            await load(pool, price(meters=meters, valid_from=when), now=NOW)
    assert len(await list_prices(pool)) == 3
    await set_caps(pool, await add_account(pool), {INTENT_CALLS: 5})


async def test_who_holds_a_tenant_for_long_is_told_and_nothing_is_half_done(
    database_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.locks._LOCK_TIMEOUT_MS", 100)
    tenant_id = await add_account(pool)
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT FROM billing.account WHERE tenant_id = %s FOR UPDATE", [tenant_id])
        with pytest.raises(UnavailableError):
            await load(pool, price(), now=NOW)
    assert len(await list_prices(pool)) == 1


async def test_prices_are_listed_by_page_and_shown(pool: Pool) -> None:
    await add_account(pool)
    ids = [await add_plan(pool, f"plan-{number}", VOLUME, minimum=str(number)) for number in range(5)]
    first = await list_prices(pool, limit=4)
    rest = await list_prices(pool, after=first[-1].version.price_version_id, limit=4)
    assert [one.version.price_version_id for one in first + rest] == [*reversed(ids), "standard-usd-1"]
    (only,) = await list_prices(pool, "plan-3", "USD")
    assert only == await show_price(pool, ids[3])
    assert (only.version.minimum_nanos, only.version.prices["intent.calls"].model) == (3 * 10**9, "volume")
    assert await list_prices(pool, tenant_id="ten_none") == []
    with pytest.raises(NotFoundError):
        await show_price(pool, "prc_none")


async def test_a_preview_is_what_an_invoice_would_say(pool: Pool) -> None:
    version_id = await add_plan(pool, "pro", minimum="10", discount_percent="50")
    version = (await show_price(pool, version_id)).version
    told = preview(version, {"intent.calls": 150})
    assert [(line.kind, line.units, line.amount) for line in told.lines] == [
        ("usage", 150, "0.13 USD"),
        ("discount", 0, "-0.06 USD"),
        ("minimum", 0, "9.93 USD"),
    ]
    assert [(use.units, use.nanos) for use in told.lines[0].tiers] == [(100, 1_000_000), (50, 500_000)]
    assert told.total == "10.00 USD"
    for units in ({"video.frames": 1}, {"intent.calls": -1}, {"intent.calls": 2**63}):
        with pytest.raises(InvalidValueError):
            preview(version, units)


async def test_a_file_that_cannot_be_read_is_on_record_too(pool: Pool) -> None:
    with pytest.raises(PriceFileError):
        await load_price_file(pool, b"{", True, FINANCE, NOW)
    with pytest.raises(PriceFileError):
        await load_price_file(pool, b"{", True, FINANCE, NOW, dry_run=True)
    assert len(await audit_trail(pool, "prices")) == 1
    assert file_of() == b'{"prices": []}'
