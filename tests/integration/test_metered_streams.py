"""A streamed answer is charged whole before its first byte; what it did not deliver is taken back."""

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import pytest

from billing.ledger import Ledger
from billing.requests import KEPT_S, IdempotentRequests, Identity
from gateway.answer import Answer, Piece, StreamedAnswer, StreamKind
from gateway.customers import create_customer
from gateway.errors import CallerLeftError
from gateway.limits import ConcurrencyLimitError, Limits
from gateway.metered import Metered, Rendered, Served, Work
from gateway.repeats import Repeatable
from infra.database import Pool
from infra.errors import DomainError
from infra.telemetry import Telemetry
from tenants.records import KeyRecord
from tests.billing_sessions import entries, in_flight
from tests.billing_world import audit, open_ledger, until

T = TypeVar("T")

SEND = Callable[[Any], Awaitable[None]]
WHOLE = [Piece(b"one", 4), Piece(b"two", 7), Piece(b"three", 10)]
SOUND = StreamKind("audio/wav")


class EngineFailedError(DomainError):
    code = "engine_unavailable"


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    async with open_ledger(database_url) as opened:
        yield opened


@pytest.fixture
async def metered(ledger: Ledger, pool: Pool) -> AsyncIterator[Metered]:
    """One call at a time: a place that is not freed is seen at the next call."""
    requests = IdempotentRequests(pool, ledger.session_id)
    requests.start()
    limits = Limits(requests_per_minute=1000, max_concurrent_calls=1, workers=1)
    yield Metered(ledger, requests, limits, Telemetry.from_environ("test", {}))
    await requests.close()


@pytest.fixture
async def caller(pool: Pool) -> KeyRecord:
    tenant = await create_customer(pool, "Test")
    return KeyRecord("key_1", tenant.tenant_id, frozenset({"asr", "intent", "tts"}), (), None, None)


async def sound(pieces: int, broken: bool, hold: asyncio.Event | None = None) -> AsyncGenerator[Piece, None]:
    """The first `pieces` of the whole, then its end or a failure; after the first it waits for `hold`."""
    for number, piece in enumerate(WHOLE[:pieces]):
        if number == 1 and hold is not None:
            await hold.wait()
        yield piece
    if broken:
        raise EngineFailedError("The engine is away.")


async def stream(
    metered: Metered,
    caller: KeyRecord,
    pieces: AsyncGenerator[Piece, None],
    repeatable: Repeatable | None = None,
    kind: StreamKind = SOUND,
) -> StreamedAnswer:
    async def serve() -> Served[AsyncGenerator[Piece, None]]:
        return Served(pieces, WHOLE[-1].units, "engine", "model")

    work = Work(
        caller=caller,
        product="tts",
        trace={},
        timeout_s=5.0,
        repeatable=repeatable,
        units_ahead=WHOLE[-1].units,
        serve=serve,
    )
    return await metered.run_stream(work, kind)


class Connection:
    """The server's side of one HTTP request: what was sent, and a caller who hangs up when told to."""

    def __init__(self) -> None:
        self.hung_up = asyncio.Event()
        self.sent: list[Any] = []

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def receive(self) -> Any:
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def carry(self, answer: Answer) -> None:
        await answer({}, self.receive, self.send)  # type: ignore[arg-type]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def is_free(metered: Metered, caller: KeyRecord) -> bool:
    """Whether the tenant's only place is free."""
    try:
        async with asyncio.timeout(2):
            await Connection().carry(await stream(metered, caller, sound(1, broken=False)))
    except ConcurrencyLimitError:
        return False
    return True


@pytest.mark.parametrize(("delivered", "stays"), [(1, 4), (2, 7)])
async def test_a_stream_that_breaks_is_taken_back_for_what_was_not_delivered(
    metered: Metered, caller: KeyRecord, database_url: str, delivered: int, stays: int
) -> None:
    answer = await stream(metered, caller, sound(delivered, broken=True))
    connection = Connection()
    with pytest.raises(EngineFailedError):
        await connection.carry(answer)
    assert connection.sent[-1]["more_body"], "the caller sees that it broke off"
    assert entries(database_url, answer.charge) == [(0, 1, 10), (1, 0, stays - 10)]
    await until(lambda: in_flight(database_url) == [])
    assert audit(database_url) == (1, stays)
    assert await is_free(metered, caller)


