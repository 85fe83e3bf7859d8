"""What is read from Stripe: the fields that matter, of its API version `API_VERSION`, as the `stripe` package
types them.
"""

from typing import Final, Literal

import msgspec

API_VERSION: Final = "2026-10-28.endive"


class RemoteLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an invoice; amounts in Stripe's minor unit."""

    id: str
    amount: int
    subtotal: int
    currency: str
    metadata: dict[str, str] = {}


class RemoteCreditNote(msgspec.Struct, frozen=True, kw_only=True):
    """A credit note; see `stripe.CreditNote`. Its amount, in Stripe's minor unit, includes tax."""

    id: str
    amount: int
    metadata: dict[str, str] = {}


class _PaymentIntent(msgspec.Struct, frozen=True):
    status: str


class _PaymentObject(msgspec.Struct, frozen=True):
    payment_intent: _PaymentIntent | str | None = None


class _Payment(msgspec.Struct, frozen=True):
    status: str
    payment: _PaymentObject


class _Payments(msgspec.Struct, frozen=True):
    data: list[_Payment] = []


class RemoteInvoice(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice; see `stripe.Invoice`. Amounts in Stripe's minor unit, moments in Unix seconds."""

    id: str
    status: Literal["draft", "open", "paid", "uncollectible", "void"]
    currency: str
    livemode: bool
    created: int
    customer: str | None = None
    number: str | None = None
    total: int
    subtotal: int
    amount_due: int
    amount_paid: int
    amount_remaining: int
    amount_overpaid: int = 0
    starting_balance: int = 0
    pre_payment_credit_notes_amount: int = 0
    post_payment_credit_notes_amount: int = 0
    collection_method: str
    auto_advance: bool | None = None
    attempted: bool = False
    attempt_count: int = 0
    due_date: int | None = None
    next_payment_attempt: int | None = None
    metadata: dict[str, str] = {}
    payments: _Payments | None = None

    def has_payment(self, status: str) -> bool:
        """Whether a payment of it is in this state, such as `requires_action` or `processing`."""
        intents = [one.payment.payment_intent for one in (self.payments.data if self.payments else [])]
        return any(isinstance(one, _PaymentIntent) and one.status == status for one in intents)
