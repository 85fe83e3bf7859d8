"""Usage by day as bars, whose heights are integers."""

from calendar import monthrange
from collections.abc import Sequence
from typing import Final

from billing.documents.amounts import quantity
from billing.documents.paper import Chart, Tick
from billing.documents.words import Texts
from billing.meters import METERS
from billing.store.usage import DayRow

FULL_HEIGHT: Final = 1000
_TICK_DAYS: Final = (1, 8, 15, 22, 29)


def usage_charts(days: Sequence[DayRow], period: str, say: Texts) -> tuple[Chart, ...]:
    """A chart for each meter that was used in the month; late usage of other months is not in it."""
    of_month = [row for row in days if row.day.isoformat().startswith(period)]
    last_day = monthrange(int(period[:4]), int(period[5:]))[1]
    charts: list[Chart] = []
    for meter in METERS:
        by_day = {row.day.day: row.units for row in of_month if row.meter == meter.meter}
        # A call taken back on a later day than it was made can leave a day below nothing.
        units = [max(0, by_day.get(day, 0)) for day in range(1, last_day + 1)]
        most = max(units)
        if most:
            title = say("chart", meter=say(meter.meter), unit=say(f"unit_{meter.meter}"))
            bars = tuple(-(-one * FULL_HEIGHT // most) for one in units)
            ticks = tuple(Tick(day - 1, str(day)) for day in _TICK_DAYS if day <= last_day)
            charts.append(
                Chart(title, say("chart_most", units=quantity(meter.meter, most, say)), bars, ticks)
            )
    return tuple(charts)
