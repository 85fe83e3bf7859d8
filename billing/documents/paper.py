"""A document as it will be read: all texts and numbers are made; the template only sets them."""

from typing import Literal

from msgspec import Struct


class Party(Struct, frozen=True):
    """Who bills or is billed: the name, then address, tax id and e-mail, a line each."""

    label: str
    name: str
    lines: tuple[str, ...]


class Fact(Struct, frozen=True):
    """A label and what it says."""

    label: str
    value: str


class TierRow(Struct, frozen=True):
    """One tier of a line: which units, how many, their price, what they come to exactly."""

    what: str
    units: str
    price: str
    exact: str


class LineBlock(Struct, frozen=True, kw_only=True):
    """One line of the document.

    Attributes:
        exact: the amount before rounding; empty where there is nothing to round.
        notes: sentences under the line.
    """

    number: int
    title: str
    detail: str = ""
    units: str = ""
    price: str = ""
    exact: str = ""
    amount: str
    tiers: tuple[TierRow, ...] = ()
    notes: tuple[str, ...] = ()


class Section(Struct, frozen=True):
    """Lines that belong together: a month's usage, late usage, what was paid ahead."""

    title: str
    note: str
    lines: tuple[LineBlock, ...]


class Total(Struct, frozen=True):
    """One row of the totals."""

    label: str
    amount: str
    weight: Literal["plain", "strong", "due"] = "plain"


class Tick(Struct, frozen=True):
    """A label under a chart, at the bar of that index."""

    index: int
    label: str


class Chart(Struct, frozen=True):
    """A meter's usage by day.

    Attributes:
        most: what the highest bar is.
        bars: heights in thousandths of the highest.
    """

    title: str
    most: str
    bars: tuple[int, ...]
    ticks: tuple[Tick, ...]


class ProofRow(Struct, frozen=True):
    """What proves one line: its usage rows, and the price they were rated at."""

    number: str
    rows: str
    cutoff: str
    price_version: str
    digest: str


class Paper(Struct, frozen=True, kw_only=True):
    """A whole document.

    Attributes:
        language: `en` or `zh-TW`.
        mark: printed large on what is not valid; empty otherwise.
        reference: what it is known by: on every page.
        headings: of the table of lines: item, units, price, exact, amount.
        nothing: what stands in the place of lines where there are none.
        proof_headings: line, rows, cut-off, price version, digest.
    """

    language: str
    title: str
    mark: str
    reference: str
    issuer: Party
    customer: Party
    facts: tuple[Fact, ...]
    headings: tuple[str, str, str, str, str]
    sections: tuple[Section, ...]
    nothing: str
    totals: tuple[Total, ...]
    due_note: str
    notes: tuple[str, ...]
    charts_title: str
    charts: tuple[Chart, ...]
    proof_title: str
    proof_headings: tuple[str, str, str, str, str]
    proof_rows: tuple[ProofRow, ...]
    hashes: tuple[Fact, ...]
    proof_notes: tuple[str, ...]
