"""An invoice's way: in review -> approved -> issued -> paid; back to a draft as long as it is not issued.

    approve    by somebody who neither made nor changed it; names the hash of the content approved
    send_back  to a draft, with the reason; the next run brings it into review again
    issue      gives the next number of its issuer, without gaps, and chains its hash to the one before
    mark_paid  by hand, where nobody collects

`settle` is the one place where an issued invoice becomes paid, void or uncollectible: `billing.corrections`
and `billing.credit_notes` come to it too.

The database holds the same rules (migration 0011): two people, an approval of exactly this content, the order
of states, and that nothing of an issued invoice changes. Here they are decided with words. What is refused is
on record too.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import msgspec

from billing import audit
from billing.collecting.outbox import collect_issued
from billing.invoices import (
    Carried,
    Invoice,
    InvoiceStatus,
    content_sha256,
    list_invoices,
    no_such_invoice,
    read_invoice,
)
from billing.store import drafts as drafts_store
from billing.store import issuing as store
from billing.store.issuing import Link, SeriesRow
from billing.store.locks import set_lock_timeout
from infra.database import Connection, Pool, borrow
from infra.errors import DomainError, InvalidValueError, RetryLaterError

_LOCK_TIMEOUT_MS: Final = 4_000
_DIGITS: Final = 6
MAX_REASON_LENGTH: Final = 1000


class InvoiceStateError(DomainError):
    """The invoice is not in a state in which this can be done."""

    code = "invoice_state"


class OwnInvoiceError(DomainError):
    """Who made or changed an invoice, or a credit note, wants to approve it."""

    code = "own_invoice"


class StaleApprovalError(DomainError):
    """The content is not what was looked at, or approved."""

    code = "stale_approval"


async def approve(pool: Pool, invoice_id: str, actor: str, sha256_hex: str | None = None) -> Invoice:
    """Approve what an invoice says.

    Args:
        sha256_hex: the content's hash as the approver saw it; None approves what is there now.

    Raises:
        NotFoundError: there is no such invoice.
        InvoiceStateError: it is not in review.
        OwnInvoiceError: the actor made or changed it.
        StaleApprovalError: it says something else than what the approver saw, or than what is on record.
    """
    async with changing(pool, invoice_id, actor, "approve") as (connection, invoice):
        require_status(invoice, "approve", "in_review")
        require_another(actor, invoice.prepared_by, "invoice", "approve")
        digest = content_sha256(invoice)
        require_content(sha256_hex, invoice.content_sha256, digest)
        await store.set_approval(connection, invoice_id, actor, digest)
        await audit.record(connection, actor, "approve", invoice_id, content_sha256=digest.hex())
        return await read_invoice(connection, invoice_id)


async def send_back(pool: Pool, invoice_id: str, actor: str, reason: str) -> Invoice:
    """Make an invoice that is not issued a draft again; an approval that it had is void.

    Raises:
        NotFoundError: there is no such invoice.
        InvoiceStateError: it is neither in review nor approved.
        InvalidValueError: no reason, or one too long.
    """
    async with changing(pool, invoice_id, actor, "send_back") as (connection, invoice):
        check_reason(reason)
        require_status(invoice, "send back", "in_review", "approved")
        await store.set_sent_back(connection, invoice_id)
        await audit.record(connection, actor, "send_back", invoice_id, reason=reason)
        return await read_invoice(connection, invoice_id)


async def issue(pool: Pool, invoice_id: str, actor: str) -> Invoice:
    """Issue an approved invoice: from now on it never changes. One with nothing due is paid at once.

    Raises:
        NotFoundError: there is no such invoice.
        InvoiceStateError: it is not approved, or an earlier month's invoice of the tenant is not issued yet.
        StaleApprovalError: what it says, or what is carried into it, is not what was approved.
    """
    async with changing(pool, invoice_id, actor, "issue") as (connection, invoice):
        require_status(invoice, "issue", "approved")
        if earlier := await store.earliest_not_issued(connection, invoice.tenant_id, invoice.period):
            raise InvoiceStateError(f"The tenant's invoice of {earlier} comes first: issue that one.")
        await _check_content(connection, invoice)
        issuer = await store.lock_issuer(connection, invoice.issuer_id)
        link = next_link(issuer, bytes.fromhex(invoice.content_sha256))
        issued_at = datetime.now(UTC)
        await store.set_issued(
            connection,
            invoice_id,
            invoice.issuer_id,
            link,
            issued_at=issued_at,
            due_on=(issued_at.astimezone(ZoneInfo(invoice.time_zone))).date()
            + timedelta(days=issuer.payment_days),
        )
        await audit.record(connection, actor, "issue", invoice_id, number=link.number)
        if invoice.due_minor == 0:
            await settle(connection, invoice_id, "paid", actor, note="nothing is due")
        await collect_issued(connection, invoice)
        return await read_invoice(connection, invoice_id)


class NotIssued(msgspec.Struct, frozen=True):
    """An approved invoice that could not be issued, and why."""

    invoice_id: str
    code: str
    message: str


class Issued(msgspec.Struct, frozen=True):
    """What came of issuing a month."""

    issued: tuple[Invoice, ...]
    not_issued: tuple[NotIssued, ...]


async def issue_month(pool: Pool, period: str, actor: str) -> Issued:
    """Issue the approved invoices of a month by tenant, `MAX_LISTED` at most. One that is refused stops none.

    Raises:
        InvalidValueError: the month's label.
        UnavailableError: PostgreSQL does not answer; what was issued until then is.
    """
    issued, not_issued = list[Invoice](), list[NotIssued]()
    for one in await list_invoices(pool, period=period, statuses=["approved"]):
        try:
            issued.append(await issue(pool, one.invoice_id, actor))
        except RetryLaterError:
            raise
        except DomainError as error:
            not_issued.append(NotIssued(one.invoice_id, error.code, error.message))
    return Issued(tuple(issued), tuple(not_issued))


async def mark_paid(pool: Pool, invoice_id: str, actor: str, reference: str) -> Invoice:
    """Note by hand that an invoice was paid, also one that was written off.

    Args:
        reference: what the payment is known by, such as a bank's reference.

    Raises:
        NotFoundError: there is no such invoice.
        InvoiceStateError: it is not issued, or settled already.
        InvalidValueError: no reference, or one too long.
    """
    async with changing(pool, invoice_id, actor, "paid") as (connection, invoice):
        check_reason(reference, "reference")
        require_status(invoice, "settle", "issued", "uncollectible")
        open_minor = invoice.open_minor
        await settle(connection, invoice_id, "paid", actor, reference=reference, amount_minor=open_minor)
        return await read_invoice(connection, invoice_id)


async def settle(
    connection: Connection,
    invoice_id: str,
    status: Literal["paid", "void", "uncollectible"],
    actor: str,
    *,
    to_be_reissued: bool = False,
    **detail: Any,
) -> None:
    """Note what became of an issued invoice, in the transaction that decided it under the invoice's lock.

    Args:
        to_be_reissued: of a void one: the next run makes the revision that replaces it.
        detail: for the audit trail.
    """
    await store.set_settled(connection, invoice_id, status, to_be_reissued)
    await audit.record(connection, actor, status, invoice_id, **detail)


def next_link(series: SeriesRow, content_digest: bytes) -> Link:
    """What the next document of a series gets, which is locked."""
    number = document_number(series.number_prefix, series.last_number + 1)
    previous = series.last_chain_sha256
    return Link(series.last_number + 1, number, previous, chain_sha256(previous, number, content_digest))


def document_number(prefix: str, number_in_issuer: int) -> str:
    """An issued document's number as it is printed."""
    return f"{prefix}{number_in_issuer:0{_DIGITS}d}"


