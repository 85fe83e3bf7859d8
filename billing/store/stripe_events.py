"""Events of Stripe, each kept once."""

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from infra.database import Connection


class NewStripeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it came in; `invoice_id` where it is about a collected invoice of ours."""

    event_id: str
    type: str
    livemode: bool
    api_version: str | None
    invoice_id: str | None
    outcome: Literal["received", "ignored"]
    reason: str | None


async def find_collection(
    connection: Connection, stripe_invoice_id: str | None, invoice_id: str | None
) -> tuple[str, bool] | None:
    """The collection (its invoice and whether it is live) of an invoice at Stripe, by that one's id or, while
    that is not on record yet, by ours.
    """
    cursor = await connection.execute(
        """
        SELECT invoice_id, livemode FROM billing.collection
        WHERE stripe_invoice_id = %(stripe_invoice_id)s
           OR (invoice_id = %(invoice_id)s AND stripe_invoice_id IS NULL)
        """,
        {"stripe_invoice_id": stripe_invoice_id, "invoice_id": invoice_id},
    )
    row = await cursor.fetchone()
    return (str(row[0]), bool(row[1])) if row else None


async def insert_event(connection: Connection, event: NewStripeEvent) -> bool:
    """Keep an event; False where it came before."""
    cursor = await connection.execute(
        """
        INSERT INTO billing.stripe_event (
            event_id, type, livemode, api_version, invoice_id, outcome, reason, handled_at)
        VALUES (%(event_id)s, %(type)s, %(livemode)s, %(api_version)s, %(invoice_id)s, %(outcome)s,
                %(reason)s, CASE WHEN %(outcome)s = 'ignored' THEN now() END)
        ON CONFLICT DO NOTHING
        """,
        msgspec.structs.asdict(event),
    )
    return cursor.rowcount == 1


async def set_events_applied(connection: Connection, invoice_id: str, read_at: datetime) -> None:
    """Mark an invoice's events as handled that had come in when Stripe was asked about it."""
    await connection.execute(
        """
        UPDATE billing.stripe_event SET outcome = 'applied', handled_at = now()
        WHERE invoice_id = %(invoice_id)s AND outcome = 'received' AND received_at <= %(read_at)s
        """,
        {"invoice_id": invoice_id, "read_at": read_at},
    )


async def delete_events(connection: Connection, age: timedelta, limit: int) -> int:
    """Delete events that were handled long ago; returns how many."""
    cursor = await connection.execute(
        """
        DELETE FROM billing.stripe_event WHERE event_id IN (
            SELECT event_id FROM billing.stripe_event
            WHERE outcome <> 'received' AND received_at < now() - %(age)s
            ORDER BY received_at LIMIT %(limit)s)
        """,
        {"age": age, "limit": limit},
    )
    return cursor.rowcount
