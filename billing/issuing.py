"""An invoice's way: in review -> approved -> issued -> paid; back to a draft as long as it is not issued.

    approve    by somebody who neither made nor changed it; names the hash of the content approved
    send_back  to a draft, with the reason; the next run brings it into review again
    issue      gives the next number of its issuer, without gaps, and chains its hash to the one before
    mark_paid  by hand, where nobody collects

The database holds the same rules (migration 0011): two people, an approval of exactly this content, the order
of states, and that nothing of an issued invoice changes. Here they are decided with words. What is refused is
on record too.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final
from zoneinfo import ZoneInfo

from billing import audit
from billing.collecting.outbox import collect_issued
from billing.invoices import Invoice, InvoiceStatus, content_sha256, no_such_invoice, read_invoice
from billing.store import drafts as drafts_store
from billing.store import issuing as store
from billing.store.locks import set_lock_timeout
from infra.database import Connection, Pool, borrow
from infra.errors import DomainError, InvalidValueError

_LOCK_TIMEOUT_MS: Final = 4_000
_DIGITS: Final = 6
MAX_REASON_LENGTH: Final = 1000


class InvoiceStateError(DomainError):
    """The invoice is not in a state in which this can be done."""

    code = "invoice_state"


class OwnInvoiceError(DomainError):
    """Who made or changed an invoice wants to approve it."""

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
    async with _changing(pool, invoice_id, actor, "approve") as (connection, invoice):
        _require(invoice, "approve", "in_review")
        if actor in invoice.prepared_by:
            raise OwnInvoiceError("Who made or changed an invoice cannot approve it: ask somebody else.")
        if sha256_hex not in (None, invoice.content_sha256):
            raise StaleApprovalError("This invoice has changed since it was looked at. Look at it again.")
        digest = content_sha256(invoice)
        if digest.hex() != invoice.content_sha256:
            raise StaleApprovalError("What this invoice says is not what was drafted. Run it again.")
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
    check_reason(reason)
    async with _changing(pool, invoice_id, actor, "send_back") as (connection, invoice):
        _require(invoice, "send back", "in_review", "approved")
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
    async with _changing(pool, invoice_id, actor, "issue") as (connection, invoice):
        _require(invoice, "issue", "approved")
        if earlier := await store.earliest_not_issued(connection, invoice.tenant_id, invoice.period):
            raise InvoiceStateError(f"The tenant's invoice of {earlier} comes first: issue that one.")
        await _check_content(connection, invoice)
        issuer = await store.lock_issuer(connection, invoice.issuer_id)
        number = f"{issuer.number_prefix}{issuer.last_number + 1:0{_DIGITS}d}"
        issued_at = datetime.now(UTC)
        await store.set_issued(
            connection,
            invoice_id,
            invoice.issuer_id,
            number_in_issuer=issuer.last_number + 1,
            number=number,
            issued_at=issued_at,
            due_on=(issued_at.astimezone(ZoneInfo(invoice.time_zone))).date()
            + timedelta(days=issuer.payment_days),
            previous_chain_sha256=issuer.last_chain_sha256,
            chain_sha256=chain_sha256(
                issuer.last_chain_sha256, number, bytes.fromhex(invoice.content_sha256)
            ),
        )
        await audit.record(connection, actor, "issue", invoice_id, number=number)
        if invoice.due_minor == 0:
            await note_paid(connection, invoice_id, actor, note="nothing is due")
        await collect_issued(connection, invoice)
        return await read_invoice(connection, invoice_id)


async def mark_paid(pool: Pool, invoice_id: str, actor: str, reference: str) -> Invoice:
    """Note by hand that an invoice was paid, also one that was written off.

    Args:
        reference: what the payment is known by, such as a bank's reference.

    Raises:
        NotFoundError: there is no such invoice.
        InvoiceStateError: it is not issued, or settled already.
        InvalidValueError: no reference, or one too long.
    """
    check_reason(reference, "reference")
    async with _changing(pool, invoice_id, actor, "paid") as (connection, invoice):
        _require(invoice, "settle", "issued", "uncollectible")
        await note_paid(connection, invoice_id, actor, reference=reference)
        return await read_invoice(connection, invoice_id)


async def note_paid(connection: Connection, invoice_id: str, actor: str, **detail: str) -> None:
    """Note that an issued invoice is paid, in the caller's transaction, which holds its lock."""
    await store.set_settled(connection, invoice_id, "paid")
    await audit.record(connection, actor, "paid", invoice_id, **detail)


def chain_sha256(previous: bytes, number: str, content_digest: bytes) -> bytes:
    """An issued invoice's link: SHA-256 over the link before, the number in UTF-8, and the content's hash.

    The first link of an issuer comes after 32 zero bytes.
    """
    return sha256(previous + number.encode() + content_digest).digest()


def check_reason(text: str, param: str = "reason") -> None:
    """Refuse an empty reason, or one that is too long.

    Raises:
        InvalidValueError: see above.
    """
    if not text.strip() or len(text) > MAX_REASON_LENGTH:
        raise InvalidValueError(f"Give a {param} of 1 to {MAX_REASON_LENGTH} characters.", param)


@asynccontextmanager
async def _changing(
    pool: Pool, invoice_id: str, actor: str, action: str
) -> AsyncGenerator[tuple[Connection, Invoice]]:
    """One invoice, locked, in a transaction; a refusal is on record."""
    async with (
        audit.refusals_recorded(pool, actor, action, invoice_id),
        borrow(pool) as connection,
        connection.transaction(),
    ):
        await set_lock_timeout(connection, _LOCK_TIMEOUT_MS)
        if not await store.lock_invoice(connection, invoice_id):
            raise no_such_invoice()
        yield connection, await read_invoice(connection, invoice_id)


def _require(invoice: Invoice, deed: str, *statuses: InvoiceStatus) -> None:
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
    if (month.carried_in_minor, month.carried_from) != (invoice.carried_in_minor, invoice.carried_from):
        raise StaleApprovalError(
            "What the invoice before leaves to this one has changed. Run the month again, then approve it."
        )
