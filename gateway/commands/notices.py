"""`aiaas webhook` and `aiaas alert`: what tenants are warned of, and where it is sent."""

from datetime import UTC, datetime
from typing import Any

import click

from billing.alerts import list_alerts
from billing.store.alerts import AlertRow
from billing.store.webhooks import WebhookRow
from billing.webhooks import (
    IssuedWebhook,
    add_webhook,
    list_webhooks,
    remove_webhook,
    rotate_secret,
    send_test,
)
from gateway.commands.running import as_json, echo_json, moment, settings_from, table, with_pool
from infra.database import Pool
from tenants.tenants import show_tenant


@click.group()
def webhook() -> None:
    """Where a tenant's alerts are sent, signed (see standardwebhooks.com)."""


@webhook.command("add")
@click.option("--tenant", "tenant_id", required=True, help="Whose alerts are sent.")
@click.argument("url")
@as_json
def webhook_add(tenant_id: str, url: str, json: bool) -> None:
    """Send a tenant's alerts to URL. The secret that signs them is shown once, here."""
    private_allowed = settings_from({}).webhooks_may_reach_private_addresses
    issued = with_pool(lambda pool: add_webhook(pool, tenant_id, url, private_allowed=private_allowed))
    _show_issued(issued, json)


@webhook.command("list")
@click.option("--tenant", "tenant_id", help="Only this tenant's. [default: everyone's]")
@as_json
def webhook_list(tenant_id: str | None, json: bool) -> None:
    """List webhooks, oldest first, and how their last delivery went."""
    found = with_pool(lambda pool: list_webhooks(pool, tenant_id))
    if json:
        echo_json({"webhooks": found})
        return
    rows = [[one.webhook_id, one.tenant_id, one.url, _state(one), str(one.pending)] for one in found]
    click.echo(table(["WEBHOOK", "TENANT", "URL", "STATE", "WAITING"], rows))


@webhook.command("remove")
@click.argument("webhook_id")
@as_json
def webhook_remove(webhook_id: str, json: bool) -> None:
    """Send nothing more to WEBHOOK_ID, also of what still waits."""
    with_pool(lambda pool: remove_webhook(pool, webhook_id))
    if json:
        echo_json({"webhook_id": webhook_id})
    else:
        click.echo(f"{webhook_id} is removed.")


@webhook.command("rotate")
@click.argument("webhook_id")
@as_json
def webhook_rotate(webhook_id: str, json: bool) -> None:
    """Put a new secret in place; for 24 hours the old one signs as well."""
    _show_issued(with_pool(lambda pool: rotate_secret(pool, webhook_id)), json)


@webhook.command("test")
@click.argument("webhook_id")
@as_json
def webhook_test(webhook_id: str, json: bool) -> None:
    """Send a message of type webhook.test to WEBHOOK_ID; `aiaas webhook list` shows how it went."""
    message_id = with_pool(lambda pool: send_test(pool, webhook_id, datetime.now(UTC)))
    if json:
        echo_json({"webhook_id": webhook_id, "message_id": message_id})
    else:
        click.echo(f"{message_id} is on its way.")


@click.group()
def alert() -> None:
    """What tenants were warned of."""


@alert.command("list")
@click.option("--tenant", "tenant_id", required=True, help="Whose alerts.")
@as_json
def alert_list(tenant_id: str, json: bool) -> None:
    """List a tenant's alerts, the newest first."""

    async def read(pool: Pool) -> list[AlertRow]:
        await show_tenant(pool, tenant_id)
        return await list_alerts(pool, tenant_id)

    found = with_pool(read)
    if json:
        echo_json({"alerts": found})
        return
    rows = [[moment(one.raised_at), one.type, one.data["message"]] for one in found]
    click.echo(table(["RAISED (UTC)", "TYPE", "WHAT"], rows))


def _show_issued(issued: IssuedWebhook, json: bool) -> None:
    shown = issued.webhook
    if json:
        fields: dict[str, Any] = {name: getattr(shown, name) for name in ("webhook_id", "tenant_id", "url")}
        echo_json({**fields, "secret": issued.secret.reveal()})
    else:
        click.echo(
            f"{shown.webhook_id}\n{issued.secret.reveal()}\nKeep the secret now: it is not shown again."
        )


def _state(shown: WebhookRow) -> str:
    if shown.disabled_at:
        return f"disabled ({shown.disabled_reason})"
    if shown.failing_since:
        return f"failing since {moment(shown.failing_since)} ({shown.last_error})"
    return "ok" if shown.attempted_at else "unused"
