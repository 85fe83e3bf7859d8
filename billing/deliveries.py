"""Delivery of the outbox: at least once, one attempt of a message at a time, fewer and fewer as they fail.

An attempt first moves the message's due time ahead by twice what an attempt may take, in one statement, and
then sends: whoever comes second finds it not due. If the worker dies, the message comes due again by itself,
under the same `webhook-id`, by which its receiver tells a repeat.
"""

import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from billing import outbox
from billing.signatures import signed_headers
from billing.store import jobs
from billing.store import webhooks as store
from billing.store.alerts import Occasion
from billing.store.webhooks import ClaimedMessage
from billing.targets import Answer, NotSentError, WebhookClient
from infra.database import Connection, Pool, borrow, delete_in_pages
from infra.logs import event

MOST_ATTEMPTS: Final = 10
FIRST_RETRY_MS: Final = 8000
_GROWTH: Final = 3  # 8 s, 24 s, ..., 14.6 h: ten attempts take about a day
_JITTER_PERCENT: Final = 20
_LONGEST_RETRY_AFTER: Final = timedelta(hours=1)
_FAILING_TOO_LONG: Final = timedelta(days=3)
_OVERDUE: Final = timedelta(seconds=2)
_KEPT: Final = timedelta(days=90)
_PAGE: Final = 1000
_GONE: Final = 410

DELIVERED: Final = "delivered"
PENDING: Final = "pending"
GIVEN_UP: Final = "given_up"

_SAID: Final = {
    "gone": "its receiver answered 410 Gone",
    "failing": "nothing was delivered for three days",
}


class _Ending(msgspec.Struct, frozen=True):
    """How an attempt ended."""

    state: str
    due_in: timedelta
    status: int | None
    error: str | None


class Deliveries:
    """Sends what is in the outbox. One event loop; any number of processes over one database.

    Args:
        count: called with the outcome of each attempt: `delivered`, `failed` or `given_up`.
        timeout_s: what an attempt of the client takes at most.
        first_retry_ms: the first pause after a failure.
    """

    def __init__(
        self,
        pool: Pool,
        client: WebhookClient,
        count: Callable[[str], None],
        *,
        timeout_s: float,
        first_retry_ms: int = FIRST_RETRY_MS,
    ) -> None:
        self._pool = pool
        self._client = client
        self._count = count
        self._lease = timedelta(seconds=2 * timeout_s)
        self._first_retry_ms = first_retry_ms

    async def deliver(self, message_id: str) -> None:
        """Try a message once, if it is due and nobody else is at it, and see to the next attempt."""
        async with borrow(self._pool) as connection:
            claimed = await store.claim_message(connection, message_id, self._lease)
        if claimed is None:
            return
        ending = await self._attempt(claimed)
        async with borrow(self._pool) as connection, connection.transaction():
            await _record(connection, claimed, ending)
        self._count("failed" if ending.state == PENDING else ending.state)

    async def take_up_overdue(self) -> int:
        """See to messages whose job is lost, as when a worker died; returns how many there are."""
        async with borrow(self._pool) as connection:
            overdue = await store.read_overdue(connection, _OVERDUE, _PAGE)
            for message_id in overdue:
                await jobs.defer_delivery(connection, message_id)
        return len(overdue)

    async def forget_old(self) -> int:
        """Delete messages that were done with 90 days ago; returns how many. Alerts are kept."""
        return await delete_in_pages(
            self._pool, _PAGE, lambda connection: store.delete_finished(connection, _KEPT, _PAGE)
        )

    async def _attempt(self, claimed: ClaimedMessage) -> _Ending:
        headers = {
            "content-type": "application/json",
            "user-agent": "aiaas-gateway",
            **signed_headers(claimed.message_id, int(time.time()), claimed.body, claimed.signing),
        }
        try:
            answer = await self._client.post(claimed.url, headers, claimed.body)
        except NotSentError as error:
            return self._failed(claimed.attempts, None, error.reason)
        if 200 <= answer.status <= 299:
            return _Ending(DELIVERED, timedelta(), answer.status, None)
        return self._failed(claimed.attempts, answer, f"http_{answer.status}")

    def _failed(self, attempts: int, answer: Answer | None, error: str) -> _Ending:
        status = answer.status if answer else None
        if attempts >= MOST_ATTEMPTS or status == _GONE:
            return _Ending(GIVEN_UP, timedelta(), status, error)
        asked = timedelta(seconds=(answer.retry_after_s or 0) if answer else 0)
        pause = retry_pause(attempts, self._first_retry_ms)
        return _Ending(PENDING, max(pause, min(asked, _LONGEST_RETRY_AFTER)), status, error)


def retry_pause(attempts: int, first_ms: int) -> timedelta:
    """The pause after so many failed attempts: exponential, and longer by a fifth at most, by chance.

    Without the chance, what failed together would come back together.
    """
    percent = 100 + random.randint(0, _JITTER_PERCENT)  # noqa: S311 (it spreads load)
    return timedelta(milliseconds=first_ms * _GROWTH ** (attempts - 1) * percent // 100)


async def _record(connection: Connection, claimed: ClaimedMessage, ending: _Ending) -> None:
    health = await store.lock_webhook(connection, claimed.webhook_id)
    if health is None:
        return
    await store.note_health(connection, claimed.webhook_id, ending.state == DELIVERED)
    due_at = await store.record_attempt(
        connection, claimed, ending.state, ending.due_in, ending.status, ending.error
    )
    if due_at is not None and ending.state == PENDING:
        await jobs.defer_delivery(connection, claimed.message_id, due_at)
    if ending.state == GIVEN_UP:
        failing_for = health.failing_for or timedelta()
        if ending.status == _GONE:
            await _disable(connection, claimed.webhook_id, health.tenant_id, "gone")
        elif failing_for >= _FAILING_TOO_LONG:
            await _disable(connection, claimed.webhook_id, health.tenant_id, "failing")


async def _disable(connection: Connection, webhook_id: str, tenant_id: str, reason: str) -> None:
    """Disable a webhook and tell the tenant by its others, and in its list of alerts."""
    if await store.disable_webhook(connection, webhook_id, reason):
        event("webhooks", logging.WARNING, "webhook_disabled", {"webhook_id": webhook_id, "reason": reason})
        data = {
            "webhook_id": webhook_id,
            "reason": reason,
            "message": f"Webhook {webhook_id} is disabled: {_SAID[reason]}. Remove it and add it again.",
        }
        await outbox.raise_alert(
            connection, tenant_id, outbox.WEBHOOK_DISABLED, datetime.now(UTC), Occasion(), data
        )
