"""The review queue: riskiest first, each invoice with its reasons; comments; what was looked at before."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from billing.alerts import evaluate
from billing.audit import audit_trail
from billing.caps import set_caps
from billing.corrections import void
from billing.invoices import show_invoice
from billing.issuing import approve, send_back
from billing.meters import INTENT_CALLS, TTS_CHARACTERS
from billing.review import ReviewItem, comment, comments, review_queue
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from tests.billing_world import add_account
from tests.invoice_world import (
    AFTER_NOVEMBER,
    AFTER_OCTOBER,
    CHECKER,
    DOLLARS,
    MAKER,
    NOVEMBER,
    OCTOBER,
    close,
    issue_all,
    run,
    use,
)


def codes(item: ReviewItem) -> set[str]:
    return {reason.code for reason in item.reasons}


async def queued(pool: Pool, period: str = "2025-11") -> list[ReviewItem]:
    """The queue after a run of the month."""
    await run(pool, period)
    return list((await review_queue(pool, period)).invoices)


async def test_what_is_out_of_the_ordinary_comes_first_with_its_reasons(
    database_url: str, pool: Pool
) -> None:
    """One tenant as usual, one with more, one with less, one new."""
    usual, more, less = [await add_account(pool, now=OCTOBER) for _ in range(3)]
    for tenant_id, november in ((usual, 1_000_000), (more, 8_000_000), (less, 500_000)):
        await use(database_url, tenant_id, DOLLARS)
        await use(database_url, tenant_id, [(TTS_CHARACTERS, november)], NOVEMBER)
    await close(pool, AFTER_OCTOBER)
    await issue_all(pool)
    new = await add_account(pool, now=NOVEMBER)
    await use(database_url, new, DOLLARS, NOVEMBER)
    await close(pool, AFTER_NOVEMBER)
    found = {item.tenant_id: item for item in await queued(pool)}
    assert codes(found[usual]) == set()
    assert codes(found[more]) == {"total_up", "meter_up", "tier_crossed"}
    assert codes(found[less]) == {"total_down", "meter_down"}
    assert codes(found[new]) == {"first_invoice"}
    assert [item.risk for item in found.values()] == sorted(
        (one.risk for one in found.values()), reverse=True
    )
    up = next(reason for reason in found[more].reasons if reason.code == "total_up")
    assert up.text == "109.50 USD before tax, 630 % above the 15.00 USD of 2025-10."


async def test_the_months_before_count_by_their_median(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool, now=datetime(2025, 8, 10, tzinfo=UTC))
    for month, units in ((8, 1_000_000), (9, 900_000), (10, 9_000_000), (11, 1_000_000)):
        at = datetime(2025, month, 10, 4, tzinfo=UTC)
        await use(database_url, tenant_id, [(TTS_CHARACTERS, units)], at)
        await close(pool, at + timedelta(days=24))
        await run(pool, at.strftime("%Y-%m"))
    october = next(item for item in (await review_queue(pool, "2025-10")).invoices)
    november = next(item for item in (await review_queue(pool, "2025-11")).invoices)
    assert "total_up" in codes(october)
    assert codes(november) == set(), "the month before was strange, the median of three is not"


async def test_late_usage_new_prices_and_what_happened_before_are_told(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, DOLLARS)
    await close(pool, AFTER_OCTOBER)
    await issue_all(pool)
    await use(database_url, tenant_id, [(INTENT_CALLS, 10)], OCTOBER)
    await use(database_url, tenant_id, DOLLARS, NOVEMBER)
    async with pool.connection() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO billing.price_version (price_version_id, plan, currency, valid_from)"
            " VALUES ('prv_new', 'standard', 'USD', '2025-11-01')"
        )
        for table, rest in (
            ("meter_price", "meter, per_units"),
            ("price_tier", "meter, tier, up_to_units, nanos"),
        ):
            await connection.execute(
                f"INSERT INTO billing.{table} (price_version_id, {rest}) SELECT 'prv_new', {rest}"
                f" FROM billing.{table} JOIN billing.period USING (price_version_id) WHERE period = '2025-10'"
            )
        await connection.execute(
            "UPDATE billing.period SET price_version_id = 'prv_new' WHERE period = '2025-11'"
        )
    await close(pool, AFTER_NOVEMBER)
    (item,) = await queued(pool)
    assert codes(item) == {"late_usage", "new_price_version"}
    assert "1 call of 2025-10 came late: 0.00 USD of this invoice." in {one.text for one in item.reasons}
    await approve(pool, item.invoice_id, CHECKER)
    await send_back(pool, item.invoice_id, CHECKER, "Is the late call right?")
    (item,) = await queued(pool)
    assert codes(item) == {"late_usage", "new_price_version", "sent_back"}
    await approve(pool, item.invoice_id, CHECKER)
    async with pool.connection() as connection:
        await connection.execute("UPDATE billing.profile SET tax_ppm = 50000")
    (item,) = await queued(pool)
    assert codes(item) == {"late_usage", "new_price_version", "sent_back", "changed_since_approval"}


async def test_a_difference_between_the_seals_and_the_counters_weighs_most(
    database_url: str, pool: Pool
) -> None:
    tenant_id, other = await add_account(pool, now=OCTOBER), await add_account(pool, now=OCTOBER)
    for one in (tenant_id, other):
        await use(database_url, one, DOLLARS)
    await close(pool, AFTER_OCTOBER)
    await run(pool)
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE billing.period_counter SET units = units + 1"
            " WHERE tenant_id = %s AND period = '2025-10' AND meter = %s",
            [tenant_id, TTS_CHARACTERS],
        )
    first, second = (await review_queue(pool)).invoices
    assert (first.tenant_id, "reconciliation_difference" in codes(first)) == (tenant_id, True)
    assert "1 call, 1000001 units, the sealed month 1 call, 1000000 units" in first.reasons[0].text
    assert codes(second) == {"first_invoice"}


async def test_a_cap_that_was_used_up_is_told(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await set_caps(pool, tenant_id, {INTENT_CALLS: 10})
    await use(database_url, tenant_id, [(INTENT_CALLS, 10)])
    await evaluate(pool, OCTOBER + timedelta(hours=1))
    await close(pool, AFTER_OCTOBER)
    (item,) = await queued(pool, "2025-10")
    assert codes(item) == {"first_invoice", "cap_hit"}


async def test_a_reissued_and_a_large_invoice_are_told(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, [(TTS_CHARACTERS, 1_000_000_000)])
    await close(pool, AFTER_OCTOBER)
    (invoice,) = await issue_all(pool)
    await void(pool, invoice.invoice_id, CHECKER, "wrong address", reissue=True)
    (item,) = await queued(pool, "2025-10")
    assert codes(item) == {"reissued", "large_amount"}


async def test_the_queue_is_read_page_by_page_and_holds_no_invoice_twice(
    database_url: str, pool: Pool
) -> None:
    for number in range(5):
        tenant_id = await add_account(pool, now=OCTOBER)
        await use(database_url, tenant_id, [(TTS_CHARACTERS, 1_000_000 * (1 + 500 * (number % 2)))])
    await close(pool, AFTER_OCTOBER)
    whole = await queued(pool, "2025-10")
    found, after = list[ReviewItem](), None
    for is_last in (False, False, True):
        page = await review_queue(pool, after=after, limit=2)
        assert page.in_review == 5
        found += page.invoices
        after = page.invoices[-1].position
        assert page.has_more is not is_last
    assert found == whole
    assert (await review_queue(pool, "2025-09")).invoices == ()
    for bad in ("x", "-1.inv", "99999999999.inv"):
        with pytest.raises(InvalidValueError):
            await review_queue(pool, after=bad)
    await approve(pool, whole[0].invoice_id, CHECKER)
    assert whole[0].invoice_id not in {one.invoice_id for one in (await review_queue(pool)).invoices}


async def test_comments_keep_their_order_and_are_no_part_of_the_invoice(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, DOLLARS)
    await close(pool, AFTER_OCTOBER)
    (invoice,) = await run(pool)
    written = [await comment(pool, invoice.invoice_id, CHECKER, f"說明 {number}") for number in range(3)]
    assert await comments(pool, invoice.invoice_id) == written
    assert await comments(pool, invoice.invoice_id, after=written[0].comment_id, limit=1) == [written[1]]
    assert await show_invoice(pool, invoice.invoice_id) == invoice
    assert (await audit_trail(pool, invoice.invoice_id))[0].action == "comment"
    for bad in ("", "  ", "x" * 2001, "a\0b"):
        with pytest.raises(InvalidValueError):
            await comment(pool, invoice.invoice_id, MAKER, bad)
    with pytest.raises(NotFoundError):
        await comment(pool, "inv_none", MAKER, "hello")
    with pytest.raises(NotFoundError):
        await comments(pool, "inv_none")
    for change in ("UPDATE billing.invoice_comment SET text = 'x'", "DELETE FROM billing.invoice_comment"):
        with pytest.raises(psycopg.errors.IntegrityError):
            async with pool.connection() as connection:
                await connection.execute(change.encode())
