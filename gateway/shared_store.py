"""A store that several workers share, asked without ever making a caller wait for one that is away.

Checks block, so they run in a few threads; each of their round trips has a socket timeout, each check a
deadline, and only so many may wait. Whatever goes wrong with one, the answer is None and the caller
decides by itself. From the first failure on nobody asks: a probe does, every second, until it succeeds.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeVar

from infra.errors import UnavailableError
from infra.logs import event

T = TypeVar("T")
FallbackReason = Literal["away", "busy"]

_CHECK_TIMEOUT_S = 0.15  # a check is two round trips, and may stand in line for a thread
_THREADS = 2  # more only contend for the interpreter, and count fewer requests a second
_MAX_PENDING_CHECKS = 32
_PROBE_INTERVAL_S = 1.0


class SharedStore:
    """Whether the store is there, and the threads that ask it. Used from one event loop.

    Args:
        probe: what has to work for the store to count as back; it blocks.
        on_fallback: told why, each time `ask` gives no answer: `away`, or `busy` with too many checks.
    """

    def __init__(self, probe: Callable[[], object], on_fallback: Callable[[FallbackReason], None]) -> None:
        self._probe = probe
        self._on_fallback = on_fallback
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="shared-store")
        self._places = threading.BoundedSemaphore(_MAX_PENDING_CHECKS)
        self._lost = threading.Event()
        self._returning: asyncio.Task[None] | None = None

    async def ask(self, check: Callable[[], T]) -> T | None:
        """The check's answer; None when the store is away, or too many checks wait for it already."""
        if self._returning is not None:
            self._on_fallback("away")
            return None
        if not self._places.acquire(blocking=False):
            self._on_fallback("busy")
            return None
        try:
            return await self._run(partial(self._check_unless_lost, check))
        except Exception:  # A defect of the store, of whatever kind, must not become the caller's.
            self._lose()
            self._on_fallback("away")
            return None

    async def _run(self, check: Callable[[], T]) -> T:
        """Run a check that has a place; the place is free once its thread is, not when the caller leaves."""
        future = self._threads.submit(check)
        future.add_done_callback(self._give_place_back)
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            return await asyncio.wrap_future(future)

    def _check_unless_lost(self, check: Callable[[], T]) -> T:
        """Runs in a thread: those in line behind a check that failed do not each wait for a timeout too."""
        if self._lost.is_set():
            raise UnavailableError("The shared store was lost while this check stood in line.")
        try:
            return check()
        except Exception:
            self._lost.set()
            raise

    def _give_place_back(self, _: Future[Any]) -> None:
        self._places.release()

    def _lose(self) -> None:
        self._lost.set()
        if self._returning is None:
            event("gateway", logging.WARNING, "limits_store_lost", {}, error=True)
            self._returning = asyncio.create_task(self._return())

    async def _return(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_INTERVAL_S)
            if await self._is_back():
                event("gateway", logging.WARNING, "limits_store_back", {})
                self._lost.clear()
                self._returning = None
                return

    async def _is_back(self) -> bool:
        if not self._places.acquire(blocking=False):
            return False
        try:
            await self._run(self._probe)
        except Exception:  # Still away: that it is was logged when it went.
            return False
        return True

    def close(self) -> None:
        """Stop asking; a check in hand ends by its socket timeout."""
        if self._returning is not None:
            self._returning.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
