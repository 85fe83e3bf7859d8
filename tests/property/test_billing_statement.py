"""Statements against the oracle: lines, totals, late usage, parts of a month."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.meters import METERS
from billing.money import currency
from billing.prices import PPM, PRICE_MODELS, MeterPrice, PriceModel, PriceVersion
from billing.statement import Line, MonthUse, Segment, Statement, Use, statement
from tests import rating_oracle as oracle
from tests.billing_strategies import SPLITTABLE, prices_of
from tests.property.test_billing_rating import rate_of

METER_NAMES = [meter.meter for meter in METERS]
CODES = st.sampled_from(sorted(oracle.EXPONENTS))
PPMS = st.sampled_from([0, 1, 50_000, 88_750, 333_333, PPM])
MINIMA = st.just(0) | st.integers(1, 10**15)
USED = st.integers(0, 10**9)
MARCH, JANUARY, FEBRUARY = "2026-03", "2026-01", "2026-02"


def version(name: str, prices: Mapping[str, MeterPrice], minimum: int, discount: int) -> PriceVersion:
    return PriceVersion(
        price_version_id=name,
        plan="test",
        currency="USD",
        valid_from=None,
        prices=dict(prices),
        minimum_nanos=minimum,
        discount_ppm=discount,
    )


def segments_of(models: Sequence[PriceModel], most: int) -> st.SearchStrategy[tuple[Segment, ...]]:
    """Parts of a month, each with prices of its own, whose shares add up to the month."""
    prices = st.fixed_dictionaries(dict.fromkeys(METER_NAMES, prices_of(models)))
    versions = st.lists(st.builds(version, st.just("pv"), prices, MINIMA, PPMS), min_size=1, max_size=most)
    return st.tuples(versions, st.lists(st.integers(1, 31), min_size=most, max_size=most)).map(
        lambda drawn: tuple(
            Segment(
                msgspec.structs.replace(one, price_version_id=f"pv_{number}"),
                Fraction(drawn[1][number], sum(drawn[1][: len(drawn[0])])),
            )
            for number, one in enumerate(drawn[0])
        )
    )


# Months are much to draw for a machine that has other work.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

WHOLE_MONTHS = segments_of(PRICE_MODELS, 1)
CUT_MONTHS = segments_of(PRICE_MODELS, 3)
ANY_MONTHS = WHOLE_MONTHS | CUT_MONTHS


def draw_units(data: st.DataObject, segments: Sequence[Segment]) -> dict[tuple[int, str], int]:
    keys = [(number, meter) for number in range(len(segments)) for meter in METER_NAMES]
    return {key: data.draw(USED) for key in data.draw(st.lists(st.sampled_from(keys), unique=True))}


def plans(segments: Sequence[Segment]) -> list[oracle.Plan]:
    return [
        oracle.Plan(
            {meter: rate_of(price) for meter, price in one.version.prices.items()},
            one.version.minimum_nanos,
            Fraction(one.version.discount_ppm, PPM),
            one.share,
        )
        for one in segments
    ]


def month(
    period: str,
    segments: tuple[Segment, ...],
    units: Mapping[tuple[int, str], int],
    before: Mapping[tuple[int, str], int] | None = None,
) -> MonthUse:
    uses = tuple(Use(segment, meter, 1, used) for (segment, meter), used in units.items())
    return MonthUse(usage_period=period, segments=segments, uses=uses, before=before or {})


def amounts(lines: Sequence[Line]) -> dict[oracle.Key, int]:
    """Minor units by what they are for; what is nothing is left out."""
    return {(one.kind, one.segment, one.meter): one.amount_minor for one in lines if one.amount_minor}


def added(*parts: Mapping[oracle.Key, int]) -> dict[oracle.Key, int]:
    total: dict[oracle.Key, int] = {}
    for part in parts:
        for key, amount in part.items():
            total[key] = total.get(key, 0) + amount
    return {key: amount for key, amount in total.items() if amount}


@patient
@given(ANY_MONTHS, CODES, PPMS, st.integers(0, 10**7), st.integers(0, 10**6), st.data())
def test_a_statement_equals_the_oracle(
    segments: tuple[Segment, ...],
    code: str,
    tax_ppm: int,
    credit_minor: int,
    carried: int,
    data: st.DataObject,
) -> None:
    units = draw_units(data, segments)
    nanos = credit_minor * 10 ** (9 - oracle.EXPONENTS[code])
    made = statement(
        [month(MARCH, segments, units)],
        MARCH,
        currency(code),
        credit_nanos=nanos,
        tax_ppm=tax_ppm,
        carried_in_minor=carried,
    )
    expected = oracle.minor_month(plans(segments), units, code)
    credit = min(credit_minor, sum(expected.values()))
    assert amounts([line for line in made.lines if line.kind != "credit"]) == expected
    assert [line.amount_minor for line in made.lines if line.kind == "credit"] == [-credit] * (credit > 0)
    subtotal = sum(expected.values()) - credit
    tax = oracle.nearest(Fraction(subtotal * tax_ppm, PPM))
    assert (made.subtotal_minor, made.tax_minor, made.total_minor) == (subtotal, tax, subtotal + tax)
    owed = subtotal + tax + carried
    assert made.due_minor == (owed if owed >= oracle.SMALLEST_DUE[code] else 0)
    assert made.due_minor + made.carried_out_minor == owed


@patient
@given(CODES, st.integers(-2, 2))
def test_what_is_due_is_at_least_what_is_worth_collecting(code: str, step: int) -> None:
    owed = oracle.SMALLEST_DUE[code] + step
    made = statement([], MARCH, currency(code), carried_in_minor=owed)
    assert (made.due_minor, made.carried_out_minor) == ((owed, 0) if step >= 0 else (0, owed))


@patient
@given(ANY_MONTHS, CODES, st.data())
def test_a_lines_exact_amount_and_tiers_are_what_it_was_rounded_from(
    segments: tuple[Segment, ...], code: str, data: st.DataObject
) -> None:
    units = draw_units(data, segments)
    made = statement([month(MARCH, segments, units)], MARCH, currency(code))
    exact = oracle.month(plans(segments), units)
    for line in made.lines:
        nanos = Fraction(line.exact_nanos)
        assert nanos == exact[line.kind, line.segment, line.meter]
        if line.meter:
            assert line.amount_minor == oracle.minor(nanos, code)
            assert sum((Fraction(use.amount_nanos) for use in line.tiers), Fraction(0)) == nanos
            assert sum(use.units for use in line.tiers) == line.units == units[line.segment, line.meter]


@patient
@given(CUT_MONTHS, CODES, st.data())
def test_nothing_that_was_used_costs_less_than_nothing(
    segments: tuple[Segment, ...], code: str, data: st.DataObject
) -> None:
    """Not in any part of a month; a discount is at most what it is off, and an invoice never below zero."""
    made = statement([month(MARCH, segments, draw_units(data, segments))], MARCH, currency(code))
    for line in made.lines:
        assert (line.amount_minor <= 0) if line.kind == "discount" else (line.amount_minor >= 0)
    usage = sum(Fraction(line.exact_nanos) for line in made.lines if line.kind in ("usage", "discount"))
    assert usage >= 0
    assert made.due_minor >= 0


@patient
@given(ANY_MONTHS, CODES, st.data())
def test_late_usage_brings_a_month_to_what_it_is_computed_anew(
    segments: tuple[Segment, ...], code: str, data: st.DataObject
) -> None:
    """The lines of a month, over all invoices that bill it, add up to the month computed at once: in minor
    units, line by line, whatever came when; and what is billed again adds nothing."""
    arrivals = [draw_units(data, segments) for _ in range(data.draw(st.integers(1, 4)))]
    unit, billed, before = currency(code), dict[oracle.Key, int](), dict[tuple[int, str], int]()
    for number, units in enumerate(arrivals):
        period = MARCH if number else JANUARY
        made = statement([month(JANUARY, segments, units, before)], period, unit)
        billed = added(billed, amounts(made.lines))
        before = {key: before.get(key, 0) + units.get(key, 0) for key in before.keys() | units.keys()}
    assert billed == oracle.minor_month(plans(segments), before, code)
    again = statement([month(JANUARY, segments, {}, before)], MARCH, unit)
    assert (again.lines, again.total_minor) == ((), 0)


@patient
@given(ANY_MONTHS, ANY_MONTHS, CODES, PPMS, st.data())
def test_order_does_not_matter_and_the_same_again_is_the_same(
    march: tuple[Segment, ...], january: tuple[Segment, ...], code: str, tax_ppm: int, data: st.DataObject
) -> None:
    months = [
        month(MARCH, march, draw_units(data, march)),
        month(JANUARY, january, draw_units(data, january), draw_units(data, january)),
        month(FEBRUARY, january, draw_units(data, january)),
    ]
    made = statement(months, MARCH, currency(code), tax_ppm=tax_ppm)
    shuffled = [
        msgspec.structs.replace(one, uses=tuple(data.draw(st.permutations(one.uses))))
        for one in data.draw(st.permutations(months))
    ]
    assert statement(shuffled, MARCH, currency(code), tax_ppm=tax_ppm) == made
    _check_sums(made)
    periods = [line.usage_period for line in made.lines]
    assert periods == sorted(periods, key=lambda period: (period != MARCH, period)), "its own month first"


@patient
@given(segments_of(SPLITTABLE, 1), CODES, st.data())
def test_a_month_cut_at_the_same_price_comes_to_the_same(
    whole: tuple[Segment, ...], code: str, data: st.DataObject
) -> None:
    """To the nano: tiers, free units and begun packages run on over the cut. By volume they do not: a part's
    price is known when the month is over."""
    (segment,) = whole
    share = Fraction(data.draw(st.integers(1, 30)), 31)
    cut = (Segment(segment.version, share), Segment(segment.version, 1 - share))
    units = draw_units(data, cut)
    together: dict[tuple[int, str], int] = {}
    for (_, meter), used in units.items():
        together[0, meter] = together.get((0, meter), 0) + used
    unit = currency(code)
    parts = statement([month(MARCH, cut, units)], MARCH, unit).lines
    at_once = statement([month(MARCH, whole, together)], MARCH, unit).lines
    assert _exact(parts) == _exact(at_once)


def _exact(lines: Sequence[Line]) -> Fraction:
    return sum((Fraction(line.exact_nanos) for line in lines), Fraction(0))


def _check_sums(made: Statement) -> None:
    assert made.subtotal_minor == sum(line.amount_minor for line in made.lines)
    assert made.total_minor == made.subtotal_minor + made.tax_minor
    assert made.due_minor == made.total_minor + made.carried_in_minor - made.carried_out_minor
