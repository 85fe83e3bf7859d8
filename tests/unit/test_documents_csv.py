"""An invoice's lines as CSV: exact, whole, and nothing that a spreadsheet would run."""

import csv
import io
from fractions import Fraction

import msgspec
import pytest

from billing.documents.lines_csv import BYTE_ORDER_MARK, COLUMNS, lines_csv, safe_cell
from tests.documents_world import MARCH, facts, month, version


def test_lines_come_back_as_they_are_to_the_nano() -> None:
    invoice = facts([month(MARCH, [version(0, "USD", discount_ppm=125_000)])]).invoice
    made = lines_csv(invoice)
    text = made.decode()
    assert text.startswith(BYTE_ORDER_MARK)
    assert text.count("\r\n") == text.count("\n") == len(invoice.lines) + 1
    rows = list(csv.DictReader(io.StringIO(made.decode("utf-8-sig")), strict=True))
    assert tuple(rows[0]) == COLUMNS
    for row, line in zip(rows, invoice.lines, strict=True):
        exact = Fraction(int(row["exact_nanos_numerator"]), int(row["exact_nanos_denominator"]))
        assert exact == Fraction(line.exact_nanos)
        assert int(row["amount_minor"]) == line.amount_minor
        assert f"{row['amount']} {row['currency']}" == line.amount
        assert (row["meter"], row["digest"]) == (line.meter or "", line.digest or "")
        assert [int(row[name]) for name in ("line", "segment", "calls", "units")] == [
            line.line,
            line.segment,
            line.calls,
            line.units,
        ]
    assert rows[-1]["amount_minor"].startswith("-"), "a number below zero stays a number"


@pytest.mark.parametrize("begin", list("=+-@\t\r"))
def test_what_looks_like_a_formula_is_text(begin: str) -> None:
    assert safe_cell(f"{begin}HYPERLINK()") == f"'{begin}HYPERLINK()"
    invoice = facts([month(MARCH, [version(0, "USD")])], number=f'{begin}cmd|,"x"\n').invoice
    (first, *_) = csv.DictReader(io.StringIO(lines_csv(invoice).decode("utf-8-sig"), newline=""), strict=True)
    assert first["invoice_number"] == f'\'{begin}cmd|,"x"\n'


def test_numbers_and_plain_texts_are_left_alone() -> None:
    assert [safe_cell(one) for one in (-5, 0, None, "-6.30", "a=b", "帳-1")] == [
        -5,
        0,
        None,
        "-6.30",
        "a=b",
        "帳-1",
    ]


def test_an_invoice_without_lines_is_a_header() -> None:
    invoice = msgspec.structs.replace(facts([]).invoice, lines=())
    assert lines_csv(invoice).decode("utf-8-sig") == ",".join(COLUMNS) + "\r\n"
