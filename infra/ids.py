"""Identifiers: time-ordered UUIDs for calls, short random names for everything people type."""

import secrets
import time
from uuid import UUID

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CALL_PREFIX = "call_"


def random_token(length: int) -> str:
    """A random base-62 string; 22 characters carry 130 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def new_id(prefix: str) -> str:
    """A random identifier such as `ten_4fQ...`, unguessable and free of look-ups."""
    return f"{prefix}_{random_token(20)}"


def uuid7() -> UUID:
    """A UUID version 7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then 74 random bits.

    Ordered by time, so an index over call ids grows at its end only.
    """
    unix_ms = time.time_ns() // 1_000_000
    random_bits = secrets.randbits(74)
    value = (unix_ms & (2**48 - 1)) << 80
    value |= 0x7 << 76
    value |= (random_bits >> 62) << 64
    value |= 0b10 << 62
    value |= random_bits & (2**62 - 1)
    return UUID(int=value)


def format_call_id(call_id: UUID) -> str:
    """How a call's id is shown to people: `call_` and 32 hexadecimal digits."""
    return _CALL_PREFIX + call_id.hex


def parse_call_id(text: str) -> UUID | None:
    """The inverse of `format_call_id`; None when the text is no call id."""
    if len(text) != len(_CALL_PREFIX) + 32 or not text.startswith(_CALL_PREFIX):
        return None
    try:
        return UUID(hex=text.removeprefix(_CALL_PREFIX))
    except ValueError:
        return None
