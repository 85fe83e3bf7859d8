"""`create_app`: all the wiring and the lifespan, nothing else."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from litestar import Litestar
from litestar.static_files import create_static_files_router
from litestar.types import Message, Scope

from billing.collecting.webhooks import StripeEvents
from billing.documents.typesetter import Typesetter
from billing.ledger import Ledger
from billing.refusals import Refusals
from billing.requests import IdempotentRequests
from gateway.errors import EXCEPTION_HANDLERS
from gateway.limits import Limits
from gateway.metered import Metered
from gateway.request_id import request_id_of
from gateway.routes import (
    account,
    documents,
    health,
    intents,
    invoices,
    reference,
    speech,
    stripe_events,
    transcriptions,
    translations,
)
from gateway.routes.admin import collections, credit_notes, invoice_runs, parties, people, prices, review
from gateway.routes.admin import documents as admin_documents
from gateway.routes.admin import invoices as admin_invoices
from gateway.services import Services
from gateway.staff_door import StaffDoor
from infra.database import open_pool
from infra.settings import Settings
from infra.telemetry import Telemetry
from openapi.document import Json, Route, build_document
from serving.client import ServingClient
from serving.remote.engines import RemoteEngines, open_remote
from tenants.key_cache import KeyCache
from tenants.last_used import LastUsed

_POOL_SIZE = 8
_ROUTES = [
    transcriptions.create_transcription,
    translations.create_translation,
    speech.create_speech,
    intents.create_intent,
    account.get_models,
    account.get_usage,
    account.get_call,
    *invoices.ROUTES,
    *documents.ROUTES,
    *stripe_events.ROUTES,
    *people.ROUTES,
    *parties.ROUTES,
    *prices.ROUTES,
    *invoice_runs.ROUTES,
    *collections.ROUTES,
    *review.ROUTES,
    *credit_notes.ROUTES,
    *admin_invoices.ROUTES,
    *admin_documents.ROUTES,
    health.get_health,
    health.get_readiness,
    reference.get_document,
    reference.get_reference,
    create_static_files_router(path="/static", directories=[Path(__file__).parent / "static"]),
]


def create_app(settings: Settings, database_url: str, ray_address: str) -> Litestar:
    """One worker's application.

    Args:
        settings: the environment's decisions.
        database_url: the PostgreSQL server, migrated.
        ray_address: where the engines are deployed, as `host:port`.
    """
    app = Litestar(
        route_handlers=_ROUTES,
        exception_handlers=EXCEPTION_HANDLERS,
        before_send=[add_headers],
        lifespan=[_lifespan(settings, database_url, ray_address)],
        openapi_config=None,
        logging_config=None,
        multipart_form_part_limit=32,
    )
    app.state["document"] = describe(app)
    return app


def describe(app: Litestar) -> Json:
    """The OpenAPI document of an application."""
    routes = [
        Route(str(method), route.path_format, handler.fn.__doc__ or "", handler.opt["endpoint"])
        for route in app.routes
        for handler in getattr(route, "route_handlers", ())
        for method in handler.http_methods
        if "endpoint" in handler.opt
    ]
    return build_document(routes, version("aiaas-gateway"))


def _lifespan(
    settings: Settings, database_url: str, ray_address: str
) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncGenerator[None, None]:
        async with (
            open_remote(settings) as remote,
            _open_services(settings, database_url, ray_address, remote) as services,
        ):
            app.state["services"] = services
            yield

    return lifespan


@asynccontextmanager
async def _open_services(
    settings: Settings, database_url: str, ray_address: str, remote: RemoteEngines | None
) -> AsyncGenerator[Services, None]:
    telemetry = Telemetry.from_environ("aiaas-gateway", os.environ)
    pool = await open_pool(database_url, _POOL_SIZE, "aiaas-gateway")
    serving = await ServingClient.connect(ray_address, settings, telemetry, remote)
    keys = KeyCache(pool, database_url, lookup_timeout_s=settings.charge_timeout_s / 2)
    last_used = LastUsed(pool)
    refusals = Refusals(pool)
    ledger = Ledger(database_url, telemetry, charge_timeout_s=settings.charge_timeout_s)
    limits = Limits(
        settings.requests_per_minute,
        settings.max_concurrent_calls,
        settings.aiaas_workers,
        settings.limits_storage_uri,
        telemetry.count_limits_fallback,
    )
    await keys.start()
    await last_used.start()
    await refusals.start()
    await ledger.start()
    requests = IdempotentRequests(pool, ledger.session_id)
    requests.start()
    try:
        metered = Metered(ledger, requests, limits, telemetry)
        yield Services(
            settings=settings,
            pool=pool,
            keys=keys,
            last_used=last_used,
            refusals=refusals,
            ledger=ledger,
            requests=requests,
            serving=serving,
            limits=limits,
            metered=metered,
            telemetry=telemetry,
            staff_door=StaffDoor(pool, settings.aiaas_workers),
            proving=asyncio.Semaphore(1),
            typesetter=Typesetter(),
            stripe_events=StripeEvents(pool, settings.stripe_webhook_secrets),
        )
    finally:
        # In the order of a call: nothing new is admitted, what was served is charged, then the rest goes.
        await ledger.close()
        await requests.close()
        await last_used.close()
        await refusals.close()
        await keys.close()
        serving.close()
        limits.close()
        await pool.close()
        telemetry.close()


async def add_headers(message: Message, scope: Scope) -> None:
    """Name the request, say what is left of its caller's minute, end its span; on every answer.

    A worker that drains has its callers come back to another one.
    """
    if message["type"] != "http.response.start":
        return
    state = scope["state"]
    headers = [*message["headers"], (b"x-request-id", request_id_of(scope).encode())]
    if window := state.get("rate_window"):
        headers += window.headers()
    if scope["app"].state.get("is_draining"):
        headers.append((b"connection", b"close"))
    if end_span := state.get("end_span"):
        end_span()
    message["headers"] = headers
