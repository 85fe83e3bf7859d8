"""The same way through Stripe's own sandbox, where a test key is given: STRIPE_TEST_API_KEY."""

import os
from collections.abc import AsyncIterator

import pytest

from billing.collecting.client import StripeApi
from billing.invoices import show_invoice
from billing.issuing import mark_paid
from infra.database import Pool
from tests.collecting_world import Shop, open_shop
from tests.invoice_world import CHECKER

KEY = os.environ.get("STRIPE_TEST_API_KEY", "")
pytestmark = pytest.mark.skipif(
    not KEY, reason="STRIPE_TEST_API_KEY is not set: Stripe's own sandbox is not asked, the fake one is."
)


@pytest.fixture
async def shop(pool: Pool, database_url: str) -> AsyncIterator[Shop]:
    assert "_test_" in KEY, "a key of the test mode, never a live one"
    async with open_shop(
        pool, database_url, StripeApi(KEY, "https://api.stripe.com", timeout_s=30)
    ) as opened:
        await opened.run("UPDATE billing.issuer SET number_prefix = %s", f"T{os.urandom(6).hex()}-")
        yield opened


async def test_an_invoice_is_made_compared_sent_and_paid_out_of_band_in_the_sandbox(shop: Shop) -> None:
    (issued,) = await shop.issue()
    collection = await shop.collect(issued)
    assert (collection.state, collection.reason) == ("open", None)
    assert collection.stripe_invoice_id is not None
    there = await shop.api.read_invoice(collection.stripe_invoice_id)
    assert (there.total, there.currency, there.livemode) == (1540, "usd", False)
    await mark_paid(shop.pool, issued.invoice_id, CHECKER, "by hand")
    assert (await shop.collect(issued)).state == "paid"
    assert (await show_invoice(shop.pool, issued.invoice_id)).status == "paid"
