from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from billing.periods import check_label, check_time_zone, next_period, period_at, period_labelled
from infra.errors import InvalidValueError

# No zone skips or repeats a whole day in these years but Samoa, which is among them.
MOMENTS = st.datetimes(datetime(1995, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))
ZONES = st.sampled_from(sorted(available_timezones())).map(ZoneInfo)


@given(MOMENTS, ZONES)
@example(
    datetime(2009, 11, 1, 2, 45, tzinfo=UTC), ZoneInfo("America/St_Johns")
)  # put back at 00:01 on the 1st
@example(datetime(2015, 11, 1, 4, 30, tzinfo=UTC), ZoneInfo("America/Havana"))  # midnight of the 1st twice
@example(datetime(2011, 12, 31, 9, 59, tzinfo=UTC), ZoneInfo("Pacific/Apia"))  # a year's end without its 30th
@example(datetime(2025, 10, 31, 18, 15, tzinfo=UTC), ZoneInfo("Asia/Kathmandu"))
@example(datetime(2025, 3, 30, 1, 0, tzinfo=UTC), ZoneInfo("Europe/London"))
def test_every_instant_falls_into_exactly_one_period(moment: datetime, zone: ZoneInfo) -> None:
    period = period_at(moment, zone)
    assert period.starts_at <= moment < period.ends_at
    following = next_period(period, zone)
    assert following.starts_at == period.ends_at
    assert period_at(period.ends_at, zone) == following
    assert period_at(period.ends_at - timedelta(microseconds=1), zone) == period
    assert period_labelled(period.label, zone) == period


@given(MOMENTS, ZONES)
def test_a_period_begins_at_the_first_midnight_of_its_month(moment: datetime, zone: ZoneInfo) -> None:
    period = period_at(moment, zone)
    start = period.starts_at.astimezone(zone)
    assert (start.strftime("%Y-%m"), start.day) == (period.label, 1)
    before = (period.starts_at - timedelta(seconds=1)).astimezone(zone)
    assert before.strftime("%Y-%m") < period.label


@pytest.mark.parametrize(
    ("label", "zone", "start", "end"),
    [
        ("2025-11", "Asia/Kathmandu", "2025-10-31T18:15:00", "2025-11-30T18:15:00"),
        ("2025-11", "Asia/Taipei", "2025-10-31T16:00:00", "2025-11-30T16:00:00"),
        ("2025-03", "America/New_York", "2025-03-01T05:00:00", "2025-04-01T04:00:00"),
        ("2025-11", "America/New_York", "2025-11-01T04:00:00", "2025-12-01T05:00:00"),
        ("2025-12", "Australia/Adelaide", "2025-11-30T13:30:00", "2025-12-31T13:30:00"),
        ("2024-02", "UTC", "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
    ],
)
def test_bounds_checked_by_hand(label: str, zone: str, start: str, end: str) -> None:
    period = period_labelled(label, ZoneInfo(zone))
    assert period.starts_at == datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert period.ends_at == datetime.fromisoformat(end).replace(tzinfo=UTC)


def test_the_hour_lost_and_the_hour_won_are_in_the_month() -> None:
    zone = ZoneInfo("America/New_York")
    march, november = period_labelled("2025-03", zone), period_labelled("2025-11", zone)
    assert march.ends_at - march.starts_at == timedelta(days=31, hours=-1)
    assert november.ends_at - november.starts_at == timedelta(days=30, hours=1)


@pytest.mark.parametrize(
    "label", ["2025-13", "2025-00", "2025-1", "25-01", "2025-01-01", "1969-12", "", "２０２５-01"]
)
def test_a_label_that_is_no_month_is_refused(label: str) -> None:
    with pytest.raises(InvalidValueError) as refusal:
        check_label(label)
    assert refusal.value.param == "period"


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "asia/taipei"])
def test_a_time_zone_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError) as refusal:
        check_time_zone(name)
    assert refusal.value.param == "time_zone"


def test_a_moment_without_a_time_zone_has_no_period() -> None:
    with pytest.raises(ValueError, match="time zone"):
        period_at(datetime(2025, 1, 1), ZoneInfo("UTC"))
