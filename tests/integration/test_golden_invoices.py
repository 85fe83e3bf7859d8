"""Invoices over the real ledger equal those computed by hand in `tests/golden`, to the last letter.

Each file there says what is given (YAML), how it is computed with a pocket calculator, and the invoices.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
import yaml

from billing.closing import close_month
from billing.credit import grant_credit
from billing.drafts import run_drafts
from billing.invoices import Invoice, InvoiceLine, list_invoices, show_invoice
from billing.issuing import approve, issue
from billing.ledger import Ledger
from billing.money import currency, format_minor, format_percent
from billing.periods import period_labelled
from billing.prices import MeterPrice, PriceVersion, Tier
from infra.database import Pool, open_pool
from infra.postgres import EmbeddedPostgres
from tests.billing_world import charge, open_ledger
from tests.invoice_world import CHECKER, MAKER, add_account_on

FILES = sorted((Path(__file__).parents[1] / "golden").glob("*.md"))


@pytest.fixture(scope="module")
def shared_database_url(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """One database for all: each file has a tenant of its own, and nothing here is of all tenants."""
    server_url = postgres.url.rsplit("/", 1)[0]
    with psycopg.connect(f"{server_url}/postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE golden TEMPLATE {template_database}")
        yield f"{server_url}/golden"
        admin.execute("DROP DATABASE golden WITH (FORCE)")


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
async def test_invoices_are_those_computed_by_hand(shared_database_url: str, path: Path) -> None:
    given, wanted = read(path)
    pool = await open_pool(shared_database_url, max_size=4, application_name="aiaas-test")
    try:
        tenant_id = await open_given(pool, path.stem, given)
        invoices: list[Invoice] = []
        for label, steps in given["months"].items():
            async with open_ledger(shared_database_url) as ledger:
                await use(pool, ledger, tenant_id, steps)
            invoices.append(await invoice_of(pool, tenant_id, label, ZoneInfo(given["time_zone"])))
    finally:
        await pool.close()
    assert "\n\n".join(map(text_of, invoices)) == wanted


def test_every_model_and_every_currency_has_one() -> None:
    everything = [read(path)[0] for path in FILES]
    assert {given["currency"] for given in everything} == {"USD", "TWD", "HKD", "CNY", "JPY", "EUR"}
    models = {price["model"] for given in everything for price in given["prices"].values()}
    assert models == {"per_unit", "graduated", "volume", "package"}
    assert {"Asia/Taipei", "America/New_York"} <= {given["time_zone"] for given in everything}


def read(path: Path) -> tuple[Any, str]:
    """What is given, and the invoices that are wanted."""
    blocks = dict(re.findall(r"```(yaml|text)\n(.*?)\n```", path.read_text(), re.DOTALL))
    return yaml.safe_load(blocks["yaml"]), blocks["text"]


async def open_given(pool: Pool, name: str, given: Any) -> str:
    """A tenant with the file's prices and tax, and its first month open."""
    version = PriceVersion(
        price_version_id=name,
        plan=name,
        currency=given["currency"],
        valid_from=None,
        prices={
            meter: MeterPrice(
                price["per"],
                tuple(Tier(*tier) for tier in price["tiers"]),
                price["model"],
                price.get("free", 0),
            )
            for meter, price in given["prices"].items()
        },
        minimum_nanos=given.get("minimum", 0),
        discount_ppm=given.get("discount", 0),
    )
    first = period_labelled(next(iter(given["months"])), ZoneInfo(given["time_zone"]))
    tenant_id = await add_account_on(pool, version, given["time_zone"], first.starts_at)
    if tax := given.get("tax"):
        async with pool.connection() as connection:
            await connection.execute(
                "UPDATE billing.profile SET tax_name = %s, tax_ppm = %s WHERE tenant_id = %s",
                [tax["name"], tax["ppm"], tenant_id],
            )
    return tenant_id


async def use(pool: Pool, ledger: Ledger, tenant_id: str, steps: Sequence[Any]) -> None:
    for step in steps:
        if isinstance(step, dict):
            await grant_credit(pool, tenant_id, step["grant"])
        else:
            at, meter, units = step
            moment = at if isinstance(at, datetime) else datetime.fromisoformat(at)
            await ledger.charge(charge(tenant_id, meter, units, moment))


async def invoice_of(pool: Pool, tenant_id: str, label: str, zone: ZoneInfo) -> Invoice:
    """Close the month, and bring its invoice to its end."""
    after = period_labelled(label, zone).ends_at + timedelta(hours=2)
    async with pool.connection() as connection:
        assert await close_month(connection, tenant_id, label, after)
    await run_drafts(pool, label, MAKER)
    (made,) = await list_invoices(pool, tenant_id, label)
    await approve(pool, made.invoice_id, CHECKER)
    await issue(pool, made.invoice_id, CHECKER)
    return await show_invoice(pool, made.invoice_id, tenant_id)


def text_of(invoice: Invoice) -> str:
    """An invoice as the files have it: its month, lines with their tiers, totals."""
    unit, clock = currency(invoice.currency), "%Y-%m-%d %H:%M %z"
    rows = [f"{invoice.period}: {invoice.starts_at:{clock}} to {invoice.ends_at:{clock}}"]
    for line in invoice.lines:
        rows += line_rows(line, invoice.period)
    rows.append(f"subtotal {format_minor(invoice.subtotal_minor, unit)}")
    if invoice.tax_ppm:
        tax = format_minor(invoice.tax_minor, unit)
        rows.append(f"{invoice.tax_name} {format_percent(invoice.tax_ppm)} {tax}")
    rows.append(f"total {invoice.total}")
    if invoice.carried_in_minor:
        rows.append(f"carried in {format_minor(invoice.carried_in_minor, unit)}")
    if invoice.carried_out_minor:
        rows.append(f"carried out {format_minor(invoice.carried_out_minor, unit)}")
    return "\n".join([*rows, f"due {invoice.due}"])


def line_rows(line: InvoiceLine, period: str) -> list[str]:
    name = " ".join(part for part in (line.kind, line.meter) if part)
    late = "" if line.usage_period == period else f" of {line.usage_period}"
    counted = f" {line.calls} calls, {line.units} units:" if line.meter else ""
    rows = [f"{name}{late}:{counted} {line.amount} ({line.exact_nanos} nanos)"]
    for use_of in line.tiers:
        end = "the end" if use_of.up_to_units is None else use_of.up_to_units
        rows.append(
            f"    {use_of.from_units} to {end}: {use_of.units} units"
            f" at {use_of.nanos} per {line.per_units} = {use_of.amount_nanos}"
        )
    return rows
