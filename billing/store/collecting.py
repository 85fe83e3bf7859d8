"""Invoices that are collected through Stripe, its customers and its events."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from psycopg.rows import class_row

from infra.database import Connection

Method = Literal["send", "charge"]
State = Literal[
    "waiting",
    "failed",
    "mismatch",
    "open",
    "past_due",
    "payment_failed",
    "action_required",
    "paid",
    "uncollectible",
    "void",
    "withdrawn",
]


class CollectorRow(msgspec.Struct, frozen=True):
    """How invoices are collected from now on; no method: by hand."""

    method: Any
    livemode: bool


class CollectionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One invoice on its way through Stripe: a row of the view `billing.collected_invoice`.

    Attributes:
        invoice_status: how it stands here.
        customer_id: the tenant's at Stripe, in this mode.
        due_minor: in the ledger's minor units; `credited_minor` of it was taken off by credit notes.
        payment_attempts: as Stripe counts them.
        due_at: when it is looked at next.
        attempts: that failed in a row.
        series: part of the idempotency keys.
        read_at: the database's clock when this was read.
    """

    invoice_id: str
    tenant_id: str
    period: str
    revision: int
    invoice_status: Any
    number: str
    currency: str
    due_minor: int
    livemode: bool
    method: Any
    entered_at: datetime
    state: Any
    reason: str | None
    customer_id: str | None
    stripe_invoice_id: str | None
    delivered_at: datetime | None
    payment_attempts: int
    checked_at: datetime | None
    due_at: datetime | None
    attempts: int
    series: int
    read_at: datetime
    credited_minor: int


class ContactRow(msgspec.Struct, frozen=True):
    """Whom Stripe writes to, as the tenant's billing profile has it now."""

    name: str
    email: str
    language: str


async def read_collector(connection: Connection) -> CollectorRow:
    """How invoices are collected from now on."""
    async with connection.cursor(row_factory=class_row(CollectorRow)) as cursor:
        await cursor.execute("SELECT method, livemode FROM billing.collector")
        found = await cursor.fetchone()
    assert found is not None, "the row is made with its table"
    return found


async def set_collector(connection: Connection, method: Method | None, livemode: bool) -> bool:
    """Say how invoices are collected from now on; False where it was so before."""
    cursor = await connection.execute(
        """
        UPDATE billing.collector SET method = %(method)s, livemode = %(livemode)s, set_at = now()
        WHERE (method, livemode) IS DISTINCT FROM (%(method)s, %(livemode)s)
        """,
        {"method": method, "livemode": livemode},
    )
    return cursor.rowcount == 1


async def insert_collection(connection: Connection, invoice_id: str, method: Method, livemode: bool) -> bool:
    """Have an invoice collected; False where it is already."""
    cursor = await connection.execute(
        """
        INSERT INTO billing.collection (invoice_id, method, livemode)
        VALUES (%(invoice_id)s, %(method)s, %(livemode)s) ON CONFLICT DO NOTHING
        """,
        {"invoice_id": invoice_id, "method": method, "livemode": livemode},
    )
    return cursor.rowcount == 1


async def read_collection(connection: Connection, invoice_id: str) -> CollectionRow | None:
    """One invoice's."""
    async with connection.cursor(row_factory=class_row(CollectionRow)) as cursor:
        await cursor.execute(
            "SELECT * FROM billing.collected_invoice WHERE invoice_id = %(invoice_id)s",
            {"invoice_id": invoice_id},
        )
        return await cursor.fetchone()


async def read_collections(
    connection: Connection, states: Sequence[str], after: str | None, limit: int
) -> list[CollectionRow]:
    """Those in one of these states, the latest first; `after` is the last one of the page before."""
    async with connection.cursor(row_factory=class_row(CollectionRow)) as cursor:
        await cursor.execute(
            """
            SELECT * FROM billing.collected_invoice
            WHERE state = ANY(%(states)s)
              AND (%(after)s::text IS NULL OR (entered_at, invoice_id) < (
                  SELECT entered_at, invoice_id FROM billing.collection WHERE invoice_id = %(after)s))
            ORDER BY entered_at DESC, invoice_id DESC LIMIT %(limit)s
            """,
            {"states": list(states), "after": after, "limit": limit},
        )
        return await cursor.fetchall()


async def read_unsettled_or_since(
    connection: Connection, livemode: bool, since: datetime, after: str, limit: int
) -> list[CollectionRow]:
    """Those entered since, and all that are not done with, by id."""
    async with connection.cursor(row_factory=class_row(CollectionRow)) as cursor:
        await cursor.execute(
            """
            SELECT * FROM billing.collected_invoice
            WHERE livemode = %(livemode)s AND invoice_id > %(after)s
              AND (entered_at >= %(since)s OR state <> ALL ('{paid,void,withdrawn}'))
            ORDER BY invoice_id LIMIT %(limit)s
            """,
            {"livemode": livemode, "since": since, "after": after, "limit": limit},
        )
        return await cursor.fetchall()


async def read_due(connection: Connection, livemode: bool, limit: int) -> list[str]:
    """Invoices to look at now, the longest due first."""
    cursor = await connection.execute(
        """
        SELECT invoice_id FROM billing.collection
        WHERE due_at <= now() AND livemode = %(livemode)s ORDER BY due_at LIMIT %(limit)s
        """,
        {"livemode": livemode, "limit": limit},
    )
    return [invoice_id for (invoice_id,) in await cursor.fetchall()]


