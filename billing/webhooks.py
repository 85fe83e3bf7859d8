"""A tenant's webhooks: where its alerts are sent, in the format of Standard Webhooks."""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from billing import outbox
from billing.signatures import new_secret
from billing.store import webhooks as store
from billing.store.webhooks import WebhookRow
from billing.targets import check_url
from infra.database import Pool, borrow
from infra.errors import InvalidValueError, NotFoundError
from infra.ids import new_id
from infra.settings import Secret

_MOST_PER_TENANT: Final = 10
_MOST_LISTED: Final = 1000
_OLD_SECRET_SIGNS_FOR: Final = timedelta(hours=24)


class IssuedWebhook(msgspec.Struct, frozen=True):
    """A webhook with its signing secret, which is shown this once."""

    webhook: WebhookRow
    secret: Secret


async def add_webhook(pool: Pool, tenant_id: str, url: str, *, private_allowed: bool) -> IssuedWebhook:
    """Send a tenant's alerts to a URL from now on.

    Raises:
        InvalidValueError: the URL cannot be one, or the tenant has ten webhooks already.
        NotFoundError: the tenant has no billing account.
    """
    kept_url = check_url(url, private_allowed=private_allowed)
    webhook_id, secret = new_id("whk"), new_secret()
    async with borrow(pool) as connection, connection.transaction():
        if not await store.lock_account(connection, tenant_id):
            raise NotFoundError("This tenant has no billing account.", "tenant_id")
        if not await store.insert_webhook(
            connection, webhook_id, tenant_id, kept_url, secret, _MOST_PER_TENANT
        ):
            raise InvalidValueError(
                f"A tenant has {_MOST_PER_TENANT} webhooks at most. Remove one first.", "tenant_id"
            )
        webhook = await store.read_webhook(connection, webhook_id)
    assert webhook is not None
    return IssuedWebhook(webhook, secret)


async def list_webhooks(pool: Pool, tenant_id: str | None = None) -> list[WebhookRow]:
    """A tenant's webhooks, or for the vendor the first thousand of everyone's; secrets are not shown."""
    async with borrow(pool) as connection:
        return await store.read_webhooks(connection, tenant_id, _MOST_LISTED)


async def remove_webhook(pool: Pool, webhook_id: str) -> None:
    """Send nothing more to a webhook, what waits for it included.

    Raises:
        NotFoundError: there is none.
    """
    async with borrow(pool) as connection:
        if not await store.delete_webhook(connection, webhook_id):
            raise _no_webhook()


async def rotate_secret(pool: Pool, webhook_id: str) -> IssuedWebhook:
    """Sign with a new secret from now on, and for 24 hours with the one before as well.

    Raises:
        NotFoundError: there is no such webhook.
    """
    secret = new_secret()
    async with borrow(pool) as connection, connection.transaction():
        if not await store.replace_secret(connection, webhook_id, secret, _OLD_SECRET_SIGNS_FOR):
            raise _no_webhook()
        webhook = await store.read_webhook(connection, webhook_id)
    assert webhook is not None
    return IssuedWebhook(webhook, secret)


async def send_test(pool: Pool, webhook_id: str, now: datetime) -> str:
    """Send a message of the type `webhook.test` through the outbox; returns its id.

    Raises:
        NotFoundError: there is no such webhook.
        InvalidValueError: it is disabled.
    """
    async with borrow(pool) as connection, connection.transaction():
        webhook = await store.read_webhook(connection, webhook_id)
        if webhook is None:
            raise _no_webhook()
        if webhook.disabled_at is not None:
            raise InvalidValueError("This webhook is disabled. Remove it and add it again.", "webhook_id")
        data = {"tenant_id": webhook.tenant_id, "webhook_id": webhook_id}
        (message_id,) = await outbox.post(connection, [webhook_id], outbox.WEBHOOK_TEST, now, data)
    return message_id


def _no_webhook() -> NotFoundError:
    return NotFoundError("There is no such webhook.", "webhook_id")
