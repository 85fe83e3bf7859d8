"""The review of invoices, and what is done with them, as the vendor's finance sends and reads it."""

from datetime import date, datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

_NEXT = "Send it as `after` for the next page; null at the end."
Next = Annotated[str | None, Meta(description=_NEXT)]
Sha256 = Annotated[
    str, Meta(pattern="^[0-9a-f]{64}$", description="The hash of the content, as it was seen.")
]
Text = Annotated[str, Meta(min_length=1, max_length=1000)]


class ReasonBody(Struct, frozen=True):
    """Why an invoice is worth a look: a stable code, its part of the risk, and a sentence with figures."""

    code: str
    weight: int
    text: str


class ReviewItemBody(Struct, frozen=True):
    """An invoice in review; `risk` is the sum of its reasons' weights.

    Nobody in `prepared_by` may approve it.
    """

    invoice_id: str
    tenant_id: str
    period: str
    revision: int
    currency: str
    total_minor: int
    total: str
    due_minor: int
    due: str
    content_sha256: str
    prepared_by: tuple[str, ...]
    risk: int
    reasons: tuple[ReasonBody, ...]


class ReviewQueueBody(Struct, frozen=True):
    """Invoices in review, the riskiest first; `in_review` is how many there are altogether."""

    data: list[ReviewItemBody]
    in_review: int
    next: Next
    object: Literal["list"] = "list"


class ApprovalBody(Struct, frozen=True, forbid_unknown_fields=True):
    """An approval is of exactly what was looked at."""

    content_sha256: Sha256


class WhyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Why it is done; kept in the audit trail."""

    reason: Text


class VoidBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Why an invoice is voided, and whether the next run makes the month's next revision."""

    reason: Text
    reissue: bool = False


class PaymentBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What a payment is known by, such as a bank's reference."""

    reference: Text


class InvoiceStateBody(Struct, frozen=True):
    """What became of an invoice. `open` is what is still to be paid: what is due, less what was credited."""

    invoice_id: str
    tenant_id: str
    period: str
    revision: int
    replaces: str | None
    status: Literal["draft", "in_review", "approved", "issued", "paid", "void", "uncollectible"]
    number: str | None
    currency: str
    due_minor: int
    due: str
    credited_minor: int
    open_minor: int
    open: str
    content_sha256: str
    prepared_by: tuple[str, ...]
    approved_by: str | None
    approved_at: datetime | None
    issued_at: datetime | None
    due_on: date | None
    settled_at: datetime | None
    to_be_reissued: bool
    object: Literal["invoice_state"] = "invoice_state"


class NewCommentBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be said of an invoice."""

    text: Annotated[str, Meta(min_length=1, max_length=2000)]


class CommentBody(Struct, frozen=True):
    """What somebody said of an invoice."""

    comment_id: int
    at: datetime
    actor: str
    text: str


class CommentListBody(Struct, frozen=True):
    """Comments in the order in which they were written."""

    data: list[CommentBody]
    next: Annotated[int | None, Meta(description=_NEXT)]
    object: Literal["list"] = "list"


class AuditEventBody(Struct, frozen=True):
    """One thing that somebody did, or was refused.

    `actor` is `staff:` and a member's id, `os:` and the login of a command without a staff key, or `worker`.
    `subject` is the id of what it was done to.
    """

    event_id: int
    at: datetime
    actor: str
    action: str
    subject: str
    refused: bool
    detail: dict[str, Any]


class AuditTrailBody(Struct, frozen=True):
    """What was done, the latest first."""

    data: list[AuditEventBody]
    next: Annotated[int | None, Meta(description="Send it as `before` for the next page; null at the end.")]
    object: Literal["list"] = "list"
