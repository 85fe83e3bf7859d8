"""Crash at every boundary, whatever the network and Stripe do: the same final state, one invoice of each."""

import asyncio
import itertools
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.collecting import outbox
from billing.collecting.client import StripeApi
from billing.collecting.collector import Collector
from billing.collecting.webhooks import StripeEvents
from billing.invoices import Invoice, show_invoice
from billing.issuing import approve, issue, mark_paid
from infra.database import Pool
from tests.billing_world import add_account
from tests.collecting_world import AFTER_OCTOBER, DOLLARS, Boundaries, Died, Shop, open_shop
from tests.fake_stripe import API_KEY, WEBHOOK_SECRET, Asked, Fault
from tests.invoice_world import CHECKER, OCTOBER, close, run, use

MOST_BOUNDARIES = 100


@pytest.fixture
async def shop(pool: Pool, database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(pool, database_url) as opened:
        yield opened


def settled_there(shop: Shop, invoice: Invoice) -> dict[str, Any]:
    """The one invoice of ours that there is at Stripe, of the one customer, with our amounts."""
    (customer,) = [
        one
        for one in shop.objects.customers.values()
        if one["metadata"]["aiaas_tenant_id"] == invoice.tenant_id
    ]
    (there,) = [
        one
        for one in shop.objects.invoices.values()
        if one["metadata"]["aiaas_invoice_id"] == invoice.invoice_id
    ]
    assert there["customer"] == customer["id"]
    assert [line["amount"] for line in shop.objects.lines[there["id"]]] == [40, 1500]
    assert (there["total"], there["number"]) == (1540, invoice.number)
    return there


async def die_at_each_boundary(shop: Shop, invoices: list[Invoice], deed: Callable[[Invoice], Any]) -> int:
    """Do it for each invoice, the n-th of which dies at the n-th boundary; returns how many there are."""
    for number, invoice in enumerate(invoices, 1):
        with pytest.MonkeyPatch.context() as patch:
            boundaries = Boundaries(patch, lambda count, at=number: count == at)
            try:
                await deed(invoice)
            except Died:
                continue
            return boundaries.count
    raise AssertionError("there are more boundaries than invoices")


@pytest.mark.parametrize("forgotten", [False, True], ids=["soon", "a day later"])
async def test_a_crash_at_any_boundary_of_sending_leads_to_the_same_end(shop: Shop, forgotten: bool) -> None:
    invoices = await shop.issue(50)
    count = await die_at_each_boundary(shop, invoices, lambda one: shop.collector.collect(one.invoice_id))
    assert count > 35
    if forgotten:
        shop.stripe.forget_keys()
    await shop.collect_all(invoices)
    for invoice in invoices:
        there = settled_there(shop, invoice)
        assert (there["status"], there["auto_advance"]) == ("open", True)
        assert (await shop.show(invoice)).state == "open"
    emails = [shop.objects.emails.count(one["id"]) for one in shop.objects.invoices.values()]
    assert max(emails) <= (2 if forgotten else 1)
    assert min(emails) == 1


async def test_a_crash_at_any_boundary_of_being_paid_leads_to_the_same_end(shop: Shop) -> None:
    invoices = await shop.issue(16)
    await shop.collect_all(invoices)
    for there in shop.objects.invoices.values():
        shop.objects.receive_payment(there["id"])
    count = await die_at_each_boundary(shop, invoices, lambda one: shop.collector.look_again(one.invoice_id))
    assert count > 10
    for invoice in invoices:
        await shop.collector.look_again(invoice.invoice_id)
        assert (await show_invoice(shop.pool, invoice.invoice_id)).status == "paid"
        assert (await shop.collect(invoice)).state == "paid"
        ((payments,),) = await shop.run(
            "SELECT count(*) FROM billing.audit_event WHERE subject = %s AND action = 'paid'",
            invoice.invoice_id,
        )
        assert payments == 1


async def test_a_crash_at_any_boundary_of_being_paid_by_hand_leads_to_the_same_end(shop: Shop) -> None:
    invoices = await shop.issue(16)
    await shop.collect_all(invoices)

    async def pay(invoice: Invoice) -> None:
        await mark_paid(shop.pool, invoice.invoice_id, CHECKER, "bank")
        await shop.collector.collect(invoice.invoice_id)

    await die_at_each_boundary(shop, invoices, pay)
    for invoice in invoices:
        ours = (await show_invoice(shop.pool, invoice.invoice_id)).status
        state = (await shop.collect(invoice)).state
        assert (ours, state, settled_there(shop, invoice)["status"]) in (
            ("paid", "paid", "paid"),
            ("issued", "open", "open"),  # it died before it was paid
        )


async def test_an_invoice_is_issued_and_to_be_collected_or_neither(shop: Shop, database_url: str) -> None:
    await outbox.set_collector(shop.pool, "send", livemode=False)
    for _ in range(3):
        await use(database_url, await add_account(shop.pool, now=OCTOBER), DOLLARS)
    await close(shop.pool, AFTER_OCTOBER)
    made = await run(shop.pool)
    for one in made:
        await approve(shop.pool, one.invoice_id, CHECKER)
    await die_at_each_boundary(shop, made, lambda one: issue(shop.pool, one.invoice_id, CHECKER))
    rows = await shop.run(
        "SELECT status, collection.invoice_id IS NOT NULL FROM billing.invoice "
        "LEFT JOIN billing.collection USING (invoice_id)"
    )
    assert sorted(rows) == [("approved", False), ("issued", True), ("issued", True)]


CALLS = [
    *("GET /v1/customers/search", "POST /v1/customers", "POST /v1/customers/*"),
    *("GET /v1/invoices", "POST /v1/invoices", "GET /v1/invoices/*", "POST /v1/invoices/*/add_lines"),
    *("GET /v1/invoices/*/lines", "POST /v1/invoices/*/finalize", "POST /v1/invoices/*/send"),
    "POST /v1/invoices/*",
]
FAULTS: list[Fault] = ["429", "500", "500 after", "cut before", "cut after", "garbage"]


async def test_any_call_may_fail_in_any_way_and_is_tried_again(shop: Shop) -> None:
    """One invoice for each way of each call to fail, once. What only reads leaves nothing half done."""
    changes = [name for name in CALLS if name.startswith("POST")]
    plans = list(itertools.product(changes, FAULTS))
    plans += [(name, "cut before") for name in CALLS if name.startswith("GET") and name != CALLS[0]]
    invoices = await shop.issue(len(plans))
    for invoice, (name, fault) in zip(invoices, plans, strict=True):
        left = [fault]
        shop.stripe.fault = lambda asked, name=name, left=left: _once(asked, name, left)
        await shop.collector.collect(invoice.invoice_id)
        first = await shop.show(invoice)
        assert left == [], name
        assert (first.failed_attempts, first.state) == (1, "waiting"), (name, fault)
        assert (await shop.collect(invoice)).state == "open", (name, fault)
        assert settled_there(shop, invoice)["status"] == "open"


def _once(asked: Asked, name: str, left: list[Fault]) -> Fault:
    """`fault` is asked twice about a request: by the network, and by the server."""
    if asked.name != name or not left:
        return None
    fault = left[0]
    left.append(fault)
    if len(left) == 3 or fault in ("429", "cut before"):
        left.clear()
    return fault


async def test_an_answer_that_takes_too_long_is_asked_for_again(shop: Shop) -> None:
    """The request is still at work when it is sent again: Stripe says so, then gives the first answer."""
    (invoice,) = await shop.issue()
    await shop.api.close()
    shop.api = StripeApi(API_KEY, shop.stripe.url, timeout_s=0.2)
    shop.collector = Collector(shop.pool, shop.api, timeout_s=0, first_retry_ms=0)
    release = threading.Event()

    def hold(asked: Asked) -> None:
        if asked.name == "POST /v1/invoices":
            release.wait(10)

    shop.stripe.hold = hold
    await shop.collector.collect(invoice.invoice_id)
    assert (await shop.show(invoice)).reason == "no_answer"
    await shop.run("UPDATE billing.collection SET due_at = now()")
    await shop.collector.collect(invoice.invoice_id)
    assert (await shop.show(invoice)).reason == "http_409 idempotency_error idempotency_key_in_use req_1"
    release.set()
    assert (await shop.collect(invoice)).state == "open"
    settled_there(shop, invoice)


async def test_many_workers_at_once_make_one_invoice(shop: Shop) -> None:
    """Leases of no time: every worker is at the same invoices, step by step."""
    invoices = await shop.issue(4)

    async def work() -> None:
        for _ in range(6):
            for invoice in invoices:
                await shop.run("UPDATE billing.collection SET due_at = now() WHERE state <> 'open'")
                await shop.collector.collect(invoice.invoice_id)

    await asyncio.gather(*(work() for _ in range(4)))
    for invoice in invoices:
        assert (await shop.collect(invoice)).state == "open"
        settled_there(shop, invoice)
    assert sorted(shop.objects.emails) == sorted(shop.objects.invoices)


async def test_any_order_of_events_jobs_and_crashes_leads_to_the_same_end(shop: Shop) -> None:
    """Hypothesis chooses: work, die at some boundary, lose or repeat or reorder events, forget keys, pay."""
    invoices = iter(await shop.issue(30))
    loop = asyncio.get_running_loop()

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("die"), st.integers(1, 45)),
                st.tuples(st.sampled_from(["work", "events", "forget", "pay", "fault"]), st.integers(0, 9)),
            ),
            max_size=8,
        )
    )
    def story(deeds: list[tuple[str, int]]) -> None:
        invoice = next(invoices)
        asyncio.run_coroutine_threadsafe(_live(shop, invoice, deeds), loop).result(60)

    await asyncio.to_thread(story)


