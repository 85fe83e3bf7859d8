"""Months that are over: usage, closed, sealed, and invoiced."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from billing.accounts import open_account
from billing.closing import close_ended_months
from billing.drafts import run_drafts
from billing.invoices import Invoice, list_invoices, show_invoice
from billing.issuing import approve, issue
from billing.meters import TTS_CHARACTERS
from billing.prices import PriceVersion
from infra.database import Connection, Pool
from tests.billing_world import add_tenant, charge, open_ledger

OCTOBER = datetime(2025, 10, 10, 4, tzinfo=UTC)
NOVEMBER = datetime(2025, 11, 10, 4, tzinfo=UTC)
AFTER_OCTOBER = datetime(2025, 11, 1, 12, tzinfo=UTC)
AFTER_NOVEMBER = datetime(2025, 12, 1, 12, tzinfo=UTC)
DOLLARS = [(TTS_CHARACTERS, 1_000_000)]  # 15 USD
MAKER, CHECKER = "staff:stf_maker", "staff:stf_checker"


async def add_account_on(
    pool: Pool, version: PriceVersion, time_zone: str = "Asia/Taipei", now: datetime = OCTOBER
) -> str:
    """A tenant with an account on a plan of its own, at these prices."""
    tenant_id = await add_tenant(pool)
    async with pool.connection() as connection, connection.transaction():
        await insert_price_version(connection, version)
        await open_account(
            connection, tenant_id, plan=version.plan, currency=version.currency, time_zone=time_zone, now=now
        )
    return tenant_id


async def insert_price_version(connection: Connection, version: PriceVersion) -> None:
    """Prices for all months; in a transaction, since a price version is made whole."""
    await connection.execute(
        "INSERT INTO billing.price_version"
        " (price_version_id, plan, currency, valid_from, minimum_nanos, discount_ppm)"
        " VALUES (%s, %s, %s, '-infinity', %s, %s)",
        [
            version.price_version_id,
            version.plan,
            version.currency,
            version.minimum_nanos,
            version.discount_ppm,
        ],
    )
    for meter, price in version.prices.items():
        await connection.execute(
            "INSERT INTO billing.meter_price (price_version_id, meter, per_units, model, free_units)"
            " VALUES (%s, %s, %s, %s, %s)",
            [version.price_version_id, meter, price.per, price.model, price.free_units],
        )
        for number, tier in enumerate(price.tiers, 1):
            await connection.execute(
                "INSERT INTO billing.price_tier VALUES (%s, %s, %s, %s, %s)",
                [version.price_version_id, meter, number, tier.up_to_units, tier.nanos],
            )


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
