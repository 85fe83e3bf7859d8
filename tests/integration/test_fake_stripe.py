"""The fake Stripe is one as far as it is leaned on: shapes as the package types them, and its rules."""

import asyncio
import threading
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import stripe

from tests.fake_stripe import API_KEY, VERSION, Asked, FakeStripe
from tests.stripe_objects import Json


@pytest.fixture
def fake() -> Iterator[FakeStripe]:
    running = FakeStripe()
    yield running
    running.close()


@pytest.fixture
def client(fake: FakeStripe) -> stripe.StripeClient:
    stripe.enable_telemetry = False
    return stripe.StripeClient(
        API_KEY, stripe_version=VERSION, base_addresses={"api": fake.url}, max_network_retries=0
    )


def draft(
    client: stripe.StripeClient, amounts: list[int], currency: str = "usd", **options: Any
) -> stripe.Invoice:
    customer = client.v1.customers.create(
        {"email": "a@example.com", "metadata": {"aiaas_tenant_id": "ten_1"}}
    )
    made = client.v1.invoices.create(
        {
            "customer": customer.id,
            "currency": currency,
            "collection_method": "send_invoice",
            "days_until_due": 30,
            "metadata": {"a": "b"},
        }
    )
    lines: Any = [{"amount": amount, "description": "x"} for amount in amounts]
    return client.v1.invoices.add_lines(made.id, {"lines": lines})


def wrong_fields(given: Json, kind: type) -> list[str]:
    """Fields of an object that the package does not know, lacks, or types otherwise."""
    hints = {
        name: hint for name, hint in kind.__annotations__.items() if name[0] != "_" and name != "OBJECT_NAME"
    }
    unknown = [f"{name} is unknown" for name in given if name not in hints]
    lacking = [
        f"{name} is lacking" for name, hint in hints.items() if name not in given and not _optional(hint)
    ]
    mistyped = [
        f"{name} is {given[name]!r}"
        for name in given
        if name in hints and not _fits(given[name], hints[name])
    ]
    return unknown + lacking + mistyped


def _optional(hint: Any) -> bool:
    return type(None) in get_args(hint)


