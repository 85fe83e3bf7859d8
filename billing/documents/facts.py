"""What a document is made from: the invoice, and what explains it."""

from collections.abc import Mapping

import msgspec

from billing.credit_notes import no_such_note, read_credit_note
from billing.documents.credit_note import CreditFacts
from billing.invoices import ISSUED_STATUSES, Invoice, no_such_invoice, read_invoice
from billing.store import documents as store
from billing.store import usage as usage_store
from billing.store.prices import read_price_versions
from billing.store.usage import DayRow
from infra.database import Pool, borrow

_READ_ONE_MOMENT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice and what explains it.

    Attributes:
        days: the month's usage by day and meter; empty days are left out.
        plans: whose prices a price version's are.
        replaced_number: of the invoice that this one replaces.
    """

    invoice: Invoice
    days: tuple[DayRow, ...] = ()
    plans: Mapping[str, str]
    replaced_number: str | None = None


async def read_facts(pool: Pool, invoice_id: str, tenant_id: str | None = None) -> Facts:
    """All that an invoice's document is made from, as of one moment.

    Args:
        tenant_id: only if it is that tenant's, and was issued: drafts are the vendor's.

    Raises:
        NotFoundError: there is no such invoice, it is another tenant's, or not issued to the tenant yet.
    """
    async with borrow(pool) as connection, connection.transaction():
        await connection.execute(_READ_ONE_MOMENT)
        invoice = await read_invoice(connection, invoice_id)
        check_may_read(invoice, tenant_id)
        version_ids = sorted({line.price_version_id for line in invoice.lines if line.price_version_id})
        versions = await read_price_versions(connection, version_ids)
        return Facts(
            invoice=invoice,
            days=tuple(await usage_store.read_days(connection, invoice.tenant_id, invoice.period)),
            plans={version_id: version.plan for version_id, version in versions.items()},
            replaced_number=await store.read_number(connection, invoice.tenant_id, invoice.replaces),
        )


async def read_credit_facts(pool: Pool, credit_note_id: str, tenant_id: str | None = None) -> CreditFacts:
    """A credit note and its invoice, as of one moment.

    Args:
        tenant_id: only if it is that tenant's, and was issued.

    Raises:
        NotFoundError: there is no such credit note, it is another tenant's, or not issued yet.
    """
    async with borrow(pool) as connection, connection.transaction():
        await connection.execute(_READ_ONE_MOMENT)
        note = await read_credit_note(connection, credit_note_id)
        if tenant_id is not None and (note.tenant_id != tenant_id or note.status != "issued"):
            raise no_such_note()
        return CreditFacts(note, await read_invoice(connection, note.invoice_id))


def check_may_read(invoice: Invoice, tenant_id: str | None) -> None:
    """Refuse a tenant what is another's, or not issued.

    Raises:
        NotFoundError: see above; the same as for an invoice that is not there.
    """
    if tenant_id is None:
        return
    if invoice.tenant_id != tenant_id or invoice.status not in ISSUED_STATUSES:
        raise no_such_invoice()
