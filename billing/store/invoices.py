"""Draft invoices: the months they are made from, and the drafts themselves."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from infra.database import Connection


class BillablePeriod(msgspec.Struct, frozen=True):
    """A tenant's month with usage, locked for drafting."""

    tenant_id: str
    price_version_id: str
    is_over: bool


class BillableCounter(msgspec.Struct, frozen=True):
    """What a tenant's meter stands at."""

    tenant_id: str
    meter: str
    calls: int
    units: int


class DraftLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line as it is written and read."""

    line: int
    meter: str
    calls: int
    units: int
    per_units: int
    tiers: Any
    amount_minor: int


class Draft(msgspec.Struct, frozen=True):
    """One draft, about to be written."""

    invoice_id: str
    tenant_id: str
    price_version_id: str
    period_complete: bool
    total_minor: int
    lines: Sequence[DraftLine]


class InvoiceRow(msgspec.Struct, frozen=True):
    """One invoice as it is read, without its lines."""

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
    drafted_at: datetime


async def lock_billable_periods(
    connection: Connection, period: str, after: str, limit: int
) -> list[BillablePeriod]:
    """The next tenants with usage in a month, their periods locked against other drafting runs.

    Charges lock accounts, not periods, and go on.
    """
    async with connection.cursor(row_factory=class_row(BillablePeriod)) as cursor:
        await cursor.execute(
            """
            SELECT period.tenant_id, period.price_version_id, period.ends_at <= now() AS is_over
            FROM billing.period
            WHERE period.period = %(period)s AND period.tenant_id > %(after)s
              AND EXISTS (
                  SELECT FROM billing.period_counter counter
                  WHERE counter.tenant_id = period.tenant_id AND counter.period = period.period
                    AND counter.calls > 0)
            ORDER BY period.tenant_id LIMIT %(limit)s
            FOR NO KEY UPDATE OF period
            """,
            {"period": period, "after": after, "limit": limit},
        )
        return await cursor.fetchall()


async def read_billable_counters(
    connection: Connection, period: str, tenant_ids: Sequence[str]
) -> list[BillableCounter]:
    """The counters with usage of these tenants, all as of one moment."""
    async with connection.cursor(row_factory=class_row(BillableCounter)) as cursor:
        await cursor.execute(
            """
            SELECT tenant_id, meter, calls, units
            FROM billing.period_counter
            WHERE period = %(period)s AND tenant_id = ANY(%(tenant_ids)s) AND calls > 0
            ORDER BY tenant_id, meter
            """,
            {"period": period, "tenant_ids": list(tenant_ids)},
        )
        return await cursor.fetchall()


async def write_drafts(connection: Connection, period: str, drafts: Sequence[Draft]) -> list[str]:
    """Write drafts, or make those that are there anew under their ids; returns the ids, by tenant.

    Call it in the transaction that locked their periods.
    """
    invoice_ids = await _upsert_invoices(connection, period, drafts)
    await connection.execute(
        "DELETE FROM billing.invoice_line WHERE invoice_id = ANY(%(ids)s)",
        {"ids": list(invoice_ids.values())},
    )
    lines = [(invoice_ids[draft.tenant_id], line) for draft in drafts for line in draft.lines]
    await connection.execute(
        """
        INSERT INTO billing.invoice_line (invoice_id, line, meter, calls, units, per_units, tiers,
                                          amount_minor)
        SELECT * FROM unnest(%(ids)s::text[], %(lines)s::int[], %(meters)s::text[], %(calls)s::bigint[],
                             %(units)s::bigint[], %(per_units)s::bigint[], %(tiers)s::jsonb[],
                             %(amounts)s::bigint[])
        """,
        {
            "ids": [invoice_id for invoice_id, _ in lines],
            "lines": [line.line for _, line in lines],
            "meters": [line.meter for _, line in lines],
            "calls": [line.calls for _, line in lines],
            "units": [line.units for _, line in lines],
            "per_units": [line.per_units for _, line in lines],
            "tiers": [Jsonb(line.tiers) for _, line in lines],
            "amounts": [line.amount_minor for _, line in lines],
        },
    )
    return list(invoice_ids.values())


async def _upsert_invoices(connection: Connection, period: str, drafts: Sequence[Draft]) -> dict[str, str]:
    """Each tenant's invoice id: the new one, or that of the draft that was there."""
    cursor = await connection.execute(
        """
        INSERT INTO billing.invoice AS invoice
            (invoice_id, tenant_id, period, price_version_id, period_complete, total_minor)
        SELECT invoice_id, tenant_id, %(period)s, price_version_id, period_complete, total_minor
        FROM unnest(%(ids)s::text[], %(tenant_ids)s::text[], %(price_version_ids)s::text[],
                    %(completes)s::boolean[], %(totals)s::bigint[])
             AS given (invoice_id, tenant_id, price_version_id, period_complete, total_minor)
        ON CONFLICT (tenant_id, period) DO UPDATE
        SET price_version_id = excluded.price_version_id, period_complete = excluded.period_complete,
            total_minor = excluded.total_minor, drafted_at = now()
        RETURNING invoice.tenant_id, invoice.invoice_id
        """,
        {
            "period": period,
            "ids": [draft.invoice_id for draft in drafts],
            "tenant_ids": [draft.tenant_id for draft in drafts],
            "price_version_ids": [draft.price_version_id for draft in drafts],
            "completes": [draft.period_complete for draft in drafts],
            "totals": [draft.total_minor for draft in drafts],
        },
    )
    return dict(await cursor.fetchall())


