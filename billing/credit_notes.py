"""Credit notes: what an issued invoice said too much, taken back line by line.

    create     by one person: amounts by line, a reason, and what is done with money that was paid already
    approve    by another; names the hash of the content approved
    issue      by another: the next number of the issuer's credit notes, chained as invoices are
    withdraw   a wrong one, as long as it is not issued

What a credit note says, with the tax that goes back, is computed in `billing.crediting`. The database sees to
it too that no more is credited than an invoice, and each of its lines, says.

An issued credit note first takes off what is still open of its invoice, which is paid once nothing is. The
rest was paid already: it is carried into the tenant's next invoice, which names the credit note and never
goes below zero, or it is to be refunded.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from billing import audit
from billing.crediting import (
    CreditContent,
    CreditLine,
    Remedy,
    all_that_is_left,
    check_lines,
    credit_content,
    credit_sha256,
)
from billing.invoices import Invoice, read_invoice
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
from billing.money import currency, format_minor
from billing.store import credit_notes as store
from billing.store.credit_notes import NoteLineRow, NoteRow
from billing.store.issuing import lock_invoice
from infra.database import Connection, Pool, borrow
from infra.errors import DomainError, NotFoundError
from infra.ids import new_id

CreditNoteStatus = Literal["draft", "approved", "issued", "withdrawn"]
MAX_LISTED: Final = 500


class CreditNoteStateError(DomainError):
    """The credit note is not in a state in which this can be done."""

    code = "credit_note_state"


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
    lines: Sequence[CreditLine] | None,
    reason: str,
    remedy: Remedy = "carry",
) -> CreditNote:
    """Draft a credit note.

    Args:
        lines: what is taken back; None takes back all that is left of the invoice.

    Raises:
        NotFoundError: there is no such invoice.
        InvoiceStateError: it is not issued, or void.
        OverCreditedError: more than is left to credit of the invoice, or of a line.
        InvalidValueError: no reason, no lines, a line that there is not, an amount that is not positive.
    """
    async with changing(pool, invoice_id, actor, "credit") as (connection, invoice):
        check_reason(reason)
        require_status(invoice, "credit", "issued", "paid", "uncollectible")
        credited = await store.read_credited(connection, invoice_id)
        lines = all_that_is_left(invoice, credited) if lines is None else lines
        check_lines(lines)
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
        raise no_such_note()
    (note,) = await _with_lines(connection, rows)
    return note


@asynccontextmanager
async def _changing(
    pool: Pool, credit_note_id: str, actor: str, action: str
) -> AsyncGenerator[tuple[Connection, Invoice, CreditNote]]:
    """One credit note and its invoice, whose lock is both's, in a transaction; a refusal is on record."""
    async with deciding(pool, actor, action, credit_note_id) as connection:
        invoice_id = await store.find_invoice(connection, credit_note_id)
        if invoice_id is None:
            raise no_such_note()
        await lock_invoice(connection, invoice_id)
        note = await read_credit_note(connection, credit_note_id)
        yield connection, await read_invoice(connection, invoice_id), note


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


def no_such_note() -> NotFoundError:
    """What is said of a credit note that is not there, or another tenant's."""
    return NotFoundError("There is no such credit note.", "credit_note_id")
