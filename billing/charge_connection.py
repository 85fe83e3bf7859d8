"""The ledger's connection: made anew when it breaks, and a word on what each failure means."""

from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Final

import psycopg

from billing.accounts import open_periods_of
from billing.charges import Charge
from billing.store import charges as store
from billing.store.charges import Outcome
from infra.database import Connection, connect

_STATEMENT_TIMEOUT_MS: Final = 10_000

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_AWAY_CLASSES: Final = ("08", "53", "57", "58")  # connection, resources, operator intervention, system
_READ_ONLY: Final = "25006"  # after a failover this may be the wrong server
_LOCKED: Final = "55P03"
_UNDONE: Final = ("23505", "40001", "40P01")  # the same id elsewhere at once, serialization, deadlock


class Failure(Enum):
    """Why a batch was not charged.

    AWAY: the server; whether the batch was written is unknown. UNDONE: other transactions; it may pass if
    sent again. LOCKED: another transaction holds a counter. BAD: a charge that the database refuses.
    """

    AWAY = auto()
    UNDONE = auto()
    LOCKED = auto()
    BAD = auto()


class ChargeConnection:
    """One autocommit connection for charges, made when it is first needed."""

    def __init__(self, database_url: str, application_name: str, lock_timeout_ms: int) -> None:
        self._database_url = database_url
        self._application_name = application_name
        self._lock_timeout_ms = lock_timeout_ms
        self._connection: Connection | None = None

    async def open(self) -> None:
        """Connect, unless it is connected.

        Raises:
            psycopg.OperationalError: the server cannot be reached.
        """
        await self._opened()

    async def charge(self, charges: Sequence[Charge]) -> list[Outcome] | Failure:
        """Charge a batch in one transaction, opening months that are not open yet."""
        try:
            connection = await self._opened()
            return await _charge(connection, charges)
        except (
            Exception
        ) as error:  # not only psycopg's: a value that cannot be encoded must not fail its mates
            failure = self._meaning(error)
        if failure is Failure.AWAY:
            await self.close()
        return failure

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                await connection.close()

    async def _opened(self) -> Connection:
        if self._connection is None:
            connection = await connect(self._database_url, self._application_name)
            try:
                await store.set_up_session(connection, self._lock_timeout_ms, _STATEMENT_TIMEOUT_MS)
            except BaseException:
                await connection.close()
                raise
            self._connection = connection
        return self._connection

    def _meaning(self, error: Exception) -> Failure:
        if self._connection is None or self._connection.closed:
            return Failure.AWAY
        state = error.sqlstate if isinstance(error, psycopg.Error) else None
        if state is None:
            return Failure.AWAY if isinstance(error, psycopg.OperationalError) else Failure.BAD
        if state == _LOCKED:
            return Failure.LOCKED
        if state in _UNDONE:
            return Failure.UNDONE
        return Failure.AWAY if state.startswith(_AWAY_CLASSES) or state == _READ_ONLY else Failure.BAD


async def _charge(connection: Connection, charges: Sequence[Charge]) -> list[Outcome]:
    outcomes = await store.charge(connection, charges)
    unopened = [place for place, outcome in enumerate(outcomes) if outcome.outcome == store.PERIOD_NOT_OPEN]
    if unopened:
        again = [charges[place] for place in unopened]
        await open_periods_of(connection, ((charge.tenant_id, charge.occurred_at) for charge in again))
        for place, outcome in zip(unopened, await store.charge(connection, again), strict=True):
            outcomes[place] = outcome
    return outcomes
