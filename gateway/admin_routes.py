"""What the routes share by which finance acts: who may, how large a body is, how lists are paged."""

from typing import Annotated, Any, TypeVar

import msgspec
from litestar.params import Parameter, PathParameter

from billing.review import MAX_PAGE
from gateway.bodies import AnyRequest, read_json
from gateway.parameters import limit_parameter
from gateway.staff import admit_staff
from openapi.endpoint import STAFF_ERRORS, Endpoint, Media, QueryParameter

T = TypeVar("T")
_MAX_BODY_BYTES = 64 * 1024
_ACTION_ERRORS = (400, *STAFF_ERRORS, 404, 409, 413, 415)
_READ_ERRORS = (400, *STAFF_ERRORS)
ID_PATTERN = r"^[0-9A-Za-z_]{1,64}$"
SubjectId = Annotated[str, PathParameter(pattern=ID_PATTERN)]
Limit = Annotated[int, Parameter(ge=1, le=MAX_PAGE)]
Cursor = Annotated[int | None, Parameter(ge=0, le=2**62)]
Position = Annotated[str | None, Parameter(pattern=r"^[0-9A-Za-z_.]{1,100}$")]
LIMIT = limit_parameter(50, MAX_PAGE)
_FINANCE = admit_staff("finance")


def action(operation_id: str, request: type | None, answer: type) -> dict[str, Any]:
    """What all routes share that change something."""
    media: Media | None = {"application/json": request} if request else None
    return {
        "before_request": _FINANCE,
        "status_code": 200,
        "request_max_body_size": _MAX_BODY_BYTES,
        "opt": {
            "endpoint": Endpoint(
                operation_id=operation_id,
                tag="Admin",
                request=media,
                answer={"application/json": answer},
                access="staff",
                errors=_ACTION_ERRORS,
            )
        },
    }


def reading(operation_id: str, answer: type, *query: QueryParameter, has_id: bool = False) -> dict[str, Any]:
    """What all routes share that read."""
    errors = (*_READ_ERRORS, 404) if has_id else _READ_ERRORS
    endpoint = Endpoint(
        operation_id=operation_id,
        tag="Admin",
        answer={"application/json": answer},
        access="staff",
        errors=errors,
        query=query,
    )
    return {"before_request": _FINANCE, "opt": {"endpoint": endpoint}}


async def body_of(request: AnyRequest, kind: type[T]) -> T:
    """The request's JSON body. Such calls are rare: a decoder is made for each."""
    return await read_json(request, msgspec.json.Decoder(kind))
