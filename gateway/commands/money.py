"""`aiaas usage` and `aiaas reconcile`."""

from datetime import UTC, datetime

import click

from billing.accounts import current_period
from billing.meters import METERS
from billing.reconcile import describe, reconcile
from billing.usage import Usage, usage, usage_of_all
from gateway.commands.running import as_json, echo_json, table, with_pool
from infra.database import Pool

PERIOD_HELP = "A month, YYYY-MM, as each tenant's clock has it."


@click.command("usage")
@click.option("--tenant", "tenant_id", help="Only this tenant's. [default: everyone's, added up]")
@click.option("--period", help=f"{PERIOD_HELP} [default: the current one]")
@as_json
def usage_command(tenant_id: str | None, period: str | None, json: bool) -> None:
    """Calls and units charged in a month, by meter."""

    async def read(pool: Pool) -> Usage:
        if tenant_id is None:
            return await usage_of_all(pool, period or datetime.now(UTC).strftime("%Y-%m"))
        month = period or (await current_period(pool, tenant_id, datetime.now(UTC))).label
        return await usage(pool, tenant_id, month)

    found = with_pool(read)
    if json:
        echo_json(found)
        return
    units = {meter.meter: meter.unit for meter in METERS}
    rows = [[name, str(one.calls), str(one.units), units[name]] for name, one in found.meters.items()]
    click.echo(f"{found.period}\n{table(['METER', 'CALLS', 'UNITS', 'A UNIT IS ONE'], rows)}")


@click.command("reconcile")
@click.option("--period", help=f"{PERIOD_HELP} [default: all months]")
@as_json
def reconcile_command(period: str | None, json: bool) -> None:
    """Compare counters and roll-ups with the usage rows; status 1 when they differ, each difference named."""
    found = with_pool(lambda pool: reconcile(pool, period))
    if json:
        echo_json(found)
    elif found.difference:
        click.echo("\n".join(describe(one) for one in found.differences))
    else:
        click.echo(f"{found.usage_rows} charges, {found.voided} voids: everything agrees.")
    if found.difference:
        raise SystemExit(1)
