"""Billing periods: calendar months of a tenant's clock, half-open `[starts_at, ends_at)`. Pure.

The only place where months are computed: the database keeps the bounds it is given.
"""

import re
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from infra.errors import InvalidValueError

_LABEL: Final = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")
_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 9000


class Period(msgspec.Struct, frozen=True):
    """One month: its label `YYYY-MM`, and its bounds as instants in UTC."""

    label: str
    starts_at: datetime
    ends_at: datetime


def check_time_zone(name: str) -> None:
    """Look a name up in the IANA database; reads folders, so not for each call.

    Raises:
        InvalidValueError: there is no such time zone.
    """
    if name not in available_timezones():
        raise InvalidValueError("This is not an IANA time zone; use a name such as Asia/Taipei.", "time_zone")


def check_label(label: str) -> None:
    """Raises: InvalidValueError: the label is not `YYYY-MM`."""
    match = _LABEL.fullmatch(label)
    if match is None or not _FIRST_YEAR <= int(match[1]) <= _LAST_YEAR:
        raise InvalidValueError("A period is written YYYY-MM, for example 2025-11.", "period")


def period_labelled(label: str, zone: ZoneInfo) -> Period:
    """The month of that label on the zone's clock.

    Raises:
        InvalidValueError: the label is not `YYYY-MM`.
    """
    check_label(label)
    return _month(int(label[:4]), int(label[5:]), zone)


def period_at(moment: datetime, zone: ZoneInfo) -> Period:
    """The period that holds an instant.

    Raises:
        ValueError: `moment` has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    local = moment.astimezone(zone)
    period = _month(local.year, local.month, zone)
    # A clock put back just after midnight shows the last day twice; the month has begun all the same.
    return period if moment < period.ends_at else next_period(period, zone)


def next_period(period: Period, zone: ZoneInfo) -> Period:
    """The month after."""
    return _month(*_following(int(period.label[:4]), int(period.label[5:])), zone)


def _month(year: int, month: int, zone: ZoneInfo) -> Period:
    return Period(
        f"{year:04d}-{month:02d}", _start(year, month, zone), _start(*_following(year, month), zone)
    )


def _following(year: int, month: int) -> tuple[int, int]:
    return (year + 1, 1) if month == 12 else (year, month + 1)


def _start(year: int, month: int, zone: ZoneInfo) -> datetime:
    """Midnight of the first: the earlier one if there are two, the end of the gap if there is none.

    Both are what `fold=0` means (PEP 495).
    """
    return datetime(year, month, 1, tzinfo=zone).astimezone(UTC)
