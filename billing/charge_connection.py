"""The ledger's connection: a charging session, made anew when it breaks, and what each failure means.

A session is known by its id, whose advisory lock its connection holds. With every batch it records which of
its calls are charged and not answered yet; when its worker dies, another one takes the lock and takes those
calls back (`billing.dead_sessions`). A connection made anew takes the lock first, which its broken
predecessor's backend holds until it is gone: what was sent over that one has committed then, or never will.
"""

import secrets
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final
from uuid import UUID

import psycopg

from billing.accounts import open_periods_of
from billing.store import charges as store
from billing.store import retention, sessions
from billing.store.accounts import open_key_counters
from billing.store.charges import Entry, Outcome
from infra.database import Connection, connect, hang_up_after

_STATEMENT_TIMEOUT_MS: Final = 10_000
_ANSWER_TIMEOUT_S: Final = 15.0  # for a server that is frozen, and so cannot keep its own time-out
_CLOSE_TIMEOUT_S: Final = 5.0
_RECORD_EVERY_S: Final = 2.0  # while calls are in flight; well below the time that a dead session is given
_SESSION_ID_BITS: Final = 62

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_AWAY_CLASSES: Final = ("08", "53", "57", "58")  # connection, resources, operator intervention, system
_READ_ONLY: Final = "25006"  # after a failover this may be the wrong server
_LOCKED: Final = "55P03"
_UNDONE: Final = ("23505", "40001", "40P01")  # the same id elsewhere at once, serialization, deadlock


class Failure(Enum):
    """Why a batch was not charged.

    AWAY: the server; whether the batch was written is unknown. UNDONE: other transactions; it may pass if
    sent again. LOCKED: another transaction holds an account. BAD: an entry that the database refuses.
    """

    AWAY = auto()
    UNDONE = auto()
    LOCKED = auto()
    BAD = auto()


