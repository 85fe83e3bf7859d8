"""Following key changes over one connection: LISTEN, and a poll of the epoch behind it.

Both share the connection, and each poll has a deadline of its own: a half-open socket, on which
notifications vanish in silence, fails the poll, and the connection is made anew.
"""

import asyncio
import logging
import random
import time
from contextlib import suppress

from psycopg import Error

from infra.database import Connection, connect, hang_up_after, unreachable
from infra.logs import event
from tenants import store
from tenants.cached_keys import CachedKeys

POLL_EVERY_S = 0.25
_POLL_TIMEOUT_S = 0.5
_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 1.0
_CLOSE_TIMEOUT_S = 2.0
_CHANNEL = "aiaas_key_changed"
_DIGEST_BYTES = 32
_ALL_KEYS = "*"


class KeyChanges:
    """Keeps a `CachedKeys` up with the database until it is closed."""

    def __init__(self, database_url: str, cached: CachedKeys) -> None:
        self._database_url = database_url
        self._cached = cached
        self._retry_s = _FIRST_RETRY_S
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, then follow in the background.

        Raises:
            StartupError: PostgreSQL does not answer.
        """
        try:
            connection = await self._connect()
        except Error as error:
            raise unreachable(error) from None
        self._task = asyncio.create_task(self._run(connection), name="key-changes")

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CLOSE_TIMEOUT_S)

    async def _run(self, connection: Connection | None) -> None:
        while True:
            try:
                if connection is None:
                    connection = await self._connect()
                await self._follow(connection)
            except Exception:  # whatever it was, the entries are soon not believed; try again
                event("tenants", logging.WARNING, "key_changes_lost", {"retry_s": self._retry_s}, error=True)
            finally:
                if connection is not None:
                    await connection.close()
                    connection = None
            # Not all workers at the same moment.
            await asyncio.sleep(self._retry_s * random.uniform(0.5, 1.0))  # noqa: S311
            self._retry_s = min(self._retry_s * 2, _LAST_RETRY_S)

    async def _connect(self) -> Connection:
        """A connection that listens first and polls then, so that no change falls between."""
        connection = await connect(self._database_url, "aiaas-key-changes")
        try:
            with hang_up_after(connection, _POLL_TIMEOUT_S):
                await connection.execute(f"LISTEN {_CHANNEL}")
            await self._poll(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _follow(self, connection: Connection) -> None:
        while True:
            async for notification in connection.notifies(timeout=POLL_EVERY_S):
                self._apply(notification.payload)
            await self._poll(connection)
            self._retry_s = _FIRST_RETRY_S

    async def _poll(self, connection: Connection) -> None:
        sent_at_s = time.monotonic()
        with hang_up_after(connection, _POLL_TIMEOUT_S):
            epoch = await store.key_epoch(connection)
        self._cached.confirmed(epoch, sent_at_s)

    def _apply(self, payload: str) -> None:
        """Take an announcement; one that nobody of ours sent is left to the poll."""
        epoch, _, subject = payload.partition(" ")
        with suppress(ValueError):
            digest = None if subject == _ALL_KEYS else bytes.fromhex(subject)
            if digest is None or len(digest) == _DIGEST_BYTES:
                self._cached.changed(int(epoch), digest)
