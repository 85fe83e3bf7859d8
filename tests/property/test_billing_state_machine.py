"""Charges, repeats, voids, deaths, caps and closing months in any order, against a model that shares no code.

The model adds up in plain integers and fractions, unit by unit. Two workers charge over real connections; one
may die, be found, and be replaced; one may take over the other's call; months close in their order.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

import psycopg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing.caps import change_caps
from billing.charge_connection import ChargeConnection, Failure
from billing.closing import close_month
from billing.dead_sessions import void_if_dead
from billing.meters import MONEY
from billing.prices import MeterPrice
from billing.store.accounts import open_key_counters
from billing.store.charges import Entry, Outcome
from infra.database import Connection, connect
from infra.ids import uuid7
from tests.billing_strategies import CAP, KEYS, METER_NAMES, SMALL, SMALL_PRICES, amount
from tests.billing_world import add_account_with_prices

STARTS = [datetime(2025, month, 1, tzinfo=UTC) for month in (9, 10, 11, 12)]
MONTHS = [start.strftime("%Y-%m") for start in STARTS]
WORKERS = (0, 1)


@dataclass
class Row:
    """One entry that the model has written."""

    call: UUID
    entry: int
    calls: int
    units: int
    before: int
    month: str
    is_late: bool


@dataclass
class Call:
    """One call, as the model knows it: `owner` may take it back while it is in flight of it."""

    call_id: UUID
    key: str
    meter: str
    units: int
    month: int
    at: datetime
    rows: list[Row] = field(default_factory=list)
    owner: int | None = None

    @property
    def is_charged(self) -> bool:
        return bool(self.rows) and self.rows[-1].entry % 2 == 0


class Model:
    """Predicts every outcome and every sum."""

    def __init__(self, prices: dict[str, MeterPrice]) -> None:
        self.prices = prices
        self.calls: list[Call] = []
        self.caps: dict[tuple[str | None, str], int] = {}
        self.closed = 0  # of the months, the first so many
        self.recorded: dict[int, set[UUID]] = {}  # by worker: what the database has as in flight

    def month_of(self, call: Call) -> tuple[str, bool]:
        place = max(call.month, self.closed)
        return MONTHS[place], place != call.month

    def stands_at(self, month: str, meter: str) -> int:
        return sum(
            row.units for one in self.calls if one.meter == meter for row in one.rows if row.month == month
        )

    def cost(self, meter: str, before: int, units: int) -> Fraction:
        return amount(self.prices[meter], before + units) - amount(self.prices[meter], before)

    def used(self, month: str, key: str | None, measure: str) -> Fraction:
        """What counts against a cap: of a key, its own calls, each at the price where the month stood."""
        if key is None and measure == MONEY:
            return sum((amount(self.prices[m], self.stands_at(month, m)) for m in METER_NAMES), Fraction(0))
        return sum(
            (
                self.cost(one.meter, row.before, row.units) if measure == MONEY else Fraction(row.units)
                for one in self.calls
                if key in (None, one.key) and measure in (MONEY, one.meter)
                for row in one.rows
                if row.month == month
            ),
            Fraction(0),
        )

    def charge(self, worker: int, call: Call, is_known: bool) -> str:
        if call.is_charged:
            if is_known and call.owner not in (None, worker) and call.call_id in self.recorded[call.owner]:
                call.owner = worker
                return "taken_over"
            return "already_charged"
        month, is_late = self.month_of(call)
        before = self.stands_at(month, call.meter)
        cost = self.cost(call.meter, before, call.units)
        for (key, measure), at_most in self.caps.items():
            if key in (None, call.key) and measure in (MONEY, call.meter):
                adds = cost if measure == MONEY else call.units
                if self.used(month, key, measure) + adds > at_most:
                    return "over_cap"
        call.rows.append(Row(call.call_id, len(call.rows), 1, call.units, before, month, is_late))
        call.owner = worker
        return "charged"

    def void(self, worker: int, call: Call, units: int) -> str:
        is_ours = call.owner == worker and call.call_id in self.recorded[worker]
        if not (call.is_charged and is_ours and units <= call.units):
            return "not_in_flight"
        month, is_late = self.month_of(call)
        calls = -1 if units == call.units else 0
        before = self.stands_at(month, call.meter)
        call.rows.append(Row(call.call_id, len(call.rows), calls, -units, before, month, is_late))
        return "voided"


class Billing(RuleBasedStateMachine):
    """Drives the database and the model, and compares them."""

    url = ""

    @initialize(prices=st.fixed_dictionaries(dict.fromkeys(METER_NAMES, SMALL_PRICES)))
    def begin(self, prices: dict[str, MeterPrice]) -> None:
        self.loop = asyncio.new_event_loop()
        self.observer = psycopg.connect(self.url, autocommit=True)
        self.model = Model(prices)
        self.tenant_id = add_account_with_prices(self.observer, prices, STARTS)
        self.admin: Connection = self.wait(connect(self.url, "test-admin"))
        self.workers = [self.hire(worker) for worker in WORKERS]

    def wait(self, something: Any) -> Any:
        return self.loop.run_until_complete(something)

    def hire(self, worker: int) -> ChargeConnection:
        hired = ChargeConnection(self.url, "test-worker", 2000)
        self.wait(hired.open())
        self.model.recorded[worker] = set()
        return hired

    def pick(self, number: int) -> Call:
        return self.model.calls[number % len(self.model.calls)]

    def send(self, worker: int, entries: list[Entry]) -> list[Outcome]:
        """One batch, as a pump sends it: it lands what it did not charge, and what it took back."""
        connection = self.workers[worker]
        charged = [one.call_id for one in entries if one.voided_from is None]
        held = {one for one in charged if connection.is_in_flight(one)}
        outcomes = self.wait(connection.charge(entries))
        assert not isinstance(outcomes, Failure)
        self.model.recorded[worker] = set(connection._in_flight)
        for one, outcome in zip(entries, outcomes, strict=True):
            is_ours = outcome.outcome in ("charged", "taken_over") or one.call_id in held
            if one.voided_from is not None or not is_ours:
                connection.land([one.call_id])
        return outcomes

    def entry(self, call: Call, **given: Any) -> Entry:
        return Entry(
            call_id=call.call_id,
            slice=0,
            tenant_id=self.tenant_id,
            key_id=call.key,
            meter=call.meter,
            model="model",
            engine="engine",
            occurred_at=call.at,
            **{"units": call.units, **given},
        )

    @rule(
        worker=st.sampled_from(WORKERS),
        month=st.integers(0, len(MONTHS) - 1),
        hour=st.integers(0, 2),
        wanted=st.lists(
            st.tuples(st.sampled_from(KEYS), st.sampled_from(METER_NAMES), SMALL), min_size=1, max_size=5
        ),
    )
    def charge(self, worker: int, month: int, hour: int, wanted: list[tuple[str, str, int]]) -> None:
        at = STARTS[month] + timedelta(days=9, hours=hour, minutes=5)
        calls = [Call(uuid7(), key, meter, units, month, at) for key, meter, units in wanted]
        self.model.calls += calls
        predicted = [self.model.charge(worker, one, False) for one in calls]
        outcomes = self.send(worker, [self.entry(one) for one in calls])
        assert [one.outcome for one in outcomes] == predicted

    @precondition(lambda self: self.model.calls)
    @rule(worker=st.sampled_from(WORKERS), number=st.integers(0, 99), is_known=st.booleans())
    def send_again(self, worker: int, number: int, is_known: bool) -> None:
        """A call that was refused, or taken back, is charged now where it fits; any other counts once."""
        call = self.pick(number)
        predicted = self.model.charge(worker, call, is_known)
        (outcome,) = self.send(worker, [self.entry(call, maybe_elsewhere=is_known)])
        assert outcome.outcome == predicted
        if call.is_charged:
            assert (outcome.period, outcome.units_before) == (call.rows[-1].month, call.rows[-1].before)

    @precondition(lambda self: self.model.calls)
    @rule(worker=st.none() | st.sampled_from(WORKERS), number=st.integers(0, 99), part=st.none() | SMALL)
    def take_back(self, worker: int | None, number: int, part: int | None) -> None:
        """By its owner, or by one who may not."""
        call = self.pick(number)
        worker = (call.owner or 0) if worker is None else worker
        units = call.units if part is None else part
        session = self.workers[worker].session_id
        predicted = self.model.void(worker, call, units)
        (outcome,) = self.send(worker, [self.entry(call, units=-units, voided_from=session)])
        assert outcome.outcome == predicted

    @precondition(lambda self: self.model.calls)
    @rule(numbers=st.sets(st.integers(0, 99)), is_recorded=st.booleans())
    def answer(self, numbers: set[int], is_recorded: bool) -> None:
        """Answers leave; the record follows, or the worker has not come to it."""
        answered = [self.pick(number).call_id for number in numbers]
        for worker in WORKERS:
            self.workers[worker].land(answered)
            if is_recorded:
                assert self.wait(self.workers[worker].record()) is None
                self.model.recorded[worker] = set(self.workers[worker]._in_flight)

    @rule(worker=st.sampled_from(WORKERS))
    def lose_the_connection(self, worker: int) -> None:
        """The worker lives on: nothing is taken back, and nothing forgotten."""
        self.wait(self.workers[worker]._hang_up())
        self.wait(self.workers[worker].open())
        self.model.recorded[worker] = set(self.workers[worker]._in_flight)

    @rule(worker=st.sampled_from(WORKERS))
    def die(self, worker: int) -> None:
        """What it had on record as in flight, and nobody took over, is taken back, once."""
        session = self.workers[worker].session_id
        recorded = self._of_session("in_flight", session)
        assert set(recorded) == self.model.recorded[worker]
        calls = {one.call_id: one for one in self.model.calls}
        predicted = [self.model.void(worker, calls[one], calls[one].units) for one in recorded]
        self.wait(self.workers[worker]._hang_up())
        while self._of_session("missing_since", session) is None:  # until its backend is gone
            assert self.wait(void_if_dead(self.admin, session, 0.0)) == 0
        assert self.wait(void_if_dead(self.admin, session, 0.0)) == predicted.count("voided")
        assert self.wait(void_if_dead(self.admin, session, 0.0)) == 0
        for one in self.model.calls:
            one.owner = None if one.owner == worker else one.owner
        self.workers[worker] = self.hire(worker)

    @rule(cap=CAP)
    def set_cap(self, cap: tuple[str | None, str, int | None]) -> None:
        key, measure, at_most = cap
        self.wait(change_caps(self.admin, self.tenant_id, {measure: at_most}, key))
        # These months are over: keys' counters would be made when a call asks for them, which is sent again
        # then, after its batch-mates.
        months = [(self.tenant_id, month) for month in MONTHS]
        self.wait(open_key_counters(self.admin, months))
        self.model.caps.pop((key, measure), None)
        if at_most is not None:
            self.model.caps[key, measure] = at_most

    @precondition(lambda self: self.model.closed < len(MONTHS) - 1)
    @rule()
    def close_the_oldest_month(self) -> None:
        month, ends_at = MONTHS[self.model.closed], STARTS[self.model.closed + 1]
        assert self.wait(close_month(self.admin, self.tenant_id, month, ends_at))
        assert not self.wait(close_month(self.admin, self.tenant_id, month, ends_at))
        self.model.closed += 1

    @invariant()
    def every_row_is_as_predicted(self) -> None:
        found = self.observer.execute(
            "SELECT call_id, entry, calls, units, units_before, period, is_late FROM billing.usage_row"
            " WHERE tenant_id = %s",
            [self.tenant_id],
        ).fetchall()
        rows = [row for call in self.model.calls for row in call.rows]
        assert sorted(found) == sorted(tuple(vars(row).values()) for row in rows)

    @invariant()
    def counters_and_roll_ups_are_the_sums_of_the_rows(self) -> None:
        counters, hours = (
            defaultdict[Any, list[int]](lambda: [0, 0]),
            defaultdict[Any, list[int]](lambda: [0, 0]),
        )
        for call in self.model.calls:
            for row in call.rows:
                hour = call.at.replace(minute=0)
                for sums in (counters[row.month, call.meter], hours[row.month, hour, call.meter, call.key]):
                    sums[0] += row.calls
                    sums[1] += row.units
        assert self._sums("period, meter", "period_counter") == _nonzero(counters)
        assert self._sums("period, hour, meter, key_id", "hourly_usage") == _nonzero(hours)

    @invariant()
    def a_capped_keys_counters_are_its_own_calls_at_the_price_of_their_time(self) -> None:
        found = self.observer.execute(
            "SELECT period, key_id, meter, units, rated FROM billing.key_counter WHERE tenant_id = %s",
            [self.tenant_id],
        ).fetchall()
        capped = {key for key, _ in self.model.caps if key is not None}
        assert {key for _, key, _, _, _ in found} <= capped
        for month, key, meter, units, rated in found:
            if month not in MONTHS:
                continue
            rows = [
                row
                for call in self.model.calls
                if (call.key, call.meter) == (key, meter)
                for row in call.rows
                if row.month == month
            ]
            assert units == sum(row.units for row in rows)
            cost = sum((self.model.cost(meter, row.before, row.units) for row in rows), Fraction(0))
            assert Fraction(int(rated), self.model.prices[meter].per) == cost

    def _of_session(self, column: str, session: int) -> Any:
        row = self.observer.execute(
            f"SELECT {column} FROM billing.charging_session WHERE session_id = %s", [session]
        ).fetchone()
        assert row is not None
        return row[0]

    def _sums(self, keys: str, table: str) -> dict[Any, list[int]]:
        rows = self.observer.execute(
            f"SELECT {keys}, calls, units FROM billing.{table}"
            " WHERE tenant_id = %s AND (calls <> 0 OR units <> 0)",
            [self.tenant_id],
        ).fetchall()
        return {row[:-2]: list(row[-2:]) for row in rows}

    def teardown(self) -> None:
        if not hasattr(self, "workers"):
            return
        for worker in self.workers:
            worker.land(list(worker._in_flight))
            self.wait(worker.close())
        self.wait(self.admin.close())
        self.observer.close()
        self.loop.close()


def _nonzero(sums: dict[Any, list[int]]) -> dict[Any, list[int]]:
    return {place: both for place, both in sums.items() if both != [0, 0]}


def test_whatever_happens_in_whatever_order_the_database_and_the_model_agree(database_url: str) -> None:
    machine = type("BillingOverPostgres", (Billing,), {"url": database_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=20,
            deadline=None,
            phases=(Phase.generate,),  # twenty steps can be read; making them fewer takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
