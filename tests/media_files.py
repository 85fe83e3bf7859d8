"""Files of many kinds, whole and damaged."""

import io
import random
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

KINDS: tuple[tuple[str, str, int], ...] = (
    ("wav", "pcm_s16le", 8_000),
    ("wav", "pcm_mulaw", 8_000),
    ("mp3", "libmp3lame", 44_100),
    ("flac", "flac", 48_000),
    ("ogg", "libopus", 48_000),
    ("webm", "libopus", 48_000),
    ("mp4", "aac", 44_100),
    ("adts", "aac", 44_100),
)
"""Muxer, codec and rate of every kind of file that is uploaded."""


def sound_file(muxer: str, codec: str, rate_hz: int, samples: NDArray[np.int16]) -> bytes:
    """A file of samples of the shape (length, channels)."""
    count = samples.shape[1]
    layout = {1: "mono", 2: "stereo"}.get(count, f"{count} channels")
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as container:
        stream: Any = container.add_stream(codec, rate=rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate = rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def media_file(
    muxer: str,
    *,
    audio: str | None = None,
    video: str | None = None,
    rate_hz: int = 44_100,
    seconds: float = 2.0,
) -> bytes:
    """Stereo noise, black picture, or both."""
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as container:
        sound: Any = container.add_stream(audio, rate=rate_hz, layout="stereo") if audio else None
        picture: Any = container.add_stream(video, rate=10) if video else None
        if picture:
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
            for number in range(int(seconds * 10)):
                frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
                frame.pts, frame.time_base = number, Fraction(1, 10)
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        if sound:
            length = int(seconds * rate_hz)
            noise = np.random.default_rng(0).integers(-3000, 3000, (1, length * 2), np.int16)
            samples = av.AudioFrame.from_ndarray(noise, format="s16", layout="stereo")
            samples.sample_rate = rate_hz
            container.mux(sound.encode(samples))
            container.mux(sound.encode(None))
    return file.getvalue()


def damaged_files(count: int, seed: int) -> Iterator[bytes]:
    """Files of every kind with bits turned, ends and middles missing, others' parts, lengths and rates
    overwritten; the same for the same seed."""
    draw = random.Random(seed)
    whole = [media_file(muxer, audio=codec, rate_hz=rate, seconds=0.5) for muxer, codec, rate in KINDS]
    whole += [media_file("mp4", audio="aac", video="libx264", seconds=0.5)]
    for number in range(count):
        damaged = bytearray(whole[number % len(whole)])
        for _ in range(draw.randint(1, 3)):
            draw.choice((_turn_bits, _cut_off, _cut_out, _splice, _overwrite))(damaged, draw, whole)
        yield bytes(damaged)


def _place(file: bytearray, draw: random.Random) -> int:
    """Anywhere, and half of the time in the first bytes, where the headers are."""
    return draw.randrange(min(len(file), draw.choice((64, 600, 1 << 30, 1 << 30))) or 1)


def _turn_bits(file: bytearray, draw: random.Random, whole: list[bytes]) -> None:
    for _ in range(draw.choice((1, 4, 30))):
        if file:
            file[_place(file, draw)] ^= 1 << draw.randrange(8)


def _cut_off(file: bytearray, draw: random.Random, whole: list[bytes]) -> None:
    del file[_place(file, draw) :]


def _cut_out(file: bytearray, draw: random.Random, whole: list[bytes]) -> None:
    start = _place(file, draw)
    del file[start : start + draw.choice((1, 7, 400))]


def _splice(file: bytearray, draw: random.Random, whole: list[bytes]) -> None:
    other = draw.choice(whole)
    start = draw.randrange(len(other))
    place = _place(file, draw)
    file[place:place] = other[start : start + draw.choice((16, 800, 1 << 30))]


def _overwrite(file: bytearray, draw: random.Random, whole: list[bytes]) -> None:
    """A length, a count or a rate, wherever it falls."""
    value = draw.choice((0, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, draw.randrange(1 << 32)))
    size = draw.choice((1, 2, 4))
    place = _place(file, draw)
    file[place : place + size] = (value & ((1 << 8 * size) - 1)).to_bytes(
        size, draw.choice(("little", "big"))
    )


def endless_silence(hours: float, rate_hz: int = 16_000) -> bytes:
    """A FLAC file (RFC 9639) of some 14 bytes to every 4 s of sound."""
    block = 65_535
    info = (
        struct.pack(">HH", block, block)
        + bytes(6)
        + (rate_hz << 44 | 15 << 36).to_bytes(8, "big")
        + bytes(16)
    )
    head = b"fLaC\x80" + len(info).to_bytes(3, "big") + info
    frames = (_silent_frame(number, block) for number in range(int(hours * 3600 * rate_hz / block) + 1))
    return head + b"".join(frames)


def _silent_frame(number: int, block: int) -> bytes:
    """One constant subframe of 16 bits, mono."""
    header = b"\xff\xf8\x70\x08" + _coded_number(number) + (block - 1).to_bytes(2, "big")
    header += _crc(header, 0x07, 8).to_bytes(1, "big")
    frame = header + bytes(3)
    return frame + _crc(frame, 0x8005, 16).to_bytes(2, "big")


def _coded_number(number: int) -> bytes:
    """As UTF-8 would code it."""
    return chr(number).encode()


def _crc(content: bytes, polynomial: int, bits: int) -> int:
    value = 0
    for byte in content:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value >> (bits - 1) else 0)) & ((1 << bits) - 1)
    return value
