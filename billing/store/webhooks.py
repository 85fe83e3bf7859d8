"""Webhooks and the outbox of their messages."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from psycopg.rows import class_row, dict_row

from infra.database import Connection
from infra.settings import Secret


class WebhookRow(msgspec.Struct, frozen=True):
    """A webhook without its secrets, and how it does.

    Attributes:
        failing_since: the first failure after the last delivery.
        pending: messages that still will be tried.
        last_status: HTTP's, of the last attempt of any message; None where there was no answer.
        last_error: what went wrong in that attempt.
    """

    webhook_id: str
    tenant_id: str
    url: str
    created_at: datetime
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_reason: str | None
    pending: int
    attempted_at: datetime | None
    last_status: int | None
    last_error: str | None


class NewMessage(msgspec.Struct, frozen=True):
    """A message to one webhook, about to be written."""

    message_id: str
    webhook_id: str
    body: str


class ClaimedMessage(msgspec.Struct, frozen=True):
    """A message that is this worker's to send, now.

    Attributes:
        attempts: how many there are with this one; names the attempt.
        signing: the secret, and after a rotation the one before.
    """

    message_id: str
    webhook_id: str
    url: str
    body: bytes
    attempts: int
    signing: tuple[Secret, ...]


class Health(msgspec.Struct, frozen=True):
    """A webhook's tenant, and for how long it has been failing; None where it has not."""

    tenant_id: str
    failing_for: timedelta | None


_WEBHOOK = """
    SELECT webhook.webhook_id, webhook.tenant_id, webhook.url, webhook.created_at, webhook.failing_since,
           webhook.disabled_at, webhook.disabled_reason, coalesce(waiting.messages, 0) AS pending,
           last.attempted_at, last.last_status, last.last_error
    FROM billing.webhook
    LEFT JOIN LATERAL (
        SELECT count(*) AS messages FROM billing.webhook_message message
        WHERE message.webhook_id = webhook.webhook_id AND message.state = 'pending'
    ) AS waiting ON true
    LEFT JOIN LATERAL (
        SELECT message.attempted_at, message.last_status, message.last_error
        FROM billing.webhook_message message
        WHERE message.webhook_id = webhook.webhook_id AND message.attempted_at IS NOT NULL
        ORDER BY message.attempted_at DESC LIMIT 1
    ) AS last ON true
"""


async def lock_account(connection: Connection, tenant_id: str) -> bool:
    """Have the tenant's webhooks added one at a time, in the transaction; False where there is no account."""
    cursor = await connection.execute(
        "SELECT FROM billing.account WHERE tenant_id = %(tenant_id)s FOR NO KEY UPDATE",
        {"tenant_id": tenant_id},
    )
    return cursor.rowcount == 1


async def insert_webhook(
    connection: Connection, webhook_id: str, tenant_id: str, url: str, secret: Secret, most: int
) -> bool:
    """Add a webhook, unless the tenant has `most` already. Call it under `lock_account`."""
    cursor = await connection.execute(
        """
        INSERT INTO billing.webhook (webhook_id, tenant_id, url, secret)
        SELECT %(webhook_id)s, %(tenant_id)s, %(url)s, %(secret)s
        WHERE (SELECT count(*) FROM billing.webhook WHERE tenant_id = %(tenant_id)s) < %(most)s
        """,
        {
            "webhook_id": webhook_id,
            "tenant_id": tenant_id,
            "url": url,
            "secret": secret.reveal(),
            "most": most,
        },
    )
    return cursor.rowcount == 1


async def read_webhook(connection: Connection, webhook_id: str) -> WebhookRow | None:
    """One webhook; for the vendor, as it names no tenant."""
    async with connection.cursor(row_factory=class_row(WebhookRow)) as cursor:
        await cursor.execute(
            f"{_WEBHOOK} WHERE webhook.webhook_id = %(webhook_id)s",
            {"webhook_id": webhook_id},
        )
        return await cursor.fetchone()


