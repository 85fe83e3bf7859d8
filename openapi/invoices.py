"""Invoices and what they are proved by, as tenants and the vendor's finance read them.

Amounts ending in `_minor` are integers of the currency's smallest unit as it is invoiced; `_nanos` are exact,
10^-9 of a currency unit, a whole number or `numerator/denominator`; the same for people has no ending.
"""

from datetime import date, datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Status = Literal["draft", "in_review", "approved", "issued", "paid", "void", "uncollectible"]
_NEXT = "Send it as `after` for the next page; null at the end."
Next = Annotated[str | None, Meta(description=_NEXT)]


class PartyBody(Struct, frozen=True):
    """Who bills, or who is billed, as it stood when the invoice was made."""

    name: str
    address: str
    tax_id: str
    email: str


class TierUseBody(Struct, frozen=True):
    """What fell into one tier; `nanos` is its price, per as many units as the line's `per_units` says."""

    from_units: int
    up_to_units: int | None
    units: int
    nanos: int
    amount_nanos: str


class InvoiceLineBody(Struct, frozen=True):
    """One line; `digest` is over the usage rows behind it, which `.../lines/{line}/calls` lists.

    `usage_period` is another month than the invoice's where the usage came late. `cutoff_at`: usage recorded
    later is not in it. `basis` is what a discount, a minimum commitment or a credit was computed from.
    """

    line: int
    kind: Literal["usage", "discount", "minimum", "credit"]
    usage_period: str
    segment: int
    meter: str | None
    price_version_id: str | None
    model: str | None
    per_units: int | None
    row_count: int
    calls: int
    units: int
    digest: str | None
    cutoff_at: datetime
    tiers: tuple[TierUseBody, ...]
    basis: dict[str, Any]
    exact_nanos: str
    amount_minor: int
    amount: str


class CarriedBody(Struct, frozen=True):
    """What an invoice takes over from one before or from a credit note; below zero where it is owed."""

    source: Literal["invoice", "credit_note"]
    id: str
    number: str
    amount_minor: int


class InvoiceBody(Struct, frozen=True, kw_only=True):
    """A tenant's month `[starts_at, ends_at)` of its own clock: `due = total + carried_in - carried_out`.

    `credited_minor` is what credit notes took off what was due, `open_minor` what is still to be paid.
    """

    invoice_id: str
    tenant_id: str
    period: str
    revision: int
    replaces: str | None
    status: Status
    number: str | None
    issued_at: datetime | None
    due_on: date | None
    settled_at: datetime | None
    starts_at: datetime
    ends_at: datetime
    time_zone: str
    issuer: PartyBody
    bill_to: PartyBody
    language: str
    currency: str
    lines: tuple[InvoiceLineBody, ...]
    subtotal_minor: int
    tax_name: str
    tax_ppm: int
    tax_minor: int
    total_minor: int
    total: str
    carried_in_minor: int
    carried: tuple[CarriedBody, ...]
    carried_out_minor: int
    due_minor: int
    due: str
    credited_minor: int
    open_minor: int
    open: str
    content_sha256: str
    chain_sha256: str | None
    object: Literal["invoice"] = "invoice"


class AdminInvoiceBody(InvoiceBody, frozen=True, kw_only=True):
    """An invoice with its way to being issued. Whoever is in `prepared_by` may not approve it.

    `period_complete` is false for a draft made before the month was closed and sealed.
    """

    issuer_id: str
    period_complete: bool
    drafted_at: datetime
    prepared_by: tuple[str, ...]
    approved_at: datetime | None
    approved_by: str | None
    approved_sha256: str | None
    previous_chain_sha256: str | None
    to_be_reissued: bool


class InvoiceSummaryBody(Struct, frozen=True):
    """An invoice in a list."""

    invoice_id: str
    tenant_id: str
    period: str
    revision: int
    status: Status
    number: str | None
    currency: str
    total_minor: int
    total: str
    due_minor: int
    due: str


class InvoiceList(Struct, frozen=True):
    """Invoices, the newest months first."""

    data: list[InvoiceSummaryBody]
    next: Next
    object: Literal["list"] = "list"


class LineCallBody(Struct, frozen=True):
    """One entry of a call, or of one slice of a live session: a charge, or with a minus what took it back.

    `GET /v1/calls/{call_id}` is the whole call's receipt.
    """

    call_id: str
    slice: int
    entry: int
    calls: int
    units: int
    occurred_at: datetime
    recorded_at: datetime
    key_id: str
    model: str
    engine: str


class LineCallList(Struct, frozen=True):
    """Calls behind a line, in the order of its digest."""

    invoice_id: str
    line: int
    data: list[LineCallBody]
    next: Next
    object: Literal["list"] = "list"


class DifferenceBody(Struct, frozen=True):
    """One thing that is not as it was computed; `line` is null where it is of the whole invoice."""

    line: int | None
    what: str
    field: str
    on_record: str
    computed: str


class ProofBody(Struct, frozen=True):
    """What came of computing an invoice once more from its usage rows and prices.

    `ok`: nothing differs. `detached`: partitions whose usage rows could not be read, so that calls, units and
    digests were taken from the seals made when the month was closed.
    """

    ok: bool
    invoice_id: str
    tenant_id: str
    period: str
    status: Status
    number: str | None
    usage_rows: int
    detached: list[str]
    differences: list[DifferenceBody]
    object: Literal["invoice_proof"] = "invoice_proof"


class InvoiceRunRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/admin/invoice-runs`: which month to make invoices of."""

    period: Annotated[str, Meta(pattern=r"^\d{4}-(0[1-9]|1[0-2])$", description="A month, `YYYY-MM`.")]


class InvoiceRunBody(Struct, frozen=True):
    """A run of a month.

    Closed months are sealed first; `tenants_done` counts those then. `months_open`, at the end: how many of
    its invoices are drafts only, since their month is not over and closed. A run that broke off is carried on
    by itself, five times, and then has `failed`. `replaced_by` is the later run that took its place.
    """

    run_id: str
    period: str
    state: Literal["waiting", "sealing", "drafting", "done", "failed", "replaced"]
    requested_by: str
    requested_at: datetime
    tenants_done: int
    tenants_total: int | None
    months_open: int | None
    started_at: datetime | None
    finished_at: datetime | None
    last_error: str | None
    replaced_by: str | None
    object: Literal["invoice_run"] = "invoice_run"
