from fractions import Fraction

import pytest

from billing.money import Currency, currency, format_minor, format_nanos, minor_units
from infra.errors import InvalidValueError

USD = currency("USD")
WHOLE_ON_PAPER = Currency("XTS", ledger_exponent=2, display_exponent=0, provider_exponent=2)


@pytest.mark.parametrize(
    ("minor", "text"), [(0, "0.00 USD"), (5, "0.05 USD"), (-5, "-0.05 USD"), (123456, "1234.56 USD")]
)
def test_minor_units_are_shown_with_the_currencys_decimals(minor: int, text: str) -> None:
    assert format_minor(minor, USD) == text


def test_ledger_and_display_exponents_are_two_things() -> None:
    assert format_minor(12_350, WHOLE_ON_PAPER) == "124 XTS"
    assert format_nanos(Fraction(12_000_000_000), WHOLE_ON_PAPER) == "12 XTS"


@pytest.mark.parametrize(
    ("code", "minor", "text"),
    [
        ("TWD", 1_235, "1235 TWD"),
        ("JPY", 1_235, "1235 JPY"),
        ("HKD", 1_235, "12.35 HKD"),
        ("CNY", 1_235, "12.35 CNY"),
        ("EUR", 1_235, "12.35 EUR"),
    ],
)
def test_a_currency_is_counted_and_shown_as_it_is_used(code: str, minor: int, text: str) -> None:
    unit = currency(code)
    assert minor_units(Fraction(1_235 * 10**9, 10**unit.ledger_exponent), unit) == minor
    assert format_minor(minor, unit) == text


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (Fraction(400_000), "0.0004 USD"),
        (Fraction(4_300_000_000), "4.30 USD"),
        (Fraction(4_300_000, 60), "0.000071667 USD"),
        (Fraction(-1), "-0.000000001 USD"),
        (Fraction(0), "0.00 USD"),
    ],
)
def test_exact_amounts_are_shown_with_the_decimals_they_need(nanos: Fraction, text: str) -> None:
    assert format_nanos(nanos, USD) == text


def test_an_unknown_currency_is_refused_by_name_of_the_field() -> None:
    with pytest.raises(InvalidValueError) as refusal:
        currency("XXX")
    assert refusal.value.param == "currency"
