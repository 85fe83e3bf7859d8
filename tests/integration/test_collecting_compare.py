"""Both sides compared: what was missed is applied, what differs is told, in both directions."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.audit import audit_trail
from billing.collecting.comparing import Comparison, compare
from billing.invoices import show_invoice
from infra.database import Pool
from tests.collecting_world import Shop, open_shop


@pytest.fixture
async def shop(pool: Pool, database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(pool, database_url) as opened:
        yield opened


async def compared(shop: Shop, days: int = 45) -> Comparison:
    return await compare(shop.pool, shop.api, shop.collector, datetime.now(UTC), days)


async def kinds(shop: Shop) -> list[tuple[str, str | None]]:
    return sorted((one.kind, one.invoice_id) for one in (await compared(shop)).differences)


def clone(shop: Shop, stripe_id: str, **changes: Any) -> dict[str, Any]:
    """One more invoice at Stripe, made by somebody else."""
    new_id = f"in_clone{len(shop.objects.invoices)}"
    shop.objects.invoices[new_id] = {**shop.objects.invoices[stripe_id], "id": new_id, **changes}
    shop.objects.lines[new_id] = []
    return shop.objects.invoices[new_id]


async def test_two_sides_that_agree_have_no_differences_and_lost_events_are_made_up_for(shop: Shop) -> None:
    paid, written_off, quiet = await shop.issue(3)
    await shop.collect_all([paid, written_off, quiet])
    by_ours = {one["metadata"]["aiaas_invoice_id"]: one["id"] for one in shop.objects.invoices.values()}
    shop.objects.receive_payment(by_ours[paid.invoice_id])
    shop.objects.mark_uncollectible(by_ours[written_off.invoice_id])
    clone(shop, by_ours[quiet.invoice_id], metadata={})
    found = await compared(shop)
    assert (found.here, found.there, found.others, found.differences) == (3, 3, 1, [])
    assert (await show_invoice(shop.pool, paid.invoice_id)).status == "paid"
    assert (await shop.show(written_off)).state == "uncollectible"
    assert (await shop.show(quiet)).state == "open"


async def test_each_kind_of_difference_is_found_and_on_record(shop: Shop) -> None:
    other_amount, gone, contradicts, doubled, late = await shop.issue(5)
    await shop.collect_all([other_amount, gone, contradicts, doubled])
    there = {one["metadata"]["aiaas_invoice_id"]: one for one in shop.objects.invoices.values()}
    there[other_amount.invoice_id].update(total=1541)
    del shop.objects.invoices[there[gone.invoice_id]["id"]]
    shop.objects.void(there[contradicts.invoice_id]["id"])
    clone(shop, there[doubled.invoice_id]["id"])
    clone(shop, there[doubled.invoice_id]["id"], metadata={"aiaas_invoice_id": "inv_elsewhere"})
    await shop.run(
        "UPDATE billing.collection SET due_at = NULL, entered_at = now() - interval '2 days' "
        "WHERE invoice_id = %s",
        late.invoice_id,
    )
    shop.stripe.fault = lambda asked: "429" if asked.name == "POST /v1/invoices" else None
    expected = sorted(
        [
            ("amount", other_amount.invoice_id),
            ("mismatch", gone.invoice_id),
            ("mismatch", contradicts.invoice_id),
            ("duplicate", doubled.invoice_id),
            ("missing_here", "inv_elsewhere"),
            ("not_sent", late.invoice_id),
        ]
    )
    assert await kinds(shop) == expected
    told = [event for event in await audit_trail(shop.pool) if event.action == "collection_difference"]
    assert sorted((str(event.detail["kind"]), event.subject) for event in told) == expected


async def test_long_lists_are_read_to_their_end(shop: Shop) -> None:
    (issued,) = await shop.issue()
    await shop.collect(issued)
    stripe_id = shop.only_invoice()["id"]
    for _ in range(250):
        clone(shop, stripe_id, metadata={})
    found = await compared(shop)
    assert (found.there, found.others, found.differences) == (1, 250, [])
    assert shop.stripe.count("GET /v1/invoices") == 1 + 3


async def test_what_is_older_than_the_days_but_not_settled_is_compared_too(shop: Shop) -> None:
    (issued,) = await shop.issue()
    await shop.collect(issued)
    there = shop.only_invoice()
    there["created"] -= int(timedelta(days=60).total_seconds())
    await shop.run("UPDATE billing.collection SET entered_at = now() - interval '60 days'")
    shop.objects.receive_payment(there["id"])
    found = await compared(shop)
    assert (found.here, found.there, found.differences) == (1, 0, [])
    assert (await show_invoice(shop.pool, issued.invoice_id)).status == "paid"
    assert (await compared(shop)).here == 0
