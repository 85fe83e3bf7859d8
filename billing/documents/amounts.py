"""Money, units, dates and durations as people read them, in both languages. Integers and fractions only."""

from collections.abc import Mapping
from datetime import date, datetime
from fractions import Fraction
from typing import Final

from billing.documents.words import MONTH_NAMES, Texts
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS
from billing.money import Currency, format_minor, format_nanos

SYMBOLS: Final[Mapping[str, str]] = {
    "CNY": "¥",
    "EUR": "€",
    "HKD": "HK$",
    "JPY": "¥",
    "TWD": "NT$",
    "USD": "US$",
}
"""Yuan and yen share one: a document names its currency in words too."""
_MINUS: Final = "−"
_HOUR_MS: Final = 3_600_000
_MINUTE_MS: Final = 60_000
_SECOND_MS: Final = 1_000
_SPANS: Final = {
    _HOUR_MS: "per_hour",
    _MINUTE_MS: "per_minute",
    _SECOND_MS: "per_second",
    1: "per_millisecond",
}
_SPANS_US: Final = (("day", 86_400_000_000), ("hour", 3_600_000_000), ("minute", 60_000_000))


def money(minor: int, unit: Currency) -> str:
    """Minor units: 123456 of USD is `US$1,234.56`, -1234 of TWD `−NT$1,234`."""
    return _with_symbol(format_minor(minor, unit), unit)


def exact_money(nanos: Fraction, unit: Currency) -> str:
    """An exact amount, with as many decimals as it needs; `≈` where nine are not enough."""
    mark = "" if nanos.denominator == 1 else "≈"
    return mark + _with_symbol(format_nanos(nanos, unit), unit)


def count(number: int) -> str:
    """A whole number, its thousands grouped."""
    return f"{_MINUS if number < 0 else ''}{abs(number):,}"


def quantity(meter: str, units: int, say: Texts) -> str:
    """Units of a meter in human terms, exactly: sound as hours, minutes and seconds."""
    if meter == ASR_AUDIO_MS:
        return duration(units, say)
    noun = "call" if meter == INTENT_CALLS else "character"
    return say(noun if abs(units) == 1 else f"{noun}s", count=count(units))


def duration(total_ms: int, say: Texts) -> str:
    """Milliseconds as `3 h 25 min 45.678 s`; what is zero is left out."""
    hours, rest_ms = divmod(abs(total_ms), _HOUR_MS)
    minutes, rest_ms = divmod(rest_ms, _MINUTE_MS)
    seconds, milliseconds = divmod(rest_ms, _SECOND_MS)
    decimals = f".{milliseconds:03d}".rstrip("0") if milliseconds else ""
    parts = [say("hour", count=count(hours))] if hours else []
    parts += [say("minute", count=minutes)] if minutes else []
    parts += [say("second", count=f"{seconds}{decimals}")] if rest_ms or not parts else []
    return (_MINUS if total_ms < 0 else "") + say("separator").join(parts)


def span(total: Fraction, say: Texts) -> str:
    """Microseconds of a month as `15 d 12 h`, to the minute; what is zero is left out."""
    rest = int(total)
    parts: list[str] = []
    for name, length_us in _SPANS_US:
        number, rest = divmod(rest, length_us)
        parts += [say(name, count=number)] if number else []
    return say("separator").join(parts) or say("minute", count=0)


def price(nanos: int, per: int, meter: str, unit: Currency, say: Texts) -> str:
    """A tier's price: `US$0.0043 per minute`."""
    names = _SPANS if meter == ASR_AUDIO_MS else {1: "per_call" if meter == INTENT_CALLS else "per_character"}
    shown = exact_money(Fraction(nanos), unit)
    if per in names:
        return say("per", price=shown, per=say(names[per]))
    return say("per_many", price=shown, per=quantity(meter, per, say))


def tier_range(meter: str, begin: int, up_to: int | None, say: Texts) -> str:
    """Which of the month's units a tier is for; of sound, from where to where."""
    first = duration(begin, say) if meter == ASR_AUDIO_MS else count(begin + 1)
    if up_to is None:
        return say("over", begin=first) if meter == ASR_AUDIO_MS and begin else say("from", first=first)
    last = duration(up_to, say) if meter == ASR_AUDIO_MS else count(up_to)
    return say("between", first=first, last=last) if begin else say("up_to", last=last)


def day(of: date, say: Texts) -> str:
    """`5 March 2026`, `2026年3月5日`."""
    return say("date", day=of.day, month=of.month, month_name=MONTH_NAMES[of.month - 1], year=of.year)


def days(first: date, last: date, say: Texts) -> str:
    """Days of one month: `1 – 31 March 2026`, `2026年3月1日至31日`."""
    name = MONTH_NAMES[last.month - 1]
    return say("days", first=first.day, last=last.day, month=last.month, month_name=name, year=last.year)


def moment(of: datetime, say: Texts) -> str:
    """`5 March 2026, 09:00`, on its own clock."""
    return say("moment", date=day(of.date(), say), time=of.strftime("%H:%M"))


def month(label: str, say: Texts) -> str:
    """`2026-03` as `March 2026`, `2026年3月`."""
    year, number = int(label[:4]), int(label[5:])
    return say("month", month=number, month_name=MONTH_NAMES[number - 1], year=year)


def _with_symbol(text: str, unit: Currency) -> str:
    number, _ = text.split(" ")
    whole, point, decimals = number.removeprefix("-").partition(".")
    sign = _MINUS if number.startswith("-") else ""
    return f"{sign}{SYMBOLS[unit.code]}{int(whole):,}{point}{decimals}"
