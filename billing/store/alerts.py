"""Alerts, and the figures that they are decided by."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import msgspec
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from infra.database import Connection

_EVALUATION_LOCK = 0x414C5254  # "ALRT": any constant will do, as long as every worker uses the same


class CapUseRow(msgspec.Struct, frozen=True):
    """How far a month is with one cap, or with the credit; `used` and `allowed` are at a scale of their own.

    Attributes:
        key_id: None for the tenant's own cap.
        meter: None for a cap in money.
        is_credit: it is the prepaid credit, which holds over all months.
        nano: what a nano is at the scale of `used` and `allowed`; None for a cap in units.
        warned_percent: the highest threshold that was told of this cap at this value in this month.
    """

    tenant_id: str
    currency: str
    period: str
    key_id: str | None
    meter: str | None
    is_credit: bool
    at_most: int
    used: int
    allowed: int
    nano: int | None
    warned_percent: int | None


class BusyDayRow(msgspec.Struct, frozen=True):
    """A day of a tenant's clock with much usage of a meter, of which nobody was warned yet."""

    tenant_id: str
    meter: str
    day: date
    units: int


class DayUnitsRow(msgspec.Struct, frozen=True):
    """A day's units of one meter."""

    day: date
    units: int


class AlertRow(msgspec.Struct, frozen=True):
    """An alert as it was raised; `data` is what its messages say."""

    alert_id: str
    tenant_id: str
    type: str
    raised_at: datetime
    data: dict[str, Any]


class Occasion(msgspec.Struct, frozen=True, kw_only=True):
    """What an alert is about: the columns by which it is raised once."""

    key_id: str | None = None
    meter: str | None = None
    is_credit: bool = False
    period: str | None = None
    at_most: int | None = None
    threshold_percent: int | None = None
    day: date | None = None


async def try_evaluation_lock(connection: Connection) -> bool:
    """Become the only one who evaluates, until the transaction ends; False when another one is at it.

    Alone, as what is told next depends on what was told last.
    """
    cursor = await connection.execute(
        "SELECT pg_try_advisory_xact_lock(%(lock)s)", {"lock": _EVALUATION_LOCK}
    )
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def read_capped_tenants(connection: Connection, after: str, limit: int) -> list[str]:
    """The next tenants with caps, in the order of their ids."""
    cursor = await connection.execute(
        """
        SELECT DISTINCT tenant_id FROM billing.cap WHERE tenant_id > %(after)s
        ORDER BY tenant_id LIMIT %(limit)s
        """,
        {"after": after, "limit": limit},
    )
    return [tenant_id for (tenant_id,) in await cursor.fetchall()]


async def read_cap_use(
    connection: Connection, tenant_ids: Sequence[str], now: datetime, least_percent: int
) -> list[CapUseRow]:
    """How far these tenants are with those caps of which at least `least_percent` are used.

    The months looked at are the one at hand and one that ended less than a day ago, since what was charged
    in its last seconds is seen after it; there, the credit and caps that were set after its end do not count.
    What is left of a cap is computed as the charge does it.
    """
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            SELECT month.tenant_id, account.currency, month.period, cap.key_id, cap.meter,
                   cap.is_credit, cap.at_most, measured.allowed - room.room AS used, measured.allowed,
                   measured.nano,
                   (SELECT max(alert.threshold_percent) FROM billing.alert
                    WHERE alert.type = 'cap.threshold_reached'
                      AND alert.tenant_id = cap.tenant_id AND alert.is_credit = cap.is_credit
                      AND (alert.period = month.period OR cap.is_credit)
                      AND alert.key_id IS NOT DISTINCT FROM cap.key_id
                      AND alert.meter IS NOT DISTINCT FROM cap.meter
                      AND alert.at_most = cap.at_most) AS warned_percent
            FROM unnest(%(tenant_ids)s::text[]) AS given (tenant_id)
            JOIN billing.account USING (tenant_id)
            JOIN billing.period month ON month.tenant_id = given.tenant_id
                 AND month.starts_at <= %(now)s AND month.ends_at > %(now)s - interval '1 day'
            CROSS JOIN LATERAL billing.standing_of(
                month.tenant_id, month.period, month.price_version_id) AS stands
            CROSS JOIN LATERAL billing.cap_rooms(
                month.tenant_id, month.period,
                ARRAY(SELECT cap.key_id FROM billing.cap
                      WHERE cap.tenant_id = month.tenant_id AND cap.key_id IS NOT NULL),
                stands
            ) AS room
            JOIN billing.cap ON cap.tenant_id = month.tenant_id
                 AND cap.key_id IS NOT DISTINCT FROM room.key_id
                 AND cap.meter IS NOT DISTINCT FROM room.meter
                 AND cap.is_credit = (room.measure = 'credit')
                 AND (month.ends_at > %(now)s OR cap.set_at < month.ends_at AND NOT cap.is_credit)
            CROSS JOIN LATERAL (
                SELECT CASE WHEN cap.meter IS NULL THEN stands.nano END AS nano,
                       CASE WHEN cap.meter IS NULL THEN cap.at_most * stands.nano
                            ELSE cap.at_most END AS allowed
            ) AS measured
            WHERE (measured.allowed - room.room) * 100 >= measured.allowed * %(least_percent)s
            ORDER BY month.tenant_id, month.period, cap.key_id NULLS FIRST, cap.meter NULLS FIRST
            """,
            {"tenant_ids": list(tenant_ids), "now": now, "least_percent": least_percent},
        )
        return [CapUseRow(**_in_whole_numbers(row)) for row in await cursor.fetchall()]


def _in_whole_numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers too large for a BIGINT are integers here too: in the database, nothing of them was divided."""
    large = {name: int(row[name]) for name in ("used", "allowed", "nano") if row[name] is not None}
    return row | large


