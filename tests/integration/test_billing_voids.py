"""A customer pays for answers: what was charged and not answered is taken back, once, and nothing else is."""

import asyncio
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from fractions import Fraction
from uuid import UUID

import msgspec
import psycopg
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from billing.caps import set_caps
from billing.charge_connection import ChargeConnection, Failure
from billing.charges import CapReachedError, Charge, LedgerUnavailableError
from billing.dead_sessions import void_if_dead
from billing.ledger import Ledger
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS, MONEY
from billing.receipts import receipt
from billing.reconcile import reconcile
from billing.store.charges import entry_of
from billing.store.prices import read_price_versions
from infra.database import Pool, connect
from infra.telemetry import Telemetry
from tests.billing_world import NOON, add_account, audit, charge, open_ledger
from tests.integration.test_billing_ledger_faults import lock_tenant, until

NOVEMBER, DECEMBER = "2025-11", "2025-12"


def entries(database_url: str, call: Charge) -> list[tuple[int, int, int]]:
    """A call's entries, calls and units."""
    return query(
        database_url,
        "SELECT entry, calls, units FROM billing.usage_row WHERE call_id = %s ORDER BY slice, entry",
        call.call_id,
    )


def months(database_url: str, call: Charge) -> list[tuple[str, bool]]:
    """The month that each of a call's entries counts in, and whether it is late."""
    return query(
        database_url,
        "SELECT period, is_late FROM billing.usage_row WHERE call_id = %s ORDER BY slice, entry",
        call.call_id,
    )


def in_flight(database_url: str) -> list[UUID]:
    """What all sessions together have on record."""
    return [row[0] for row in query(database_url, "SELECT unnest(in_flight) FROM billing.charging_session")]


def sessions(database_url: str) -> set[int]:
    return {row[0] for row in query(database_url, "SELECT session_id FROM billing.charging_session")}


def query(database_url: str, statement: str, *values: object) -> list[tuple]:  # type: ignore[type-arg]
    with psycopg.connect(database_url, autocommit=True) as connection:
        return connection.execute(statement, values).fetchall()


def close_month(database_url: str, tenant_id: str, *periods: str) -> None:
    """Close months as `billing.closing` does, before they are over."""
    with psycopg.connect(database_url) as connection:
        lock_tenant(connection, tenant_id)
        connection.execute(
            "UPDATE billing.period SET closed_at = now() WHERE tenant_id = %s AND period = ANY(%s)",
            [tenant_id, list(periods)],
        )


def holders(database_url: str, session_id: int) -> set[int]:
    """The backends of ledgers that hold a session's lock: one or none."""
    found = query(
        database_url,
        """
        SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'advisory' AND (classid::bigint << 32) | objid::bigint = %s AND granted
          AND datname = current_database() AND application_name LIKE 'aiaas-ledger%%'
        """,
        session_id,
    )
    return {row[0] for row in found}


def end_session(database_url: str, session_id: int) -> None:
    """End the backend that holds a session's lock."""
    for pid in holders(database_url, session_id):
        query(database_url, "SELECT pg_terminate_backend(%s)", pid)


def cut_off(ledger: Ledger) -> None:
    """Break the ledger's connection on its side only: the server goes on with what it was sent."""
    connection = ledger._connection._connection
    assert connection is not None
    with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


async def be_patient(ledger: Ledger) -> None:
    """Have the ledger's present connection wait for locks longer than its later ones."""
    connection = ledger._connection._connection
    assert connection is not None
    await connection.execute("SET lock_timeout = '5s'")


async def kill(ledger: Ledger, database_url: str) -> None:
    """What `kill -9` leaves of a ledger: no task, no connection, and its record."""
    assert ledger._pump
    assert ledger._side_pump
    tasks = (ledger._pump.task, ledger._side_pump.task, ledger._dead_sessions._task, ledger._headroom._task)
    for task in tasks:
        assert task
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    for session in (ledger._connection, ledger._side_connection):
        end_session(database_url, session.session_id)
        if session._connection is not None:
            await session._connection.close()
    ledger._pump = ledger._side_pump = None


