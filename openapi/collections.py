"""Invoices that are collected through Stripe, as the vendor's own people see them, and Stripe's events."""

from datetime import datetime
from typing import Literal

from msgspec import Struct

from openapi.review import Next


class CollectionBody(Struct, frozen=True, kw_only=True):
    """An invoice on its way through Stripe. `failed` and `mismatch` wait for somebody, and `reason` says why;
    `due_minor` is in the currency's smallest unit as invoiced."""

    invoice_id: str
    tenant_id: str
    period: str
    number: str
    invoice_status: str
    state: Literal[
        "waiting",
        "failed",
        "mismatch",
        "open",
        "past_due",
        "payment_failed",
        "action_required",
        "paid",
        "uncollectible",
        "void",
        "withdrawn",
    ]
    reason: str | None
    currency: str
    due_minor: int
    due: str
    method: Literal["send", "charge"]
    livemode: bool
    stripe_invoice_id: str | None
    stripe_customer_id: str | None
    entered_at: datetime
    delivered_at: datetime | None
    checked_at: datetime | None
    look_again_at: datetime | None
    failed_attempts: int
    payment_attempts: int
    object: Literal["collection"] = "collection"


class CollectionListBody(Struct, frozen=True):
    """Collections, the latest first."""

    data: list[CollectionBody]
    next: Next
    object: Literal["list"] = "list"


class StripeEventReceipt(Struct, frozen=True):
    """What became of an event: `ignored` where it is about nothing of ours, `repeated` where it had come."""

    outcome: Literal["received", "ignored", "repeated"]
