"""A past month's real usage under a draft price: rated as invoices are, and nothing is stored."""

import asyncio
from datetime import UTC, datetime

import pytest

from billing.drafts import compose, read_materials
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS
from billing.price_files import draft_prices
from billing.price_versions import list_prices
from billing.what_if import WhatIfRow, as_csv, what_if
from infra.database import Pool
from infra.errors import InvalidValueError
from tests.billing_world import add_account
from tests.invoice_world import OCTOBER, close, use
from tests.price_world import add_plan, load, price

AFTER_OCTOBER = datetime(2025, 11, 1, 12, tzinfo=UTC)
DRAFT = price(discount_percent="10")  # 0.001 up to 100 calls, then 0.0005; 0.006 a minute


@pytest.mark.parametrize("is_closed", [False, True])
async def test_a_month_is_replayed_for_the_tenants_on_the_plan(
    database_url: str, pool: Pool, is_closed: bool
) -> None:
    small, large, own = [await add_account(pool, now=OCTOBER) for _ in range(3)]
    await add_plan(pool, "other")
    await use(database_url, small, [(INTENT_CALLS, 90)])
    await use(database_url, large, [(INTENT_CALLS, 10_000), (ASR_AUDIO_MS, 60_000_000)])
    await use(database_url, own, [(INTENT_CALLS, 10_000)])
    if is_closed:
        await close(pool, AFTER_OCTOBER)
    drafts = draft_prices({"prices": [DRAFT, price(tenant=own, minimum="7"), price("other")]})
    found = await what_if(pool, drafts, "2025-10")
    rows = {row.tenant_id: row for row in found.rows}
    assert rows[small] == WhatIfRow(small, "USD", 4, 8, 4)
    assert rows[large] == WhatIfRow(large, "USD", 400 + 430, 994, 164), "505 + 600 less 110.5"
    assert rows[own] == WhatIfRow(own, "USD", 400, 700, 300)
    (total,) = found.totals
    assert (total.tenants, total.difference_minor, total.difference) == (3, 468, "4.68 USD")
    assert found.next_after is None
    assert len(await list_prices(pool)) == 2


async def test_under_the_price_that_held_nothing_is_different(database_url: str, pool: Pool) -> None:
    await load(pool, DRAFT, now=datetime(2025, 9, 10, tzinfo=UTC))
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, [(INTENT_CALLS, 12_345), (ASR_AUDIO_MS, 7)])
    await close(pool, AFTER_OCTOBER)
    (row,) = (await what_if(pool, draft_prices({"prices": [DRAFT]}), "2025-10")).rows
    assert row.difference_minor == 0
    async with pool.connection() as connection:
        (material,) = await read_materials(connection, "2025-10", [tenant_id])
    assert row.before_minor == compose(material).subtotal_minor > 0


async def test_pages_are_bounded_and_go_on_where_the_last_ended(
    database_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.what_if._TENANTS_PER_PAGE", 2)
    tenants = sorted([await add_account(pool, now=OCTOBER) for _ in range(5)])
    await asyncio.gather(*(use(database_url, one, [(INTENT_CALLS, 100)]) for one in tenants))
    drafts = draft_prices({"prices": [DRAFT]})
    first = await what_if(pool, drafts, "2025-10", limit=3)
    rest = await what_if(pool, drafts, "2025-10", after=first.next_after or "")
    assert first.next_after == tenants[2]
    assert [row.tenant_id for row in first.rows + rest.rows] == tenants
    assert rest.next_after is None
    lines = as_csv(first).split("\r\n")
    assert lines[0] == "tenant_id,currency,before_minor,after_minor,difference_minor"
    assert lines[1:] == [f"{one},USD,4,9,5" for one in tenants[:3]] + [""]


@pytest.mark.parametrize("period", ["2025-13", "2199-01", f"{datetime.now(UTC):%Y-%m}"])
async def test_a_month_that_is_not_over_cannot_be_replayed(pool: Pool, period: str) -> None:
    with pytest.raises(InvalidValueError):
        await what_if(pool, draft_prices({"prices": [DRAFT]}), period)
