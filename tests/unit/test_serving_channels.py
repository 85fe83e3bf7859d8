"""The two sides of a call: telephone audio, mixed or each channel by itself, and its transcript."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.transcripts import render
from serving.contract import (
    RECOGNITION_RATE_HZ,
    Channels,
    Recognised,
    RecognitionRequest,
    Segment,
    Transcript,
    Window,
    Word,
)
from serving.errors import TooManyChannelsError, UndecodableAudioError
from serving.media.decode import windows
from serving.transcription import hear, in_order
from tests.media_files import media_file, sound_file

PHONE_RATE_HZ = 8_000
SEGMENTS = frozenset({"segment"})


def tone(seconds: float, hertz: float, rate_hz: int = PHONE_RATE_HZ) -> NDArray[np.int16]:
    times = np.arange(int(seconds * rate_hz)) / rate_hz
    return (np.sin(2 * np.pi * hertz * times) * 8000).astype(np.int16)


def pitch_hz(pcm: bytes) -> float:
    samples = np.frombuffer(pcm, "<i2")
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * RECOGNITION_RATE_HZ / len(samples))


@pytest.mark.parametrize("muxer", ["wav", "w64", "aiff", "au", "mov"])
@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw"])
def test_the_sides_of_a_telephone_call_are_told_apart(muxer: str, codec: str) -> None:
    call = sound_file(muxer, codec, PHONE_RATE_HZ, np.stack([tone(2, 300), tone(2, 1200)], 1))
    first, second = windows(call, "split")
    assert [(side.channel, side.start_ms, side.duration_ms) for side in (first, second)] == [
        (0, 0, 2000),
        (1, 0, 2000),
    ]
    assert pitch_hz(first.pcm) == pytest.approx(300, abs=2)
    assert pitch_hz(second.pcm) == pytest.approx(1200, abs=2)
    (mixed,) = windows(call)
    assert (mixed.channel, mixed.duration_ms) == (None, 2000)
    spectrum = np.abs(np.fft.rfft(np.frombuffer(mixed.pcm, "<i2")))
    assert spectrum[600] == pytest.approx(spectrum[2400], rel=0.2)  # half hertz steps


def test_each_channel_is_cut_at_its_own_pauses_in_order_of_time() -> None:
    call = np.stack([tone(70, 300), tone(70, 1200)], 1)
    for channel, pauses_s in ((0, (25, 50)), (1, (22, 48))):
        for pause_s in pauses_s:
            call[int((pause_s - 0.2) * PHONE_RATE_HZ) : int((pause_s + 0.2) * PHONE_RATE_HZ), channel] = 0
    cut = list(windows(sound_file("wav", "pcm_s16le", PHONE_RATE_HZ, call), "split"))
    assert [window.start_ms for window in cut] == sorted(window.start_ms for window in cut)
    for channel, starts_ms in ((0, (0, 25_000, 50_000)), (1, (0, 22_000, 48_000))):
        of_channel = [window for window in cut if window.channel == channel]
        assert [window.start_ms for window in of_channel] == pytest.approx(starts_ms, abs=200)
        assert sum(window.duration_ms for window in of_channel) == 70_000
        assert sum(len(window.pcm) for window in of_channel) == 70 * RECOGNITION_RATE_HZ * 2


def test_one_channel_split_is_the_first() -> None:
    call = sound_file("wav", "pcm_mulaw", PHONE_RATE_HZ, tone(1, 300).reshape(-1, 1))
    assert [window.channel for window in windows(call, "split")] == [0]


@pytest.mark.parametrize("count", range(1, 9))
def test_up_to_eight_channels_are_mixed(count: int) -> None:
    sound = np.repeat(tone(1, 300).reshape(-1, 1) // 8, count, 1)
    (window,) = windows(sound_file("wav", "pcm_s16le", PHONE_RATE_HZ, sound))
    assert window.duration_ms == 1000
    assert pitch_hz(window.pcm) == pytest.approx(300, abs=2)


@pytest.mark.parametrize(
    ("count", "channels", "param"), [(9, "mix", "file"), (10, "split", "file"), (3, "split", "channels")]
)
def test_more_channels_than_can_be_used_are_named(count: int, channels: Channels, param: str) -> None:
    sound = np.repeat(tone(1, 300).reshape(-1, 1), count, 1)
    with pytest.raises(TooManyChannelsError) as caught:
        list(windows(sound_file("wav", "pcm_s16le", PHONE_RATE_HZ, sound), channels))
    assert caught.value.param == param


@pytest.mark.parametrize("channels", ["mix", "split"])
def test_a_file_whose_rate_and_channels_change_is_heard_to_its_end(channels: Channels) -> None:
    noise = media_file("adts", audio="aac", rate_hz=44_100)
    call = sound_file("adts", "aac", 16_000, tone(3, 300, 16_000).reshape(-1, 1))
    for upload, count in ((noise + call, 2), (call + noise, 1)):
        cut = list(windows(upload, channels))
        assert len(cut) == (count if channels == "split" else 1)
        assert all(window.duration_ms == pytest.approx(5000, abs=250) for window in cut)
        assert pitch_hz(cut[0].pcm) == pytest.approx(300, abs=2)


@pytest.mark.parametrize("rate_hz", [1, 3_999, 768_001, 2**31 - 1])
def test_a_rate_that_is_no_sounds_is_refused(rate_hz: int) -> None:
    file = bytearray(sound_file("wav", "pcm_s16le", PHONE_RATE_HZ, np.ones((80_000, 1), np.int16)))
    file[24:28] = rate_hz.to_bytes(4, "little")
    with pytest.raises(UndecodableAudioError, match="4 to 768 kHz"):
        list(windows(bytes(file)))


def heard_of(cut: Sequence[Window]) -> list[Segment]:
    async def given() -> AsyncIterator[Window]:
        for window in cut:
            yield window

    async def recognise(window: Window, asked: RecognitionRequest) -> Recognised:
        word = Word(f"{window.channel}", 400, 500)
        return Recognised((Segment(f"{window.channel}", 400, 900, (word,)),), "en")

    async def run() -> list[Segment]:
        heard = hear(given(), RecognitionRequest(channels="split"), recognise)
        return [segment async for window in heard for segment in window.segments]

    return asyncio.run(run())


def test_segments_are_in_order_of_time_over_both_channels() -> None:
    cut = [Window(b"", 0, 25, 0), Window(b"", 0, 22, 1), Window(b"", 22_000, 9, 1), Window(b"", 9_000, 9, 0)]
    ordered = in_order(heard_of(cut))
    assert [(segment.channel, segment.start_ms) for segment in ordered] == [
        (0, 400),
        (1, 400),
        (0, 9_400),
        (1, 22_400),
    ]
    assert [segment.words[0].start_ms for segment in ordered] == [400, 400, 9_400, 22_400]


CALL = Transcript(
    "hello good day",
    "en",
    5_000,
    (Segment("hello", 0, 400, channel=0), Segment("good day", 300, 1_500, channel=1)),
    "engine",
    "model",
    channels=2,
)


def rendered(form: str, transcript: Transcript = CALL) -> str:
    return render(transcript, form, SEGMENTS, "transcribe")[0].decode()  # type: ignore[arg-type]


def test_every_format_that_can_says_which_channel_spoke() -> None:
    verbose = json.loads(rendered("verbose_json"))
    assert [segment["channel"] for segment in verbose["segments"]] == [0, 1]
    assert "<v Channel 0>hello\n" in rendered("vtt")
    assert "00:00:00.300 --> 00:00:01.500\n<v Channel 1>good day\n" in rendered("vtt")
    assert "2\n00:00:00,300 --> 00:00:01,500\nChannel 1: good day\n" in rendered("srt")
    assert rendered("text") == "hello good day\n"


def test_each_channel_is_charged_and_the_duration_is_the_files() -> None:
    verbose = json.loads(rendered("verbose_json"))
    assert verbose["duration"] == 2.5
    assert verbose["usage"]["seconds"] == 5.0


def test_mixed_sound_names_no_channel() -> None:
    mixed = Transcript("hello", "en", 2_500, (Segment("hello", 0, 400),), "engine", "model")
    assert "channel" not in rendered("verbose_json", mixed).lower()
    assert "channel" not in (rendered("vtt", mixed) + rendered("srt", mixed)).lower()
