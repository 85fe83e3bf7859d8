"""A storage for `limits` that makes one round trip of a hit and of what is asked about it right after.

The strategy asks its storage three times about one request: count it, how many are there, when does the
window end. Here the first answer brings the other two along, from the same moment.
"""

import threading
import time
from typing import Any

import msgspec
from limits.storage import RedisStorage
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.errors import StartupError
from infra.settings import Secret

SOCKET_TIMEOUT_S = 0.05
STORAGE_OPTIONS: dict[str, Any] = {
    "socket_timeout": SOCKET_TIMEOUT_S,
    "socket_connect_timeout": SOCKET_TIMEOUT_S,
    # Stated, not left to the client's default: a retry would multiply the timeout. The probe is the retry.
    "retry": Retry(NoBackoff(), 0),
}
_PREFIX = "one-trip+"
# Valkey speaks Redis' protocol: one client serves both.
_CLIENT_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "redis+unix": "redis+unix",
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+unix": "redis+unix",
}
# Counting and ending the window are one step: a counter without an end would refuse for ever.
_COUNT = b"""
local count = redis.call("incrby", KEYS[1], ARGV[2])
if count == tonumber(ARGV[2]) then redis.call("expire", KEYS[1], ARGV[1]) end
return {count, redis.call("pttl", KEYS[1])}
"""


def storage_uri(address: Secret) -> str:
    """The address under which `limits` finds `OneTripStorage`.

    Raises:
        StartupError: not the address of a Redis or Valkey server; the message does not quote it.
    """
    scheme, separator, rest = address.reveal().partition("://")
    if not separator or scheme not in _CLIENT_SCHEMES:
        raise StartupError("LIMITS_STORAGE_URI is not usable: it has to begin with redis:// or valkey://.")
    return f"{_PREFIX}{_CLIENT_SCHEMES[scheme]}://{rest}"


class _Hit(msgspec.Struct, frozen=True):
    key: str
    count: int
    ends_at_s: float


class _LastHit(threading.local):
    value = _Hit("", 0, 0.0)


class OneTripStorage(RedisStorage):
    """Counts in Redis; `get` and `get_expiry` of the key this thread counted last cost nothing.

    Registered with `limits` by its schemes, as its guide to custom storages says.
    """

    STORAGE_SCHEME = [_PREFIX + scheme for scheme in sorted(set(_CLIENT_SCHEMES.values()))]  # noqa: RUF012

    def __init__(self, uri: str, **options: Any) -> None:
        super().__init__(uri.removeprefix(_PREFIX), **options)
        self._count = self.get_connection().register_script(_COUNT)
        self._last = _LastHit()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        count, left_ms = self._count([self.prefixed_key(key)], [expiry, amount])
        self._last.value = _Hit(key, int(count), time.time() + max(0, int(left_ms)) / 1000)
        return self._last.value.count

    def get(self, key: str) -> int:
        last = self._last.value
        return last.count if last.key == key else super().get(key)

    def get_expiry(self, key: str) -> float:
        last = self._last.value
        return last.ends_at_s if last.key == key else super().get_expiry(key)
