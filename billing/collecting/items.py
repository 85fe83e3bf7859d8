"""An invoice as Stripe gets it, in integers that are ours, and what differs when it is read back. Pure.

Lines, tax and what is carried are items all alike, so that Stripe adds up and computes nothing. Its items are
in its own minor unit of the currency: new Taiwan dollars have cents there, and none here.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from billing.collecting.remote import RemoteInvoice, RemoteLine
from billing.invoices import Invoice, InvoiceLine
from billing.money import Currency, currency, format_percent
from billing.store.collecting import Method

MOST_ITEMS: Final = 250  # Stripe's limit of one invoice
INVOICE_KEY: Final = "aiaas_invoice_id"
REVISION_KEY: Final = "aiaas_revision"
TENANT_KEY: Final = "aiaas_tenant_id"
_NUMBER_KEY: Final = "aiaas_number"
_CONTENT_KEY: Final = "aiaas_content_sha256"
ITEM_KEY: Final = "aiaas_item"
STRIPES_METHOD: Final = {"send": "send_invoice", "charge": "charge_automatically"}


class Item(msgspec.Struct, frozen=True):
    """One item; `amount` in Stripe's minor unit."""

    description: str
    amount: int


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What Stripe is to hold of an invoice.

    Attributes:
        currency: in small letters, as Stripe writes it.
        total: in Stripe's minor unit; the sum of the items.
        credited: what credit notes took off it, likewise.
        days_until_due: from when Stripe has it.
        metadata: what names it ours.
    """

    number: str
    currency: str
    items: tuple[Item, ...]
    total: int
    credited: int
    collection_method: str
    days_until_due: int
    metadata: dict[str, str]


def order_of(invoice: Invoice, method: Method) -> Order:
    """What Stripe is to hold of an issued invoice."""
    assert invoice.number is not None, "it is issued"
    assert invoice.issued_at is not None, "it is issued"
    assert invoice.due_on is not None, "it is issued"
    unit = currency(invoice.currency)
    issued_on = invoice.issued_at.astimezone(invoice.starts_at.tzinfo).date()
    return Order(
        number=invoice.number,
        currency=unit.code.lower(),
        items=items_of(invoice, unit),
        total=provider_amount(invoice.due_minor, unit),
        credited=provider_amount(invoice.credited_minor, unit),
        collection_method=STRIPES_METHOD[method],
        days_until_due=(invoice.due_on - issued_on).days,
        metadata={
            INVOICE_KEY: invoice.invoice_id,
            REVISION_KEY: str(invoice.revision),
            TENANT_KEY: invoice.tenant_id,
            _NUMBER_KEY: invoice.number,
            _CONTENT_KEY: invoice.content_sha256,
        },
    )


def items_of(invoice: Invoice, unit: Currency) -> tuple[Item, ...]:
    """The items, `MOST_ITEMS` at most: with more lines than that, the last ones are one item together."""
    named = [
        (f"{invoice.tax_name or 'Tax'} {format_percent(invoice.tax_ppm)}", invoice.tax_minor),
        ("Carried from before", invoice.carried_in_minor),
        ("Carried to the next invoice", -invoice.carried_out_minor),
    ]
    extras = [Item(name, provider_amount(minor, unit)) for name, minor in named if minor]
    lines = [Item(_description(line), provider_amount(line.amount_minor, unit)) for line in invoice.lines]
    room = MOST_ITEMS - len(extras)
    if len(lines) > room:
        rest = lines[room - 1 :]
        together = f"{len(rest)} more lines; see the invoice itself for each"
        lines = [*lines[: room - 1], Item(together, sum(item.amount for item in rest))]
    return (*lines, *extras)


def provider_amount(minor: int, unit: Currency) -> int:
    """The ledger's minor units in Stripe's: 15 of TWD are 1500."""
    assert unit.provider_exponent >= unit.ledger_exponent, "no amount of ours is finer than Stripe's"
    return minor * 10 ** (unit.provider_exponent - unit.ledger_exponent)


def differences(
    order: Order, customer_id: str | None, livemode: bool, found: RemoteInvoice, lines: Sequence[RemoteLine]
) -> list[str]:
    """What an invoice at Stripe has otherwise than it was ordered, before anything is paid of it."""
    ordered: dict[str, tuple[object, object]] = {
        "currency": (order.currency, found.currency),
        "total": (order.total, found.total),
        "subtotal": (order.total, found.subtotal),
        "amount_due": (order.total, found.amount_due + found.pre_payment_credit_notes_amount),
        "starting_balance": (0, found.starting_balance),
        "number": (order.number, found.number),
        "customer": (customer_id, found.customer),
        "livemode": (livemode, found.livemode),
        "collection_method": (order.collection_method, found.collection_method),
        "metadata": (order.metadata, {name: found.metadata.get(name) for name in order.metadata}),
        "items": (len(order.items), len(lines)),
    }
    said = [
        f"{name}: {ours} here, {theirs} at Stripe"
        for name, (ours, theirs) in ordered.items()
        if ours != theirs
    ]
    by_item = {line.metadata.get(ITEM_KEY): line for line in lines}
    for number, item in enumerate(order.items, 1):
        line = by_item.get(str(number))
        there = None if line is None else (line.amount, line.subtotal, line.currency)
        if there != (item.amount, item.amount, order.currency):
            said.append(f"item {number}: {item.amount} {order.currency} here, {there} at Stripe")
    return said


def payment_differences(order: Order, found: RemoteInvoice) -> list[str]:
    """What keeps an invoice that is paid at Stripe from being paid here: another amount than is due."""
    said = {
        "currency": (order.currency, found.currency),
        "total": (order.total, found.total),
        "credited": (order.credited, found.pre_payment_credit_notes_amount),
        "paid": (order.total - order.credited, found.amount_paid),
        "overpaid": (0, found.amount_overpaid),
        "metadata": (order.metadata[INVOICE_KEY], found.metadata.get(INVOICE_KEY)),
    }
    return [
        f"{name}: {ours} here, {theirs} at Stripe" for name, (ours, theirs) in said.items() if ours != theirs
    ]


def _description(line: InvoiceLine) -> str:
    names = {"discount": "Discount", "minimum": "Minimum commitment", "credit": "Prepaid credit"}
    if line.meter is None:
        return f"{names[line.kind]}, {line.usage_period}"
    return f"{line.meter}, {line.usage_period}: {line.units} units in {line.calls} calls"
