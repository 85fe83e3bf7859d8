"""`aiaas invoice pdf` and `lines`, `aiaas credit-note pdf`: documents as files."""

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import click
import msgspec

from billing.documents.downloads import Download, credit_note_pdf, invoice_lines_csv, invoice_pdf
from billing.documents.typesetter import Typesetter
from billing.documents.words import LANGUAGES
from billing.invoices import show_invoice
from gateway.commands.running import as_json, echo_json, table, with_pool
from gateway.downloads import plain_name
from infra.database import Pool

_out = click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="[default: by its number, here]"
)
_language = click.option("--language", type=click.Choice(LANGUAGES), help="[default: the invoice's own]")


@click.command("pdf")
@click.argument("invoice_id")
@_out
@_language
@as_json
def invoice_pdf_command(invoice_id: str, out: Path | None, language: str | None, json: bool) -> None:
    """Write an invoice as PDF."""
    _write(partial(invoice_pdf, invoice_id=invoice_id, language=language), out, json)


@click.command("pdf")
@click.argument("credit_note_id")
@_out
@_language
@as_json
def credit_note_pdf_command(credit_note_id: str, out: Path | None, language: str | None, json: bool) -> None:
    """Write a credit note as PDF."""
    _write(partial(credit_note_pdf, credit_note_id=credit_note_id, language=language), out, json)


@click.command("lines")
@click.argument("invoice_id")
@click.option("--csv", is_flag=True, help="As CSV, with exact amounts.")
@as_json
def invoice_lines_command(invoice_id: str, csv: bool, json: bool) -> None:
    """Print an invoice's lines."""
    if csv and json:
        raise click.UsageError("Take either --csv or --json.")
    if csv:
        made = with_pool(lambda pool: invoice_lines_csv(pool, invoice_id))
        sys.stdout.buffer.write(made.body)
        return
    found = with_pool(lambda pool: show_invoice(pool, invoice_id))
    if json:
        echo_json({"lines": msgspec.to_builtins(found.lines)})
        return
    rows = [
        [str(line.line), line.usage_period, line.meter or line.kind, str(line.units), line.amount]
        for line in found.lines
    ]
    click.echo(table(["LINE", "USAGE OF", "ITEM", "UNITS", "AMOUNT"], rows))


def _write(make: Callable[..., Awaitable[Download]], out: Path | None, json: bool) -> None:
    async def made(pool: Pool) -> Download:
        return await make(pool, Typesetter(), reader="command")

    file = with_pool(made)
    path = out or Path(plain_name(file.name))
    try:
        path.write_bytes(file.body)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}.") from None
    if json:
        echo_json({"file": str(path), "bytes": len(file.body)})
    else:
        click.echo(str(path))
