"""Months that are over: usage, closed, sealed, and invoiced."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from billing.closing import close_ended_months
from billing.drafts import run_drafts
from billing.invoices import Invoice, list_invoices, show_invoice
from billing.issuing import approve, issue
from billing.meters import TTS_CHARACTERS
from infra.database import Pool
from tests.billing_world import charge, open_ledger

OCTOBER = datetime(2025, 10, 10, 4, tzinfo=UTC)
NOVEMBER = datetime(2025, 11, 10, 4, tzinfo=UTC)
AFTER_OCTOBER = datetime(2025, 11, 1, 12, tzinfo=UTC)
AFTER_NOVEMBER = datetime(2025, 12, 1, 12, tzinfo=UTC)
DOLLARS = [(TTS_CHARACTERS, 1_000_000)]  # 15 USD
MAKER, CHECKER = "staff:stf_maker", "staff:stf_checker"


async def use(
    database_url: str, tenant_id: str, uses: Sequence[tuple[str, int]], at: datetime = OCTOBER
) -> None:
    """Charge these (meter, units)."""
    async with open_ledger(database_url) as ledger:
        await asyncio.gather(*(ledger.charge(charge(tenant_id, meter, units, at)) for meter, units in uses))


async def close(pool: Pool, now: datetime) -> None:
    """Close all months that are over by then."""
    await close_ended_months(pool, now)


async def run(pool: Pool, period: str = "2025-10", actor: str = MAKER) -> list[Invoice]:
    """Run a month; returns the invoices that are not void, by tenant."""
    await run_drafts(pool, period, actor)
    listed = await list_invoices(pool, period=period)
    found = [await show_invoice(pool, one.invoice_id) for one in listed if one.status != "void"]
    return sorted(found, key=lambda invoice: invoice.tenant_id)


async def issue_all(pool: Pool, period: str = "2025-10") -> list[Invoice]:
    """Run a month, approve and issue all of it."""
    issued: list[Invoice] = []
    for invoice in await run(pool, period):
        await approve(pool, invoice.invoice_id, CHECKER)
        issued.append(await issue(pool, invoice.invoice_id, CHECKER))
    return issued
