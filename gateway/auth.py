"""Who may come in: bearer key -> Caller, then a place in the caller's minute.

A route names its product in `guards=[admit("asr")]`; the guard runs before the body is read, so that a
stranger's 25 MB are never taken in.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler

from gateway.services import services_of
from tenants.authenticate import authenticate, require_scope
from tenants.records import KeyRecord, Product

Caller = KeyRecord
Connection = ASGIConnection[Any, Any, Any, Any]
Guard = Callable[[Connection, BaseRouteHandler], Awaitable[None]]


def admit(product: Product | None) -> Guard:
    """A guard that lets in keys with the product's scope; None lets in every valid key."""

    async def guard(connection: Connection, _: BaseRouteHandler) -> None:
        services = services_of(connection)
        state = connection.scope["state"]
        # Ended when the answer starts, by the hook that adds its headers.
        state["trace"], state["end_span"] = services.telemetry.open_span("call", _callers_trace(connection))
        with services.telemetry.span("auth", state["trace"]):
            peer = connection.client.host if connection.client else None
            caller = await authenticate(services.keys, bearer_key(connection), peer, datetime.now(UTC))
            if product:
                require_scope(caller, product)
            services.last_used.note(caller.key_id)
            state["caller"] = caller
        with services.telemetry.span("limits", state["trace"]):
            window = await services.limits.count_request(caller.tenant_id, caller.key_id)
            state["rate_window"] = window
            window.check()

    return guard


def caller_of(connection: Connection) -> Caller:
    """The caller that `admit` let in."""
    return connection.scope["state"]["caller"]


def bearer_key(connection: Connection) -> str | None:
    """The text after `Bearer`; None when there is no such header."""
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def trace_of(connection: Connection) -> Mapping[str, str]:
    """The call's span as W3C headers, the parent of the spans of its stages."""
    return connection.scope["state"]["trace"]


def _callers_trace(connection: Connection) -> Mapping[str, str]:
    """The caller's W3C trace context, where one was sent."""
    headers = connection.headers
    return {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
