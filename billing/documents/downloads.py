"""Documents as files: what is in them, and what they are called."""

from typing import Literal

import msgspec

from billing.documents.facts import read_facts
from billing.documents.invoice import invoice_paper
from billing.documents.lines_csv import lines_csv
from billing.documents.typesetter import Typesetter
from billing.invoices import Invoice, show_invoice
from infra.database import Pool


class Download(msgspec.Struct, frozen=True):
    """A file. Its name is the invoice's number; a draft has none, and goes by its id."""

    name: str
    body: bytes


async def invoice_pdf(
    pool: Pool,
    typesetter: Typesetter,
    invoice_id: str,
    *,
    language: str | None = None,
    tenant_id: str | None = None,
    reader: str,
) -> Download:
    """An invoice as PDF; an issued one in the same state gives the same bytes.

    Args:
        language: in the place of the invoice's own.
        tenant_id: only if it is that tenant's, and was issued.
        reader: who asks, for a fair share of the typesetter.

    Raises:
        NotFoundError: there is no such invoice, or it is not the tenant's to read.
        InvalidValueError: documents are not written in this language.
        DocumentsBusyError: too many documents are being made.
    """
    facts = await read_facts(pool, invoice_id, tenant_id)
    invoice = facts.invoice
    paper = invoice_paper(facts, language)
    made_at = invoice.issued_at or invoice.drafted_at
    return Download(_name(invoice, "pdf"), await typesetter.pdf(paper, made_at, reader))


async def invoice_lines_csv(pool: Pool, invoice_id: str) -> Download:
    """An invoice's lines as CSV, for the vendor.

    Raises:
        NotFoundError: there is no such invoice.
    """
    invoice = await show_invoice(pool, invoice_id)
    return Download(_name(invoice, "csv"), lines_csv(invoice))


def _name(invoice: Invoice, kind: Literal["pdf", "csv"]) -> str:
    return f"{invoice.number or f'draft-{invoice.invoice_id}'}.{kind}"
