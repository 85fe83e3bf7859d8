"""Prices and plans, as the vendor's finance team sends and is answered them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

NAME_PATTERN = "^[A-Za-z0-9_-]{1,100}$"
PriceModelName = Literal["per_unit", "graduated", "volume", "package"]


class TierBody(Struct, frozen=True):
    """The price of the month's units after the tier before, up to and with `up_to`; the last has none."""

    price: Annotated[str, Meta(description='A decimal amount of the currency, such as `"0.0004"`.')]
    up_to: int | None = None


class MeterPriceBody(Struct, frozen=True):
    """The price of one meter, per `per` units; `tiers` are over the units after the free ones."""

    tiers: list[TierBody]
    per: int = 1
    model: PriceModelName = "graduated"
    free_units: int = 0


class PriceBody(Struct, frozen=True):
    """One price of a price file. Every meter has a price. `valid_from` is a date, a moment, or `all`."""

    plan: str
    currency: str
    meters: dict[str, MeterPriceBody]
    tenant: str | None = None
    valid_from: str | None = None
    minimum: str = "0"
    discount_percent: str = "0"


class PriceFileBody(Struct, frozen=True):
    """A price file: price versions to be made, all of them or none."""

    prices: list[PriceBody]


class PreviewRequestBody(Struct, frozen=True):
    """Units by meter, and one of: a version that is there, or the prices of a price file."""

    units: dict[str, int]
    price_version_id: str | None = None
    prices: list[PriceBody] | None = None


class PlanChangeRequestBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`at_once`: the month that runs goes on at the plan's prices; else the next month takes them."""

    plan: Annotated[str, Meta(pattern=NAME_PATTERN)]
    at_once: bool = False


class PriceChangeBody(Struct, frozen=True):
    """One thing that changes, in words; null where it was not there, or is not any more."""

    what: str
    before: str | None
    after: str | None


class PriceEffectBody(Struct, frozen=True, kw_only=True):
    """What one price does, or would do in a dry run.

    `is_new` is false where the version that holds from then on says the same already. `tenants` take it now
    or from then on; `months` that are opened ahead of time take it at once.
    """

    place: str
    plan: str
    currency: str
    tenant_id: str | None
    is_new: bool
    price_version_id: str | None
    valid_from: datetime | None
    replaces: str | None
    changes: tuple[PriceChangeBody, ...]
    tenants: int
    tenant_ids: tuple[str, ...]
    months: int


class PriceEffectListBody(Struct, frozen=True):
    """What a price file does, price by price."""

    prices: list[PriceEffectBody]
    dry_run: bool
    object: Literal["price_effects"] = "price_effects"


class PriceVersionBody(Struct, frozen=True, kw_only=True):
    """A price version, as a price file would say it. `valid_from` is null where it holds for all months."""

    price_version_id: str
    plan: str
    currency: str
    tenant_id: str | None
    valid_from: datetime | None
    created_at: datetime
    minimum: str
    discount_percent: str
    meters: dict[str, MeterPriceBody]


class PriceVersionListBody(Struct, frozen=True):
    """A page of price versions, the newest first; `next_after` is null on the last page."""

    prices: list[PriceVersionBody]
    next_after: str | None
    object: Literal["list"] = "list"


class PriceTierUseBody(Struct, frozen=True):
    """What fell into one tier; `nanos` is its price, `amount_nanos` what it comes to, exactly."""

    from_units: int
    up_to_units: int | None
    units: int
    nanos: int
    amount_nanos: str


class PricePreviewLineBody(Struct, frozen=True, kw_only=True):
    """A line, as an invoice would have it."""

    kind: Literal["usage", "discount", "minimum", "credit"]
    meter: str | None
    model: PriceModelName | None
    per_units: int | None
    units: int
    tiers: tuple[PriceTierUseBody, ...]
    basis: dict[str, Any]
    exact_nanos: str
    amount_minor: int
    amount: str


class PricePreviewBody(Struct, frozen=True, kw_only=True):
    """What a month comes to, before tax. `price_version_id` is null for a price that is not stored."""

    price_version_id: str | None
    plan: str
    currency: str
    lines: tuple[PricePreviewLineBody, ...]
    total_minor: int
    total: str


class PricePreviewListBody(Struct, frozen=True):
    """A preview for each price that was given."""

    previews: list[PricePreviewBody]
    object: Literal["price_previews"] = "price_previews"


class WhatIfRowBody(Struct, frozen=True):
    """One tenant's month: what it came to and what it would have come to, in the ledger's minor units."""

    tenant_id: str
    currency: str
    before_minor: int
    after_minor: int
    difference_minor: int


class WhatIfTotalBody(Struct, frozen=True):
    """All tenants of the page that are billed in a currency."""

    currency: str
    tenants: int
    before_minor: int
    after_minor: int
    difference_minor: int
    difference: str


class WhatIfBody(Struct, frozen=True):
    """A past month at other prices; `next_after` is null on the last page."""

    period: str
    rows: tuple[WhatIfRowBody, ...]
    totals: tuple[WhatIfTotalBody, ...]
    next_after: str | None
    object: Literal["price_what_if"] = "price_what_if"


class PlanChangeBody(Struct, frozen=True, kw_only=True):
    """A change of plan: `starts_at` is when its prices begin to hold, in the month `period`."""

    tenant_id: str
    plan: str
    previous_plan: str
    at_once: bool
    period: str
    starts_at: datetime
