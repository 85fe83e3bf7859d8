"""Asking the database for keys: all that wait at one moment go into one query, one query at a time.

So a worker's look-ups cost the database one connection at most and one query per round trip, however
many callers come with keys that exist nowhere; and many first calls with one new key are one query.
"""

import asyncio
import time

from infra.database import Pool, borrow, database_away
from infra.errors import UnavailableError
from tenants import store
from tenants.cached_keys import TRUST_S, CachedKeys
from tenants.records import KeyRecord

_MAX_WAITING = 1024  # digests, not callers
_MAX_BATCH = 256
_RETRY_S = 0.05
_CLOSE_TIMEOUT_S = 2.0

Answer = asyncio.Future[KeyRecord | None]


class KeyLoader:
    """Loads keys by digest, and leaves them in `cached`.

    Args:
        timeout_s: how long a caller waits, which covers a short absence of PostgreSQL.
    """

    def __init__(self, pool: Pool, cached: CachedKeys, timeout_s: float) -> None:
        self._pool = pool
        self._cached = cached
        self._timeout_s = timeout_s
        self._waiting: dict[bytes, Answer] = {}
        self._task: asyncio.Task[None] | None = None

    async def load(self, digest: bytes) -> KeyRecord | None:
        """The key of a digest, or None; read by a query that is sent after this call, and is young.

        Raises:
            UnavailableError: PostgreSQL does not answer in time, or too many look-ups wait already.
        """
        answer = self._waiting.get(digest)
        if answer is None:
            if len(self._waiting) >= _MAX_WAITING:
                raise UnavailableError(
                    "Too many keys are being checked at this moment. Try again in a second."
                )
            answer = asyncio.get_running_loop().create_future()
            self._waiting[digest] = answer
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._answer_all(), name="key-loader")
        # `wait` leaves the answer alone when this caller goes away: others may wait for it too.
        await asyncio.wait({answer}, timeout=self._timeout_s)
        if not answer.done():
            raise database_away()
        return answer.result()

    async def close(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CLOSE_TIMEOUT_S)

    async def _answer_all(self) -> None:
        while self._waiting:
            # Taken out before the query is sent: who comes later must not get an older answer.
            digests = list(self._waiting)[:_MAX_BATCH]
            answers = {digest: self._waiting.pop(digest) for digest in digests}
            try:
                found = await self._query(digests)
            except Exception as error:
                for answer in answers.values():
                    answer.set_exception(error)
                    answer.exception()  # seen, even if nobody waits any more
            else:
                for digest, answer in answers.items():
                    answer.set_result(found.get(digest))

    async def _query(self, digests: list[bytes]) -> dict[bytes, KeyRecord]:
        """Ask until there is an answer or the time is over.

        One attempt lasts `TRUST_S` at most: an answer that was longer under way may be out of date.
        """
        clock = asyncio.get_running_loop().time
        deadline_s = clock() + self._timeout_s
        while True:
            try:
                async with (
                    asyncio.timeout_at(deadline_s),
                    borrow(self._pool, borrow_timeout_s=self._timeout_s, use_timeout_s=TRUST_S) as connection,
                ):
                    generation = self._cached.generation
                    found = await store.keys_by_digest(connection, digests)
            except TimeoutError:
                raise database_away() from None
            except UnavailableError:
                if clock() + _RETRY_S >= deadline_s:
                    raise
                await asyncio.sleep(_RETRY_S)
            else:
                for digest in digests:
                    self._cached.fill(digest, found.get(digest), generation, time.monotonic())
                return found
