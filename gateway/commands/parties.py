"""`aiaas issuer` and `aiaas tenant set-billing`: who bills and who is billed."""

import click
import msgspec

from billing.money import format_percent
from billing.parties import (
    LANGUAGES,
    change_profile,
    list_issuers,
    parse_percent,
    set_issuer,
    show_profile,
)
from billing.store.parties import BillingProfile, Issuer
from gateway.commands.acting import acting
from gateway.commands.running import as_json, echo_json, table, with_pool
from infra.database import Pool
from infra.errors import InvalidValueError


@click.command("set-billing")
@click.argument("tenant_id")
@click.option("--name", help="As it stands on invoices.")
@click.option("--address", help="In one text, with line feeds.")
@click.option("--tax-id", help="Such as a VAT number.")
@click.option("--email", help="Where invoices go.")
@click.option("--language", type=click.Choice(LANGUAGES), help="Of its documents.")
@click.option("--tax-name", help="Such as VAT.")
@click.option("--tax-rate", metavar="PERCENT", help="Such as 5 or 8.875.")
@click.option("--issuer", "issuer_id", help="Who bills it; see `aiaas issuer list`.")
@as_json
def tenant_set_billing(tenant_id: str, tax_rate: str | None, json: bool, **given: str | None) -> None:
    """Change how TENANT_ID is billed, from its next draft on; without options, show it."""
    changes: dict[str, str | int] = {name: value for name, value in given.items() if value is not None}
    if tax_rate is not None:
        changes["tax_ppm"] = parse_percent(tax_rate)

    async def change(pool: Pool) -> BillingProfile:
        if not changes:
            return await show_profile(pool, tenant_id)
        return await change_profile(pool, tenant_id, changes, await acting(pool))

    _show(with_pool(change), json)


@click.group()
def issuer() -> None:
    """Who bills: your company, or several. Each has numbers without gaps of its own."""


@issuer.command("set")
@click.argument("issuer_id")
@click.option("--name", help="As it stands on invoices.")
@click.option("--address", help="In one text, with line feeds.")
@click.option("--tax-id", help="Such as a VAT number.")
@click.option("--email", help="Whom customers ask.")
@click.option("--number-prefix", help="What its numbers begin with; stays once one was given.")
@click.option("--payment-days", type=int, help="Until an invoice is due. [default: 30]")
@as_json
def issuer_set(issuer_id: str, payment_days: int | None, json: bool, **given: str | None) -> None:
    """Add ISSUER_ID, with a name and a number prefix, or change it from the next drafts on."""
    changes: dict[str, str | int] = {name: value for name, value in given.items() if value is not None}
    if payment_days is not None:
        changes["payment_days"] = payment_days
    if not changes:
        raise InvalidValueError("Say what to change. See --help.")

    async def change(pool: Pool) -> Issuer:
        return await set_issuer(pool, issuer_id, changes, await acting(pool))

    _show(with_pool(change), json)


@issuer.command("list")
@as_json
def issuer_list(json: bool) -> None:
    """List all issuers."""
    found = with_pool(list_issuers)
    if json:
        echo_json({"issuers": found})
        return
    rows = [
        [one.issuer_id, one.name, one.number_prefix, str(one.numbers_given), str(one.payment_days)]
        for one in found
    ]
    click.echo(table(["ISSUER", "NAME", "PREFIX", "NUMBERS GIVEN", "PAYMENT DAYS"], rows))


def _show(found: BillingProfile | Issuer, json: bool) -> None:
    if json:
        echo_json(found)
        return
    fields = msgspec.structs.asdict(found)
    if "tax_ppm" in fields:
        fields["tax_rate"] = format_percent(fields.pop("tax_ppm"))
    click.echo("\n".join(f"{name:<28}{value}" for name, value in fields.items()))
