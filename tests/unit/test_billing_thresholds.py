"""Which threshold of a cap is told: the highest newly reached, at the edge to the unit."""

import pytest

from billing.alerts import threshold_reached


@pytest.mark.parametrize(
    ("used", "allowed", "warned", "expected"),
    [
        (49, 100, None, None),
        (50, 100, None, 50),
        (79, 100, None, 50),
        (80, 100, None, 80),
        (99, 100, None, 80),
        (100, 100, None, 100),
        (101, 100, None, 100),
        (79, 100, 50, None),
        (80, 100, 50, 80),
        (100, 100, 80, 100),
        (100, 100, 100, None),
        (85, 100, 100, None),  # corrected downwards after it was full
        (1, 3, None, None),
        (2, 3, None, 50),
        (5 * 10**30 - 1, 10**31, None, None),  # money, at the scale of a price version
        (5 * 10**30, 10**31, None, 50),
        (0, 0, None, None),
        (1, 0, None, 100),
        (-5, 100, None, None),
    ],
)
def test_a_threshold_is_told_when_it_is_reached_and_once(
    used: int, allowed: int, warned: int | None, expected: int | None
) -> None:
    assert threshold_reached(used, allowed, warned) == expected
