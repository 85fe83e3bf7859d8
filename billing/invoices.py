"""Invoices as they are read: one tenant's month, line by line, and what became of it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Any, Final, Literal, get_args
from zoneinfo import ZoneInfo

import msgspec

from billing.money import Currency, currency, format_minor
from billing.periods import check_label
from billing.prices import PriceModel, TierUse
from billing.statement import LineKind
from billing.store import invoices as store
from billing.store.invoices import InvoiceRow, LineRow
from infra.database import Connection, Pool, borrow
from infra.errors import InvalidValueError, NotFoundError

InvoiceStatus = Literal["draft", "in_review", "approved", "issued", "paid", "void", "uncollectible"]
STATUSES: Final[tuple[InvoiceStatus, ...]] = get_args(InvoiceStatus)
ISSUED_STATUSES: Final[tuple[InvoiceStatus, ...]] = ("issued", "paid", "void", "uncollectible")
MAX_LISTED: Final = 10_000


class Party(msgspec.Struct, frozen=True):
    """Who bills, or who is billed, as it stood when the invoice was made."""

    name: str
    address: str = ""
    tax_id: str = ""
    email: str = ""


class InvoiceLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line.

    Attributes:
        kind: `usage` of a meter, `discount` on a month's usage, `minimum` commitment that usage did not
        reach, or
            prepaid `credit`.
        usage_period: the month whose usage it is; another one than the invoice's where it came late.
        segment: which of that month's prices; 0 but where the plan was changed at once.
        per_units: the tiers' prices are per so many units.
        row_count, calls, units: of the usage rows, voids counted off.
        digest: of the usage rows, SHA-256 in hexadecimal (`billing.month_proof` in the database); None while
        the
            month is not sealed.
        cutoff_at: usage recorded later is not in it.
        tiers: how the units spread over the tiers, with exact amounts.
        basis: what a discount, a minimum commitment or a credit was computed from.
        exact_nanos: the amount before it was rounded, once: a whole number or `numerator/denominator`.
        amount_minor: in the ledger's minor units.
        amount: the same for people.
    """

    line: int
    kind: LineKind
    usage_period: str
    segment: int
    meter: str | None
    price_version_id: str | None
    model: PriceModel | None
    per_units: int | None
    row_count: int
    calls: int
    units: int
    digest: str | None
    cutoff_at: datetime
    tiers: tuple[TierUse, ...]
    basis: dict[str, Any]
    exact_nanos: str
    amount_minor: int
    amount: str


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """Something that an invoice takes over: what an invoice before left to it, or a credit note.

    Attributes:
        id: of the invoice or the credit note, and `number`, what it is known by outside.
        amount_minor: below zero where it is the tenant's.
    """

    source: Literal["invoice", "credit_note"]
    id: str
    number: str
    amount_minor: int


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """All that an invoice says, but for its number: what is approved, and what never changes once it is
    issued.

    Attributes:
        starts_at, ends_at: the month `[starts_at, ends_at)`, of the tenant's clock.
        period_complete: the month is sealed; False for a draft made before.
        tax_ppm: the tax rate in millionths.
        carried: what this invoice takes over, source by source; `carried_in_minor` is their sum.
        carried_out_minor: what is left to the next one: too little to collect, or less than nothing.
        due_minor: `subtotal + tax + carried_in - carried_out`; never below zero.
    """

    invoice_id: str
    tenant_id: str
    period: str
    revision: int
    replaces: str | None
    starts_at: datetime
    ends_at: datetime
    time_zone: str
    issuer_id: str
    issuer: Party
    bill_to: Party
    language: str
    currency: str
    period_complete: bool
    lines: tuple[InvoiceLine, ...]
    subtotal_minor: int
    tax_name: str
    tax_ppm: int
    tax_minor: int
    total_minor: int
    carried_in_minor: int
    carried: tuple[Carried, ...]
    carried_out_minor: int
    due_minor: int


class Invoice(Content, frozen=True, kw_only=True):
    """One tenant's month: what it says, and its way.

    Attributes:
        total, due, open: for people.
        credited_minor: what credit notes took off what was due, before it was paid.
        open_minor: what is still to be paid; 0 once it is paid or void.
        content_sha256: the hash of its content, in hexadecimal, as it is on record.
        prepared_by: all who made or changed it.
        approved_sha256: the hash that was approved.
        number: gapless by issuer, given when it is issued.
        chain_sha256: over the issuer's chain up to the invoice before, this number and this content.
        settled_at: when it was paid, voided or written off.
    """

    status: InvoiceStatus
    total: str
    due: str
    credited_minor: int
    open_minor: int
    open: str
    content_sha256: str
    drafted_at: datetime
    prepared_by: tuple[str, ...]
    approved_at: datetime | None
    approved_by: str | None
    approved_sha256: str | None
    number: str | None
    issued_at: datetime | None
    due_on: date | None
    previous_chain_sha256: str | None
    chain_sha256: str | None
    settled_at: datetime | None
    to_be_reissued: bool


class InvoiceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice in a list. `total` and `due` are for people."""

    invoice_id: str
    tenant_id: str
    period: str
    revision: int
    status: InvoiceStatus
    number: str | None
    currency: str
    total_minor: int
    total: str
    due_minor: int
    due: str


async def show_invoice(pool: Pool, invoice_id: str, tenant_id: str | None = None) -> Invoice:
    """One invoice; with `tenant_id`, only if it is that tenant's.

    Raises:
        NotFoundError: there is no such invoice, or it is another tenant's.
    """
    async with borrow(pool) as connection:
        found = await read_invoice(connection, invoice_id)
    if tenant_id not in (None, found.tenant_id):
        raise no_such_invoice()
    return found


async def list_invoices(
    pool: Pool,
    tenant_id: str | None = None,
    period: str | None = None,
    statuses: Sequence[InvoiceStatus] = STATUSES,
    limit: int = MAX_LISTED,
    after: str | None = None,
) -> list[InvoiceSummary]:
    """Invoices of a tenant, or of all tenants (for the vendor), `MAX_LISTED` at most, the newest months
    first.

    Args:
        after: the last invoice of the page before.

    Raises:
        InvalidValueError: the period's label, a status that there is not, or `after` was not listed.
    """
    if period is not None:
        check_label(period)
    if not set(statuses) <= set(STATUSES):
        raise InvalidValueError(f"A status is one of: {', '.join(STATUSES)}.", "status")
    async with borrow(pool) as connection:
        last = None
        if after is not None:
            last = await store.read_invoice(connection, after)
            if last is None or tenant_id not in (None, last.tenant_id):
                raise InvalidValueError("Give the id of the last invoice of the page before.", "after")
        rows = await store.read_summaries(
            connection, tenant_id, period, statuses, min(limit, MAX_LISTED), last
        )
    return [summary(row) for row in rows]


async def read_invoice(connection: Connection, invoice_id: str) -> Invoice:
    """One invoice, in the caller's transaction.

    Raises:
        NotFoundError: there is no such invoice.
    """
    row = await store.read_invoice(connection, invoice_id)
    if row is None:
        raise no_such_invoice()
    return _invoice(row, await store.read_lines(connection, [invoice_id]))


def content_sha256(content: Content) -> bytes:
    """The hash that an approval names: of the content as canonical JSON, keys sorted, moments in UTC."""
    fields = {name: getattr(content, name) for name in Content.__struct_fields__}
    fields |= {name: fields[name].astimezone(UTC) for name in ("starts_at", "ends_at")}
    return canonical_sha256(fields)


def canonical_sha256(fields: Mapping[str, Any]) -> bytes:
    """SHA-256 over canonical JSON."""
    return sha256(msgspec.json.encode(fields, order="sorted")).digest()


def summary(row: store.SummaryRow) -> InvoiceSummary:
    """A row for a list."""
    unit = currency(row.currency)
    return InvoiceSummary(
        **msgspec.structs.asdict(row),
        total=format_minor(row.total_minor, unit),
        due=format_minor(row.due_minor, unit),
    )


def invoice_line(row: LineRow, unit: Currency) -> InvoiceLine:
    """A stored line."""
    fields: dict[str, Any] = {
        **msgspec.structs.asdict(row),
        "digest": _hex(row.digest),
        "cutoff_at": row.cutoff_at.astimezone(UTC),
        "tiers": msgspec.convert(row.tiers, tuple[TierUse, ...]),
        "amount": format_minor(row.amount_minor, unit),
    }
    del fields["invoice_id"]
    return InvoiceLine(**fields)


def _invoice(row: InvoiceRow, lines: Sequence[LineRow]) -> Invoice:
    unit, zone = currency(row.currency), ZoneInfo(row.time_zone)
    open_minor = 0 if row.status in ("paid", "void") else row.due_minor - row.credited_minor
    fields: dict[str, Any] = {
        **msgspec.structs.asdict(row),
        "starts_at": row.starts_at.astimezone(zone),
        "ends_at": row.ends_at.astimezone(zone),
        "issuer": msgspec.convert(row.issuer, Party),
        "bill_to": msgspec.convert(row.bill_to, Party),
        "carried": msgspec.convert(row.carried, tuple[Carried, ...]),
        "lines": tuple(invoice_line(line, unit) for line in lines),
        "total": format_minor(row.total_minor, unit),
        "due": format_minor(row.due_minor, unit),
        "open_minor": open_minor,
        "open": format_minor(open_minor, unit),
        "content_sha256": row.content_sha256.hex(),
        "prepared_by": tuple(row.prepared_by),
        "approved_sha256": _hex(row.approved_sha256),
        "previous_chain_sha256": _hex(row.previous_chain_sha256),
        "chain_sha256": _hex(row.chain_sha256),
    }
    return Invoice(**fields)


def _hex(digest: bytes | None) -> str | None:
    return digest.hex() if digest else None


def no_such_invoice() -> NotFoundError:
    """What is said of an invoice that is not there, or another tenant's."""
    return NotFoundError("There is no such invoice.", "invoice_id")
