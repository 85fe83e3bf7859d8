"""What is done next, for every pair of states that there is."""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import msgspec
import pytest

from billing.collecting.remote import RemoteInvoice
from billing.collecting.steps import Step, look_again_in, next_step, state_of
from billing.store.collecting import CollectionRow

NOW = datetime(2025, 11, 1, tzinfo=UTC)
ROW = CollectionRow(
    invoice_id="inv_1",
    tenant_id="ten_1",
    period="2025-10",
    revision=1,
    invoice_status="issued",
    number="AG-000001",
    currency="USD",
    due_minor=100,
    livemode=False,
    method="send",
    entered_at=NOW,
    state="waiting",
    reason=None,
    customer_id="cus_1",
    stripe_invoice_id="in_1",
    delivered_at=NOW,
    payment_attempts=0,
    checked_at=None,
    due_at=None,
    attempts=0,
    series=0,
    read_at=NOW,
    credited_minor=0,
)
THERE = RemoteInvoice(
    id="in_1",
    status="open",
    currency="usd",
    livemode=False,
    created=0,
    total=100,
    subtotal=100,
    amount_due=100,
    amount_paid=0,
    amount_remaining=100,
    collection_method="send_invoice",
)


def at_stripe(**fields: Any) -> RemoteInvoice:
    return msgspec.convert(msgspec.to_builtins(THERE) | fields, RemoteInvoice)


def paying(status: str) -> dict[str, Any]:
    return {"payments": {"data": [{"status": "open", "payment": {"payment_intent": {"status": status}}}]}}


def test_what_is_final_on_both_sides_is_left_alone_and_contradictions_are_for_people() -> None:
    final = {
        (here, there): next_step(
            msgspec.structs.replace(ROW, invoice_status=here), at_stripe(status=there), 1
        )
        for here, there in product(
            ("issued", "paid", "void", "uncollectible"), ("draft", "open", "paid", "void", "uncollectible")
        )
    }
    assert {pair for pair, step in final.items() if step is Step.MISMATCH} == {
        ("issued", "void"),
        ("paid", "void"),
        ("uncollectible", "void"),
        ("void", "paid"),
    }
    assert {pair for pair, step in final.items() if step is Step.NOTE} == {
        ("issued", "open"),
        ("issued", "uncollectible"),
        ("paid", "paid"),
        ("void", "void"),
        ("uncollectible", "uncollectible"),
    }
    assert {pair for pair, step in final.items() if step is Step.SETTLE} == {
        ("issued", "paid"),
        ("uncollectible", "paid"),
    }
    assert {pair for pair, step in final.items() if step is Step.FINALISE} == {("issued", "draft")}


def test_the_way_of_an_invoice_that_goes_well() -> None:
    fresh = msgspec.structs.replace(ROW, delivered_at=None)
    assert next_step(fresh, None, 0) is Step.CREATE
    assert next_step(fresh, at_stripe(status="draft"), 0) is Step.ADD_ITEMS
    assert next_step(fresh, at_stripe(status="draft"), 2) is Step.FINALISE
    assert next_step(fresh, at_stripe(), 2) is Step.DELIVER
    assert next_step(ROW, at_stripe(), 2) is Step.NOTE


def test_a_credit_note_comes_before_all_that_depends_on_what_is_open() -> None:
    for here, there in (("issued", "open"), ("paid", "open"), ("paid", "paid"), ("uncollectible", "open")):
        row = msgspec.structs.replace(ROW, invoice_status=here, delivered_at=None)
        assert next_step(row, at_stripe(status=there), 2, 1) is Step.CREDIT
    assert next_step(ROW, at_stripe(status="draft"), 2, 1) is Step.FINALISE
    assert next_step(ROW, at_stripe(status="uncollectible"), 2, 1) is Step.NOTE


@pytest.mark.parametrize(
    ("method", "fields", "state"),
    [
        ("send", {}, "open"),
        ("send", {"due_date": int(NOW.timestamp()) + 1}, "open"),
        ("send", {"due_date": int(NOW.timestamp())}, "past_due"),
        ("send", {"attempt_count": 1}, "payment_failed"),
        ("send", {"attempt_count": 1, **paying("requires_action")}, "action_required"),
        ("charge", paying("requires_payment_method"), "payment_failed"),
        ("charge", paying("requires_action"), "action_required"),
        ("charge", paying("processing"), "open"),
        ("charge", {"status": "paid"}, "paid"),
        ("send", {"status": "uncollectible"}, "uncollectible"),
        ("send", {"status": "void"}, "void"),
    ],
)
def test_dunning_states(method: str, fields: dict[str, Any], state: str) -> None:
    assert state_of(msgspec.structs.replace(ROW, method=method), at_stripe(**fields), NOW) == state


def test_an_open_invoice_is_looked_at_again_when_it_falls_due_or_is_charged_again() -> None:
    now_s = int(NOW.timestamp())
    assert look_again_in(at_stripe(due_date=now_s + 100), NOW) == timedelta(seconds=160)
    assert look_again_in(at_stripe(due_date=now_s - 1), NOW) is None
    assert look_again_in(at_stripe(next_payment_attempt=now_s + 60), NOW) == timedelta(seconds=3660)
    assert look_again_in(at_stripe(due_date=now_s + 100, status="paid"), NOW) is None
