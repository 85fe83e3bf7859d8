from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from billing.money import currency, format_minor, round_half_away

AMOUNTS = st.fractions(min_value=-(10**15), max_value=10**15)


@given(AMOUNTS)
def test_the_nearest_integer_is_taken_and_of_two_the_one_further_from_zero(amount: Fraction) -> None:
    rounded = round_half_away(amount)
    assert abs(rounded - amount) <= Fraction(1, 2)
    if abs(rounded - amount) == Fraction(1, 2):
        assert abs(rounded) > abs(amount)


@given(st.integers(-(10**12), 10**12), st.integers(0, 9))
def test_rounding_agrees_with_an_independent_one(scaled: int, exponent: int) -> None:
    independent = Decimal(scaled).scaleb(-exponent).quantize(Decimal(1), rounding=ROUND_HALF_UP)
    assert round_half_away(Fraction(scaled, 10**exponent)) == int(independent)


@given(AMOUNTS)
def test_rounding_is_the_same_on_both_sides_of_zero(amount: Fraction) -> None:
    assert round_half_away(-amount) == -round_half_away(amount)


@given(st.integers(-(10**15), 10**15))
def test_what_people_read_is_the_amount_to_the_cent(minor: int) -> None:
    number, code = format_minor(minor, currency("USD")).split()
    assert (Decimal(number) * 100, code) == (Decimal(minor), "USD")
