"""What Stripe is told of an invoice: our integers, in its units, and nothing that it could compute."""

from datetime import UTC, date, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.collecting.items import MOST_ITEMS, differences, items_of, order_of, payment_differences
from billing.collecting.remote import RemoteInvoice, RemoteLine
from billing.invoices import Invoice, InvoiceLine, Party
from billing.money import currency
from tests.fake_stripe import VERSION

NOW = datetime(2025, 11, 1, tzinfo=UTC)
CURRENCIES = ["CNY", "EUR", "HKD", "JPY", "TWD", "USD"]


def line(number: int, amount_minor: int, kind: Any = "usage") -> InvoiceLine:
    return InvoiceLine(
        line=number,
        kind=kind,
        usage_period="2025-10",
        segment=0,
        meter="tts.characters" if kind == "usage" else None,
        price_version_id="prv_1",
        model="per_unit",
        per_units=1,
        row_count=1,
        calls=2,
        units=3,
        digest=None,
        cutoff_at=NOW,
        tiers=(),
        basis={},
        exact_nanos="0",
        amount_minor=amount_minor,
        amount="",
    )


def invoice(lines: list[InvoiceLine], tax: int = 0, carried: int = 0, code: str = "USD") -> Invoice:
    subtotal = sum(one.amount_minor for one in lines)
    return Invoice(
        invoice_id="inv_1",
        tenant_id="ten_1",
        period="2025-10",
        revision=1,
        replaces=None,
        starts_at=NOW,
        ends_at=NOW,
        time_zone="UTC",
        issuer_id="default",
        issuer=Party("We"),
        bill_to=Party("They"),
        language="en",
        currency=code,
        period_complete=True,
        lines=tuple(lines),
        subtotal_minor=subtotal,
        tax_name="VAT",
        tax_ppm=50_000,
        tax_minor=tax,
        total_minor=subtotal + tax,
        carried_in_minor=carried,
        carried=(),
        carried_out_minor=0,
        due_minor=subtotal + tax + carried,
        status="issued",
        total="",
        due="",
        credited_minor=0,
        open_minor=0,
        open="",
        content_sha256="ab" * 32,
        drafted_at=NOW,
        prepared_by=("a",),
        approved_at=NOW,
        approved_by="b",
        approved_sha256="ab" * 32,
        number="AG-000001",
        issued_at=NOW,
        due_on=date(2025, 12, 1),
        previous_chain_sha256="00" * 32,
        chain_sha256="00" * 32,
        settled_at=None,
        to_be_reissued=False,
    )


@pytest.mark.parametrize(("lines", "items"), [(247, 249), (248, 250), (249, 250), (600, 250)])
def test_more_lines_than_stripe_takes_are_one_item_together_and_the_total_is_the_same(
    lines: int, items: int
) -> None:
    """Tax and what is carried are items of their own, always."""
    made = invoice([line(number, number) for number in range(1, lines + 1)], 7, 9)
    found = items_of(made, currency("USD"))
    assert (len(found), sum(item.amount for item in found)) == (items, made.due_minor)
    assert [item.amount for item in found[-2:]] == [7, 9]
    assert [item.amount for item in found[:247]] == list(range(1, 248))
    if lines > 248:
        assert found[247].description == f"{lines - 247} more lines; see the invoice itself for each"


@given(
    st.lists(st.integers(-(10**9), 10**9), max_size=600),
    st.integers(-(10**6), 10**6),
    st.integers(-(10**6), 10**6),
    st.sampled_from(CURRENCIES),
)
def test_items_add_up_to_what_is_due_however_many_lines_there_are(
    amounts: list[int], tax: int, carried: int, code: str
) -> None:
    made = invoice([line(number, one) for number, one in enumerate(amounts, 1)], tax, carried, code)
    items = items_of(made, currency(code))
    ours = 100 if code == "TWD" else 1
    assert sum(item.amount for item in items) == made.due_minor * ours
    assert len(items) <= MOST_ITEMS
    named = len(amounts) + (tax != 0) + (carried != 0)
    assert len(items) == min(named, MOST_ITEMS)
    if named > MOST_ITEMS:
        together = next(item for item in items if "more lines" in item.description)
        assert int(together.description.split()[0]) == len(amounts) - (
            len(items) - 1 - (tax != 0) - (carried != 0)
        )


