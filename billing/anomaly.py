"""When a day's usage is far out of line with the weeks before. Pure; whole numbers and fractions only."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Final

from billing.meters import ASR_AUDIO_MS, INTENT_CALLS, TTS_CHARACTERS

HISTORY_DAYS: Final = 28
_LEAST_HISTORY_DAYS: Final = 14
_LEAST_GROWTH: Final = 2
_CUT_OFF: Final = Fraction(7, 2)
_HALF: Final = Fraction(1, 2)
_TO_SIGMA: Final = Fraction(6745, 10_000)
_MEAN_TO_SIGMA: Final = Fraction(1_000_000, 1_253_314)

# What one more day must have at least: under a few US dollars at the standard prices nobody is alarmed.
FLOOR_UNITS: Final[Mapping[str, int]] = {
    ASR_AUDIO_MS: 10 * 3_600_000,
    INTENT_CALLS: 5_000,
    TTS_CHARACTERS: 200_000,
}


def is_out_of_line(units: int, history: Sequence[int], floor_units: int) -> bool:
    """Whether a day's units are far above what the days before let expect.

    The rule is the modified z-score of Iglewicz and Hoaglin (How to Detect and Handle Outliers, ASQC Quality
    Press 1993): with the median m of the days before and the median absolute deviation MAD from it, a day x
    is an outlier when 0.6745 (x - m) / MAD > 3.5. Median and MAD are not moved by the outliers of the past.
    Where more than half of the days are equal, MAD is 0, and the mean absolute deviation stands in for it,
    with (x - m) / (1.253314 MeanAD).

    A surprise on the bill is what it warns of. So it looks upwards only, and asks for more than the score:
    the day is over every one of the days before (who is busy on Mondays only is not alarmed on each), at
    least twice their median, and at least `floor_units` over it.

    Args:
        units: the day's, so far.
        history: a tenant's units of the meter on the days before, at most `HISTORY_DAYS`, beginning with the
            first that had any; days without usage are zeros. Of fewer than 14 days nothing is concluded.
        floor_units: tiny usage is never out of line.
    """
    if len(history) < _LEAST_HISTORY_DAYS:
        return False
    usual = median(history)
    above = units - usual
    if units <= max(history) or units < _LEAST_GROWTH * usual or above < max(1, floor_units):
        return False
    deviations = [abs(day - usual) for day in history]
    spread = median(deviations)
    if spread > 0:
        return _TO_SIGMA * above > _CUT_OFF * spread
    return _MEAN_TO_SIGMA * above > _CUT_OFF * Fraction(sum(deviations), len(deviations))


def median(numbers: Sequence[int] | Sequence[Fraction]) -> Fraction:
    """The middle one, or half the sum of the two in the middle; of at least one number."""
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    return Fraction(ordered[middle] + ordered[~middle]) * _HALF
