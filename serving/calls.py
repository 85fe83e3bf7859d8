"""Calls into Ray, bounded in time, whose failures are errors of this room.

A call whose replica dies is made once more, elsewhere or with the replica that comes in its place, and is
answered once. Only once more: a call under which two replicas died may be what ended them.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from infra.errors import DomainError
from serving.errors import DeadlineExceededError, EngineUnavailableError, OverloadedError

T = TypeVar("T")

_logger = logging.getLogger("aiaas.serving")


class Calls:
    """The calls that one request makes, and what became of them."""

    def __init__(self) -> None:
        self._lost = 0  # died, and no other has answered yet

    @asynccontextmanager
    async def within(self, timeout_s: float) -> AsyncIterator[None]:
        """Bound the wait. Raises, as `deadline` does.

        A call that waited in vain for another replica than the one that died was not too long: it failed.
        """
        try:
            async with deadline(timeout_s):
                yield
        except DeadlineExceededError:
            if self._lost:
                raise EngineUnavailableError from None
            raise

    async def answer(self, method: Any, *given: Any) -> Any:
        """What a deployment's method answers; whoever stops waiting for it stops the work."""
        try:
            return await _awaited(method.remote(*given))
        except Exception as error:
            self.lose(error)
        answer = await _awaited(method.remote(*given))
        self.mend()
        return answer

    def stream(self, method: Any, *given: Any, resumes: bool) -> "Stream":
        """What a deployment's method gives piece by piece.

        Args:
            resumes: the method gives the same pieces each time: those that were had are left out the second
                time. Otherwise it is called again only while nothing was had of it.
        """
        return Stream(self, method, given, resumes)

    def lose(self, error: Exception) -> None:
        """Return where the call may be made again; else raise the error."""
        if not isinstance(translated(error), EngineUnavailableError):
            raise error
        self._lost += 1

    def mend(self) -> None:
        """Another replica has answered."""
        self._lost -= 1


class Stream:
    """Pieces in order; see `Calls.stream`. `cancel` stops the work."""

    def __init__(self, calls: Calls, method: Any, given: Sequence[Any], resumes: bool) -> None:
        self._calls = calls
        self._method = method
        self._given = given
        self._resumes = resumes
        self._had = 0
        self._is_second = False
        self._pieces = method.remote(*given)

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Any:
        try:
            piece = await anext(self._pieces)
        except Exception as error:
            if isinstance(error, StopAsyncIteration) or self._is_second or (self._had and not self._resumes):
                raise
            self._calls.lose(error)
            piece = await self._again()
            self._calls.mend()
        self._had += 1
        return piece

    def cancel(self) -> None:
        """Stop the work, wherever it is done."""
        self._pieces.cancel()

    async def _again(self) -> Any:
        self._is_second = True
        self._pieces = self._method.remote(*self._given)
        for _ in range(self._had):
            await anext(self._pieces)
        return await anext(self._pieces)


async def begun(
    pieces: AsyncGenerator[T, None], within: Callable[[], AbstractAsyncContextManager[None]]
) -> AsyncGenerator[T, None]:
    """The same pieces when the first of them is there: what refuses the call has done so.

    Args:
        within: bounds the wait for each piece.

    Raises: what `within` raises when a piece is longer under way.
    """

    async def step() -> T | None:
        async with within():
            return await anext(pieces, None)

    first = await step()

    async def all_of() -> AsyncGenerator[T, None]:
        piece = first
        try:
            while piece is not None:
                yield piece
                piece = await step()
        finally:
            await pieces.aclose()

    return all_of()


async def _awaited(response: Any) -> Any:
    try:
        return await response
    except BaseException:
        response.cancel()
        raise


@asynccontextmanager
async def deadline(timeout_s: float) -> AsyncIterator[None]:
    """Bound the wait, and turn what comes out of Ray into errors of this room."""
    try:
        async with asyncio.timeout(timeout_s):
            with domain_errors():
                yield
    except TimeoutError:
        raise DeadlineExceededError from None


@contextmanager
def domain_errors() -> Iterator[None]:
    """Turn what comes out of Ray into errors of this room."""
    try:
        yield
    except Exception as error:
        raise translated(error) from None


def translated(error: Exception) -> DomainError:
    """What an exception means to the caller. Only its type is logged: its message may hold what was sent."""
    if isinstance(error, DomainError):
        return error
    from ray.exceptions import RayError, RayTaskError
    from ray.serve.exceptions import BackPressureError, RayServeException

    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, DomainError):
        return cause
    if isinstance(cause, BackPressureError):
        return OverloadedError()
    if isinstance(cause, TimeoutError):
        return DeadlineExceededError()
    _logger.error("a call to an engine failed: %s", type(cause).__name__)
    if isinstance(cause, RayError | RayServeException | ConnectionError) and not isinstance(
        cause, RayTaskError
    ):
        return EngineUnavailableError()
    return DomainError(
        "The engine failed on this request. Try again; if it stays so, report the request's id."
    )
