"""Request rate per key and per tenant, and calls in hand per tenant.

slowapi's `Limiter` owns the storage, the strategy and the fallback; its own request check expects
Starlette, so its strategy object is asked directly. That object is a private attribute, which is why
the version of slowapi is pinned.

Counts are kept in each worker's memory: each of N workers holds 1/N of a limit.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from limits import RateLimitItemPerMinute
from limits.strategies import RateLimiter
from slowapi import Limiter

from infra.errors import RetryLaterError


class RateLimitError(RetryLaterError):
    """More requests a minute than the plan allows."""

    code = "rate_limit_exceeded"


class ConcurrencyLimitError(RetryLaterError):
    """More calls at the same time than the plan allows."""

    code = "concurrency_limit_exceeded"


class RateWindow(msgspec.Struct, frozen=True):
    """What is left of a caller's minute; `remaining` is None once the minute is overdrawn."""

    limit: int
    remaining: int | None
    reset_s: float

    def check(self) -> None:
        """Refuse when the minute is used up.

        Raises:
            RateLimitError: says when the next minute begins.
        """
        if self.remaining is None:
            raise RateLimitError(
                f"More than {self.limit} requests in a minute. Try again in {math.ceil(self.reset_s)} s.",
                retry_after_s=self.reset_s,
            )

    def headers(self) -> dict[str, str]:
        """The headers as OpenAI names them; the reset as `1.25s`."""
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining or 0),
            "x-ratelimit-reset-requests": f"{self.reset_s:.3f}s",
        }


class Limits:
    """One worker's share of every limit.

    Args:
        requests_per_minute: for each key and for each tenant, over all workers.
        max_concurrent_calls: calls of one tenant in hand, over all workers.
        workers: how many workers share the limits.
    """

    def __init__(self, requests_per_minute: int, max_concurrent_calls: int, workers: int) -> None:
        limiter = Limiter(key_func=str, storage_uri="memory://", strategy="fixed-window")
        self._strategy: RateLimiter = limiter.limiter
        self._rate = RateLimitItemPerMinute(max(1, requests_per_minute // workers))
        self._max_concurrent = max(1, max_concurrent_calls // workers)
        self._in_hand: dict[str, int] = {}

    def count_request(self, tenant_id: str, key_id: str) -> RateWindow:
        """Count a request against its tenant and its key; returns the window nearest its end."""
        of_tenant, of_key = self._hit("tenant", tenant_id), self._hit("key", key_id)
        return min(of_tenant, of_key, key=lambda window: -1 if window.remaining is None else window.remaining)

    def _hit(self, kind: str, name: str) -> RateWindow:
        allowed = self._strategy.hit(self._rate, kind, name)
        stats = self._strategy.get_window_stats(self._rate, kind, name)
        remaining = stats.remaining if allowed else None
        return RateWindow(self._rate.amount, remaining, max(0.0, stats.reset_time - time.time()))

    @contextmanager
    def slot(self, tenant_id: str) -> Iterator[None]:
        """Hold one of the tenant's places for calls in hand.

        Raises:
            ConcurrencyLimitError: all of them are taken.
        """
        in_hand = self._in_hand.get(tenant_id, 0)
        if in_hand >= self._max_concurrent:
            raise ConcurrencyLimitError(
                f"{in_hand} calls are in hand already, the most this worker takes at once. Try again shortly."
            )
        self._in_hand[tenant_id] = in_hand + 1
        try:
            yield
        finally:
            self._release(tenant_id)

    def _release(self, tenant_id: str) -> None:
        if self._in_hand[tenant_id] == 1:
            del self._in_hand[tenant_id]
        else:
            self._in_hand[tenant_id] -= 1
