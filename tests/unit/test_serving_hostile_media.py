"""A file made to harm costs one decoder process at most, a bounded time, and gets one clear answer."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import psutil
import pytest
import pytest_asyncio

from serving.contract import Window
from serving.errors import (
    AudioTooLongError,
    EmptyAudioError,
    EngineUnavailableError,
    MediaError,
    NoAudioStreamError,
    UndecodableAudioError,
)
from serving.media.isolated import _IDLE_KEPT, Decoders
from tests.media_files import damaged_files, endless_silence, media_file

SOUND = media_file("wav", audio="pcm_s16le", rate_hz=8_000)
LONG = media_file("flac", audio="flac", rate_hz=8_000, seconds=100)
NO_SOUND_FOR_EVER = b"#!AMR\n" + b"\x7c" * 25_000_000
FOUR_HOURS_MS = 4 * 3600 * 1000
DAMAGED = 400
MEGABYTE = 1 << 20


@pytest_asyncio.fixture
async def decoders() -> AsyncGenerator[Decoders, None]:
    started = Decoders(4, window_cpu_s=2, upload_cpu_s=20)
    yield started
    started.stop()
    assert children() == []


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "serving.media.isolated" in child.cmdline()]


async def length_ms(decoders: Decoders, upload: bytes) -> int:
    return sum([window.duration_ms async for window in decoders.windows(upload)])


async def to_its_end(decoded: AsyncGenerator[Window, None], ends_ms: list[int] | None = None) -> None:
    async for window in decoded:
        if ends_ms is not None:
            ends_ms.append(window.start_ms + window.duration_ms)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_file_is_decoded_by_a_process_that_is_used_again(decoders: Decoders) -> None:
    (first,) = children()
    for _ in range(3):
        assert await length_ms(decoders, SOUND) == 2000
    with pytest.raises(NoAudioStreamError):
        await length_ms(decoders, media_file("mp4", video="libx264"))
    with pytest.raises(EmptyAudioError):
        await length_ms(decoders, b"")
    assert await length_ms(decoders, SOUND) == 2000
    assert children() == [first]


async def test_files_are_decoded_side_by_side_and_few_processes_stay(decoders: Decoders) -> None:
    files = _IDLE_KEPT + 2
    assert await asyncio.gather(*(length_ms(decoders, LONG) for _ in range(files))) == [100_000] * files
    assert len(children()) == _IDLE_KEPT


@pytest.mark.parametrize("crash", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE])
async def test_a_decoder_that_crashes_is_the_files_fault_and_the_next_caller_is_served(
    decoders: Decoders, crash: signal.Signals
) -> None:
    decoded = decoders.windows(LONG)
    assert await anext(decoded)
    children()[0].send_signal(crash)
    with pytest.raises(UndecodableAudioError):
        await to_its_end(decoded)
    assert await length_ms(decoders, SOUND) == 2000


async def test_a_decoder_that_is_ended_from_outside_is_not_the_files_fault(decoders: Decoders) -> None:
    decoded = decoders.windows(LONG)
    assert await anext(decoded)
    children()[0].kill()
    with pytest.raises(EngineUnavailableError):
        await to_its_end(decoded)


async def test_a_decoder_that_ended_while_it_waited_is_replaced(decoders: Decoders) -> None:
    (idle,) = children()
    idle.kill()
    await until(lambda: not idle.is_running() or idle.status() == psutil.STATUS_ZOMBIE)
    assert await length_ms(decoders, SOUND) == 2000


async def test_a_decoder_that_hangs_ends_with_its_callers_patience(decoders: Decoders) -> None:
    """One thread for each upload: four that hang would leave none."""
    for _ in range(5):
        decoded: AsyncGenerator[Window, None] = decoders.windows(LONG)
        async with aclosing(decoded):
            assert await anext(decoded)
            (hung,) = children()
            hung.suspend()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(to_its_end(decoded), 0.2)
        await until(lambda hung=hung: not hung.is_running())
    assert await length_ms(decoders, SOUND) == 2000


async def test_whoever_leaves_between_windows_ends_the_decoding(decoders: Decoders) -> None:
    decoded = decoders.windows(LONG)
    assert await anext(decoded)
    (busy,) = children()
    await decoded.aclose()
    await until(lambda: not busy.is_running())


async def test_a_file_that_computes_without_sound_is_ended(decoders: Decoders) -> None:
    begun = time.monotonic()
    with pytest.raises(UndecodableAudioError):
        await length_ms(decoders, NO_SOUND_FOR_EVER)
    assert time.monotonic() - begun < 20  # 2 s of computing, on a busy machine
    assert await length_ms(decoders, SOUND) == 2000


async def test_a_few_bytes_that_sound_without_end_stop_at_four_hours_in_bounded_memory(
    decoders: Decoders,
) -> None:
    (decoder,) = children()
    ends_ms: list[int] = []
    with pytest.raises(AudioTooLongError):
        await to_its_end(decoders.windows(endless_silence(5)), ends_ms)
    assert FOUR_HOURS_MS - 60_000 < ends_ms[-1] <= FOUR_HOURS_MS
    assert decoder.memory_info().rss < 200 * MEGABYTE
    assert children() == [decoder]


async def test_of_damaged_files_come_windows_or_what_is_wrong_with_them(decoders: Decoders) -> None:
    outcomes = Counter[str]()
    (decoder,) = children()
    for number, damaged in enumerate(damaged_files(DAMAGED, seed=7)):
        try:
            async with asyncio.timeout(5):
                channels = "split" if number % 3 == 0 else "mix"
                lengths = [window.duration_ms async for window in decoders.windows(damaged, channels)]
            assert max(lengths) <= 30_000
            outcomes["sound"] += 1
        except MediaError as error:
            outcomes[error.code] += 1
    assert min(outcomes["sound"], outcomes["undecodable_audio"]) > DAMAGED / 5
    assert children() == [decoder]  # none of them crashed it
    assert decoder.memory_info().rss < 200 * MEGABYTE
