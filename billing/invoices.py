"""Draft invoices: what a month's counters come to at the month's price version."""

from datetime import datetime
from fractions import Fraction
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from billing.money import Currency, currency, format_minor, minor_units
from billing.periods import check_label
from billing.prices import PriceVersion, TierUse
from billing.store import invoices as store
from billing.store.invoices import BillableCounter, BillablePeriod, Draft, DraftLine, InvoiceRow
from billing.store.locks import set_lock_timeout
from billing.store.prices import read_price_versions
from infra.database import Connection, Pool, borrow
from infra.errors import NotFoundError
from infra.ids import new_id

_TENANTS_PER_TRANSACTION: Final = 200
_LOCK_TIMEOUT_MS: Final = 30_000
_DRAFT_TIMEOUT_S: Final = 120.0
MAX_LISTED: Final = 10_000


class InvoiceLine(msgspec.Struct, frozen=True, kw_only=True):
    """One meter's month.

    Attributes:
        per_units: the tiers' prices are per so many units.
        tiers: how the units spread over the tiers, with exact amounts.
        amount_minor: the tiers' exact sum, rounded once, in the ledger's minor units.
        amount: the same for people.
    """

    line: int
    meter: str
    calls: int
    units: int
    per_units: int
    tiers: tuple[TierUse, ...]
    amount_minor: int
    amount: str


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's month; `total_minor` is the sum of the lines.

    Attributes:
        starts_at, ends_at: the month `[starts_at, ends_at)` of the tenant's clock.
        period_complete: False when the draft was made before the month was over.
    """

    invoice_id: str
    tenant_id: str
    period: str
    starts_at: datetime
    ends_at: datetime
    time_zone: str
    price_version_id: str
    currency: str
    status: str
    period_complete: bool
    total_minor: int
    total: str
    drafted_at: datetime
    lines: tuple[InvoiceLine, ...]


async def run_drafts(pool: Pool, period: str) -> list[Invoice]:
    """Make a draft for every tenant with usage in the month `YYYY-MM` of its clock, or make it anew.

    Runs at the same time, on any number of machines, make one draft per tenant and month.

    Raises:
        InvalidValueError: the period's label.
    """
    check_label(period)
    after, drafted = "", list[Invoice]()
    while True:
        async with borrow(pool, use_timeout_s=_DRAFT_TIMEOUT_S) as connection, connection.transaction():
            await set_lock_timeout(connection, _LOCK_TIMEOUT_MS)
            tenants = await store.lock_billable_periods(connection, period, after, _TENANTS_PER_TRANSACTION)
            if not tenants:
                return drafted
            drafts = await _drafts(connection, period, tenants)
            drafted += await _load(connection, await store.write_drafts(connection, period, drafts))
        after = tenants[-1].tenant_id


async def show_invoice(pool: Pool, invoice_id: str, tenant_id: str | None = None) -> Invoice:
    """One invoice; with `tenant_id`, only if it is that tenant's.

    Raises:
        NotFoundError: there is no such invoice, or it is another tenant's.
    """
    async with borrow(pool) as connection:
        found = await _load(connection, [invoice_id])
    if not found or tenant_id not in (None, found[0].tenant_id):
        raise NotFoundError("There is no such invoice.", "invoice_id")
    return found[0]


async def list_invoices(
    pool: Pool, tenant_id: str | None = None, period: str | None = None, limit: int = MAX_LISTED
) -> list[Invoice]:
    """Invoices of a tenant, or of all tenants (for the vendor), `MAX_LISTED` at most, the newest months.

    Raises:
        InvalidValueError: the period's label.
    """
    if period is not None:
        check_label(period)
    async with borrow(pool) as connection:
        ids = await store.read_invoice_ids(connection, tenant_id, period, min(limit, MAX_LISTED))
        return await _load(connection, ids)


async def _drafts(connection: Connection, period: str, tenants: list[BillablePeriod]) -> list[Draft]:
    counters = await store.read_billable_counters(connection, period, [one.tenant_id for one in tenants])
    by_tenant: dict[str, list[BillableCounter]] = {one.tenant_id: [] for one in tenants}
    for counter in counters:
        by_tenant[counter.tenant_id].append(counter)
    versions = await read_price_versions(connection, sorted({one.price_version_id for one in tenants}))
    return [_draft(one, versions[one.price_version_id], by_tenant[one.tenant_id]) for one in tenants]


def _draft(tenant: BillablePeriod, version: PriceVersion, counters: list[BillableCounter]) -> Draft:
    unit = currency(version.currency)
    lines = [_line(number, counter, version, unit) for number, counter in enumerate(counters, 1)]
    total_minor = sum(line.amount_minor for line in lines)
    return Draft(
        new_id("inv"), tenant.tenant_id, version.price_version_id, tenant.is_over, total_minor, lines
    )


def _line(number: int, counter: BillableCounter, version: PriceVersion, unit: Currency) -> DraftLine:
    price = version.prices[counter.meter]
    uses = price.tier_uses(counter.units)
    nanos = sum((Fraction(use.amount_nanos) for use in uses), Fraction(0))
    return DraftLine(
        line=number,
        meter=counter.meter,
        calls=counter.calls,
        units=counter.units,
        per_units=price.per,
        tiers=msgspec.to_builtins(uses),
        amount_minor=minor_units(nanos, unit),
    )


async def _load(connection: Connection, invoice_ids: list[str]) -> list[Invoice]:
    rows = await store.read_invoices(connection, invoice_ids)
    lines: dict[str, list[DraftLine]] = {row.invoice_id: [] for row in rows}
    for invoice_id, line in await store.read_lines(connection, list(lines)):
        lines[invoice_id].append(line)
    return [_invoice(row, lines[row.invoice_id]) for row in rows]


def _invoice(row: InvoiceRow, lines: list[DraftLine]) -> Invoice:
    unit = currency(row.currency)
    zone = ZoneInfo(row.time_zone)
    return Invoice(
        invoice_id=row.invoice_id,
        tenant_id=row.tenant_id,
        period=row.period,
        starts_at=row.starts_at.astimezone(zone),
        ends_at=row.ends_at.astimezone(zone),
        time_zone=row.time_zone,
        price_version_id=row.price_version_id,
        currency=row.currency,
        status=row.status,
        period_complete=row.period_complete,
        total_minor=row.total_minor,
        total=format_minor(row.total_minor, unit),
        drafted_at=row.drafted_at,
        lines=tuple(_shown(line, unit) for line in lines),
    )


def _shown(line: DraftLine, unit: Currency) -> InvoiceLine:
    return InvoiceLine(
        line=line.line,
        meter=line.meter,
        calls=line.calls,
        units=line.units,
        per_units=line.per_units,
        tiers=msgspec.convert(line.tiers, tuple[TierUse, ...]),
        amount_minor=line.amount_minor,
        amount=format_minor(line.amount_minor, unit),
    )
