"""Finding dead workers, and taking back the calls that they charged and did not answer.

A session is dead when the lock of its id can be taken: its connection is gone, and with it every transaction
that could still commit. Its worker may live, and be about to connect again (the server was restarted), so it
is given a time of grace. Then its calls in flight are voided in one transaction with the end of its record:
once, by whoever comes first.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from psycopg import Error

from billing.accounts import open_periods_of
from billing.store import charges as store
from billing.store import sessions
from infra.database import Connection, connect, hang_up_after
from infra.logs import event
from infra.telemetry import Telemetry

_LOOK_EVERY_S: Final = 4.0
_LOCK_TIMEOUT_MS: Final = 1000
_STATEMENT_TIMEOUT_MS: Final = 10_000
_LOOK_TIMEOUT_S: Final = 30.0


class DeadSessions:
    """Looks for dead sessions while a worker lives. One event loop.

    Args:
        own: the worker's own sessions, which it does not look at.
        grace_s: how long a session has been seen dead before its calls are taken back.
    """

    def __init__(
        self, database_url: str, own: Sequence[int], telemetry: Telemetry, grace_s: float = 10.0
    ) -> None:
        self._database_url = database_url
        self._own = own
        self._telemetry = telemetry
        self._grace_s = grace_s
        self._look_every_s = min(_LOOK_EVERY_S, grace_s)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._look_on())

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _look_on(self) -> None:
        while True:
            try:
                connection = await connect(self._database_url, "aiaas-dead-sessions")
                async with connection:
                    await store.set_up_session(connection, _LOCK_TIMEOUT_MS, _STATEMENT_TIMEOUT_MS)
                    while True:
                        with hang_up_after(connection, _LOOK_TIMEOUT_S):
                            await self._look(connection)
                        await asyncio.sleep(self._look_every_s)
            except (Error, OSError):
                event("dead_sessions", logging.WARNING, "database_away", {})
            except Exception:
                event("dead_sessions", logging.ERROR, "look_failed", {}, error=True)
            await asyncio.sleep(self._look_every_s)

    async def _look(self, connection: Connection) -> None:
        for session_id in await sessions.read_session_ids(connection, self._own):
            try:
                voided = await void_if_dead(connection, session_id, self._grace_s)
            except Error as error:
                if connection.closed:
                    raise
                # A tenant of that session is locked, or the like: the next look tries again.
                event("dead_sessions", logging.WARNING, "not_voided", {"sqlstate": error.sqlstate})
                continue
            if voided:
                self._telemetry.count_voids("worker_died", voided)
                event("dead_sessions", logging.WARNING, "calls_voided", {"calls": voided})


async def void_if_dead(connection: Connection, session_id: int, grace_s: float) -> int:
    """Take back what a session has in flight if it has been dead for `grace_s`; returns how many calls.

    What it finds the first time it only marks. A tenant's account that another transaction holds makes it
    give up with an error: everything is undone, and the next look tries again.

    Raises:
        psycopg.Error: the server is away, or an account is locked.
    """
    try:
        async with connection.transaction():
            if not await sessions.try_lock(connection, session_id):
                return 0
            return await _void_locked(connection, session_id, grace_s)
    except _MonthsNotOpenError as error:
        await open_periods_of(connection, error.moments)
        return 0


class _MonthsNotOpenError(Exception):
    """Undoes the transaction: months are opened outside of it, before it takes any lock."""

    def __init__(self, moments: set[tuple[str, datetime]]) -> None:
        super().__init__()
        self.moments = moments


async def _void_locked(connection: Connection, session_id: int, grace_s: float) -> int:
    found = await sessions.read_session(connection, session_id)
    if found is None:
        return 0
    if found.missing_s is None:
        await sessions.mark_missing(connection, session_id)
        return 0
    if found.missing_s < grace_s:
        return 0
    entries = await sessions.read_voids(connection, session_id, found.in_flight)
    outcomes = await store.charge(connection, None, (), entries) if entries else []
    now = datetime.now(UTC)
    if unopened := {
        (entry.tenant_id, now)
        for entry, outcome in zip(entries, outcomes, strict=True)
        if outcome.outcome == store.PERIOD_NOT_OPEN
    }:
        raise _MonthsNotOpenError(unopened)
    await sessions.delete_session(connection, session_id)
    return sum(outcome.outcome == store.VOIDED for outcome in outcomes)
