"""What a month comes to, written from the definitions, in fractions, and sharing no code with `billing`.

A price here is `Rate(model, per, tiers, free)`: nanos of a tier for `per` units, a tier `(up_to, nanos)` over
the units after the free ones, the last one without an end. Plain: intervals and whole packages.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil, floor
from typing import NamedTuple

EXPONENTS = {"USD": 2, "HKD": 2, "CNY": 2, "EUR": 2, "TWD": 0, "JPY": 0}
SMALLEST_DUE = {"USD": 50, "HKD": 400, "CNY": 400, "EUR": 50, "TWD": 15, "JPY": 50}

Key = tuple[str, int, str | None]
"""What an amount of a month is: `usage` of (segment, meter), a segment's `discount`, the `minimum`."""
MINIMUM: Key = ("minimum", 0, None)
Units = Mapping[tuple[int, str], int]
"""Units by (segment, meter)."""


class Rate(NamedTuple):
    model: str
    per: int
    tiers: Sequence[tuple[int | None, int]]
    free: int = 0


class Plan(NamedTuple):
    """The prices of a part of a month.

    `share` of the month's time; `minimum` in nanos a month; `discount` a fraction of the usage.
    """

    rates: Mapping[str, Rate]
    minimum: int = 0
    discount: Fraction = Fraction(0)
    share: Fraction = Fraction(1)


def cost(rate: Rate, units: int) -> Fraction:
    """What a month's first units come to, in nanos."""
    paid = max(units - rate.free, 0)
    if rate.model == "package":
        return Fraction(ceil(Fraction(paid, rate.per)) * rate.tiers[0][1])
    if rate.model == "volume":
        (nanos, *_) = [nanos for up_to, nanos in rate.tiers if up_to is None or paid <= up_to]
        return Fraction(paid * nanos, rate.per)
    begins = [0, *(up_to for up_to, _ in rate.tiers if up_to is not None)]
    total = Fraction(0)
    for begin, (up_to, nanos) in zip(begins, rate.tiers, strict=True):
        end = paid if up_to is None else min(paid, up_to)
        total += Fraction(max(end - begin, 0) * nanos, rate.per)
    return total


def cost_of_part(rate: Rate, begin: int, end: int) -> Fraction:
    """What a month's units from one to another come to; by volume at the tier that the last reached."""
    if rate.model != "volume":
        return cost(rate, end) - cost(rate, begin)
    paid, paid_before = (max(units - rate.free, 0) for units in (end, begin))
    return Fraction(paid - paid_before, paid) * cost(rate, end) if paid else Fraction(0)


def month(plans: Sequence[Plan], units: Units) -> dict[Key, Fraction]:
    """What a month comes to, in nanos. Tiers run on from one part to the next."""
    found: dict[Key, Fraction] = {}
    stood_at: dict[str, int] = {}
    for number, plan in enumerate(plans):
        usage = Fraction(0)
        for (segment, meter), used in units.items():
            if segment == number:
                begin = stood_at.get(meter, 0)
                amount = cost_of_part(plan.rates[meter], begin, begin + used)
                found["usage", number, meter] = amount
                stood_at[meter] = begin + used
                usage += amount
        if plan.discount and usage:
            found["discount", number, None] = -plan.discount * usage
    committed = sum((plan.share * plan.minimum for plan in plans), Fraction(0))
    reached = sum(found.values(), Fraction(0))
    if reached < committed:
        found[MINIMUM] = committed - reached
    return found


def nearest(amount: Fraction) -> int:
    """The nearest whole number, halves away from zero."""
    return floor(amount + Fraction(1, 2)) if amount >= 0 else -floor(-amount + Fraction(1, 2))


def minor(nanos: Fraction, code: str) -> int:
    """Nanos in a currency's minor units."""
    return nearest(nanos / 10 ** (9 - EXPONENTS[code]))


def minor_month(plans: Sequence[Plan], units: Units, code: str) -> dict[Key, int]:
    """What a month comes to, each amount rounded once; what rounds to nothing is left out.

    A month that does not reach its commitment comes to the commitment, rounded: the minimum makes up for it.
    """
    exact = month(plans, units)
    rounded = {key: minor(nanos, code) for key, nanos in exact.items()}
    for key in exact:
        if key[0] == "discount":  # it takes off no more than there is
            used = sum(amount for other, amount in rounded.items() if other[:2] == ("usage", key[1]))
            rounded[key] = max(rounded[key], -used)
    if MINIMUM in exact:
        others = sum(amount for key, amount in rounded.items() if key != MINIMUM)
        rounded[MINIMUM] = max(0, minor(sum(exact.values(), Fraction(0)), code) - others)
    return {key: amount for key, amount in rounded.items() if amount}
