"""`aiaas invoice`: what is billed."""

from datetime import datetime

import click
import msgspec

from billing.invoices import Invoice, InvoiceLine, InvoiceSummary, list_invoices, show_invoice
from billing.money import currency, format_minor, format_percent
from gateway.commands.money import PERIOD_HELP
from gateway.commands.running import as_json, echo_json, moment, table, with_pool


@click.group()
def invoice() -> None:
    """Invoices, from the usage that was charged."""


@invoice.command("list")
@click.option("--tenant", "tenant_id", help="Only this tenant's. [default: everyone's]")
@click.option("--period", help=PERIOD_HELP)
@as_json
def invoice_list(tenant_id: str | None, period: str | None, json: bool) -> None:
    """List invoices, the newest months first."""
    show_invoices(with_pool(lambda pool: list_invoices(pool, tenant_id, period)), json)


@invoice.command("show")
@click.argument("invoice_id")
@as_json
def invoice_show(invoice_id: str, json: bool) -> None:
    """Show one invoice with its lines and the tiers behind them."""
    found = with_pool(lambda pool: show_invoice(pool, invoice_id))
    if json:
        echo_json(found)
    else:
        click.echo(describe_invoice(found))


def describe_invoice(shown: Invoice) -> str:
    """An invoice as text: head, lines, totals."""
    state = "complete" if shown.period_complete else "the month is not over yet"
    rows = [
        [_line_name(line, shown.period), str(line.calls), str(line.units), line.amount]
        for line in shown.lines
    ]
    unit = currency(shown.currency)
    totals: dict[str, int] = {}
    if shown.tax_minor:
        totals["subtotal"] = shown.subtotal_minor
        totals[f"{shown.tax_name or 'tax'} {format_percent(shown.tax_ppm)}"] = shown.tax_minor
    totals["total"] = shown.total_minor
    if shown.due_minor != shown.total_minor:
        totals |= {f"carried in from {one.number}": one.amount_minor for one in shown.carried}
        totals |= {"carried to the next": -shown.carried_out_minor, "due": shown.due_minor}
    if shown.credited_minor:
        totals |= {"credited": -shown.credited_minor, "open": shown.open_minor}
    return "\n".join(
        [
            f"{shown.number or shown.invoice_id}  {shown.status}",
            f"tenant {shown.tenant_id}, month {shown.period} ({shown.time_zone}): {state}",
            "",
            table(["LINE", "CALLS", "UNITS", "AMOUNT"], rows),
            "",
            *(f"{name} {format_minor(minor, unit)}" for name, minor in totals.items()),
        ]
    )


def _line_name(line: InvoiceLine, period: str) -> str:
    names = {"minimum": "minimum commitment", "credit": "prepaid credit"}
    name = line.meter or names.get(line.kind, line.kind)
    if held_from := line.basis.get("from"):
        name += f", plan {line.basis['plan']} from {moment(datetime.fromisoformat(held_from))} UTC"
    return name if line.usage_period == period else f"{name}, late from {line.usage_period}"


def show_invoices(found: list[InvoiceSummary], json: bool) -> None:
    """A list of invoices, for people or as JSON."""
    if json:
        echo_json({"invoices": msgspec.to_builtins(found)})
        return
    rows = [[one.invoice_id, one.tenant_id, one.period, one.status, one.total] for one in found]
    click.echo(table(["INVOICE", "TENANT", "MONTH", "STATUS", "TOTAL"], rows))
