"""What the review of invoices reads: invoices, lines added up, seals, counters, alerts; no usage rows."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from psycopg.rows import class_row

from infra.database import Connection


class ReviewRow(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice in review; `lines_minor` is what its lines add up to."""

    invoice_id: str
    tenant_id: str
    period: str
    revision: int
    currency: str
    subtotal_minor: int
    total_minor: int
    due_minor: int
    lines_minor: int
    content_sha256: bytes
    prepared_by: list[str]


class EarlierRow(msgspec.Struct, frozen=True):
    """One of the invoices before; `of_invoice` is the one in review."""

    of_invoice: str
    invoice_id: str
    period: str
    subtotal_minor: int


class UseRow(msgspec.Struct, frozen=True):
    """What the usage lines of an invoice come to, by the month and the meter of the usage."""

    invoice_id: str
    usage_period: str
    meter: str
    calls: int
    units: int
    amount_minor: int
    price_version_ids: list[str]
    reached_from_units: int


class MismatchRow(msgspec.Struct, frozen=True):
    """A meter of an invoice's month whose counter and seals differ."""

    invoice_id: str
    meter: str
    counted_calls: int
    counted_units: int
    sealed_calls: int
    sealed_units: int


class CapRow(msgspec.Struct, frozen=True):
    """A cap that was used up in an invoice's month; see `billing.risk.CapHit`."""

    invoice_id: str
    key_id: str | None
    meter: str | None
    is_credit: bool
    raised_at: datetime


class RefusedRow(msgspec.Struct, frozen=True):
    """Calls that were refused in an invoice's month; see `billing.risk.Refused`."""

    invoice_id: str
    code: str
    calls: int


class DeedRow(msgspec.Struct, frozen=True):
    """An approval of an invoice, or that it was sent back."""

    invoice_id: str
    action: str
    actor: str
    reason: str | None


class Comment(msgspec.Struct, frozen=True):
    """What somebody said of an invoice."""

    comment_id: int
    at: datetime
    actor: str
    text: str


async def read_in_review(
    connection: Connection, period: str | None, after: str, limit: int
) -> list[ReviewRow]:
    """The next invoices in review by their id, of one month or of all."""
    async with connection.cursor(row_factory=class_row(ReviewRow)) as cursor:
        await cursor.execute(
            """
            SELECT invoice_id, tenant_id, period, revision, currency, subtotal_minor, total_minor, due_minor,
                   (SELECT coalesce(sum(line.amount_minor), 0)::bigint FROM billing.invoice_line line
                    WHERE line.invoice_id = invoice.invoice_id) AS lines_minor,
                   content_sha256, prepared_by
            FROM billing.invoice
            WHERE status = 'in_review' AND invoice_id > %(after)s
              AND (%(period)s::text IS NULL OR period = %(period)s)
            ORDER BY invoice_id LIMIT %(limit)s
            """,
            {"period": period, "after": after, "limit": limit},
        )
        return await cursor.fetchall()


async def read_earlier(connection: Connection, invoice_ids: Sequence[str], months: int) -> list[EarlierRow]:
    """The invoices of their tenants' months before, so many at most, the latest first; void ones left out."""
    async with connection.cursor(row_factory=class_row(EarlierRow)) as cursor:
        await cursor.execute(
            """
            SELECT invoice.invoice_id AS of_invoice, earlier.invoice_id, earlier.period,
                   earlier.subtotal_minor
            FROM billing.invoice
            CROSS JOIN LATERAL (
                SELECT before.invoice_id, before.period, before.subtotal_minor FROM billing.invoice before
                WHERE before.tenant_id = invoice.tenant_id AND before.period < invoice.period
                  AND before.status <> 'void' AND before.period_complete
                ORDER BY before.period DESC LIMIT %(months)s
            ) AS earlier
            WHERE invoice.invoice_id = ANY(%(ids)s)
            ORDER BY invoice.invoice_id, earlier.period DESC
            """,
            {"ids": list(invoice_ids), "months": months},
        )
        return await cursor.fetchall()


async def read_uses(connection: Connection, invoice_ids: Sequence[str]) -> list[UseRow]:
    """What the usage lines of these invoices come to."""
    async with connection.cursor(row_factory=class_row(UseRow)) as cursor:
        await cursor.execute(
            """
            SELECT line.invoice_id, line.usage_period, line.meter, sum(line.calls)::bigint AS calls,
                   sum(line.units)::bigint AS units, sum(line.amount_minor)::bigint AS amount_minor,
                   array_agg(DISTINCT line.price_version_id) AS price_version_ids,
                   coalesce(max(reached.from_units), 0)::bigint AS reached_from_units
            FROM billing.invoice_line line
            CROSS JOIN LATERAL (
                SELECT max((tier.use ->> 'from_units')::bigint) AS from_units
                FROM jsonb_array_elements(line.tiers) AS tier (use) WHERE (tier.use ->> 'units')::bigint > 0
            ) AS reached
            WHERE line.kind = 'usage' AND line.invoice_id = ANY(%(ids)s)
            GROUP BY line.invoice_id, line.usage_period, line.meter
            """,
            {"ids": list(invoice_ids)},
        )
        return await cursor.fetchall()


