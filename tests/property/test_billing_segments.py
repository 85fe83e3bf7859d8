"""A month under several prices, of all models: no segment is below zero, tiers show what is charged, and late
usage is what the month computed anew has more.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from billing.meters import INTENT_CALLS
from billing.money import currency, minor_units
from billing.prices import MeterPrice, PriceModel, PriceVersion
from billing.statement import Line, MonthUse, Segment, Use, statement
from tests.billing_strategies import SMALL_PRICES

MODELS: tuple[PriceModel, ...] = get_args(PriceModel)


def version_of(price: MeterPrice, model: PriceModel, free_units: int) -> PriceVersion:
    tiers = price.tiers if model in ("graduated", "volume") else price.tiers[-1:]
    priced = msgspec.structs.replace(price, model=model, tiers=tiers, free_units=free_units)
    return PriceVersion(
        price_version_id="prc", plan="pro", currency="USD", valid_from=None, prices={INTENT_CALLS: priced}
    )


SEGMENT = st.builds(Segment, st.builds(version_of, SMALL_PRICES, st.sampled_from(MODELS), st.integers(0, 40)))
UNITS = st.integers(0, 150)


def lines_of(
    segments: tuple[Segment, ...], units: Mapping[int, int], before: Mapping[int, int] | None = None
) -> tuple[Line, ...]:
    month = MonthUse(
        usage_period="2025-10",
        segments=segments,
        uses=tuple(Use(number, INTENT_CALLS, 1, count) for number, count in units.items()),
        before={(number, INTENT_CALLS): count for number, count in (before or {}).items()},
    )
    billed_in = "2025-10" if before is None else "2025-11"
    return statement([month], billed_in, currency("USD")).lines


@given(st.lists(st.tuples(SEGMENT, UNITS), min_size=1, max_size=4))
def test_no_segment_comes_out_below_zero_and_its_tiers_add_up_to_it(parts: list[tuple[Segment, int]]) -> None:
    segments = tuple(segment for segment, _ in parts)
    for line in lines_of(segments, {number: units for number, (_, units) in enumerate(parts)}):
        assert Fraction(line.exact_nanos) >= 0
        assert line.amount_minor >= 0
        assert sum(Fraction(use.amount_nanos) for use in line.tiers) == Fraction(line.exact_nanos)
        assert sum(use.units for use in line.tiers) == line.units


@given(SEGMENT, UNITS, UNITS)
def test_a_change_to_the_same_prices_changes_nothing_but_by_volume(
    segment: Segment, first: int, second: int
) -> None:
    """By volume, what was used before the change stays at the tier that was reached then."""
    whole = sum(Fraction(line.exact_nanos) for line in lines_of((segment,), {0: first + second}))
    split = sum(Fraction(line.exact_nanos) for line in lines_of((segment, segment), {0: first, 1: second}))
    if segment.version.prices[INTENT_CALLS].model != "volume":
        assert split == whole


@given(st.lists(st.tuples(SEGMENT, UNITS), min_size=1, max_size=3), st.lists(UNITS, min_size=1, max_size=3))
def test_late_usage_is_what_the_month_computed_anew_has_more(
    parts: list[tuple[Segment, int]], lates: list[int]
) -> None:
    segments, last = tuple(segment for segment, _ in parts), len(parts) - 1
    counted = {number: units for number, (_, units) in enumerate(parts)}
    billed = list(lines_of(segments, counted))
    for late in lates:
        added = lines_of(segments, {last: late}, counted)
        assert {line.segment for line in added} <= {last}, "earlier segments stay as they were billed"
        for line in added:
            assert sum(Fraction(use.amount_nanos) for use in line.tiers) == Fraction(line.exact_nanos)
        billed += added
        counted[last] += late
    anew = lines_of(segments, counted)
    for number in counted:
        exact = sum(Fraction(line.exact_nanos) for line in billed if line.segment == number)
        assert exact == sum(Fraction(line.exact_nanos) for line in anew if line.segment == number)
        minor = sum(line.amount_minor for line in billed if line.segment == number)
        assert minor == minor_units(exact, currency("USD"))
