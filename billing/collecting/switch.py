"""Whether Stripe collects, as the settings have it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from billing.collecting.client import StripeApi
from billing.collecting.collector import Collector
from billing.collecting.outbox import CollectionStateError, set_collector
from infra.database import Pool
from infra.settings import Settings


class Collecting(msgspec.Struct, frozen=True):
    """What there is where Stripe collects."""

    api: StripeApi
    collector: Collector


@asynccontextmanager
async def open_collecting(pool: Pool, settings: Settings) -> AsyncGenerator[Collecting | None]:
    """The billing worker's: None without a key. Invoices issued from now on are collected accordingly."""
    if settings.stripe_api_key is None:
        await set_collector(pool, None, livemode=False)
        yield None
        return
    async with open_stripe(pool, settings) as collecting:
        await set_collector(pool, settings.stripe_collection, collecting.api.livemode)
        yield collecting


@asynccontextmanager
async def open_stripe(pool: Pool, settings: Settings) -> AsyncGenerator[Collecting]:
    """A way to Stripe.

    Raises:
        CollectionStateError: there is no key.
    """
    if settings.stripe_api_key is None:
        raise CollectionStateError("STRIPE_API_KEY is not set: invoices are collected by hand.")
    timeout_s = settings.stripe_timeout_s
    api = StripeApi(settings.stripe_api_key.reveal(), settings.stripe_api_base, timeout_s)
    try:
        yield Collecting(api, Collector(pool, api, timeout_s=timeout_s))
    finally:
        await api.close()
