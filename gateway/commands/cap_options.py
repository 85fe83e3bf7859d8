"""Caps as the commands take and show them."""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeVar

import click
import msgspec

from billing.caps import caps, check_caps
from billing.meters import MONEY
from billing.money import currency, format_nanos, parse_amount
from infra.database import Pool
from infra.errors import InvalidValueError

Command = TypeVar("Command", bound=Callable[..., Any])
_NONE = "none"
_UNITS = re.compile("[0-9]{1,19}")


class ShownCap(msgspec.Struct, frozen=True):
    """One cap: `key_id` None for the tenant's own; `at_most` in nanos where `measure` is `money`."""

    key_id: str | None
    measure: str
    at_most: int
    amount: str

    def describe(self) -> str:
        """The cap as one line for people."""
        return f"{self.amount} a month{f' for {self.key_id}' if self.key_id else ''}"


def cap_options(command: Command) -> Command:
    """`--cap` and `--cap-units`, to set caps."""
    return _options(command, "AMOUNT", "METER=N")


def clearable_cap_options(command: Command) -> Command:
    """`--cap` and `--cap-units`, to set caps and to take them away."""
    return _options(command, f"AMOUNT|{_NONE}", f"METER=N|{_NONE}")


def _options(command: Command, amount: str, units: str) -> Command:
    command = click.option(
        "--cap-units", multiple=True, metavar=units, help="Monthly cap in units, such as intent.calls=5000."
    )(command)
    return click.option(
        "--cap", metavar=amount, help="Monthly cap in money, in the account's currency, such as 25.00."
    )(command)


def given_caps(cap: str | None, cap_units: tuple[str, ...]) -> dict[str, int | None]:
    """The options as `billing.caps` takes them.

    Raises:
        InvalidValueError: an amount, a number or a meter that is none.
    """
    changes: dict[str, int | None] = {}
    if cap is not None:
        changes[MONEY] = None if cap == _NONE else parse_amount(cap)
    for text in cap_units:
        meter, _, units = text.partition("=")
        if units != _NONE and not _UNITS.fullmatch(units):
            raise InvalidValueError("--cap-units takes METER=N, such as intent.calls=5000.")
        changes[meter] = None if units == _NONE else int(units)
    check_caps(changes)
    return changes


async def read_shown_caps(pool: Pool, tenant_id: str, currency_code: str) -> list[ShownCap]:
    """A tenant's caps and its keys', to be shown."""
    unit = currency(currency_code)
    return [
        ShownCap(
            one.key_id,
            one.measure,
            one.at_most,
            format_nanos(Fraction(one.at_most), unit)
            if one.measure == MONEY
            else f"{one.at_most} {one.measure}",
        )
        for one in await caps(pool, tenant_id)
    ]
