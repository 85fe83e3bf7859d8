"""What a credit note says: lines of an issued invoice, taken back with their tax. Pure.

The tax goes back in proportion, at the invoice's own rate: what all credit notes of the invoice together come
to, rounded half away from zero, less the tax that went back before. So credit notes for the whole invoice
give back its whole tax, and never more.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Final, Literal

import msgspec

from billing.invoices import Invoice, canonical_sha256
from billing.money import currency, format_minor, round_half_away
from billing.prices import PPM
from billing.store.credit_notes import CreditedRow
from infra.errors import DomainError, InvalidValueError

Remedy = Literal["carry", "refund"]
MAX_LINES: Final = 500


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


def all_that_is_left(invoice: Invoice, credited: CreditedRow) -> list[CreditLine]:
    """Lines that take back all of an invoice that is not credited yet, its lines in order. Pure.

    Raises:
        OverCreditedError: nothing is left to credit.
    """
    left_minor, lines = _left_minor(invoice, credited), list[CreditLine]()
    for line, left_of_line in _left_of_lines(invoice, credited).items():
        if (amount := min(left_of_line, left_minor)) > 0:
            lines.append(CreditLine(line, amount))
            left_minor -= amount
    if not lines:
        raise OverCreditedError("There is nothing left to credit of this invoice.", "lines")
    return lines


def check_lines(lines: Sequence[CreditLine]) -> None:
    """Raises: InvalidValueError: no lines, too many, one twice, or an amount that is not positive."""
    if not 1 <= len({one.line for one in lines}) == len(lines) <= MAX_LINES:
        raise InvalidValueError(f"Credit 1 to {MAX_LINES} lines, each once.", "lines")
    if any(one.amount_minor <= 0 for one in lines):
        raise InvalidValueError("What is credited of a line is more than nothing.", "lines")


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
    left_of = _left_of_lines(invoice, credited)
    for one in lines:
        if one.line not in left_of:
            raise InvalidValueError(f"The invoice has no line {one.line}.", "lines")
        if one.amount_minor > left_of[one.line]:
            left = format_minor(left_of[one.line], unit)
            raise OverCreditedError(f"There is {left} left to credit of line {one.line}.", "lines")
    subtotal_minor = sum(one.amount_minor for one in lines)
    left_minor = _left_minor(invoice, credited)
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


def _left_of_lines(invoice: Invoice, credited: CreditedRow) -> dict[int, int]:
    return {
        line.line: max(0, line.amount_minor - credited.by_line.get(line.line, 0)) for line in invoice.lines
    }


def _left_minor(invoice: Invoice, credited: CreditedRow) -> int:
    """Of the subtotal: what discounts and prepaid credit took off is not credited."""
    return max(0, invoice.subtotal_minor - credited.subtotal_minor)
