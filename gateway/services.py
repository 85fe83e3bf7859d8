"""What a worker process holds, handed to every route by the application's state."""

import asyncio

import msgspec
from litestar.connection import ASGIConnection

from billing.collecting.webhooks import StripeEvents
from billing.documents.typesetter import Typesetter
from billing.ledger import Ledger
from billing.refusals import Refusals
from billing.requests import IdempotentRequests
from gateway.limits import Limits
from gateway.metered import Metered
from gateway.staff_door import StaffDoor
from infra.database import Pool
from infra.settings import Settings
from infra.telemetry import Telemetry
from serving.client import ServingClient
from tenants.key_cache import KeyCache
from tenants.last_used import LastUsed


class Services(msgspec.Struct, frozen=True):
    """The parts of one worker, made by `gateway.app` and by nobody else.

    Attributes:
        proving: held while an invoice is verified, which may take a connection for seconds.
    """

    settings: Settings
    pool: Pool
    keys: KeyCache
    last_used: LastUsed
    refusals: Refusals
    ledger: Ledger
    requests: IdempotentRequests
    serving: ServingClient
    limits: Limits
    metered: Metered
    telemetry: Telemetry
    staff_door: StaffDoor
    proving: asyncio.Semaphore
    typesetter: Typesetter
    stripe_events: StripeEvents


def services_of(connection: ASGIConnection) -> Services:  # type: ignore[type-arg]
    """The services of the application that a connection came to."""
    return connection.app.state["services"]