async def claim(connection: Connection, invoice_id: str, livemode: bool, lease: timedelta) -> bool:
    """Take an invoice that is due, until the lease is over; False where somebody else has it.

    Whatever happens to it meanwhile makes it due again, which `release` respects.
    """
    cursor = await connection.execute(
        """
        UPDATE billing.collection SET due_at = now() + %(lease)s, attempts = attempts + 1
        WHERE invoice_id = %(invoice_id)s AND livemode = %(livemode)s AND due_at <= now()
        """,
        {"invoice_id": invoice_id, "livemode": livemode, "lease": lease},
    )
    return cursor.rowcount == 1


async def release(
    connection: Connection, invoice_id: str, lease_ends_at: datetime | None, due_in: timedelta | None
) -> None:
    """Say when to look again, unless something happened since `claim`: then it is due already."""
    await connection.execute(
        """
        UPDATE billing.collection SET due_at = now() + %(due_in)s
        WHERE invoice_id = %(invoice_id)s AND due_at = %(lease_ends_at)s
        """,
        {"invoice_id": invoice_id, "lease_ends_at": lease_ends_at, "due_in": due_in},
    )


async def wake(connection: Connection, invoice_ids: Sequence[str]) -> None:
    """Have these looked at now."""
    await connection.execute(
        "UPDATE billing.collection SET due_at = now() WHERE invoice_id = ANY(%(ids)s)",
        {"ids": list(invoice_ids)},
    )


async def set_retried(connection: Connection, invoice_id: str) -> None:
    """Begin anew: what is at Stripe is looked for, and requests are new ones."""
    await connection.execute(
        """
        UPDATE billing.collection
        SET state = 'waiting', reason = NULL, stripe_invoice_id = NULL, attempts = 0, series = series + 1,
            due_at = now()
        WHERE invoice_id = %(invoice_id)s
        """,
        {"invoice_id": invoice_id},
    )


async def set_customer(connection: Connection, tenant_id: str, livemode: bool, customer_id: str) -> str:
    """Note a tenant's customer; returns the one on record, which is the first that was noted."""
    cursor = await connection.execute(
        """
        INSERT INTO billing.stripe_customer AS customer (tenant_id, livemode, customer_id)
        VALUES (%(tenant_id)s, %(livemode)s, %(customer_id)s)
        ON CONFLICT (tenant_id, livemode) DO UPDATE SET customer_id = customer.customer_id
        RETURNING customer_id
        """,
        {"tenant_id": tenant_id, "livemode": livemode, "customer_id": customer_id},
    )
    row = await cursor.fetchone()
    assert row is not None, "inserted or updated"
    return str(row[0])


async def set_stripe_invoice(connection: Connection, invoice_id: str, stripe_invoice_id: str | None) -> None:
    """Note which invoice at Stripe it is; None: there is none any more."""
    await connection.execute(
        """
        UPDATE billing.collection SET stripe_invoice_id = %(stripe_invoice_id)s
        WHERE invoice_id = %(invoice_id)s
        """,
        {"invoice_id": invoice_id, "stripe_invoice_id": stripe_invoice_id},
    )


async def set_delivered(connection: Connection, invoice_id: str) -> None:
    """Note that it was sent, or charged for the first time."""
    await connection.execute(
        """
        UPDATE billing.collection SET delivered_at = coalesce(delivered_at, now())
        WHERE invoice_id = %(invoice_id)s
        """,
        {"invoice_id": invoice_id},
    )


async def set_state(
    connection: Connection,
    invoice_id: str,
    state: State,
    reason: str | None,
    payment_attempts: int | None = None,
) -> bool:
    """Note how it stands, when that was found out just now; False where that is no news."""
    cursor = await connection.execute(
        """
        UPDATE billing.collection collection
        SET state = %(state)s, reason = %(reason)s, checked_at = now(), attempts = 0,
            payment_attempts = coalesce(%(payment_attempts)s, collection.payment_attempts)
        FROM billing.collection before
        WHERE collection.invoice_id = %(invoice_id)s AND before.invoice_id = collection.invoice_id
        RETURNING (before.state, before.reason) IS DISTINCT FROM (collection.state, collection.reason)
        """,
        {
            "invoice_id": invoice_id,
            "state": state,
            "reason": reason,
            "payment_attempts": payment_attempts,
        },
    )
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def set_retry(
    connection: Connection,
    invoice_id: str,
    lease_ends_at: datetime | None,
    due_in: timedelta,
    reason: str,
    new_series: bool,
) -> None:
    """Note why an attempt failed, and when it is tried again."""
    await connection.execute(
        """
        UPDATE billing.collection SET reason = %(reason)s, series = series + %(new_series)s::int
        WHERE invoice_id = %(invoice_id)s
        """,
        {"invoice_id": invoice_id, "reason": reason, "new_series": new_series},
    )
    await release(connection, invoice_id, lease_ends_at, due_in)


async def read_contact(connection: Connection, tenant_id: str) -> ContactRow:
    """A tenant's name, e-mail and language."""
    async with connection.cursor(row_factory=class_row(ContactRow)) as cursor:
        await cursor.execute(
            "SELECT name, email, language FROM billing.profile WHERE tenant_id = %(tenant_id)s",
            {"tenant_id": tenant_id},
        )
        found = await cursor.fetchone()
    assert found is not None, "who has an invoice has a profile"
    return found