def chain_sha256(previous: bytes, number: str, content_digest: bytes) -> bytes:
    """The link of an issued document: SHA-256 over the link before, the number in UTF-8, the content's hash.

    The first link of an issuer's series comes after 32 zero bytes.
    """
    return sha256(previous + number.encode() + content_digest).digest()


def require_another(actor: str, prepared_by: Sequence[str], document: str, deed: str) -> None:
    """Two people: raises OwnInvoiceError where the actor prepared the document."""
    if actor not in prepared_by:
        return
    ask = "ask somebody else"
    if actor.startswith("os:"):
        ask = f"without a staff key you are {actor}; run this with another member's in AIAAS_STAFF_KEY"
    raise OwnInvoiceError(f"Who prepared or changed this {document} cannot {deed} it: {ask}.")


def require_content(seen_hex: str | None, recorded_hex: str, digest: bytes) -> None:
    """What is approved is what was seen, and what is on record.

    Args:
        seen_hex: the hash that the approver names, if any.
        recorded_hex: the hash on record.
        digest: the hash of what is there now.

    Raises:
        StaleApprovalError: they are not the same.
    """
    if seen_hex not in (None, recorded_hex):
        raise StaleApprovalError("This has changed since it was looked at. Look at it again.")
    if digest.hex() != recorded_hex:
        raise StaleApprovalError("What this says is not what was drafted. Draft it again.")


