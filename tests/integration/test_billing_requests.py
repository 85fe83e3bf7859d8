"""One logical request is one call id, however often, wherever and how soon again it is sent."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql

from billing.charges import Charge, KeptAnswer
from billing.ledger import Ledger
from billing.requests import (
    KEPT_S,
    MAX_KEPT_BYTES,
    RETRIES_KEPT_S,
    Claimed,
    IdempotencyKeyReusedError,
    IdempotentRequests,
    Identity,
    RequestInProgressError,
    forget_expired,
)
from gateway.limits import Limits
from gateway.metered import Metered, Rendered, Served, Work
from gateway.repeats import Repeatable
from infra.database import Pool, open_pool
from infra.errors import UnavailableError
from infra.ids import uuid7
from infra.telemetry import Telemetry
from tenants.records import KeyRecord
from tests.billing_sessions import end_session, in_flight, kill, query
from tests.billing_world import add_account, audit, charge, open_ledger, until


def identity(name: str, asks: str = "one thing", kept_s: float = KEPT_S) -> Identity:
    return Identity(_digest(name), _digest(asks), kept_s)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@asynccontextmanager
async def open_worker(database_url: str, pool: Pool) -> AsyncIterator[tuple[Ledger, IdempotentRequests]]:
    """What one gateway worker holds."""
    async with open_ledger(database_url) as ledger:
        requests = IdempotentRequests(pool, ledger.session_id)
        requests.start()
        try:
            yield ledger, requests
        finally:
            await requests.close()


@pytest.fixture
async def worker(database_url: str, pool: Pool) -> AsyncIterator[tuple[Ledger, IdempotentRequests]]:
    async with open_worker(database_url, pool) as opened:
        yield opened


async def claim(
    requests: IdempotentRequests, known: Identity, lease_s: float = 30.0, wait_s: float = 0.0
) -> Claimed:
    return await requests.claim(known, lease_s=lease_s, wait_s=wait_s)


def charge_of(claimed: Claimed, tenant_id: str) -> Charge:
    """The charge of a claimed request."""
    made = charge(tenant_id, at=claimed.occurred_at)
    return Charge(
        **{name: getattr(made, name) for name in made.__struct_fields__ if name != "call_id"},
        call_id=claimed.call_id,
    )


def holder(database_url: str, known: Identity) -> list[Any]:
    return query(
        database_url, "SELECT holder, call_id FROM billing.idempotent_request WHERE claim = %s", known.claim
    )


async def test_a_new_request_is_run_and_a_repeat_waits_then_hears_that_it_runs(
    worker: tuple[Ledger, IdempotentRequests],
) -> None:
    _, requests = worker
    first = await claim(requests, identity("a"))
    assert (first.is_known, first.charged, first.kept) == (False, None, None)
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(RequestInProgressError) as refused:
        await claim(requests, identity("a"), wait_s=0.4)
    assert 0.1 < asyncio.get_running_loop().time() - began_s < 2
    assert refused.value.retry_after_s >= 1
    assert (await claim(requests, identity("b"))).call_id != first.call_id


async def test_a_repeat_that_waits_gets_the_answer_when_it_is_charged(
    worker: tuple[Ledger, IdempotentRequests], pool: Pool, database_url: str
) -> None:
    ledger, requests = worker
    tenant_id = await add_account(pool)
    first = await claim(requests, identity("a"))
    repeat = asyncio.create_task(claim(requests, identity("a"), wait_s=5.0))
    await asyncio.sleep(0)
    one = charge_of(first, tenant_id)
    await ledger.charge(one, KeptAnswer(identity("a").claim, "text/plain", b"the answer \x00\xff"))
    again = await repeat
    assert (again.call_id, again.occurred_at, again.is_known) == (first.call_id, first.occurred_at, True)
    assert again.kept == KeptAnswer(identity("a").claim, "text/plain", b"the answer \x00\xff")
    assert again.charged is not None
    assert (again.charged.key_id, again.charged.units) == (one.key_id, one.units)
    assert (again.charged.model, again.charged.engine) == (one.model, one.engine)
    assert (await ledger.charge(charge_of(again, tenant_id), again.kept, is_known=True)).is_repeat
    assert audit(database_url) == (1, 1)


async def test_another_request_under_the_same_claim_is_refused_whatever_became_of_the_first(
    worker: tuple[Ledger, IdempotentRequests], pool: Pool
) -> None:
    ledger, requests = worker
    first = await claim(requests, identity("a"))
    with pytest.raises(IdempotencyKeyReusedError):
        await claim(requests, identity("a", "another thing"))
    await ledger.charge(charge_of(first, await add_account(pool)))
    with pytest.raises(IdempotencyKeyReusedError):
        await claim(requests, identity("a", "another thing"))


async def test_a_lease_ends(worker: tuple[Ledger, IdempotentRequests]) -> None:
    _, requests = worker
    first = await claim(requests, identity("a"), lease_s=0.2)
    again = await claim(requests, identity("a"), wait_s=3.0)
    assert (again.call_id, again.is_known) == (first.call_id, True)


async def test_a_request_whose_holder_died_is_run_at_once_under_its_call_id_by_one(
    database_url: str, pool: Pool
) -> None:
    async with (
        open_worker(database_url, pool) as (doomed, requests),
        open_worker(database_url, pool) as (_, second),
        open_worker(database_url, pool) as (_, third),
    ):
        first = await claim(requests, identity("a"), lease_s=600.0)
        with pytest.raises(RequestInProgressError):
            await claim(second, identity("a"))
        await kill(doomed, database_url)
        repeats = await asyncio.gather(
            *(claim(one, identity("a")) for one in (second, third) for _ in range(4)), return_exceptions=True
        )
    (run,) = [one for one in repeats if isinstance(one, Claimed)]
    assert (run.call_id, run.is_known) == (first.call_id, True)
    assert sum(isinstance(one, RequestInProgressError) for one in repeats) == 7


async def test_of_many_at_once_on_two_workers_exactly_one_runs_and_all_have_its_answer(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    ran = 0

    async def send(ledger: Ledger, requests: IdempotentRequests) -> bytes:
        nonlocal ran
        claimed = await claim(requests, identity("a"), wait_s=5.0)
        keep = claimed.kept
        if keep is None:
            ran += 1
            await asyncio.sleep(0.1)
            keep = KeptAnswer(identity("a").claim, "text/plain", b"run %d" % ran)
        await ledger.charge(charge_of(claimed, tenant_id), keep, is_known=claimed.is_known)
        ledger.answered(claimed.call_id)
        return keep.body

    async with open_worker(database_url, pool) as first, open_worker(database_url, pool) as second:
        answers = await asyncio.gather(*(send(*(first, second)[n % 2]) for n in range(12)))
    assert (ran, set(answers)) == (1, {b"run 1"})
    assert audit(database_url) == (1, 1)


async def test_a_request_that_failed_is_run_by_its_repeat_which_is_charged_once(
    worker: tuple[Ledger, IdempotentRequests], pool: Pool, database_url: str
) -> None:
    ledger, requests = worker
    first = await claim(requests, identity("a"), lease_s=600.0)
    requests.release(identity("a"), first.call_id)
    again = await claim(requests, identity("a"), wait_s=2.0)
    assert (again.call_id, again.charged) == (first.call_id, None)
    assert not (await ledger.charge(charge_of(again, await add_account(pool)), is_known=True)).is_repeat
    assert audit(database_url) == (1, 1)


async def test_a_release_frees_only_the_run_that_it_belongs_to(
    worker: tuple[Ledger, IdempotentRequests], database_url: str
) -> None:
    _, requests = worker
    await claim(requests, identity("a"), lease_s=600.0)
    requests.release(identity("a"), uuid7())
    await until(lambda: not requests._released)
    with pytest.raises(RequestInProgressError):
        await claim(requests, identity("a"))


async def test_a_call_that_was_taken_back_is_charged_again_when_its_request_is_repeated(
    worker: tuple[Ledger, IdempotentRequests], pool: Pool, database_url: str
) -> None:
    ledger, requests = worker
    tenant_id = await add_account(pool)
    first = await claim(requests, identity("a"))
    kept = KeptAnswer(identity("a").claim, "text/plain", b"answer")
    await ledger.charge(charge_of(first, tenant_id), kept)
    await ledger.void(charge_of(first, tenant_id))
    assert audit(database_url) == (0, 0)
    again = await claim(requests, identity("a"))
    assert again.kept == kept
    assert not (await ledger.charge(charge_of(again, tenant_id), again.kept, is_known=True)).is_repeat
    ledger.answered(again.call_id)
    assert audit(database_url) == (1, 1)


async def test_a_refused_charge_keeps_no_answer(
    worker: tuple[Ledger, IdempotentRequests], pool: Pool, database_url: str
) -> None:
    ledger, requests = worker
    first = await claim(requests, identity("a"))
    one = charge_of(first, "ten_unknown")
    with pytest.raises(Exception, match="no billing account"):
        await ledger.charge(one, KeptAnswer(identity("a").claim, "text/plain", b"secret"))
    assert query(database_url, "SELECT body FROM billing.idempotent_request") == [(None,)]
    assert in_flight(database_url) == [first.call_id], "until the record follows"
    await until(lambda: in_flight(database_url) == [])


async def test_what_expired_is_a_new_request_and_is_forgotten(
    worker: tuple[Ledger, IdempotentRequests], pool: Pool, database_url: str
) -> None:
    _, requests = worker
    first = await claim(requests, identity("a", kept_s=0.05))
    await claim(requests, identity("b"))
    await until(
        lambda: (
            query(database_url, "SELECT count(*) FROM billing.idempotent_request WHERE expires_at <= now()")[
                0
            ][0]
            == 1
        )
    )
    again = await claim(requests, identity("a", "another thing", kept_s=0.01))
    assert (again.is_known, again.call_id != first.call_id) == (False, True)
    await claim(requests, identity("c", kept_s=0.0))
    await until(
        lambda: (
            query(database_url, "SELECT count(*) FROM billing.idempotent_request WHERE expires_at <= now()")[
                0
            ][0]
            == 2
        )
    )
    assert await forget_expired(pool) == 2
    assert [row[1] for row in holder(database_url, identity("b"))] != []


async def test_a_client_that_tries_again_by_itself_is_known_by_what_it_noted(
    database_url: str, pool: Pool
) -> None:
    """Noted without waiting; of equal requests the latest is remembered."""
    tenant_id = await add_account(pool)
    async with (
        open_worker(database_url, pool) as (ledger, requests),
        open_worker(database_url, pool) as (_, second),
    ):
        known = identity("body", kept_s=RETRIES_KEPT_S)
        calls = [charge(tenant_id, at=datetime.now(UTC)) for _ in range(2)]
        for one in calls:
            requests.note(known, one.call_id, one.occurred_at, 30.0)
            await until(lambda one=one: holder(database_url, known)[:1] == [(ledger.session_id, one.call_id)])
        with pytest.raises(RequestInProgressError):
            await claim(second, known)
        await ledger.charge(calls[1])
        again = await claim(second, known)
        assert (again.call_id, again.is_known, again.kept) == (calls[1].call_id, True, None)
        assert again.charged is not None


async def test_a_noted_request_that_failed_is_run_by_the_retry(database_url: str, pool: Pool) -> None:
    async with (
        open_worker(database_url, pool) as (_, requests),
        open_worker(database_url, pool) as (_, second),
    ):
        call_id = uuid7()
        requests.note(identity("body"), call_id, datetime.now(UTC), 600.0)
        requests.release(identity("body"), call_id)
        await until(lambda: holder(database_url, identity("body")) == [(None, call_id)])
        assert (await claim(second, identity("body"))).call_id == call_id


async def test_workers_that_note_and_release_the_same_requests_do_not_deadlock(
    database_url: str, pool: Pool
) -> None:
    known = [identity(f"body {number}") for number in range(400)]
    async with (
        open_worker(database_url, pool) as (_, first),
        open_worker(database_url, pool) as (_, second),
    ):
        for _ in range(8):
            for one in known:
                for requests in (first, second):
                    call_id = uuid7()
                    requests.note(one, call_id, datetime.now(UTC), 30.0)
                    requests.release(one, call_id)
            await until(lambda: not (first._noted or first._released or second._noted or second._released))
    deadlocks = query(
        database_url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    assert deadlocks == [(0,)]


@pytest.mark.parametrize("size", [MAX_KEPT_BYTES, MAX_KEPT_BYTES + 1])
async def test_an_answer_is_kept_up_to_a_size_and_made_again_beyond_it(
    worker: tuple[Ledger, IdempotentRequests], pool: Pool, database_url: str, size: int
) -> None:
    ledger, requests = worker
    caller = KeyRecord("key_1", await add_account(pool), frozenset({"intent"}), (), None, None)
    limits = Limits(requests_per_minute=1000, max_concurrent_calls=9, workers=1)
    metered = Metered(ledger, requests, limits, Telemetry.from_environ("test", {}))
    body, served = secrets.token_bytes(size), 0

    async def serve() -> Served[bytes]:
        nonlocal served
        served += 1
        return Served(body, 3, "engine", "model")

    work = Work(
        caller=caller,
        product="intent",
        trace={},
        timeout_s=5.0,
        repeatable=Repeatable(identity("a"), "key"),
        units_ahead=3,
        serve=serve,
    )
    for _ in range(3):
        answer = await metered.run(work, lambda made, _: Rendered(made.value, "text/plain"))
        assert answer.body == body
        ledger.answered(answer.charge.call_id)
    assert served == (1 if size <= MAX_KEPT_BYTES else 3)
    assert audit(database_url) == (1, 3)


async def test_a_claim_whose_answer_was_lost_does_not_lock_its_caller_out(database_url: str) -> None:
    """The connection breaks when the claim is committed: the next try runs it, not the end of the lease."""
    own = await open_pool(database_url, max_size=1, application_name="aiaas-claims")
    async with open_worker(database_url, own) as (_, requests):
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute(
                """
                CREATE FUNCTION public.hang_up() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END $$;
                CREATE TRIGGER slow AFTER INSERT ON billing.idempotent_request
                FOR EACH ROW EXECUTE FUNCTION public.hang_up();
                """
            )
            admin.execute("SELECT pg_advisory_lock(4711)")
            with pytest.raises(UnavailableError):
                await claim(requests, identity("a"), lease_s=600.0)
            admin.execute("SELECT pg_advisory_unlock(4711)")
            await until(lambda: holder(database_url, identity("a")) != [], timeout_s=8)
            assert not (await claim(requests, identity("a"), wait_s=3.0)).charged
    await own.close()


async def test_while_postgresql_is_away_a_claim_is_refused_and_notes_are_written_when_it_is_back(
    database_url: str, pool: Pool
) -> None:
    name = database_url.rsplit("/", 1)[1]
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    own = await open_pool(database_url, max_size=2, application_name="aiaas-claims")
    async with open_worker(database_url, own) as (ledger, requests):
        await pool.close()
        with psycopg.connect(database_url.rsplit("/", 1)[0] + "/postgres", autocommit=True) as admin:
            admin.execute(allow.format(sql.Identifier(name), False))
            admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name]
            )
            call_id = uuid7()
            requests.note(identity("body"), call_id, datetime.now(UTC), 30.0)
            began_s = asyncio.get_running_loop().time()
            with pytest.raises(UnavailableError):
                await claim(requests, identity("a"))
            assert asyncio.get_running_loop().time() - began_s < 6
            assert requests._noted
            admin.execute(allow.format(sql.Identifier(name), True))
        await until(lambda: holder(database_url, identity("body")) == [(ledger.session_id, call_id)], 15)
        assert (await claim(requests, identity("a"), wait_s=2.0)).charged is None
    await own.close()


async def test_a_holder_that_only_lost_its_connection_has_its_call_charged_once(
    database_url: str, pool: Pool
) -> None:
    """While its lock is free another worker may run the request too: under the same call id."""
    tenant_id = await add_account(pool)
    async with (
        open_worker(database_url, pool) as (ledger, requests),
        open_worker(database_url, pool) as (other, second),
    ):
        first = await claim(requests, identity("a"))
        end_session(database_url, ledger.session_id)
        again = await claim(second, identity("a"), wait_s=2.0)
        assert again.call_id == first.call_id
        charged = await asyncio.gather(
            ledger.charge(charge_of(first, tenant_id)),
            other.charge(charge_of(again, tenant_id), is_known=True),
        )
        assert sorted(one.is_repeat for one in charged) == [False, True]
        ledger.answered(first.call_id)
        other.answered(first.call_id)
    assert audit(database_url) == (1, 1)
