"""Jobs, written through the library's own interface into the caller's transaction."""

from contextlib import suppress
from datetime import datetime

from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued

from infra.database import Connection

SCHEMA = "procrastinate"
DELIVER = "billing.deliver"
COLLECT = "billing.collect"


async def defer_delivery(connection: Connection, message_id: str, due_at: datetime | None = None) -> None:
    """Have a worker send a message, at `due_at` or at once, if no such job waits already."""
    await _defer(connection, DELIVER, due_at, message_id=message_id)


async def defer_collecting(connection: Connection, invoice_id: str) -> None:
    """Have a worker see to the collection of an invoice, if no such job waits already."""
    await _defer(connection, COLLECT, invoice_id=invoice_id)


async def _defer(connection: Connection, name: str, due_at: datetime | None = None, **subject: str) -> None:
    """Add a job about one thing, if none about it waits.

    The library finds its tables by the search path, which is set for this transaction, or for this
    statement where there is none; every other statement names its schema.
    """
    (subject_id,) = subject.values()
    deferrer = App(connector=PsycopgConnector()).configure_task(
        name, connection=connection, queueing_lock=f"{name} {subject_id}", schedule_at=due_at
    )
    with suppress(AlreadyEnqueued):
        async with connection.transaction():
            await connection.execute("SELECT set_config('search_path', %(schema)s, true)", {"schema": SCHEMA})
            await deferrer.defer_async(**subject)


async def has_tables(connection: Connection) -> bool:
    """Whether the library's tables are there."""
    cursor = await connection.execute("SELECT to_regclass('procrastinate.procrastinate_jobs') IS NOT NULL")
    row = await cursor.fetchone()
    return row is not None and bool(row[0])
