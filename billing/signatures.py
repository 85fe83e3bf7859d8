"""Webhook messages as Standard Webhooks has them: secrets, signatures, headers. Pure.

The format is version 1.0.0 of https://www.standardwebhooks.com, symmetric: HMAC-SHA256 over
`<id>.<timestamp>.<body>`, in base64 after `v1,`; a secret is shown as `whsec_` and its bytes in base64.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from infra.settings import Secret

_SHOWN_AS: Final = "whsec_"
_SECRET_BYTES: Final = 32  # the specification asks for 24 to 64


def new_secret() -> Secret:
    """A random signing secret, as the receiver's library takes it."""
    return Secret(_SHOWN_AS + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode())


def message_body(type_: str, occurred_at: datetime, data: object) -> bytes:
    """The JSON that is sent: `{"type", "timestamp", "data"}`; `timestamp` is when it happened."""
    return msgspec.json.encode({"type": type_, "timestamp": occurred_at, "data": data})


def signed_headers(
    message_id: str, attempted_at_s: int, body: bytes, signing: Sequence[Secret]
) -> dict[str, str]:
    """The three headers of one attempt, with one signature for each secret.

    Args:
        message_id: the same at each attempt; holds no full stop.
        attempted_at_s: Unix time.
    """
    signatures = [_signature(secret, f"{message_id}.{attempted_at_s}.".encode() + body) for secret in signing]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(attempted_at_s),
        "webhook-signature": " ".join(signatures),
    }


def _signature(secret: Secret, signed: bytes) -> str:
    key = base64.b64decode(secret.reveal().removeprefix(_SHOWN_AS))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
