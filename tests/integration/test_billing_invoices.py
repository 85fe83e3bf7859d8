import asyncio
from datetime import UTC, datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

import msgspec
import psycopg
import pytest

from billing.audit import audit_trail
from billing.drafts import run_drafts
from billing.invoices import Invoice, list_invoices, show_invoice
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS, TTS_CHARACTERS
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from tests.billing_world import add_account, charge, open_ledger

# Past for ever, and not begun in any test's lifetime.
PAST = datetime(2025, 1, 10, 4, tzinfo=UTC)
FUTURE = datetime(2199, 1, 10, 4, tzinfo=UTC)

# The plan `standard`: (units in the tier, nanos) per so many units, copied here on purpose.
TIERS = {
    ASR_AUDIO_MS: (60_000, [(60_000_000, 4_300_000), (540_000_000, 3_900_000), (None, 3_500_000)]),
    INTENT_CALLS: (1, [(100_000, 400_000), (900_000, 320_000), (None, 250_000)]),
    TTS_CHARACTERS: (
        1_000_000,
        [(1_000_000, 15_000_000_000), (9_000_000, 13_500_000_000), (None, 12_000_000_000)],
    ),
}


def expected_cents(meter: str, units: int) -> int:
    """The price by hand: exact, then rounded half up."""
    per, tiers = TIERS[meter]
    nanos, left = Fraction(0), units
    for width, price in tiers:
        taken = left if width is None else min(left, width)
        nanos += Fraction(taken * price, per)
        left -= taken
    cents = nanos / 10**7
    return (2 * cents.numerator + cents.denominator) // (2 * cents.denominator)


async def _use(database_url: str, tenant_id: str, uses: list[tuple[str, int]], at: datetime = PAST) -> None:
    async with open_ledger(database_url) as ledger:
        await asyncio.gather(*(ledger.charge(charge(tenant_id, meter, units, at)) for meter, units in uses))


def months_at(now: datetime) -> list[str]:
    """The months that it may be in Taipei and in UTC."""
    return sorted({f"{now:%Y-%m}", f"{now.astimezone(ZoneInfo('Asia/Taipei')):%Y-%m}"})


async def draft(pool: Pool, period: str) -> list[Invoice]:
    """Run, and read what was made."""
    return [await show_invoice(pool, one.invoice_id) for one in await run_drafts(pool, period)]


