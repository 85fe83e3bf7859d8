"""Invoices and their lines, as they are kept."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import msgspec
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from infra.database import Connection


class LineRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line; see `billing.invoices.InvoiceLine`."""

    invoice_id: str
    line: int
    kind: Any
    usage_period: str
    segment: int
    meter: str | None
    price_version_id: str | None
    model: Any
    per_units: int | None
    row_count: int
    calls: int
    units: int
    digest: bytes | None
    cutoff_at: datetime
    tiers: Any
    basis: Any
    exact_nanos: str
    amount_minor: int


class InvoiceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One invoice without its lines; see `billing.invoices.Content` and `Invoice`."""

    invoice_id: str
    tenant_id: str
    period: str
    revision: int
    replaces: str | None
    status: Any
    starts_at: datetime
    ends_at: datetime
    time_zone: str
    issuer_id: str
    issuer: Any
    bill_to: Any
    language: str
    currency: str
    period_complete: bool
    subtotal_minor: int
    tax_name: str
    tax_ppm: int
    tax_minor: int
    total_minor: int
    carried_in_minor: int
    carried: Any
    carried_out_minor: int
    due_minor: int
    credited_minor: int
    content_sha256: bytes
    drafted_at: datetime
    prepared_by: list[str]
    approved_at: datetime | None
    approved_by: str | None
    approved_sha256: bytes | None
    number: str | None
    issued_at: datetime | None
    due_on: date | None
    previous_chain_sha256: bytes | None
    chain_sha256: bytes | None
    settled_at: datetime | None
    to_be_reissued: bool


class SummaryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One invoice in a list."""

    invoice_id: str
    tenant_id: str
    period: str
    revision: int
    status: Any
    number: str | None
    currency: str
    total_minor: int
    due_minor: int


async def read_invoice(connection: Connection, invoice_id: str) -> InvoiceRow | None:
    """One invoice by its id."""
    async with connection.cursor(row_factory=class_row(InvoiceRow)) as cursor:
        await cursor.execute(
            """
            SELECT invoice_id, tenant_id, period, revision, replaces, status,
                   period.starts_at, period.ends_at, period.time_zone,
                   issuer_id, issuer, bill_to, language, currency, period_complete, subtotal_minor, tax_name,
                   tax_ppm, tax_minor, total_minor, carried_in_minor, carried, carried_out_minor, due_minor,
                   (SELECT coalesce(sum(note.reduces_minor), 0)::bigint FROM billing.credit_note note
                    WHERE note.invoice_id = invoice.invoice_id) AS credited_minor,
                   content_sha256, drafted_at, prepared_by, approved_at, approved_by, approved_sha256,
                   number, issued_at, due_on, previous_chain_sha256, chain_sha256,
                   settled_at, to_be_reissued
            FROM billing.invoice JOIN billing.period USING (tenant_id, period)
            WHERE invoice_id = %(invoice_id)s
            """,
            {"invoice_id": invoice_id},
        )
        return await cursor.fetchone()


async def read_summaries(
    connection: Connection,
    tenant_id: str | None,
    period: str | None,
    statuses: Sequence[str],
    limit: int,
    after: InvoiceRow | None = None,
) -> list[SummaryRow]:
    """A tenant's invoices, or all tenants' (for the vendor), the newest months first; those after one."""
    async with connection.cursor(row_factory=class_row(SummaryRow)) as cursor:
        await cursor.execute(
            """
            SELECT invoice_id, tenant_id, period, revision, status, number, currency, total_minor, due_minor
            FROM billing.invoice
            WHERE (%(tenant_id)s::text IS NULL OR tenant_id = %(tenant_id)s)
              AND (%(period)s::text IS NULL OR period = %(period)s)
              AND status = ANY(%(statuses)s)
              AND (%(after_period)s::text IS NULL OR (period <= %(after_period)s AND (
                  period < %(after_period)s OR tenant_id > %(after_tenant)s
                  OR (tenant_id = %(after_tenant)s AND revision < %(after_revision)s))))
            ORDER BY period DESC, tenant_id, revision DESC LIMIT %(limit)s
            """,
            {
                "tenant_id": tenant_id,
                "period": period,
                "statuses": list(statuses),
                "limit": limit,
                "after_period": after.period if after else None,
                "after_tenant": after.tenant_id if after else None,
                "after_revision": after.revision if after else None,
            },
        )
        return await cursor.fetchall()


