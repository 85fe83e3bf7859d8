"""Uploads become exact samples, or an error that says what is wrong; speech becomes files that play."""

import io
import pickle
import wave
from typing import Any, get_args

import av
import numpy as np
import pytest

from serving.contract import RECOGNITION_RATE_HZ, SPEECH_RATE_HZ, SpeechFormat, Window
from serving.errors import (
    DeadlineExceededError,
    EmptyAudioError,
    EngineUnavailableError,
    MediaError,
    NoAudioStreamError,
    OverloadedError,
    UndecodableAudioError,
)
from serving.media.decode import windows
from serving.media.encode import MARK, speech_encoder
from serving.media.tempo import change_tempo
from tests.media_files import media_file

ENGINE_RATE_HZ = 22_050
PADDING_MS = {"mp3": 80, "aac": 100, "opus": 25, "flac": 1, "wav": 1}


def tone(seconds: float, rate_hz: int, hertz: float = 440.0) -> bytes:
    times = np.arange(int(seconds * rate_hz)) / rate_hz
    return (np.sin(2 * np.pi * hertz * times) * 8000).astype("<i2").tobytes()


def encoded(pcm: bytes, response_format: SpeechFormat, piece_bytes: int = 9_000) -> bytes:
    encoder = speech_encoder(response_format, ENGINE_RATE_HZ)
    pieces = [encoder.feed(pcm[at : at + piece_bytes]) for at in range(0, len(pcm), piece_bytes)]
    return b"".join([*pieces, encoder.finish()])


def length_ms(cut: list[Window]) -> int:
    return cut[-1].start_ms + cut[-1].duration_ms


@pytest.mark.parametrize("response_format", sorted(PADDING_MS))
def test_what_is_encoded_decodes_to_the_same_length_and_pitch(response_format: SpeechFormat) -> None:
    cut = list(windows(encoded(tone(2.5, ENGINE_RATE_HZ), response_format)))
    assert 2500 <= length_ms(cut) + 1 <= 2501 + PADDING_MS[response_format]
    samples = np.frombuffer(b"".join(window.pcm for window in cut), "<i2")
    spectrum = np.abs(np.fft.rfft(samples))
    peak_hz = np.argmax(spectrum) * RECOGNITION_RATE_HZ / len(samples)
    assert peak_hz == pytest.approx(440, abs=2)


def test_pcm_is_bare_samples_at_24_khz() -> None:
    assert len(encoded(tone(1.5, ENGINE_RATE_HZ), "pcm")) == int(1.5 * SPEECH_RATE_HZ) * 2


@pytest.mark.parametrize("response_format", ["mp3", "opus", "flac", "wav"])
def test_a_file_says_that_a_machine_made_it(response_format: SpeechFormat) -> None:
    sound = tone(2.5, ENGINE_RATE_HZ)
    with av.open(io.BytesIO(encoded(sound, response_format))) as container:
        stream = container.streams.audio[0]
        assert (container.metadata | stream.metadata)["comment"] == MARK  # in ogg the stream has the comments
        length_s = sum(frame.samples for frame in container.decode(stream)) / stream.rate
    assert length_s == pytest.approx(2.5, abs=PADDING_MS[response_format] / 1000)


@pytest.mark.parametrize("response_format", ["mp3", "opus", "flac", "wav"])
def test_the_mark_goes_out_with_the_first_sound(response_format: SpeechFormat) -> None:
    assert MARK.encode() in speech_encoder(response_format, ENGINE_RATE_HZ).feed(tone(1, ENGINE_RATE_HZ))


def test_a_marked_wav_is_read_by_other_readers_to_the_sample() -> None:
    file = encoded(tone(1.5, ENGINE_RATE_HZ), "wav")
    bare = encoded(tone(1.5, ENGINE_RATE_HZ), "pcm")
    with wave.open(io.BytesIO(file)) as opened:
        assert (opened.getframerate(), opened.getnchannels(), opened.getsampwidth()) == (SPEECH_RATE_HZ, 1, 2)
        assert opened.readframes(10 * SPEECH_RATE_HZ) == bare


def test_every_format_comes_in_pieces() -> None:
    for response_format in get_args(SpeechFormat):
        encoder = speech_encoder(response_format, ENGINE_RATE_HZ)
        early = [encoder.feed(tone(1, ENGINE_RATE_HZ)) for _ in range(3)]
        assert sum(len(piece) for piece in early) > 0


