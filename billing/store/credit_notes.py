"""Credit notes and their lines, as they are kept."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from billing.store.issuing import Link, SeriesRow
from infra.database import Connection


class NoteRow(msgspec.Struct, frozen=True, kw_only=True):
    """One credit note without its lines; see `billing.credit_notes.CreditNote`."""

    credit_note_id: str
    invoice_id: str
    invoice_number: str
    invoice_sha256: bytes
    tenant_id: str
    period: str
    issuer_id: str
    currency: str
    status: Any
    reason: str
    remedy: Any
    subtotal_minor: int
    tax_name: str
    tax_ppm: int
    tax_minor: int
    total_minor: int
    content_sha256: bytes
    prepared_at: datetime
    prepared_by: str
    approved_at: datetime | None
    approved_by: str | None
    issued_at: datetime | None
    issued_by: str | None
    number: str | None
    previous_chain_sha256: bytes | None
    chain_sha256: bytes | None
    reduces_minor: int | None
    carries_minor: int | None
    refunds_minor: int | None


class NoteLineRow(msgspec.Struct, frozen=True):
    """What a credit note takes off one line of its invoice."""

    credit_note_id: str
    line: int
    amount_minor: int


class CreditedRow(msgspec.Struct, frozen=True):
    """What the credit notes of an invoice come to, but for withdrawn ones.

    Attributes:
        by_line: amounts by the invoice's line, in minor units.
    """

    subtotal_minor: int
    tax_minor: int
    by_line: dict[int, int]


async def read_credited(connection: Connection, invoice_id: str) -> CreditedRow:
    """What is credited of an invoice. Call it under the invoice's lock."""
    cursor = await connection.execute(
        """
        SELECT coalesce(sum(subtotal_minor), 0)::bigint, coalesce(sum(tax_minor), 0)::bigint
        FROM billing.credit_note WHERE invoice_id = %(invoice_id)s AND status <> 'withdrawn'
        """,
        {"invoice_id": invoice_id},
    )
    row = await cursor.fetchone()
    assert row is not None
    lines = await connection.execute(
        """
        SELECT line.line, sum(line.amount_minor)::bigint
        FROM billing.credit_note_line line JOIN billing.credit_note note USING (credit_note_id)
        WHERE line.invoice_id = %(invoice_id)s AND note.status <> 'withdrawn'
        GROUP BY line.line
        """,
        {"invoice_id": invoice_id},
    )
    return CreditedRow(row[0], row[1], dict(await lines.fetchall()))


async def insert_note(
    connection: Connection,
    *,
    credit_note_id: str,
    invoice_id: str,
    tenant_id: str,
    issuer_id: str,
    reason: str,
    remedy: str,
    subtotal_minor: int,
    tax_minor: int,
    content_sha256: bytes,
    prepared_by: str,
    lines: Sequence[dict[str, Any]],
) -> None:
    """Write a draft whole; `lines` has a JSON object each. Call it under the invoice's lock."""
    await connection.execute(
        """
        INSERT INTO billing.credit_note (credit_note_id, invoice_id, tenant_id, issuer_id, reason, remedy,
                                         subtotal_minor, tax_minor, total_minor, content_sha256, prepared_by)
        VALUES (%(credit_note_id)s, %(invoice_id)s, %(tenant_id)s, %(issuer_id)s, %(reason)s, %(remedy)s,
                %(subtotal_minor)s, %(tax_minor)s, %(subtotal_minor)s + %(tax_minor)s, %(content_sha256)s,
                %(prepared_by)s)
        """,
        {
            "credit_note_id": credit_note_id,
            "invoice_id": invoice_id,
            "tenant_id": tenant_id,
            "issuer_id": issuer_id,
            "reason": reason,
            "remedy": remedy,
            "subtotal_minor": subtotal_minor,
            "tax_minor": tax_minor,
            "content_sha256": content_sha256,
            "prepared_by": prepared_by,
        },
    )
    await connection.execute(
        """
        INSERT INTO billing.credit_note_line (credit_note_id, invoice_id, line, amount_minor)
        SELECT %(credit_note_id)s, %(invoice_id)s, line, amount_minor
        FROM jsonb_to_recordset(%(lines)s) AS given (line int, amount_minor bigint)
        """,
        {"credit_note_id": credit_note_id, "invoice_id": invoice_id, "lines": Jsonb(list(lines))},
    )


