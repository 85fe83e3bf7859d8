"""A storage for `limits` that makes one round trip of a count and of when its window ends."""

from typing import Any

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
_HIT = b"""
local count = redis.call("incr", KEYS[1])
if count == 1 then redis.call("expire", KEYS[1], ARGV[1]) end
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


class OneTripStorage(RedisStorage):
    """Counts in Redis or Valkey. Registered with `limits` by its schemes, as its guide to storages says."""

    STORAGE_SCHEME = [_PREFIX + scheme for scheme in sorted(set(_CLIENT_SCHEMES.values()))]  # noqa: RUF012

    def __init__(self, uri: str, **options: Any) -> None:
        super().__init__(uri.removeprefix(_PREFIX), **options)
        self._hit = self.get_connection().register_script(_HIT)

    def hit(self, window: str, seconds: int) -> tuple[int, float]:
        """Count a request; how many there are in the window now, and the seconds left of it."""
        count, left_ms = self._hit([self.prefixed_key(window)], [seconds])
        return int(count), max(0, int(left_ms)) / 1000
