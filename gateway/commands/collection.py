"""`aiaas collection`: invoices that are collected through Stripe."""

import sys
from datetime import UTC, datetime

import click

from billing.collecting.listing import (
    COMPARED_DAYS,
    MAX_PAGE,
    STATES,
    Collection,
    list_collections,
    show_collection,
)
from billing.collecting.outbox import enter, retry
from billing.store.collecting import State
from gateway.commands.acting import acting
from gateway.commands.running import (
    as_json,
    echo_json,
    moment,
    settings_from,
    table,
    with_pool,
)
from infra.database import Pool


@click.group()
def collection() -> None:
    """Invoices that are collected through Stripe."""


@collection.command("list")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="Only these. [default: all]"
)
@click.option("--after", help="Go on after this invoice, the last one of the page before.")
@click.option("--limit", type=click.IntRange(1, MAX_PAGE), default=MAX_PAGE, show_default=True)
@as_json
def collection_list(states: tuple[State, ...], after: str | None, limit: int, json: bool) -> None:
    """List where invoices stand at Stripe, the latest first.

    `failed` and `mismatch` wait for somebody: see REASON, mend it, then `aiaas collection retry`.
    """
    found = with_pool(lambda pool: list_collections(pool, states or STATES, after, limit))
    if json:
        echo_json({"collections": found})
        return
    rows = [[one.invoice_id, one.number, one.state, one.due, one.reason or ""] for one in found]
    click.echo(table(["INVOICE", "NUMBER", "STATE", "DUE", "REASON"], rows))


@collection.command("show")
@click.argument("invoice_id")
@as_json
def collection_show(invoice_id: str, json: bool) -> None:
    """Show where INVOICE_ID stands at Stripe."""
    _show(with_pool(lambda pool: show_collection(pool, invoice_id)), json)


@collection.command("add")
@click.argument("invoice_id")
@as_json
def collection_add(invoice_id: str, json: bool) -> None:
    """Have INVOICE_ID collected that was issued while collection was off."""

    async def add(pool: Pool) -> Collection:
        await enter(pool, invoice_id, await acting(pool))
        return await show_collection(pool, invoice_id)

    _show(with_pool(add), json)


@collection.command("retry")
@click.argument("invoice_id")
@as_json
def collection_retry(invoice_id: str, json: bool) -> None:
    """Begin anew with INVOICE_ID, which failed or mismatched, once its reason is seen to."""

    async def begin_anew(pool: Pool) -> Collection:
        await retry(pool, invoice_id, await acting(pool))
        return await show_collection(pool, invoice_id)

    _show(with_pool(begin_anew), json)


@collection.command("compare")
@click.option("--days", type=click.IntRange(1, 366), default=COMPARED_DAYS, show_default=True)
@as_json
def collection_compare(days: int, json: bool) -> None:
    """Compare all collected invoices with Stripe's, and apply what was missed; status 1 on differences.

    It needs STRIPE_API_KEY. The billing worker does the same once a day.
    """

    from billing.collecting.comparing import Comparison, compare
    from billing.collecting.switch import open_stripe

    async def compare_both(pool: Pool) -> Comparison:
        async with open_stripe(pool, settings_from({})) as stripe:
            return await compare(pool, stripe.api, stripe.collector, datetime.now(UTC), days)

    found = with_pool(compare_both)
    if json:
        echo_json(found)
    else:
        rows = [
            [one.kind, one.invoice_id or "", one.stripe_invoice_id or "", one.detail]
            for one in found.differences
        ]
        if rows:
            click.echo(table(["DIFFERENCE", "INVOICE", "AT STRIPE", "DETAIL"], rows))
        click.echo(
            f"{found.here} here, {found.there} at Stripe ({found.others} others): {len(rows)} differences"
        )
    if found.differences:
        sys.exit(1)


def _show(shown: Collection, json: bool) -> None:
    if json:
        echo_json(shown)
        return
    lines = {
        "invoice": f"{shown.number} ({shown.invoice_id}), {shown.invoice_status} here",
        "tenant": f"{shown.tenant_id}, month {shown.period}",
        "due": shown.due,
        "state": shown.state + (f": {shown.reason}" if shown.reason else ""),
        "at Stripe": f"{shown.stripe_invoice_id or 'nothing'}, {'live' if shown.livemode else 'test'} mode",
        "method": f"{shown.method}, delivered {moment(shown.delivered_at)}",
        "attempts": f"{shown.payment_attempts} to pay; {shown.failed_attempts} of ours failed in a row",
        "read": f"{moment(shown.checked_at)}, again at {moment(shown.look_again_at)}",
    }
    click.echo("\n".join(f"{name:<10}{text}" for name, text in lines.items()))
