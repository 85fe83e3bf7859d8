"""What an invoice in review should be looked at for: reasons, each with a code, a weight and figures. Pure.

The weights add up to the invoice's risk, by which `billing.review` orders the queue. Amounts are compared
before tax and in the ledger's minor units; the months before count by the median of up to three of them,
which one strange month does not move.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from typing import Final

import msgspec

from billing.anomaly import FLOOR_UNITS
from billing.money import Currency, currency, format_minor, round_half_away

MONTHS_BEFORE: Final = 3
# Changes by so many percent at least, the largest first, and what they weigh.
_CHANGE_WEIGHTS: Final = ((200, 40), (100, 30), (50, 20), (25, 10))
_METER_CHANGE_PERCENT: Final = 50
_MANY_REFUSED: Final = 1000
_RECONCILIATION_WEIGHT: Final = 100
# From here on an amount is large, in units of its currency; ten times as much is very large.
_LARGE: Final[Mapping[str, int]] = {
    "CNY": 40_000,
    "EUR": 5_000,
    "HKD": 40_000,
    "JPY": 750_000,
    "TWD": 150_000,
    "USD": 5_000,
}


class Reason(msgspec.Struct, frozen=True):
    """Why an invoice is worth a look.

    Attributes:
        code: stable, for programs.
        weight: its part of the invoice's risk.
        text: one sentence for people, with figures.
    """

    code: str
    weight: int
    text: str


class MeterUse(msgspec.Struct, frozen=True):
    """What a meter comes to on an invoice, in its own month.

    Attributes:
        price_version_ids: of its lines, in order.
        reached_from_units: where the highest tier begins that the units reached; 0 for the first.
    """

    units: int
    amount_minor: int
    price_version_ids: tuple[str, ...]
    reached_from_units: int = 0


class Month(msgspec.Struct, frozen=True):
    """An invoice of a month, as it is compared."""

    period: str
    subtotal_minor: int
    meters: Mapping[str, MeterUse]


class LateUse(msgspec.Struct, frozen=True):
    """Usage of a month before that came late to this invoice."""

    usage_period: str
    calls: int
    amount_minor: int


class Mismatch(msgspec.Struct, frozen=True):
    """A meter whose counter does not say what the month's seals say."""

    meter: str
    counted_calls: int
    counted_units: int
    sealed_calls: int
    sealed_units: int


class CapHit(msgspec.Struct, frozen=True):
    """A cap of which all was used in the month; `key_id` None: the tenant's own; `meter` None: in money."""

    key_id: str | None
    meter: str | None
    is_credit: bool
    raised_at: datetime


class Refused(msgspec.Struct, frozen=True):
    """How many calls were refused in the month, by the code of the refusal."""

    code: str
    calls: int


class Deed(msgspec.Struct, frozen=True):
    """Something that was done to the invoice before: `approve` or `send_back`."""

    action: str
    actor: str
    reason: str | None


