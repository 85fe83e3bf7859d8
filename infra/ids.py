"""Identifiers: time-ordered UUIDs for calls, short random names for everything people type."""

import secrets
import time
from uuid import UUID

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CALL_PREFIX = "call_"
_RANDOM_BYTES = 10
_SPARE_BITS = 6  # 10 bytes are 80 bits, of which an id takes 74
_IDS_AT_ONCE = 256


def random_token(length: int) -> str:
    """A random base-62 string; 22 characters carry 130 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def new_id(prefix: str) -> str:
    """A random identifier such as `ten_4fQ...`, unguessable and free of look-ups."""
    return f"{prefix}_{random_token(20)}"


class CallIds:
    """Makes call ids, fetching randomness for many at once: a system call is a third of what an id costs."""

    def __init__(self) -> None:
        self._random = b""
        self._used = 0

    def next(self) -> UUID:
        """A new UUID version 7; see `uuid7`."""
        if self._used == len(self._random):
            self._random, self._used = secrets.token_bytes(_RANDOM_BYTES * _IDS_AT_ONCE), 0
        begin = self._used
        self._used = begin + _RANDOM_BYTES
        return _uuid7(int.from_bytes(self._random[begin : self._used]) >> _SPARE_BITS)


def uuid7() -> UUID:
    """A UUID version 7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then 74 random bits.

    Ordered by time, so an index over call ids grows at its end only.
    """
    return _uuid7(secrets.randbits(74))


def _uuid7(random_bits: int) -> UUID:
    unix_ms = time.time_ns() // 1_000_000
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
