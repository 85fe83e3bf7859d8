"""Documents as files: what is in them, and what they are called."""

from typing import Literal

import msgspec

from billing.documents.credit_note import credit_note_paper
from billing.documents.facts import read_credit_facts, read_facts
from billing.documents.invoice import invoice_paper
from billing.documents.lines_csv import lines_csv
from billing.documents.typesetter import Typesetter
from billing.invoices import show_invoice
from infra.database import Pool


class Download(msgspec.Struct, frozen=True):
    """A file. Its name is the document's number; a draft has none, and goes by its id."""

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
    return Download(_name(invoice.number, invoice_id, "pdf"), await typesetter.pdf(paper, made_at, reader))


async def credit_note_pdf(
    pool: Pool,
    typesetter: Typesetter,
    credit_note_id: str,
    *,
    language: str | None = None,
    tenant_id: str | None = None,
    reader: str,
) -> Download:
    """A credit note as PDF; see `invoice_pdf`.

    Raises:
        NotFoundError: there is no such credit note, or it is not the tenant's to read.
        InvalidValueError: documents are not written in this language.
        DocumentsBusyError: too many documents are being made.
    """
    facts = await read_credit_facts(pool, credit_note_id, tenant_id)
    note = facts.note
    pdf = await typesetter.pdf(credit_note_paper(facts, language), note.issued_at or note.prepared_at, reader)
    return Download(_name(note.number, credit_note_id, "pdf"), pdf)


async def invoice_lines_csv(pool: Pool, invoice_id: str) -> Download:
    """An invoice's lines as CSV, for the vendor.

    Raises:
        NotFoundError: there is no such invoice.
    """
    invoice = await show_invoice(pool, invoice_id)
    return Download(_name(invoice.number, invoice_id, "csv"), lines_csv(invoice))


def _name(number: str | None, document_id: str, kind: Literal["pdf", "csv"]) -> str:
    return f"{number or f'draft-{document_id}'}.{kind}"
