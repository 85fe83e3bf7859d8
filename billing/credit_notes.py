"""Credit notes: what an issued invoice said too much, taken back line by line.

    create     by one person: amounts by line, a reason, and what is done with money that was paid already
    approve    by another; names the hash of the content approved
    issue      by another: the next number of the issuer's credit notes, chained as invoices are
    withdraw   a wrong one, as long as it is not issued

The tax goes back in proportion, at the invoice's own rate: what all credit notes of the invoice together come
to, rounded half away from zero, less the tax that went back before. So credit notes for the whole invoice
give back its whole tax, and never more. The database sees to it too that no more is credited than an invoice,
and each of its lines, says.

An issued credit note first takes off what is still open of its invoice, which is paid once nothing is. The
rest was paid already: it is carried into the tenant's next invoice, which names the credit note and never
goes below zero, or it is to be refunded.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from fractions import Fraction
from typing import Any, Final, Literal

import msgspec

from billing import audit
from billing.invoices import Invoice, canonical_sha256, read_invoice
from billing.issuing import (
    changing,
    check_reason,
    deciding,
    next_link,
    require_another,
    require_content,
    require_status,
    settle,
)
from billing.money import currency, format_minor, round_half_away
from billing.prices import PPM
from billing.store import credit_notes as store
from billing.store.credit_notes import CreditedRow, NoteLineRow, NoteRow
from billing.store.issuing import lock_invoice
from infra.database import Connection, Pool, borrow
from infra.errors import DomainError, InvalidValueError, NotFoundError
from infra.ids import new_id

CreditNoteStatus = Literal["draft", "approved", "issued", "withdrawn"]
Remedy = Literal["carry", "refund"]
MAX_LISTED: Final = 500
MAX_LINES: Final = 500


class CreditNoteStateError(DomainError):
    """The credit note is not in a state in which this can be done."""

    code = "credit_note_state"


class OverCreditedError(DomainError):
    """More would be credited than the invoice, or one of its lines, says."""

    code = "over_credited"


class CreditLine(msgspec.Struct, frozen=True):
    """What is taken off one line of the invoice, by its number; before tax."""

    line: int
    amount_minor: int


class CreditContent(msgspec.Struct, frozen=True, kw_only=True):
    """All that a credit note says, but for its number: what is approved, and never changes.

    Attributes:
        invoice_sha256: the content's hash of the invoice, in hexadecimal: whose parties and lines it means.
        remedy: what becomes of money that was paid already.
        tax_ppm: the invoice's tax rate in millionths.
    """

    credit_note_id: str
    invoice_id: str
    invoice_number: str
    invoice_sha256: str
    tenant_id: str
    period: str
    issuer_id: str
    currency: str
    reason: str
    remedy: Remedy
    lines: tuple[CreditLine, ...]
    subtotal_minor: int
    tax_name: str
    tax_ppm: int
    tax_minor: int
    total_minor: int


class CreditNote(CreditContent, frozen=True, kw_only=True):
    """A credit note: what it says, and its way.

    Attributes:
        total: for people.
        number: gapless by issuer, given when it is issued, and `chain_sha256`, as invoices have them.
        reduces_minor, carries_minor, refunds_minor: where its total went when it was issued: off what was
            open of the invoice, into the tenant's next invoice, back to the tenant.
    """

    status: CreditNoteStatus
    total: str
    content_sha256: str
    prepared_at: datetime
    prepared_by: str
    approved_at: datetime | None
    approved_by: str | None
    issued_at: datetime | None
    issued_by: str | None
    number: str | None
    previous_chain_sha256: str | None
    chain_sha256: str | None
    reduces_minor: int | None
    carries_minor: int | None
    refunds_minor: int | None


async def create_credit_note(
    pool: Pool,
    invoice_id: str,
    actor: str,
    lines: Sequence[CreditLine],
    reason: str,
    remedy: Remedy = "carry",
) -> CreditNote:
    """Draft a credit note.

    Raises:
        NotFoundError: there is no such invoice.
        InvoiceStateError: it is not issued, or void.
        OverCreditedError: more than is left to credit of the invoice, or of a line.
        InvalidValueError: no reason, no lines, a line that there is not, an amount that is not positive.
    """
    async with changing(pool, invoice_id, actor, "credit") as (connection, invoice):
        check_reason(reason)
        _check_lines(lines)
        require_status(invoice, "credit", "issued", "paid", "uncollectible")
        credited = await store.read_credited(connection, invoice_id)
        made = credit_content(invoice, credited, new_id("crn"), lines, reason, remedy)
        await store.insert_note(
            connection,
            credit_note_id=made.credit_note_id,
            invoice_id=invoice_id,
            tenant_id=made.tenant_id,
            issuer_id=made.issuer_id,
            reason=reason,
            remedy=remedy,
            subtotal_minor=made.subtotal_minor,
            tax_minor=made.tax_minor,
            content_sha256=credit_sha256(made),
            prepared_by=actor,
            lines=msgspec.to_builtins(made.lines),
        )
        detail = {"invoice_id": invoice_id, "total_minor": made.total_minor, "reason": reason}
        await audit.record(connection, actor, "made", made.credit_note_id, **detail)
        return await read_credit_note(connection, made.credit_note_id)


async def approve_credit_note(
    pool: Pool, credit_note_id: str, actor: str, sha256_hex: str | None = None
) -> CreditNote:
    """Approve what a credit note says; see `billing.issuing.approve`.

    Raises:
        NotFoundError: there is no such credit note.
        CreditNoteStateError: it is no draft.
        OwnInvoiceError: the actor prepared it.
        StaleApprovalError: it says something else than what the approver saw, or than what is on record.
    """
    async with _changing(pool, credit_note_id, actor, "approve") as (connection, _, note):
        _require(note, "approve", "draft")
        require_another(actor, [note.prepared_by], "credit note", "approve")
        require_content(sha256_hex, note.content_sha256, credit_sha256(note))
        await store.set_note_approved(connection, credit_note_id, actor)
        await audit.record(connection, actor, "approve", credit_note_id, content_sha256=note.content_sha256)
        return await read_credit_note(connection, credit_note_id)


async def issue_credit_note(pool: Pool, credit_note_id: str, actor: str) -> CreditNote:
    """Issue an approved credit note: from now on it counts.

    Raises:
        NotFoundError: there is no such credit note.
        CreditNoteStateError: it is not approved.
        OwnInvoiceError: the actor prepared it.
        StaleApprovalError: what it says is not what was approved.
    """
    async with _changing(pool, credit_note_id, actor, "issue") as (connection, invoice, note):
        _require(note, "issue", "approved")
        require_another(actor, [note.prepared_by], "credit note", "issue")
        digest = credit_sha256(note)
        require_content(None, note.content_sha256, digest)
        reduces_minor = min(invoice.open_minor, note.total_minor)
        rest_minor = note.total_minor - reduces_minor
        link = next_link(await store.lock_credit_series(connection, note.issuer_id), digest)
        went = {
            "reduces_minor": reduces_minor,
            "carries_minor": rest_minor if note.remedy == "carry" else 0,
            "refunds_minor": rest_minor if note.remedy == "refund" else 0,
        }
        await store.set_note_issued(connection, credit_note_id, note.issuer_id, link, issued_by=actor, **went)
        await audit.record(connection, actor, "issue", credit_note_id, number=link.number)
        named = {"credit_note_id": credit_note_id, "number": link.number}
        await audit.record(connection, actor, "credited", note.invoice_id, **named, **went)
        if reduces_minor and reduces_minor == invoice.open_minor:
            await settle(connection, note.invoice_id, "paid", actor, note="the rest was credited")
        return await read_credit_note(connection, credit_note_id)


async def withdraw_credit_note(pool: Pool, credit_note_id: str, actor: str, reason: str) -> CreditNote:
    """Give up a credit note that is not issued.

    Raises:
        NotFoundError: there is no such credit note.
        CreditNoteStateError: it is issued, or withdrawn already.
        InvalidValueError: no reason, or one too long.
    """
    async with _changing(pool, credit_note_id, actor, "withdraw") as (connection, _, note):
        check_reason(reason)
        _require(note, "withdraw", "draft", "approved")
        await store.set_note_withdrawn(connection, credit_note_id)
        await audit.record(connection, actor, "withdraw", credit_note_id, reason=reason)
        return await read_credit_note(connection, credit_note_id)


async def show_credit_note(pool: Pool, credit_note_id: str) -> CreditNote:
    """One credit note, for the vendor.

    Raises:
        NotFoundError: there is no such credit note.
    """
    async with borrow(pool) as connection:
        return await read_credit_note(connection, credit_note_id)


async def list_credit_notes(
    pool: Pool,
    invoice_id: str | None = None,
    tenant_id: str | None = None,
    before: str | None = None,
    limit: int = MAX_LISTED,
) -> list[CreditNote]:
    """An invoice's, a tenant's, or all credit notes, the newest first, a page at a time: `before` is the last
    id of the page.
    """
    async with borrow(pool) as connection:
        rows = await store.read_notes(
            connection,
            invoice_id=invoice_id,
            tenant_id=tenant_id,
            before=before,
            limit=min(limit, MAX_LISTED),
        )
        return await _with_lines(connection, rows)


async def read_credit_note(connection: Connection, credit_note_id: str) -> CreditNote:
    """One credit note, in the caller's transaction.

    Raises:
        NotFoundError: there is no such credit note.
    """
    rows = await store.read_notes(connection, credit_note_id=credit_note_id, limit=1)
    if not rows:
        raise _no_such_note()
    (note,) = await _with_lines(connection, rows)
    return note


def credit_content(
    invoice: Invoice,
    credited: CreditedRow,
    credit_note_id: str,
    lines: Sequence[CreditLine],
    reason: str,
    remedy: Remedy,
) -> CreditContent:
    """What a credit note says. Pure.

    Args:
        credited: by the credit notes that the invoice has already.

    Raises:
        InvalidValueError: a line that the invoice has not.
        OverCreditedError: more than is left to credit of the invoice, or of a line.
    """
    unit = currency(invoice.currency)
    left_of = {
        line.line: max(0, line.amount_minor - credited.by_line.get(line.line, 0)) for line in invoice.lines
    }
    for one in lines:
        if one.line not in left_of:
            raise InvalidValueError(f"The invoice has no line {one.line}.", "lines")
        if one.amount_minor > left_of[one.line]:
            left = format_minor(left_of[one.line], unit)
            raise OverCreditedError(f"There is {left} left to credit of line {one.line}.", "lines")
    subtotal_minor = sum(one.amount_minor for one in lines)
    left_minor = max(0, invoice.subtotal_minor - credited.subtotal_minor)
    if subtotal_minor > left_minor:
        left = format_minor(left_minor, unit)
        raise OverCreditedError(f"There is {left} left to credit of this invoice, before tax.", "lines")
    tax_minor = tax_back_minor(invoice.tax_ppm, subtotal_minor, credited.subtotal_minor, credited.tax_minor)
    return CreditContent(
        credit_note_id=credit_note_id,
        invoice_id=invoice.invoice_id,
        invoice_number=str(invoice.number),
        invoice_sha256=invoice.content_sha256,
        tenant_id=invoice.tenant_id,
        period=invoice.period,
        issuer_id=invoice.issuer_id,
        currency=invoice.currency,
        reason=reason,
        remedy=remedy,
        lines=tuple(sorted(lines, key=lambda one: one.line)),
        subtotal_minor=subtotal_minor,
        tax_name=invoice.tax_name,
        tax_ppm=invoice.tax_ppm,
        tax_minor=tax_minor,
        total_minor=subtotal_minor + tax_minor,
    )


def tax_back_minor(tax_ppm: int, subtotal_minor: int, subtotal_before: int, tax_before: int) -> int:
    """The tax that goes back with a subtotal, after others went back with theirs: see the module. Never below
    zero: a note withdrawn in between may have left more than its part.
    """
    together = round_half_away(Fraction((subtotal_before + subtotal_minor) * tax_ppm, PPM))
    return max(0, together - tax_before)


def credit_sha256(content: CreditContent) -> bytes:
    """The hash that an approval names; see `billing.invoices.content_sha256`."""
    return canonical_sha256({name: getattr(content, name) for name in CreditContent.__struct_fields__})


@asynccontextmanager
async def _changing(
    pool: Pool, credit_note_id: str, actor: str, action: str
) -> AsyncGenerator[tuple[Connection, Invoice, CreditNote]]:
    """One credit note and its invoice, whose lock is both's, in a transaction; a refusal is on record."""
    async with deciding(pool, actor, action, credit_note_id) as connection:
        invoice_id = await store.find_invoice(connection, credit_note_id)
        if invoice_id is None:
            raise _no_such_note()
        await lock_invoice(connection, invoice_id)
        note = await read_credit_note(connection, credit_note_id)
        yield connection, await read_invoice(connection, invoice_id), note


