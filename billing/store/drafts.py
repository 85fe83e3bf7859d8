"""What invoices are made from."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg import sql
from psycopg.rows import class_row

from infra.database import Connection


class MonthRow(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's month with all that its invoice says besides usage, and the latest invoice it has.

    Attributes:
        cutoff_at: when the month was closed, or now.
    """

    tenant_id: str
    period: str
    starts_at: datetime
    ends_at: datetime
    time_zone: str
    cutoff_at: datetime
    is_sealed: bool
    price_version_id: str
    credit_nanos: int
    currency: str
    issuer_id: str
    issuer: Any
    bill_to: Any
    language: str
    tax_name: str
    tax_ppm: int
    carried: Any
    invoice_id: str | None
    revision: int
    status: str | None
    replaces: str | None
    to_be_reissued: bool
    prepared_by: list[str]
    content_sha256: bytes | None


class CounterRow(msgspec.Struct, frozen=True):
    """What a tenant's meter counted in a segment of a month that is not sealed."""

    tenant_id: str
    segment: int
    meter: str
    calls: int
    units: int


class MonthPrice(msgspec.Struct, frozen=True):
    """A price version that holds for a segment of a tenant's month, with its share of the month's time:
    `held / of`.
    """

    tenant_id: str
    period: str
    segment: int
    price_version_id: str
    starts_at: datetime
    held_us: int
    of_us: int


# Also those whose invoice was made before, whatever became of their usage.
_BILLABLE = sql.SQL(
    """
    billing.period
    JOIN billing.price_version version USING (price_version_id)
    WHERE period.period = %(period)s AND period.starts_at <= now()
      AND (version.minimum_nanos > 0
          OR EXISTS (
              SELECT FROM billing.period_segment past
              WHERE past.tenant_id = period.tenant_id AND past.period = period.period)
          OR EXISTS (
              SELECT FROM billing.period_counter counter
              WHERE counter.tenant_id = period.tenant_id AND counter.period = period.period
                AND (counter.calls <> 0 OR counter.units <> 0))
          OR EXISTS (
              SELECT FROM billing.seal
              WHERE seal.tenant_id = period.tenant_id AND seal.period = period.period)
          OR EXISTS (
              SELECT FROM billing.invoice
              WHERE invoice.tenant_id = period.tenant_id AND invoice.period = period.period))
    """
)
_COUNT = sql.SQL("SELECT count(*) FROM {billable}").format(billable=_BILLABLE)
_LOCK_PAGE = sql.SQL(
    """
    SELECT period.tenant_id FROM {billable} AND period.tenant_id > %(after)s
    ORDER BY period.tenant_id LIMIT %(limit)s
    FOR NO KEY UPDATE OF period
    """
).format(billable=_BILLABLE)


async def count_billable_months(connection: Connection, period: str) -> int:
    """How many tenants have something to bill in a month that has begun on their clock."""
    cursor = await connection.execute(_COUNT, {"period": period})
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def lock_billable_months(connection: Connection, period: str, after: str, limit: int) -> list[str]:
    """The next tenants with something to bill in a month, their months locked against other runs.

    Charges lock accounts, not periods, and go on.
    """
    cursor = await connection.execute(_LOCK_PAGE, {"period": period, "after": after, "limit": limit})
    return [str(tenant_id) for (tenant_id,) in await cursor.fetchall()]


