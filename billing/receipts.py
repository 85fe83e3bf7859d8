"""The receipt of one call: what was counted, and what exactly it cost."""

from datetime import datetime
from fractions import Fraction
from typing import Literal
from uuid import UUID

import msgspec

from billing.money import currency, format_nanos
from billing.prices import PriceVersion
from billing.store import usage as store
from billing.store.prices import read_price_versions
from billing.store.usage import UsageRow
from infra.database import Pool, borrow
from infra.errors import NotFoundError


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One call as it was charged.

    Attributes:
        status: `charged`, or `voided` when the call was taken back.
        units: of all slices of the call, less what was taken back.
        amount_nanos: exact, at the tiers that the call fell into: a whole number of 10^-9 currency units,
            or `numerator/denominator`. A month's receipts add up to its rating, to the last digit.
        price_version_id: the one that held when it was charged.
        amount: the same for people, to nine decimals: `0.0004 USD`.
        model: the model that was asked for.
        engine: the engine that answered.
    """

    call_id: UUID
    status: Literal["charged", "voided"]
    key_id: str
    meter: str
    units: int
    amount_nanos: str
    amount: str
    currency: str
    price_version_id: str
    period: str
    model: str
    engine: str
    occurred_at: datetime
    recorded_at: datetime


async def receipt(pool: Pool, tenant_id: str, call_id: UUID) -> Receipt:
    """The receipt of one of the tenant's calls.

    Raises:
        NotFoundError: there is no such call, or it is another tenant's.
    """
    async with borrow(pool) as connection:
        rows = await store.read_call(connection, tenant_id, call_id)
        if not rows:
            raise NotFoundError("There is no such call.", "call_id")
        first = rows[0]
        versions = await read_price_versions(connection, sorted({row.price_version_id for row in rows}))
    version = versions[first.price_version_id]
    nanos = sum((_nanos(row, versions[row.price_version_id]) for row in rows), Fraction(0))
    return Receipt(
        call_id=first.call_id,
        status="charged" if sum(row.calls for row in rows) else "voided",
        key_id=first.key_id,
        meter=first.meter,
        units=sum(row.units for row in rows),
        amount_nanos=str(nanos),
        amount=format_nanos(nanos, currency(version.currency)),
        currency=version.currency,
        price_version_id=version.price_version_id,
        period=first.period,
        model=first.model,
        engine=first.engine,
        occurred_at=first.occurred_at,
        recorded_at=rows[-1].recorded_at,
    )


def _nanos(row: UsageRow, version: PriceVersion) -> Fraction:
    return version.prices[row.meter].rate_call(row.units_before, row.units)
