"""The text of a key: `aiaas_live_<id>_<secret><checksum>` or `aiaas_test_...`, 62 characters.

These are API keys, of tenants; `aiaas_staff_...` is the key of somebody who works for the vendor.

The id has 12 characters of base 62, the secret 32 (190 bits of chance), the checksum 6: the CRC-32 of
all that comes before it, written in base 62 and padded with zeros on the left.

The checksum catches slips, not attackers: anybody can compute it. CRC-32's generator is primitive of
degree 32, so these changes to what it covers are refused always: one character, up to four neighbouring
ones, and any two characters changing places. A change within the checksum alone is refused always too.
Any other change passes with a chance of about 2^-32, and then fails at the look-up.
"""

import hashlib
import re
import zlib
from typing import Literal, cast

import msgspec

from infra.ids import random_token

Mode = Literal["live", "test"]
Kind = Literal["live", "test", "staff"]

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)  # two digits of base 62 at a time
_ID_LENGTH = 12
_SECRET_LENGTH = 32
_CHECKSUM_LENGTH = 6
_REST = rf"([0-9A-Za-z]{{{_ID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH + _CHECKSUM_LENGTH}}}"
_SHAPE = re.compile(rf"aiaas_(live|test)_{_REST}")
_STAFF_SHAPE = re.compile(rf"aiaas_staff_{_REST}")


class ParsedKey(msgspec.Struct, frozen=True):
    """What an API key's text says about itself, its secret left out."""

    key_id: str
    mode: Mode


def new_key(kind: Kind) -> tuple[str, str]:
    """Make a key; returns its id (`key_<id>`, fit for logs and lists) and its text (a secret).

    `live` and `test` are a label for the owner's own order, so that a key in a test system can be told from
    one in production at a glance. Both reach the same engines and both are charged.
    """
    short_id = random_token(_ID_LENGTH)
    body = f"aiaas_{kind}_{short_id}_{random_token(_SECRET_LENGTH)}"
    return f"key_{short_id}", body + _checksum(body)


def parse(text: str) -> ParsedKey | None:
    """Check shape and checksum without any look-up; None when the text cannot be an API key.

    The cost does not grow with the text's length.
    """
    match = _SHAPE.fullmatch(text)
    if match is None or not _has_checksum(text):
        return None
    mode, short_id = match.groups()
    return ParsedKey(f"key_{short_id}", cast(Mode, mode))


def is_well_formed(text: str) -> bool:
    """Whether the text can be an API key: `parse` without its answer, for every call's way in."""
    return _SHAPE.fullmatch(text) is not None and _has_checksum(text)


def is_staff_key(text: str) -> bool:
    """Whether the text can be a staff member's key."""
    return _STAFF_SHAPE.fullmatch(text) is not None and _has_checksum(text)


def digest(text: str) -> bytes:
    """The SHA-256 of a key's text: 32 bytes, all that is kept of it.

    A plain hash is enough: a secret of 190 random bits cannot be found by trying.
    """
    return hashlib.sha256(text.encode()).digest()


def _has_checksum(text: str) -> bool:
    return text[-_CHECKSUM_LENGTH:] == _checksum(text[:-_CHECKSUM_LENGTH])


def _checksum(body: str) -> str:
    """The CRC-32 of `body` in base 62; 62^6 > 2^32, so each value has a writing of its own."""
    rest, last = divmod(zlib.crc32(body.encode()), len(_PAIRS))
    first, middle = divmod(rest, len(_PAIRS))
    return _PAIRS[first] + _PAIRS[middle] + _PAIRS[last]
