"""Connections to PostgreSQL: a bounded pool for queries, single connections for those who stay."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from psycopg import AsyncConnection, OperationalError
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from infra.errors import StartupError, UnavailableError

Connection = AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]

CONNECT_TIMEOUT_S = 5
_BORROW_TIMEOUT_S = 4.0
_USE_TIMEOUT_S = 5.0
_TRY_ANEW_S = 0.5
_CHECK_TIMEOUT_S = 1.0
ALIVE: dict[str, Any] = {
    # A peer that vanished without a word is noticed in seconds, not in TCP's two hours.
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
    "connect_timeout": CONNECT_TIMEOUT_S,
}


async def connect(url: str, application_name: str) -> Connection:
    """One connection in autocommit mode, for a listener or a pump that keeps it.

    Raises:
        psycopg.OperationalError: the server cannot be reached.
    """
    return await AsyncConnection.connect(url, autocommit=True, application_name=application_name, **ALIVE)


async def open_pool(url: str, max_size: int, application_name: str) -> Pool:
    """A pool of autocommit connections, opened and tried once.

    Raises:
        StartupError: the server cannot be reached.
    """
    pool: Pool = AsyncConnectionPool(
        url,
        min_size=1,
        max_size=max_size,
        timeout=CONNECT_TIMEOUT_S,
        max_waiting=1000,
        # Past it the pool gives up until it is asked again; else its pauses grow with the absence.
        reconnect_timeout=_TRY_ANEW_S,
        open=False,
        check=_check,
        kwargs={"autocommit": True, "application_name": application_name, **ALIVE},
    )
    try:
        await pool.open(wait=True, timeout=CONNECT_TIMEOUT_S * 2)
    except Exception as error:
        await pool.close()
        raise unreachable(error) from None
    return pool


async def _check(connection: Connection) -> None:
    """See whether a connection still works. A server that is frozen does not answer, nor does it hang up."""
    with hang_up_after(connection, _CHECK_TIMEOUT_S):
        await AsyncConnectionPool.check_connection(connection)


def unreachable(error: Exception) -> StartupError:
    """What to tell the operator when PostgreSQL does not answer. Never quotes the URL."""
    reason = (
        str(error).strip().splitlines()[-1] if isinstance(error, OperationalError) else type(error).__name__
    )
    return StartupError(
        f"PostgreSQL does not answer ({reason}). Start it, or correct DATABASE_URL; "
        "without DATABASE_URL, `aiaas up` starts its own."
    )


@asynccontextmanager
async def borrow(
    pool: Pool, *, borrow_timeout_s: float = _BORROW_TIMEOUT_S, use_timeout_s: float = _USE_TIMEOUT_S
) -> AsyncGenerator[Connection]:
    """A connection of the pool, for at most `use_timeout_s`.

    Raises:
        UnavailableError: no connection could be had, or it broke, or it took too long.
    """
    try:
        connection = await _take(pool, borrow_timeout_s)
        try:
            with hang_up_after(connection, use_timeout_s):
                async with connection:
                    yield connection
        finally:
            await pool.putconn(connection)
    except OperationalError:
        raise database_away() from None


async def delete_in_pages(pool: Pool, page: int, delete: Callable[[Connection], Awaitable[int]]) -> int:
    """Delete page by page, each with a borrowed connection, until one is not full; returns how many were.

    Args:
        delete: deletes a page at most, and returns how many that were.

    Raises:
        UnavailableError: see `borrow`.
    """
    total = 0
    while True:
        async with borrow(pool) as connection:
            deleted = await delete(connection)
        total += deleted
        if deleted < page:
            return total


async def _take(pool: Pool, timeout_s: float) -> Connection:
    """A connection of the pool. Asked for anew every half second: a pool that gave up tries again then."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return await pool.getconn(timeout=min(_TRY_ANEW_S, timeout_s))
        except PoolTimeout:
            if time.monotonic() >= deadline_s:
                raise


@contextmanager
def hang_up_after(connection: Connection, timeout_s: float) -> Generator[None]:
    """Break the connection when the block is not done in time: what waits in it gets an OperationalError.

    Cancelling instead would make psycopg ask the server to cancel, and wait up to 10 s for a server that
    does not answer.
    """
    timer = asyncio.get_running_loop().call_later(timeout_s, _hang_up, connection)
    try:
        yield
    finally:
        timer.cancel()


def _hang_up(connection: Connection) -> None:
    # Shut down, not closed: the event loop still watches the descriptor, which psycopg owns.
    with suppress(OSError, OperationalError), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


def database_away() -> UnavailableError:
    """PostgreSQL did not answer in time."""
    return UnavailableError("The service cannot reach its database for the moment. Try again in a second.")
