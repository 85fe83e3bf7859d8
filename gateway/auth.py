"""Who may come in: bearer key -> Caller, then a place in the caller's minute.

A route names its product in `before_request=admit("asr")`, which runs before the body is read, so that a
stranger's 25 MB are never taken in. It is not one of Litestar's guards: before each of those Litestar
copies the whole route handler, which costs more than the door does.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.types import Scope

from gateway.headers import headers_of
from gateway.services import Services, services_of
from tenants.authenticate import authenticate, require_scope
from tenants.records import KeyRecord, Product

Caller = KeyRecord
Connection = ASGIConnection[Any, Any, Any, Any]
Door = Callable[[Request[Any, Any, Any]], Awaitable[None]]

_NO_TRACE: Mapping[str, str] = {}


def admit(product: Product | None) -> Door:
    """What lets in keys with the product's scope, within their limits; None lets in every valid key."""

    async def door(request: Request[Any, Any, Any]) -> None:
        services = services_of(request)
        state = request.scope["state"]
        caller = await identify(services, request.scope, product)
        with services.telemetry.span("limits", state["trace"]):
            window = await services.limits.count_request(caller)
            state["rate_window"] = window
            window.check()

    return door


async def identify(services: Services, scope: Scope, product: Product | None) -> Caller:
    """The caller behind a request, whose span begins here; it ends when the answer starts, in `add_headers`.

    Raises:
        AuthenticationError, PermissionDeniedError, UnavailableError: see `tenants.authenticate`.
    """
    state = scope["state"]
    headers = headers_of(scope)
    state["trace"], state["end_span"] = services.telemetry.open_span("call", _callers_trace(headers))
    with services.telemetry.span("auth", state["trace"]):
        client = scope["client"]
        key = bearer_key(headers.get(b"authorization", b""))
        caller = await authenticate(services.keys, key, client[0] if client else None, datetime.now(UTC))
        if product:
            require_scope(caller, product)
        services.last_used.note(caller.key_id)
    state["caller"] = caller
    return caller


def caller_of(connection: Connection) -> Caller:
    """The caller that `admit` let in."""
    return connection.scope["state"]["caller"]


def bearer_key(authorization: bytes) -> str | None:
    """The text after `Bearer`; None when there is none."""
    scheme, _, key = authorization.decode("latin-1").partition(" ")
    key = key.strip()
    return key if key and scheme.lower() == "bearer" else None


def trace_of(connection: Connection) -> Mapping[str, str]:
    """The call's span as W3C headers, the parent of the spans of its stages."""
    return connection.scope["state"]["trace"]


def _callers_trace(headers: Mapping[bytes, bytes]) -> Mapping[str, str]:
    """The caller's W3C trace context, where one was sent; its state means nothing without its parent."""
    if b"traceparent" not in headers:
        return _NO_TRACE
    names = (b"traceparent", b"tracestate")
    return {name.decode(): headers[name].decode("latin-1") for name in names if name in headers}
