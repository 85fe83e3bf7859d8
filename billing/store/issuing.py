"""An invoice's way from review to its end."""

from datetime import date, datetime

import msgspec
from psycopg.rows import class_row

from infra.database import Connection


class SeriesRow(msgspec.Struct, frozen=True):
    """What the next document of an issuer's series needs, under the issuer's lock."""

    number_prefix: str
    last_number: int
    last_chain_sha256: bytes
    payment_days: int


class Link(msgspec.Struct, frozen=True):
    """The place of a document in its series: its number, and its link in the hash chain."""

    number_in_issuer: int
    number: str
    previous_chain_sha256: bytes
    chain_sha256: bytes


async def lock_invoice(connection: Connection, invoice_id: str) -> bool:
    """Lock one invoice until the transaction ends; False where there is none."""
    cursor = await connection.execute(
        "SELECT FROM billing.invoice WHERE invoice_id = %(invoice_id)s FOR UPDATE",
        {"invoice_id": invoice_id},
    )
    return cursor.rowcount == 1


async def lock_issuer(connection: Connection, issuer_id: str) -> SeriesRow:
    """Lock an issuer: one invoice at a time gets its number."""
    async with connection.cursor(row_factory=class_row(SeriesRow)) as cursor:
        await cursor.execute(
            """
            SELECT number_prefix, last_number, last_chain_sha256, payment_days
            FROM billing.issuer WHERE issuer_id = %(issuer_id)s FOR UPDATE
            """,
            {"issuer_id": issuer_id},
        )
        found = await cursor.fetchone()
    assert found is not None, "an invoice's issuer is there"
    return found


async def earliest_not_issued(connection: Connection, tenant_id: str, before: str) -> str | None:
    """The earliest month before that has an invoice on its way, if there is one."""
    cursor = await connection.execute(
        """
        SELECT min(period) FROM billing.invoice
        WHERE tenant_id = %(tenant_id)s AND period < %(before)s AND number IS NULL
        """,
        {"tenant_id": tenant_id, "before": before},
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def set_approval(connection: Connection, invoice_id: str, approved_by: str, sha256: bytes) -> None:
    """Mark an invoice approved."""
    await connection.execute(
        """
        UPDATE billing.invoice
        SET status = 'approved', approved_at = now(), approved_by = %(approved_by)s,
            approved_sha256 = %(sha256)s
        WHERE invoice_id = %(invoice_id)s
        """,
        {"invoice_id": invoice_id, "approved_by": approved_by, "sha256": sha256},
    )


async def set_sent_back(connection: Connection, invoice_id: str) -> None:
    """Make an invoice a draft again, in the two steps that there are from an approved one."""
    for status in ("in_review", "draft"):
        await connection.execute(
            """
            UPDATE billing.invoice
            SET status = %(status)s, approved_at = NULL, approved_by = NULL, approved_sha256 = NULL
            WHERE invoice_id = %(invoice_id)s
            """,
            {"invoice_id": invoice_id, "status": status},
        )


async def set_issued(
    connection: Connection,
    invoice_id: str,
    issuer_id: str,
    link: Link,
    *,
    issued_at: datetime,
    due_on: date,
) -> None:
    """Give an invoice its number. Call it under `lock_issuer`."""
    parameters = {
        **msgspec.structs.asdict(link),
        "invoice_id": invoice_id,
        "issuer_id": issuer_id,
        "issued_at": issued_at,
        "due_on": due_on,
    }
    await connection.execute(
        """
        UPDATE billing.issuer
        SET last_number = %(number_in_issuer)s, last_chain_sha256 = %(chain_sha256)s
        WHERE issuer_id = %(issuer_id)s
        """,
        parameters,
    )
    await connection.execute(
        """
        UPDATE billing.invoice
        SET status = 'issued', number_in_issuer = %(number_in_issuer)s, number = %(number)s,
            issued_at = %(issued_at)s, due_on = %(due_on)s,
            previous_chain_sha256 = %(previous_chain_sha256)s, chain_sha256 = %(chain_sha256)s
        WHERE invoice_id = %(invoice_id)s
        """,
        parameters,
    )


async def set_settled(
    connection: Connection, invoice_id: str, status: str, to_be_reissued: bool = False
) -> None:
    """Note what became of an issued invoice: `paid`, `void`, `uncollectible`."""
    await connection.execute(
        """
        UPDATE billing.invoice
        SET status = %(status)s, settled_at = now(), to_be_reissued = %(to_be_reissued)s
        WHERE invoice_id = %(invoice_id)s
        """,
        {"invoice_id": invoice_id, "status": status, "to_be_reissued": to_be_reissued},
    )
