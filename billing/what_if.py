"""What a past month would have come to at other prices: its real usage, replayed under a draft.

Rated by the rating that invoices are made with: only the prices of the month's segments are others. Before
prepaid credit and tax, which are not the prices'. Late usage of earlier months keeps its own prices.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from billing.drafts import Material, compose, read_materials
from billing.money import currency, format_minor
from billing.periods import period_labelled
from billing.price_files import DraftPrice
from billing.prices import PriceVersion
from billing.statement import MonthUse
from billing.store import what_if as store
from infra.database import Pool, borrow
from infra.errors import InvalidValueError

_TENANTS_PER_PAGE: Final = 100
_PAGE_TIMEOUT_S: Final = 60.0


class WhatIfRow(msgspec.Struct, frozen=True):
    """One tenant: what its month came to, what it would have come to, in the ledger's minor units."""

    tenant_id: str
    currency: str
    before_minor: int
    after_minor: int
    difference_minor: int


class WhatIfTotal(msgspec.Struct, frozen=True):
    """All tenants of a currency; `difference` is for people."""

    currency: str
    tenants: int
    before_minor: int
    after_minor: int
    difference_minor: int
    difference: str


class WhatIf(msgspec.Struct, frozen=True):
    """`next_after` is the last tenant of the page where there may be more; totals are of the page."""

    period: str
    rows: tuple[WhatIfRow, ...]
    totals: tuple[WhatIfTotal, ...]
    next_after: str | None


async def what_if(
    pool: Pool,
    drafts: Sequence[DraftPrice],
    period: str,
    *,
    after: str = "",
    limit: int | None = None,
    now: datetime | None = None,
) -> WhatIf:
    """Replay the month `YYYY-MM` for the tenants that were on the drafts' plans in it, in their order.

    A tenant takes its own draft before everyone's on its plan. Of the file, `valid_from` has no part in it.

    Args:
        limit: how many tenants at most; None: all of them.

    Raises:
        InvalidValueError: the period's label, or a month that is not over.
    """
    if period_labelled(period, ZoneInfo("Etc/GMT+12")).ends_at > (now or datetime.now(UTC)):
        raise InvalidValueError("This month is not over yet: there is nothing to replay.", "period")
    plans = sorted({draft.version.plan for draft in drafts})
    rows: list[WhatIfRow] = []
    while limit is None or len(rows) < limit:
        size = _TENANTS_PER_PAGE if limit is None else min(_TENANTS_PER_PAGE, limit - len(rows))
        async with borrow(pool, use_timeout_s=_PAGE_TIMEOUT_S) as connection, connection.transaction():
            on_plan = await store.read_tenants_on(connection, period, plans, after, size)
            drafted = {
                one.tenant_id: found
                for one in on_plan
                if (found := _draft_for(drafts, one.tenant_id, one.plan, one.currency))
            }
            materials = await read_materials(connection, period, sorted(drafted))
        rows += [_row(material, drafted[material.month.tenant_id]) for material in materials]
        if len(on_plan) < size:
            return WhatIf(period, tuple(rows), _totals(rows), None)
        after = on_plan[-1].tenant_id
    return WhatIf(period, tuple(rows), _totals(rows), after)


def replay(material: Material, version: PriceVersion) -> Material:
    """The same usage, at another price in all segments of the month. Pure."""
    return msgspec.structs.replace(
        material, uses=tuple(_priced(use, version, material.month.period) for use in material.uses)
    )


def as_csv(found: WhatIf) -> str:
    """A row a tenant, with a heading."""
    names = WhatIfRow.__struct_fields__
    lines = [names, *(tuple(str(getattr(row, name)) for name in names) for row in found.rows)]
    return "".join(",".join(line) + "\r\n" for line in lines)


def _priced(use: MonthUse, version: PriceVersion, period: str) -> MonthUse:
    if use.usage_period != period:
        return use
    segments = tuple(msgspec.structs.replace(segment, version=version) for segment in use.segments)
    return msgspec.structs.replace(use, segments=segments)


def _row(material: Material, version: PriceVersion) -> WhatIfRow:
    before = _comes_to(material)
    after = _comes_to(replay(material, version))
    month = material.month
    return WhatIfRow(month.tenant_id, month.currency, before, after, after - before)


def _comes_to(material: Material) -> int:
    month = msgspec.structs.replace(material.month, credit_nanos=0)
    return compose(msgspec.structs.replace(material, month=month)).subtotal_minor


def _draft_for(
    drafts: Sequence[DraftPrice], tenant_id: str, plan: str, currency_code: str
) -> PriceVersion | None:
    """The tenant's own draft, else everyone's; of several, the last in the file."""
    fitting = [
        draft.version
        for draft in drafts
        if (draft.version.plan, draft.version.currency) == (plan, currency_code)
        and draft.version.tenant_id in (None, tenant_id)
    ]
    own = [version for version in fitting if version.tenant_id]
    return (own or fitting or [None])[-1]


def _totals(rows: Sequence[WhatIfRow]) -> tuple[WhatIfTotal, ...]:
    totals: list[WhatIfTotal] = []
    for code in sorted({row.currency for row in rows}):
        of_code = [row for row in rows if row.currency == code]
        before, after = sum(row.before_minor for row in of_code), sum(row.after_minor for row in of_code)
        shown = format_minor(after - before, currency(code))
        totals.append(WhatIfTotal(code, len(of_code), before, after, after - before, shown))
    return tuple(totals)
