"""What the database has of workers' sessions and calls, and the ways that a worker's ledger breaks."""

import asyncio
import os
import socket
from contextlib import suppress
from uuid import UUID

import psycopg

from billing.charges import Charge
from billing.dead_sessions import void_if_dead
from billing.ledger import Ledger
from infra.database import connect
from tests.billing_world import until


def query(database_url: str, statement: str, *values: object) -> list[tuple]:  # type: ignore[type-arg]
    with psycopg.connect(database_url, autocommit=True) as connection:
        return connection.execute(statement, values).fetchall()


def entries(database_url: str, call: Charge) -> list[tuple[int, int, int]]:
    """A call's entries, calls and units."""
    return query(
        database_url,
        "SELECT entry, calls, units FROM billing.usage_row WHERE call_id = %s ORDER BY slice, entry",
        call.call_id,
    )


def in_flight(database_url: str) -> list[UUID]:
    """What all sessions together have on record."""
    return [row[0] for row in query(database_url, "SELECT unnest(in_flight) FROM billing.charging_session")]


def sessions(database_url: str) -> set[int]:
    return {row[0] for row in query(database_url, "SELECT session_id FROM billing.charging_session")}


def is_missing(database_url: str, session_id: int) -> bool:
    """Whether somebody has found the session dead."""
    found = query(
        database_url,
        "SELECT missing_since IS NOT NULL FROM billing.charging_session WHERE session_id = %s",
        session_id,
    )
    return bool(found[0][0])


def holders(database_url: str, session_id: int) -> set[int]:
    """The backends of ledgers that hold a session's lock: one or none."""
    found = query(
        database_url,
        """
        SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'advisory' AND (classid::bigint << 32) | objid::bigint = %s AND granted
          AND datname = current_database() AND application_name LIKE 'aiaas-ledger%%'
        """,
        session_id,
    )
    return {row[0] for row in found}


def end_session(database_url: str, session_id: int) -> None:
    """End the backend that holds a session's lock."""
    for pid in holders(database_url, session_id):
        query(database_url, "SELECT pg_terminate_backend(%s)", pid)


async def kill(ledger: Ledger, database_url: str) -> None:
    """What `kill -9` leaves of a ledger: no task, no connection, and its record."""
    assert ledger._pump
    assert ledger._side_pump
    tasks = (ledger._pump.task, ledger._side_pump.task, ledger._dead_sessions._task, ledger._headroom._task)
    for task in tasks:
        assert task
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    for session in (ledger._connection, ledger._side_connection):
        end_session(database_url, session.session_id)
        if session._connection is not None:
            await session._connection.close()
    ledger._pump = ledger._side_pump = None


def cut_off(ledger: Ledger) -> None:
    """Break the ledger's connection on its side only: the server goes on with what it was sent."""
    connection = ledger._connection._connection
    assert connection is not None
    with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


async def be_patient(ledger: Ledger) -> None:
    """Have the ledger's present connection wait for locks longer than its later ones."""
    connection = ledger._connection._connection
    assert connection is not None
    await connection.execute("SET lock_timeout = '5s'")


async def waiting_in_the_database(database_url: str) -> None:
    """Until a ledger's batch waits for a lock."""

    def waits() -> bool:
        found = query(
            database_url,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name LIKE 'aiaas-ledger%%' AND wait_event_type = 'Lock'",
        )
        return found[0][0] > 0

    await until(waits)


async def void_dead(database_url: str, session_id: int) -> int:
    """What one who finds a session dead takes back at once."""
    async with await connect(database_url, "test") as connection:
        assert await void_if_dead(connection, session_id, 0.0) == 0, "first it is only marked"
        return await void_if_dead(connection, session_id, 0.0)
