"""How a request is known again: by its `Idempotency-Key`, or as the official client's own retry."""

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Final, Literal

import msgspec

from billing.requests import KEPT_S, RETRIES_KEPT_S, Identity
from gateway.bodies import AnyRequest
from gateway.headers import headers_of
from infra.errors import InvalidValueError
from tenants.records import KeyRecord

_MAX_KEY_LENGTH: Final = 255
_WELL_FORMED: Final = re.compile(rb"[ -~]{1,%d}" % _MAX_KEY_LENGTH)
_KEY_HEADER: Final = b"idempotency-key"
# Sent by OpenAI's clients with every request: 0, then 1 and more when they try again by themselves.
_RETRY_HEADER: Final = b"x-stainless-retry-count"


class Repeatable(msgspec.Struct, frozen=True):
    """A request that is known again.

    Attributes:
        kind: `key`: by the caller's key; `first`: its client may try it again; `retry`: it does.
    """

    identity: Identity
    kind: Literal["key", "first", "retry"]


def repeatable(
    caller: KeyRecord, request: AnyRequest, parts: Callable[[], Iterable[bytes]]
) -> Repeatable | None:
    """What the request is known by; None when nobody asked for that.

    A key belongs to the tenant, and to one request: the same endpoint with the same `parts`. A client's own
    retry is known by its API key and its parts.

    Args:
        parts: gives all that the request asks for, decoded, in one order; asked only where it is needed.

    Raises:
        InvalidValueError: the key is not 1 to 255 printable ASCII characters.
    """
    headers = headers_of(request.scope)
    key, retries = headers.get(_KEY_HEADER), headers.get(_RETRY_HEADER)
    if key is None and retries is None:
        return None
    fingerprint = _digest(request.scope["path"].encode(), *parts())
    if key is not None:
        if not _WELL_FORMED.fullmatch(key):
            raise InvalidValueError(
                f"An Idempotency-Key has 1 to {_MAX_KEY_LENGTH} printable ASCII characters.",
                "Idempotency-Key",
            )
        claim = _digest(b"key", caller.tenant_id.encode(), key)
        return Repeatable(Identity(claim, fingerprint, KEPT_S), "key")
    claim = _digest(b"body", caller.key_id.encode(), fingerprint)
    return Repeatable(Identity(claim, fingerprint, RETRIES_KEPT_S), "first" if retries == b"0" else "retry")


def _digest(*parts: bytes) -> bytes:
    """SHA-256 over parts, each after its length: no two lists of parts have one text."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()
