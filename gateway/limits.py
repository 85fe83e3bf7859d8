"""Request rate per key and per tenant, and calls in hand per tenant, by the tenant's plan.

slowapi's `Limiter` owns the storage, the strategy and the fallback; its own request check expects
Starlette, so its strategies' storages are asked directly. The fallback is a private attribute, which is
why the version of slowapi is pinned. The strategy is the fixed window: a count that begins with the first
request and ends a minute later. Its decision is one comparison, made here on what one `hit` of the storage
answers: the strategy's own methods ask the storage three times a limit.

Counts are kept in each worker's memory, each of N workers holding 1/N of a limit, or in a Redis or Valkey
server that the workers share, which makes one exact limit of request rates. While that server is away or
answers too slowly, memory counts again, from nothing: a tenant may get up to twice its rate in the minute
of the change. Calls in hand are counted in memory alone. A plan's new limit begins a new minute.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import msgspec
from limits.storage import Storage
from slowapi import Limiter

from gateway.memory_storage import LOOP_MEMORY_URI, LoopMemoryStorage
from gateway.redis_storage import STORAGE_OPTIONS, OneTripStorage, storage_uri
from gateway.shared_store import FallbackReason, SharedStore
from infra.errors import RetryLaterError, StartupError
from infra.settings import Secret
from tenants.records import KeyRecord

# Counts a request in the window of this name and this many seconds: how many there are now, and how many
# seconds are left of it.
Hit = Callable[[str, int], tuple[int, float]]

_MINUTE_S = 60
_PROBE = KeyRecord("probe", "probe", frozenset(), (), None, None)


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

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as OpenAI names them, for an ASGI answer; the reset as `1.250s`."""
        return [
            (b"x-ratelimit-limit-requests", b"%d" % self.limit),
            (b"x-ratelimit-remaining-requests", b"%d" % (self.remaining or 0)),
            (b"x-ratelimit-reset-requests", b"%.3fs" % self.reset_s),
        ]


class Rates(msgspec.Struct, frozen=True):
    """The requests a minute that one storage counts.

    Attributes:
        hit: the storage's.
        per_minute: the limit of a tenant and of a key whose plan names none.
        workers: how many count in a storage of their own, and share each limit so.
    """

    hit: Hit
    per_minute: int
    workers: int

    def count(self, caller: KeyRecord) -> RateWindow:
        """Count a request against its tenant and its key; returns the window nearest its end.

        What the tenant's limit refuses does not count against the key: workers that count at the same
        moment would else each be refused by another of the two, and together stay below both.
        """
        plan = caller.limits
        of_tenant = self._count("tenant", caller.tenant_id, plan.requests_per_minute)
        if of_tenant.remaining is None:
            return of_tenant
        of_key = self._count("key", caller.key_id, plan.requests_per_minute_per_key)
        return of_key if of_key.remaining is None or of_key.remaining < of_tenant.remaining else of_tenant

    def _count(self, kind: str, name: str, per_minute: int | None) -> RateWindow:
        limit = (per_minute or self.per_minute) // self.workers or 1
        count, left_s = self.hit(f"{kind}/{name}/{limit}", _MINUTE_S)
        return RateWindow(limit, limit - count if count <= limit else None, left_s)


class _Slot(AbstractContextManager[None]):
    """A tenant's place among calls in hand, taken; freed when the block ends."""

    __slots__ = ("_in_hand", "_tenant_id")

    def __init__(self, in_hand: dict[str, int], tenant_id: str) -> None:
        self._in_hand = in_hand
        self._tenant_id = tenant_id

    def __exit__(self, *_: object) -> None:
        if self._in_hand[self._tenant_id] == 1:
            del self._in_hand[self._tenant_id]
        else:
            self._in_hand[self._tenant_id] -= 1


class Limits:
    """One worker's part in every limit.

    Calls in hand are always counted in this worker's memory, 1/N of the limit each: a place that a killed
    worker held in a shared store would have to be found and freed. So a tenant has one place in every
    worker at the least.

    Args:
        requests_per_minute: for each key and for each tenant, over all workers, where its plan names none.
        max_concurrent_calls: calls of one tenant in hand, over all workers, where its plan names none.
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
        self._store: SharedStore | None = None
        if shared_storage is None:
            limiter = Limiter(key_func=str, storage_uri=LOOP_MEMORY_URI, strategy="fixed-window")
            self._own_rates = Rates(_hit_of(limiter.limiter.storage), requests_per_minute, workers)
        else:
            limiter = _shared_limiter(shared_storage)
            assert limiter._fallback_limiter is not None
            fallback = limiter._fallback_limiter.storage
            self._own_rates = Rates(partial(_hit_in_two, fallback), requests_per_minute, workers)
            self._shared_rates = Rates(_hit_of(limiter.limiter.storage), requests_per_minute, workers=1)
            # Counting is the probe: a store that answers a ping may still refuse to write.
            self._store = SharedStore(partial(self._shared_rates.count, _PROBE), on_fallback)
        self._max_concurrent_calls = max_concurrent_calls
        self._workers = workers
        self._in_hand: dict[str, int] = {}

    async def count_request(self, caller: KeyRecord) -> RateWindow:
        """Count a request against its tenant and its key; returns the window nearest its end."""
        if self._store is not None:
            window = await self._store.ask(partial(self._shared_rates.count, caller))
            if window is not None:
                return window
        return self._own_rates.count(caller)

    def close(self) -> None:
        """Let the shared store go."""
        if self._store is not None:
            self._store.close()

    def slot(self, caller: KeyRecord) -> AbstractContextManager[None]:
        """Hold one of the tenant's places for calls in hand.

        Raises:
            ConcurrencyLimitError: all of them are taken.
        """
        tenant_id = caller.tenant_id
        in_hand = self._in_hand.get(tenant_id, 0)
        at_most = caller.limits.max_concurrent_calls or self._max_concurrent_calls
        if in_hand >= (at_most // self._workers or 1):
            raise ConcurrencyLimitError(
                f"{in_hand} calls are in hand already, the most this worker takes at once. Try again shortly."
            )
        self._in_hand[tenant_id] = in_hand + 1
        return _Slot(self._in_hand, tenant_id)


def _hit_of(storage: object) -> Hit:
    """The one call that this house's storages count with."""
    assert isinstance(storage, LoopMemoryStorage | OneTripStorage)
    return storage.hit


def _hit_in_two(storage: Storage, window: str, seconds: int) -> tuple[int, float]:
    """A hit of a storage of the library, which has a call for the count and one for the end."""
    count = storage.incr(window, seconds)
    return count, max(0.0, storage.get_expiry(window) - time.time())


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