async def read_webhooks(connection: Connection, tenant_id: str | None, limit: int) -> list[WebhookRow]:
    """A tenant's webhooks, or for the vendor everyone's, oldest first."""
    async with connection.cursor(row_factory=class_row(WebhookRow)) as cursor:
        await cursor.execute(
            f"""{_WEBHOOK}
            WHERE %(tenant_id)s::text IS NULL OR webhook.tenant_id = %(tenant_id)s
            ORDER BY webhook.tenant_id, webhook.created_at, webhook.webhook_id LIMIT %(limit)s
            """,
            {"tenant_id": tenant_id, "limit": limit},
        )
        return await cursor.fetchall()


async def delete_webhook(connection: Connection, webhook_id: str) -> bool:
    """Remove a webhook with its messages; False where there is none."""
    cursor = await connection.execute(
        "DELETE FROM billing.webhook WHERE webhook_id = %(webhook_id)s", {"webhook_id": webhook_id}
    )
    return cursor.rowcount == 1


async def replace_secret(connection: Connection, webhook_id: str, secret: Secret, overlap: timedelta) -> bool:
    """Put a new secret in place; the one before signs too until `overlap` is over. False where none is."""
    cursor = await connection.execute(
        """
        UPDATE billing.webhook
        SET secret = %(secret)s, previous_secret = secret, previous_secret_until = now() + %(overlap)s
        WHERE webhook_id = %(webhook_id)s
        """,
        {"webhook_id": webhook_id, "secret": secret.reveal(), "overlap": overlap},
    )
    return cursor.rowcount == 1


async def read_enabled(connection: Connection, tenant_id: str) -> list[str]:
    """The ids of the tenant's webhooks that are sent to; they stay until the transaction ends."""
    cursor = await connection.execute(
        """
        SELECT webhook_id FROM billing.webhook WHERE tenant_id = %(tenant_id)s AND disabled_at IS NULL
        ORDER BY webhook_id FOR KEY SHARE
        """,
        {"tenant_id": tenant_id},
    )
    return [webhook_id for (webhook_id,) in await cursor.fetchall()]


async def insert_messages(
    connection: Connection, type_: str, alert_id: str | None, messages: Sequence[NewMessage]
) -> None:
    """Write messages of one kind to the outbox, due now."""
    await connection.execute(
        """
        INSERT INTO billing.webhook_message (message_id, webhook_id, alert_id, type, body)
        SELECT given.message_id, given.webhook_id, %(alert_id)s, %(type)s, given.body
        FROM unnest(%(message_ids)s::text[], %(webhook_ids)s::text[], %(bodies)s::text[])
             AS given (message_id, webhook_id, body)
        """,
        {
            "type": type_,
            "alert_id": alert_id,
            "message_ids": [message.message_id for message in messages],
            "webhook_ids": [message.webhook_id for message in messages],
            "bodies": [message.body for message in messages],
        },
    )


