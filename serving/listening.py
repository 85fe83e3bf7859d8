"""A transcription that is given window by window, with the file's length known before the first of them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import msgspec

from serving.calls import begun, deadline
from serving.contract import RecognitionRequest, Window
from serving.transcription import Heard, Recognise, hear

Within = Callable[[float], AbstractAsyncContextManager[None]]


class Listening(msgspec.Struct, frozen=True):
    """A file that is being transcribed.

    Attributes:
        audio_ms: the decoded length of the whole file, of each channel that is recognised by itself: the unit
            that is charged.
        windows: what is heard, as soon as it is; whoever closes it ends the work.
    """

    audio_ms: int
    windows: AsyncGenerator[Heard, None]
    engine: str
    model: str


async def listen(
    stream: Any, asked: RecognitionRequest, recognise: Recognise, timeout_s: float, within: Within = deadline
) -> tuple[int, AsyncGenerator[Heard, None]]:
    """The length, and what is heard; returns when the first window is.

    Args:
        stream: the answer of `MediaReplica.measured_windows`, which is cancelled at the end.
        timeout_s: how long all of it may take, the last window included.
        within: bounds a wait, in seconds.

    Raises:
        DomainError: measuring, or the first window, failed; nothing of it goes on.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + timeout_s
    length_ms: asyncio.Future[int] = loop.create_future()
    heard = await begun(_heard(stream, length_ms, asked, recognise), lambda: within(ends_at - loop.time()))
    # The length comes ahead of the second window, which is taken while the first one is recognised.
    return length_ms.result(), heard


async def _heard(
    stream: Any, length_ms: asyncio.Future[int], asked: RecognitionRequest, recognise: Recognise
) -> AsyncGenerator[Heard, None]:
    try:
        async with aclosing(hear(_without_length(stream, length_ms), asked, recognise)) as heard:
            async for window in heard:
                yield window
    finally:
        stream.cancel()


async def _without_length(
    stream: AsyncIterator[Window | int], length_ms: asyncio.Future[int]
) -> AsyncGenerator[Window, None]:
    async for item in stream:
        if isinstance(item, int):
            length_ms.set_result(item)
        else:
            yield item
