"""Reading bodies: the content type is checked before a byte is read, nothing undecoded goes further."""

from typing import Any, TypeVar

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException

from gateway.errors import (
    BodyError,
    BodyTooLargeError,
    InvalidJsonError,
    MissingValueError,
    UnsupportedMediaTypeError,
)
from gateway.headers import headers_of

T = TypeVar("T")
AnyRequest = Request[Any, Any, Any]


async def read_json(request: AnyRequest, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a JSON body.

    Raises:
        UnsupportedMediaTypeError: the content type is not JSON.
        BodyTooLargeError: it is larger than the route takes.
        InvalidJsonError, MissingValueError, BodyError: the body is not what the endpoint takes.
    """
    if not _content_type(request).startswith(b"application/json"):
        raise UnsupportedMediaTypeError("Send JSON, with the header `Content-Type: application/json`.")
    body = await read_body(request)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _shape_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidJsonError("The body is not valid JSON.") from None


async def read_form(request: AnyRequest) -> dict[str, list[Any]]:
    """Decode a multipart form; every field's values in a list, as a field may come more than once.

    Raises:
        UnsupportedMediaTypeError: the content type is not multipart/form-data.
        BodyError: the form is broken.
    """
    if not _content_type(request).startswith(b"multipart/form-data"):
        raise UnsupportedMediaTypeError("Send the file as multipart/form-data, as the `openai` clients do.")
    try:
        form = await request.form()
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise BodyError("The multipart form is broken; see /docs for an example.") from None
    except UnicodeDecodeError:
        raise BodyError("A form field is not UTF-8 text.") from None
    return {name: form.getall(name) for name in form}


async def read_body(request: AnyRequest) -> bytes:
    """The body as it comes: `request.body()` takes three times as long, most of it for the headers once more.

    Raises:
        BodyTooLargeError: it is larger than the route takes, or says that it will be.
        BodyError: the connection ended before it.
    """
    at_most = request.route_handler.resolve_request_max_body_size()
    assert at_most is not None
    chunks, size = list[bytes](), 0
    is_too_large = int(headers_of(request.scope).get(b"content-length", 0)) > at_most
    while not is_too_large:
        message = await request.receive()
        if message["type"] != "http.request":
            raise BodyError("The connection ended before the body did.")
        chunks.append(message["body"])
        size += len(message["body"])
        is_too_large = size > at_most
        if not is_too_large and not message["more_body"]:
            return b"".join(chunks)
    raise BodyTooLargeError(f"The body is larger than {at_most // 1024} KB. Send less at once.")


def _content_type(request: AnyRequest) -> bytes:
    return headers_of(request.scope).get(b"content-type", b"").lower()


def _shape_error(reason: str) -> BodyError | MissingValueError:
    """Say which field is wrong; msgspec's messages name types and bounds, never the value."""
    if "missing required field" in reason:
        field = reason.split("`")[1]
        return MissingValueError(f"`{field}` is required.", field)
    if "unknown field" in reason:
        field = reason.split("`")[1]
        return BodyError(f"`{field}` is no field of this endpoint.", field)
    what, _, path = reason.partition(" - at `$")
    field = path.strip(".`") or None
    if "Invalid enum value" in what:
        what = "it is none of the values this field takes; see /docs"
    return BodyError(
        f"`{field}` is not acceptable: {what}." if field else f"The body is not acceptable: {what}.", field
    )
