"""Price versions as the database keeps them."""

from collections.abc import Sequence

from billing.prices import MeterPrice, PriceVersion, Tier
from infra.database import Connection


async def has_price_version(connection: Connection, plan: str, currency: str) -> bool:
    """Whether a plan has a price in a currency, for everyone."""
    cursor = await connection.execute(
        """
        SELECT EXISTS (
            SELECT FROM billing.price_version
            WHERE plan = %(plan)s AND currency = %(currency)s AND tenant_id IS NULL)
        """,
        {"plan": plan, "currency": currency},
    )
    row = await cursor.fetchone()
    return row is not None and row[0]


async def read_price_versions(
    connection: Connection, price_version_ids: Sequence[str]
) -> dict[str, PriceVersion]:
    """Whole price versions by their ids.

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
        JOIN billing.meter_price price USING (price_version_id)
        JOIN billing.price_tier tier USING (price_version_id, meter)
        WHERE price_version_id = ANY(%(price_version_ids)s)
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
        tiers = tuple(Tier(*tier) for tier in zip(ups, nanos, strict=True))
        version.prices[meter] = MeterPrice(per, tiers, model, free_units)
    return versions