async def read_invoices(connection: Connection, invoice_ids: Sequence[str]) -> list[InvoiceRow]:
    """Invoices by their ids, in the order of tenants."""
    async with connection.cursor(row_factory=class_row(InvoiceRow)) as cursor:
        await cursor.execute(
            """
            SELECT invoice_id, period.tenant_id, period, period.starts_at, period.ends_at, period.time_zone,
                   invoice.price_version_id, version.currency, invoice.status, invoice.period_complete,
                   invoice.total_minor, invoice.drafted_at
            FROM billing.invoice
            JOIN billing.period USING (tenant_id, period)
            JOIN billing.price_version version ON version.price_version_id = invoice.price_version_id
            WHERE invoice_id = ANY(%(ids)s)
            ORDER BY tenant_id, period
            """,
            {"ids": list(invoice_ids)},
        )
        return await cursor.fetchall()


async def read_invoice_ids(
    connection: Connection, tenant_id: str | None, period: str | None, limit: int
) -> list[str]:
    """The ids of a tenant's invoices, or of all tenants' (for the vendor), newest month first."""
    cursor = await connection.execute(
        """
        SELECT invoice_id FROM billing.invoice
        WHERE (%(tenant_id)s::text IS NULL OR tenant_id = %(tenant_id)s)
          AND (%(period)s::text IS NULL OR period = %(period)s)
        ORDER BY period DESC, tenant_id LIMIT %(limit)s
        """,
        {"tenant_id": tenant_id, "period": period, "limit": limit},
    )
    return [invoice_id for (invoice_id,) in await cursor.fetchall()]


async def read_lines(connection: Connection, invoice_ids: Sequence[str]) -> list[tuple[str, DraftLine]]:
    """The lines of these invoices, each with its invoice's id, in order."""
    cursor = await connection.execute(
        """
        SELECT invoice_id, line, meter, calls, units, per_units, tiers, amount_minor
        FROM billing.invoice_line WHERE invoice_id = ANY(%(ids)s) ORDER BY invoice_id, line
        """,
        {"ids": list(invoice_ids)},
    )
    return [
        (
            invoice_id,
            DraftLine(
                line=line,
                meter=meter,
                calls=calls,
                units=units,
                per_units=per_units,
                tiers=tiers,
                amount_minor=amount_minor,
            ),
        )
        for invoice_id, line, meter, calls, units, per_units, tiers, amount_minor in await cursor.fetchall()
    ]
