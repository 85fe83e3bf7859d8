"""The database's decisions on caps against an auditor in fractions that shares no code with it."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.caps import change_caps
from billing.charges import Charge
from billing.meters import MONEY
from billing.prices import MeterPrice
from billing.store import charges as store
from infra.database import connect
from infra.ids import new_id
from tests.billing_strategies import (
    CAP,
    KEYS,
    METER_NAMES,
    NANOS,
    PRICES,
    SMALL,
    SMALL_PRICES,
    UNITS,
    amount,
    near_edges,
    prices_of,
)
from tests.billing_world import NOON, add_account_with_prices, charge, write

CALL = st.tuples(st.sampled_from(KEYS), st.sampled_from(METER_NAMES), SMALL)
NOVEMBER = datetime(2025, 11, 1, tzinfo=UTC)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("cap"), CAP),
        st.tuples(st.just("charge"), st.lists(CALL, min_size=1, max_size=12)),
        st.tuples(st.just("repeat"), st.integers(0, 200)),
    ),
    min_size=3,
    max_size=12,
)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


class Auditor:
    """Predicts every outcome, call by call."""

    def __init__(self, prices: dict[str, MeterPrice]) -> None:
        self.prices = prices
        self.units = dict.fromkeys(METER_NAMES, 0)
        self.caps: dict[tuple[str | None, str], int] = {}
        self.used: dict[tuple[str | None, str], Fraction] = {}
        self.charged: list[Charge] = []

    def decide(self, call: Charge) -> str:
        before = self.units[call.meter]
        cost = amount(self.prices[call.meter], before + call.units) - amount(self.prices[call.meter], before)
        adds = {
            (who, measure): added
            for who in (None, call.key_id)
            for measure, added in ((MONEY, cost), (call.meter, Fraction(call.units)))
        }
        if any(
            what in self.caps and self.used.get(what, Fraction(0)) + added > self.caps[what]
            for what, added in adds.items()
        ):
            return store.OVER_CAP
        for what, added in adds.items():
            self.used[what] = self.used.get(what, Fraction(0)) + added
        self.units[call.meter] += call.units
        self.charged.append(call)
        return store.CHARGED


async def play(url: str, prices: dict[str, MeterPrice], steps: list[tuple[str, object]]) -> None:
    auditor = Auditor(prices)
    with psycopg.connect(url) as admin:
        tenant_id = add_account_with_prices(admin, prices, [NOVEMBER])
    async with await connect(url, "test-caps") as connection:
        for kind, value in steps:
            if kind == "cap":
                key_id, measure, at_most = value  # type: ignore[misc]
                await change_caps(connection, tenant_id, {measure: at_most}, key_id)
                auditor.caps.pop((key_id, measure), None)
                if at_most is not None:
                    auditor.caps[key_id, measure] = at_most
                # The month of these calls is over: a key's counters are made when a call asks for them.
                await connection.execute(
                    "SELECT billing.open_key_counters(ARRAY[%s], ARRAY['2025-11'])", [tenant_id]
                )
            elif kind == "repeat":
                again = auditor.charged[:value]  # type: ignore[misc]
                if again:
                    outcomes = await write(connection, again)
                    assert {one.outcome for one in outcomes} == {store.ALREADY_CHARGED}
            else:
                batch = [
                    msgspec.structs.replace(charge(tenant_id, meter, units, NOON), key_id=key_id)
                    for key_id, meter, units in value  # type: ignore[attr-defined]
                ]
                predicted = [auditor.decide(one) for one in batch]
                assert [one.outcome for one in await write(connection, batch)] == predicted
        rows = await (
            await connection.execute(
                "SELECT meter, units FROM billing.period_counter WHERE tenant_id = %s", [tenant_id]
            )
        ).fetchall()
        assert dict(rows) == auditor.units


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prices=st.fixed_dictionaries(dict.fromkeys(METER_NAMES, SMALL_PRICES)), steps=STEPS)
def test_every_decision_is_the_auditors(
    database_url: str, prices: dict[str, MeterPrice], steps: list[tuple[str, object]]
) -> None:
    asyncio.run(play(database_url, prices, steps))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(price=PRICES, units=UNITS)
def test_rating_in_the_database_equals_the_rating_of_invoices(
    connection: psycopg.Connection, price: MeterPrice, units: int
) -> None:
    points = [0, 1, units, *near_edges(price)]
    rows = connection.execute(
        "SELECT billing.rate(%s::bigint[], %s::bigint[], units) FROM unnest(%s::bigint[]) AS units",
        [[tier.up_to_units for tier in price.tiers], [tier.nanos for tier in price.tiers], points],
    ).fetchall()
    assert [Fraction(int(rated), price.per) for (rated,) in rows] == [price.rate(point) for point in points]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(price=PRICES, units=UNITS, room=NANOS)
def test_the_view_of_what_is_left_is_the_most_that_fits(
    connection: psycopg.Connection, price: MeterPrice, units: int, room: int
) -> None:
    row = connection.execute(
        "SELECT billing.units_within(%s::bigint[], %s::bigint[], %s, %s)",
        [[tier.up_to_units for tier in price.tiers], [tier.nanos for tier in price.tiers], units, room],
    ).fetchone()
    assert row is not None
    fits, scaled = row[0], Fraction(room, price.per)
    if fits is None:
        assert price.tiers[-1].nanos == 0
        assert price.rate_call(units, 10**12) <= scaled
    else:
        assert price.rate_call(units, fits) <= scaled < price.rate_call(units, fits + 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prices=st.fixed_dictionaries(dict.fromkeys(METER_NAMES, prices_of(["per_unit", "graduated"]))),
    units=UNITS,
)
def test_prices_as_caps_read_them_are_those_of_invoices_with_free_units_too(
    connection: psycopg.Connection, prices: dict[str, MeterPrice], units: int
) -> None:
    version = new_id("pv")
    with connection.transaction(force_rollback=True):
        run = connection.execute
        run("INSERT INTO billing.price_version VALUES (%s, %s, 'USD', '-infinity')", [version, version])
        for meter, price in prices.items():
            run(
                "INSERT INTO billing.meter_price (price_version_id, meter, per_units, model, free_units)"
                " VALUES (%s, %s, %s, %s, %s)",
                [version, meter, price.per, price.model, price.free_units],
            )
            for number, tier in enumerate(price.tiers, 1):
                row = [version, meter, number, tier.up_to_units, tier.nanos]
                run("INSERT INTO billing.price_tier VALUES (%s, %s, %s, %s, %s)", row)
        for meter, price in prices.items():
            points = [0, 1, units, *near_edges(price)]
            rows = run(
                "SELECT billing.rate(up_to_units, nanos, units) * scale, nano"
                " FROM billing.meter_prices(%s)"
                " CROSS JOIN unnest(%s::bigint[]) WITH ORDINALITY AS at (units, place)"
                " WHERE meter = %s ORDER BY place",
                [version, points, meter],
            ).fetchall()
            assert [Fraction(int(rated), int(nano)) for rated, nano in rows] == [
                price.rate(point) for point in points
            ]