@pytest.mark.parametrize(
    ("code", "minor", "provider"),
    [
        ("USD", 1540, 1540),
        ("EUR", 1, 1),
        ("HKD", 995, 995),
        ("CNY", 7, 7),
        ("JPY", 500, 500),
        ("TWD", 15, 1500),
    ],
)
def test_amounts_are_in_stripes_own_minor_unit(code: str, minor: int, provider: int) -> None:
    order = order_of(invoice([line(1, minor)], code=code), "send")
    assert (order.total, order.currency, order.days_until_due) == (provider, code.lower(), 30)


def test_an_item_says_what_it_is_for() -> None:
    made = invoice(
        [line(1, 100), line(2, -10, "discount"), line(3, 5, "minimum"), line(4, -5, "credit")], 5, 7
    )
    assert [item.description for item in items_of(made, currency("USD"))] == [
        "tts.characters, 2025-10: 3 units in 2 calls",
        "Discount, 2025-10",
        "Minimum commitment, 2025-10",
        "Prepaid credit, 2025-10",
        "VAT 5%",
        "Carried from before",
    ]


ORDER = order_of(invoice([line(1, 1500), line(2, 40)], 77), "send")
THERE = RemoteInvoice(
    id="in_1",
    status="draft",
    currency="usd",
    livemode=False,
    created=0,
    customer="cus_1",
    number="AG-000001",
    total=1617,
    subtotal=1617,
    amount_due=1617,
    amount_paid=0,
    amount_remaining=1617,
    collection_method="send_invoice",
    metadata=ORDER.metadata,
)
LINES = [
    RemoteLine(id=str(n), amount=amount, subtotal=amount, currency="usd", metadata={"aiaas_item": str(n)})
    for n, amount in ((3, 77), (1, 1500), (2, 40))
]


def test_what_was_read_back_as_it_was_ordered_has_no_differences() -> None:
    assert differences(ORDER, "cus_1", False, THERE, LINES) == []


@pytest.mark.parametrize(
    "change",
    [
        {"currency": "eur"},
        {"total": 1618},
        {"subtotal": 1616},
        {"amount_due": 1600},
        {"starting_balance": -17},
        {"number": "AG-000002"},
        {"customer": "cus_2"},
        {"livemode": True},
        {"collection_method": "charge_automatically"},
        {"metadata": {**ORDER.metadata, "aiaas_revision": "2"}},
        {"metadata": {}},
    ],
)
def test_every_field_that_matters_is_compared(change: dict[str, Any]) -> None:
    (said,) = differences(ORDER, "cus_1", False, msgspec.structs.replace(THERE, **change), LINES)
    assert said.startswith(f"{next(iter(change))}: ")


@pytest.mark.parametrize("change", [{"amount": 41}, {"subtotal": 39}, {"currency": "eur"}, {"metadata": {}}])
def test_every_item_is_compared(change: dict[str, Any]) -> None:
    lines = [*LINES[:2], msgspec.structs.replace(LINES[2], **change)]
    (said,) = differences(ORDER, "cus_1", False, THERE, lines)
    assert said.startswith("item 2: 40 usd here")
    assert [said.split(":")[0] for said in differences(ORDER, "cus_1", False, THERE, LINES[:2])] == [
        "items",
        "item 2",
    ]
    assert [said.split(":")[0] for said in differences(ORDER, "cus_1", False, THERE, [*LINES, LINES[0]])] == [
        "items"
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"amount_paid": 1617}, []),
        ({"amount_paid": 1600, "pre_payment_credit_notes_amount": 17}, ["credited", "paid"]),
        ({"amount_paid": 0}, ["paid"]),
        ({"amount_paid": 1700, "amount_overpaid": 83}, ["paid", "overpaid"]),
        ({"amount_paid": 1617, "currency": "eur"}, ["currency"]),
        ({"amount_paid": 1617, "total": 1616}, ["total"]),
        ({"amount_paid": 1617, "metadata": {}}, ["metadata"]),
    ],
)
def test_only_what_was_due_pays_an_invoice(change: dict[str, Any], said: list[str]) -> None:
    found = payment_differences(ORDER, msgspec.structs.replace(THERE, **change))
    assert [one.split(":")[0] for one in found] == said


def test_what_was_credited_before_is_not_to_be_paid() -> None:
    there = msgspec.structs.replace(THERE, amount_paid=1600, pre_payment_credit_notes_amount=17)
    assert payment_differences(msgspec.structs.replace(ORDER, credited=17), there) == []


def test_the_version_that_is_asked_for_is_the_one_the_package_is_typed_for() -> None:
    import stripe

    from billing.collecting.remote import API_VERSION

    assert API_VERSION == stripe.api_version == VERSION
