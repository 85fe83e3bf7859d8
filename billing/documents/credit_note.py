"""From a credit note and the invoice that it corrects to its document. Pure."""

from zoneinfo import ZoneInfo

import msgspec

from billing.credit_notes import CreditLine, CreditNote
from billing.documents import amounts
from billing.documents.paper import Fact, LineBlock, Paper, Section, Total
from billing.documents.parts import hashes, party
from billing.documents.words import Texts
from billing.invoices import Invoice
from billing.money import Currency, currency, format_percent


class CreditFacts(msgspec.Struct, frozen=True):
    """A credit note, and the invoice whose parties and lines it means."""

    note: CreditNote
    invoice: Invoice


def credit_note_paper(facts: CreditFacts, language: str | None = None) -> Paper:
    """The document of a credit note; its amounts are what is taken back.

    Args:
        language: in the place of the invoice's own.

    Raises:
        InvalidValueError: documents are not written in this language.
    """
    note, invoice = facts.note, facts.invoice
    say, unit = Texts(language or invoice.language), currency(note.currency)
    title = say("credited_lines", number=note.invoice_number)
    return Paper(
        language=say.language,
        title=say("credit_note"),
        mark={"issued": "", "withdrawn": say("void")}.get(note.status, say("draft")),
        reference=note.number or note.credit_note_id,
        issuer=party("issuer", invoice.issuer, say),
        customer=party("customer", invoice.bill_to, say),
        facts=_facts(facts, say),
        headings=(say("item"), "", "", say("invoiced"), say("credited")),
        sections=(Section(title, "", tuple(_block(line, invoice, unit, say) for line in note.lines)),),
        nothing="",
        totals=_totals(note, unit, say),
        due_note="" if note.number else say("credit_draft_note"),
        notes=(say("reason", reason=note.reason),),
        charts_title="",
        charts=(),
        proof_title=say("proof"),
        proof_headings=("", "", "", "", ""),
        proof_rows=(),
        hashes=hashes(note.content_sha256, note.previous_chain_sha256, note.chain_sha256, say),
        proof_notes=(say("credit_chain_note"),) if note.chain_sha256 else (),
    )


def _facts(facts: CreditFacts, say: Texts) -> tuple[Fact, ...]:
    note, invoice = facts.note, facts.invoice
    zone = ZoneInfo(invoice.time_zone)
    rows = [("credit_number", note.number or say("not_issued"))]
    if note.issued_at:
        rows.append(("issued_on", amounts.day(note.issued_at.astimezone(zone).date(), say)))
    corrected = note.invoice_number
    if invoice.issued_at:
        day = amounts.day(invoice.issued_at.astimezone(zone).date(), say)
        corrected = say("number_of_day", number=corrected, day=day)
    rows += [
        ("corrects", corrected),
        ("period", amounts.month(note.period, say)),
        ("currency", say(note.currency)),
    ]
    return tuple(Fact(say(label), value) for label, value in rows)


def _block(line: CreditLine, invoice: Invoice, unit: Currency, say: Texts) -> LineBlock:
    invoiced = next(one for one in invoice.lines if one.line == line.line)
    is_late = invoiced.usage_period != invoice.period
    return LineBlock(
        number=line.line,
        title=say(invoiced.meter or invoiced.kind),
        detail=say("late_usage_of", month=amounts.month(invoiced.usage_period, say)) if is_late else "",
        exact=amounts.money(invoiced.amount_minor, unit),
        amount=amounts.money(line.amount_minor, unit),
    )


def _totals(note: CreditNote, unit: Currency, say: Texts) -> tuple[Total, ...]:
    rows: list[Total] = []
    if note.tax_ppm or note.tax_name:
        rate = say("tax_rate", name=note.tax_name or say("tax"), percent=format_percent(note.tax_ppm))
        rows.append(Total(say("subtotal"), amounts.money(note.subtotal_minor, unit)))
        rows.append(Total(rate, amounts.money(note.tax_minor, unit)))
    rows.append(Total(say("total_credited"), amounts.money(note.total_minor, unit), "due"))
    went = (
        ("credit_reduces", note.reduces_minor),
        ("credit_carries", note.carries_minor),
        ("credit_refunds", note.refunds_minor),
    )
    rows += [
        Total(say(label, number=note.invoice_number), amounts.money(minor, unit))
        for label, minor in went
        if minor
    ]
    return tuple(rows)
