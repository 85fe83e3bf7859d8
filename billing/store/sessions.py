"""Charging sessions: the lock that lives with a connection, and the calls that are in flight of it."""

from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec
from psycopg.rows import class_row

from billing.store.charges import Entry, uuid_array
from infra.database import Connection


class SessionRow(msgspec.Struct, frozen=True):
    """One session as another one sees it; `missing_s` is None while nobody has noticed that it is dead."""

    missing_s: float | None
    in_flight: list[UUID]


async def open_session(connection: Connection, session_id: int, in_flight: Collection[UUID]) -> None:
    """Take the session's lock and record what is in flight.

    Whoever holds the lock still, the backend of a connection that broke, may still commit: wait for its end.

    Raises:
        psycopg.errors.LockNotAvailable: it has not ended within the lock timeout.
    """
    await connection.execute("SELECT pg_advisory_lock(%(id)s)", {"id": session_id})
    await connection.execute(
        """
        INSERT INTO billing.charging_session (session_id, in_flight)
        VALUES (%(id)s, %(in_flight)s::text::uuid[])
        ON CONFLICT (session_id) DO UPDATE SET in_flight = excluded.in_flight, missing_since = NULL
        """,
        {"id": session_id, "in_flight": uuid_array(in_flight)},
    )


async def record_in_flight(connection: Connection, session_id: int, in_flight: Collection[UUID]) -> None:
    """Record what is in flight, without a charge."""
    await connection.execute(
        """
        UPDATE billing.charging_session SET in_flight = %(in_flight)s::text::uuid[] WHERE session_id = %(id)s
        """,
        {"id": session_id, "in_flight": uuid_array(in_flight)},
    )


async def delete_session(connection: Connection, session_id: int) -> None:
    """Forget a session that has nothing in flight any more."""
    await connection.execute(
        "DELETE FROM billing.charging_session WHERE session_id = %(id)s", {"id": session_id}
    )


async def read_session_ids(connection: Connection, but: Sequence[int]) -> list[int]:
    """The sessions there are, except those given."""
    cursor = await connection.execute(
        "SELECT session_id FROM billing.charging_session WHERE session_id <> ALL(%(but)s::bigint[])",
        {"but": list(but)},
    )
    return [int(session_id) for (session_id,) in await cursor.fetchall()]


async def try_lock(connection: Connection, session_id: int) -> bool:
    """Take a session's lock until the transaction ends, if its own connection is gone."""
    cursor = await connection.execute("SELECT pg_try_advisory_xact_lock(%(id)s)", {"id": session_id})
    row = await cursor.fetchone()
    return bool(row and row[0])


async def read_session(connection: Connection, session_id: int) -> SessionRow | None:
    """A session's record."""
    async with connection.cursor(row_factory=class_row(SessionRow)) as cursor:
        await cursor.execute(
            """
            SELECT extract(epoch FROM clock_timestamp() - missing_since)::float AS missing_s, in_flight
            FROM billing.charging_session WHERE session_id = %(id)s
            """,
            {"id": session_id},
        )
        return await cursor.fetchone()


async def mark_missing(connection: Connection, session_id: int) -> None:
    """Note when a session was first found dead."""
    await connection.execute(
        "UPDATE billing.charging_session SET missing_since = clock_timestamp() WHERE session_id = %(id)s",
        {"id": session_id},
    )


async def read_voids(connection: Connection, session_id: int, call_ids: Collection[UUID]) -> list[Entry]:
    """The entries that take these calls of a session back, as far as they are charged; of a live session's
    slices, the last."""
    async with connection.cursor(row_factory=class_row(Entry)) as cursor:
        await cursor.execute(
            """
            SELECT latest.call_id, latest.slice, latest.tenant_id, latest.key_id, latest.meter,
                   -latest.units AS units, latest.model, latest.engine, latest.occurred_at,
                   %(id)s::bigint AS voided_from
            FROM unnest(%(call_ids)s::text::uuid[]) AS flying (call_id)
            CROSS JOIN LATERAL (
                SELECT * FROM billing.usage_row usage WHERE usage.call_id = flying.call_id
                ORDER BY usage.slice DESC, usage.entry DESC LIMIT 1
            ) AS latest
            WHERE latest.entry %% 2 = 0
            """,
            {"id": session_id, "call_ids": uuid_array(call_ids)},
        )
        return await cursor.fetchall()