async def read_tenants(connection: Connection, after: str, limit: int) -> list[str]:
    """The next tenants with accounts, in the order of their ids."""
    cursor = await connection.execute(
        """
        SELECT tenant_id FROM billing.account WHERE tenant_id > %(after)s
        ORDER BY tenant_id LIMIT %(limit)s
        """,
        {"after": after, "limit": limit},
    )
    return [tenant_id for (tenant_id,) in await cursor.fetchall()]


async def read_busy_days(
    connection: Connection, tenant_ids: Sequence[str], now: datetime, floors: Mapping[str, int]
) -> list[BusyDayRow]:
    """Of these tenants, today and yesterday where a meter has its floor at least and nobody was warned."""
    async with connection.cursor(row_factory=class_row(BusyDayRow)) as cursor:
        await cursor.execute(
            """
            SELECT busy.tenant_id, busy.meter, busy.day, busy.units
            FROM (
                SELECT account.tenant_id, hourly.meter,
                       (hourly.hour AT TIME ZONE month.time_zone)::date AS day,
                       sum(hourly.units)::bigint AS units
                FROM unnest(%(tenant_ids)s::text[]) AS given (tenant_id)
                JOIN billing.account USING (tenant_id)
                JOIN billing.period month ON month.tenant_id = account.tenant_id
                     AND month.starts_at <= %(now)s AND month.ends_at > %(now)s - interval '3 days'
                JOIN billing.hourly_usage hourly
                     ON hourly.tenant_id = month.tenant_id AND hourly.period = month.period
                    AND hourly.hour <= %(now)s
                    AND hourly.hour >= (date_trunc('day', %(now)s AT TIME ZONE account.time_zone)
                                        - interval '1 day') AT TIME ZONE account.time_zone
                GROUP BY 1, 2, 3
            ) AS busy
            JOIN unnest(%(meters)s::text[], %(floors)s::bigint[]) AS floor (meter, units)
                 ON floor.meter = busy.meter AND busy.units >= floor.units
            WHERE NOT EXISTS (
                SELECT FROM billing.alert
                WHERE alert.type = 'usage.anomaly' AND alert.tenant_id = busy.tenant_id
                  AND alert.meter = busy.meter AND alert.day = busy.day)
            ORDER BY busy.tenant_id, busy.meter, busy.day
            """,
            {
                "tenant_ids": list(tenant_ids),
                "now": now,
                "meters": list(floors),
                "floors": list(floors.values()),
            },
        )
        return await cursor.fetchall()


async def read_days_before(
    connection: Connection, tenant_id: str, meter: str, day: date, days: int
) -> list[DayUnitsRow]:
    """The tenant's days with usage of a meter among the `days` before a day; corrections are in the sums."""
    async with connection.cursor(row_factory=class_row(DayUnitsRow)) as cursor:
        await cursor.execute(
            """
            SELECT (hourly.hour AT TIME ZONE month.time_zone)::date AS day,
                   sum(hourly.units)::bigint AS units
            FROM billing.period month
            JOIN billing.hourly_usage hourly USING (tenant_id, period)
            WHERE month.tenant_id = %(tenant_id)s AND hourly.meter = %(meter)s
              AND month.starts_at < (%(day)s::date + 1)::timestamp AT TIME ZONE month.time_zone
              AND month.ends_at > (%(day)s::date - %(days)s)::timestamp AT TIME ZONE month.time_zone
              AND hourly.hour >= (%(day)s::date - %(days)s)::timestamp AT TIME ZONE month.time_zone
              AND hourly.hour < %(day)s::date::timestamp AT TIME ZONE month.time_zone
            GROUP BY 1 ORDER BY 1
            """,
            {"tenant_id": tenant_id, "meter": meter, "day": day, "days": days},
        )
        return await cursor.fetchall()


async def insert_alert(connection: Connection, alert: AlertRow, occasion: Occasion) -> bool:
    """Write an alert; False, and nothing written, where it was raised before."""
    cursor = await connection.execute(
        """
        INSERT INTO billing.alert (alert_id, tenant_id, type, data, raised_at, key_id, meter, is_credit,
                                   period, at_most, threshold_percent, day)
        VALUES (%(alert_id)s, %(tenant_id)s, %(type)s, %(data)s, %(raised_at)s, %(key_id)s, %(meter)s,
                %(is_credit)s, %(period)s, %(at_most)s, %(threshold_percent)s, %(day)s)
        ON CONFLICT DO NOTHING
        """,
        {
            **msgspec.structs.asdict(occasion),
            "alert_id": alert.alert_id,
            "tenant_id": alert.tenant_id,
            "type": alert.type,
            "data": Jsonb(alert.data),
            "raised_at": alert.raised_at,
        },
    )
    return cursor.rowcount == 1


async def read_alerts(connection: Connection, tenant_id: str, limit: int) -> list[AlertRow]:
    """A tenant's latest alerts, the newest first."""
    async with connection.cursor(row_factory=class_row(AlertRow)) as cursor:
        await cursor.execute(
            """
            SELECT alert_id, tenant_id, type, raised_at, data FROM billing.alert
            WHERE tenant_id = %(tenant_id)s ORDER BY raised_at DESC, alert_id DESC LIMIT %(limit)s
            """,
            {"tenant_id": tenant_id, "limit": limit},
        )
        return await cursor.fetchall()
