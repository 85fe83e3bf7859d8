"""Prices and rating. Pure and exact: amounts are fractions of nanos, and nothing here rounds."""

from datetime import datetime
from fractions import Fraction
from typing import Final, Literal, get_args

import msgspec

from infra.errors import InvalidValueError

PriceModel = Literal["per_unit", "graduated", "volume", "package"]
"""How tiers are read.

`graduated`: each unit at the price of its own tier; `per_unit` has one tier only. `volume`: all units at the
price of the tier that the last one reached. `package`: whole packages of `per` units, one begun counts whole.
"""
PRICE_MODELS: Final = get_args(PriceModel)
PPM: Final = 1_000_000


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
        units: the units that fell into it; below zero where they were taken back, or are priced anew.
        nanos: its price, per as many units as the meter's price says; 0 for the free allowance.
        amount_nanos: what they come to, exact: a whole number or `numerator/denominator`.
    """

    from_units: int
    up_to_units: int | None
    units: int
    nanos: int
    amount_nanos: str


class MeterPrice(msgspec.Struct, frozen=True):
    """The price of one meter: `nanos` of a tier per `per` units, over the month's units.

    Attributes:
        per: the units that a tier's price is for; of a package, its size.
        tiers: over the units after the free ones.
        free_units: the month's first units, which cost nothing.

    Raises:
        InvalidPriceError: no tiers, tiers out of order, the last one bounded, a negative number, or more
            tiers than the model has.
    """

    per: int
    tiers: tuple[Tier, ...]
    model: PriceModel = "graduated"
    free_units: int = 0

    def __post_init__(self) -> None:
        if self.model not in PRICE_MODELS:
            raise InvalidPriceError(f"A price is one of: {', '.join(PRICE_MODELS)}.", "model")
        if self.per < 1:
            raise InvalidPriceError("A price is per 1 unit or more.", "per")
        if self.free_units < 0:
            raise InvalidPriceError("A free allowance is not negative.", "free_units")
        if not self.tiers or self.tiers[-1].up_to_units is not None:
            raise InvalidPriceError("The last tier of a price has no upper bound; give it one.", "tiers")
        if len(self.tiers) > 1 and self.model in ("per_unit", "package"):
            raise InvalidPriceError(f"A price {self.model} has one tier.", "tiers")
        if any(tier.nanos < 0 for tier in self.tiers):
            raise InvalidPriceError("A price is not negative.", "nanos")
        begin = 0
        for tier in self.tiers[:-1]:
            if tier.up_to_units is None or tier.up_to_units <= begin:
                raise InvalidPriceError("Each tier ends after the one before it.", "up_to_units")
            begin = tier.up_to_units

    def rate(self, units: int) -> Fraction:
        """The exact price, in nanos, of a month's first `units` units."""
        return sum((Fraction(use.amount_nanos) for use in self.tier_uses(units)), Fraction(0))

    def rate_call(self, units_before: int, units: int) -> Fraction:
        """The exact price, in nanos, of `units` units charged when the month stood at `units_before`.

        At volume prices a unit's price is known when the month is over; until then it is that of the tier
        that the month has reached, and all its calls do not add up to the month.
        """
        if self.model == "volume":
            billable = self._billable(units_before + units) - self._billable(units_before)
            return Fraction(billable * self._reached(units_before + units)[1].nanos, self.per)
        return self.rate(units_before + units) - self.rate(units_before)

    def tier_uses(self, units: int, origin: int = 0) -> tuple[TierUse, ...]:
        """How a month's units spread over the tiers; tiers that nothing fell into are left out.

        Args:
            origin: what the month stood at when this price began to hold; only the units after it count.
        """
        if origin and self.model != "volume":
            return _difference(self.tier_uses(units), self.tier_uses(origin))
        free = min(units, self.free_units) - min(origin, self.free_units)
        uses = [TierUse(0, self.free_units, free, 0, "0")] if free else []
        for begin, tier, part in self._parts(self._billable(units), self._billable(origin)):
            count = -(-part // self.per) * self.per if self.model == "package" else part
            up_to = None if tier.up_to_units is None else tier.up_to_units + self.free_units
            amount = str(Fraction(count * tier.nanos, self.per))
            uses.append(TierUse(begin + self.free_units, up_to, part, tier.nanos, amount))
        return tuple(uses)

    def tier_uses_between(self, begin: int, end: int, origin: int = 0) -> tuple[TierUse, ...]:
        """What a month's units after `begin` up to `end` add to its tiers.

        Graduated, it is the units themselves. By volume and by the package, all units since `origin` are
        priced again: what they came to before is there with a minus.
        """
        return _difference(self.tier_uses(end, origin), self.tier_uses(begin, origin))

    def _billable(self, units: int) -> int:
        return max(0, units - self.free_units)

    def _reached(self, units: int) -> tuple[int, Tier]:
        """The tier that the last of the month's units falls into, and where it begins."""
        begin, billable = 0, self._billable(units)
        for tier in self.tiers:
            if tier.up_to_units is None or billable <= tier.up_to_units:
                return begin, tier
            begin = tier.up_to_units
        raise AssertionError("the last tier has no end")

    def _parts(self, billable: int, after: int) -> list[tuple[int, Tier, int]]:
        """Each tier that the units reach: where it begins, the tier, and how many units are in it.

        By volume, those units are in it that came `after` so many.
        """
        if self.model == "volume":
            begin, tier = self._reached(billable + self.free_units)
            return [(begin, tier, billable - after)] if billable != after else []
        parts: list[tuple[int, Tier, int]] = []
        begin = 0
        for tier in self.tiers:
            end = billable if tier.up_to_units is None else min(billable, tier.up_to_units)
            if end <= begin:
                break
            parts.append((begin, tier, end - begin))
            begin = end
        return parts


class PriceVersion(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable set of prices of one plan in one currency, one price per meter.

    Attributes:
        valid_from: months that begin then or later take it, unless a later version is there; None: all.
        tenant_id: the one tenant whose price it is; None: everyone's on the plan.
        minimum_nanos: the minimum commitment, a month.
        discount_ppm: taken off the month's usage, in millionths.
    """

    price_version_id: str
    plan: str
    currency: str
    valid_from: datetime | None
    prices: dict[str, MeterPrice]
    tenant_id: str | None = None
    minimum_nanos: int = 0
    discount_ppm: int = 0

    def __post_init__(self) -> None:
        if self.minimum_nanos < 0:
            raise InvalidPriceError("A minimum commitment is not negative.", "minimum")
        if not 0 <= self.discount_ppm <= PPM:
            raise InvalidPriceError("A discount is 0 to 100 percent.", "discount")


def _difference(uses: tuple[TierUse, ...], earlier_uses: tuple[TierUse, ...]) -> tuple[TierUse, ...]:
    """Tier by tier, what is more; below zero where it is less."""
    before = {(use.from_units, use.nanos): use for use in earlier_uses}
    added: list[TierUse] = []
    for use in uses:
        earlier = before.pop((use.from_units, use.nanos), None)
        added.append(_less(use, earlier) if earlier else use)
    added += [_less(msgspec.structs.replace(use, units=0, amount_nanos="0"), use) for use in before.values()]
    return tuple(use for use in added if use.units or Fraction(use.amount_nanos))


def _less(use: TierUse, earlier: TierUse) -> TierUse:
    amount = Fraction(use.amount_nanos) - Fraction(earlier.amount_nanos)
    return msgspec.structs.replace(use, units=use.units - earlier.units, amount_nanos=str(amount))
