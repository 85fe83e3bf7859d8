"""Credit notes, as the vendor's finance sends and reads them."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from openapi.review import Next, Text

Remedy = Annotated[
    Literal["carry", "refund"],
    Meta(
        description="Of money that was paid already: into the tenant's next invoice, or back to the tenant."
    ),
]


class CreditLineBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What is taken off one line of the invoice, before tax."""

    line: Annotated[int, Meta(ge=1, le=1_000_000)]
    amount_minor: Annotated[int, Meta(ge=1, le=10**15)]


class NewCreditNoteBody(Struct, frozen=True, forbid_unknown_fields=True):
    """A credit note against an issued invoice; the tax goes back in proportion, at the invoice's own rate."""

    invoice_id: Annotated[str, Meta(pattern="^[0-9A-Za-z_]{1,64}$")]
    reason: Text
    lines: Annotated[
        Annotated[list[CreditLineBody], Meta(min_length=1, max_length=500)] | None,
        Meta(description="What is taken back; null takes back all that is left of the invoice."),
    ]
    remedy: Remedy = "carry"


class CreditNoteBody(Struct, frozen=True):
    """A credit note. Who prepared it can neither approve nor issue it.

    Once it is issued, `reduces_minor` is what went off what was open of the invoice, `carries_minor` what the
    tenant's next invoice takes over, `refunds_minor` what is to be paid back: together its total.
    """

    credit_note_id: str
    invoice_id: str
    invoice_number: str
    tenant_id: str
    period: str
    status: Literal["draft", "approved", "issued", "withdrawn"]
    number: str | None
    currency: str
    reason: str
    remedy: Remedy
    lines: tuple[CreditLineBody, ...]
    subtotal_minor: int
    tax_name: str
    tax_ppm: int
    tax_minor: int
    total_minor: int
    total: str
    content_sha256: str
    prepared_at: datetime
    prepared_by: str
    approved_at: datetime | None
    approved_by: str | None
    issued_at: datetime | None
    issued_by: str | None
    reduces_minor: int | None
    carries_minor: int | None
    refunds_minor: int | None
    chain_sha256: str | None
    object: Literal["credit_note"] = "credit_note"


class CreditNoteListBody(Struct, frozen=True):
    """Credit notes, the newest first."""

    data: list[CreditNoteBody]
    next: Next
    object: Literal["list"] = "list"
