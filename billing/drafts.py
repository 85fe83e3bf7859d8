"""Drafting: an invoice for every tenant's month, from its seals; its cost does not grow with the calls.

A month that is sealed gives an invoice that goes into review; one that is not, a draft from the counters, to
look at. Made again, an invoice stays the same but for what changed (a tax rate, an address, what is carried
in), and a change takes its approval away. One that is issued stays as it is. `compose` is what an invoice is:
`billing.proofs` calls it again, on usage rows, to prove one.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from itertools import groupby
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from billing import audit, runs
from billing.invoices import (
    Carried,
    Content,
    InvoiceLine,
    InvoiceSummary,
    Party,
    content_sha256,
    list_invoices,
)
from billing.money import Currency, currency, format_minor
from billing.prices import InvalidPriceError, PriceVersion
from billing.runs import Report
from billing.sealing import seal_closed_months
from billing.statement import Line, MonthUse, Segment, Statement, Use, statement
from billing.store import drafts as store
from billing.store import invoices as invoices_store
from billing.store import runs as runs_store
from billing.store import seals as seals_store
from billing.store.audit import NewEvent, insert_events
from billing.store.drafts import CounterRow, MonthPrice, MonthRow
from billing.store.locks import set_lock_timeout
from billing.store.prices import read_price_versions
from billing.store.runs import InvoiceRun
from billing.store.seals import Seal
from infra.database import Connection, Pool, borrow
from infra.ids import new_id

_TENANTS_PER_TRANSACTION: Final = 200
_LOCK_TIMEOUT_MS: Final = 30_000
_DRAFT_TIMEOUT_S: Final = 120.0
_MAY_CHANGE: Final = frozenset({None, "draft", "in_review", "approved"})


class Material(msgspec.Struct, frozen=True):
    """All that one invoice is made from."""

    month: MonthRow
    uses: tuple[MonthUse, ...]


async def run_drafts(
    pool: Pool, period: str, actor: str = audit.WORKER, report: Report = runs.say_nothing
) -> list[InvoiceSummary]:
    """Ask for a run of the month `YYYY-MM`, work on it to its end, and list what there is of the month then.

    Runs at the same time, on any number of machines, make one invoice per tenant and month.

    Raises:
        InvalidValueError: the period's label, or it has not begun anywhere.
        RunFailedError: others worked on it too, and gave it up.
    """
    run = await runs.request_run(pool, period, actor, datetime.now(UTC))
    while True:
        run = await work_on_run(pool, run.run_id, report)
        if run.replaced_by is None:
            break
        run = await runs.show_run(pool, run.replaced_by)
    if run.state == "failed":
        raise runs.RunFailedError(f"The run was given up: {run.last_error}")
    listed: list[InvoiceSummary] = []
    while page := await list_invoices(pool, period=period, after=listed[-1].invoice_id if listed else None):
        listed += page
    return listed


async def work_on_due_runs(pool: Pool) -> int:
    """Work on all runs that are at hand, the oldest first; returns how many."""
    due = await runs.due_runs(pool)
    for run_id in due:
        await work_on_run(pool, run_id)
    return len(due)


async def work_on_run(pool: Pool, run_id: str, report: Report = runs.say_nothing) -> InvoiceRun:
    """Make an invoice, or make it anew, for every tenant with something to bill in the run's month.

    Closed months are sealed first. Each page is a transaction that moves the run on: several may work on one
    run, each on the next page, and one that broke off is carried on where it was. What goes wrong is noted;
    the worker tries again.

    Args:
        report: told how far it is, after each page.

    Raises:
        NotFoundError: there is no such run.
    """
    async with runs.failures_noted(pool, run_id):
        run = await runs.begin_sealing(pool, run_id)

        async def sealed(newly: int) -> None:
            report(await runs.note_sealed(pool, run_id, newly))

        if run.state == "sealing":
            await seal_closed_months(pool, run.period, sealed)
            run = await runs.begin_drafting(pool, run_id)
        while run.finished_at is None:
            run = await _work_on_page(pool, run_id)
            report(run)
    return run


async def _work_on_page(pool: Pool, run_id: str) -> InvoiceRun:
    async with borrow(pool, use_timeout_s=_DRAFT_TIMEOUT_S) as connection, connection.transaction():
        await set_lock_timeout(connection, _LOCK_TIMEOUT_MS)
        run = await runs_store.lock_run(connection, run_id)
        if run.finished_at is not None:
            return run
        tenant_ids = await store.lock_billable_months(
            connection, run.period, run.after_tenant, _TENANTS_PER_TRANSACTION
        )
        await _draft(connection, run.period, tenant_ids, run.requested_by)
        return await runs_store.advance(
            connection, run_id, tenant_ids, is_last=len(tenant_ids) < _TENANTS_PER_TRANSACTION
        )


async def read_materials(connection: Connection, period: str, tenant_ids: Sequence[str]) -> list[Material]:
    """What the invoices of these tenants' month are made from, by tenant."""
    months = await store.read_months(connection, period, tenant_ids)
    seals = await seals_store.read_seals(connection, period, tenant_ids)
    not_sealed = [month.tenant_id for month in months if not month.is_sealed]
    return await materials(
        connection, months, seals, await store.read_counters(connection, period, not_sealed)
    )