def check_reason(text: str, param: str = "reason", at_most: int = MAX_REASON_LENGTH) -> None:
    """Refuse an empty text, one that is too long, and one that the database cannot keep.

    Raises:
        InvalidValueError: see above.
    """
    if not text.strip() or len(text) > at_most or "\0" in text:
        raise InvalidValueError(f"Give a {param} of 1 to {at_most} characters.", param)


@asynccontextmanager
async def deciding(pool: Pool, actor: str, action: str, subject: str) -> AsyncGenerator[Connection]:
    """A transaction with bounded waits for locks; what is refused in it is on record."""
    async with (
        audit.refusals_recorded(pool, actor, action, subject),
        borrow(pool) as connection,
        connection.transaction(),
    ):
        await set_lock_timeout(connection, _LOCK_TIMEOUT_MS)
        yield connection


@asynccontextmanager
async def changing(
    pool: Pool, invoice_id: str, actor: str, action: str
) -> AsyncGenerator[tuple[Connection, Invoice]]:
    """One invoice, locked, in a transaction; a refusal is on record."""
    async with deciding(pool, actor, action, invoice_id) as connection:
        if not await store.lock_invoice(connection, invoice_id):
            raise no_such_invoice()
        yield connection, await read_invoice(connection, invoice_id)


def require_status(invoice: Invoice, deed: str, *statuses: InvoiceStatus) -> None:
    """Raises: InvoiceStateError: the invoice is in none of these states."""
    if invoice.status in statuses:
        return
    if not invoice.period_complete:
        raise InvoiceStateError(
            f"The month {invoice.period} is not over and closed yet: this is a draft only."
        )
    is_now, wanted = _words(invoice.status), " or ".join(map(_words, statuses))
    raise InvoiceStateError(f"This invoice is {is_now}; to {deed} it, it must be {wanted}.")


def _words(status: InvoiceStatus) -> str:
    return status.replace("_", " ")


async def _check_content(connection: Connection, invoice: Invoice) -> None:
    """What is issued is what was approved, and what is carried in is still there to be carried."""
    if content_sha256(invoice).hex() != invoice.approved_sha256:
        raise StaleApprovalError("What this invoice says is not what was approved. Send it back.")
    (month,) = await drafts_store.read_months(connection, invoice.period, [invoice.tenant_id])
    if msgspec.convert(month.carried, tuple[Carried, ...]) != invoice.carried:
        raise StaleApprovalError(
            "What is carried into this invoice has changed. Run the month again, then approve it."
        )
