"""`aiaas invoice run`: the monthly run."""

from datetime import UTC, datetime

import click

from billing.closing import close_ended_months
from billing.drafts import run_drafts
from billing.invoices import InvoiceSummary
from billing.store.runs import InvoiceRun
from gateway.commands.acting import acting
from gateway.commands.invoices import show_invoices
from gateway.commands.money import PERIOD_HELP
from gateway.commands.progress import Progress
from gateway.commands.running import as_json, with_pool
from infra.database import Pool


@click.command("run")
@click.option("--period", required=True, help=PERIOD_HELP)
@as_json
def invoice_run(period: str, json: bool) -> None:
    """Make an invoice for every tenant with usage in the month; run again, it brings them up to date.

    Months that ended an hour ago or earlier are closed, and their invoices go into review. Of a month that is
    not over there is a draft only, a preview that nobody can approve.
    """
    shown = _Shown()

    async def run(pool: Pool) -> list[InvoiceSummary]:
        actor = await acting(pool)
        await close_ended_months(pool, datetime.now(UTC))
        return await run_drafts(pool, period, actor, shown.report)

    show_invoices(with_pool(run), json)
    shown.say_what_is_open()


class _Shown:
    """What is said of a run on stderr."""

    def __init__(self) -> None:
        self._progress = Progress()
        self._months_open = 0

    def report(self, run: InvoiceRun) -> None:
        self._months_open = run.months_open or 0
        if run.state == "sealing":
            self._progress.show(f"{run.period}: sealing months, {run.tenants_done} so far")
        else:
            self._progress.show(f"{run.period}: {run.tenants_done} of {run.tenants_total} tenants")

    def say_what_is_open(self) -> None:
        if self._months_open:
            click.echo(
                f"{self._months_open} of these are previews: the month is not over and closed yet on those "
                "tenants' clocks. It closes an hour after its end; run it again then.",
                err=True,
            )
