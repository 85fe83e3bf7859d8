"""`aiaas tenant add-credit`."""

from fractions import Fraction

import click

from billing.accounts import account as read_account
from billing.credit import Credit, grant_credit
from billing.money import currency, format_nanos, parse_amount
from gateway.commands.running import as_json, echo_json, with_pool
from infra.database import Pool


@click.command("add-credit")
@click.argument("tenant_id")
@click.argument("amount")
@click.option("--note", default="", help="What it was paid with, such as an invoice's number.")
@as_json
def tenant_add_credit(tenant_id: str, amount: str, note: str, json: bool) -> None:
    """Add AMOUNT of prepaid credit to TENANT_ID.

    The first makes the tenant prepaid: its calls are refused when the credit is used up.
    """
    nanos = parse_amount(amount)

    async def add(pool: Pool) -> tuple[Credit, str]:
        credit = await grant_credit(pool, tenant_id, nanos, note)
        return credit, (await read_account(pool, tenant_id)).currency

    credit, code = with_pool(add)
    if json:
        echo_json({"tenant_id": tenant_id, "currency": code, "credit": credit})
    else:
        click.echo(describe_credit(credit, code))


def describe_credit(credit: Credit, currency_code: str) -> str:
    """Prepaid credit in one line."""
    unit = currency(currency_code)
    left, granted = (format_nanos(Fraction(n), unit) for n in (credit.left_nanos, credit.granted_nanos))
    return f"{left} left of {granted}"
