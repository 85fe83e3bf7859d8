from fractions import Fraction

import pytest

from billing.prices import InvalidPriceError, MeterPrice, Tier

ASR = MeterPrice(60_000, (Tier(60_000_000, 4_300_000), Tier(None, 3_900_000)))


@pytest.mark.parametrize(
    ("per", "tiers"),
    [
        (1, ()),
        (0, (Tier(None, 1),)),
        (-1, (Tier(None, 1),)),
        (1, (Tier(10, 1),)),
        (1, (Tier(None, -1),)),
        (1, (Tier(0, 1), Tier(None, 1))),
        (1, (Tier(10, 1), Tier(10, 1), Tier(None, 1))),
        (1, (Tier(10, 1), Tier(5, 1), Tier(None, 1))),
        (1, (Tier(None, 1), Tier(5, 1), Tier(None, 1))),
    ],
)
def test_a_price_with_a_gap_an_overlap_or_a_negative_number_is_refused(
    per: int, tiers: tuple[Tier, ...]
) -> None:
    with pytest.raises(InvalidPriceError):
        MeterPrice(per, tiers)


def test_a_minute_costs_its_price_and_a_millisecond_exactly_its_share() -> None:
    assert ASR.rate(60_000) == 4_300_000
    assert ASR.rate(1) == Fraction(4_300_000, 60_000)
    assert ASR.rate(0) == 0


def test_the_tier_edge_belongs_to_the_tier_below() -> None:
    edge = 60_000_000
    assert ASR.rate_call(edge - 60_000, 60_000) == 4_300_000
    assert ASR.rate_call(edge, 60_000) == 3_900_000
    assert ASR.rate_call(edge - 30_000, 60_000) == (4_300_000 + 3_900_000) // 2


def test_tier_uses_say_where_the_units_went() -> None:
    uses = ASR.tier_uses(60_000_000 + 1)
    assert [(use.from_units, use.up_to_units, use.units, use.nanos) for use in uses] == [
        (0, 60_000_000, 60_000_000, 4_300_000),
        (60_000_000, None, 1, 3_900_000),
    ]
    assert [use.amount_nanos for use in uses] == ["4300000000", "65"]
    assert MeterPrice(3, (Tier(None, 1),)).tier_uses(1)[0].amount_nanos == "1/3"
    assert ASR.tier_uses(0) == ()