async def read_lines(connection: Connection, invoice_ids: Sequence[str]) -> list[LineRow]:
    """The lines of these invoices, in order."""
    async with connection.cursor(row_factory=class_row(LineRow)) as cursor:
        await cursor.execute(
            """
            SELECT invoice_id, line, kind, usage_period, segment, meter, price_version_id, model, per_units,
                   row_count, calls, units, digest, cutoff_at, tiers, basis, exact_nanos, amount_minor
            FROM billing.invoice_line WHERE invoice_id = ANY(%(ids)s) ORDER BY invoice_id, line
            """,
            {"ids": list(invoice_ids)},
        )
        return await cursor.fetchall()


async def write_invoices(connection: Connection, invoices: Sequence[dict[str, Any]]) -> None:
    """Write drafts whole, or make those that are there anew under their ids; a JSON object an invoice.

    Call it in the transaction that locked their months.
    """
    await connection.execute(
        """
        INSERT INTO billing.invoice AS invoice (
            invoice_id, tenant_id, period, revision, replaces, status, issuer_id, issuer, bill_to, language,
            currency, period_complete, subtotal_minor, tax_name, tax_ppm, tax_minor, total_minor,
            carried_in_minor, carried, carried_out_minor, due_minor, content_sha256, prepared_by)
        SELECT invoice_id, tenant_id, period, revision, replaces, status, issuer_id, issuer, bill_to,
               language, currency, period_complete, subtotal_minor, tax_name, tax_ppm, tax_minor, total_minor,
               carried_in_minor, carried, carried_out_minor, due_minor,
               decode(content_sha256, 'hex'), prepared_by
        FROM jsonb_to_recordset(%(invoices)s) AS given (
            invoice_id text, tenant_id text, period text, revision int, replaces text, status text,
            issuer_id text, issuer jsonb, bill_to jsonb, language text, currency text,
            period_complete boolean, subtotal_minor bigint, tax_name text, tax_ppm int, tax_minor bigint,
            total_minor bigint, carried_in_minor bigint, carried jsonb, carried_out_minor bigint,
            due_minor bigint,
            content_sha256 text, prepared_by text[])
        ON CONFLICT (invoice_id) DO UPDATE
        SET status = excluded.status, issuer_id = excluded.issuer_id, issuer = excluded.issuer,
            bill_to = excluded.bill_to, language = excluded.language, currency = excluded.currency,
            period_complete = excluded.period_complete, subtotal_minor = excluded.subtotal_minor,
            tax_name = excluded.tax_name, tax_ppm = excluded.tax_ppm, tax_minor = excluded.tax_minor,
            total_minor = excluded.total_minor, carried_in_minor = excluded.carried_in_minor,
            carried = excluded.carried, carried_out_minor = excluded.carried_out_minor,
            due_minor = excluded.due_minor, content_sha256 = excluded.content_sha256,
            prepared_by = excluded.prepared_by, drafted_at = now(),
            approved_at = NULL, approved_by = NULL, approved_sha256 = NULL
        """,
        {"invoices": Jsonb(list(invoices))},
    )


async def write_lines(
    connection: Connection, invoice_ids: Sequence[str], lines: Sequence[dict[str, Any]]
) -> None:
    """Put these lines, a JSON object each, in the place of the invoices' lines."""
    await connection.execute(
        "DELETE FROM billing.invoice_line WHERE invoice_id = ANY(%(ids)s)", {"ids": list(invoice_ids)}
    )
    await connection.execute(
        """
        INSERT INTO billing.invoice_line (
            invoice_id, line, kind, usage_period, segment, meter, price_version_id, model, per_units,
            row_count, calls, units, digest, cutoff_at, tiers, basis, exact_nanos, amount_minor)
        SELECT invoice_id, line, kind, usage_period, segment, meter, price_version_id, model, per_units,
               row_count, calls, units, decode(digest, 'hex'), cutoff_at, tiers, basis, exact_nanos,
               amount_minor
        FROM jsonb_to_recordset(%(lines)s) AS given (
            invoice_id text, line int, kind text, usage_period text, segment smallint, meter text,
            price_version_id text, model text, per_units bigint, row_count bigint, calls bigint,
            units bigint, digest text, cutoff_at timestamptz, tiers jsonb, basis jsonb, exact_nanos text,
            amount_minor bigint)
        """,
        {"lines": Jsonb(list(lines))},
    )
