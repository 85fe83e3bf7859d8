"""A file's length is known with its first window; who leaves ends the work."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from serving.contract import Recognised, RecognitionRequest, Segment, Window
from serving.errors import DeadlineExceededError, OverloadedError
from serving.listening import listen
from serving.transcription import Heard

ASKED = RecognitionRequest(language="en")
WINDOWS = [Window(b"", 0, 30_000), Window(b"", 30_000, 30_000), Window(b"", 60_000, 7_000)]


class Stream:
    """What the media deployment gives of a file of three windows, and whether it was told to stop."""

    def __init__(self) -> None:
        self.is_cancelled = False
        self._items = self._given()

    def __aiter__(self) -> AsyncGenerator[Window | int, None]:
        return self._items

    def cancel(self) -> None:
        self.is_cancelled = True

    async def _given(self) -> AsyncGenerator[Window | int, None]:
        yield WINDOWS[0]
        yield 67_000
        for window in WINDOWS[1:]:
            yield window


class Recogniser:
    """Hears where a window begins; the one that begins at `held_ms` takes for ever."""

    def __init__(self, held_ms: int | None = None) -> None:
        self.in_hand = 0
        self._held_ms = held_ms

    async def __call__(self, window: Window, _: RecognitionRequest) -> Recognised:
        self.in_hand += 1
        try:
            await asyncio.sleep(0)
            if window.start_ms == self._held_ms:
                await asyncio.Event().wait()
        finally:
            self.in_hand -= 1
        return Recognised((Segment(f"at {window.start_ms}", 0, 500),), "en")


async def refused(window: Window, _: RecognitionRequest) -> Recognised:
    raise OverloadedError


def texts(heard: list[Heard]) -> list[str]:
    return [segment.text for window in heard for segment in window.segments]


async def test_a_file_is_measured_by_its_first_window_and_heard_in_order() -> None:
    stream = Stream()
    audio_ms, windows = await listen(stream, ASKED, Recogniser(), 5.0)
    assert audio_ms == 67_000
    assert texts([window async for window in windows]) == ["at 0", "at 30000", "at 60000"]
    assert stream.is_cancelled


async def test_who_leaves_between_windows_ends_those_in_hand() -> None:
    stream, recogniser = Stream(), Recogniser(held_ms=30_000)
    _, windows = await listen(stream, ASKED, recogniser, 5.0)
    assert texts([await anext(windows)]) == ["at 0"]
    assert recogniser.in_hand == 1
    await windows.aclose()
    assert (recogniser.in_hand, stream.is_cancelled) == (0, True)


async def test_who_leaves_before_the_first_window_ends_it() -> None:
    stream, recogniser = Stream(), Recogniser(held_ms=0)
    listening = asyncio.create_task(listen(stream, ASKED, recogniser, 5.0))
    async with asyncio.timeout(2):
        while recogniser.in_hand == 0:
            await asyncio.sleep(0.001)
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert (recogniser.in_hand, stream.is_cancelled) == (0, True)


async def test_a_first_window_that_is_refused_ends_the_decoding() -> None:
    stream = Stream()
    with pytest.raises(OverloadedError):
        await listen(stream, ASKED, refused, 5.0)
    assert stream.is_cancelled


async def test_the_deadline_is_that_of_the_whole() -> None:
    stream, recogniser = Stream(), Recogniser(held_ms=60_000)
    _, windows = await listen(stream, ASKED, recogniser, 0.3)
    async with asyncio.timeout(2):
        with pytest.raises(DeadlineExceededError):
            assert [window async for window in windows]
    assert (recogniser.in_hand, stream.is_cancelled) == (0, True)
