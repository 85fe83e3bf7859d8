"""Stripe's events: signed, kept once, in any order, and believed in nothing but that there is news."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from stripe import WebhookSignature

from billing.audit import audit_trail
from billing.collecting.webhooks import (
    EventsOffError,
    OldEventError,
    SignatureError,
    StripeEventError,
    StripeEvents,
    verify,
)
from billing.invoices import Invoice, show_invoice
from infra.database import Pool
from tests.collecting_world import Shop, open_shop
from tests.fake_stripe import WEBHOOK_SECRET, FakeStripe

EVENT: dict[str, Any] = {
    "id": "evt_1",
    "object": "event",
    "type": "invoice.paid",
    "api_version": "2020-08-27",
    "livemode": False,
    "data": {"object": {"id": "in_none", "object": "invoice", "metadata": {}}},
}


@pytest.fixture
async def shop(pool: Pool, database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(pool, database_url) as opened:
        yield opened


@pytest.fixture
def events(pool: Pool) -> StripeEvents:
    return StripeEvents(pool, ["whsec_old", WEBHOOK_SECRET])


async def kept(shop: Shop) -> dict[str, tuple[Any, ...]]:
    rows = await shop.run("SELECT event_id, outcome, reason, invoice_id FROM billing.stripe_event")
    return {row[0]: tuple(row[1:]) for row in rows}


async def sent(shop: Shop) -> tuple[Invoice, dict[str, Any]]:
    (issued,) = await shop.issue()
    await shop.collect(issued)
    return issued, shop.only_invoice()


async def test_an_event_makes_us_look_and_is_handled_with_what_was_found(
    shop: Shop, events: StripeEvents
) -> None:
    issued, there = await sent(shop)
    shop.objects.receive_payment(there["id"])
    paid = shop.objects.events[-1]
    assert await events.receive(*shop.stripe.signed(paid)) == "received"
    assert (await kept(shop))[paid["id"]] == ("received", None, issued.invoice_id)
    assert (await show_invoice(shop.pool, issued.invoice_id)).status == "issued"
    assert await shop.collector.take_up_due() == 1
    await shop.collector.collect(issued.invoice_id)
    assert (await kept(shop))[paid["id"]][0] == "applied"
    assert (await show_invoice(shop.pool, issued.invoice_id)).status == "paid"

    asked = len(shop.stripe.asked)
    assert await events.receive(*shop.stripe.signed(paid)) == "repeated"
    assert await shop.collector.take_up_due() == 0
    assert len(shop.stripe.asked) == asked


async def test_all_events_at_once_backwards_and_twice_lead_to_what_is_at_stripe(
    shop: Shop, events: StripeEvents
) -> None:
    issued, there = await sent(shop)
    shop.objects.receive_payment(there["id"])
    for event in [*reversed(shop.objects.events), *shop.objects.events]:
        await events.receive(*shop.stripe.signed(event))
    await shop.collector.collect(issued.invoice_id)
    assert (await show_invoice(shop.pool, issued.invoice_id)).status == "paid"
    assert {outcome for outcome, _, _ in (await kept(shop)).values()} == {"applied"}
    assert [event.action for event in await audit_trail(shop.pool, issued.invoice_id)].count("paid") == 1


async def test_what_an_event_says_is_not_believed(shop: Shop, events: StripeEvents) -> None:
    """A signed event that says paid, of an invoice that is not."""
    issued, there = await sent(shop)
    said = {**there, "status": "paid", "amount_paid": 1540, "amount_remaining": 0}
    await events.receive(*shop.stripe.signed({**EVENT, "data": {"object": said}}))
    await shop.collector.collect(issued.invoice_id)
    assert (await shop.show(issued)).state == "open"
    assert (await show_invoice(shop.pool, issued.invoice_id)).status == "issued"


async def test_an_event_may_come_before_the_invoices_id_is_on_record(
    shop: Shop, events: StripeEvents
) -> None:
    (issued,) = await shop.issue()
    about = {"id": "in_1", "object": "invoice", "metadata": {"aiaas_invoice_id": issued.invoice_id}}
    assert await events.receive(*shop.stripe.signed({**EVENT, "data": {"object": about}})) == "received"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "not_ours"),
        ({"type": "customer.created"}, "unknown_type"),
        ({"type": "something.new", "data": {"object": {}}}, "unknown_type"),
        ({"data": {"object": {"object": "invoice", "id": 7, "metadata": "none"}}}, "not_ours"),
        ({"type": "credit_note.created", "data": {"object": {"object": "credit_note"}}}, "not_ours"),
    ],
)
async def test_an_event_about_nothing_of_ours_is_taken_kept_and_ignored(
    shop: Shop, events: StripeEvents, change: dict[str, Any], reason: str
) -> None:
    assert await events.receive(*shop.stripe.signed({**EVENT, **change})) == "ignored"
    assert await kept(shop) == {"evt_1": ("ignored", reason, None)}


async def test_an_event_of_the_other_mode_is_ignored(shop: Shop, events: StripeEvents) -> None:
    _, there = await sent(shop)
    event = {**EVENT, "livemode": True, "data": {"object": there}}
    assert await events.receive(*shop.stripe.signed(event)) == "ignored"
    assert (await kept(shop))["evt_1"] == ("ignored", "other_mode", None)
    assert await shop.collector.take_up_due() == 0


async def test_a_credit_notes_event_is_about_its_invoice(shop: Shop, events: StripeEvents) -> None:
    issued, there = await sent(shop)
    about = {"id": "cn_1", "object": "credit_note", "invoice": there["id"]}
    event = {**EVENT, "type": "credit_note.created", "data": {"object": about}}
    assert await events.receive(*shop.stripe.signed(event)) == "received"
    assert (await kept(shop))["evt_1"] == ("received", None, issued.invoice_id)


async def test_what_is_not_signed_or_not_an_event_changes_nothing_and_is_on_record_within_bounds(
    shop: Shop, events: StripeEvents
) -> None:
    body, good = FakeStripe.signed(EVENT)
    refused: list[tuple[bytes, str, type[StripeEventError]]] = [
        (body, "", SignatureError),
        (body + b" ", good, SignatureError),
        (body, FakeStripe.signed(EVENT, "whsec_other")[1], SignatureError),
        (body, FakeStripe.signed(EVENT, at_s=int(time.time()) - 301)[1], OldEventError),
        (body, FakeStripe.signed(EVENT, at_s=int(time.time()) + 301)[1], OldEventError),
        (*_signed(b"[]"), StripeEventError),
        (*_signed(b"\xff"), StripeEventError),
        (*_signed(b'{"id": "", "type": "invoice.paid"}'), StripeEventError),
        (*_signed(b'{"type": "invoice.paid"}'), StripeEventError),
    ]
    for sent_body, signature, error in refused * 20:
        with pytest.raises(error):
            await events.receive(sent_body, signature)
    assert await kept(shop) == {}
    trail = await audit_trail(shop.pool, "stripe")
    assert {(event.actor, event.action, event.refused) for event in trail} == {
        ("unknown", "stripe_event", True)
    }
    codes = sorted(str(event.detail["code"]) for event in trail)
    assert codes == ["stripe_event_invalid", "stripe_signature_invalid", "stripe_timestamp_invalid"]
    with pytest.raises(EventsOffError):
        await StripeEvents(shop.pool, []).receive(body, good)


def _signed(body: bytes) -> tuple[bytes, str]:
    import hashlib
    import hmac

    at = int(time.time())
    digest = hmac.new(WEBHOOK_SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return body, f"t={at},v1={digest}"


def test_a_signature_of_the_official_package_is_a_good_one() -> None:
    body = json.dumps(EVENT)
    header = WebhookSignature.generate_signature_header(body, WEBHOOK_SECRET, 1_700_000_000)
    verify(["whsec_x", WEBHOOK_SECRET], body.encode(), header, 1_700_000_299)
    assert WebhookSignature.verify_header(body, FakeStripe.signed(EVENT)[1], WEBHOOK_SECRET)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=",
        "v1=aa",
        "t=1,t=2,v1=aa",
        "t=-5,v1=aa",
        "t=٣,v1=aa",
        "t=1700000000",
        "t=1700000000,v1=",
        "t=1700000000,v1=ÿ",
        "t=1700000000,v0={good}",
        "nonsense,=,,t",
    ],
)
def test_a_broken_header_is_no_signature(header: str) -> None:
    good = WebhookSignature.generate_signature_header("{}", WEBHOOK_SECRET, 1_700_000_000).rpartition("=")[2]
    with pytest.raises(SignatureError):
        verify([WEBHOOK_SECRET], b"{}", header.replace("{good}", good), 1_700_000_000)


async def test_handled_events_are_forgotten_after_a_while(shop: Shop, events: StripeEvents) -> None:
    await events.receive(*shop.stripe.signed(EVENT))
    await shop.run("UPDATE billing.stripe_event SET received_at = now() - interval '91 days'")
    assert await shop.collector.forget_events() == 1
    assert await kept(shop) == {}