async def test_a_stream_that_breaks_when_all_was_delivered_ends_well_and_stays_charged(
    metered: Metered, caller: KeyRecord, database_url: str
) -> None:
    answer = await stream(metered, caller, sound(3, broken=True))
    connection = Connection()
    await connection.carry(answer)
    assert connection.body == b"onetwothree"
    assert not connection.sent[-1]["more_body"], "the caller has it whole, and sees that"
    assert entries(database_url, answer.charge) == [(0, 1, 10)]
    await until(lambda: in_flight(database_url) == [])
    assert await is_free(metered, caller)


@pytest.mark.parametrize("kind", ["key", "first"])
async def test_a_stream_that_can_be_asked_for_again_is_taken_back_whole_and_charged_again_once(
    metered: Metered, caller: KeyRecord, database_url: str, kind: str
) -> None:
    known = Repeatable(Identity(b"c" * 32, b"f" * 32, KEPT_S), kind)  # type: ignore[arg-type]
    retry = known if kind == "key" else Repeatable(known.identity, "retry")
    answer = await stream(metered, caller, sound(2, broken=True), known)
    with pytest.raises(EngineFailedError):
        await Connection().carry(answer)
    assert entries(database_url, answer.charge) == [(0, 1, 10), (1, -1, -10)]
    for _ in range(2):
        connection = Connection()
        again = await stream(metered, caller, sound(3, broken=False), retry)
        await connection.carry(again)
        assert (again.charge.call_id, connection.body) == (answer.charge.call_id, b"onetwothree")
    assert entries(database_url, answer.charge) == [(0, 1, 10), (1, -1, -10), (2, 1, 10)]
    await until(lambda: in_flight(database_url) == [])
    assert audit(database_url) == (1, 10)


async def test_a_broken_repeat_of_a_delivered_stream_leaves_its_charge(
    metered: Metered, caller: KeyRecord, database_url: str
) -> None:
    known = Repeatable(Identity(b"c" * 32, b"f" * 32, KEPT_S), "key")
    await Connection().carry(await stream(metered, caller, sound(3, broken=False), known))
    await until(lambda: in_flight(database_url) == [])
    with pytest.raises(EngineFailedError):
        await Connection().carry(await stream(metered, caller, sound(1, broken=True), known))
    assert audit(database_url) == (1, 10)
    assert await is_free(metered, caller)


async def test_a_run_that_fails_leaves_its_request_to_the_next_repeat(
    metered: Metered, caller: KeyRecord, database_url: str
) -> None:
    known = Repeatable(Identity(b"c" * 32, b"f" * 32, KEPT_S), "key")
    with pytest.raises(EngineFailedError):
        await stream(metered, caller, sound(0, broken=True), known)
    async with asyncio.timeout(2):
        answer = await stream(metered, caller, sound(3, broken=False), known)
    await Connection().carry(answer)
    assert audit(database_url) == (1, 10)


async def test_a_caller_that_hangs_up_in_the_middle_stays_charged(
    metered: Metered, caller: KeyRecord, database_url: str
) -> None:
    pieces = sound(3, broken=False, hold=asyncio.Event())
    answer, connection = await stream(metered, caller, pieces), Connection()
    carrying = asyncio.create_task(connection.carry(answer))
    await until(lambda: connection.body == b"one")
    assert not await is_free(metered, caller)
    connection.hung_up.set()
    async with asyncio.timeout(2):
        await carrying
    assert entries(database_url, answer.charge) == [(0, 1, 10)]
    with pytest.raises(StopAsyncIteration):
        await anext(pieces)
    await until(lambda: in_flight(database_url) == [])
    assert await is_free(metered, caller)


async def test_a_stream_that_is_cut_by_the_workers_end_is_left_to_whoever_finds_its_session(
    metered: Metered, caller: KeyRecord, database_url: str
) -> None:
    answer, connection = await stream(metered, caller, sound(3, False, asyncio.Event())), Connection()
    carrying = asyncio.create_task(connection.carry(answer))
    await until(lambda: connection.body == b"one")
    carrying.cancel()
    await asyncio.wait([carrying], timeout=2)
    assert carrying.cancelled()
    assert in_flight(database_url) == [answer.charge.call_id]
    assert await is_free(metered, caller)


async def test_an_answer_that_nobody_sends_frees_its_place(metered: Metered, caller: KeyRecord) -> None:
    answer = await stream(metered, caller, sound(1, broken=False))
    assert not await is_free(metered, caller)
    del answer
    gc.collect()
    assert await is_free(metered, caller)


