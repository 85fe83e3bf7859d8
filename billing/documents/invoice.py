"""From an invoice and what explains it to its document. Pure: nothing is computed here that is billed."""

from datetime import datetime, timedelta
from itertools import groupby
from zoneinfo import ZoneInfo

from billing.documents import amounts
from billing.documents.chart import usage_charts
from billing.documents.facts import Facts
from billing.documents.lines import LineWriter
from billing.documents.paper import Fact, Paper, ProofRow, Section, Total
from billing.documents.parts import hashes, party
from billing.documents.words import Texts
from billing.invoices import ISSUED_STATUSES, Invoice, InvoiceLine
from billing.money import Currency, currency, format_percent


def invoice_paper(facts: Facts, language: str | None = None) -> Paper:
    """The document of an invoice.

    Args:
        language: in the place of the invoice's own.

    Raises:
        InvalidValueError: documents are not written in this language.
    """
    invoice, say = facts.invoice, Texts(language or facts.invoice.language)
    unit = currency(invoice.currency)
    return Paper(
        language=say.language,
        title=say("invoice"),
        mark=_mark(invoice, say),
        reference=invoice.number or invoice.invoice_id,
        issuer=party("issuer", invoice.issuer, say),
        customer=party("customer", invoice.bill_to, say),
        facts=_facts(facts, say),
        headings=(say("item"), say("units"), say("price"), say("exact"), say("amount")),
        sections=_sections(facts, unit, say),
        nothing="" if invoice.lines else say("nothing"),
        totals=_totals(invoice, unit, say),
        due_note=_due_note(invoice, say),
        notes=_notes(invoice, unit, say),
        charts_title=say("by_day"),
        charts=usage_charts(facts.days, invoice.period, say),
        proof_title=say("proof"),
        proof_headings=(
            say("proof_line"),
            say("proof_rows"),
            say("proof_cutoff"),
            say("proof_price"),
            say("proof_digest"),
        ),
        proof_rows=tuple(_proof_row(line) for line in invoice.lines if line.digest),
        hashes=hashes(invoice.content_sha256, invoice.previous_chain_sha256, invoice.chain_sha256, say),
        proof_notes=_proof_notes(invoice, say),
    )


def _mark(invoice: Invoice, say: Texts) -> str:
    if invoice.status not in ISSUED_STATUSES:
        return say("draft")
    return say("void") if invoice.status == "void" else ""


def _facts(facts: Facts, say: Texts) -> tuple[Fact, ...]:
    invoice, zone = facts.invoice, ZoneInfo(facts.invoice.time_zone)
    first, last = invoice.starts_at.astimezone(zone), invoice.ends_at.astimezone(zone) - timedelta.resolution
    offsets = dict.fromkeys(_offset(one) for one in (first, last))
    rows = [("number", invoice.number or say("not_issued"))]
    if invoice.issued_at and invoice.due_on:
        rows += [
            ("issued_on", amounts.day(invoice.issued_at.astimezone(zone).date(), say)),
            ("due_on", amounts.day(invoice.due_on, say)),
        ]
    rows += [
        ("period", amounts.days(first, last, say)),
        ("time_zone", f"{invoice.time_zone} ({' → '.join(offsets)})"),
        ("currency", say(invoice.currency)),
    ]
    if invoice.replaces:
        number = facts.replaced_number or invoice.replaces
        rows.append(("revision", say("replaces", revision=invoice.revision, number=number)))
    return tuple(Fact(say(label), value) for label, value in rows)


def _sections(facts: Facts, unit: Currency, say: Texts) -> tuple[Section, ...]:
    """Lines in their order, by what they are for: a month's usage, or what was paid ahead."""
    sections: list[Section] = []
    writer, lines = LineWriter(facts, unit, say), facts.invoice.lines
    for (is_credit, month), group in groupby(lines, lambda one: (one.kind == "credit", one.usage_period)):
        blocks = tuple(writer.block(line) for line in group)
        if is_credit:
            sections.append(Section(say("paid_ahead"), "", blocks))
            continue
        is_late = month != facts.invoice.period
        title = say("late_usage_of" if is_late else "usage_of", month=amounts.month(month, say))
        sections.append(Section(title, say("late_note") if is_late else "", blocks))
    return tuple(sections)


def _totals(invoice: Invoice, unit: Currency, say: Texts) -> tuple[Total, ...]:
    rows: list[Total] = []
    if invoice.tax_ppm or invoice.tax_name:
        rate = say("tax_rate", name=invoice.tax_name or say("tax"), percent=format_percent(invoice.tax_ppm))
        rows.append(Total(say("subtotal"), amounts.money(invoice.subtotal_minor, unit)))
        rows.append(Total(rate, amounts.money(invoice.tax_minor, unit)))
    rows.append(Total(say("total"), amounts.money(invoice.total_minor, unit), "strong"))
    rows += [
        Total(say(f"carried_{one.source}", number=one.number), amounts.money(one.amount_minor, unit))
        for one in invoice.carried
    ]
    if invoice.carried_out_minor:
        rows.append(Total(say("carried_out"), amounts.money(-invoice.carried_out_minor, unit)))
    rows.append(Total(say("due"), amounts.money(invoice.due_minor, unit), "due"))
    return tuple(rows)


def _due_note(invoice: Invoice, say: Texts) -> str:
    if invoice.status not in ISSUED_STATUSES:
        return say("draft_note")
    if invoice.status == "void":
        return say("void_note")
    if invoice.due_minor and invoice.due_on:
        return say("pay_by", day=amounts.day(invoice.due_on, say))
    return say("nothing_due")


def _notes(invoice: Invoice, unit: Currency, say: Texts) -> tuple[str, ...]:
    notes = [] if invoice.period_complete else [say("in_progress")]
    if invoice.carried_out_minor > 0:
        notes.append(say("carry_small", smallest=amounts.money(unit.smallest_due_minor, unit)))
    elif invoice.carried_out_minor < 0:
        notes.append(say("carry_balance"))
    if invoice.lines:
        notes.append(say("rounding", smallest=amounts.money(1, unit)))
    return tuple(notes)


def _proof_row(line: InvoiceLine) -> ProofRow:
    return ProofRow(
        number=str(line.line),
        rows=amounts.count(line.row_count),
        cutoff=line.cutoff_at.strftime("%Y-%m-%d %H:%M:%S"),
        price_version=line.price_version_id or "",
        digest=line.digest or "",
    )


def _proof_notes(invoice: Invoice, say: Texts) -> tuple[str, ...]:
    notes = (say("proof_note", invoice_id=invoice.invoice_id),)
    return (*notes, say("chain_note")) if invoice.chain_sha256 else notes


def _offset(moment: datetime) -> str:
    text = moment.strftime("%z")
    return f"UTC{text[:3]}:{text[3:5]}"
