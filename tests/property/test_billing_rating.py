"""Rating against an oracle that shares no code with it (`tests.rating_oracle`): every model and edge."""

from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from billing.money import currency, minor_units
from billing.prices import PRICE_MODELS, MeterPrice
from tests.billing_strategies import SPLITTABLE, UNITS, near_edges, prices_of
from tests.rating_oracle import Rate, cost

PRICES = prices_of(PRICE_MODELS)
SPLITTABLE_PRICES = prices_of(SPLITTABLE)
CALLS = st.lists(st.integers(0, 10**7), max_size=40)


def rate_of(price: MeterPrice) -> Rate:
    tiers = [(tier.up_to_units, tier.nanos) for tier in price.tiers]
    return Rate(price.model, price.per, tiers, price.free_units)


@given(PRICES, UNITS)
def test_rating_equals_the_oracle(price: MeterPrice, units: int) -> None:
    for point in (0, 1, units, *near_edges(price)):
        assert price.rate(point) == cost(rate_of(price), point)


@given(SPLITTABLE_PRICES, CALLS)
def test_the_calls_amounts_add_up_to_the_months(price: MeterPrice, calls: list[int]) -> None:
    """In whatever order they come: the month's total does not know it."""
    total, before = Fraction(0), 0
    for units in calls:
        amount = price.rate_call(before, units)
        assert amount >= 0
        total += amount
        before += units
    assert total == price.rate(before) == cost(rate_of(price), sum(calls))


@given(SPLITTABLE_PRICES, UNITS, st.data())
def test_a_call_split_in_two_costs_the_same(price: MeterPrice, units: int, data: st.DataObject) -> None:
    before = data.draw(st.sampled_from([0, *near_edges(price)]))
    cut = data.draw(st.integers(0, units))
    whole = price.rate_call(before, units)
    assert price.rate_call(before, cut) + price.rate_call(before + cut, units - cut) == whole


@given(prices_of(["volume"]), CALLS)
def test_by_volume_calls_within_one_tier_add_up_and_a_month_is_all_at_the_last_ones_price(
    price: MeterPrice, calls: list[int]
) -> None:
    """A call costs the price of the tier that the month has reached with it. So the sum of calls is the month
    where one tier was reached, and else lies between the month's units at the lowest and the highest of the
    prices that were reached."""
    before, total, nanos_reached = 0, Fraction(0), set[int]()
    for units in calls:
        amount = price.rate_call(before, units)
        assert amount >= 0
        total += amount
        before += units
        (use,) = [use for use in price.tier_uses(before) if use.from_units >= price.free_units] or [None]
        if use and use.units:
            nanos_reached.add(use.nanos)
            assert Fraction(use.amount_nanos) == price.rate(before)
    if len(nanos_reached) <= 1:
        assert total == price.rate(before)
    else:
        paid = Fraction(max(0, before - price.free_units), price.per)
        assert min(nanos_reached) * paid <= total <= max(nanos_reached) * paid


@given(PRICES, st.lists(st.integers(0, 10**9), min_size=1, max_size=6))
def test_what_units_add_to_the_tiers_adds_up_however_a_month_is_cut(
    price: MeterPrice, cuts: list[int]
) -> None:
    """At every model, volume and package too: what a cut adds is the month with it less the month before."""
    points = sorted({0, *cuts})
    total = Fraction(0)
    for begin, end in pairwise(points):
        uses = price.tier_uses_between(begin, end)
        amount = sum((Fraction(use.amount_nanos) for use in uses), Fraction(0))
        assert sum(use.units for use in uses) == end - begin
        assert amount == cost(rate_of(price), end) - cost(rate_of(price), begin)
        if price.model in ("per_unit", "graduated"):
            assert all(use.units > 0 for use in uses)
        total += amount
    assert total == price.rate(points[-1])


@given(prices_of(["package"]), UNITS, UNITS)
def test_months_apart_begin_at_most_one_package_more_than_one_month(
    price: MeterPrice, one: int, other: int
) -> None:
    """So parts of a month are never rated each for itself."""
    free = price.free_units
    apart = price.rate(one + free) + price.rate(other + free)
    together = price.rate(one + other + free)
    assert together <= apart <= together + price.tiers[0].nanos


@given(PRICES, UNITS)
def test_tier_uses_add_up_to_the_units_and_the_amount(price: MeterPrice, units: int) -> None:
    uses = price.tier_uses(units)
    assert sum(use.units for use in uses) == units
    assert sum((Fraction(use.amount_nanos) for use in uses), Fraction(0)) == price.rate(units)
    assert all(use.units > 0 for use in uses)


@given(PRICES, UNITS)
def test_a_line_is_off_by_half_a_minor_unit_at_most(price: MeterPrice, units: int) -> None:
    exact = price.rate(units) / 10**7  # USD: a cent is 10^7 nanos
    assert abs(minor_units(price.rate(units), currency("USD")) - exact) <= Fraction(1, 2)
