"""One table: the code of an error -> HTTP status and OpenAI's error type."""

import logging
import math
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from gateway.request_id import request_id_of
from infra.errors import DomainError, RetryLaterError
from infra.logs import event
from openapi.wire import ErrorBody, ErrorDetail

_REQUEST = "invalid_request_error"
_AUTHENTICATION = "authentication_error"
_PERMISSION = "permission_error"
_SERVER = "server_error"
_PAYMENT_REQUIRED = 402
_COUNTED = frozenset({_PAYMENT_REQUIRED, 429, 503, 504})  # for want of money, of room, or of an engine

STATUS_AND_TYPE: dict[str, tuple[int, str]] = {
    "invalid_api_key": (401, _AUTHENTICATION),
    "missing_api_key": (401, _AUTHENTICATION),
    "malformed_api_key": (401, _AUTHENTICATION),
    "unknown_api_key": (401, _AUTHENTICATION),
    "expired_api_key": (401, _AUTHENTICATION),
    "revoked_api_key": (401, _AUTHENTICATION),
    "wrong_kind_of_key": (401, _AUTHENTICATION),
    "missing_staff_key": (401, _AUTHENTICATION),
    "malformed_staff_key": (401, _AUTHENTICATION),
    "unknown_staff_key": (401, _AUTHENTICATION),
    "expired_staff_key": (401, _AUTHENTICATION),
    "revoked_staff_key": (401, _AUTHENTICATION),
    "permission_denied": (403, _PERMISSION),
    "insufficient_scope": (403, _PERMISSION),
    "address_not_allowed": (403, _PERMISSION),
    "insufficient_role": (403, _PERMISSION),
    "rate_limit_exceeded": (429, "rate_limit_error"),
    "concurrency_limit_exceeded": (429, "rate_limit_error"),
    "overloaded": (429, "rate_limit_error"),
    "insufficient_quota": (402, "insufficient_quota"),  # as OpenAI types it
    "invalid_value": (400, _REQUEST),
    "missing_value": (400, _REQUEST),
    "invalid_json": (400, _REQUEST),
    "empty_audio": (400, _REQUEST),
    "undecodable_audio": (400, _REQUEST),
    "no_audio_stream": (400, _REQUEST),
    "audio_too_long": (400, _REQUEST),
    "too_many_channels": (400, _REQUEST),
    "unsupported_language": (400, _REQUEST),
    "unsupported_task": (400, _REQUEST),
    "unknown_voice": (400, _REQUEST),
    "text_too_long": (400, _REQUEST),
    "nothing_to_speak": (400, _REQUEST),
    "invalid_price": (400, _REQUEST),
    "money_cap_not_kept": (409, _REQUEST),
    "invoice_state": (409, _REQUEST),
    "own_invoice": (403, _PERMISSION),
    "stale_approval": (409, _REQUEST),
    "collection_state": (409, _REQUEST),
    "stripe_event_invalid": (400, _REQUEST),
    "stripe_events_off": (400, _REQUEST),
    "stripe_signature_invalid": (400, _REQUEST),
    "stripe_timestamp_invalid": (400, _REQUEST),
    "stripe_refused": (500, _SERVER),  # by commands and jobs alone
    "credit_note_state": (409, _REQUEST),
    "over_credited": (409, _REQUEST),
    "invoice_run_failed": (409, _REQUEST),
    "not_found": (404, "not_found_error"),
    "model_not_found": (404, "not_found_error"),
    "unknown_intent_set": (404, "not_found_error"),
    "method_not_allowed": (405, _REQUEST),
    "body_too_large": (413, _REQUEST),
    "client_closed_request": (499, _REQUEST),  # read by nobody, but by those who read our logs
    "idempotency_key_reused": (422, _REQUEST),
    "idempotency_in_progress": (409, _REQUEST),
    "unsupported_media_type": (415, _REQUEST),
    "billing_account_missing": (403, _PERMISSION),
    "billing_account_exists": (409, _REQUEST),
    "call_id_reused": (500, _SERVER),  # call ids are made here: a caller cannot cause it
    "charge_rejected": (500, _SERVER),
    "internal_error": (500, _SERVER),
    "engine_unavailable": (503, _SERVER),
    "ledger_unavailable": (503, _SERVER),
    "documents_busy": (503, _SERVER),
    "ledger_overloaded": (503, _SERVER),
    "service_unavailable": (503, _SERVER),
    "deadline_exceeded": (504, _SERVER),
}

