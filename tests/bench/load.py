"""A load generator small enough not to be what is measured: keep-alive connections, fixed requests.

Bounded in time, to loopback only.
"""

import asyncio
import statistics
import time
from typing import cast

import msgspec


class Measured(msgspec.Struct, frozen=True):
    """One run of one mode: calls answered 200 a second, and latency in milliseconds."""

    calls_per_s: float
    median_ms: float
    p95_ms: float
    refused: int


class _Client(asyncio.Protocol):
    """Sends the request again as soon as it is answered. Answers are told apart by `content-length`."""

    def __init__(self, request: bytes, until_s: float, latencies_s: list[float], refused: list[int]) -> None:
        self._request = request
        self._until_s = until_s
        self._latencies_s = latencies_s
        self._refused = refused
        self._buffer = bytearray()
        self._sent_s = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._buffer[:head_end]).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(self._buffer) < head_end + 4 + length:
            return
        self._buffer.clear()
        now_s = time.perf_counter()
        if head.startswith(b"http/1.1 200"):
            self._latencies_s.append(now_s - self._sent_s)
        else:
            self._refused.append(1)
        if now_s < self._until_s:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _send(self) -> None:
        self._sent_s = time.perf_counter()
        self._transport.write(self._request)


async def measure(host: str, port: int, request: bytes, clients: int, duration_s: float) -> Measured:
    """Keep `clients` requests in flight for `duration_s`, after half a second of warming up."""
    await _run(host, port, request, clients, 0.5)
    latencies_s, refused, took_s = await _run(host, port, request, clients, duration_s)
    latencies_s.sort()
    return Measured(
        calls_per_s=len(latencies_s) / took_s,
        median_ms=statistics.median(latencies_s) * 1000 if latencies_s else float("nan"),
        p95_ms=latencies_s[int(len(latencies_s) * 0.95)] * 1000 if latencies_s else float("nan"),
        refused=len(refused),
    )


async def _run(
    host: str, port: int, request: bytes, clients: int, duration_s: float
) -> tuple[list[float], list[int], float]:
    latencies_s: list[float] = []
    refused: list[int] = []
    started_s = time.perf_counter()
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(
            lambda: _Client(request, started_s + duration_s, latencies_s, refused), host, port
        )
        for _ in range(clients)
    ]
    async with asyncio.timeout(duration_s + 30):
        await asyncio.gather(*(client.done for _, client in made))
    return latencies_s, refused, time.perf_counter() - started_s
