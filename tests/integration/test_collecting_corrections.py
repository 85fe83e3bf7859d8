"""Voids, write-offs and credit notes of collected invoices are told to Stripe, amount by amount."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from billing.corrections import void, write_off
from billing.credit_notes import (
    CreditLine,
    Remedy,
    approve_credit_note,
    create_credit_note,
    issue_credit_note,
)
from billing.invoices import Invoice, show_invoice
from billing.issuing import approve, issue, mark_paid
from infra.database import Pool
from tests.collecting_world import Boundaries, Died, Shop, open_shop
from tests.fake_stripe import Fault
from tests.invoice_world import CHECKER, MAKER, run


@pytest.fixture
async def shop(pool: Pool, database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(pool, database_url) as opened:
        yield opened


async def credited(shop: Shop, invoice: Invoice, minor: int, remedy: Remedy = "carry") -> str:
    """Credit so much of the line of 15.00 USD, by two people; returns the credit note's id."""
    (line,) = [one.line for one in invoice.lines if one.amount_minor == 1500]
    lines = [CreditLine(line, minor)]
    note = await create_credit_note(shop.pool, invoice.invoice_id, MAKER, lines, "too much", remedy)
    await approve_credit_note(shop.pool, note.credit_note_id, CHECKER)
    await issue_credit_note(shop.pool, note.credit_note_id, CHECKER)
    return note.credit_note_id


def notes(shop: Shop) -> list[tuple[int, int, Any]]:
    return [
        (one["amount"], one["pre_payment_amount"], one["out_of_band_amount"])
        for one in shop.objects.credit_notes.values()
    ]


async def test_what_is_credited_here_is_less_to_be_paid_there(shop: Shop) -> None:
    (issued,) = await shop.issue()
    await shop.collect(issued)
    first = await credited(shop, issued, 300)
    assert await shop.collector.take_up_due() == 1
    await shop.collect(issued)
    await credited(shop, issued, 240)
    await shop.collect(issued)
    assert notes(shop) == [(300, 300, None), (240, 240, None)]
    there = shop.only_invoice()
    assert there["amount_remaining"] == 1000
    assert next(iter(shop.objects.credit_notes.values()))["metadata"] == {"aiaas_credit_note_id": first}
    shop.objects.receive_payment(there["id"])
    await shop.collector.look_again(issued.invoice_id)
    assert (await show_invoice(shop.pool, issued.invoice_id)).status == "paid"


async def test_what_is_credited_before_it_is_sent_is_not_asked_for(shop: Shop) -> None:
    (issued,) = await shop.issue()
    await credited(shop, issued, 300)
    assert (await shop.collect(issued)).state == "open"
    calls = [one.name for one in shop.stripe.asked if one.method == "POST"]
    assert calls.index("POST /v1/credit_notes") < calls.index("POST /v1/invoices/*/send")
    assert shop.only_invoice()["amount_remaining"] == 1240


async def test_what_was_paid_already_goes_back_outside_of_stripe(shop: Shop) -> None:
    (issued,) = await shop.issue()
    await shop.collect(issued)
    shop.objects.receive_payment(shop.only_invoice()["id"])
    await shop.collector.look_again(issued.invoice_id)
    await credited(shop, issued, 300, "refund")
    assert (await shop.collect(issued)).state == "paid"
    assert notes(shop) == [(300, 0, 300)]


async def test_what_is_credited_wholly_is_paid_on_both_sides_and_nobody_is_charged(shop: Shop) -> None:
    (issued,) = await shop.issue()
    await shop.collect(issued)
    lines = [CreditLine(one.line, one.amount_minor) for one in issued.lines]
    note = await create_credit_note(shop.pool, issued.invoice_id, MAKER, lines, "all of it", "carry")
    await approve_credit_note(shop.pool, note.credit_note_id, CHECKER)
    await issue_credit_note(shop.pool, note.credit_note_id, CHECKER)
    assert (await show_invoice(shop.pool, issued.invoice_id)).status == "paid"
    assert (await shop.collect(issued)).state == "paid"
    there = shop.only_invoice()
    assert (there["status"], there["amount_paid"], notes(shop)) == ("paid", 0, [(1540, 1540, None)])
    assert shop.stripe.count("POST /v1/invoices/*/pay") == 0


async def test_a_credit_that_crosses_a_payment_is_for_people(shop: Shop) -> None:
    """The customer paid all of it before Stripe heard of the credit note."""
    (issued,) = await shop.issue()
    await shop.collect(issued)
    shop.objects.receive_payment(shop.only_invoice()["id"])
    await credited(shop, issued, 300)
    collection = await shop.collect(issued)
    assert (collection.state, "is open at Stripe" in str(collection.reason)) == ("mismatch", True)
    assert (await show_invoice(shop.pool, issued.invoice_id)).status == "issued"
    assert notes(shop) == []


async def test_a_credit_note_is_made_once_whatever_fails(shop: Shop) -> None:
    invoices = await shop.issue(14)
    await shop.collect_all(invoices)
    deaths = 0
    for number, invoice in enumerate(invoices[:12], 1):
        await credited(shop, invoice, 300)
        with pytest.MonkeyPatch.context() as patch:
            Boundaries(patch, lambda count, at=number: count == at)
            try:
                await shop.collector.collect(invoice.invoice_id)
            except Died:
                deaths += 1
    faults: list[Fault] = ["cut after", "500 after"]
    for invoice, fault in zip(invoices[12:], faults, strict=True):
        await credited(shop, invoice, 300)
        shop.stripe.fault = lambda asked, fault=fault: fault if asked.path == "/v1/credit_notes" else None
        await shop.collector.collect(invoice.invoice_id)
        shop.stripe.fault = lambda asked: None
    shop.stripe.forget_keys()
    await shop.collect_all(invoices)
    assert deaths > 8
    assert notes(shop) == [(300, 300, None)] * 14
    assert {one["amount_remaining"] for one in shop.objects.invoices.values()} == {1240}


async def test_a_void_invoice_is_void_there_and_the_one_that_replaces_it_is_another(shop: Shop) -> None:
    (issued,) = await shop.issue()
    await shop.collect(issued)
    await void(shop.pool, issued.invoice_id, CHECKER, "wrong", reissue=True)
    (made,) = await run(shop.pool)
    await approve(shop.pool, made.invoice_id, CHECKER)
    again = await issue(shop.pool, made.invoice_id, CHECKER)
    assert (await shop.collect(issued)).state == "void"
    assert (await shop.collect(again)).state == "open"
    there = {one["number"]: one for one in shop.objects.invoices.values()}
    assert {number: one["status"] for number, one in there.items()} == {
        "AG-000001": "void",
        "AG-000002": "open",
    }
    assert there["AG-000002"]["metadata"]["aiaas_revision"] == "2"
    assert len(shop.objects.customers) == 1


async def test_what_is_written_off_is_so_there_and_may_still_be_paid_by_hand(shop: Shop) -> None:
    (issued,) = await shop.issue()
    await shop.collect(issued)
    await write_off(shop.pool, issued.invoice_id, CHECKER, "they are gone")
    assert (await shop.collect(issued)).state == "uncollectible"
    await mark_paid(shop.pool, issued.invoice_id, CHECKER, "bank 7")
    assert (await shop.collect(issued)).state == "paid"
    assert shop.only_invoice()["amount_paid_off_stripe"] == 1540
