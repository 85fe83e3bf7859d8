"""Prices and rating. Pure and exact: amounts are fractions of nanos, and nothing here rounds."""

from fractions import Fraction

import msgspec

from infra.errors import InvalidValueError


class InvalidPriceError(InvalidValueError):
    """A price that cannot be charged: a gap in its tiers, a negative amount."""

    code = "invalid_price"


class Tier(msgspec.Struct, frozen=True):
    """The price of the month's units after the tier before, up to and with `up_to_units` (None: no end)."""

    up_to_units: int | None
    nanos: int


class TierUse(msgspec.Struct, frozen=True):
    """What fell into one tier.

    Attributes:
        from_units: the month's units before the tier begins.
        up_to_units: the last unit of the tier; None for the last tier.
        units: the units that fell into it.
        nanos: its price, per as many units as the meter's price says.
        amount_nanos: `units * nanos / per`, exact: a whole number or `numerator/denominator`.
    """

    from_units: int
    up_to_units: int | None
    units: int
    nanos: int
    amount_nanos: str


class MeterPrice(msgspec.Struct, frozen=True):
    """A graduated price: `nanos` of the tier per `per` units, over the month's units of one meter.

    Raises:
        InvalidPriceError: no tiers, tiers out of order, the last one bounded, or a negative number.
    """

    per: int
    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        if self.per < 1:
            raise InvalidPriceError("A price is per 1 unit or more.", "per")
        if not self.tiers or self.tiers[-1].up_to_units is not None:
            raise InvalidPriceError("The last tier of a price has no upper bound; give it one.", "tiers")
        if any(tier.nanos < 0 for tier in self.tiers):
            raise InvalidPriceError("A price is not negative.", "nanos")
        begin = 0
        for tier in self.tiers[:-1]:
            if tier.up_to_units is None or tier.up_to_units <= begin:
                raise InvalidPriceError("Each tier ends after the one before it.", "up_to_units")
            begin = tier.up_to_units

    def rate(self, units: int) -> Fraction:
        """The exact price, in nanos, of a month's first `units` units."""
        return Fraction(sum(part * tier.nanos for _, tier, part in self._parts(units)), self.per)

    def rate_call(self, units_before: int, units: int) -> Fraction:
        """The exact price, in nanos, of `units` units charged when the month stood at `units_before`."""
        return self.rate(units_before + units) - self.rate(units_before)

    def tier_uses(self, units: int) -> tuple[TierUse, ...]:
        """How a month's units spread over the tiers; tiers that nothing fell into are left out."""
        return tuple(
            TierUse(begin, tier.up_to_units, part, tier.nanos, str(Fraction(part * tier.nanos, self.per)))
            for begin, tier, part in self._parts(units)
        )

    def _parts(self, units: int) -> list[tuple[int, Tier, int]]:
        """Each tier that the units reach: where it begins, the tier, and how many units are in it."""
        parts: list[tuple[int, Tier, int]] = []
        begin = 0
        for tier in self.tiers:
            end = units if tier.up_to_units is None else min(units, tier.up_to_units)
            if end <= begin:
                break
            parts.append((begin, tier, end - begin))
            begin = end
        return parts


class PriceVersion(msgspec.Struct, frozen=True):
    """An immutable set of prices of one plan in one currency, one price per meter."""

    price_version_id: str
    plan: str
    currency: str
    prices: dict[str, MeterPrice]