async def materials(
    connection: Connection, months: Sequence[MonthRow], seals: Sequence[Seal], counters: Sequence[CounterRow]
) -> list[Material]:
    """Months with their usage at its prices: by seals where a month is sealed, else by counters.

    Raises:
        billing.prices.InvalidPriceError: a price version has no prices that can be charged.
    """
    labels = {(month.tenant_id, month.period) for month in months} | {
        (seal.tenant_id, seal.usage_period) for seal in seals
    }
    prices = await _read_segments(connection, sorted(labels))
    seals_of = _by_tenant(seals)
    counters_of = _by_tenant(counters)
    return [
        Material(
            month,
            tuple(
                _sealed_uses(month, seals_of.get(month.tenant_id, []), prices)
                if month.is_sealed
                else _counted_uses(month, counters_of.get(month.tenant_id, []), prices)
            ),
        )
        for month in months
    ]


def compose(material: Material) -> Statement:
    """What an invoice comes to. Pure."""
    month = material.month
    return statement(
        material.uses,
        month.period,
        currency(month.currency),
        credit_nanos=month.credit_nanos,
        tax_ppm=month.tax_ppm,
        carried_in_minor=sum(one["amount_minor"] for one in month.carried),
    )


def content(material: Material, invoice_id: str, revision: int, replaces: str | None) -> Content:
    """What an invoice says. Pure."""
    month, made, unit = material.month, compose(material), currency(material.month.currency)
    zone = ZoneInfo(month.time_zone)
    return Content(
        invoice_id=invoice_id,
        tenant_id=month.tenant_id,
        period=month.period,
        revision=revision,
        replaces=replaces,
        starts_at=month.starts_at.astimezone(zone),
        ends_at=month.ends_at.astimezone(zone),
        time_zone=month.time_zone,
        issuer_id=month.issuer_id,
        issuer=msgspec.convert(month.issuer, Party),
        bill_to=msgspec.convert(month.bill_to, Party),
        language=month.language,
        currency=month.currency,
        period_complete=month.is_sealed,
        lines=tuple(_line(number, line, month, unit) for number, line in enumerate(made.lines, 1)),
        subtotal_minor=made.subtotal_minor,
        tax_name=month.tax_name,
        tax_ppm=month.tax_ppm,
        tax_minor=made.tax_minor,
        total_minor=made.total_minor,
        carried_in_minor=made.carried_in_minor,
        carried=msgspec.convert(month.carried, tuple[Carried, ...]),
        carried_out_minor=made.carried_out_minor,
        due_minor=made.due_minor,
    )