async def _live(shop: Shop, invoice: Invoice, deeds: list[tuple[str, int]]) -> None:
    events = StripeEvents(shop.pool, [WEBHOOK_SECRET])
    chance = random.Random(len(deeds))
    shop.stripe.fault = lambda asked: None
    for deed, number in deeds:
        await shop.make_due(invoice)
        if deed == "die":
            with pytest.MonkeyPatch.context() as patch:
                Boundaries(patch, lambda count, at=number: count == at)
                with suppress(Died):
                    await shop.collector.collect(invoice.invoice_id)
        elif deed == "work":
            await shop.collector.collect(invoice.invoice_id)
        elif deed == "fault":
            fault = FAULTS[number % len(FAULTS)]
            shop.stripe.fault = lambda asked, fault=fault: fault if chance.random() < 0.3 else None
            await shop.collector.collect(invoice.invoice_id)
            shop.stripe.fault = lambda asked: None
        elif deed == "events":
            for event in chance.sample(shop.objects.events, min(len(shop.objects.events), 1 + number)):
                await events.receive(*shop.stripe.signed(event))
        elif deed == "forget":
            shop.stripe.forget_keys()
        else:
            for there in list(shop.objects.invoices.values()):
                if there["status"] == "open" and there["metadata"]["aiaas_invoice_id"] == invoice.invoice_id:
                    shop.objects.receive_payment(there["id"])
    await shop.collect(invoice)
    there = settled_there(shop, invoice)
    if there["status"] == "open":
        shop.objects.receive_payment(there["id"])
    for event in shop.objects.events[-3:]:
        await events.receive(*shop.stripe.signed(event))
    assert (await shop.collect(invoice)).state == "paid"
    assert settled_there(shop, invoice)["amount_paid"] == 1540
    assert (await show_invoice(shop.pool, invoice.invoice_id)).status == "paid"