async def read_mismatches(connection: Connection, invoice_ids: Sequence[str]) -> list[MismatchRow]:
    """Where the counters of these invoices' months and their seals differ."""
    async with connection.cursor(row_factory=class_row(MismatchRow)) as cursor:
        await cursor.execute(
            """
            SELECT invoice_id, meter, counted_calls, counted_units, sealed_calls, sealed_units
            FROM (
                SELECT invoice_id, meter, sum(counted_calls)::bigint AS counted_calls,
                       sum(counted_units)::bigint AS counted_units,
                       sum(sealed_calls)::bigint AS sealed_calls, sum(sealed_units)::bigint AS sealed_units
                FROM (
                    SELECT invoice.invoice_id, counter.meter, counter.calls AS counted_calls,
                           counter.units AS counted_units, 0 AS sealed_calls, 0 AS sealed_units
                    FROM billing.invoice JOIN billing.period_counter counter USING (tenant_id, period)
                    WHERE invoice.invoice_id = ANY(%(ids)s)
                    UNION ALL
                    SELECT invoice.invoice_id, seal.meter, 0, 0, seal.calls, seal.units
                    FROM billing.invoice JOIN billing.seal USING (tenant_id, period)
                    WHERE invoice.invoice_id = ANY(%(ids)s)
                ) AS said
                GROUP BY invoice_id, meter
            ) AS both_say
            WHERE (counted_calls, counted_units) <> (sealed_calls, sealed_units)
            ORDER BY invoice_id, meter
            """,
            {"ids": list(invoice_ids)},
        )
        return await cursor.fetchall()


async def read_caps_hit(connection: Connection, invoice_ids: Sequence[str]) -> list[CapRow]:
    """The caps of which the tenants were told that all was used in these invoices' months."""
    async with connection.cursor(row_factory=class_row(CapRow)) as cursor:
        await cursor.execute(
            """
            SELECT invoice.invoice_id, alert.key_id, alert.meter, alert.is_credit,
                   alert.raised_at
            FROM billing.invoice JOIN billing.alert USING (tenant_id, period)
            WHERE invoice.invoice_id = ANY(%(ids)s)
              AND alert.type = 'cap.threshold_reached' AND alert.threshold_percent = 100
            ORDER BY invoice.invoice_id, alert.raised_at
            """,
            {"ids": list(invoice_ids)},
        )
        return await cursor.fetchall()


async def read_refused(connection: Connection, invoice_ids: Sequence[str]) -> list[RefusedRow]:
    """The calls of their tenants that were refused in these invoices' months, most first."""
    async with connection.cursor(row_factory=class_row(RefusedRow)) as cursor:
        await cursor.execute(
            """
            SELECT invoice.invoice_id, counter.code, counter.calls
            FROM billing.invoice JOIN billing.refusal_counter counter USING (tenant_id, period)
            WHERE invoice.invoice_id = ANY(%(ids)s)
            ORDER BY invoice.invoice_id, counter.calls DESC, counter.code
            """,
            {"ids": list(invoice_ids)},
        )
        return await cursor.fetchall()


async def read_deeds(connection: Connection, invoice_ids: Sequence[str]) -> list[DeedRow]:
    """The approvals of these invoices, and when they were sent back, the oldest first."""
    async with connection.cursor(row_factory=class_row(DeedRow)) as cursor:
        await cursor.execute(
            """
            SELECT subject AS invoice_id, action, actor, detail ->> 'reason' AS reason
            FROM billing.audit_event
            WHERE subject = ANY(%(ids)s) AND action IN ('approve', 'send_back') AND NOT refused
            ORDER BY event_id
            """,
            {"ids": list(invoice_ids)},
        )
        return await cursor.fetchall()


async def insert_comment(connection: Connection, invoice_id: str, actor: str, text: str) -> Comment:
    """Add a comment."""
    async with connection.cursor(row_factory=class_row(Comment)) as cursor:
        await cursor.execute(
            """
            INSERT INTO billing.invoice_comment (invoice_id, actor, text)
            VALUES (%(invoice_id)s, %(actor)s, %(text)s)
            RETURNING comment_id, at, actor, text
            """,
            {"invoice_id": invoice_id, "actor": actor, "text": text},
        )
        written = await cursor.fetchone()
    assert written is not None
    return written


async def read_comments(connection: Connection, invoice_id: str, after: int, limit: int) -> list[Comment]:
    """An invoice's comments in the order in which they were written; `after`: those with a larger id."""
    async with connection.cursor(row_factory=class_row(Comment)) as cursor:
        await cursor.execute(
            """
            SELECT comment_id, at, actor, text FROM billing.invoice_comment
            WHERE invoice_id = %(invoice_id)s AND comment_id > %(after)s
            ORDER BY comment_id LIMIT %(limit)s
            """,
            {"invoice_id": invoice_id, "after": after, "limit": limit},
        )
        return await cursor.fetchall()
