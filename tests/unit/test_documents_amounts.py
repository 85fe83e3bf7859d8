"""Amounts, units and dates as they are read in a document."""

from datetime import UTC, date, datetime
from fractions import Fraction

import pytest

from billing.documents import amounts
from billing.documents.words import Texts
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS, TTS_CHARACTERS
from billing.money import currency

EN, ZH = Texts("en"), Texts("zh-TW")


@pytest.mark.parametrize(
    ("minor", "code", "shown"),
    [
        (1_234, "TWD", "NT$1,234"),
        (1_234, "USD", "US$12.34"),
        (123_456_789, "HKD", "HK$1,234,567.89"),
        (5, "EUR", "€0.05"),
        (1_234, "JPY", "¥1,234"),
        (100_000, "CNY", "¥1,000.00"),
        (-1_234, "TWD", "−NT$1,234"),
        (-5, "USD", "−US$0.05"),
        (0, "JPY", "¥0"),
    ],
)
def test_money(minor: int, code: str, shown: str) -> None:
    assert amounts.money(minor, currency(code)) == shown


@pytest.mark.parametrize(
    ("nanos", "code", "shown"),
    [
        (Fraction(400_000), "USD", "US$0.0004"),
        (Fraction(1_234_567_890_123_456_789), "TWD", "NT$1,234,567,890.123456789"),
        (Fraction(12_000_000_000), "TWD", "NT$12"),
        (Fraction(-12_300_000_000), "EUR", "−€12.30"),
        (Fraction(1, 3), "USD", "≈US$0.00"),
        (Fraction(2_000_000_000, 3), "USD", "≈US$0.666666667"),
    ],
)
def test_exact_money_has_the_decimals_that_it_needs_and_says_where_nine_are_not_enough(
    nanos: Fraction, code: str, shown: str
) -> None:
    assert amounts.exact_money(nanos, currency(code)) == shown


@pytest.mark.parametrize(
    ("milliseconds", "english", "chinese"),
    [
        (0, "0 s", "0 秒"),
        (1, "0.001 s", "0.001 秒"),
        (59_990, "59.99 s", "59.99 秒"),
        (60_000, "1 min", "1 分"),
        (12_345_678, "3 h 25 min 45.678 s", "3 小時 25 分 45.678 秒"),
        (3_600_000_000 + 5_000, "1,000 h 5 s", "1,000 小時 5 秒"),
        (-61_000, "−1 min 1 s", "−1 分 1 秒"),
    ],
)
def test_sound_is_hours_minutes_and_seconds_to_the_millisecond(
    milliseconds: int, english: str, chinese: str
) -> None:
    assert amounts.quantity(ASR_AUDIO_MS, milliseconds, EN) == english
    assert amounts.quantity(ASR_AUDIO_MS, milliseconds, ZH) == chinese


def test_calls_and_characters_are_counted() -> None:
    assert amounts.quantity(INTENT_CALLS, 1, EN) == "1 call"
    assert amounts.quantity(INTENT_CALLS, 12_345, EN) == "12,345 calls"
    assert amounts.quantity(TTS_CHARACTERS, -1, EN) == "−1 character"
    assert amounts.quantity(TTS_CHARACTERS, 1_000_000, ZH) == "1,000,000 字元"


@pytest.mark.parametrize(
    ("per", "meter", "english", "chinese"),
    [
        (60_000, ASR_AUDIO_MS, "US$0.0043 per minute", "每分鐘 US$0.0043"),
        (3_600_000, ASR_AUDIO_MS, "US$0.0043 per hour", "每小時 US$0.0043"),
        (90_000, ASR_AUDIO_MS, "US$0.0043 per 1 min 30 s", "每 1 分 30 秒 US$0.0043"),
        (1, INTENT_CALLS, "US$0.0043 per call", "每次呼叫 US$0.0043"),
        (1_000, INTENT_CALLS, "US$0.0043 per 1,000 calls", "每 1,000 次呼叫 US$0.0043"),
        (1, TTS_CHARACTERS, "US$0.0043 per character", "每字元 US$0.0043"),
    ],
)
def test_a_price_is_per_so_many_units(per: int, meter: str, english: str, chinese: str) -> None:
    assert amounts.price(4_300_000, per, meter, currency("USD"), EN) == english
    assert amounts.price(4_300_000, per, meter, currency("USD"), ZH) == chinese


def test_tiers_say_from_where_to_where() -> None:
    ranges = [(0, 1_000), (1_000, 5_000), (5_000, None), (0, None)]
    assert [amounts.tier_range(INTENT_CALLS, begin, end, EN) for begin, end in ranges] == [
        "up to 1,000",
        "1,001 – 5,000",
        "5,001 and more",
        "1 and more",
    ]
    sound = [(0, 60_000), (60_000, 3_600_000), (3_600_000, None)]
    assert [amounts.tier_range(ASR_AUDIO_MS, begin, end, EN) for begin, end in sound] == [
        "up to 1 min",
        "1 min – 1 h",
        "over 1 h",
    ]
    assert amounts.tier_range(ASR_AUDIO_MS, 3_600_000, None, ZH) == "超過 1 小時"


def test_days_months_and_shares_of_them() -> None:
    assert amounts.day(date(2026, 3, 5), EN) == "5 March 2026"
    assert amounts.day(date(2026, 3, 5), ZH) == "2026年3月5日"
    assert amounts.month("2026-12", EN) == "December 2026"
    assert amounts.month("2026-12", ZH) == "2026年12月"
    assert amounts.days(date(2024, 2, 1), date(2024, 2, 29), EN) == "1 – 29 February 2024"
    assert amounts.days(date(2024, 2, 1), date(2024, 2, 29), ZH) == "2024年2月1日至29日"
    assert amounts.moment(datetime(2026, 3, 5, 9, 5, tzinfo=UTC), EN) == "5 March 2026, 09:05"
    assert amounts.span(Fraction(31 * 86_400_000_000, 2), EN) == "15 d 12 h"
    assert amounts.span(Fraction(0), ZH) == "0 分"
