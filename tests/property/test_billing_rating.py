"""Rating against an oracle that shares no code with it: fractions, one tier after the other."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from billing.money import currency, minor_units
from billing.prices import MeterPrice
from tests.billing_strategies import PRICES, UNITS, near_edges


def oracle(price: MeterPrice, units: int) -> Fraction:
    """Each bounded tier takes its width off the units that are left; the last one takes the rest."""
    total, left, floor = Fraction(0), units, 0
    for tier in price.tiers[:-1]:
        assert tier.up_to_units is not None
        width = tier.up_to_units - floor
        taken = width if left >= width else left
        total += Fraction(tier.nanos) * taken / Fraction(price.per)
        left -= taken
        floor = tier.up_to_units
    return total + Fraction(price.tiers[-1].nanos) * left / Fraction(price.per)


@given(PRICES, UNITS)
def test_rating_equals_the_oracle(price: MeterPrice, units: int) -> None:
    for point in (0, 1, units, *near_edges(price)):
        assert price.rate(point) == oracle(price, point)


@given(PRICES, st.lists(st.integers(0, 10**7), max_size=40))
def test_the_calls_amounts_add_up_to_the_months(price: MeterPrice, calls: list[int]) -> None:
    total, before = Fraction(0), 0
    for units in calls:
        amount = price.rate_call(before, units)
        assert amount >= 0
        total += amount
        before += units
    assert total == price.rate(before) == oracle(price, before)


@given(PRICES, UNITS, st.data())
def test_a_call_split_in_two_costs_the_same(price: MeterPrice, units: int, data: st.DataObject) -> None:
    before = data.draw(st.sampled_from([0, *near_edges(price)]))
    cut = data.draw(st.integers(0, units))
    whole = price.rate_call(before, units)
    assert price.rate_call(before, cut) + price.rate_call(before + cut, units - cut) == whole


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
