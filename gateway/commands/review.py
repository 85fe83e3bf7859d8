"""`aiaas invoice queue`, `approve`, `issue` and what else is done with an invoice; `aiaas audit`."""

from collections.abc import Awaitable, Callable

import click
import msgspec

from billing.audit import audit_trail
from billing.corrections import void, write_off
from billing.invoices import Invoice
from billing.issuing import Issued, approve, issue, issue_month, mark_paid, send_back
from billing.review import MAX_PAGE, ReviewItem, comment, comments, review_queue
from billing.store.review import Comment
from gateway.commands.acting import acting
from gateway.commands.money import PERIOD_HELP
from gateway.commands.running import as_json, echo_json, moment, table, with_pool
from infra.database import Pool

_invoice_id = click.argument("invoice_id")
_reason = click.option("--reason", required=True, help="Why; kept in the audit trail.")


@click.command("queue")
@click.option("--period", help=f"{PERIOD_HELP} [default: all]")
@click.option("--limit", type=click.IntRange(1, MAX_PAGE), default=50, show_default=True, help="How many.")
@click.option("--after", help="The position that the page before ended with.")
@as_json
def invoice_queue(period: str | None, limit: int, after: str | None, json: bool) -> None:
    """List invoices in review, the riskiest first, each with its reasons."""
    page = with_pool(lambda pool: review_queue(pool, period, after, limit))
    if json:
        echo_json(page)
        return
    if not page.invoices:
        click.echo("None in review.")
        return
    click.echo("\n\n".join(_described(item) for item in page.invoices))
    if page.has_more:
        click.echo(f"\n{page.in_review} in review; next: --after {page.invoices[-1].position}")


@click.command("approve")
@_invoice_id
@click.option("--sha256", help="The content's hash as you saw it. [default: what is there now]")
@as_json
def invoice_approve(invoice_id: str, sha256: str | None, json: bool) -> None:
    """Approve what INVOICE_ID says. Who made or changed it cannot."""
    _do(json, lambda pool, actor: approve(pool, invoice_id, actor, sha256))


@click.command("send-back")
@_invoice_id
@_reason
@as_json
def invoice_send_back(invoice_id: str, reason: str, json: bool) -> None:
    """Make INVOICE_ID a draft again, until its month is run again."""
    _do(json, lambda pool, actor: send_back(pool, invoice_id, actor, reason))


@click.command("issue")
@click.argument("invoice_id", required=False)
@click.option("--period", help=f"All approved invoices of the month. {PERIOD_HELP}")
@as_json
def invoice_issue(invoice_id: str | None, period: str | None, json: bool) -> None:
    """Issue INVOICE_ID, or with --period all that are approved: numbered, and never changed again.

    With --period one that is refused stops no other; the status is 1 when any was.
    """
    if (invoice_id is None) == (period is None):
        raise click.UsageError("Give an INVOICE_ID or --period.")
    if period is not None:
        _issue_month(period, json)
    elif invoice_id is not None:
        _do(json, lambda pool, actor: issue(pool, invoice_id, actor))


@click.command("pay")
@_invoice_id
@click.option("--reference", required=True, help="What the payment is known by, such as a bank's reference.")
@as_json
def invoice_pay(invoice_id: str, reference: str, json: bool) -> None:
    """Note that INVOICE_ID was paid."""
    _do(json, lambda pool, actor: mark_paid(pool, invoice_id, actor, reference))


@click.command("void")
@_invoice_id
@_reason
@click.option("--reissue", is_flag=True, help="The next run of its month makes the next revision.")
@as_json
def invoice_void(invoice_id: str, reason: str, reissue: bool, json: bool) -> None:
    """Void INVOICE_ID, which is issued and not paid. Its number stays used."""
    _do(json, lambda pool, actor: void(pool, invoice_id, actor, reason, reissue=reissue))


@click.command("write-off")
@_invoice_id
@_reason
@as_json
def invoice_write_off(invoice_id: str, reason: str, json: bool) -> None:
    """Give INVOICE_ID up as uncollectible. It may still be paid."""
    _do(json, lambda pool, actor: write_off(pool, invoice_id, actor, reason))


@click.command("comment")
@_invoice_id
@click.argument("text")
@as_json
def invoice_comment(invoice_id: str, text: str, json: bool) -> None:
    """Say TEXT of INVOICE_ID. It is no part of the invoice, and is never changed."""

    async def run(pool: Pool) -> Comment:
        return await comment(pool, invoice_id, await acting(pool), text)

    written = with_pool(run)
    if json:
        echo_json(written)


@click.command("comments")
@_invoice_id
@as_json
def invoice_comments(invoice_id: str, json: bool) -> None:
    """List the comments on INVOICE_ID, the first 500 of them."""
    found = with_pool(lambda pool: comments(pool, invoice_id))
    if json:
        echo_json({"comments": found})
        return
    rows = [[moment(one.at), one.actor, one.text] for one in found]
    click.echo(table(["AT (UTC)", "WHO", "COMMENT"], rows))


@click.command("audit")
@click.option("--subject", help="Only what was done to this invoice or credit note. [default: all]")
@click.option("--before", type=click.IntRange(0), help="Only events with a smaller id: the next page.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many.")
@as_json
def audit_command(subject: str | None, before: int | None, limit: int, json: bool) -> None:
    """Who did what with money, and what was refused to whom, the latest first."""
    found = with_pool(lambda pool: audit_trail(pool, subject, before, limit))
    if json:
        echo_json({"events": msgspec.to_builtins(found)})
        return
    rows = [
        [
            str(one.event_id),
            moment(one.at),
            one.actor,
            f"{one.action}, refused" if one.refused else one.action,
            one.subject,
            ", ".join(f"{name} {value}" for name, value in one.detail.items()),
        ]
        for one in found
    ]
    click.echo(table(["EVENT", "AT (UTC)", "WHO", "DID", "TO", "DETAIL"], rows))


INVOICE_COMMANDS = (
    invoice_queue,
    invoice_approve,
    invoice_send_back,
    invoice_issue,
    invoice_pay,
    invoice_void,
    invoice_write_off,
    invoice_comment,
    invoice_comments,
)


def _do(json: bool, deed: Callable[[Pool, str], Awaitable[Invoice]]) -> None:
    """Do it as who runs the command, and show what became of the invoice."""

    async def run(pool: Pool) -> Invoice:
        return await deed(pool, await acting(pool))

    done = with_pool(run)
    if json:
        echo_json(done)
    else:
        click.echo(f"{done.number or done.invoice_id}  {done.status}, {done.open} open")


def _issue_month(period: str, json: bool) -> None:
    async def run(pool: Pool) -> Issued:
        return await issue_month(pool, period, await acting(pool))

    done = with_pool(run)
    if json:
        echo_json(done)
    else:
        click.echo(f"{len(done.issued)} issued, {len(done.not_issued)} refused.")
        for one in done.not_issued:
            click.echo(f"{one.invoice_id}  {one.message}", err=True)
    if done.not_issued:
        raise SystemExit(1)


def _described(item: ReviewItem) -> str:
    lines = [
        f"{item.invoice_id}  risk {item.risk}  {item.total}  tenant {item.tenant_id}, month {item.period}"
    ]
    lines += [f"  {reason.weight:>3}  {reason.code}: {reason.text}" for reason in item.reasons]
    return "\n".join(lines)
