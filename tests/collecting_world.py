"""Issued invoices to collect, a collector over a fake Stripe, and crashes at every boundary."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import stripe

from billing.collecting import outbox
from billing.collecting.client import StripeApi
from billing.collecting.collector import Collector
from billing.collecting.listing import Collection, show_collection
from billing.invoices import Invoice
from billing.meters import INTENT_CALLS, TTS_CHARACTERS
from infra.database import Connection, Pool
from tests.billing_world import add_account, charge, open_ledger
from tests.fake_stripe import API_KEY, FakeStripe
from tests.invoice_world import OCTOBER, close, issue_all

AFTER_OCTOBER = datetime(2025, 11, 1, 12, tzinfo=UTC)
DOLLARS = [(TTS_CHARACTERS, 1_000_000), (INTENT_CALLS, 1000)]  # 15 USD, and 0.40
EMAIL = "books@example.com"


class Shop:
    """A collector over a fake Stripe, without any pause between attempts."""

    def __init__(self, pool: Pool, database_url: str, stripe: FakeStripe, api: StripeApi) -> None:
        self.pool = pool
        self.database_url = database_url
        self.stripe = stripe
        self.objects = stripe.objects
        self.api = api
        self.collector = Collector(pool, api, timeout_s=0, first_retry_ms=0)

    async def issue(self, tenants: int = 1, method: Any = "send") -> list[Invoice]:
        """Invoices of new tenants for October, 15.40 USD each, issued with the collector on."""
        await outbox.set_collector(self.pool, method, livemode=False)
        made = [await add_account(self.pool, now=OCTOBER) for _ in range(tenants)]
        uses = [charge(tenant_id, *one, OCTOBER) for tenant_id in made for one in DOLLARS]
        async with open_ledger(self.database_url) as ledger:
            await asyncio.gather(*map(ledger.charge, uses))
        await self.run("UPDATE billing.profile SET email = %s", EMAIL)
        await close(self.pool, AFTER_OCTOBER)
        return await issue_all(self.pool)

    async def collect(self, invoice: Invoice) -> Collection:
        """See to an invoice until it is not due any more."""
        for _ in range(20):
            await self.make_due(invoice)
            await self.collector.collect(invoice.invoice_id)
            shown = await self.show(invoice)
            if shown.look_again_at is None or shown.look_again_at > datetime.now(UTC) + timedelta(minutes=1):
                return shown
        raise AssertionError(f"it does not come to rest: {shown}")

    async def make_due(self, invoice: Invoice) -> None:
        """Let the pause of a minute at most go by that it may be in."""
        await self.run(
            "UPDATE billing.collection SET due_at = now() "
            "WHERE invoice_id = %s AND due_at < now() + '1 minute'",
            invoice.invoice_id,
        )

    async def collect_all(self, invoices: Sequence[Invoice]) -> None:
        """See to each of them, a few at a time."""
        left = iter(invoices)

        async def work() -> None:
            for invoice in left:
                await self.collect(invoice)

        await asyncio.gather(*(work() for _ in range(3)))

    async def show(self, invoice: Invoice) -> Collection:
        return await show_collection(self.pool, invoice.invoice_id)

    async def run(self, statement: str, *values: object) -> list[Any]:
        async with self.pool.connection() as connection:
            cursor = await connection.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []

    def only_invoice(self) -> dict[str, Any]:
        """Stripe's one and only invoice, of its one and only customer."""
        (customer,) = self.objects.customers.values()
        (invoice,) = self.objects.invoices.values()
        assert invoice["customer"] == customer["id"]
        return invoice


@asynccontextmanager
async def open_shop(pool: Pool, database_url: str, api: StripeApi | None = None) -> AsyncIterator[Shop]:
    stripe = FakeStripe()
    api = api or StripeApi(API_KEY, stripe.url, timeout_s=2)
    try:
        yield Shop(pool, database_url, stripe, api)
    finally:
        await api.close()
        stripe.close()


class Died(BaseException):
    """The process is gone: nothing in it catches this."""


class Boundaries:
    """Counts the moments before and after each commit and each call to Stripe, and dies at one of them."""

    def __init__(self, monkeypatch: Any, die_at: Callable[[int], bool] = lambda _: False) -> None:
        self.count = 0
        self.die_at = die_at
        self._wrap_commits(monkeypatch)
        self._wrap_calls(monkeypatch)

    def reach(self) -> None:
        self.count += 1
        if self.die_at(self.count):
            raise Died

    def _wrap_commits(self, monkeypatch: Any) -> None:
        original = psycopg.AsyncConnection.transaction
        boundaries = self

        @asynccontextmanager
        async def transaction(connection: Connection, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            is_outermost = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            async with original(connection, *args, **kwargs) as inner:
                yield inner
                if is_outermost:
                    boundaries.reach()
            if is_outermost:
                boundaries.reach()

        monkeypatch.setattr(psycopg.AsyncConnection, "transaction", transaction)

    def _wrap_calls(self, monkeypatch: Any) -> None:
        original = stripe.HTTPXClient.request_async
        boundaries = self

        async def request_async(client: Any, *args: Any, **kwargs: Any) -> Any:
            boundaries.reach()
            answer = await original(client, *args, **kwargs)
            boundaries.reach()
            return answer

        monkeypatch.setattr(stripe.HTTPXClient, "request_async", request_async)