async def read_months(connection: Connection, period: str, tenant_ids: Sequence[str]) -> list[MonthRow]:
    """These tenants' months. What is carried in comes from all issued invoices of months before that left
    something, and from all credit notes, that no other invoice took over; an issued invoice keeps what it
    has.
    """
    async with connection.cursor(row_factory=class_row(MonthRow)) as cursor:
        await cursor.execute(
            """
            SELECT month.tenant_id, month.period, month.starts_at, month.ends_at, month.time_zone,
                   coalesce(month.closed_at, statement_timestamp()) AS cutoff_at,
                   month.sealed_at IS NOT NULL AS is_sealed,
                   month.price_version_id, month.credit_nanos, account.currency, profile.issuer_id,
                   jsonb_build_object('name', issuer.name, 'address', issuer.address, 'tax_id', issuer.tax_id,
                                      'email', issuer.email) AS issuer,
                   jsonb_build_object('name', profile.name, 'address', profile.address,
                                      'tax_id', profile.tax_id, 'email', profile.email) AS bill_to,
                   profile.language, profile.tax_name, profile.tax_ppm,
                   CASE WHEN latest.number IS NOT NULL AND latest.status <> 'void' THEN latest.carried
                        ELSE coalesce(free.carried, '[]') END AS carried,
                   latest.invoice_id, coalesce(latest.revision, 0) AS revision, latest.status,
                   latest.replaces, coalesce(latest.to_be_reissued, false) AS to_be_reissued,
                   coalesce(latest.prepared_by, '{}') AS prepared_by, latest.content_sha256
            FROM billing.period month
            JOIN billing.account USING (tenant_id)
            JOIN billing.profile USING (tenant_id)
            JOIN billing.issuer USING (issuer_id)
            LEFT JOIN LATERAL (
                SELECT * FROM billing.invoice
                WHERE invoice.tenant_id = month.tenant_id AND invoice.period = month.period
                ORDER BY invoice.revision DESC LIMIT 1
            ) AS latest ON true
            LEFT JOIN LATERAL (
                SELECT jsonb_agg(to_jsonb(offer) - 'issued_at' ORDER BY offer.issued_at, offer.id) AS carried
                FROM (
                    SELECT 'invoice' AS source, earlier.invoice_id AS id, earlier.number,
                           earlier.carried_out_minor AS amount_minor, earlier.issued_at
                    FROM billing.invoice earlier
                    WHERE earlier.tenant_id = month.tenant_id AND earlier.period < month.period
                      AND earlier.number IS NOT NULL AND earlier.status <> 'void'
                      AND earlier.carried_out_minor <> 0
                    UNION ALL
                    SELECT 'credit_note', note.credit_note_id, note.number, -note.carries_minor,
                           note.issued_at
                    FROM billing.credit_note note
                    WHERE note.tenant_id = month.tenant_id AND note.carries_minor > 0
                ) AS offer
                WHERE NOT EXISTS (
                    SELECT FROM billing.invoice taker
                    WHERE taker.tenant_id = month.tenant_id AND taker.status <> 'void'
                      AND taker.period <> month.period
                      AND taker.carried @> jsonb_build_array(jsonb_build_object('id', offer.id)))
            ) AS free ON true
            WHERE month.period = %(period)s AND month.tenant_id = ANY(%(tenant_ids)s)
            ORDER BY month.tenant_id
            """,
            {"period": period, "tenant_ids": list(tenant_ids)},
        )
        return await cursor.fetchall()


async def read_counters(connection: Connection, period: str, tenant_ids: Sequence[str]) -> list[CounterRow]:
    """The counters with usage of these tenants by segment, all as of one moment."""
    async with connection.cursor(row_factory=class_row(CounterRow)) as cursor:
        await cursor.execute(
            """
            WITH stood AS (  -- at the end of each segment
                SELECT tenant_id, segment, meter, calls, units FROM billing.segment_counter
                WHERE period = %(period)s AND tenant_id = ANY(%(tenant_ids)s)
                UNION ALL
                SELECT tenant_id, (
                    SELECT count(*)::smallint FROM billing.period_segment past
                    WHERE past.tenant_id = counter.tenant_id AND past.period = counter.period
                ), meter, calls, units
                FROM billing.period_counter counter
                WHERE period = %(period)s AND tenant_id = ANY(%(tenant_ids)s)
            ), counted AS (
                SELECT tenant_id, segment, meter, calls - lag(calls, 1, 0::bigint) OVER segments AS calls,
                       units - lag(units, 1, 0::bigint) OVER segments AS units
                FROM stood WINDOW segments AS (PARTITION BY tenant_id, meter ORDER BY segment)
            )
            SELECT tenant_id, segment, meter, calls, units FROM counted WHERE calls <> 0 OR units <> 0
            ORDER BY tenant_id, segment, meter
            """,
            {"period": period, "tenant_ids": list(tenant_ids)},
        )
        return await cursor.fetchall()


async def read_month_prices(connection: Connection, months: Sequence[tuple[str, str]]) -> list[MonthPrice]:
    """The price versions of tenants' months, in the order in which they held."""
    async with connection.cursor(row_factory=class_row(MonthPrice)) as cursor:
        await cursor.execute(
            """
            SELECT tenant_id, period, held.segment, held.price_version_id, held.starts_at,
                   (extract(epoch FROM held.until - held.since) * 1000000)::bigint AS held_us,
                   (extract(epoch FROM held.month_ends_at - held.month_starts_at) * 1000000)::bigint AS of_us
            FROM unnest(%(tenant_ids)s::text[], %(periods)s::text[]) AS given (tenant_id, period)
            CROSS JOIN LATERAL (
                SELECT segment.segment, segment.price_version_id, segment.starts_at,
                       least(greatest(segment.starts_at, month.starts_at), month.ends_at) AS since,
                       least(greatest(segment.ends_at, month.starts_at), month.ends_at) AS until,
                       month.starts_at AS month_starts_at, month.ends_at AS month_ends_at
                FROM billing.period month
                JOIN billing.month_segment segment USING (tenant_id, period)
                WHERE month.tenant_id = given.tenant_id AND month.period = given.period
            ) AS held
            ORDER BY tenant_id, period, held.segment
            """,
            {
                "tenant_ids": [tenant_id for tenant_id, _ in months],
                "periods": [period for _, period in months],
            },
        )
        return await cursor.fetchall()
