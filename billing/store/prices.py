"""Price versions as the database keeps them."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from billing.prices import MeterPrice, PriceVersion, Tier
from infra.database import Connection


class ListedVersion(msgspec.Struct, frozen=True):
    """A price version in a list, without its prices."""

    price_version_id: str
    created_at: datetime


class BegunMonth(msgspec.Struct, frozen=True):
    """A tenant's month that has begun."""

    tenant_id: str
    period: str


async def find_version(
    connection: Connection, tenant_id: str | None, plan: str, currency: str, moment: datetime | None
) -> str | None:
    """The version that a month takes which begins at this moment (None: before all others).

    Args:
        tenant_id: whose month; None leaves out the prices of a tenant's own.
    """
    cursor = await connection.execute(
        """
        SELECT billing.price_version_at(
            %(tenant_id)s, %(plan)s, %(currency)s, coalesce(%(moment)s::timestamptz, '-infinity'))
        """,
        {"tenant_id": tenant_id, "plan": plan, "currency": currency, "moment": moment},
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def has_plan(connection: Connection, plan: str) -> bool:
    """Whether tenants can be put on a plan of this name."""
    cursor = await connection.execute("SELECT FROM tenants.plan WHERE plan = %(plan)s", {"plan": plan})
    return cursor.rowcount == 1


async def has_versions(connection: Connection, plan: str, currency: str, tenant_id: str | None) -> bool:
    """Whether there is any version of a plan for everyone, or of one tenant's own."""
    cursor = await connection.execute(
        """
        SELECT FROM billing.price_version
        WHERE plan = %(plan)s AND currency = %(currency)s
          AND tenant_id IS NOT DISTINCT FROM %(tenant_id)s::text LIMIT 1
        """,
        {"plan": plan, "currency": currency, "tenant_id": tenant_id},
    )
    return cursor.rowcount == 1


async def read_concerned(
    connection: Connection, plan: str, currency: str, tenant_id: str | None, valid_from: datetime | None
) -> list[str]:
    """The tenants on a plan whose months from then on take a version of it, for everyone or for one tenant;
    those with prices of their own are not concerned by everyone's.
    """
    cursor = await connection.execute(
        """
        SELECT account.tenant_id FROM billing.account
        WHERE account.plan = %(plan)s AND account.currency = %(currency)s
          AND (account.tenant_id = %(tenant_id)s OR %(tenant_id)s::text IS NULL AND NOT EXISTS (
              SELECT FROM billing.price_version own
              WHERE own.tenant_id = account.tenant_id AND own.plan = account.plan
                AND own.currency = account.currency
                AND own.valid_from <= coalesce(%(valid_from)s::timestamptz, '-infinity')))
        ORDER BY account.tenant_id
        """,
        {"plan": plan, "currency": currency, "tenant_id": tenant_id, "valid_from": valid_from},
    )
    return [str(found) for (found,) in await cursor.fetchall()]


async def read_begun_month(
    connection: Connection, tenant_ids: Sequence[str], valid_from: datetime | None, now: datetime
) -> BegunMonth | None:
    """A month of these tenants that has begun, and that would have taken a version valid from then."""
    async with connection.cursor(row_factory=class_row(BegunMonth)) as cursor:
        await cursor.execute(
            """
            SELECT tenant_id, period FROM billing.period
            WHERE tenant_id = ANY(%(tenant_ids)s) AND starts_at <= %(now)s
              AND starts_at >= coalesce(%(valid_from)s::timestamptz, '-infinity')
            ORDER BY starts_at DESC, tenant_id LIMIT 1
            """,
            {"tenant_ids": list(tenant_ids), "valid_from": valid_from, "now": now},
        )
        return await cursor.fetchone()


async def insert_version(connection: Connection, version: PriceVersion) -> None:
    """Add a version with its prices. Call it under `lock_prices`: of two that are valid from the same moment,
    the one made last holds.
    """
    parameters = {
        "price_version_id": version.price_version_id,
        "plan": version.plan,
        "currency": version.currency,
        "tenant_id": version.tenant_id,
        "valid_from": version.valid_from,
        "minimum_nanos": version.minimum_nanos,
        "discount_ppm": version.discount_ppm,
        "prices": Jsonb(msgspec.to_builtins(version.prices)),
    }
    await connection.execute(
        """
        INSERT INTO billing.price_version (
            price_version_id, plan, currency, tenant_id, valid_from, created_at, minimum_nanos, discount_ppm)
        VALUES (%(price_version_id)s, %(plan)s, %(currency)s, %(tenant_id)s,
                coalesce(%(valid_from)s::timestamptz, '-infinity'), clock_timestamp(), %(minimum_nanos)s,
                %(discount_ppm)s)
        """,
        parameters,
    )
    await connection.execute(
        """
        INSERT INTO billing.meter_price (price_version_id, meter, per_units, model, free_units)
        SELECT %(price_version_id)s, priced.meter, (priced.price ->> 'per')::bigint, priced.price ->> 'model',
               (priced.price ->> 'free_units')::bigint
        FROM jsonb_each(%(prices)s) AS priced (meter, price)
        """,
        parameters,
    )
    await connection.execute(
        """
        INSERT INTO billing.price_tier (price_version_id, meter, tier, up_to_units, nanos)
        SELECT %(price_version_id)s, priced.meter, tiers.tier, (tiers.said ->> 'up_to_units')::bigint,
               (tiers.said ->> 'nanos')::bigint
        FROM jsonb_each(%(prices)s) AS priced (meter, price)
        CROSS JOIN LATERAL jsonb_array_elements(priced.price -> 'tiers') WITH ORDINALITY AS tiers (said, tier)
        """,
        parameters,
    )


async def read_made_at(connection: Connection, price_version_id: str) -> datetime | None:
    """When a version was made; None where there is none."""
    cursor = await connection.execute(
        "SELECT created_at FROM billing.price_version WHERE price_version_id = %(price_version_id)s",
        {"price_version_id": price_version_id},
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def read_version_page(
    connection: Connection,
    plan: str | None,
    currency: str | None,
    tenant_id: str | None,
    after: str | None,
    limit: int,
) -> list[ListedVersion]:
    """The next versions, the newest first, of what is named; `after`: the last one of the page before."""
    async with connection.cursor(row_factory=class_row(ListedVersion)) as cursor:
        await cursor.execute(
            """
            SELECT price_version_id, created_at FROM billing.price_version
            WHERE (%(plan)s::text IS NULL OR plan = %(plan)s)
              AND (%(currency)s::text IS NULL OR currency = %(currency)s)
              AND (%(tenant_id)s::text IS NULL OR tenant_id = %(tenant_id)s)
              AND (%(after)s::text IS NULL OR (created_at, price_version_id) < (
                  SELECT last.created_at, last.price_version_id FROM billing.price_version last
                  WHERE last.price_version_id = %(after)s))
            ORDER BY created_at DESC, price_version_id DESC LIMIT %(limit)s
            """,
            {"plan": plan, "currency": currency, "tenant_id": tenant_id, "after": after, "limit": limit},
        )
        return await cursor.fetchall()


async def read_price_versions(
    connection: Connection, price_version_ids: Sequence[str]
) -> dict[str, PriceVersion]:
    """Whole price versions by their ids; what is not there is left out.

    Raises:
        billing.prices.InvalidPriceError: the stored tiers make no price.
    """
    cursor = await connection.execute(
        """
        SELECT price_version_id, version.plan, version.currency, nullif(version.valid_from, '-infinity'),
               version.tenant_id, version.minimum_nanos, version.discount_ppm,
               price.meter, price.per_units, price.model, price.free_units,
               array_agg(tier.up_to_units ORDER BY tier.tier), array_agg(tier.nanos ORDER BY tier.tier)
        FROM billing.price_version version
        LEFT JOIN billing.meter_price price USING (price_version_id)
        LEFT JOIN billing.price_tier tier USING (price_version_id, meter)
        WHERE (tier.tier IS NOT NULL OR price.meter IS NULL) AND price_version_id = ANY(%(price_version_ids)s)
        GROUP BY price_version_id, price.price_version_id, price.meter
        ORDER BY price_version_id, price.meter
        """,
        {"price_version_ids": list(price_version_ids)},
    )
    versions: dict[str, PriceVersion] = {}
    async for version_id, plan, currency, valid_from, tenant_id, minimum, discount, *price in cursor:
        version = versions.setdefault(
            version_id,
            PriceVersion(
                price_version_id=version_id,
                plan=plan,
                currency=currency,
                valid_from=valid_from,
                prices={},
                tenant_id=tenant_id,
                minimum_nanos=minimum,
                discount_ppm=discount,
            ),
        )
        meter, per, model, free_units, ups, nanos = price
        if meter is None:
            continue
        tiers = tuple(Tier(*tier) for tier in zip(ups, nanos, strict=True))
        version.prices[meter] = MeterPrice(per, tiers, model, free_units)
    return versions
