"""When each key was last used, noted off the hot path."""

import asyncio
import logging
import time
from datetime import timedelta

from infra.database import Pool, borrow
from infra.errors import UnavailableError
from infra.logs import event
from tenants import store

_RESOLUTION = timedelta(minutes=1)
_FLUSH_EVERY_S = 5.0
_CLOSE_TIMEOUT_S = 2.0
_MAX_KEYS = 10_000


class LastUsed:
    """Collects the keys used and writes them down together, each at most once a minute.

    A convenience for owners, not a record: uses beyond `max_keys` between two writes are not noted, and
    a worker that dies loses the last seconds.
    """

    def __init__(self, pool: Pool, max_keys: int = _MAX_KEYS, flush_every_s: float = _FLUSH_EVERY_S) -> None:
        self._pool = pool
        self._max_keys = max_keys
        self._flush_every_s = flush_every_s
        self._due: set[str] = set()
        self._written: set[str] = set()  # within the present minute
        self._minute_ends_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def note(self, key_id: str) -> None:
        """A key was used just now."""
        if key_id not in self._written and len(self._due) < self._max_keys:
            self._due.add(key_id)

    async def start(self) -> None:
        """Write down every few seconds what was noted."""
        self._task = asyncio.create_task(self._run(), name="last-used")

    async def close(self) -> None:
        """Write down the rest, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CLOSE_TIMEOUT_S)
        await self._try_flush()

    async def flush(self) -> None:
        """Write down what was noted.

        Raises:
            UnavailableError: PostgreSQL does not answer; the notes are kept.
        """
        self._begin_minute()
        key_ids = list(self._due)
        if not key_ids:
            return
        async with borrow(self._pool) as connection:
            await store.note_keys_used(connection, key_ids, _RESOLUTION)
        self._due.difference_update(key_ids)
        self._written.update(key_ids)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._flush_every_s)
            await self._try_flush()

    async def _try_flush(self) -> None:
        try:
            await self.flush()
        except UnavailableError:
            event("tenants", logging.WARNING, "last_used_not_written", {"keys": len(self._due)})

    def _begin_minute(self) -> None:
        """Forget what was written once a minute; the query itself keeps to one write a minute."""
        now_s = time.monotonic()
        if now_s >= self._minute_ends_s or len(self._written) >= self._max_keys:
            self._written.clear()
            self._minute_ends_s = now_s + _RESOLUTION.total_seconds()
