"""The outbox: what a tenant is told is written in the transaction of what it tells, and sent after it.

A message and the job that sends it are rows: either both are committed with their cause, or neither is.
"""

from datetime import datetime
from typing import Any, Final

from billing.signatures import message_body
from billing.store import alerts as alert_store
from billing.store import jobs
from billing.store import webhooks as store
from billing.store.alerts import AlertRow, Occasion
from billing.store.webhooks import NewMessage
from infra.database import Connection
from infra.ids import new_id

CAP_THRESHOLD_REACHED: Final = "cap.threshold_reached"
USAGE_ANOMALY: Final = "usage.anomaly"
WEBHOOK_DISABLED: Final = "webhook.disabled"
WEBHOOK_TEST: Final = "webhook.test"


async def raise_alert(
    connection: Connection,
    tenant_id: str,
    type_: str,
    raised_at: datetime,
    occasion: Occasion,
    data: dict[str, Any],
) -> bool:
    """Write an alert and a message for each of the tenant's webhooks, in the caller's transaction.

    Args:
        data: what is said of it; `alert_id` and `tenant_id` are added.

    Returns:
        False, and nothing is written, when the occasion was told of before.
    """
    alert_id = new_id("alr")
    told = {"alert_id": alert_id, "tenant_id": tenant_id, **data}
    if not await alert_store.insert_alert(
        connection, AlertRow(alert_id, tenant_id, type_, raised_at, told), occasion
    ):
        return False
    webhook_ids = await store.read_enabled(connection, tenant_id)
    await post(connection, webhook_ids, type_, raised_at, told, alert_id)
    return True


async def post(
    connection: Connection,
    webhook_ids: list[str],
    type_: str,
    occurred_at: datetime,
    data: dict[str, Any],
    alert_id: str | None = None,
) -> list[str]:
    """Write a message to each of the webhooks, in the caller's transaction; returns the messages' ids."""
    body = message_body(type_, occurred_at, data).decode()
    messages = [NewMessage(new_id("msg"), webhook_id, body) for webhook_id in webhook_ids]
    await store.insert_messages(connection, type_, alert_id, messages)
    for message in messages:
        await jobs.defer_delivery(connection, message.message_id)
    return [message.message_id for message in messages]
