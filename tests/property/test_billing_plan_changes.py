"""Charges, voids and changes of plan at once in any order: caps are kept, and invoices agree with them.

The model adds up segment by segment in fractions; what the database rounds up is at most a nano a change.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

import psycopg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from billing.accounts import open_account
from billing.caps import change_caps
from billing.charge_connection import ChargeConnection, Failure
from billing.closing import close_month
from billing.drafts import compose, read_materials
from billing.meters import MONEY
from billing.plan_changes import change_plan
from billing.prices import MeterPrice, PriceVersion
from billing.reconcile import reconcile
from billing.store.charges import Entry
from billing.store.prices import insert_version
from billing.store.seals import read_proof, seal_months
from infra.database import Connection, connect, open_pool
from infra.ids import new_id, uuid7
from tests.billing_strategies import KEYS, METER_NAMES, SMALL, SMALL_PRICES, amount

PLANS = st.lists(st.fixed_dictionaries(dict.fromkeys(METER_NAMES, SMALL_PRICES)), min_size=2, max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("charge"), st.sampled_from(KEYS), st.sampled_from(METER_NAMES), SMALL),
        st.tuples(st.just("charge"), st.sampled_from(KEYS), st.sampled_from(METER_NAMES), SMALL),
        st.tuples(st.just("void"), st.integers(0, 99)),
        st.tuples(st.just("change"), st.integers(0, 2)),
    ),
    min_size=4,
    max_size=14,
)
CAPS = st.tuples(st.integers(0, 400), st.integers(0, 400))  # of the tenant, and of its first key


class Model:
    """What each segment counted, and what its calls cost its keys."""

    def __init__(self, prices: dict[str, MeterPrice]) -> None:
        self.segments: list[tuple[dict[str, MeterPrice], dict[str, int]]] = [(prices, {})]
        self.keys: dict[str, Fraction] = dict.fromkeys(KEYS, Fraction(0))
        self.charged: dict[UUID, tuple[str, str, int]] = {}

    def stands_at(self, meter: str) -> int:
        return sum(units.get(meter, 0) for _, units in self.segments)

    def cost(self, meter: str, units: int) -> Fraction:
        """At the prices that hold now."""
        price, before = self.segments[-1][0][meter], self.stands_at(meter)
        return amount(price, before + units) - amount(price, before)

    def add(self, key: str, meter: str, units: int) -> None:
        self.keys[key] += self.cost(meter, units)
        counted = self.segments[-1][1]
        counted[meter] = counted.get(meter, 0) + units

    def spent(self) -> Fraction:
        total = Fraction(0)
        for meter in METER_NAMES:
            stood = 0
            for prices, units in self.segments:
                ends = stood + units.get(meter, 0)
                total += amount(prices[meter], ends) - amount(prices[meter], stood)
                stood = ends
        return total


class World:
    """One tenant, its worker, and the model."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.url, self.loop = url, loop
        self.now = datetime.now(UTC)
        self.period = f"{self.now:%Y-%m}"
        self.tenant_id = new_id("ten")
        self.admin: Connection = self.wait(connect(url, "test-admin"))
        self.worker = ChargeConnection(url, "test-worker", 2000)
        self.wait(self.worker.open())

    def wait(self, something: Any) -> Any:
        return self.loop.run_until_complete(something)

    async def begin(self, plans: Sequence[dict[str, MeterPrice]], caps: tuple[int, int]) -> None:
        self.names = [new_id("pln") for _ in plans]
        for name, prices in zip(self.names, plans, strict=True):
            version = PriceVersion(
                price_version_id=name, plan=name, currency="USD", valid_from=None, prices=prices
            )
            async with self.admin.transaction():
                await insert_version(self.admin, version)
        await self.admin.execute(
            "INSERT INTO tenants.tenant (tenant_id, name) VALUES (%s, 'T')", [self.tenant_id]
        )
        await open_account(
            self.admin, self.tenant_id, plan=self.names[0], currency="USD", time_zone="UTC", now=self.now
        )
        await change_caps(self.admin, self.tenant_id, {MONEY: caps[0]})
        await change_caps(self.admin, self.tenant_id, {MONEY: caps[1]}, KEYS[0])

    async def send(self, call_id: UUID, key: str, meter: str, units: int, voids: bool) -> str:
        entry = Entry(
            call_id=call_id,
            slice=0,
            tenant_id=self.tenant_id,
            key_id=key,
            meter=meter,
            units=units,
            model="model",
            engine="engine",
            occurred_at=self.now,
            voided_from=self.worker.session_id if voids else None,
        )
        outcomes = await self.worker.charge([entry])
        assert not isinstance(outcomes, Failure)
        if voids:
            self.worker.land([call_id])
        return outcomes[0].outcome

    async def close(self) -> tuple[Fraction, list[Any]]:
        """What the sealed month's usage lines come to, and its proofs."""
        await close_month(self.admin, self.tenant_id, self.period, self.now + timedelta(days=40))
        async with self.admin.transaction():
            await seal_months(self.admin, [(self.tenant_id, self.period)])
        (material,) = await read_materials(self.admin, self.period, [self.tenant_id])
        lines = compose(material).lines
        for line in lines:
            tiers = sum((Fraction(use.amount_nanos) for use in line.tiers), Fraction(0))
            assert tiers == Fraction(line.exact_nanos)
        total = sum((Fraction(line.exact_nanos) for line in lines), Fraction(0))
        return total, await read_proof(self.admin, self.tenant_id, self.period)


