"""TCP proxies on loopback, each on a thread of its own: wires that lose answers, or go dead without a word.

They read HTTP/1.1 and PostgreSQL's protocol only as far as it needs: a client has one request at a time on
a connection, and a LISTEN is sent in the clear.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Literal, TypeVar

Address = tuple[str, int]
Fate = Literal["pass", "drop", "cut", "leave"]
T = TypeVar("T")

_CHUNK_BYTES = 65_536
_LONGEST_STAY_S = 0.02
_TIMEOUT_S = 10.0
_LISTEN = b"LISTEN "


class Link:
    """One connection through a wire. Subclasses decide what becomes of what is sent."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._client = client
        self._server = server

    async def from_client(self, chunk: bytes) -> None:
        await self.to_server(chunk)

    async def from_server(self, chunk: bytes) -> None:
        await self.to_client(chunk)

    async def to_server(self, chunk: bytes) -> None:
        self._server.write(chunk)
        await self._server.drain()

    async def to_client(self, chunk: bytes) -> None:
        self._client.write(chunk)
        await self._client.drain()

    def close(self) -> None:
        """Let what was written arrive, then hang up on both."""
        self._client.close()
        self._server.close()

    def abort(self) -> None:
        """Hang up on both at once."""
        self._client.transport.abort()
        self._server.transport.abort()


class Wire:
    """Passes everything on. Subclasses make other links.

    Args:
        target: where to; asked for each connection, as it may move.
    """

    def __init__(self, target: Callable[[], Address]) -> None:
        self._target = target
        self.links: set[Any] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])

    def new_link(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Link:
        return Link(client, server)

    def close(self) -> None:
        """Hang up on everyone and take no more connections."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_TIMEOUT_S)

    def on_loop(self, work: Callable[[], None]) -> None:
        """Do something among the links, and wait until it is done."""

        async def done() -> None:
            work()

        self._run(done())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_TIMEOUT_S)

    async def _close(self) -> None:
        self._server.close()
        while self.links:
            for link in self.links:
                link.abort()
            await asyncio.sleep(0.01)

    async def _serve(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            server_reader, server = await asyncio.open_connection(*self._target())
        except OSError:
            client.transport.abort()
            return
        link = self.new_link(client, server)
        self.links.add(link)
        pumps = {
            asyncio.create_task(_pump(client_reader, link.from_client)),
            asyncio.create_task(_pump(server_reader, link.from_server)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            link.close()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self.links.discard(link)


async def _pump(reader: asyncio.StreamReader, take: Callable[[bytes], Coroutine[Any, Any, None]]) -> None:
    """Until either side hangs up."""
    try:
        while chunk := await reader.read(_CHUNK_BYTES):
            await take(chunk)
    except OSError:
        return


class DatabaseLink(Link):
    """A connection to PostgreSQL that can go dead: open, and silent both ways."""

    def __init__(
        self, client: asyncio.StreamWriter, server: asyncio.StreamWriter, wire: "DatabaseWire"
    ) -> None:
        super().__init__(client, server)
        self._wire = wire
        self.listens = False
        self._alive = asyncio.Event()
        self._alive.set()

    @property
    def is_dead(self) -> bool:
        return not self._alive.is_set()

    def die(self) -> None:
        self._alive.clear()

    def abort(self) -> None:
        super().abort()
        self._alive.set()  # what waits goes nowhere now

    async def from_client(self, chunk: bytes) -> None:
        self.listens = self.listens or _LISTEN in chunk
        if self._wire.kills_new and (self.listens or not self._wire.only_listeners):
            self.die()
        await self._alive.wait()
        await self.to_server(chunk)

    async def from_server(self, chunk: bytes) -> None:
        await self._alive.wait()
        await self.to_client(chunk)


class DatabaseWire(Wire):
    """Between the gateway and PostgreSQL."""

    kills_new = False
    only_listeners = False

    def new_link(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Link:
        return DatabaseLink(client, server, self)

    def kill(self, *, only_listeners: bool, new_ones_too: bool) -> None:
        """Let connections go dead: all of them, or those that have sent LISTEN."""

        def work() -> None:
            self.kills_new, self.only_listeners = new_ones_too, only_listeners
            for link in self.links:
                if link.listens or not only_listeners:
                    link.die()

        self.on_loop(work)

    def mend(self) -> None:
        """Hang up on the dead; new connections live."""

        def work() -> None:
            self.kills_new = False
            for link in self.links:
                if link.is_dead:
                    link.abort()

        self.on_loop(work)


class LossyLink(Link):
    """An HTTP connection on which each request meets a fate."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter, wire: "LossyWire") -> None:
        super().__init__(client, server)
        self._wire = wire
        self._fate: Fate = "pass"
        self._is_answering = True

    async def from_client(self, chunk: bytes) -> None:
        if self._is_answering:  # then this is the next request's beginning
            self._is_answering = False
            self._fate = self._wire.draw_fate()
        await self.to_server(chunk)
        if self._fate == "leave":
            await asyncio.sleep(self._wire.rng.uniform(0, _LONGEST_STAY_S))
            self.abort()

    async def from_server(self, chunk: bytes) -> None:
        self._is_answering = True
        if self._fate == "cut":
            await self.to_client(chunk[: len(chunk) // 2])
            self.close()
        elif self._fate == "pass":
            await self.to_client(chunk)
        else:
            self.abort()


class LossyWire(Wire):
    """Between clients and the gateway. Of the requests, a share is not answered as it should be: the answer
    is dropped, or cut off half-way, or the connection breaks while the call still runs.

    Args:
        loss: how large the share is, from 0 to 1.
    """

    def __init__(self, target: Callable[[], Address], rng: Random, loss: float) -> None:
        self.rng = rng
        self._loss = loss
        super().__init__(target)

    def new_link(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> Link:
        return LossyLink(client, server, self)

    def draw_fate(self) -> Fate:
        fates: tuple[Fate, ...] = ("drop", "cut", "leave")
        return self.rng.choice(fates) if self.rng.random() < self._loss else "pass"
