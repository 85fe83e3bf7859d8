"""What becomes of an issued invoice that is not paid: void, and made anew if wanted, or written off.

An issued invoice never changes, and its number stays used. A void one counts for nothing: what it took over
from invoices before and from credit notes is free again, and goes to the next invoice. With `reissue` the
next run makes the month's next revision, which names the one that it replaces. What is paid is never voided
but credited: see `billing.credit_notes`.
"""

from billing.invoices import Invoice, read_invoice
from billing.issuing import InvoiceStateError, changing, check_reason, require_status, settle
from billing.store import credit_notes as store
from infra.database import Pool


async def void(pool: Pool, invoice_id: str, actor: str, reason: str, *, reissue: bool = False) -> Invoice:
    """Void an issued invoice that is not paid.

    What was carried out of an invoice is safe from this: where something is, nothing is due, and it was paid
    at once.

    Raises:
        NotFoundError: there is no such invoice.
        InvoiceStateError: it is not issued and unpaid; it has credit notes; or it used prepaid credit, which
            would be lost without `reissue`.
        InvalidValueError: no reason, or one too long.
    """
    async with changing(pool, invoice_id, actor, "void") as (connection, invoice):
        check_reason(reason)
        if invoice.status in ("paid", "uncollectible"):
            raise InvoiceStateError(f"A {invoice.status} invoice is not voided: correct it by a credit note.")
        require_status(invoice, "void", "issued")
        if (await store.read_credited(connection, invoice_id)).subtotal_minor:
            raise InvoiceStateError("This invoice has credit notes: credit the rest too, or withdraw them.")
        if not reissue and any(line.kind == "credit" for line in invoice.lines):
            raise InvoiceStateError(
                "This invoice used prepaid credit, which would be lost: void it with reissue, or credit it."
            )
        await settle(
            connection, invoice_id, "void", actor, reason=reason, to_be_reissued=reissue, reissue=reissue
        )
        return await read_invoice(connection, invoice_id)


async def write_off(pool: Pool, invoice_id: str, actor: str, reason: str) -> Invoice:
    """Give an issued invoice up: it is not expected to be paid any more, but still may be.

    Raises:
        NotFoundError: there is no such invoice.
        InvoiceStateError: it is not issued and unpaid.
        InvalidValueError: no reason, or one too long.
    """
    async with changing(pool, invoice_id, actor, "uncollectible") as (connection, invoice):
        check_reason(reason)
        require_status(invoice, "write off", "issued")
        open_minor = invoice.open_minor
        await settle(connection, invoice_id, "uncollectible", actor, reason=reason, amount_minor=open_minor)
        return await read_invoice(connection, invoice_id)
