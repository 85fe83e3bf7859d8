"""A file's windows, recognised a few at a time and given in order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable

import msgspec
from msgspec import structs

from serving.contract import Recognised, RecognitionRequest, Segment, Window, Word

_WINDOWS_IN_FLIGHT = 2

Recognise = Callable[[Window, RecognitionRequest], Awaitable[Recognised]]


class Heard(msgspec.Struct, frozen=True):
    """What was heard in one window.

    Attributes:
        segments: with times from the file's beginning.
        end_ms: where the window ends.
        language: of the file, as far as it is known by now; None until it is.
        channel: the window's, where the file's channels are recognised each by itself.
    """

    segments: tuple[Segment, ...]
    end_ms: int
    language: str | None
    channel: int | None = None


async def hear(
    windows: AsyncIterator[Window], asked: RecognitionRequest, recognise: Recognise
) -> AsyncGenerator[Heard, None]:
    """Recognise windows in order; whoever closes it abandons those that are in hand.

    At most 2 are recognised at a time, and one until the language is known: that which is found where speech
    begins holds for the whole file.

    Args:
        recognise: gives times from the window's beginning.
    """
    in_flight: deque[tuple[Window, asyncio.Task[Recognised]]] = deque()

    async def take() -> Heard:
        nonlocal asked
        window, task = in_flight[0]
        recognised = await task
        in_flight.popleft()
        if asked.language is None:
            asked = structs.replace(asked, language=recognised.language)
        segments = tuple(_placed(segment, window) for segment in recognised.segments)
        return Heard(segments, window.start_ms + window.duration_ms, asked.language, window.channel)

    try:
        async for window in windows:
            if len(in_flight) == (1 if asked.language is None else _WINDOWS_IN_FLIGHT):
                yield await take()
            in_flight.append((window, asyncio.ensure_future(recognise(window, asked))))
        while in_flight:
            yield await take()
    finally:
        await _abandon([task for _, task in in_flight])


async def _abandon(tasks: list[asyncio.Task[Recognised]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def in_order(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """By time; the windows of two channels overlap, and so do people."""
    return tuple(sorted(segments, key=lambda segment: (segment.start_ms, segment.channel or 0)))


def _placed(segment: Segment, window: Window) -> Segment:
    """A segment of a window as one of the file."""
    offset_ms = window.start_ms
    words = tuple(
        Word(word.text, word.start_ms + offset_ms, word.end_ms + offset_ms) for word in segment.words
    )
    return Segment(
        segment.text, segment.start_ms + offset_ms, segment.end_ms + offset_ms, words, window.channel
    )
