"""Jobs, written through the library's own interface into the caller's transaction."""

from contextlib import suppress
from datetime import datetime

from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued

from infra.database import Connection

SCHEMA = "procrastinate"
DELIVER = "billing.deliver"


async def defer_delivery(connection: Connection, message_id: str, due_at: datetime | None = None) -> None:
    """Have a worker send a message, at `due_at` or at once; nothing is added where such a job waits already.

    The library finds its tables by the search path, which is set for this transaction, or for this
    statement where there is none; every other statement names its schema.
    """
    deferrer = App(connector=PsycopgConnector()).configure_task(
        DELIVER, connection=connection, queueing_lock=f"{DELIVER} {message_id}", schedule_at=due_at
    )
    with suppress(AlreadyEnqueued):
        async with connection.transaction():
            await connection.execute("SELECT set_config('search_path', %(schema)s, true)", {"schema": SCHEMA})
            await deferrer.defer_async(message_id=message_id)


async def has_tables(connection: Connection) -> bool:
    """Whether the library's tables are there."""
    cursor = await connection.execute("SELECT to_regclass('procrastinate.procrastinate_jobs') IS NOT NULL")
    row = await cursor.fetchone()
    return row is not None and bool(row[0])