async def test_a_draft_is_the_rating_of_the_months_sums_over_tier_edges(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    uses = [(ASR_AUDIO_MS, 700_000_001)] + [(TTS_CHARACTERS, 333_333)] * 7 + [(INTENT_CALLS, 1)] * 25
    await _use(database_url, tenant_id, uses)
    (invoice,) = await draft(pool, "2025-01")
    lines = {line.meter: line for line in invoice.lines}
    for meter, calls, units in (
        (ASR_AUDIO_MS, 1, 700_000_001),
        (TTS_CHARACTERS, 7, 2_333_331),
        (INTENT_CALLS, 25, 25),
    ):
        line = lines[meter]
        assert (line.calls, line.units, line.amount_minor) == (calls, units, expected_cents(meter, units))
        assert sum(use.units for use in line.tiers) == units
        exact = sum((Fraction(use.amount_nanos) for use in line.tiers), Fraction(0))
        assert abs(exact / 10**7 - line.amount_minor) <= Fraction(1, 2)
    assert invoice.total_minor == sum(line.amount_minor for line in invoice.lines)
    assert invoice.total == f"{invoice.total_minor // 100}.{invoice.total_minor % 100:02d} USD"
    assert {line.price_version_id for line in invoice.lines} == {"standard-usd-1"}
    assert (invoice.status, invoice.period_complete) == ("draft", False), "over, and not closed yet"
    assert invoice.starts_at.isoformat() == "2025-01-01T00:00:00+08:00"


async def test_runs_at_the_same_time_make_one_draft_per_tenant_and_month(
    database_url: str, pool: Pool
) -> None:
    tenants = [await add_account(pool) for _ in range(6)]
    for tenant_id in tenants[:5]:
        await _use(database_url, tenant_id, [(INTENT_CALLS, 1)] * 10)
    runs = await asyncio.gather(*(run_drafts(pool, "2025-01") for _ in range(5)))
    for run in runs:
        assert [invoice.tenant_id for invoice in run] == sorted(tenants[:5]), "no usage, no invoice"
        assert [invoice.invoice_id for invoice in run] == [invoice.invoice_id for invoice in runs[0]]
    assert len(await list_invoices(pool)) == 5


async def test_a_draft_made_again_is_the_same_invoice_brought_up_to_date(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    await _use(database_url, tenant_id, [(TTS_CHARACTERS, 1_000_000)])
    (before,) = await draft(pool, "2025-01")
    await _use(database_url, tenant_id, [(TTS_CHARACTERS, 1_000_000), (INTENT_CALLS, 1)])
    (after,) = await draft(pool, "2025-01")
    assert (before.invoice_id, before.total_minor) == (after.invoice_id, 1500)
    assert [(line.line, line.meter, line.amount) for line in after.lines] == [
        (1, INTENT_CALLS, "0.00 USD"),
        (2, TTS_CHARACTERS, "28.50 USD"),
    ]
    (repeated,) = await draft(pool, "2025-01")
    assert [line.exact_nanos for line in repeated.lines] == [line.exact_nanos for line in after.lines]
    assert repeated.invoice_id == after.invoice_id


async def test_a_run_that_waited_for_another_counts_what_was_charged_meanwhile(
    database_url: str, pool: Pool
) -> None:
    """Counters are read when the lock is held: an older count never replaces a newer one."""
    tenant_id = await add_account(pool)
    await _use(database_url, tenant_id, [(INTENT_CALLS, 1)])
    waits = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with psycopg.connect(database_url) as other_run, psycopg.connect(database_url, autocommit=True) as admin:
        other_run.execute("SELECT FROM billing.period FOR NO KEY UPDATE")
        run = asyncio.create_task(run_drafts(pool, "2025-01"))
        async with asyncio.timeout(5):
            while not run.done() and admin.execute(waits).fetchone() != (1,):
                await asyncio.sleep(0.005)
        await _use(database_url, tenant_id, [(INTENT_CALLS, 1)])
    (made,) = await run
    assert (await show_invoice(pool, made.invoice_id)).lines[0].calls == 2


async def test_a_draft_of_a_month_that_is_not_over_says_so(database_url: str, pool: Pool) -> None:
    now = datetime.now(UTC)
    await _use(database_url, await add_account(pool, now=now), [(INTENT_CALLS, 1)], now)
    drafts = [one for label in months_at(now) for one in await draft(pool, label)]
    assert [(invoice.status, invoice.period_complete) for invoice in drafts] == [("draft", False)]


async def test_a_month_that_has_not_begun_is_refused_and_on_record(database_url: str, pool: Pool) -> None:
    await _use(database_url, await add_account(pool), [(INTENT_CALLS, 1)], FUTURE)
    with pytest.raises(InvalidValueError, match="2199-01 has not begun"):
        await run_drafts(pool, "2199-01", "os:root")
    assert await list_invoices(pool) == []
    (event,) = await audit_trail(pool, "2199-01")
    assert (event.actor, event.action, event.refused) == ("os:root", "run", True)


async def test_drafting_does_not_wait_for_charges_nor_they_for_it(database_url: str, pool: Pool) -> None:
    """A charge's locks are on accounts, a draft's on periods."""
    tenant_id = await add_account(pool)
    await _use(database_url, tenant_id, [(INTENT_CALLS, 1)])
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT FROM billing.account FOR UPDATE")
        assert len(await asyncio.wait_for(run_drafts(pool, "2025-01"), 2)) == 1
        holder.rollback()
        holder.execute("SELECT FROM billing.period FOR NO KEY UPDATE")
        await asyncio.wait_for(_use(database_url, tenant_id, [(INTENT_CALLS, 1)]), 2)


async def test_an_invoice_is_shown_and_listed_to_its_own_tenant_only(database_url: str, pool: Pool) -> None:
    tenant_id, other = await add_account(pool), await add_account(pool)
    await _use(database_url, tenant_id, [(INTENT_CALLS, 1)])
    await _use(database_url, other, [(INTENT_CALLS, 1)])
    drafts = {one.tenant_id: one for one in await run_drafts(pool, "2025-01")}
    mine = drafts[tenant_id]
    shown = await show_invoice(pool, mine.invoice_id)
    assert (shown.tenant_id, shown.total) == (tenant_id, mine.total)
    assert await show_invoice(pool, mine.invoice_id, tenant_id) == shown
    assert await list_invoices(pool, tenant_id) == [mine]
    assert len(await list_invoices(pool, period="2025-01")) == 2
    assert await list_invoices(pool, period="2025-02") == []
    for hidden in ((mine.invoice_id, other), ("inv_none", tenant_id)):
        with pytest.raises(NotFoundError):
            await show_invoice(pool, *hidden)


async def test_an_invoice_encodes_as_json(database_url: str, pool: Pool) -> None:
    await _use(database_url, await add_account(pool), [(ASR_AUDIO_MS, 1)])
    (invoice,) = await draft(pool, "2025-01")
    assert msgspec.json.decode(msgspec.json.encode(invoice), type=Invoice) == invoice


async def test_a_run_for_a_label_that_is_no_month_is_refused(pool: Pool) -> None:
    with pytest.raises(InvalidValueError):
        await run_drafts(pool, "2025-13")