def _fits(value: Any, hint: Any) -> bool:
    """As far as plain values go; objects within objects are compared by themselves."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint in (int, str, bool, type(None)):
        return type(value) is hint
    return value is None or isinstance(value, dict | list | str)


async def test_its_objects_are_shaped_as_the_package_types_them(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    made = draft(client, [100, 50])
    finalised = client.v1.invoices.finalize_invoice(made.id)
    client.v1.credit_notes.create({"invoice": made.id, "amount": 10})
    fake.objects.charge = "requires_action"
    with pytest.raises(stripe.CardError):
        client.v1.invoices.pay(made.id)
    read = client.v1.invoices.retrieve(made.id, {"expand": ["payments.data.payment.payment_intent"]})
    shown = fake.objects.read_invoice(made.id)
    assert wrong_fields(shown, stripe.Invoice) == []
    assert wrong_fields(shown["lines"]["data"][0], stripe.InvoiceLineItem) == []
    assert wrong_fields(shown["payments"]["data"][0], stripe.InvoicePayment) == []
    assert wrong_fields(next(iter(fake.objects.customers.values())), stripe.Customer) == []
    assert wrong_fields(next(iter(fake.objects.credit_notes.values())), stripe.CreditNote) == []
    for event in fake.objects.events:
        assert wrong_fields(event, stripe.Event) == []
    assert isinstance(finalised, stripe.Invoice)
    assert isinstance(read.lines.data[0], stripe.InvoiceLineItem)
    assert read.payments is not None
    assert isinstance(read.payments.data[0].payment, stripe.InvoicePayment.Payment)


def test_the_check_of_shapes_sees_what_it_looks_for() -> None:
    blank: Json = {"id": "in_1", "status": 7, "surprise": 1}
    found = wrong_fields(blank, stripe.Invoice)
    assert "surprise is unknown" in found
    assert "status is 7" in found
    assert "amount_due is lacking" in found


def test_a_key_gives_the_same_answer_for_the_same_request_and_an_error_for_another(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    first = client.v1.customers.create({"name": "A"}, {"idempotency_key": "k"})
    assert client.v1.customers.create({"name": "A"}, {"idempotency_key": "k"}).id == first.id
    with pytest.raises(stripe.IdempotencyError):
        client.v1.customers.create({"name": "B"}, {"idempotency_key": "k"})
    assert len(fake.objects.customers) == 1
    fake.forget_keys()
    assert client.v1.customers.create({"name": "A"}, {"idempotency_key": "k"}).id != first.id


async def test_a_key_that_is_at_work_conflicts(fake: FakeStripe, client: stripe.StripeClient) -> None:
    entered, release = threading.Event(), threading.Event()

    def hold(asked: Asked) -> None:
        entered.set()
        release.wait(10)

    fake.hold = hold
    create = client.v1.customers.create
    first = asyncio.create_task(asyncio.to_thread(create, {"name": "A"}, {"idempotency_key": "k"}))
    await asyncio.to_thread(entered.wait, 10)
    with pytest.raises(stripe.APIError) as conflict:
        await asyncio.to_thread(create, {"name": "A"}, {"idempotency_key": "k"})
    assert conflict.value.http_status == 409
    release.set()
    await first


def test_an_error_of_the_server_is_kept_with_its_key_and_a_refusal_is_not(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    fake.fault = lambda asked: "500 after"
    with pytest.raises(stripe.APIError):
        client.v1.customers.create({"name": "A"}, {"idempotency_key": "k"})
    fake.fault = lambda asked: None
    with pytest.raises(stripe.APIError):
        client.v1.customers.create({"name": "A"}, {"idempotency_key": "k"})
    assert len(fake.objects.customers) == 1
    params: Any = {"customer": "cus_none", "currency": "usd"}
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.invoices.create(params, {"idempotency_key": "l"})
    params["customer"] = next(iter(fake.objects.customers))
    assert client.v1.invoices.create(params, {"idempotency_key": "l"}).status == "draft"


def test_states_go_one_way(client: stripe.StripeClient) -> None:
    invoices = client.v1.invoices
    made = draft(client, [1000])
    for refused in (invoices.send_invoice, invoices.void_invoice, invoices.mark_uncollectible, invoices.pay):
        with pytest.raises(stripe.InvalidRequestError):
            refused(made.id)
    invoices.finalize_invoice(made.id)
    for refused in (invoices.finalize_invoice, invoices.delete):
        with pytest.raises(stripe.InvalidRequestError):
            refused(made.id)
    assert invoices.pay(made.id, {"paid_out_of_band": True}).status == "paid"
    for refused in (invoices.void_invoice, invoices.mark_uncollectible, invoices.pay, invoices.send_invoice):
        with pytest.raises(stripe.InvalidRequestError):
            refused(made.id)


@pytest.mark.parametrize(
    ("currency", "amounts", "status", "due"),
    [
        ("usd", [49], "paid", 0),
        ("usd", [50], "open", 50),
        ("jpy", [49], "paid", 0),
        ("jpy", [50], "open", 50),
        ("twd", [1400], "paid", 0),
        ("twd", [1500], "open", 1500),
        ("usd", [100, -100], "paid", 0),
    ],
)
def test_too_little_to_charge_is_kept_for_later(
    client: stripe.StripeClient, currency: str, amounts: list[int], status: str, due: int
) -> None:
    final = client.v1.invoices.finalize_invoice(draft(client, amounts, currency).id)
    assert (final.status, final.amount_due) == (status, due)


def test_limits(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.invoices.finalize_invoice(draft(client, [1550], "twd").id)
    full = draft(client, [1] * 250)
    assert len(list(client.v1.invoices.line_items.list(full.id, {"limit": 100}).auto_paging_iter())) == 250
    one_more: Any = [{"amount": 1}]
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.invoices.add_lines(full.id, {"lines": one_more})
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.invoices.list({"limit": 101})
