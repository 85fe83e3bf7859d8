"""From a month's usage to what it comes to: lines, tax, what is carried. Pure.

    month_parts   the usage of one month at its prices -> exact amounts: usage, discount, minimum commitment
    statement     a month's own usage, and late usage of months before, -> lines and totals in minor units

Late usage is priced as its own month: each of its lines is what the month comes to with it, less what it came
to before, so that the lines of a month add up, over all invoices, to the month computed anew.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Final, Literal

import msgspec

from billing.money import Currency, minor_units, round_half_away
from billing.prices import PPM, PriceVersion, TierUse

LineKind = Literal["usage", "discount", "minimum", "credit"]
_Key = tuple[LineKind, int, str | None]
_ORDER: Final[Mapping[LineKind, int]] = {"usage": 0, "discount": 1, "minimum": 2, "credit": 3}


class Segment(msgspec.Struct, frozen=True):
    """A part of a month under one price version; a month has one, and one more for each change at once.

    Attributes:
        share: of the month's time, by which fixed parts are prorated.
        starts_at: when it began.
    """

    version: PriceVersion
    share: Fraction = Fraction(1)
    starts_at: datetime | None = None


class Use(msgspec.Struct, frozen=True):
    """What a meter counted in a segment of a month.

    Attributes:
        rows: the usage rows, and `digest`, their SHA-256 in hexadecimal; None while the month is not sealed.
    """

    segment: int
    meter: str
    calls: int
    units: int
    rows: int = 0
    digest: str | None = None


class MonthUse(msgspec.Struct, frozen=True, kw_only=True):
    """The usage of one month that an invoice bills.

    Attributes:
        usage_period: the month, `YYYY-MM`.
        segments: its prices, one after the other.
        uses: what is billed.
        before: the units that other invoices billed of the month before, by (segment, meter).
    """

    usage_period: str
    segments: tuple[Segment, ...]
    uses: tuple[Use, ...]
    before: Mapping[tuple[int, str], int] = {}


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """An exact amount of a month, and what it was computed from."""

    kind: LineKind
    segment: int
    meter: str | None
    nanos: Fraction
    basis: dict[str, Any] = {}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an invoice, without its number.

    Attributes:
        usage_period: the month whose usage it is; another one than the invoice's where it came late.
        tiers: how the units spread over the tiers; their amounts add up to `exact_nanos`.
        basis: what a discount, a minimum commitment or a credit was computed from; in a month whose plan was
            changed at once, also which `plan` it was, and `from` when.
        exact_nanos: the amount before it was rounded, a whole number or `numerator/denominator`.
    """

    kind: LineKind
    usage_period: str
    segment: int
    meter: str | None
    price_version_id: str | None
    model: str | None
    per_units: int | None
    row_count: int
    calls: int
    units: int
    digest: str | None
    tiers: tuple[TierUse, ...]
    basis: dict[str, Any]
    exact_nanos: str
    amount_minor: int


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What a month comes to, in minor units: `due = subtotal + tax + carried_in - carried_out`."""

    lines: tuple[Line, ...]
    subtotal_minor: int
    tax_minor: int
    total_minor: int
    carried_in_minor: int
    carried_out_minor: int
    due_minor: int


def statement(
    months: Sequence[MonthUse],
    period: str,
    unit: Currency,
    *,
    credit_nanos: int = 0,
    tax_ppm: int = 0,
    carried_in_minor: int = 0,
) -> Statement:
    """Lines and totals.

    Args:
        months: the invoice's own month, and those with late usage.
        period: the invoice's month.
        credit_nanos: what the month took off the prepaid credit.
        tax_ppm: the tax rate in millionths, on what is left after the credit.
        carried_in_minor: what the invoice before left to this one.
    """
    lines: list[Line] = []
    for month in sorted(months, key=lambda one: (one.usage_period != period, one.usage_period)):
        lines += _lines(month, unit, is_late=month.usage_period != period)
    if credit := _credit_line(lines, period, unit, credit_nanos):
        lines.append(credit)
    subtotal = sum(line.amount_minor for line in lines)
    tax = round_half_away(Fraction(subtotal * tax_ppm, PPM))
    due = subtotal + tax + carried_in_minor
    carried_out = due if due < unit.smallest_due_minor else 0
    return Statement(
        lines=tuple(lines),
        subtotal_minor=subtotal,
        tax_minor=tax,
        total_minor=subtotal + tax,
        carried_in_minor=carried_in_minor,
        carried_out_minor=carried_out,
        due_minor=due - carried_out,
    )


def month_parts(segments: Sequence[Segment], units: Mapping[tuple[int, str], int]) -> list[Part]:
    """What a month with so many units comes to; `units` by (segment, meter).

    Tiers run over the whole month, from one segment to the next; by volume, a segment's units are priced at
    the tier that the month had reached when it ended. A discount is off its segment's usage; the minimum
    commitment, prorated, is compared with what all of it comes to after discounts.
    """
    parts: list[Part] = []
    for number, segment in enumerate(segments):
        held = _held(segment) if len(segments) > 1 else {}
        usage = [
            Part(
                kind="usage",
                segment=number,
                meter=meter,
                nanos=segment.version.prices[meter].rate_call(
                    _units_before(units, number, meter), units[number, meter]
                ),
                basis=held,
            )
            for meter in sorted(meter for of_segment, meter in units if of_segment == number)
        ]
        parts += usage
        nanos, ppm = _sum(usage), segment.version.discount_ppm
        if ppm and nanos:
            basis = {"discount_ppm": ppm, "of_nanos": str(nanos), **held}
            off = -nanos * Fraction(ppm, PPM)
            parts.append(Part(kind="discount", segment=number, meter=None, nanos=off, basis=basis))
    committed = sum((one.share * one.version.minimum_nanos for one in segments), Fraction(0))
    missing = committed - _sum(parts)
    if committed and missing > 0:  # without one, what was taken back at a higher price stays below zero
        basis = {
            "commitments": [_commitment(segment) for segment in segments],
            "reached_nanos": str(_sum(parts)),
        }
        parts.append(Part(kind="minimum", segment=0, meter=None, nanos=missing, basis=basis))
    return parts


def _lines(month: MonthUse, unit: Currency, is_late: bool) -> list[Line]:
    """What the uses add to a month that stood at `before`.

    A late month was billed before, also where nothing had been used: a minimum commitment was.
    """
    after = dict(month.before)
    for use in month.uses:
        after[use.segment, use.meter] = after.get((use.segment, use.meter), 0) + use.units
    parts = _by_key(month_parts(month.segments, after))
    earlier = _by_key(month_parts(month.segments, month.before)) if is_late else {}
    amounts, amounts_before = _rounded(parts, unit), _rounded(earlier, unit)
    uses = {(use.segment, use.meter): use for use in month.uses}
    lines: list[Line] = []
    for key in sorted(parts.keys() | earlier.keys(), key=_place):
        part, was = parts.get(key), earlier.get(key)
        nanos = (part.nanos if part else 0) - (was.nanos if was else Fraction(0))
        _, segment, meter = key
        use = uses.get((segment, meter)) if meter else None
        if not nanos and use is None:
            continue
        amount = amounts.get(key, 0) - amounts_before.get(key, 0)
        basis = part.basis if part else {}
        lines.append(_line(month, key, use, after, basis, Fraction(nanos), amount))
    return lines


def _rounded(parts: Mapping[_Key, Part], unit: Currency) -> dict[_Key, int]:
    """Each part in minor units, rounded by itself, with two exceptions. A discount is no more than what it is
    off came to. A minimum commitment is what is then missing, if anything, so that the month comes to the
    commitment itself and not to a minor unit beside it.
    """
    amounts = {key: minor_units(part.nanos, unit) for key, part in parts.items()}
    for kind, segment, _ in parts:
        if kind == "discount":
            usage = sum(minor for key, minor in amounts.items() if key[:2] == ("usage", segment))
            amounts[kind, segment, None] = max(amounts[kind, segment, None], -max(0, usage))
    if minimum := next((key for key in parts if key[0] == "minimum"), None):
        committed = minor_units(_sum(list(parts.values())), unit)
        amounts[minimum] = max(0, committed - sum(amounts.values()) + amounts[minimum])
    return amounts


def _line(
    month: MonthUse,
    key: _Key,
    use: Use | None,
    after: Mapping[tuple[int, str], int],
    basis: dict[str, Any],
    nanos: Fraction,
    amount_minor: int,
) -> Line:
    kind, segment, meter = key
    version = month.segments[segment].version
    price, tiers = None, tuple[TierUse, ...]()
    if meter:
        price = version.prices[meter]
        begin = _units_before(after, segment, meter)
        stood_at = begin + month.before.get((segment, meter), 0)
        tiers = price.tier_uses_between(stood_at, begin + after[segment, meter], begin)
    return Line(
        kind=kind,
        usage_period=month.usage_period,
        segment=segment,
        meter=meter,
        price_version_id=None if kind == "minimum" else version.price_version_id,
        model=price.model if price else None,
        per_units=price.per if price else None,
        row_count=use.rows if use else 0,
        calls=use.calls if use else 0,
        units=use.units if use else 0,
        digest=use.digest if use else None,
        tiers=tiers,
        basis=basis,
        exact_nanos=str(nanos),
        amount_minor=amount_minor,
    )


def _credit_line(lines: Sequence[Line], period: str, unit: Currency, credit_nanos: int) -> Line | None:
    """What was paid ahead: what the calls took off the credit, and not more than there is to pay."""
    to_pay = sum(line.amount_minor for line in lines)
    amount = min(minor_units(Fraction(credit_nanos), unit), to_pay)
    if amount <= 0:
        return None
    return Line(
        kind="credit",
        usage_period=period,
        segment=0,
        meter=None,
        price_version_id=None,
        model=None,
        per_units=None,
        row_count=0,
        calls=0,
        units=0,
        digest=None,
        tiers=(),
        basis={"credit_nanos": str(credit_nanos)},
        exact_nanos=str(-credit_nanos),
        amount_minor=-amount,
    )


def _units_before(units: Mapping[tuple[int, str], int], segment: int, meter: str) -> int:
    """What the meter stood at when the segment began."""
    return sum(units.get((earlier, meter), 0) for earlier in range(segment))


def _held(segment: Segment) -> dict[str, str]:
    """What a month with several plans says of each: which one, and from when."""
    held = {"plan": segment.version.plan}
    return held | ({"from": _moment(segment.starts_at)} if segment.starts_at else {})


def _commitment(segment: Segment) -> dict[str, str]:
    return {
        "price_version_id": segment.version.price_version_id,
        "minimum_nanos": str(segment.version.minimum_nanos),
        "share": str(segment.share),
        **_held(segment),
    }


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _by_key(parts: Sequence[Part]) -> dict[_Key, Part]:
    return {(part.kind, part.segment, part.meter): part for part in parts}


def _sum(parts: Sequence[Part]) -> Fraction:
    return sum((part.nanos for part in parts), Fraction(0))


def _place(key: _Key) -> tuple[int, int, str]:
    kind, segment, meter = key
    return _ORDER[kind], segment, meter or ""