@pytest.mark.parametrize(
    ("muxer", "codec", "rate_hz"),
    [
        ("wav", "pcm_s16le", 8_000),
        ("mp3", "libmp3lame", 44_100),
        ("flac", "flac", 48_000),
        ("ogg", "libopus", 48_000),
        ("webm", "libopus", 48_000),
        ("mp4", "aac", 44_100),
    ],
)
def test_every_kind_of_upload_is_known_by_its_content(muxer: str, codec: str, rate_hz: int) -> None:
    cut = list(windows(media_file(muxer, audio=codec, rate_hz=rate_hz)))
    assert length_ms(cut) == pytest.approx(2000, abs=50)
    assert sum(len(window.pcm) for window in cut) == pytest.approx(2 * length_ms(cut) * 16, abs=32)


def test_the_sound_of_a_video_is_taken() -> None:
    assert length_ms(list(windows(media_file("mp4", audio="aac", video="libx264")))) >= 2000


def test_windows_are_cut_in_pauses_and_nothing_is_lost_or_repeated() -> None:
    rate_hz = RECOGNITION_RATE_HZ
    pauses_s = (24.0, 47.5, 71.0)
    samples = np.frombuffer(tone(95.0, rate_hz), "<i2").copy()
    for pause_s in pauses_s:
        samples[int((pause_s - 0.2) * rate_hz) : int((pause_s + 0.2) * rate_hz)] = 0
    upload = io.BytesIO()
    with av.open(upload, "w", format="flac") as container:
        stream: Any = container.add_stream("flac", rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    cut = list(windows(upload.getvalue()))
    assert b"".join(window.pcm for window in cut) == samples.tobytes()
    assert all(window.duration_ms <= 30_000 for window in cut)
    for window, pause_s in zip(cut[1:], pauses_s, strict=True):
        assert window.start_ms == pytest.approx(pause_s * 1000, abs=200)
    assert [window.start_ms for window in cut[1:]] == [w.start_ms + w.duration_ms for w in cut[:-1]]
    assert length_ms(cut) == 95_000


@pytest.mark.parametrize(
    ("upload", "expected"),
    [
        (b"", EmptyAudioError),
        (encoded(b"", "wav"), EmptyAudioError),
        (b"Dear sir or madam,\n" * 200, UndecodableAudioError),
        (b"\0" * 10_000, UndecodableAudioError),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n", UndecodableAudioError),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", UndecodableAudioError),
        (encoded(tone(1, ENGINE_RATE_HZ), "flac")[:40], UndecodableAudioError),
        (media_file("mp4", audio="aac")[:12_000], UndecodableAudioError),
        (
            media_file("webm", audio="libopus", rate_hz=48_000).replace(b"A_OPUS", b"A_NONE"),
            UndecodableAudioError,
        ),
        (media_file("mp4", video="libx264"), NoAudioStreamError),
        (media_file("webm", video="libvpx"), NoAudioStreamError),
    ],
    ids=[
        "empty",
        "header",
        "text",
        "zeros",
        "playlist",
        "concat",
        "cut flac",
        "cut m4a",
        "no codec",
        "mp4",
        "webm",
    ],
)
def test_an_unusable_upload_is_named_for_what_it_is(upload: bytes, expected: type[MediaError]) -> None:
    with pytest.raises(expected) as caught:
        list(windows(upload))
    assert type(caught.value) is expected
    assert caught.value.param == "file"


def test_what_is_whole_of_a_cut_off_stream_is_still_heard() -> None:
    file = encoded(tone(4, ENGINE_RATE_HZ), "mp3")
    assert length_ms(list(windows(file[: len(file) // 2]))) == pytest.approx(2000, abs=150)


def test_tempo_changes_length_and_not_pitch() -> None:
    slow = np.frombuffer(change_tempo(tone(2, ENGINE_RATE_HZ), ENGINE_RATE_HZ, 0.5), "<i2")
    assert len(slow) / ENGINE_RATE_HZ == pytest.approx(4, abs=0.1)
    assert np.argmax(np.abs(np.fft.rfft(slow))) * ENGINE_RATE_HZ / len(slow) == pytest.approx(440, abs=5)


@pytest.mark.parametrize(
    "error",
    [EmptyAudioError(), OverloadedError(retry_after_s=7), EngineUnavailableError(), DeadlineExceededError()],
)
def test_errors_cross_processes_whole(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
