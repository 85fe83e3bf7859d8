"""`aiaas credit-note`: what an issued invoice said too much, taken back."""

from collections.abc import Awaitable, Callable

import click
import msgspec

from billing.credit_notes import (
    CreditNote,
    approve_credit_note,
    create_credit_note,
    issue_credit_note,
    list_credit_notes,
    show_credit_note,
    withdraw_credit_note,
)
from billing.crediting import CreditLine, Remedy
from billing.invoices import show_invoice
from billing.money import Currency, currency, format_minor, parse_minor
from gateway.commands.acting import acting
from gateway.commands.documents import credit_note_pdf_command
from gateway.commands.running import as_json, echo_json, table, with_pool
from infra.database import Pool
from infra.errors import InvalidValueError

_note_id = click.argument("credit_note_id")
_reason = click.option("--reason", required=True, help="Why; the credit note says it.")


@click.group("credit-note")
def credit_note() -> None:
    """Credit notes against issued invoices: one person prepares, another approves and issues."""


credit_note.add_command(credit_note_pdf_command)


@credit_note.command("create")
@click.argument("invoice_id")
@click.option(
    "--line",
    "lines",
    multiple=True,
    metavar="LINE=AMOUNT",
    help="How much to take off a line of the invoice, before tax, such as 1=12.50.",
)
@click.option("--all", "is_all", is_flag=True, help="All that is left of the invoice.")
@_reason
@click.option(
    "--remedy",
    type=click.Choice(["carry", "refund"]),
    default="carry",
    show_default=True,
    help="Of what was paid already: take it off the next invoice, or pay it back.",
)
@as_json
def credit_note_create(
    invoice_id: str, lines: tuple[str, ...], is_all: bool, reason: str, remedy: Remedy, json: bool
) -> None:
    """Prepare a credit note against INVOICE_ID. The tax goes back in proportion."""
    if is_all == bool(lines):
        raise click.UsageError("Give --line, or --all.")

    async def run(pool: Pool) -> CreditNote:
        unit = currency((await show_invoice(pool, invoice_id)).currency)
        wanted = None if is_all else [_line(text, unit) for text in lines]
        return await create_credit_note(pool, invoice_id, await acting(pool), wanted, reason, remedy)

    _show(with_pool(run), json)


@credit_note.command("list")
@click.option("--invoice", "invoice_id", help="Only those against this invoice.")
@click.option("--tenant", "tenant_id", help="Only this tenant's.")
@as_json
def credit_note_list(invoice_id: str | None, tenant_id: str | None, json: bool) -> None:
    """List credit notes, the newest first, 500 at most."""
    found = with_pool(lambda pool: list_credit_notes(pool, invoice_id, tenant_id))
    if json:
        echo_json({"credit_notes": msgspec.to_builtins(found)})
        return
    rows = [
        [one.credit_note_id, one.number or "", one.invoice_number, one.status, one.total] for one in found
    ]
    click.echo(table(["CREDIT NOTE", "NUMBER", "INVOICE", "STATUS", "TOTAL"], rows))


@credit_note.command("show")
@_note_id
@as_json
def credit_note_show(credit_note_id: str, json: bool) -> None:
    """Show one credit note with its lines."""
    _show(with_pool(lambda pool: show_credit_note(pool, credit_note_id)), json)


@credit_note.command("approve")
@_note_id
@click.option("--sha256", help="The content's hash as you saw it. [default: what is there now]")
@as_json
def credit_note_approve(credit_note_id: str, sha256: str | None, json: bool) -> None:
    """Approve what CREDIT_NOTE_ID says. Who prepared it cannot."""
    _do(json, lambda pool, actor: approve_credit_note(pool, credit_note_id, actor, sha256))


@credit_note.command("issue")
@_note_id
@as_json
def credit_note_issue(credit_note_id: str, json: bool) -> None:
    """Issue CREDIT_NOTE_ID, which is approved: from now on it counts. Who prepared it cannot."""
    _do(json, lambda pool, actor: issue_credit_note(pool, credit_note_id, actor))


@credit_note.command("withdraw")
@_note_id
@click.option("--reason", required=True, help="Why; kept in the audit trail.")
@as_json
def credit_note_withdraw(credit_note_id: str, reason: str, json: bool) -> None:
    """Give CREDIT_NOTE_ID up, which is not issued."""
    _do(json, lambda pool, actor: withdraw_credit_note(pool, credit_note_id, actor, reason))


def _line(text: str, unit: Currency) -> CreditLine:
    line, _, amount = text.partition("=")
    if not (line.isascii() and line.isdigit() and len(line) < 8):
        raise InvalidValueError("--line takes LINE=AMOUNT, such as 1=12.50.", "line")
    return CreditLine(int(line), parse_minor(amount, unit))


def _do(json: bool, deed: Callable[[Pool, str], Awaitable[CreditNote]]) -> None:
    """Do it as who runs the command, and show what became of the credit note."""

    async def run(pool: Pool) -> CreditNote:
        return await deed(pool, await acting(pool))

    _show(with_pool(run), json)


def _show(note: CreditNote, json: bool) -> None:
    if json:
        echo_json(note)
        return
    unit = currency(note.currency)
    click.echo(f"{note.number or note.credit_note_id}  {note.status}, against {note.invoice_number}")
    click.echo(f"{note.reason}\n")
    rows = [[str(one.line), format_minor(one.amount_minor, unit)] for one in note.lines]
    click.echo(table(["LINE", "AMOUNT"], rows))
    click.echo(f"\ntax {format_minor(note.tax_minor, unit)}\ntotal {note.total}")
    went = {
        "off the invoice": note.reduces_minor,
        "carried to the next invoice": note.carries_minor,
        "to be refunded": note.refunds_minor,
    }
    for where, minor in went.items():
        if minor:
            click.echo(f"{where} {format_minor(minor, unit)}")
