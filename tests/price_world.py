"""Plans with prices from price files."""

import json
from datetime import datetime
from typing import Any

from billing.price_versions import PriceEffect, load_price_file
from infra.database import Pool
from tenants.plans import operator_set_plan_limits

FINANCE = "staff:stf_finance"
METERS: dict[str, Any] = {
    "asr.audio_ms": {"per": 60000, "tiers": [{"price": "0.006"}]},
    "intent.calls": {"tiers": [{"up_to": 100, "price": "0.001"}, {"price": "0.0005"}]},
    "tts.characters": {"per": 1000000, "tiers": [{"price": "20"}]},
}


def price(plan: str = "standard", meters: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """One price of a price file; `meters` in the place of those of `METERS`."""
    return {"plan": plan, "currency": "USD", "meters": {**METERS, **(meters or {})}, **fields}


def file_of(*prices: dict[str, Any]) -> bytes:
    return json.dumps({"prices": prices}).encode()


async def load(
    pool: Pool, *prices: dict[str, Any], now: datetime, dry_run: bool = False
) -> list[PriceEffect]:
    return await load_price_file(pool, file_of(*prices), True, FINANCE, now, dry_run=dry_run)


async def add_plan(pool: Pool, plan: str, meters: dict[str, Any] | None = None, **fields: Any) -> str:
    """A plan with prices for all months; returns the version's id."""
    await operator_set_plan_limits(pool, plan, {"requests_per_minute": 100})
    (made,) = await load(pool, price(plan, meters, **fields), now=datetime.now().astimezone())
    assert made.price_version_id is not None
    return made.price_version_id
