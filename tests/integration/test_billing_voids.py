"""A customer pays for answers: what was charged and not answered is taken back, once, and nothing else is."""

import asyncio
from fractions import Fraction

import msgspec
import psycopg
import pytest

from billing.caps import set_caps
from billing.charge_connection import ChargeConnection, Failure
from billing.charges import CapReachedError, LedgerUnavailableError
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS, MONEY
from billing.receipts import receipt
from billing.reconcile import reconcile
from billing.store.charges import entry_of
from billing.store.prices import read_price_versions
from infra.database import Pool
from tests.billing_sessions import (
    be_patient,
    cut_off,
    end_session,
    entries,
    in_flight,
    sessions,
    waiting_in_the_database,
)
from tests.billing_world import NOON, add_account, audit, charge, lock_tenant, open_ledger, until


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
