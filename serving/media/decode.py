"""Uploads to windows of samples."""

import io
from collections.abc import Iterator

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError

from serving.contract import RECOGNITION_RATE_HZ, Window
from serving.errors import AudioTooLongError, EmptyAudioError, NoAudioStreamError, UndecodableAudioError

# Demuxers that read nothing but the bytes they are given. Playlists (hls, concat, dash) are left out: they
# open other files and addresses.
_DEMUXERS = "wav,w64,aiff,flac,mp3,ogg,aac,amr,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts"
_BYTES_PER_SAMPLE = 2
_SAMPLES_PER_MS = RECOGNITION_RATE_HZ // 1000
_WINDOW_SAMPLES = 30 * RECOGNITION_RATE_HZ
_SEARCH_SAMPLES = 10 * RECOGNITION_RATE_HZ
_PAUSE_SAMPLES = RECOGNITION_RATE_HZ // 5
_PAUSE_STEP_SAMPLES = RECOGNITION_RATE_HZ // 50
_LONGEST_SAMPLES = 4 * 3600 * RECOGNITION_RATE_HZ


def windows(upload: bytes) -> Iterator[Window]:
    """Decode a file to mono s16le at 16 kHz and cut it at pauses into windows of at most 30 s.

    The container and the codec are found by content. A window that is full is cut in the middle of the
    quietest 200 ms of its last 10 s, and what follows begins the next one; nothing is dropped or repeated.
    At most one window and one packet are held in memory, beside the upload itself.

    A window's `start_ms` and the end of the last window are floors of samples / 16, and durations are their
    differences: they add up to the floor of the whole length in ms. Damaged packets are left out, as long
    as fewer are damaged than whole.

    Raises:
        EmptyAudioError: no bytes, or less than a millisecond of sound.
        UndecodableAudioError: not a media file of a known kind, or cut off or damaged beyond use.
        NoAudioStreamError: a media file without sound, such as a video without a sound track.
        AudioTooLongError: more than 4 hours of sound.
    """
    if not upload:
        raise EmptyAudioError
    pending = bytearray()
    start = 0
    for pcm in _samples(upload):
        pending += pcm
        while len(pending) >= _WINDOW_SAMPLES * _BYTES_PER_SAMPLE:
            cut = _quietest_cut(pending)
            yield _window(pending, start, cut)
            del pending[: cut * _BYTES_PER_SAMPLE]
            start += cut
            if start > _LONGEST_SAMPLES:
                raise AudioTooLongError
    rest = len(pending) // _BYTES_PER_SAMPLE
    if (start + rest) // _SAMPLES_PER_MS == 0:
        raise EmptyAudioError
    if rest:
        yield _window(pending, start, rest)


def _window(pending: bytearray, start: int, samples: int) -> Window:
    start_ms = start // _SAMPLES_PER_MS
    end_ms = (start + samples) // _SAMPLES_PER_MS
    return Window(bytes(pending[: samples * _BYTES_PER_SAMPLE]), start_ms, end_ms - start_ms)


def _quietest_cut(pending: bytearray) -> int:
    """The sample in the middle of the quietest 200 ms of the window's last 10 s."""
    first = _WINDOW_SAMPLES - _SEARCH_SAMPLES
    # Copied, because an array that looks into a bytearray forbids it to shrink.
    search = np.frombuffer(pending[first * _BYTES_PER_SAMPLE : _WINDOW_SAMPLES * _BYTES_PER_SAMPLE], "<i2")
    energy = np.concatenate([[0.0], np.cumsum(np.square(search.astype(np.float64)))])
    starts = np.arange(0, _SEARCH_SAMPLES - _PAUSE_SAMPLES + 1, _PAUSE_STEP_SAMPLES)
    quietest = int(starts[np.argmin(energy[starts + _PAUSE_SAMPLES] - energy[starts])])
    return first + quietest + _PAUSE_SAMPLES // 2


def _samples(upload: bytes) -> Iterator[bytes]:
    """Mono s16le at 16 kHz, packet by packet."""
    try:
        with av.open(
            io.BytesIO(upload),
            mode="r",
            container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"},
        ) as container:
            if not container.streams.audio:
                raise NoAudioStreamError
            resampler = AudioResampler(format="s16", layout="mono", rate=RECOGNITION_RATE_HZ)
            for frame in _frames(container):
                frame.pts = None  # a gap in the time stamps is no reason to invent silence
                yield from _pcm(resampler.resample(frame))
            yield from _pcm(resampler.resample(None))
    except (FFmpegError, ValueError, OverflowError) as error:
        raise UndecodableAudioError from error


def _frames(container: InputContainer) -> Iterator[AudioFrame]:
    stream = container.streams.audio[0]
    stream.codec_context.thread_count = 1
    whole = damaged = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except InvalidDataError:
            damaged += 1
            continue
        whole += 1
        for frame in frames:
            if isinstance(frame, AudioFrame):
                yield frame
    if damaged >= whole:
        raise UndecodableAudioError


def _pcm(frames: list[AudioFrame]) -> Iterator[bytes]:
    for frame in frames:
        yield bytes(frame.planes[0])[: frame.samples * _BYTES_PER_SAMPLE]