async def void_dead(database_url: str, session_id: int) -> int:
    """What one who finds a session dead takes back at once."""
    async with await connect(database_url, "test") as connection:
        assert await void_if_dead(connection, session_id, 0.0) == 0, "first it is only marked"
        return await void_if_dead(connection, session_id, 0.0)


async def waiting_in_the_database(database_url: str) -> None:
    """Until a ledger's batch waits for a lock."""

    def waits() -> bool:
        found = query(
            database_url,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name LIKE 'aiaas-ledger%%' AND wait_event_type = 'Lock'",
        )
        return found[0][0] > 0

    await until(waits)


@pytest.mark.parametrize("way", ["cancelled", "timed out"])
async def test_a_caller_that_leaves_before_the_charge_is_confirmed_does_not_pay(
    database_url: str, pool: Pool, way: str
) -> None:
    tenant_id = await add_account(pool)
    one = charge(tenant_id)
    timeout_s = 0.3 if way == "timed out" else 20.0
    async with open_ledger(database_url, lock_timeout_ms=5000, charge_timeout_s=timeout_s) as ledger:
        with psycopg.connect(database_url) as holder:
            lock_tenant(holder, tenant_id)
            waiting = asyncio.create_task(ledger.charge(one))
            await waiting_in_the_database(database_url)
            if way == "cancelled":
                waiting.cancel()
            with pytest.raises((asyncio.CancelledError, LedgerUnavailableError)):
                await waiting
        await until(lambda: entries(database_url, one) == [(0, 1, 1), (1, -1, -1)])
        await until(lambda: in_flight(database_url) == [])
    assert audit(database_url) == (0, 0)
    assert sessions(database_url) == set()


@pytest.mark.parametrize("is_written", [True, False])
async def test_a_charge_of_unknown_outcome_whose_caller_left_is_not_paid_for(
    database_url: str, pool: Pool, is_written: bool
) -> None:
    """The connection breaks while the batch is under way; the server commits it all the same, or not."""
    tenant_id = await add_account(pool)
    one, after = charge(tenant_id), charge(tenant_id)
    async with open_ledger(database_url, lock_timeout_ms=5000) as ledger:
        with psycopg.connect(database_url) as holder:
            lock_tenant(holder, tenant_id)
            waiting = asyncio.create_task(ledger.charge(one))
            await waiting_in_the_database(database_url)
            if is_written:
                cut_off(ledger)
            else:
                end_session(database_url, ledger.session_id)
            waiting.cancel()
            await asyncio.wait([waiting])
        await ledger.charge(after)
        expected = [(0, 1, 1), (1, -1, -1)] if is_written else []
        await until(lambda: entries(database_url, one) == expected and ledger.depth() == 0)
        await until(lambda: in_flight(database_url) == [after.call_id])
    assert audit(database_url) == (1, 1)


async def test_a_charge_of_unknown_outcome_is_taken_back_though_its_tenant_is_locked_afterwards(
    database_url: str, pool: Pool
) -> None:
    """Cut off, sent again, set aside with its tenant, and left by its caller there."""
    tenant_id = await add_account(pool)
    one = charge(tenant_id)
    async with open_ledger(database_url, lock_timeout_ms=100, charge_timeout_s=1.5) as ledger:
        with psycopg.connect(database_url) as holder:
            lock_tenant(holder, tenant_id)
            await be_patient(ledger)
            waiting = asyncio.create_task(ledger.charge(one))
            await waiting_in_the_database(database_url)
            cut_off(ledger)
            holder.rollback()
            await until(lambda: entries(database_url, one) == [(0, 1, 1)])
            lock_tenant(holder, tenant_id)
            with pytest.raises(LedgerUnavailableError):
                await waiting
        await until(lambda: entries(database_url, one) == [(0, 1, 1), (1, -1, -1)])
        await until(lambda: in_flight(database_url) == [])
    assert audit(database_url) == (0, 0)


