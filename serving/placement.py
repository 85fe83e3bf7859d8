"""Where a call runs: on the engines here, or at the remote endpoint.

A tenant's placement decides. `local_only`: here. `remote`: there. `prefer_local`: here, and there where the
call is refused here, because the queue is full or the engine is away.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from infra.errors import UnavailableError
from serving.calls import domain_errors
from serving.contract import Recognised, RecognitionRequest, Window
from serving.errors import EngineUnavailableError, OverloadedError
from serving.transcription import Recognise

T = TypeVar("T")
Placement = Literal["local_only", "prefer_local", "remote"]
Place = Literal["local", "remote"]

_LOCAL_RETRY_S = 0.1  # others' windows end all the time; a remote endpoint says how long it wants
_REMOTE_PREFIX = "remote:"


def remote_engine(host: str) -> str:
    """The engine's name under which calls are charged that `host` answered."""
    return _REMOTE_PREFIX + host


def ran_on(engine: str) -> Place:
    """Where a call ran, by its engine's name."""
    return "remote" if engine.startswith(_REMOTE_PREFIX) else "local"


async def placed(
    placement: Placement,
    local: Callable[[], Awaitable[T]],
    remote: Callable[[], Awaitable[T]] | None,
    is_up: Callable[[], Awaitable[bool]],
) -> T:
    """Make a call where its tenant's placement lets it run. What is no placement is `local_only`.

    Args:
        remote: None where there is no remote endpoint; `prefer_local` then is `local_only`.
        is_up: whether there is an engine here: without one a call would wait for it until its deadline. It is
            asked where there is somewhere else to go.

    Raises:
        EngineUnavailableError: `remote`, and there is none.
    """
    if placement == "remote":
        if remote is None:
            raise _no_remote()
        return await remote()
    if placement != "prefer_local" or remote is None:
        return await local()
    try:
        if not await is_up():
            raise EngineUnavailableError
        with domain_errors():
            return await local()
    except (OverloadedError, EngineUnavailableError) as refused:
        try:
            return await remote()
        except UnavailableError:
            raise refused from None


class PlacedRecogniser:
    """Recognises one file's windows, all of them in one place: that of the first one.

    Args:
        is_up: as for `placed`.
    """

    def __init__(
        self,
        placement: Placement,
        local: Recognise,
        remote: Recognise | None,
        is_up: Callable[[], Awaitable[bool]],
    ) -> None:
        self._placement: Placement = placement
        self._local = local
        self._remote = remote
        self._is_up = is_up
        self._is_begun = False
        self._is_settled = asyncio.Lock()
        self.place: Place | None = _certain_place(placement, has_remote=remote is not None)

    async def __call__(self, window: Window, asked: RecognitionRequest) -> Recognised:
        """See `serving.transcription.Recognise`."""
        is_first, self._is_begun = not self._is_begun, True
        if self.place is None:
            async with self._is_settled:
                if self.place is None:
                    return await placed(
                        self._placement,
                        lambda: self._at("local", window, asked),
                        lambda: self._at("remote", window, asked),
                        self._is_up,
                    )
        # A file that was begun is not refused half-way: it waits for room until its deadline.
        while True:
            try:
                return await self._at(self.place, window, asked)
            except OverloadedError as error:
                if is_first:
                    raise
                await asyncio.sleep(_LOCAL_RETRY_S if self.place == "local" else error.retry_after_s)

    async def _at(self, place: Place, window: Window, asked: RecognitionRequest) -> Recognised:
        recognise = self._local if place == "local" else self._remote
        if recognise is None:
            raise _no_remote()
        recognised = await recognise(window, asked)
        self.place = place
        return recognised


def _certain_place(placement: Placement, *, has_remote: bool) -> Place | None:
    """Where calls of this placement run; None where that depends on how busy it is here."""
    if placement == "remote":
        return "remote"
    return None if placement == "prefer_local" and has_remote else "local"


def _no_remote() -> EngineUnavailableError:
    return EngineUnavailableError(
        "This account's calls run at a remote endpoint; none is set up. The operator sets REMOTE_BASE_URL."
    )