def _check_lines(lines: Sequence[CreditLine]) -> None:
    if not 1 <= len({one.line for one in lines}) == len(lines) <= MAX_LINES:
        raise InvalidValueError(f"Credit 1 to {MAX_LINES} lines, each once.", "lines")
    if any(one.amount_minor <= 0 for one in lines):
        raise InvalidValueError("What is credited of a line is more than nothing.", "lines")


def _require(note: CreditNote, deed: str, *statuses: CreditNoteStatus) -> None:
    if note.status not in statuses:
        wanted = " or ".join(statuses)
        raise CreditNoteStateError(f"This credit note is {note.status}; to {deed} it, it must be {wanted}.")


async def _with_lines(connection: Connection, rows: Sequence[NoteRow]) -> list[CreditNote]:
    lines: dict[str, list[NoteLineRow]] = {}
    for line in await store.read_note_lines(connection, [row.credit_note_id for row in rows]):
        lines.setdefault(line.credit_note_id, []).append(line)
    return [_credit_note(row, lines[row.credit_note_id]) for row in rows]


def _credit_note(row: NoteRow, lines: Sequence[NoteLineRow]) -> CreditNote:
    fields: dict[str, Any] = {
        **msgspec.structs.asdict(row),
        "lines": tuple(CreditLine(line.line, line.amount_minor) for line in lines),
        "total": format_minor(row.total_minor, currency(row.currency)),
    }
    for name in ("invoice_sha256", "content_sha256", "previous_chain_sha256", "chain_sha256"):
        fields[name] = fields[name].hex() if fields[name] else None
    return CreditNote(**fields)


def _no_such_note() -> NotFoundError:
    return NotFoundError("There is no such credit note.", "credit_note_id")