async def _draft(connection: Connection, period: str, tenant_ids: Sequence[str], actor: str) -> None:
    invoices: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    events: list[NewEvent] = []
    for material in await read_materials(connection, period, tenant_ids):
        made = _next_content(material)
        if made is None:
            continue
        status = "in_review" if made.period_complete else "draft"
        digest = content_sha256(made)
        if material.month.status == "approved" and digest == material.month.content_sha256:
            continue
        fields: dict[str, Any] = msgspec.to_builtins(made)
        prepared_by = material.month.prepared_by if made.invoice_id == material.month.invoice_id else []
        if digest != material.month.content_sha256 or status != material.month.status:
            action, detail = "changed" if prepared_by else "made", {"content_sha256": digest.hex()}
            events.append(NewEvent(actor, action, made.invoice_id, detail=detail | {"status": status}))
            prepared_by = sorted({*prepared_by, actor})
        invoices.append(
            {
                **fields,
                "status": status,
                "content_sha256": digest.hex(),
                "prepared_by": prepared_by,
            }
        )
        lines += [{"invoice_id": made.invoice_id, **line} for line in fields["lines"]]
    await insert_events(connection, events)
    await invoices_store.write_invoices(connection, invoices)
    await invoices_store.write_lines(connection, [one["invoice_id"] for one in invoices], lines)


def _next_content(material: Material) -> Content | None:
    """The invoice as it should be now; None where it is not to be made or changed any more."""
    month = material.month
    if month.status == "void":
        if not month.to_be_reissued:
            return None
        return content(material, new_id("inv"), month.revision + 1, month.invoice_id)
    if month.status not in _MAY_CHANGE:
        return None
    return content(material, month.invoice_id or new_id("inv"), max(1, month.revision), month.replaces)


async def _read_segments(
    connection: Connection, months: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[Segment, ...]]:
    rows = await store.read_month_prices(connection, months)
    versions = await read_price_versions(connection, sorted({row.price_version_id for row in rows}))
    return {
        key: tuple(_segment(row, versions) for row in group)
        for key, group in groupby(rows, lambda row: (row.tenant_id, row.period))
    }


def _segment(row: MonthPrice, versions: Mapping[str, PriceVersion]) -> Segment:
    version = versions.get(row.price_version_id)
    if version is None:
        raise InvalidPriceError(f"The price version {row.price_version_id} has no prices.")
    return Segment(version, Fraction(row.held_us, row.of_us), row.starts_at)


def _sealed_uses(
    month: MonthRow, seals: Iterable[Seal], prices: Mapping[tuple[str, str], tuple[Segment, ...]]
) -> list[MonthUse]:
    """The month's own usage, there or not, and usage of earlier months that came late to it."""
    by_usage: dict[str, list[Seal]] = {month.period: []}
    for seal in seals:
        by_usage.setdefault(seal.usage_period, []).append(seal)
    months: list[MonthUse] = []
    for usage_period, of_period in by_usage.items():
        before: dict[tuple[int, str], int] = {}
        for seal in of_period:
            if seal.period != month.period:
                key = (seal.segment, seal.meter)
                before[key] = before.get(key, 0) + seal.units
        uses = tuple(
            Use(seal.segment, seal.meter, seal.calls, seal.units, seal.row_count, seal.digest.hex())
            for seal in of_period
            if seal.period == month.period
        )
        segments = prices[month.tenant_id, usage_period]
        months.append(MonthUse(usage_period=usage_period, segments=segments, uses=uses, before=before))
    return months


def _counted_uses(
    month: MonthRow, counters: Iterable[CounterRow], prices: Mapping[tuple[str, str], tuple[Segment, ...]]
) -> list[MonthUse]:
    """The usage so far; late usage is told apart when the month is sealed."""
    uses = tuple(Use(one.segment, one.meter, one.calls, one.units) for one in counters)
    segments = prices[month.tenant_id, month.period]
    return [MonthUse(usage_period=month.period, segments=segments, uses=uses)]


def _line(number: int, line: Line, month: MonthRow, unit: Currency) -> InvoiceLine:
    return InvoiceLine(
        line=number,
        cutoff_at=month.cutoff_at.astimezone(UTC),
        amount=format_minor(line.amount_minor, unit),
        **msgspec.structs.asdict(line),
    )


def _by_tenant(rows: Sequence[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.tenant_id, []).append(row)
    return found