async def test_an_answer_that_cannot_be_sent_is_taken_back(
    metered: Metered, caller: KeyRecord, database_url: str
) -> None:
    async def serve() -> Served[str]:
        return Served("answer", 3, "engine", "model")

    async def fail(message: Any) -> None:
        raise OSError("the connection is gone")

    work = Work(
        caller=caller,
        product="intent",
        trace={},
        timeout_s=5.0,
        repeatable=None,
        units_ahead=3,
        serve=serve,
    )
    answer = await metered.run(work, lambda served, _: Rendered(served.value.encode(), "text/plain"))
    assert in_flight(database_url) == [answer.charge.call_id]
    with pytest.raises(OSError, match="gone"):
        await answer({}, Connection().receive, fail)  # type: ignore[arg-type]
    assert entries(database_url, answer.charge) == [(0, 1, 3), (1, -1, -3)]
    assert audit(database_url) == (0, 0)


def told(error: DomainError) -> bytes:
    return f"error: {error.code}".encode()


@pytest.mark.parametrize(("delivered", "stays"), [(1, 4), (2, 7)])
async def test_a_reader_of_events_is_told_that_they_break_off_when_the_rest_is_taken_back(
    metered: Metered, caller: KeyRecord, database_url: str, delivered: int, stays: int
) -> None:
    kind = StreamKind("text/event-stream", ((b"x-kind", b"events"),), told)
    answer, connection = await stream(metered, caller, sound(delivered, broken=True), kind=kind), Connection()
    await connection.carry(answer)
    assert connection.body.endswith(b"error: engine_unavailable")
    assert not connection.sent[-1]["more_body"], "an end that was told of is an end like any other"
    assert (b"x-kind", b"events") in connection.sent[0]["headers"]
    assert entries(database_url, answer.charge) == [(0, 1, 10), (1, 0, stays - 10)]
    await until(lambda: in_flight(database_url) == [])
    assert audit(database_url) == (1, stays)


async def test_a_defect_is_told_without_its_words(metered: Metered, caller: KeyRecord) -> None:
    async def defect() -> AsyncGenerator[Piece, None]:
        yield WHOLE[0]
        raise ValueError("what a customer said")

    connection = Connection()
    await connection.carry(
        await stream(metered, caller, defect(), kind=StreamKind("text/event-stream", (), told))
    )
    assert connection.body == b"oneerror: internal_error"


class Leaving:
    """Work that is in hand when its caller hangs up, and knows how it ended."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.has_left = asyncio.Event()
        self.is_cancelled = False

    async def left(self) -> None:
        await self.has_left.wait()

    async def work_on(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise

    async def serve(self) -> Served[str]:
        await self.work_on()
        return Served("answer", 3, "engine", "model")

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        await self.work_on()
        yield WHOLE[0]

    async def serve_stream(self) -> Served[AsyncGenerator[Piece, None]]:
        return Served(self.pieces(), 10, "engine", "model")


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_caller_that_leaves_before_the_charge_ends_the_work_and_is_not_charged(
    metered: Metered, caller: KeyRecord, database_url: str, is_streamed: bool
) -> None:
    leaving = Leaving()

    def work(serve: Callable[[], Awaitable[Served[T]]]) -> Work[T]:
        return Work(
            caller=caller,
            product="asr",
            trace={},
            timeout_s=5.0,
            repeatable=None,
            units_ahead=1,
            serve=serve,
            left=leaving.left,
        )

    running = asyncio.ensure_future(
        metered.run_stream(work(leaving.serve_stream), SOUND)
        if is_streamed
        else metered.run(work(leaving.serve), lambda served, _: Rendered(b"", "text/plain"))
    )
    async with asyncio.timeout(5):
        await leaving.begun.wait()
        leaving.has_left.set()
        with pytest.raises(CallerLeftError):
            await running
    assert leaving.is_cancelled
    assert audit(database_url) == (0, 0)
    assert await is_free(metered, caller)


async def test_a_stream_whose_charge_is_refused_ends_its_work(
    metered: Metered, ledger: Ledger, caller: KeyRecord
) -> None:
    pieces = sound(3, broken=False, hold=asyncio.Event())
    await ledger.close()
    with pytest.raises(DomainError):
        await stream(metered, caller, pieces)
    async with asyncio.timeout(2):
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)