async def find_invoice(connection: Connection, credit_note_id: str) -> str | None:
    """The invoice that a credit note is against, which never changes."""
    cursor = await connection.execute(
        "SELECT invoice_id FROM billing.credit_note WHERE credit_note_id = %(credit_note_id)s",
        {"credit_note_id": credit_note_id},
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def read_notes(
    connection: Connection,
    *,
    credit_note_id: str | None = None,
    invoice_id: str | None = None,
    tenant_id: str | None = None,
    before: str | None = None,
    limit: int,
) -> list[NoteRow]:
    """One credit note, an invoice's, a tenant's, or all, the newest first; `before`: those older than it."""
    async with connection.cursor(row_factory=class_row(NoteRow)) as cursor:
        await cursor.execute(
            """
            SELECT credit_note_id, invoice_id, invoice.number AS invoice_number,
                   invoice.content_sha256 AS invoice_sha256, note.tenant_id, invoice.period, note.issuer_id,
                   invoice.currency, note.status, note.reason, note.remedy, note.subtotal_minor,
                   invoice.tax_name, invoice.tax_ppm, note.tax_minor, note.total_minor, note.content_sha256,
                   note.prepared_at, note.prepared_by, note.approved_at, note.approved_by, note.issued_at,
                   note.issued_by, note.number, note.previous_chain_sha256, note.chain_sha256,
                   note.reduces_minor, note.carries_minor, note.refunds_minor
            FROM billing.credit_note note JOIN billing.invoice USING (invoice_id)
            WHERE (%(credit_note_id)s::text IS NULL OR credit_note_id = %(credit_note_id)s)
              AND (%(invoice_id)s::text IS NULL OR invoice_id = %(invoice_id)s)
              AND (%(tenant_id)s::text IS NULL OR note.tenant_id = %(tenant_id)s)
              AND (%(before)s::text IS NULL OR (note.prepared_at, credit_note_id) < (
                  SELECT last.prepared_at, last.credit_note_id FROM billing.credit_note last
                  WHERE last.credit_note_id = %(before)s))
            ORDER BY note.prepared_at DESC, credit_note_id DESC LIMIT %(limit)s
            """,
            {
                "credit_note_id": credit_note_id,
                "invoice_id": invoice_id,
                "tenant_id": tenant_id,
                "before": before,
                "limit": limit,
            },
        )
        return await cursor.fetchall()


async def read_note_lines(connection: Connection, credit_note_ids: Sequence[str]) -> list[NoteLineRow]:
    """The lines of these credit notes, in order."""
    async with connection.cursor(row_factory=class_row(NoteLineRow)) as cursor:
        await cursor.execute(
            """
            SELECT credit_note_id, line, amount_minor FROM billing.credit_note_line
            WHERE credit_note_id = ANY(%(ids)s) ORDER BY credit_note_id, line
            """,
            {"ids": list(credit_note_ids)},
        )
        return await cursor.fetchall()


async def set_note_approved(connection: Connection, credit_note_id: str, approved_by: str) -> None:
    """Mark a credit note approved."""
    await connection.execute(
        """
        UPDATE billing.credit_note SET status = 'approved', approved_at = now(), approved_by = %(approved_by)s
        WHERE credit_note_id = %(credit_note_id)s
        """,
        {"credit_note_id": credit_note_id, "approved_by": approved_by},
    )


async def set_note_withdrawn(connection: Connection, credit_note_id: str) -> None:
    """Mark a credit note withdrawn: it counts for nothing any more."""
    await connection.execute(
        "UPDATE billing.credit_note SET status = 'withdrawn' WHERE credit_note_id = %(credit_note_id)s",
        {"credit_note_id": credit_note_id},
    )


async def lock_credit_series(connection: Connection, issuer_id: str) -> SeriesRow:
    """Lock an issuer: one credit note at a time gets its number, in a series beside the invoices'."""
    async with connection.cursor(row_factory=class_row(SeriesRow)) as cursor:
        await cursor.execute(
            """
            SELECT number_prefix || 'CN-' AS number_prefix, last_credit_number AS last_number,
                   last_credit_chain_sha256 AS last_chain_sha256, payment_days
            FROM billing.issuer WHERE issuer_id = %(issuer_id)s FOR UPDATE
            """,
            {"issuer_id": issuer_id},
        )
        found = await cursor.fetchone()
    assert found is not None, "an invoice's issuer is there"
    return found


async def set_note_issued(
    connection: Connection,
    credit_note_id: str,
    issuer_id: str,
    link: Link,
    *,
    issued_by: str,
    reduces_minor: int,
    carries_minor: int,
    refunds_minor: int,
) -> None:
    """Give a credit note its number, and say where its total goes. Call it under `lock_credit_series`."""
    parameters = {
        **msgspec.structs.asdict(link),
        "credit_note_id": credit_note_id,
        "issuer_id": issuer_id,
        "issued_by": issued_by,
        "reduces_minor": reduces_minor,
        "carries_minor": carries_minor,
        "refunds_minor": refunds_minor,
    }
    await connection.execute(
        """
        UPDATE billing.issuer
        SET last_credit_number = %(number_in_issuer)s, last_credit_chain_sha256 = %(chain_sha256)s
        WHERE issuer_id = %(issuer_id)s
        """,
        parameters,
    )
    await connection.execute(
        """
        UPDATE billing.credit_note
        SET status = 'issued', issued_at = now(), issued_by = %(issued_by)s,
            number_in_issuer = %(number_in_issuer)s, number = %(number)s,
            previous_chain_sha256 = %(previous_chain_sha256)s, chain_sha256 = %(chain_sha256)s,
            reduces_minor = %(reduces_minor)s, carries_minor = %(carries_minor)s,
            refunds_minor = %(refunds_minor)s
        WHERE credit_note_id = %(credit_note_id)s
        """,
        parameters,
    )
