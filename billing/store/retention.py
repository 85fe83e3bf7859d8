"""Partitions of the usage rows."""

from datetime import datetime

import msgspec
from psycopg import sql
from psycopg.rows import class_row

from infra.database import Connection


class Partition(msgspec.Struct, frozen=True):
    """The usage rows whose call ids were made in `[begins_at, ends_at)`; None: from the beginning."""

    partition: str
    begins_at: datetime | None
    ends_at: datetime
    detached_at: datetime | None


async def make_partitions(connection: Connection) -> None:
    """Make the partitions of this month and of the next two, as far as they are missing."""
    await connection.execute("SELECT billing.make_usage_partitions(now())")


async def read_partitions(connection: Connection) -> list[Partition]:
    """All partitions, the oldest first."""
    async with connection.cursor(row_factory=class_row(Partition)) as cursor:
        await cursor.execute(
            """
            SELECT partition, nullif(begins_at, '-infinity') AS begins_at, ends_at, detached_at
            FROM billing.usage_partition ORDER BY ends_at
            """
        )
        return await cursor.fetchall()


async def has_open_months(connection: Connection, before: datetime) -> bool:
    """Whether a month that began before then is open, or not sealed yet: its usage rows are needed."""
    cursor = await connection.execute(
        """
        SELECT EXISTS (SELECT FROM billing.period WHERE sealed_at IS NULL AND starts_at < %(before)s)
        """,
        {"before": before},
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def detach(connection: Connection, partition: str) -> None:
    """Make a partition a table of its own. In a transaction."""
    await connection.execute(
        sql.SQL("ALTER TABLE billing.usage_row DETACH PARTITION billing.{}").format(sql.Identifier(partition))
    )
    await connection.execute(
        "UPDATE billing.usage_partition SET detached_at = now() WHERE partition = %(partition)s",
        {"partition": partition},
    )
