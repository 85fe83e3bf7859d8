"""What is noted in memory off the hot path, and written down together every few seconds."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from infra.errors import UnavailableError
from infra.logs import event

FLUSH_EVERY_S = 5.0
_CLOSE_TIMEOUT_S = 2.0


class Flusher:
    """Calls `flush` by the clock, and once more at the end. One event loop.

    Args:
        name: what is written, for the log: `last_used`.
        flush: keeps what it could not write when PostgreSQL does not answer (`UnavailableError`).
    """

    def __init__(
        self, name: str, flush: Callable[[], Awaitable[None]], every_s: float = FLUSH_EVERY_S
    ) -> None:
        self._name = name
        self._flush = flush
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Flush every `every_s` from now on."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def close(self) -> None:
        """Flush the rest, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CLOSE_TIMEOUT_S)
        await self._try_flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._try_flush()

    async def _try_flush(self) -> None:
        try:
            await self._flush()
        except UnavailableError:
            event("infra", logging.WARNING, f"{self._name}_not_written", {})