async def test_a_void_is_done_though_its_tenant_is_locked_and_others_are_charged_meanwhile(
    database_url: str, pool: Pool
) -> None:
    tenant_id, other = await add_account(pool), await add_account(pool)
    one = charge(tenant_id)
    async with open_ledger(database_url, lock_timeout_ms=100) as ledger:
        await ledger.charge(one)
        with psycopg.connect(database_url) as holder:
            lock_tenant(holder, tenant_id)
            voiding = asyncio.create_task(ledger.void(one))
            await until(lambda: bool(ledger._set_aside))
            for _ in range(5):
                mate = charge(other)
                await ledger.charge(mate)
                ledger.answered(mate.call_id)
            assert not voiding.done()
        await voiding
        assert entries(database_url, one) == [(0, 1, 1), (1, -1, -1)]
        await until(lambda: in_flight(database_url) == [])
    assert audit(database_url) == (5, 5)


async def test_what_was_never_written_does_not_stay_in_flight(database_url: str, pool: Pool) -> None:
    """Refused, locked out, undone: whatever becomes of a charge, the record is empty in the end."""
    tenant_id, other = await add_account(pool), await add_account(pool)
    await set_caps(pool, other, {INTENT_CALLS: 0})
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("ALTER TABLE billing.usage_row ADD CHECK (units <> 13)")
    async with open_ledger(database_url, lock_timeout_ms=50, charge_timeout_s=0.4) as ledger:
        with psycopg.connect(database_url) as holder:
            lock_tenant(holder, tenant_id)
            calls = [charge(tenant_id), charge(other), charge(other, ASR_AUDIO_MS, 13)]
            await asyncio.gather(*(ledger.charge(one) for one in calls), return_exceptions=True)
            await until(lambda: ledger.depth() == 0)
        assert not ledger._connection._in_flight
        assert not ledger._side_connection._in_flight
    assert sessions(database_url) == set()
    assert audit(database_url) == (0, 0)


async def test_the_calls_in_flight_of_a_dead_worker_are_taken_back_once_by_whoever_finds_it(
    database_url: str, pool: Pool
) -> None:
    reader = InMemoryMetricReader()
    telemetry = Telemetry(None, MeterProvider([reader]).get_meter("test"), lambda: None)
    tenants = [await add_account(pool) for _ in range(3)]
    calls = [charge(tenants[n % 3], ASR_AUDIO_MS, 100 + n) for n in range(60)]
    async with open_ledger(database_url) as doomed:
        await asyncio.gather(*(doomed.charge(one) for one in calls))
        for one in calls[:40]:
            doomed.answered(one.call_id)
        unanswered = sorted(one.call_id for one in calls[40:])
        await until(lambda: sorted(in_flight(database_url)) == unanswered)
        await kill(doomed, database_url)
    async with (
        open_ledger(database_url, telemetry=telemetry, grace_s=0.25),
        open_ledger(database_url, telemetry=telemetry, grace_s=0.25),
    ):
        await until(lambda: doomed.session_id not in sessions(database_url))
        assert [len(entries(database_url, one)) for one in calls] == [1] * 40 + [2] * 20
        await until(lambda: _voided(reader) == 20)
    assert audit(database_url) == (40, sum(one.units for one in calls[:40]))
    assert (await reconcile(pool)).difference == 0


def _voided(reader: InMemoryMetricReader) -> int:
    """How many calls of dead workers the metric says were taken back."""
    data = reader.get_metrics_data()
    points = [
        point
        for scope in (data.resource_metrics[0].scope_metrics if data else ())
        for metric in scope.metrics
        if metric.name == "aiaas.voids"
        for point in metric.data.data_points
        if dict(point.attributes or {}) == {"reason": "worker_died"}
    ]
    return sum(int(point.value) for point in points)  # type: ignore[union-attr]


async def test_a_dead_session_is_given_its_time_of_grace(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool)
    one = charge(tenant_id)
    async with open_ledger(database_url) as doomed:
        await doomed.charge(one)
        await kill(doomed, database_url)
    async with await connect(database_url, "test") as connection:
        for _ in range(3):
            assert await void_if_dead(connection, doomed.session_id, 60.0) == 0
        assert entries(database_url, one) == [(0, 1, 1)]
        assert await void_if_dead(connection, doomed.session_id, 0.0) == 1
        assert await void_if_dead(connection, doomed.session_id, 0.0) == 0
    assert audit(database_url) == (0, 0)


