"""Speech samples to the six formats of the speech endpoint, as they are spoken."""

import struct
from typing import Protocol, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream

from serving.contract import SPEECH_RATE_HZ, SpeechFormat

_UNKNOWN_SIZE = 0xFFFF_FFFF

MARK = "AI-generated speech: made by a machine, not spoken by a person (AIaaS Gateway)"
"""Says in a file's metadata what it is and where it comes from, for programs and people.

The EU's AI Act (Regulation (EU) 2024/1689, article 50(2)) asks that generated sound be marked so that
machines can tell; China's Measures for Labelling AI-Generated Synthetic Content (in force since 1 September
2025, article 5) ask for a mark in the metadata with the provider's name. A registered provider's code, a
content number, and a mark that can be heard are for whoever publishes the sound.
"""

# Muxer, encoder, bit rate, muxer options. No Xing header and no seek table: they want a second pass. Ogg
# pages of 100 ms (in microseconds): a page leaves when it is full.
_CODED = {
    "mp3": ("mp3", "libmp3lame", 64_000, {"write_xing": "0", "id3v2_version": "4"}),
    "opus": ("ogg", "libopus", 32_000, {"page_duration": "100000"}),
    "aac": ("adts", "aac", 64_000, {}),
    "flac": ("flac", "flac", None, {}),
}


class SpeechEncoder(Protocol):
    """Takes mono s16le samples in pieces, gives a file in pieces."""

    def feed(self, pcm: bytes) -> bytes:
        """Encode more samples; what is not yet a whole frame comes with a later call."""
        ...

    def finish(self) -> bytes:
        """The rest of the file. Nothing may be fed after it."""
        ...


def speech_encoder(response_format: SpeechFormat, sample_rate_hz: int) -> SpeechEncoder:
    """An encoder from `sample_rate_hz` to a file of 24 kHz mono.

    `pcm` is bare s16le, as OpenAI's is. `wav` is streamed, so its header gives the sizes as unknown
    (0xFFFFFFFF), which readers take as "until the end".

    `MARK` is the file's comment, ahead of all sound: an ID3 tag in `mp3`, a Vorbis comment in `opus` and
    `flac`, an INFO chunk in `wav`. `aac` (ADTS) and `pcm` have no place for it.
    """
    if response_format == "pcm":
        return _Linear(sample_rate_hz, header=b"")
    if response_format == "wav":
        return _Linear(sample_rate_hz, header=_streamed_wav_header(MARK))
    return _Coded(response_format, sample_rate_hz)


def _streamed_wav_header(comment: str) -> bytes:
    """Up to the first sample, with the comment (ASCII) ahead of the sound: nothing can come after it."""
    layout = struct.pack("<HHIIHH", 1, 1, SPEECH_RATE_HZ, SPEECH_RATE_HZ * 2, 2, 16)
    text = comment.encode("ascii") + b"\0"
    return (
        b"RIFF"
        + struct.pack("<I", _UNKNOWN_SIZE)
        + b"WAVE"
        + _chunk(b"fmt ", layout)
        + _chunk(b"LIST", b"INFO" + _chunk(b"ICMT", text))
        + b"data"
        + struct.pack("<I", _UNKNOWN_SIZE)
    )


def _chunk(name: bytes, content: bytes) -> bytes:
    """A RIFF chunk: its name, its length, its content, and a zero where that is odd."""
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


class _Linear:
    """Samples as they are, behind an optional header."""

    def __init__(self, sample_rate_hz: int, header: bytes) -> None:
        self._sample_rate_hz = sample_rate_hz
        self._header = header
        self._resampler = AudioResampler(format="s16", layout="mono", rate=SPEECH_RATE_HZ)

    def feed(self, pcm: bytes) -> bytes:
        return self._take(_frame(pcm, self._sample_rate_hz)) if pcm else b""

    def finish(self) -> bytes:
        return self._take(None)

    def _take(self, frame: AudioFrame | None) -> bytes:
        header, self._header = self._header, b""
        frames = self._resampler.resample(frame)
        return header + b"".join(bytes(piece.planes[0])[: piece.samples * 2] for piece in frames)


class _Coded:
    """Samples through a codec and a container that needs no seeking."""

    def __init__(self, response_format: SpeechFormat, sample_rate_hz: int) -> None:
        muxer, codec, bit_rate, options = _CODED[response_format]
        self._sample_rate_hz = sample_rate_hz
        self._sink = _Sink()
        self._container = av.open(self._sink, "w", format=muxer, container_options=options)
        self._container.metadata["comment"] = MARK  # written where the format has a place for it
        self._stream = cast(
            AudioStream, self._container.add_stream(codec, rate=SPEECH_RATE_HZ, layout="mono")
        )
        if bit_rate:
            self._stream.bit_rate = bit_rate

    def feed(self, pcm: bytes) -> bytes:
        if pcm:
            self._container.mux(self._stream.encode(_frame(pcm, self._sample_rate_hz)))
        return self._sink.take()

    def finish(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take()


class _Sink:
    """A file that can only be written to: muxers then write nothing they would have to come back to."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


def _frame(pcm: bytes, sample_rate_hz: int) -> AudioFrame:
    samples = np.frombuffer(pcm, "<i2").reshape(1, -1)
    frame = AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = sample_rate_hz
    return frame
