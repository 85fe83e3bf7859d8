"""The audit trail as the database keeps it: written, and never changed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from infra.database import Connection


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that somebody did, or was refused.

    Attributes:
        actor: `staff:<staff_id>`, `os:<user>` for a command on the machine, `worker` for a job.
        subject: the id of what it was done to.
        detail: what else is to be known of it; no customer's content.
    """

    event_id: int
    at: datetime
    actor: str
    action: str
    subject: str
    refused: bool
    detail: dict[str, Any]


class NewEvent(msgspec.Struct, frozen=True):
    """An event about to be written; see `AuditEvent`."""

    actor: str
    action: str
    subject: str
    refused: bool = False
    detail: dict[str, Any] = {}


async def insert_events(connection: Connection, events: Sequence[NewEvent]) -> None:
    """Add events, in this order."""
    await connection.execute(
        """
        INSERT INTO billing.audit_event (actor, action, subject, refused, detail)
        SELECT given.event ->> 'actor', given.event ->> 'action', given.event ->> 'subject',
               (given.event ->> 'refused')::boolean, given.event -> 'detail'
        FROM jsonb_array_elements(%(events)s) WITH ORDINALITY AS given (event, place)
        ORDER BY given.place
        """,
        {"events": Jsonb(msgspec.to_builtins(events))},
    )


async def read_events(
    connection: Connection, subject: str | None, before: int | None, limit: int
) -> list[AuditEvent]:
    """The latest events, of one subject or of all, the newest first; `before`: those with a smaller id."""
    async with connection.cursor(row_factory=class_row(AuditEvent)) as cursor:
        await cursor.execute(
            """
            SELECT event_id, at, actor, action, subject, refused, detail FROM billing.audit_event
            WHERE (%(subject)s::text IS NULL OR subject = %(subject)s)
              AND (%(before)s::bigint IS NULL OR event_id < %(before)s)
            ORDER BY event_id DESC LIMIT %(limit)s
            """,
            {"subject": subject, "before": before, "limit": limit},
        )
        return await cursor.fetchall()
