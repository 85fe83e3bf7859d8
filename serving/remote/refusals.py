"""What another endpoint's refusal means to our caller. Pure, but for a line in the log for the operator.

Nothing of the other side's text is passed on: it may quote what was sent. Its `code` and `param` are taken
where they are among those known here.
"""

import logging
import math
from collections.abc import Mapping

import msgspec

from infra.errors import DomainError, InvalidValueError
from infra.logs import event
from serving.errors import (
    DeadlineExceededError,
    EngineUnavailableError,
    NothingToSpeakError,
    OverloadedError,
    UnknownIntentSetError,
    UnknownVoiceError,
    UnsupportedLanguageError,
    UnsupportedTaskError,
)

INTENTS_PATH = "/intents"
_LONGEST_RETRY_S = 300
_NO_SUCH_SET = frozenset({"unknown_intent_set", "model_not_found"})
_OUT_OF_CREDIT = "insufficient_quota"
_PARAMS = frozenset(
    {"file", "input", "prompt", "speed", "temperature", "text", "texts", "threshold", "top_k"}
)
_CALLERS_FAULT = frozenset({400, 413, 415, 422})


class _Said(msgspec.Struct, frozen=True):
    code: str | None = None
    param: str | None = None


class _Body(msgspec.Struct, frozen=True):
    error: _Said = _Said()


def refusal(path: str, status: int, headers: Mapping[str, str], body: bytes) -> DomainError:
    """The error for an answer that is not 200 to a request to `path`.

    429 is `overloaded`, with the other side's Retry-After; a 400 is the caller's fault, and names what is;
    all else, a refused key and an exhausted account among it, is for the operator: `engine_unavailable`.
    """
    said = _said(body)
    if status == 429 and said.code != _OUT_OF_CREDIT:
        return OverloadedError(retry_after_s=_retry_after_s(headers, 1))
    if status in (408, 504):
        return DeadlineExceededError()
    if status == 404 and path == INTENTS_PATH and said.code in _NO_SUCH_SET:
        return UnknownIntentSetError("The remote endpoint has no such intent set.")
    if status in _CALLERS_FAULT:
        return _callers_fault(said)
    event("serving", logging.ERROR, "remote_refused", {"status": status})
    return EngineUnavailableError(retry_after_s=_retry_after_s(headers, 2))


def unusable(reason: str) -> EngineUnavailableError:
    """The error for an answer that cannot be used; `reason` is ours and goes to the log."""
    event("serving", logging.ERROR, "remote_unusable", {"reason": reason})
    return EngineUnavailableError()


def _callers_fault(said: _Said) -> DomainError:
    if said.code == "unsupported_task":
        return UnsupportedTaskError()
    if said.code == "nothing_to_speak":
        return NothingToSpeakError()
    if said.param == "voice":
        return UnknownVoiceError("The remote speech engine has no such voice.")
    if said.param == "language":
        return UnsupportedLanguageError("The remote recogniser does not know this language.")
    param = said.param if said.param in _PARAMS else None
    return InvalidValueError(
        "The remote engine that answers your calls did not accept this request. Check its values.", param
    )


def _said(body: bytes) -> _Said:
    try:
        return msgspec.json.decode(body, type=_Body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Said()


def _retry_after_s(headers: Mapping[str, str], default_s: int) -> int:
    """Retry-After in seconds (RFC 9110, section 10.2.3); a date there counts as not said."""
    try:
        given_s = float(headers.get("retry-after", ""))
    except ValueError:
        return default_s
    return min(_LONGEST_RETRY_S, max(1, math.ceil(given_s))) if math.isfinite(given_s) else default_s
