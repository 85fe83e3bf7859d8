"""Failed attempts to come in, counted by the address they come from, and refused when they are too many."""

import math
import time
from ipaddress import IPv6Address, ip_address, ip_network

from gateway.limits import RateLimitError
from gateway.memory_storage import LoopMemoryStorage

_MINUTE_S = 60
_IPV6_PREFIX = 64  # what one subscriber is given; within it addresses are free to choose


class FailedAttempts:
    """One worker's count, in its memory: each of N workers lets 1/N of the limit pass.

    Args:
        per_minute: failed attempts from one address, over all workers.
        workers: how many workers count.
        max_addresses: the addresses counted one by one; those beyond share one count.
    """

    def __init__(self, per_minute: int, workers: int, max_addresses: int = 10_000) -> None:
        self._at_most = per_minute // workers or 1
        self._max_addresses = max_addresses
        self._storage = LoopMemoryStorage()

    def check(self, address: str) -> None:
        """Refuse an address that failed too often.

        Raises:
            RateLimitError: says when its minute is over.
        """
        window = self._window(address)
        if self._storage.get(window) < self._at_most:
            return
        left_s = max(0.0, self._storage.get_expiry(window) - time.time())
        raise RateLimitError(
            f"Too many attempts failed from your address. Try again in {math.ceil(left_s)} s.",
            retry_after_s=left_s,
        )

    def note(self, address: str) -> None:
        """Count an attempt that failed."""
        self._storage.hit(self._window(address), _MINUTE_S)

    def _window(self, address: str) -> str:
        source = _source(address)
        is_counted = self._storage.get(source) > 0
        return source if is_counted or self._storage.size < self._max_addresses else "everyone else"


def _source(address: str) -> str:
    """What one party can send from: an IPv4 address, an IPv6 network; other texts are what they are."""
    try:
        known = ip_address(address)
    except ValueError:
        return address
    if not isinstance(known, IPv6Address):
        return str(known)
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ip_network((int(known), _IPV6_PREFIX), strict=False))
