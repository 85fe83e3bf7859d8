"""An invoice's lines as CSV (RFC 4180), for spreadsheets and programs.

It begins with a byte order mark: without one, Excel under Windows in Taiwan reads UTF-8 as Big5, and names
come out as other characters. An exact amount has two columns, since spreadsheets take `1/3` for a date.
"""

import csv
import io
import re
from fractions import Fraction
from typing import Final

from billing.invoices import Invoice, InvoiceLine
from billing.money import currency, format_minor

BYTE_ORDER_MARK: Final = "\ufeff"
COLUMNS: Final = (
    "invoice_id",
    "invoice_number",
    "tenant_id",
    "period",
    "line",
    "kind",
    "usage_period",
    "segment",
    "meter",
    "price_version_id",
    "model",
    "per_units",
    "row_count",
    "calls",
    "units",
    "digest",
    "cutoff_at",
    "exact_nanos_numerator",
    "exact_nanos_denominator",
    "amount_minor",
    "amount",
    "currency",
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
_NUMBER: Final = re.compile(r"-[0-9]+(\.[0-9]+)?", re.ASCII)


def lines_csv(invoice: Invoice) -> bytes:
    """A header, and a row for each line; lines end in CR LF."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for line in invoice.lines:
        writer.writerow(safe_cell(one) for one in _row(invoice, line))
    return (BYTE_ORDER_MARK + text.getvalue()).encode()


def safe_cell(value: str | int | None) -> str | int | None:
    """A text that a spreadsheet would take for a formula, with an apostrophe before it; a number is none."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def _row(invoice: Invoice, line: InvoiceLine) -> tuple[str | int | None, ...]:
    exact, unit = Fraction(line.exact_nanos), currency(invoice.currency)
    amount, code = format_minor(line.amount_minor, unit).split(" ")
    return (
        invoice.invoice_id,
        invoice.number,
        invoice.tenant_id,
        invoice.period,
        line.line,
        line.kind,
        line.usage_period,
        line.segment,
        line.meter,
        line.price_version_id,
        line.model,
        line.per_units,
        line.row_count,
        line.calls,
        line.units,
        line.digest,
        line.cutoff_at.isoformat(),
        exact.numerator,
        exact.denominator,
        line.amount_minor,
        amount,
        code,
    )