async def test_a_live_session_is_never_taken_for_dead(database_url: str, pool: Pool) -> None:
    one = charge(await add_account(pool))
    async with open_ledger(database_url) as worker, await connect(database_url, "test") as connection:
        await worker.charge(one)
        for _ in range(3):
            assert await void_if_dead(connection, worker.session_id, 0.0) == 0
        assert not is_missing(database_url, worker.session_id)
    assert entries(database_url, one) == [(0, 1, 1)]


async def test_one_dead_session_that_cannot_be_taken_back_holds_up_no_other(
    database_url: str, pool: Pool
) -> None:
    locked, free = await add_account(pool), await add_account(pool)
    calls = [charge(locked), charge(free)]
    doomed = list[Ledger]()
    for one in calls:
        async with open_ledger(database_url) as ledger:
            await ledger.charge(one)
            await kill(ledger, database_url)
            doomed.append(ledger)
    with psycopg.connect(database_url) as holder:
        lock_tenant(holder, locked)
        async with open_ledger(database_url, grace_s=0.2) as finder:
            await until(lambda: len(entries(database_url, calls[1])) == 2, timeout_s=8)
            assert len(entries(database_url, calls[0])) == 1
            holder.rollback()
            await until(lambda: len(entries(database_url, calls[0])) == 2, timeout_s=8)
            await until(lambda: sessions(database_url) == {finder.session_id})
    assert audit(database_url) == (0, 0)


async def test_a_live_worker_that_only_lost_its_connection_keeps_its_calls(
    database_url: str, pool: Pool
) -> None:
    """Also one with nothing to charge, whose call is being sent for longer than the time of grace."""
    tenant_id = await add_account(pool)
    one = charge(tenant_id)
    async with (
        open_ledger(database_url) as worker,
        open_ledger(database_url, grace_s=4.0),
    ):
        await worker.charge(one)
        (before,) = holders(database_url, worker.session_id)
        end_session(database_url, worker.session_id)
        await until(lambda: bool(holders(database_url, worker.session_id) - {before}))
        await until(lambda: not is_missing(database_url, worker.session_id))
        assert in_flight(database_url) == [one.call_id]
        worker.answered(one.call_id)
    assert entries(database_url, one) == [(0, 1, 1)]


def is_missing(database_url: str, session_id: int) -> bool:
    """Whether somebody has found the session dead."""
    found = query(
        database_url,
        "SELECT missing_since IS NOT NULL FROM billing.charging_session WHERE session_id = %s",
        session_id,
    )
    return bool(found[0][0])


async def test_the_record_of_an_idle_worker_follows_its_answers(database_url: str, pool: Pool) -> None:
    one = charge(await add_account(pool))
    async with open_ledger(database_url) as ledger:
        await ledger.charge(one)
        assert in_flight(database_url) == [one.call_id]
        ledger.answered(one.call_id)
        await until(lambda: in_flight(database_url) == [], timeout_s=0.4)