async def claim_message(connection: Connection, message_id: str, lease: timedelta) -> ClaimedMessage | None:
    """Begin an attempt: count it, and keep others from the message until `lease` is over.

    None where it is not due, is done with, or its webhook is disabled or gone.
    """
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            UPDATE billing.webhook_message message
            SET attempts = message.attempts + 1, attempted_at = now(), due_at = now() + %(lease)s
            FROM billing.webhook
            WHERE message.message_id = %(message_id)s AND message.state = 'pending'
              AND message.due_at <= now()
              AND webhook.webhook_id = message.webhook_id AND webhook.disabled_at IS NULL
            RETURNING message.message_id, message.webhook_id, webhook.url, message.body, message.attempts,
                      webhook.secret,
                      CASE WHEN webhook.previous_secret_until > now() THEN webhook.previous_secret END
                          AS previous_secret
            """,
            {"message_id": message_id, "lease": lease},
        )
        row = await cursor.fetchone()
    return _claimed(row) if row else None


def _claimed(row: dict[str, Any]) -> ClaimedMessage:
    return ClaimedMessage(
        message_id=row["message_id"],
        webhook_id=row["webhook_id"],
        url=row["url"],
        body=row["body"].encode(),
        attempts=row["attempts"],
        signing=tuple(Secret(text) for text in (row["secret"], row["previous_secret"]) if text),
    )


async def record_attempt(
    connection: Connection,
    claimed: ClaimedMessage,
    state: str,
    due_in: timedelta,
    status: int | None,
    error: str | None,
) -> datetime | None:
    """How an attempt ended, and when the message is due again; None where a later attempt has begun."""
    cursor = await connection.execute(
        """
        UPDATE billing.webhook_message
        SET state = %(state)s, due_at = now() + %(due_in)s, last_status = %(status)s, last_error = %(error)s
        WHERE message_id = %(message_id)s AND attempts = %(attempts)s AND state = 'pending'
        RETURNING due_at
        """,
        {
            "message_id": claimed.message_id,
            "attempts": claimed.attempts,
            "state": state,
            "due_in": due_in,
            "status": status,
            "error": error,
        },
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def lock_webhook(connection: Connection, webhook_id: str) -> Health | None:
    """Lock a webhook before its messages, as everyone does who changes both; None where it is gone."""
    async with connection.cursor(row_factory=class_row(Health)) as cursor:
        await cursor.execute(
            """
            SELECT tenant_id, now() - failing_since AS failing_for FROM billing.webhook
            WHERE webhook_id = %(webhook_id)s FOR NO KEY UPDATE
            """,
            {"webhook_id": webhook_id},
        )
        return await cursor.fetchone()


async def note_health(connection: Connection, webhook_id: str, delivered: bool) -> None:
    """Keep since when a webhook has been failing; a delivery ends that. Call it under `lock_webhook`."""
    await connection.execute(
        """
        UPDATE billing.webhook
        SET failing_since = CASE WHEN %(delivered)s THEN NULL ELSE coalesce(failing_since, now()) END
        WHERE webhook_id = %(webhook_id)s AND (failing_since IS NOT NULL) = %(delivered)s
        """,
        {"webhook_id": webhook_id, "delivered": delivered},
    )


async def disable_webhook(connection: Connection, webhook_id: str, reason: str) -> bool:
    """Send no more to a webhook and give up what waits for it; False where that was done before.

    Call it under `lock_webhook`.
    """
    cursor = await connection.execute(
        """
        UPDATE billing.webhook SET disabled_at = now(), disabled_reason = %(reason)s
        WHERE webhook_id = %(webhook_id)s AND disabled_at IS NULL
        """,
        {"webhook_id": webhook_id, "reason": reason},
    )
    await connection.execute(
        """
        UPDATE billing.webhook_message SET state = 'given_up'
        WHERE webhook_id = %(webhook_id)s AND state = 'pending'
        """,
        {"webhook_id": webhook_id},
    )
    return cursor.rowcount == 1


async def read_overdue(connection: Connection, overdue: timedelta, limit: int) -> list[str]:
    """Messages that should have been tried a while ago: their job is lost, or its worker died."""
    cursor = await connection.execute(
        """
        SELECT message_id FROM billing.webhook_message
        WHERE state = 'pending' AND due_at < now() - %(overdue)s ORDER BY due_at LIMIT %(limit)s
        """,
        {"overdue": overdue, "limit": limit},
    )
    return [message_id for (message_id,) in await cursor.fetchall()]


async def delete_finished(connection: Connection, age: timedelta, limit: int) -> int:
    """Delete messages that were done with long ago; returns how many."""
    cursor = await connection.execute(
        """
        DELETE FROM billing.webhook_message WHERE message_id IN (
            SELECT message_id FROM billing.webhook_message
            WHERE state <> 'pending' AND created_at < now() - %(age)s ORDER BY created_at LIMIT %(limit)s)
        """,
        {"age": age, "limit": limit},
    )
    return cursor.rowcount