_CODE_OF_STATUS = {
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}
_MESSAGE_OF_STATUS = {
    404: "There is no such endpoint. See /docs for those there are.",
    405: "This endpoint does not take that method. See /docs.",
    413: "The body is larger than 25 MB. Send a smaller or better compressed file.",
}


class BodyError(DomainError):
    """The body could not be decoded into what the endpoint takes."""

    code = "invalid_value"


class BodyTooLargeError(DomainError):
    """The body is larger than the endpoint takes."""

    code = "body_too_large"


class MissingValueError(DomainError):
    """A required field is not there."""

    code = "missing_value"


class InvalidJsonError(DomainError):
    """The body is no JSON."""

    code = "invalid_json"


class UnsupportedMediaTypeError(DomainError):
    """The endpoint takes another content type."""

    code = "unsupported_media_type"


class TextTooLongError(DomainError):
    """A text is over the endpoint's limit."""

    code = "text_too_long"


class CallerLeftError(DomainError):
    """The caller hung up before there was an answer. The status is nginx's for it; nobody receives it."""

    code = "client_closed_request"

    def __init__(
        self, message: str = "The connection was closed before the answer.", param: str | None = None
    ) -> None:
        super().__init__(message, param)


class ModelNotFoundError(DomainError):
    """No engine or intent set answers under this name."""

    code = "model_not_found"


def answer_domain_error(request: Request[Any, Any, Any], error: DomainError) -> Response[ErrorBody]:
    """The answer to a refusal that has a code of its own."""
    status, _ = STATUS_AND_TYPE[error.code]
    name = "call_abandoned" if isinstance(error, CallerLeftError) else "call_refused"
    event("gateway", logging.INFO, name, {"code": error.code, **_where(request)})
    caller = request.scope["state"].get("caller")
    if status in _COUNTED and caller is not None:
        request.app.state["services"].refusals.note(caller.tenant_id, error.code)
    headers: dict[str, str] = {}
    if isinstance(error, RetryLaterError):
        headers = {
            "retry-after": str(max(1, math.ceil(error.retry_after_s))),
            "retry-after-ms": str(math.ceil(error.retry_after_s * 1000)),
        }
    elif status == _PAYMENT_REQUIRED:
        headers = {"x-should-retry": "false"}  # what the official clients ask before they try again
    return Response(error_body(error), status_code=status, headers=headers)


def error_body(error: DomainError) -> ErrorBody:
    """What is told of a refusal."""
    _, kind = STATUS_AND_TYPE[error.code]
    return ErrorBody(ErrorDetail(error.message, kind, error.code, error.param))


def answer_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[ErrorBody]:
    """The answer to what Litestar itself refused: routing, body size, decoding."""
    if error.status_code == 400:
        return answer_domain_error(request, _parameter_error(error))
    code = _CODE_OF_STATUS.get(error.status_code, "internal_error")
    _, kind = STATUS_AND_TYPE[code]
    message = _MESSAGE_OF_STATUS.get(error.status_code, "Something went wrong on our side; try again.")
    return Response(ErrorBody(ErrorDetail(message, kind, code, None)), status_code=error.status_code)


def answer_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    """The answer to a defect: its type and place go to the log, nothing of it to the caller."""
    event("gateway", logging.ERROR, "call_failed", _where(request), error=True)
    message = "Something went wrong on our side; the call was not charged. Try again."
    body = ErrorBody(ErrorDetail(message, _SERVER, "internal_error", None))
    return Response(body, status_code=500)


def _where(request: Request[Any, Any, Any]) -> dict[str, str]:
    """Which request, by its route's pattern: a path itself may hold an id."""
    return {"path": request.scope.get("path_template", ""), "request_id": request_id_of(request.scope)}


def _parameter_error(error: HTTPException) -> DomainError:
    """Say which path or query parameter is wrong, in Litestar's words for it."""
    extra: object = error.extra
    if isinstance(extra, list) and extra and isinstance(extra[0], dict):
        name = str(extra[0].get("key", ""))
        return BodyError(f"`{name}` is not acceptable: {extra[0].get('message')}.", name)
    return BodyError("The request is not acceptable; see /docs.")


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    DomainError: answer_domain_error,
    HTTPException: answer_http_error,
    Exception: answer_unexpected,
}
