"""What a route says of itself beyond its code: the source of the generated document.

A route carries its `Endpoint` in `opt={"endpoint": ...}`; a test fails for a route without one.
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

Media = dict[str, dict[str, Any] | type | tuple[type, ...]]
"""Content type -> a struct of `openapi.wire`, one of several, or a JSON Schema."""

BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
TEXT: dict[str, Any] = {"type": "string"}


class QueryParameter(Struct, frozen=True):
    """One optional query parameter."""

    name: str
    description: str
    schema: dict[str, Any]


class Endpoint(Struct, frozen=True, kw_only=True):
    """One operation of the API.

    Attributes:
        operation_id: unique; what generated clients name their method after.
        tag: the family it is listed under.
        request: the body by content type, None where there is none.
        answer: the body of a success by content type.
        access: `key` for a tenant's API key, `staff` for a staff key, `open` for anyone.
        charged: whether the answer carries the headers of a charge.
        answer_headers: the headers that a success of this endpoint alone carries, and what they say.
        errors: statuses it may answer with.
        query: its query parameters.
        examples: language -> a command or program that works when pasted, with the demo key set.
    """

    operation_id: str
    tag: str
    request: Media | None = None
    answer: Media
    access: Literal["key", "staff", "open"] = "key"
    charged: bool = False
    answer_headers: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    errors: tuple[int, ...] = (400, 401, 404, 429, 503)
    query: tuple[QueryParameter, ...] = ()
    examples: dict[str, str] = msgspec.field(default_factory=dict[str, str])


CALL_ERRORS = (400, 401, 402, 403, 404, 409, 413, 415, 422, 429, 503, 504)
"""The statuses of an endpoint that an engine answers."""

STAFF_ERRORS = (401, 403, 429, 503)
"""The statuses of every endpoint that takes a staff key; 429 where too many attempts failed."""
