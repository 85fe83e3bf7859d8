"""The rule for days out of line: no alarm on tiny or too young usage, nor where the weeks know such days."""

import random
import statistics
from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st

from billing.anomaly import HISTORY_DAYS, is_out_of_line, median

DAY = st.integers(0, 10**12)
HISTORY = st.lists(DAY, min_size=14, max_size=HISTORY_DAYS)
FLOOR = st.integers(0, 10**6)


@given(DAY, HISTORY, FLOOR)
def test_an_alarm_is_what_the_published_rule_and_the_bounds_say(
    units: int, history: list[int], floor_units: int
) -> None:
    middle = Fraction(statistics.median_low(history) + statistics.median_high(history), 2)
    spreads = sorted(abs(day - middle) for day in history)
    spread = (spreads[(len(spreads) - 1) // 2] + spreads[len(spreads) // 2]) / 2
    if spread:
        score = Fraction("0.6745") * (units - middle) / spread
        out = score > Fraction("3.5")
    elif any(spreads):
        out = (units - middle) / (Fraction("1.253314") * sum(spreads) / len(spreads)) > Fraction("3.5")
    else:
        out = units > middle
    bounded = units > max(history) and units >= 2 * middle and units - middle >= max(1, floor_units)
    assert is_out_of_line(units, history, floor_units) == (out and bounded)


@given(st.integers(0, 13).flatmap(lambda days: st.lists(DAY, min_size=days, max_size=days)), DAY)
def test_less_than_two_weeks_never_alarm(history: list[int], units: int) -> None:
    assert not is_out_of_line(units, history, 0)


@given(HISTORY, st.integers(0, 10**6), FLOOR)
def test_usage_less_than_the_floor_over_the_usual_never_alarms(
    history: list[int], above: int, floor_units: int
) -> None:
    assume(above < floor_units)
    assert not is_out_of_line(int(median(history)) + above, history, floor_units)


@given(HISTORY, st.data())
def test_a_day_like_one_of_the_weeks_before_never_alarms(history: list[int], data: st.DataObject) -> None:
    units = data.draw(st.integers(0, max(history)))
    assert not is_out_of_line(units, history, 0)


@given(HISTORY, DAY, st.integers(0, 10**12), FLOOR)
def test_more_usage_is_never_less_of_an_alarm(
    history: list[int], units: int, more: int, floor_units: int
) -> None:
    if is_out_of_line(units, history, floor_units):
        assert is_out_of_line(units + more, history, floor_units)


@given(HISTORY, DAY, FLOOR, st.randoms())
def test_the_order_of_the_days_does_not_matter(
    history: list[int], units: int, floor: int, chance: random.Random
) -> None:
    shuffled = list(history)
    chance.shuffle(shuffled)
    assert is_out_of_line(units, history, floor) == is_out_of_line(units, shuffled, floor)


def test_days_that_people_would_judge_the_same() -> None:
    steady = [980, 1010, 1005, 990, 1000, 1020, 995] * 4
    assert not is_out_of_line(1100, steady, 0)
    assert is_out_of_line(5000, steady, 0)
    assert not is_out_of_line(5000, steady, 10_000)
    weekdays_only = [1000, 1040, 960, 1010, 990, 0, 0] * 4
    assert not is_out_of_line(1040, weekdays_only, 0)
    assert is_out_of_line(9000, weekdays_only, 0)
    mondays_only = [1000, 0, 0, 0, 0, 0, 0] * 4
    assert not is_out_of_line(1000, mondays_only, 0)
    assert is_out_of_line(4000, mondays_only, 0)