class Change:
    """From the median of what was before to what is now; all in integers, as there are many to look at.

    Attributes:
        percent: of what is usual, rounded down, never negative; from nothing to something it is a doubling.
    """

    def __init__(self, now: int, before: Sequence[int]) -> None:
        ordered, middle = sorted(before), len(before) // 2
        self.now = now
        self._twice_usual = ordered[middle] + ordered[~middle]
        self._twice_change = 2 * now - self._twice_usual
        self.is_up = self._twice_change > 0
        size, of = abs(self._twice_change), abs(self._twice_usual)
        self.percent = size * 100 // of if of else 100 * (size > 0)

    def is_less_than(self, size: int) -> bool:
        """Whether it is a smaller step than this, up or down."""
        return abs(self._twice_change) < 2 * size

    @property
    def usual(self) -> int:
        """The median, rounded."""
        return round_half_away(Fraction(self._twice_usual, 2))

    @property
    def in_words(self) -> str:
        """Such as `50 % above`."""
        side = "above" if self.is_up else "below"
        return f"{self.percent} % {side}" if self._twice_usual else side


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is looked at.

    Attributes:
        before: up to three invoices of months before, the latest first.
        lines_minor: what its lines add up to.
        deeds: the oldest first.
    """

    currency: str
    revision: int
    due_minor: int
    now: Month
    before: Sequence[Month]
    lines_minor: int
    late: Sequence[LateUse] = ()
    mismatches: Sequence[Mismatch] = ()
    caps_hit: Sequence[CapHit] = ()
    refused: Sequence[Refused] = ()
    deeds: Sequence[Deed] = ()


def reasons(facts: Facts) -> list[Reason]:
    """Why this invoice should be looked at, what weighs most first."""
    unit = currency(facts.currency)
    found = [
        *_reconciliation(facts, unit),
        *_changed_total(facts, unit),
        *_changed_meters(facts),
        *_history(facts),
        *_new_prices(facts),
        *_tiers_crossed(facts),
        *_late_usage(facts, unit),
        *_caps_hit(facts),
        *_calls_refused(facts),
        *_large_amount(facts, unit),
    ]
    return sorted(found, key=lambda reason: (-reason.weight, reason.code, reason.text))


def change_weight(percent: int) -> int:
    """What a change by so many whole percent weighs; 0 for one that is none to speak of."""
    return next((weight for least, weight in _CHANGE_WEIGHTS if percent >= least), 0)


def _reconciliation(facts: Facts, unit: Currency) -> Iterator[Reason]:
    for one in facts.mismatches:
        yield Reason(
            "reconciliation_difference",
            _RECONCILIATION_WEIGHT,
            f"{one.meter}: the counter has {_calls(one.counted_calls)}, {one.counted_units} units, the "
            f"sealed month {_calls(one.sealed_calls)}, {one.sealed_units} units.",
        )
    if facts.lines_minor != facts.now.subtotal_minor:
        lines, subtotal = format_minor(facts.lines_minor, unit), format_minor(facts.now.subtotal_minor, unit)
        text = f"The lines add up to {lines}, the subtotal is {subtotal}."
        yield Reason("reconciliation_difference", _RECONCILIATION_WEIGHT, text)


def _changed_total(facts: Facts, unit: Currency) -> Iterator[Reason]:
    if not facts.before:
        return
    change = Change(facts.now.subtotal_minor, [month.subtotal_minor for month in facts.before])
    if change.is_less_than(unit.smallest_due_minor) or not change_weight(change.percent):
        return
    now, was = format_minor(change.now, unit), format_minor(change.usual, unit)
    yield Reason(
        "total_up" if change.is_up else "total_down",
        change_weight(change.percent),
        f"{now} before tax, {change.in_words} the {was} of {_months(facts)}.",
    )


def _changed_meters(facts: Facts) -> Iterator[Reason]:
    if not facts.before:
        return
    names = facts.now.meters.keys() | {name for month in facts.before for name in month.meters}
    for meter in sorted(names):
        change = Change(_units(facts.now, meter), [_units(month, meter) for month in facts.before])
        if change.percent < _METER_CHANGE_PERCENT or change.is_less_than(FLOOR_UNITS.get(meter, 1)):
            continue
        yield Reason(
            "meter_up" if change.is_up else "meter_down",
            change_weight(change.percent) // 2,
            f"{change.now} {meter}, {change.in_words} the {change.usual} of {_months(facts)}.",
        )


def _history(facts: Facts) -> Iterator[Reason]:
    """What became of this invoice before, or that there was none."""
    if facts.revision > 1:
        yield Reason("reissued", 15, f"Revision {facts.revision}: it replaces an invoice that was voided.")
    elif not facts.before:
        yield Reason("first_invoice", 20, "The tenant's first invoice: nothing to compare it with.")
    sent_back = [deed for deed in facts.deeds if deed.action == "send_back"]
    if sent_back:
        last = sent_back[-1]
        text = f"Sent back {_times(len(sent_back))}, last by {last.actor}: {last.reason}"
        yield Reason("sent_back", 15, text)
    if facts.deeds and facts.deeds[-1].action == "approve":
        text = f"Approved by {facts.deeds[-1].actor}, and changed since."
        yield Reason("changed_since_approval", 20, text)


def _new_prices(facts: Facts) -> Iterator[Reason]:
    if not facts.before:
        return
    now, before = (_price_versions(month) for month in (facts.now, facts.before[0]))
    if now and before and (new := sorted(now - before)):
        text = f"Priced by {', '.join(new)}; in {facts.before[0].period} by {', '.join(sorted(before))}."
        yield Reason("new_price_version", 15, text)


def _tiers_crossed(facts: Facts) -> Iterator[Reason]:
    if not facts.before:
        return
    last = facts.before[0]
    for meter, use in sorted(facts.now.meters.items()):
        if use.reached_from_units > 0 and _units(last, meter) <= use.reached_from_units:
            yield Reason(
                "tier_crossed",
                10,
                f"{meter}: {use.units} units reach the tier after {use.reached_from_units}; in {last.period} "
                f"it was {_units(last, meter)}.",
            )


def _late_usage(facts: Facts, unit: Currency) -> Iterator[Reason]:
    if not facts.late:
        return
    amount = format_minor(sum(one.amount_minor for one in facts.late), unit)
    calls = _calls(sum(one.calls for one in facts.late))
    months = ", ".join(sorted({one.usage_period for one in facts.late}))
    yield Reason("late_usage", 15, f"{calls} of {months} came late: {amount} of this invoice.")


def _caps_hit(facts: Facts) -> Iterator[Reason]:
    for one in facts.caps_hit:
        what = "the prepaid credit" if one.is_credit else f"the cap in {one.meter or 'money'}"
        whose = f" of {one.key_id}" if one.key_id else ""
        day = one.raised_at.date().isoformat()
        text = f"All of {what}{whose} was used by {day}: from there on calls are refused until it is raised."
        yield Reason("cap_hit", 10, text)


def _calls_refused(facts: Facts) -> Iterator[Reason]:
    if not facts.refused:
        return
    total = sum(one.calls for one in facts.refused)
    weight = 15 if total >= _MANY_REFUSED else 5
    codes = ", ".join(f"{one.calls} {one.code}" for one in facts.refused)
    yield Reason("calls_refused", weight, f"{_calls(total)} refused in the month: {codes}.")


def _large_amount(facts: Facts, unit: Currency) -> Iterator[Reason]:
    large_minor = _LARGE[unit.code] * 10**unit.ledger_exponent
    if facts.due_minor >= large_minor:
        weight = 40 if facts.due_minor >= 10 * large_minor else 25
        due, large = format_minor(facts.due_minor, unit), format_minor(large_minor, unit)
        yield Reason("large_amount", weight, f"{due} is due; from {large} on it is a large amount.")


def _months(facts: Facts) -> str:
    """What it is compared with, in words."""
    latest, oldest = facts.before[0].period, facts.before[-1].period
    return (
        latest if latest == oldest else f"the {len(facts.before)} invoices of {oldest} to {latest} (median)"
    )


def _units(month: Month, meter: str) -> int:
    return month.meters[meter].units if meter in month.meters else 0


def _price_versions(month: Month) -> set[str]:
    return {version for use in month.meters.values() for version in use.price_version_ids}


def _calls(count: int) -> str:
    return f"{count} call" if count == 1 else f"{count} calls"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
