"""Promise 9 over many workers: one exact limit in a shared store, which no call waits for once it is away."""

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from gateway import shared_store
from gateway.limits import Limits
from gateway.redis_storage import SOCKET_TIMEOUT_S, STORAGE_OPTIONS
from infra.errors import StartupError
from infra.settings import Secret
from infra.telemetry import Telemetry
from tests.callers import caller
from tests.redis_server import PASSWORD, RedisServer

PATIENCE_S = 0.2  # for the event loop and the threads of a busy machine


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts that a busy machine does not reach, where the store is there throughout."""
    for name in ("socket_timeout", "socket_connect_timeout"):
        monkeypatch.setitem(STORAGE_OPTIONS, name, 10.0)
    monkeypatch.setattr(shared_store, "_CHECK_TIMEOUT_S", 10.0)


@asynccontextmanager
async def open_limits(
    uri: Secret, per_minute: int = 100, workers: int = 2, seen: "Counter[str] | None" = None
) -> AsyncIterator[Limits]:
    reasons: Counter[str] = Counter() if seen is None else seen
    limits = Limits(per_minute, 10, workers, uri, lambda reason: reasons.update([reason]))
    yield limits
    limits.close()


async def allowed_of(limits: Limits, requests: int, tenant_id: str = "tenant") -> int:
    windows = [await limits.count_request(caller(tenant_id, "key")) for _ in range(requests)]
    return sum(window.remaining is not None for window in windows)


def connections_to(listener: socket.socket) -> int:
    listener.setblocking(False)
    taken: list[socket.socket] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            taken.append(listener.accept()[0])
    for connection in taken:
        connection.close()
    return len(taken)


async def until(holds: Callable[[], bool], limits: Limits) -> None:
    """Keep counting requests, as callers do, until it holds."""
    async with asyncio.timeout(10):
        while not holds():
            await limits.count_request(caller("someone", "else"))
            await asyncio.sleep(0.01)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "aiaas.gateway"]


@pytest.mark.usefixtures("unhurried")
async def test_workers_that_share_a_store_hold_one_exact_limit(store: RedisServer) -> None:
    seen: Counter[str] = Counter()
    async with open_limits(store.uri, seen=seen) as one, open_limits(store.uri, seen=seen) as other:
        allowed = await asyncio.gather(
            *(allowed_of(limits, 20) for limits in (one, other) for _ in range(4)),
        )
        assert sum(allowed) == 100
        refused = await one.count_request(caller("tenant", "another key"))
        assert refused.remaining is None
        assert 30 < refused.reset_s <= 60
        assert refused.reset_s != int(refused.reset_s), "whole seconds: a caller may come too early"
        assert (await other.count_request(caller("other tenant", "other key"))).remaining == 99
    assert not seen, "memory counted although the store was there"


@pytest.mark.usefixtures("unhurried")
async def test_a_key_has_one_limit_over_all_workers(store: RedisServer) -> None:
    async with open_limits(store.uri, per_minute=10) as one, open_limits(store.uri, per_minute=10) as other:
        windows = [
            await limits.count_request(caller(f"tenant {n}", "key"))
            for n in range(6)
            for limits in (one, other)
        ]
    assert [window.remaining for window in windows] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, None, None]


async def test_a_killed_store_is_noticed_by_nobody_and_used_again_once_it_is_back(
    store: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiaas")
    seen: Counter[str] = Counter()
    async with open_limits(store.uri, seen=seen) as limits:
        assert (await limits.count_request(caller("tenant", "key"))).limit == 100
        store.kill()
        started = time.perf_counter()
        window = await limits.count_request(caller("tenant", "key"))
        assert time.perf_counter() - started < SOCKET_TIMEOUT_S + PATIENCE_S
        assert (window.limit, window.remaining) == (50, 49)  # this worker's half, counted from nothing
        assert await allowed_of(limits, 60) == 49
        assert seen == {"away": 61}
        assert events(caplog) == ["limits_store_lost"]

        store.start()
        await until(lambda: "limits_store_back" in events(caplog), limits)
        counted_by_memory = seen["away"]
        assert (await limits.count_request(caller("tenant", "key"))).limit == 100
        assert seen == {"away": counted_by_memory}
        assert events(caplog) == ["limits_store_lost", "limits_store_back"]
    assert PASSWORD not in caplog.text


@pytest.mark.usefixtures("unhurried")
async def test_a_store_restarted_between_two_requests_is_not_lost(store: RedisServer) -> None:
    seen: Counter[str] = Counter()
    async with open_limits(store.uri, seen=seen) as limits:
        await limits.count_request(caller("tenant", "key"))
        store.kill()
        store.start()
        assert (await limits.count_request(caller("tenant", "key"))).limit == 100
    assert not seen


async def test_a_store_that_never_answers_costs_one_timeout_and_not_one_a_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "aiaas")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with open_limits(Secret(f"redis://127.0.0.1:{silent.getsockname()[1]}")) as limits:
            started = time.perf_counter()
            await asyncio.gather(*(limits.count_request(caller("tenant", "key")) for _ in range(100)))
            assert SOCKET_TIMEOUT_S * 0.9 < time.perf_counter() - started < SOCKET_TIMEOUT_S + PATIENCE_S
            await allowed_of(limits, 100)
            assert 1 <= connections_to(silent) <= shared_store._THREADS, "checks in line asked it as well"
            assert events(caplog) == ["limits_store_lost"]


async def test_a_store_that_stops_answering_costs_one_timeout(store: RedisServer) -> None:
    async with open_limits(store.uri) as limits:
        await limits.count_request(caller("tenant", "key"))
        with store.frozen():
            started = time.perf_counter()
            await asyncio.gather(*(limits.count_request(caller("tenant", "key")) for _ in range(20)))
            assert time.perf_counter() - started < SOCKET_TIMEOUT_S + PATIENCE_S


async def test_a_store_that_answers_but_cannot_write_stays_lost(
    store: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiaas")
    async with open_limits(store.uri) as limits:
        store.command("REPLICAOF", "127.0.0.1", "1")  # a replica refuses writes, and answers pings
        await allowed_of(limits, 5)
        probes = store.refused_writes()
        await until(lambda: store.refused_writes() > probes, limits)
        assert events(caplog) == ["limits_store_lost"]


@pytest.mark.usefixtures("unhurried")
async def test_memory_decides_when_too_many_checks_wait_and_the_store_is_not_lost(
    store: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiaas")
    seen: Counter[str] = Counter()
    async with open_limits(store.uri, per_minute=1000, seen=seen) as limits:
        await asyncio.gather(*(limits.count_request(caller("tenant", "key")) for _ in range(200)))
        assert set(seen) == {"busy"}
        assert (await limits.count_request(caller("tenant", "key"))).limit == 1000
    assert not events(caplog)


async def test_the_event_loop_runs_on_while_the_store_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with open_limits(Secret(f"redis://127.0.0.1:{silent.getsockname()[1]}")) as limits:
            asked = asyncio.create_task(limits.count_request(caller("tenant", "key")))
            turns = 0
            while not asked.done():
                await asyncio.sleep(0.001)
                turns += 1
            assert turns > 10


async def test_a_metric_says_that_memory_counts() -> None:
    reader = InMemoryMetricReader()
    telemetry = Telemetry(None, MeterProvider([reader]).get_meter("test"), lambda: None)
    nobody = Secret("redis://127.0.0.1:1")
    limits = Limits(100, 10, 2, nobody, telemetry.count_limits_fallback)
    await allowed_of(limits, 3)
    limits.close()
    seen = reader.get_metrics_data()
    assert seen is not None
    (scope,) = seen.resource_metrics[0].scope_metrics
    (metric,) = [metric for metric in scope.metrics if metric.name == "aiaas.limits.fallback"]
    (point,) = metric.data.data_points
    assert (point.value, point.attributes) == (3, {"reason": "away"})  # type: ignore[union-attr]


async def test_a_wrong_password_is_a_lost_store_and_is_not_logged(
    store: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_limits(Secret(f"redis://:not-it@127.0.0.1:{store.port}")) as limits:
        assert (await limits.count_request(caller("tenant", "key"))).limit == 50
        assert events(caplog) == ["limits_store_lost"]
        assert "not-it" not in caplog.text + repr(limits) + repr(vars(limits))


@pytest.mark.usefixtures("unhurried")
async def test_valkey_is_asked_as_redis_is(store: RedisServer) -> None:
    async with open_limits(Secret(store.uri.reveal().replace("redis://", "valkey://"))) as limits:
        assert (await limits.count_request(caller("tenant", "key"))).limit == 100


@pytest.mark.parametrize(
    "uri", ["hunter2", "http://:hunter2@host", "memory://hunter2", "redis://:hunter2@host:hunter2/0"]
)
async def test_an_unusable_address_is_refused_at_the_start_without_being_quoted(uri: str) -> None:
    with pytest.raises(StartupError) as refused:
        Limits(100, 10, 2, Secret(uri))
    assert str(refused.value).startswith("LIMITS_STORAGE_URI is not usable: ")
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
