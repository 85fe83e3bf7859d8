"""The heart: a call is charged before it is answered, and a call that fails is not charged."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import pytest

from billing.ledger import Ledger
from billing.requests import IdempotentRequests
from billing.usage import usage_of_all
from gateway.answer import Answer, Piece, StreamKind
from gateway.customers import create_customer
from gateway.limits import ConcurrencyLimitError, Limits
from gateway.metered import Metered, Rendered, Served, Work
from infra.database import Pool
from infra.errors import DomainError, UnavailableError
from infra.telemetry import Telemetry
from tenants.records import KeyRecord, Product

T = TypeVar("T")

LIMITS = {"requests_per_minute": 1000, "max_concurrent_calls": 1, "workers": 1}


class EngineFailedError(DomainError):
    code = "engine_unavailable"


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    opened = Ledger(database_url, Telemetry.from_environ("test", {}), charge_timeout_s=1.0)
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
async def caller(pool: Pool) -> KeyRecord:
    tenant = await create_customer(pool, "Test")
    return KeyRecord("key_1", tenant.tenant_id, frozenset({"asr", "intent", "tts"}), (), None, None)


@pytest.fixture
async def metered(ledger: Ledger, pool: Pool) -> AsyncIterator[Metered]:
    requests = IdempotentRequests(pool, ledger.session_id)
    requests.start()
    yield Metered(ledger, requests, Limits(**LIMITS), Telemetry.from_environ("test", {}))
    await requests.close()


def work(caller: KeyRecord, product: Product, serve: Callable[[], Awaitable[Served[T]]]) -> Work[T]:
    return Work(
        caller=caller, product=product, trace={}, timeout_s=5.0, repeatable=None, units_ahead=1, serve=serve
    )


def as_text(served: Served[str], _: UUID) -> Rendered:
    return Rendered(served.value.encode(), "text/plain")


async def send_out(answer: Answer) -> tuple[dict[str, str], bytes]:
    """Let an answer leave; its headers and its body."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    await answer({}, receive, send)  # type: ignore[arg-type]
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return headers, b"".join(message["body"] for message in sent[1:])


async def calls_charged(pool: Pool) -> int:
    used = await usage_of_all(pool, datetime.now(UTC).strftime("%Y-%m"))
    return sum(meter.calls for meter in used.meters.values())


def rows(database_url: str, call_id: UUID) -> int:
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM billing.usage_row WHERE call_id = %s", [call_id]
        ).fetchone()
    assert found
    return int(found[0])


async def test_an_answer_has_its_row_by_the_time_it_is_given(
    metered: Metered, caller: KeyRecord, database_url: str
) -> None:
    async def serve() -> Served[str]:
        return Served("answer", 7, "engine", "model")

    answer = await metered.run(work(caller, "intent", serve), as_text)
    assert rows(database_url, answer.charge.call_id) == 1
    headers, body = await send_out(answer)
    assert body == b"answer"
    assert headers["x-aiaas-units"] == "7"


async def test_a_failed_call_is_not_charged_and_frees_its_place(
    metered: Metered, caller: KeyRecord, pool: Pool
) -> None:
    async def fail() -> Served[str]:
        raise EngineFailedError("The engine is away.")

    for _ in range(3):
        with pytest.raises(EngineFailedError):
            await metered.run(work(caller, "asr", fail), as_text)
    assert await calls_charged(pool) == 0


async def test_no_answer_is_given_when_the_charge_cannot_be_made(
    metered: Metered, ledger: Ledger, caller: KeyRecord, pool: Pool
) -> None:
    async def serve() -> Served[str]:
        await ledger.close()
        return Served("answer", 1, "engine", "model")

    with pytest.raises(UnavailableError):
        await metered.run(work(caller, "intent", serve), as_text)
    assert await calls_charged(pool) == 0


async def test_a_stream_is_charged_before_its_first_byte_and_holds_its_place_to_its_end(
    metered: Metered, caller: KeyRecord, database_url: str
) -> None:
    async def sound() -> AsyncGenerator[Piece, None]:
        yield Piece(b"one", 1)
        yield Piece(b"two", 3)

    async def serve() -> Served[AsyncGenerator[Piece, None]]:
        return Served(sound(), 3, "engine", "model")

    answer = await metered.run_stream(work(caller, "tts", serve), StreamKind("audio/wav"))
    assert rows(database_url, answer.charge.call_id) == 1
    with pytest.raises(ConcurrencyLimitError):
        await metered.run_stream(work(caller, "tts", serve), StreamKind("audio/wav"))
    assert (await send_out(answer))[1] == b"onetwo"
    await metered.run_stream(work(caller, "tts", serve), StreamKind("audio/wav"))


async def test_a_stream_that_fails_before_its_first_byte_is_not_charged(
    metered: Metered, caller: KeyRecord, pool: Pool
) -> None:
    async def broken() -> AsyncGenerator[Piece, None]:
        raise EngineFailedError("The engine is away.")
        yield Piece(b"", 0)

    async def serve() -> Served[AsyncGenerator[Piece, None]]:
        return Served(broken(), 3, "engine", "model")

    for _ in range(3):
        with pytest.raises(EngineFailedError):
            await metered.run_stream(work(caller, "tts", serve), StreamKind("audio/wav"))
    assert await calls_charged(pool) == 0


async def test_a_customer_is_made_whole_or_not_at_all(pool: Pool) -> None:
    with pytest.raises(DomainError):
        await create_customer(pool, "Half", time_zone="Moon/Base")
    async with pool.connection() as connection:
        found = await (await connection.execute("SELECT count(*) FROM tenants.tenant")).fetchone()
    assert found == (0,)
