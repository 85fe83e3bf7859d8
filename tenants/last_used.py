"""When each key was last used, noted off the hot path."""

import time
from datetime import timedelta

from infra.database import Pool, borrow
from infra.flushing import FLUSH_EVERY_S, Flusher
from tenants import store

_RESOLUTION = timedelta(minutes=1)
_MAX_KEYS = 10_000


class LastUsed:
    """Collects the keys used and writes them down together, each at most once a minute.

    A convenience for owners, not a record: uses beyond `max_keys` between two writes are not noted, and
    a worker that dies loses the last seconds.
    """

    def __init__(self, pool: Pool, max_keys: int = _MAX_KEYS, flush_every_s: float = FLUSH_EVERY_S) -> None:
        self._pool = pool
        self._max_keys = max_keys
        self._due: set[str] = set()
        self._written: set[str] = set()  # within the present minute
        self._minute_ends_s = 0.0
        self._flusher = Flusher("last_used", self.flush, flush_every_s)
        self.start, self.close = self._flusher.start, self._flusher.close

    def note(self, key_id: str) -> None:
        """A key was used just now."""
        if key_id not in self._written and len(self._due) < self._max_keys:
            self._due.add(key_id)

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

    def _begin_minute(self) -> None:
        """Forget what was written once a minute; the query itself keeps to one write a minute."""
        now_s = time.monotonic()
        if now_s >= self._minute_ends_s or len(self._written) >= self._max_keys:
            self._written.clear()
            self._minute_ends_s = now_s + _RESOLUTION.total_seconds()
