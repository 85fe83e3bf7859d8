"""What a month with so many units would cost at a price version, tier by tier. Pure."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from billing.meters import METER_NAMES
from billing.money import MAX_NANOS, currency, format_minor
from billing.prices import PriceModel, PriceVersion, TierUse
from billing.statement import Line, LineKind, MonthUse, Segment, Use, statement
from infra.errors import InvalidValueError

_MONTH: Final = "preview"


class PreviewLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line, as an invoice would have it."""

    kind: LineKind
    meter: str | None
    model: PriceModel | None
    per_units: int | None
    units: int
    tiers: tuple[TierUse, ...]
    basis: dict[str, Any]
    exact_nanos: str
    amount_minor: int
    amount: str


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """A month's lines and what they come to, before tax."""

    price_version_id: str | None
    plan: str
    currency: str
    lines: tuple[PreviewLine, ...]
    total_minor: int
    total: str


def preview(version: PriceVersion, units: Mapping[str, int]) -> Preview:
    """A month with so many units by meter.

    Raises:
        InvalidValueError: an unknown meter, or a number out of range.
    """
    for meter, count in units.items():
        if meter not in METER_NAMES:
            raise InvalidValueError(
                f"There is no such meter. Use one of: {', '.join(sorted(METER_NAMES))}.", "units"
            )
        if meter not in version.prices:
            raise InvalidValueError(f"This version has no price for {meter}.", "units")
        if not 0 <= count <= MAX_NANOS:
            raise InvalidValueError(f"A month has 0 to {MAX_NANOS} units of a meter.", "units")
    uses = tuple(Use(0, meter, 0, count) for meter, count in sorted(units.items()))
    unit = currency(version.currency)
    made = statement([MonthUse(usage_period=_MONTH, segments=(Segment(version),), uses=uses)], _MONTH, unit)
    return Preview(
        price_version_id=version.price_version_id or None,
        plan=version.plan,
        currency=version.currency,
        lines=tuple(_line(line, format_minor(line.amount_minor, unit)) for line in made.lines),
        total_minor=made.subtotal_minor,
        total=format_minor(made.subtotal_minor, unit),
    )


def _line(line: Line, amount: str) -> PreviewLine:
    fields = msgspec.structs.asdict(line)
    kept = {name: fields[name] for name in PreviewLine.__struct_fields__ if name != "amount"}
    return PreviewLine(**kept, amount=amount)
