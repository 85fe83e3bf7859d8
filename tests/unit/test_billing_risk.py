"""Reasons are given where there is one to look, weigh by how much, and say their figures."""

from datetime import UTC, datetime

import msgspec
import pytest

from billing.meters import INTENT_CALLS, TTS_CHARACTERS
from billing.risk import (
    CapHit,
    Deed,
    Facts,
    LateUse,
    MeterUse,
    Mismatch,
    Month,
    Refused,
    change_weight,
    reasons,
)


def month(period: str, minor: int, **units: int) -> Month:
    meters = {"tts": TTS_CHARACTERS, "intents": INTENT_CALLS}
    return Month(
        period, minor, {meters[name]: MeterUse(count, minor, ("prv_1",)) for name, count in units.items()}
    )


USUAL = Facts(
    currency="USD",
    revision=1,
    due_minor=1500,
    now=month("2025-11", 1500, tts=1_000_000),
    before=[month("2025-10", 1500, tts=1_000_000)],
    lines_minor=1500,
)


def told(now: Month = USUAL.now, **changed: object) -> dict[str, int]:
    """The reasons' codes and weights of the usual month, changed; its lines add up unless told otherwise."""
    facts = msgspec.structs.replace(USUAL, **{"now": now, "lines_minor": now.subtotal_minor, **changed})
    return {one.code: one.weight for one in reasons(facts)}


def test_a_month_as_usual_has_no_reason() -> None:
    assert reasons(USUAL) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"now": month("2025-11", 1874, tts=1_249_999)}, {}),
        ({"now": month("2025-11", 1875, tts=1_250_000)}, {"total_up": 10}),
        ({"now": month("2025-11", 3000, tts=2_000_000)}, {"total_up": 30, "meter_up": 15}),
        ({"now": month("2025-11", 4500, tts=3_000_000)}, {"total_up": 40, "meter_up": 20}),
        ({"now": month("2025-11", 0)}, {"total_down": 30, "meter_down": 15}),
        ({"now": month("2025-11", 1500, tts=1_000_000, intents=5000)}, {"meter_up": 15}),
        ({"now": month("2025-11", 1500, tts=1_000_000, intents=4999)}, {}),
        ({"before": []}, {"first_invoice": 20}),
        ({"before": [], "revision": 2}, {"reissued": 15}),
        ({"lines_minor": 1499}, {"reconciliation_difference": 100}),
        ({"mismatches": [Mismatch(INTENT_CALLS, 1, 1, 1, 2)]}, {"reconciliation_difference": 100}),
        ({"late": [LateUse("2025-10", 3, 120)]}, {"late_usage": 15}),
        ({"caps_hit": [CapHit(None, None, True, datetime(2025, 11, 9, tzinfo=UTC))]}, {"cap_hit": 10}),
        ({"refused": [Refused("rate_limit_exceeded", 999)]}, {"calls_refused": 5}),
        (
            {"refused": [Refused("insufficient_quota", 900), Refused("overloaded", 100)]},
            {"calls_refused": 15},
        ),
        ({"due_minor": 499_999}, {}),
        ({"due_minor": 500_000}, {"large_amount": 25}),
        ({"due_minor": 5_000_000}, {"large_amount": 40}),
        ({"deeds": [Deed("approve", "a", None)]}, {"changed_since_approval": 20}),
        ({"deeds": [Deed("approve", "a", None), Deed("send_back", "b", "why?")]}, {"sent_back": 15}),
    ],
)
def test_each_reason_is_given_from_its_edge_on(changed: dict[str, object], expected: dict[str, int]) -> None:
    assert told(**changed) == expected


def test_the_usual_is_the_median_of_the_months_before() -> None:
    before = [month("2025-10", 9000, tts=9_000_000), USUAL.before[0], month("2025-08", 1400, tts=900_000)]
    assert told(before=before) == {}


def test_a_tier_is_crossed_where_the_month_before_did_not_reach_it() -> None:
    now = Month("2025-11", 1500, {TTS_CHARACTERS: MeterUse(1_000_001, 1500, ("prv_1",), 1_000_000)})
    assert told(now=now) == {"tier_crossed": 10}, "1,000,000 units end the tier before"
    assert told(now=now, before=[month("2025-10", 1500, tts=1_000_001)]) == {}


def test_another_price_version_than_last_month_is_told() -> None:
    now = Month("2025-11", 1500, {TTS_CHARACTERS: MeterUse(1_000_000, 1500, ("prv_1", "prv_2"))})
    (reason,) = reasons(msgspec.structs.replace(USUAL, now=now))
    assert reason.code == "new_price_version"
    assert reason.text == "Priced by prv_2; in 2025-10 by prv_1."


def test_amounts_too_small_to_collect_are_no_change() -> None:
    assert told(now=month("2025-11", 60), before=[month("2025-10", 11)]) == {}


def test_sentences_name_their_figures_and_the_weightiest_comes_first() -> None:
    facts = msgspec.structs.replace(
        USUAL,
        now=month("2025-11", 4500, tts=3_000_000),
        before=[month("2025-10", 1500, tts=1_000_000), month("2025-09", 1500, tts=1_000_000)],
        lines_minor=4500,
    )
    assert [reason.text for reason in reasons(facts)] == [
        "45.00 USD before tax, 200 % above the 15.00 USD of the 2 invoices of 2025-09 to 2025-10 (median).",
        "3000000 tts.characters, 200 % above the 1000000 of the 2 invoices of 2025-09 to 2025-10 (median).",
    ]


@pytest.mark.parametrize(
    ("percent", "weight"), [(24, 0), (25, 10), (50, 20), (199, 30), (200, 40), (9999, 40)]
)
def test_a_change_weighs_by_its_percentage(percent: int, weight: int) -> None:
    assert change_weight(percent) == weight
