"""Money in integers: currencies, the one function that rounds, and amounts as people read them.

A price is in nanos, 10^-9 of a currency unit. A rated amount is an exact `Fraction` of nanos until it
becomes minor units, the integers that invoices add up.
"""

import re
from fractions import Fraction
from typing import Final

import msgspec

from infra.errors import InvalidValueError

NANOS_EXPONENT: Final = 9
MAX_NANOS: Final = 2**63 - 1  # the database's BIGINT
_AMOUNT: Final = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,9}))?", re.ASCII)


class Currency(msgspec.Struct, frozen=True):
    """A currency (ISO 4217) and three exponents, which are not always the same.

    Attributes:
        code: three capital letters.
        ledger_exponent: a minor unit here is 10^-ledger_exponent of a currency unit.
        display_exponent: decimals that people see.
        provider_exponent: the payment provider's minor unit.
        smallest_due_minor: less than this costs more to collect than it is, and providers refuse it.
    """

    code: str
    ledger_exponent: int
    display_exponent: int
    provider_exponent: int
    smallest_due_minor: int = 1


# New Taiwan dollars are invoiced whole, and the provider counts their cents; it takes yen whole.
_CURRENCIES: Final = {
    known.code: known
    for known in (
        Currency("CNY", ledger_exponent=2, display_exponent=2, provider_exponent=2, smallest_due_minor=400),
        Currency("EUR", ledger_exponent=2, display_exponent=2, provider_exponent=2, smallest_due_minor=50),
        Currency("HKD", ledger_exponent=2, display_exponent=2, provider_exponent=2, smallest_due_minor=400),
        Currency("JPY", ledger_exponent=0, display_exponent=0, provider_exponent=0, smallest_due_minor=50),
        Currency("TWD", ledger_exponent=0, display_exponent=0, provider_exponent=2, smallest_due_minor=15),
        Currency("USD", ledger_exponent=2, display_exponent=2, provider_exponent=2, smallest_due_minor=50),
    )
}


def currency(code: str) -> Currency:
    """A currency by its code.

    Raises:
        InvalidValueError: it is not billed in.
    """
    try:
        return _CURRENCIES[code]
    except KeyError:
        known = ", ".join(sorted(_CURRENCIES))
        raise InvalidValueError(f"This currency is not billed in. Use one of: {known}.", "currency") from None


def round_half_away(amount: Fraction) -> int:
    """The nearest integer; of two equally near, the one further from zero. The only rounding there is."""
    doubled_and_one = 2 * abs(amount.numerator) + amount.denominator
    magnitude = doubled_and_one // (2 * amount.denominator)
    return magnitude if amount >= 0 else -magnitude


def minor_units(nanos: Fraction, unit: Currency) -> int:
    """An exact amount of nanos as the ledger's minor units of a currency, rounded."""
    return round_half_away(nanos * Fraction(10**unit.ledger_exponent, 10**NANOS_EXPONENT))


def parse_minor(text: str, unit: Currency) -> int:
    """A decimal amount as the ledger's minor units of a currency, exactly: `12.34` of USD is 1234.

    Raises:
        InvalidValueError: not an amount, or one finer than the currency is billed in.
    """
    exact = Fraction(parse_amount(text) * 10**unit.ledger_exponent, 10**NANOS_EXPONENT)
    if exact.denominator != 1:
        raise InvalidValueError(f"{unit.code} is billed in {unit.ledger_exponent} decimals.", "amount")
    return exact.numerator


def format_minor(minor: int, unit: Currency) -> str:
    """Minor units for people: 1234 of USD is `12.34 USD`."""
    shown = round_half_away(Fraction(minor * 10**unit.display_exponent, 10**unit.ledger_exponent))
    return f"{_with_point(shown, unit.display_exponent)} {unit.code}"


def format_nanos(nanos: Fraction, unit: Currency) -> str:
    """An amount for people with as many decimals as it needs, nine at most: `0.0004 USD`."""
    text = _with_point(round_half_away(nanos), NANOS_EXPONENT)
    whole, _, decimals = text.partition(".")
    decimals = decimals.rstrip("0").ljust(unit.display_exponent, "0")
    return f"{whole}.{decimals} {unit.code}" if decimals else f"{whole} {unit.code}"


def format_percent(ppm: int) -> str:
    """A rate in millionths for people: 50000 is `5%`, 88750 `8.875%`."""
    whole, _, decimals = _with_point(ppm, 4).partition(".")
    decimals = decimals.rstrip("0")
    return f"{whole}.{decimals}%" if decimals else f"{whole}%"


def parse_amount(text: str) -> int:
    """A decimal amount of a currency unit as nanos, exactly: `25.00` is 25,000,000,000.

    Raises:
        InvalidValueError: not a decimal number of at most ten and nine digits.
    """
    match = _AMOUNT.fullmatch(text)
    nanos = int(match[1] + (match[2] or "").ljust(NANOS_EXPONENT, "0")) if match else MAX_NANOS + 1
    if nanos > MAX_NANOS:
        raise InvalidValueError(
            "An amount is written like 25 or 25.00, with nine decimals at most.", "amount"
        )
    return nanos


def _with_point(scaled: int, exponent: int) -> str:
    digits = str(abs(scaled)).rjust(exponent + 1, "0")
    whole, decimals = digits[: len(digits) - exponent], digits[len(digits) - exponent :]
    sign = "-" if scaled < 0 else ""
    return f"{sign}{whole}.{decimals}" if exponent else f"{sign}{whole}"