def play(
    world: World, plans: Sequence[dict[str, MeterPrice]], steps: Sequence[Any], caps: tuple[int, int]
) -> None:
    world.wait(world.begin(plans, caps))
    model, wait = Model(plans[0]), world.wait
    for kind, *said in steps:
        if kind == "change":
            plan = said[0] % len(plans)
            changed = wait(
                change_plan(
                    world.admin, world.tenant_id, world.names[plan], actor="t", now=world.now, at_once=True
                )
            )
            if changed.at_once:
                model.segments.append((plans[plan], {}))
        elif kind == "void" and model.charged:
            call_id = list(model.charged)[said[0] % len(model.charged)]
            key, meter, units = model.charged.pop(call_id)
            assert wait(world.send(call_id, key, meter, -units, True)) == "voided"
            model.add(key, meter, -units)
        elif kind == "charge":
            charge(world, model, said, caps)
        check_view(world, model)
    total, proofs = wait(world.close())
    assert total == model.spent()
    for meter in METER_NAMES:
        assert sum(proof.units for proof in proofs if proof.meter == meter) == model.stands_at(meter)
    found = {(proof.segment, proof.meter): proof.units for proof in proofs}
    for number, (_, units) in enumerate(model.segments):
        for meter, counted in units.items():
            assert found[number, meter] == counted


def charge(world: World, model: Model, said: Sequence[Any], caps: tuple[int, int]) -> None:
    key, meter, units = said
    call_id, cost, rounding = uuid7(), model.cost(meter, units), len(model.segments) - 1
    rooms = [caps[0] - model.spent(), *([caps[1] - model.keys[key]] if key == KEYS[0] else [])]
    outcome = world.wait(world.send(call_id, key, meter, units, False))
    if outcome == "charged":
        assert all(cost <= room for room in rooms), "a cap is never passed"
        model.add(key, meter, units)
        model.charged[call_id] = (key, meter, units)
    else:
        assert outcome == "over_cap"
        assert any(cost > room - rounding * len(METER_NAMES) for room in rooms), "nor kept without need"


def check_view(world: World, model: Model) -> None:
    """What caps are kept by is what the invoice will say, rounded up."""
    with psycopg.connect(world.url) as connection:
        row = connection.execute(
            "SELECT billing.month_nanos(tenant_id, period, price_version_id) FROM billing.period"
            " WHERE tenant_id = %s AND period = %s",
            [world.tenant_id, world.period],
        ).fetchone()
    assert row is not None
    assert 0 <= int(row[0]) - model.spent() < len(model.segments)


def test_whatever_is_charged_taken_back_and_changed_caps_hold_and_the_invoice_agrees(
    database_url: str,
) -> None:
    loop = asyncio.new_event_loop()

    @settings(
        max_examples=20,
        deadline=None,
        phases=(Phase.generate,),  # a dozen steps can be read; making them fewer takes minutes
        suppress_health_check=list(HealthCheck),
    )
    @given(plans=PLANS, steps=STEPS, caps=CAPS)
    def run(plans: list[dict[str, MeterPrice]], steps: list[Any], caps: tuple[int, int]) -> None:
        world = World(database_url, loop)
        try:
            play(world, plans, steps, caps)
        finally:
            world.worker.land(list(world.worker._in_flight))
            world.wait(world.worker.close())
            world.wait(world.admin.close())

    async def difference() -> int:
        pool = await open_pool(database_url, max_size=2, application_name="aiaas-test")
        try:
            return (await reconcile(pool)).difference
        finally:
            await pool.close()

    try:
        run()
        assert loop.run_until_complete(difference()) == 0
    finally:
        loop.close()
