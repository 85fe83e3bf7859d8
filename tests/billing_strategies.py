"""Prices, caps and units for Hypothesis to draw, and what they cost by adding up unit by unit."""

from collections.abc import Sequence
from fractions import Fraction

from hypothesis import strategies as st

from billing.meters import METERS, MONEY
from billing.prices import MeterPrice, PriceModel, Tier


def meter_prices(
    per: list[int], edges: st.SearchStrategy[int], nanos: st.SearchStrategy[int], most_edges: int
) -> st.SearchStrategy[MeterPrice]:
    """Prices with up to so many edges between tiers."""
    return st.builds(
        lambda per, ends, prices, last: MeterPrice(
            per,
            (*(Tier(end, nanos) for end, nanos in zip(sorted(ends), prices, strict=False)), Tier(None, last)),
        ),
        st.sampled_from(per),
        st.sets(edges, max_size=most_edges),
        st.lists(nanos, min_size=most_edges, max_size=most_edges),
        nanos,
    )


NANOS = st.integers(0, 10**12)
PRICES = meter_prices([1, 7, 1_000, 60_000, 1_000_000], st.integers(1, 10**9), NANOS, most_edges=5)
UNITS = st.integers(0, 2 * 10**9)

PER = st.sampled_from([1, 7, 1_000, 60_000, 1_000_000])
FREE_UNITS = st.just(0) | st.integers(1, 10**7)
SPLITTABLE: tuple[PriceModel, ...] = ("per_unit", "graduated", "package")
"""The models at which what a month's parts come to is known when the part is over."""


def prices_of(models: Sequence[PriceModel]) -> st.SearchStrategy[MeterPrice]:
    """Prices of these models, with and without free units."""
    flat = st.tuples(st.builds(Tier, st.none(), NANOS))
    tiered = PRICES.map(lambda price: price.tiers)
    return st.sampled_from(models).flatmap(
        lambda model: st.builds(
            MeterPrice,
            PER,
            flat if model in ("per_unit", "package") else tiered,
            st.just(model),
            FREE_UNITS,
        )
    )


METER_NAMES = [meter.meter for meter in METERS]
KEYS = ["key_one", "key_two"]
SMALL = st.integers(0, 40)
SMALL_PRICES = meter_prices([1, 3, 7, 60], st.integers(1, 120), st.integers(0, 20), most_edges=3)
CAP = st.tuples(
    st.sampled_from([None, *KEYS]), st.sampled_from([MONEY, *METER_NAMES]), st.none() | st.integers(0, 300)
)


def near_edges(price: MeterPrice) -> list[int]:
    """A unit before, at and after each of the month's units where a price begins or ends."""
    edges = [tier.up_to_units for tier in price.tiers if tier.up_to_units is not None]
    if price.model == "package":
        edges = [price.per, 2 * price.per]
    if price.free_units:
        edges = [0, *edges]
    points = [price.free_units + edge + step for edge in edges for step in (-1, 0, 1)]
    return [point for point in points if point >= 0]


def amount(price: MeterPrice, units: int) -> Fraction:
    """What a month's first units cost, unit by unit."""
    total = Fraction(0)
    for unit in range(1, units + 1):
        nanos = next(t.nanos for t in price.tiers if t.up_to_units is None or unit <= t.up_to_units)
        total += Fraction(nanos, price.per)
    return total
