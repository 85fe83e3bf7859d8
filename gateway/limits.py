"""Request rate per key and per tenant, and calls in hand per tenant.

slowapi's `Limiter` owns the storage, the strategy and the fallback; its own request check expects
Starlette, so its strategy object is asked directly. That object is a private attribute, which is why
the version of slowapi is pinned.

Counts are kept in each worker's memory, each of N workers holding 1/N of a limit, or in a Redis or Valkey
server that the workers share, which makes one exact limit of request rates. While that server is away or
answers too slowly, memory counts again, from nothing: a tenant may get up to twice its rate in the minute
of the change. Calls in hand are counted in memory alone.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import msgspec
from limits import RateLimitItemPerMinute
from limits.strategies import RateLimiter
from slowapi import Limiter

from gateway.redis_storage import STORAGE_OPTIONS, storage_uri
from gateway.shared_store import FallbackReason, SharedStore
from infra.errors import RetryLaterError, StartupError
from infra.settings import Secret


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


class Rate(msgspec.Struct, frozen=True):
    """One limit of requests a minute, and the strategy that counts them."""

    strategy: RateLimiter
    per_minute: RateLimitItemPerMinute

    def count(self, tenant_id: str, key_id: str) -> RateWindow:
        """Count a request against its tenant and its key; returns the window nearest its end.

        What the tenant's limit refuses does not count against the key: workers that count at the same
        moment would else each be refused by another of the two, and together stay below both.
        """
        of_tenant = self._hit("tenant", tenant_id)
        if of_tenant.remaining is None:
            return of_tenant
        of_key = self._hit("key", key_id)
        return of_key if of_key.remaining is None or of_key.remaining < of_tenant.remaining else of_tenant

    def _hit(self, kind: str, name: str) -> RateWindow:
        allowed = self.strategy.hit(self.per_minute, kind, name)
        stats = self.strategy.get_window_stats(self.per_minute, kind, name)
        remaining = stats.remaining if allowed else None
        return RateWindow(self.per_minute.amount, remaining, max(0.0, stats.reset_time - time.time()))


class Limits:
    """One worker's part in every limit.

    Calls in hand are always counted in this worker's memory, 1/N of the limit each: a place that a killed
    worker held in a shared store would have to be found and freed.

    Args:
        requests_per_minute: for each key and for each tenant, over all workers.
        max_concurrent_calls: calls of one tenant in hand, over all workers.
        workers: how many workers share the limits.
        shared_storage: a Redis or Valkey server that the workers share; None counts in memory.
        on_fallback: told why, each time memory decides in the shared store's place.

    Raises:
        StartupError: `shared_storage` is unusable.
    """

    def __init__(
        self,
        requests_per_minute: int,
        max_concurrent_calls: int,
        workers: int,
        shared_storage: Secret | None = None,
        on_fallback: Callable[[FallbackReason], None] = lambda _: None,
    ) -> None:
        share = RateLimitItemPerMinute(max(1, requests_per_minute // workers))
        self._store: SharedStore | None = None
        if shared_storage is None:
            limiter = Limiter(key_func=str, storage_uri="memory://", strategy="fixed-window")
            self._own_rate = Rate(limiter.limiter, share)
        else:
            limiter = _shared_limiter(shared_storage)
            assert limiter._fallback_limiter is not None
            self._own_rate = Rate(limiter._fallback_limiter, share)
            whole = RateLimitItemPerMinute(requests_per_minute)
            self._shared_rate = Rate(limiter.limiter, whole)
            # Counting is the probe: a store that answers a ping may still refuse to write.
            self._store = SharedStore(partial(self._shared_rate.count, "probe", "probe"), on_fallback)
        self._max_concurrent = max(1, max_concurrent_calls // workers)
        self._in_hand: dict[str, int] = {}

    async def count_request(self, tenant_id: str, key_id: str) -> RateWindow:
        """Count a request against its tenant and its key; returns the window nearest its end."""
        if self._store is not None:
            window = await self._store.ask(partial(self._shared_rate.count, tenant_id, key_id))
            if window is not None:
                return window
        return self._own_rate.count(tenant_id, key_id)

    def close(self) -> None:
        """Let the shared store go."""
        if self._store is not None:
            self._store.close()

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


def _shared_limiter(address: Secret) -> Limiter:
    uri = storage_uri(address)
    try:
        return Limiter(
            key_func=str,
            storage_uri=uri,
            storage_options=STORAGE_OPTIONS,
            strategy="fixed-window",
            in_memory_fallback_enabled=True,
        )
    except Exception:  # Libraries quote the address, and with it the password, in their messages.
        raise StartupError(
            "LIMITS_STORAGE_URI is not usable: write it as redis://[:password@]host:port[/database]."
        ) from None
