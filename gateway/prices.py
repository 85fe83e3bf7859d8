"""Price versions as they are shown, by the API and by the commands: as a price file would say them."""

from fractions import Fraction

from billing.money import currency, format_nanos, format_percent
from billing.price_versions import StoredPrice
from billing.prices import MeterPrice, Tier
from openapi.admin_prices import MeterPriceBody, PriceVersionBody, TierBody


def price_body(stored: StoredPrice) -> PriceVersionBody:
    """A stored version, to be shown."""
    version = stored.version
    return PriceVersionBody(
        price_version_id=version.price_version_id,
        plan=version.plan,
        currency=version.currency,
        tenant_id=version.tenant_id,
        valid_from=version.valid_from,
        created_at=stored.created_at,
        minimum=_amount(version.minimum_nanos, version.currency),
        discount_percent=format_percent(version.discount_ppm).rstrip("%"),
        meters={meter: _meter(price, version.currency) for meter, price in version.prices.items()},
    )


def _meter(price: MeterPrice, code: str) -> MeterPriceBody:
    return MeterPriceBody(
        tiers=[_tier(tier, code) for tier in price.tiers],
        per=price.per,
        model=price.model,
        free_units=price.free_units,
    )


def _tier(tier: Tier, code: str) -> TierBody:
    return TierBody(_amount(tier.nanos, code), tier.up_to_units)


def _amount(nanos: int, code: str) -> str:
    """The decimal number alone, as a price file has it."""
    return format_nanos(Fraction(nanos), currency(code)).removesuffix(f" {code}")
