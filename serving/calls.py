"""Calls into Ray, bounded in time, whose failures are errors of this room."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from infra.errors import DomainError
from serving.errors import DeadlineExceededError, EngineUnavailableError, OverloadedError

_logger = logging.getLogger("aiaas.serving")


async def answer(response: Any) -> Any:
    """Await a response; whoever stops waiting for it stops the work."""
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
