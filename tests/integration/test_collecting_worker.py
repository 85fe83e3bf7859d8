"""The billing worker collects: started with a key it does all by itself, without one it leaves all alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.store.collecting import read_collector
from infra.database import Pool
from tests.billing_world import add_account
from tests.collecting_world import AFTER_OCTOBER, DOLLARS
from tests.fake_stripe import API_KEY, FakeStripe
from tests.integration.test_billing_worker import Worker, eventually, one
from tests.invoice_world import OCTOBER, close, issue_all, use


@pytest.fixture
def stripe() -> Iterator[FakeStripe]:
    running = FakeStripe()
    yield running
    running.close()


async def test_a_worker_with_a_key_collects_and_one_without_has_it_done_by_hand(
    database_url: str, pool: Pool, tmp_path: Path, stripe: FakeStripe
) -> None:
    # Before the worker runs, who closes months too: what is charged after that is late.
    await use(database_url, await add_account(pool, now=OCTOBER), DOLLARS)
    await close(pool, AFTER_OCTOBER)
    environ = {"STRIPE_API_KEY": API_KEY, "STRIPE_API_BASE": stripe.url, "STRIPE_COLLECTION": "charge"}
    worker = Worker(database_url, tmp_path / "log", environ)
    assert worker.wait_ready()["state"] == "ready"
    switched = "SELECT coalesce(method, 'off') FROM billing.collector WHERE %s <> ''"
    assert await eventually(lambda: one(database_url, switched) == "charge")
    (issued,) = await issue_all(pool)
    status = "SELECT status FROM billing.invoice WHERE invoice_id = %s"
    assert await eventually(lambda: one(database_url, status, issued.invoice_id) == "paid")
    (there,) = stripe.objects.invoices.values()
    assert (there["status"], there["amount_paid"]) == ("paid", 1540)
    assert worker.stop() == 0
    assert API_KEY not in worker.log()

    without = Worker(database_url, tmp_path / "log", {})
    assert without.wait_ready()["state"] == "ready"
    assert await eventually(lambda: one(database_url, switched) == "off")
    assert without.stop() == 0
    async with pool.connection() as connection:
        assert (await read_collector(connection)).method is None