class ChargeConnection:
    """One autocommit connection for charges, made when it is first needed.

    Attributes:
        session_id: the key of the advisory lock that says that this worker lives.
    """

    def __init__(self, database_url: str, application_name: str, lock_timeout_ms: int) -> None:
        self._database_url = database_url
        self._application_name = application_name
        self._lock_timeout_ms = lock_timeout_ms
        self._connection: Connection | None = None
        self._in_flight: set[UUID] = set()
        self._changes = 0  # of what is in flight
        self._recorded_changes = 0
        self._recorded_at_s = -_RECORD_EVERY_S
        self.session_id = secrets.randbits(_SESSION_ID_BITS)

    async def open(self) -> None:
        """Connect, unless it is connected.

        Raises:
            psycopg.OperationalError: the server cannot be reached.
        """
        await self._opened()

    def is_in_flight(self, call_id: UUID) -> bool:
        """Whether the call was charged here, or may have been, and is not answered."""
        return call_id in self._in_flight

    def land(self, call_ids: Iterable[UUID]) -> None:
        """These calls are answered, or not charged."""
        before = len(self._in_flight)
        self._in_flight.difference_update(call_ids)
        self._changes += before != len(self._in_flight)

    @property
    def is_busy(self) -> bool:
        """Whether calls are in flight, or the database does not know that they are no more."""
        return bool(self._in_flight) or not self.is_recorded

    @property
    def is_recorded(self) -> bool:
        """Whether the database knows what is in flight, and has lately been there to know it.

        A session whose connection broke while its worker had nothing to charge is taken for dead otherwise.
        """
        if self._changes != self._recorded_changes:
            return False
        return not self._in_flight or time.monotonic() - self._recorded_at_s < _RECORD_EVERY_S

    async def charge(self, entries: Sequence[Entry]) -> list[Outcome] | Failure:
        """Write a batch in one transaction, opening months and partitions that are not open yet.

        Its charges are in flight from now on, unless it fails and is not written: `land` those that were not
        charged, and those that were taken back.
        """
        new = {entry.call_id for entry in entries if entry.voided_from is None} - self._in_flight
        self._in_flight |= new
        self._changes += 1
        changes = self._changes
        try:
            connection = await self._opened()
            with hang_up_after(connection, _ANSWER_TIMEOUT_S):
                outcomes = await charge_opening_months(connection, self.session_id, self._in_flight, entries)
        except Exception as error:  # also a value that cannot be encoded: it must not fail its mates
            failure = await self._failed(error)
            if failure is not Failure.AWAY:
                self.land(new)
            return failure
        self._recorded(changes)
        return outcomes

    async def record(self) -> Failure | None:
        """Have the database know what is in flight, without a charge."""
        changes = self._changes
        try:
            connection = await self._opened()
            with hang_up_after(connection, _ANSWER_TIMEOUT_S):
                await sessions.record_in_flight(connection, self.session_id, self._in_flight)
        except Exception as error:
            return await self._failed(error)
        self._recorded(changes)
        return None

    async def close(self) -> None:
        """Hang up. A session with nothing in flight is forgotten; another one is left to whoever finds it."""
        if self._connection is not None:
            with suppress(psycopg.Error, OSError), hang_up_after(self._connection, _CLOSE_TIMEOUT_S):
                if self._in_flight:
                    await sessions.record_in_flight(self._connection, self.session_id, self._in_flight)
                else:
                    await sessions.delete_session(self._connection, self.session_id)
        await self._hang_up()

    def _recorded(self, changes: int) -> None:
        self._recorded_changes = changes
        self._recorded_at_s = time.monotonic()

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                await connection.close()

    async def _opened(self) -> Connection:
        if self._connection is None:
            connection = await connect(self._database_url, self._application_name)
            try:
                with hang_up_after(connection, _ANSWER_TIMEOUT_S):
                    await store.set_up_session(connection, self._lock_timeout_ms, _STATEMENT_TIMEOUT_MS)
                    await sessions.open_session(connection, self.session_id, self._in_flight)
            except psycopg.errors.LockNotAvailable as error:
                await connection.close()
                raise psycopg.OperationalError("the connection before is not gone yet") from error
            except BaseException:
                await connection.close()
                raise
            self._connection = connection
        return self._connection

    async def _failed(self, error: Exception) -> Failure:
        failure = self._meaning(error)
        if failure is Failure.AWAY:
            await self._hang_up()
        return failure

    def _meaning(self, error: Exception) -> Failure:
        if self._connection is None or self._connection.closed:
            return Failure.AWAY
        return meaning(error)


def meaning(error: Exception) -> Failure:
    """What a failure on a connection that still stands says of the batch."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    if state is None:
        return Failure.AWAY if isinstance(error, psycopg.OperationalError) else Failure.BAD
    if state == _LOCKED:
        return Failure.LOCKED
    if state in _UNDONE:
        return Failure.UNDONE
    return Failure.AWAY if state.startswith(_AWAY_CLASSES) or state == _READ_ONLY else Failure.BAD


async def charge_opening_months(
    connection: Connection, session_id: int | None, in_flight: set[UUID], entries: Sequence[Entry]
) -> list[Outcome]:
    """Write a batch, opening months and partitions that are not open yet. Not in a transaction."""
    try:
        outcomes = await store.charge(connection, session_id, in_flight, entries)
    except psycopg.errors.CheckViolation:
        await retention.make_partitions(connection)
        outcomes = await store.charge(connection, session_id, in_flight, entries)
    unopened = [place for place, outcome in enumerate(outcomes) if outcome.outcome == store.PERIOD_NOT_OPEN]
    if unopened:
        again = [entries[place] for place in unopened]
        # The present month too: what comes late for a closed month counts in the one that is open.
        moments = {(one.tenant_id, at) for one in again for at in (one.occurred_at, datetime.now(UTC))}
        await open_periods_of(connection, moments)
        # And whatever month a capped key's call counts in, which may be neither.
        months = {(entries[place].tenant_id, outcomes[place].period or "") for place in unopened}
        async with connection.transaction():
            await open_key_counters(connection, sorted(months))
        repeated = await store.charge(connection, session_id, in_flight, again)
        for place, outcome in zip(unopened, repeated, strict=True):
            outcomes[place] = outcome
    return outcomes