async def test_closing_forgets_the_session_unless_a_call_is_not_answered(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    answered, unanswered = charge(tenant_id), charge(tenant_id)
    async with open_ledger(database_url) as ledger:
        await ledger.charge(answered)
        ledger.answered(answered.call_id)
    assert sessions(database_url) == set()
    async with open_ledger(database_url) as ledger:
        await ledger.charge(answered)
        await ledger.charge(unanswered)
        ledger.answered(answered.call_id)
        await ledger.close()
        assert in_flight(database_url) == [unanswered.call_id]
        assert await void_dead(database_url, ledger.session_id) == 1
    assert audit(database_url) == (1, 1)


async def test_closing_in_the_middle_of_a_charge_leaves_a_true_record(database_url: str, pool: Pool) -> None:
    tenant_id, locked = await add_account(pool), await add_account(pool)
    answered, waiting = charge(tenant_id), charge(locked)
    async with open_ledger(database_url, lock_timeout_ms=5000) as ledger:
        await ledger.charge(answered)
        with psycopg.connect(database_url) as holder:
            lock_tenant(holder, locked)
            charging = asyncio.create_task(ledger.charge(waiting))
            await waiting_in_the_database(database_url)
            ledger.answered(answered.call_id)
            closing = asyncio.create_task(ledger.close())
            await asyncio.sleep(0)
        await asyncio.gather(charging, closing)
    assert in_flight(database_url) == [waiting.call_id]


async def test_a_part_of_a_call_is_taken_back_and_the_call_stays_one(database_url: str, pool: Pool) -> None:
    one = charge(await add_account(pool), ASR_AUDIO_MS, 100)
    async with open_ledger(database_url) as ledger:
        await ledger.charge(one)
        await ledger.void(one, 30)
        assert entries(database_url, one) == [(0, 1, 100), (1, 0, -30)]
        await ledger.void(one, 30)
        await ledger.void(one)
        assert len(entries(database_url, one)) == 2, "once it is taken back, it is not in flight any more"
    assert audit(database_url) == (1, 70)


async def test_a_call_that_was_answered_or_never_charged_here_is_not_taken_back(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    answered, never = charge(tenant_id), charge(tenant_id)
    async with open_ledger(database_url) as ledger, open_ledger(database_url) as other:
        await ledger.charge(answered)
        ledger.answered(answered.call_id)
        await ledger.void(answered)
        await other.void(answered)
        await ledger.void(never)
    assert audit(database_url) == (1, 1)


async def test_a_session_takes_back_only_what_it_has_on_record_and_only_once(
    database_url: str, pool: Pool
) -> None:
    """Also a call of no units, whose void looks like any other."""
    tenant_id = await add_account(pool)
    session = ChargeConnection(database_url, "aiaas-ledger", 1000)
    for units in (5, 0):
        answered, unanswered = (charge(tenant_id, ASR_AUDIO_MS, units) for _ in range(2))
        await session.charge([entry_of(answered), entry_of(unanswered)])
        session.land([answered.call_id])
        assert await session.record() is None
        for _ in range(2):
            for one in (answered, unanswered):
                void = msgspec.structs.replace(entry_of(one), units=-units, voided_from=session.session_id)
                assert not isinstance(await session.charge([void]), Failure)
        assert (len(entries(database_url, answered)), len(entries(database_url, unanswered))) == (1, 2)
        session.land([unanswered.call_id])
    await session.close()
    assert audit(database_url) == (2, 5)


async def test_more_than_was_charged_is_not_taken_back(database_url: str, pool: Pool) -> None:
    one = charge(await add_account(pool), ASR_AUDIO_MS, 10)
    async with open_ledger(database_url) as ledger:
        await ledger.charge(one)
        await ledger.void(one, 11)
        ledger.answered(one.call_id)
    assert audit(database_url) == (1, 10)


async def test_receipts_across_a_tiers_edge_add_up_to_the_months_rating_after_voids(
    database_url: str, pool: Pool
) -> None:
    """The plan's first tier ends at 100,000 calls: what is taken back is priced where the month stands."""
    tenant_id = await add_account(pool)
    calls = [charge(tenant_id, INTENT_CALLS, units) for units in (99_000, 5_000, 700_000, 400_000, 1)]
    async with open_ledger(database_url) as ledger:
        for one in calls:
            await ledger.charge(one)
        await ledger.void(calls[1])
        await ledger.void(calls[3], 350_000)
        await ledger.void(calls[0], 98_999)
    assert audit(database_url) == (4, 1 + 700_000 + 50_000 + 1)
    receipts = [await receipt(pool, tenant_id, one.call_id) for one in calls]
    async with pool.connection() as connection:
        (version,) = (await read_price_versions(connection, [receipts[0].price_version_id])).values()
    rated = version.prices[INTENT_CALLS].rate(sum(one.units for one in receipts))
    assert sum(Fraction(one.amount_nanos) for one in receipts) == rated
    assert receipts[1].units == 0


@pytest.mark.parametrize("measure", [MONEY, INTENT_CALLS])
@pytest.mark.parametrize("whose", ["tenant", "key"])
async def test_what_is_taken_back_makes_room_under_the_cap(
    database_url: str, pool: Pool, measure: str, whose: str
) -> None:
    tenant_id = await add_account(pool)
    calls = [charge(tenant_id) for _ in range(4)]
    at_most = 2 * 400_000 if measure == MONEY else 2
    await set_caps(pool, tenant_id, {measure: at_most}, calls[0].key_id if whose == "key" else None)
    async with open_ledger(database_url) as ledger:
        await ledger.charge(calls[0])
        await ledger.charge(calls[1])
        with pytest.raises(CapReachedError):
            await ledger.charge(calls[2])
        await ledger.void(calls[0])
        await ledger.charge(calls[2])
        with pytest.raises(CapReachedError):
            await ledger.charge(calls[3])
    assert audit(database_url) == (2, 2)
    assert (await reconcile(pool)).difference == 0


@pytest.mark.parametrize("closed", [(NOVEMBER,), (NOVEMBER, DECEMBER)])
async def test_a_void_into_a_closed_month_counts_in_the_open_one_and_is_late(
    database_url: str, pool: Pool, closed: tuple[str, ...]
) -> None:
    """Also where the open month has to be made first."""
    first, second = await add_account(pool), await add_account(pool)
    own, kept, dead = (charge(first, units=10), charge(first, units=40), charge(second, units=20))
    async with open_ledger(database_url) as ledger, open_ledger(database_url) as doomed:
        await ledger.charge(own)
        await ledger.charge(kept)
        await doomed.charge(dead)
        for tenant_id in (first, second):
            close_month(database_url, tenant_id, *closed)
        await ledger.void(own)
        await kill(doomed, database_url)
        async with await connect(database_url, "test") as connection:
            voided = [await void_if_dead(connection, doomed.session_id, 0.0) for _ in range(3)]
        assert sum(voided) == 1
        ledger.answered(kept.call_id)
        await until(lambda: in_flight(database_url) == [])
    into = DECEMBER if closed == (NOVEMBER,) else datetime.now(UTC).strftime("%Y-%m")
    for one in (own, dead):
        assert months(database_url, one) == [(NOVEMBER, False), (into, True)]
    assert audit(database_url) == (1, 40)


async def test_a_charge_for_a_closed_month_counts_in_the_next_open_one_and_is_late(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    early, late, again = charge(tenant_id), charge(tenant_id), charge(tenant_id)
    async with open_ledger(database_url) as ledger:
        await ledger.charge(early)
        close_month(database_url, tenant_id, NOVEMBER)
        assert (await ledger.charge(late)).period == DECEMBER
        assert (await ledger.charge(early)).period == NOVEMBER
        close_month(database_url, tenant_id, DECEMBER)
        assert (await ledger.charge(again)).period == datetime.now(UTC).strftime("%Y-%m")
        assert (await ledger.charge(late)).is_repeat
    assert [months(database_url, one)[0][1] for one in (early, late, again)] == [False, True, True]
    assert audit(database_url) == (3, 3)


async def test_a_late_charge_of_a_capped_key_counts_in_a_month_that_is_neither_its_own_nor_the_present(
    database_url: str, pool: Pool
) -> None:
    """The key's counters of that month are made for it: the cap was set when it was over."""
    tenant_id = await add_account(pool)
    late, beyond = charge(tenant_id), charge(tenant_id)
    await set_caps(pool, tenant_id, {INTENT_CALLS: 1}, late.key_id)
    async with open_ledger(database_url) as ledger:
        close_month(database_url, tenant_id, NOVEMBER)
        assert (await ledger.charge(late)).period == DECEMBER
        with pytest.raises(CapReachedError):
            await ledger.charge(beyond)
    assert months(database_url, late) == [(DECEMBER, True)]
    assert (await reconcile(pool)).difference == 0


async def test_a_repeat_takes_a_dead_workers_call_over(database_url: str, pool: Pool) -> None:
    one = charge(await add_account(pool))
    async with open_ledger(database_url) as doomed, open_ledger(database_url) as second:
        await doomed.charge(one)
        await kill(doomed, database_url)
        assert (await second.charge(one, is_known=True)).is_repeat
        assert await void_dead(database_url, doomed.session_id) == 0
        second.answered(one.call_id)
    assert entries(database_url, one) == [(0, 1, 1)]


async def test_a_live_worker_cannot_take_back_what_another_one_took_over(
    database_url: str, pool: Pool
) -> None:
    """Its own record goes on to name the call: with its next batch, and when it connects again."""
    tenant_id = await add_account(pool)
    one = charge(tenant_id)
    async with open_ledger(database_url) as first, open_ledger(database_url) as second:
        await first.charge(one)
        await second.charge(one, is_known=True)
        second.answered(one.call_id)
        await first.charge(charge(tenant_id))
        end_session(database_url, first.session_id)
        await first.charge(charge(tenant_id))
        assert one.call_id in in_flight(database_url)
        await first.void(one)
        await kill(first, database_url)
        assert await void_dead(database_url, first.session_id) == 2
    assert entries(database_url, one) == [(0, 1, 1)]
    assert audit(database_url) == (1, 1)


async def test_a_call_that_was_taken_over_is_taken_back_when_the_second_worker_dies_too(
    database_url: str, pool: Pool
) -> None:
    one = charge(await add_account(pool))
    async with open_ledger(database_url) as first, open_ledger(database_url) as second:
        await first.charge(one)
        await kill(first, database_url)
        await second.charge(one, is_known=True)
        await kill(second, database_url)
        assert await void_dead(database_url, first.session_id) == 0
        assert await void_dead(database_url, second.session_id) == 1
    assert entries(database_url, one) == [(0, 1, 1), (1, -1, -1)]


async def test_a_repeat_of_an_answered_call_cannot_undo_its_charge(database_url: str, pool: Pool) -> None:
    """It stands when the repeat's caller leaves, when its answer breaks off, and when its worker dies."""
    tenant_id = await add_account(pool)
    one = charge(tenant_id)
    async with open_ledger(database_url, lock_timeout_ms=5000) as first, open_ledger(database_url) as second:
        await first.charge(one)
        first.answered(one.call_id)
        await until(lambda: in_flight(database_url) == [])
        for ledger in (first, second):
            await ledger.charge(one, is_known=True)
            await ledger.void(one)
            await until(lambda: in_flight(database_url) == [])
        with psycopg.connect(database_url) as holder:
            lock_tenant(holder, tenant_id)
            leaving = asyncio.create_task(first.charge(one, is_known=True))
            await waiting_in_the_database(database_url)
            leaving.cancel()
            await asyncio.wait([leaving])
        await until(lambda: first.depth() == 0 and in_flight(database_url) == [])
    assert entries(database_url, one) == [(0, 1, 1)]


async def test_a_call_is_charged_again_after_its_void_and_can_be_taken_back_again(
    database_url: str, pool: Pool
) -> None:
    one = charge(await add_account(pool), ASR_AUDIO_MS, 7)
    async with open_ledger(database_url) as ledger:
        for _ in range(3):
            assert not (await ledger.charge(one)).is_repeat
            await ledger.void(one)
        await ledger.charge(one)
        ledger.answered(one.call_id)
    assert [entry for entry, _, _ in entries(database_url, one)] == list(range(7))
    assert audit(database_url) == (1, 7)


async def test_the_slice_that_was_not_answered_is_taken_back_and_the_ones_before_stay(
    database_url: str, pool: Pool
) -> None:
    one = charge(await add_account(pool), ASR_AUDIO_MS, 500)
    async with open_ledger(database_url) as doomed:
        for number in range(3):
            await doomed.charge(msgspec.structs.replace(one, slice=number))
        await kill(doomed, database_url)
        assert await void_dead(database_url, doomed.session_id) == 1
    assert entries(database_url, one) == [(0, 1, 500), (0, 0, 500), (0, 0, 500), (1, 0, -500)]
    assert audit(database_url) == (1, 1000)


async def test_a_new_connection_waits_for_the_end_of_the_one_before(database_url: str, pool: Pool) -> None:
    """The old backend holds the session's lock while it may still commit: nothing is sent over a new one."""
    locked, other = await add_account(pool), await add_account(pool)
    one, mate = charge(locked), charge(other, at=NOON)
    async with open_ledger(database_url, lock_timeout_ms=100) as ledger:
        with psycopg.connect(database_url) as holder:
            lock_tenant(holder, locked)
            await be_patient(ledger)
            leaving = asyncio.create_task(ledger.charge(one))
            await waiting_in_the_database(database_url)
            cut_off(ledger)
            leaving.cancel()
            staying = asyncio.create_task(ledger.charge(mate))
            done, _ = await asyncio.wait([staying], timeout=0.8)
            assert not done
            assert entries(database_url, mate) == []
        await staying
        await until(lambda: entries(database_url, one) == [(0, 1, 1), (1, -1, -1)])
    assert audit(database_url) == (1, 1)
