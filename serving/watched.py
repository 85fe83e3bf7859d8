"""Threads for work that blocks, and the health of the engine that works in them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from infra.errors import DomainError, UnavailableError

Answer = TypeVar("Answer")

QUIET_S = 30.0  # an engine that answered a call so recently is not asked for a proof
_LEAST_SHARE = 20  # proofs take one part in so many of an idle engine's time, however slow it is
PROOF_S = 20.0  # Serve waits for 30


class WatchedThreads:
    """Runs what blocks, bounded in time, and knows whether the engine still answers.

    A thread that hangs cannot be ended. Its caller is told after `longest_s`, and from then on `check` fails,
    so that Serve puts another replica into this one's place.

    Args:
        longest_s: how long a piece of work may take, the wait for a thread included.
    """

    def __init__(self, count: int, name: str, longest_s: float) -> None:
        self._threads = ThreadPoolExecutor(count, name)
        self._longest_s = longest_s
        self._overdue_at: dict[object, float] = {}  # of what is in hand
        self._has_failed = False
        self._answered_at = 0.0
        self._pause_s = QUIET_S
        self._proof_s = PROOF_S

    def warm_up(self, proof: Callable[[], object]) -> None:
        """Have the model work once, in one of these threads, and learn how long it takes.

        Raises: what `proof` raises.
        """
        began = time.monotonic()
        self._threads.submit(self._timed, self._longest_s, proof).result()
        self._learn(time.monotonic() - began)

    async def run(self, work: Callable[..., Answer], *given: Any, within_s: float | None = None) -> Answer:
        """What `work` gives. Work that waits for a thread when its caller leaves is never begun.

        Raises:
            TimeoutError: it took longer than `within_s`, which is `longest_s` unless told.
        """
        limit_s = within_s or self._longest_s
        async with asyncio.timeout(limit_s):
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._timed, limit_s, work, *given
            )

    async def check(self, proof: Callable[..., Awaitable[object]]) -> None:
        """Return where the engine is known to answer: by its calls, or by a proof when it has none.

        Args:
            proof: has the model work, through `run` and within the seconds given as `within_s`.

        Raises:
            TimeoutError: something hangs.
            Exception: what the proof raised.
        """
        now = time.monotonic()
        if any(now > overdue_at for overdue_at in list(self._overdue_at.values())):
            raise TimeoutError("the engine hangs")
        if not self._has_failed and (self._overdue_at or now - self._answered_at < self._pause_s):
            return
        async with asyncio.timeout(PROOF_S):
            await proof(within_s=self._proof_s)
        self._learn(time.monotonic() - now)

    def _learn(self, proof_took_s: float) -> None:
        self._pause_s = max(QUIET_S, _LEAST_SHARE * proof_took_s)
        self._proof_s = max(PROOF_S, 10 * proof_took_s)

    def _timed(self, limit_s: float, work: Callable[..., Answer], *given: Any) -> Answer:
        token = object()
        self._overdue_at[token] = time.monotonic() + limit_s
        try:
            answer = work(*given)
        except Exception as error:
            # Whoever refuses for a reason of the caller's does answer.
            self._has_failed = isinstance(error, UnavailableError) or not isinstance(error, DomainError)
            raise
        else:
            self._has_failed = False
            return answer
        finally:
            self._answered_at = time.monotonic()
            del self._overdue_at[token]
