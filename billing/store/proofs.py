"""What an invoice is compared with, beside the usage rows and the prices."""

from datetime import datetime
from typing import Any

import msgspec
from psycopg.rows import class_row, dict_row

from billing.store.drafts import CounterRow
from infra.database import Connection


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """What is on record on both sides of an issued invoice in its issuer's chain.

    Attributes:
        before_sha256: the link of the number before; None where there is none.
        next_sha256: what the next number is chained to, or the issuer's next invoice will be.
    """

    number_in_issuer: int
    number_prefix: str
    before_sha256: bytes | None
    next_sha256: bytes | None


async def view_one_moment(connection: Connection) -> None:
    """Have the transaction, just begun, read what was committed by now and nothing later.

    What is sorted may take more memory than a charge does; a large month is sorted on disk.
    """
    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    await connection.execute("SELECT set_config('work_mem', '64MB', true), set_config('jit', 'off', true)")


async def read_counted(
    connection: Connection, tenant_id: str, period: str, recorded_by: datetime
) -> list[CounterRow]:
    """What a month's usage rows came to at a moment, by segment and meter. What came late counts in the
    segment in which it came, as counters have it.
    """
    async with connection.cursor(row_factory=class_row(CounterRow)) as cursor:
        await cursor.execute(
            """
            SELECT %(tenant_id)s AS tenant_id,
                   CASE WHEN usage_period = %(period)s THEN segment ELSE (
                       SELECT count(*) FROM billing.period_segment past
                       WHERE past.tenant_id = %(tenant_id)s AND past.period = %(period)s
                         AND past.ends_at <= recorded_at) END AS segment,
                   meter, sum(calls)::bigint AS calls, sum(units)::bigint AS units
            FROM billing.month_rows(%(tenant_id)s, %(period)s)
            WHERE recorded_at <= %(recorded_by)s
            GROUP BY 1, 2, 3 HAVING sum(calls) <> 0 OR sum(units) <> 0
            ORDER BY 2, 3
            """,
            {"tenant_id": tenant_id, "period": period, "recorded_by": recorded_by},
        )
        return await cursor.fetchall()


async def read_sealed_between(connection: Connection, tenant_id: str, first: str, before: str) -> list[str]:
    """A tenant's sealed months from one on and before another."""
    cursor = await connection.execute(
        """
        SELECT period FROM billing.period
        WHERE tenant_id = %(tenant_id)s AND period >= %(first)s AND period < %(before)s
          AND sealed_at IS NOT NULL
        ORDER BY period
        """,
        {"tenant_id": tenant_id, "first": first, "before": before},
    )
    return [str(period) for (period,) in await cursor.fetchall()]


async def read_detached(connection: Connection, tenant_id: str, first: str, last: str) -> list[str]:
    """The detached partitions that may hold a tenant's usage of the months from one to another."""
    cursor = await connection.execute(
        """
        SELECT partition FROM billing.usage_partition
        JOIN (
            SELECT min(starts_at) AS starts_at, max(ends_at) AS ends_at FROM billing.period
            WHERE tenant_id = %(tenant_id)s AND period BETWEEN %(first)s AND %(last)s
        ) AS months ON usage_partition.ends_at > months.starts_at AND begins_at < months.ends_at
        WHERE detached_at IS NOT NULL
        ORDER BY usage_partition.ends_at
        """,
        {"tenant_id": tenant_id, "first": first, "last": last},
    )
    return [str(partition) for (partition,) in await cursor.fetchall()]


async def read_link(connection: Connection, invoice_id: str) -> Link | None:
    """An issued invoice's place in the chain."""
    async with connection.cursor(row_factory=class_row(Link)) as cursor:
        await cursor.execute(
            """
            SELECT invoice.number_in_issuer, issuer.number_prefix, earlier.chain_sha256 AS before_sha256,
                   CASE WHEN issuer.last_number = invoice.number_in_issuer THEN issuer.last_chain_sha256
                        ELSE later.previous_chain_sha256 END AS next_sha256
            FROM billing.invoice
            JOIN billing.issuer USING (issuer_id)
            LEFT JOIN billing.invoice earlier
                ON earlier.issuer_id = invoice.issuer_id
               AND earlier.number_in_issuer = invoice.number_in_issuer - 1
            LEFT JOIN billing.invoice later
                ON later.issuer_id = invoice.issuer_id
               AND later.number_in_issuer = invoice.number_in_issuer + 1
            WHERE invoice.invoice_id = %(invoice_id)s AND invoice.number_in_issuer IS NOT NULL
            """,
            {"invoice_id": invoice_id},
        )
        return await cursor.fetchone()


async def read_sources(connection: Connection, invoice_id: str) -> list[dict[str, Any]]:
    """What an invoice takes over, as its sources say now: issued before, by the tenant, and not void."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            SELECT found.source, found.id, found.number, found.amount_minor
            FROM billing.invoice
            CROSS JOIN jsonb_array_elements(invoice.carried) WITH ORDINALITY AS given (one, place)
            JOIN LATERAL (
                SELECT 'invoice' AS source, earlier.invoice_id AS id, earlier.number,
                       earlier.carried_out_minor AS amount_minor
                FROM billing.invoice earlier
                WHERE earlier.tenant_id = invoice.tenant_id AND earlier.period < invoice.period
                  AND earlier.number IS NOT NULL AND earlier.status <> 'void'
                UNION ALL
                SELECT 'credit_note', note.credit_note_id, note.number, -note.carries_minor
                FROM billing.credit_note note
                WHERE note.tenant_id = invoice.tenant_id AND note.number IS NOT NULL
            ) AS found ON (found.source, found.id) = (given.one ->> 'source', given.one ->> 'id')
            WHERE invoice_id = %(invoice_id)s
            ORDER BY given.place
            """,
            {"invoice_id": invoice_id},
        )
        return await cursor.fetchall()


async def read_other_takers(connection: Connection, invoice_id: str) -> list[tuple[str, str]]:
    """Other invoices, void ones aside, that take over the same as this one, as (source, invoice)."""
    cursor = await connection.execute(
        """
        SELECT given.one ->> 'id', other.invoice_id
        FROM billing.invoice
        CROSS JOIN jsonb_array_elements(invoice.carried) AS given (one)
        JOIN billing.invoice other
            ON other.carried @> jsonb_build_array(jsonb_build_object('id', given.one -> 'id'))
           AND other.tenant_id = invoice.tenant_id
        WHERE invoice.invoice_id = %(invoice_id)s AND invoice.status <> 'void'
          AND other.invoice_id <> invoice.invoice_id AND other.status <> 'void'
        ORDER BY 1, 2
        """,
        {"invoice_id": invoice_id},
    )
    return [(str(source_id), str(other_id)) for source_id, other_id in await cursor.fetchall()]
