"""Uploads to windows of samples."""

import io
from collections.abc import Iterator

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError

from serving.contract import RECOGNITION_RATE_HZ, Channels, Window
from serving.errors import (
    AudioTooLongError,
    EmptyAudioError,
    NoAudioStreamError,
    TooManyChannelsError,
    UndecodableAudioError,
)

# Demuxers that read nothing but the bytes they are given. Playlists (hls, concat, dash) are left out: they
# open other files and addresses.
_DEMUXERS = "wav,w64,aiff,au,flac,mp3,ogg,aac,amr,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts"
_BYTES_PER_SAMPLE = 2
_SAMPLES_PER_MS = RECOGNITION_RATE_HZ // 1000
_WINDOW_SAMPLES = 30 * RECOGNITION_RATE_HZ
_SEARCH_SAMPLES = 10 * RECOGNITION_RATE_HZ
_PAUSE_SAMPLES = RECOGNITION_RATE_HZ // 5
_PAUSE_STEP_SAMPLES = RECOGNITION_RATE_HZ // 50
_LONGEST_SAMPLES = 4 * 3600 * RECOGNITION_RATE_HZ
# At less than the lowest rate a few bytes would become minutes, at more than the highest it is no sound.
_LOWEST_RATE_HZ = 4_000
_HIGHEST_RATE_HZ = 768_000
_MOST_CHANNELS = 8
_MOST_SPLIT_CHANNELS = 2


def windows(upload: bytes, channels: Channels = "mix") -> Iterator[Window]:
    """Decode a file to s16le at 16 kHz and cut it at pauses into mono windows of at most 30 s.

    The container and the codec are found by content. A window that is full is cut in the middle of the
    quietest 200 ms of its last 10 s, and what follows begins the next one; nothing is dropped or repeated.
    At most one window of each channel and one packet are held in memory, beside the upload itself.

    A window's `start_ms` and the end of the last window are floors of samples / 16, and durations are their
    differences: they add up to the floor of the whole length in ms. Damaged packets are left out, as long
    as fewer are damaged than whole. What the file says of its length and of its time stamps is not believed.

    Args:
        channels: `mix` makes one of up to 8 channels. `split` cuts each of one or two by itself, and gives
            their windows in order of time.

    Raises:
        EmptyAudioError: no bytes, or less than a millisecond of sound.
        UndecodableAudioError: not a media file of a known kind, or cut off or damaged beyond use.
        NoAudioStreamError: a media file without sound, such as a video without a sound track.
        AudioTooLongError: more than 4 hours of sound; when they were given.
        TooManyChannelsError: more channels than can be mixed, or split.
    """
    if not upload:
        raise EmptyAudioError
    cutters: list[_Cutter] = []
    for planes in _samples(upload, channels):
        if not cutters:
            cutters = [_Cutter(number if channels == "split" else None) for number in range(len(planes))]
        for cutter, pcm in zip(cutters, planes, strict=True):
            yield from cutter.full(pcm)
    rests = [rest for cutter in cutters for rest in cutter.rest()]
    if not rests:
        raise EmptyAudioError
    yield from sorted(rests, key=lambda window: window.start_ms)


class _Cutter:
    """One channel's samples to windows."""

    def __init__(self, channel: int | None) -> None:
        self._channel = channel
        self._pending = bytearray()
        self._start = 0

    def full(self, pcm: bytes) -> Iterator[Window]:
        """Take more, and give what is full."""
        self._pending += pcm
        if self._start + len(self._pending) // _BYTES_PER_SAMPLE > _LONGEST_SAMPLES:
            raise AudioTooLongError
        while len(self._pending) >= _WINDOW_SAMPLES * _BYTES_PER_SAMPLE:
            yield self._cut(_quietest_cut(self._pending))

    def rest(self) -> Iterator[Window]:
        """What is left at the end; nothing where all of it is shorter than a millisecond."""
        rest = len(self._pending) // _BYTES_PER_SAMPLE
        if rest and self._start + rest >= _SAMPLES_PER_MS:
            yield self._cut(rest)

    def _cut(self, samples: int) -> Window:
        start_ms = self._start // _SAMPLES_PER_MS
        self._start += samples
        pcm = bytes(self._pending[: samples * _BYTES_PER_SAMPLE])
        del self._pending[: samples * _BYTES_PER_SAMPLE]
        return Window(pcm, start_ms, self._start // _SAMPLES_PER_MS - start_ms, self._channel)


def _quietest_cut(pending: bytearray) -> int:
    """The sample in the middle of the quietest 200 ms of the window's last 10 s."""
    first = _WINDOW_SAMPLES - _SEARCH_SAMPLES
    # Copied, because an array that looks into a bytearray forbids it to shrink.
    search = np.frombuffer(pending[first * _BYTES_PER_SAMPLE : _WINDOW_SAMPLES * _BYTES_PER_SAMPLE], "<i2")
    energy = np.concatenate([[0.0], np.cumsum(np.square(search.astype(np.float64)))])
    starts = np.arange(0, _SEARCH_SAMPLES - _PAUSE_SAMPLES + 1, _PAUSE_STEP_SAMPLES)
    quietest = int(starts[np.argmin(energy[starts + _PAUSE_SAMPLES] - energy[starts])])
    return first + quietest + _PAUSE_SAMPLES // 2


def _samples(upload: bytes, channels: Channels) -> Iterator[tuple[bytes, ...]]:
    """s16le at 16 kHz, packet by packet: the samples of each channel."""
    resampler = _Resampler(channels)
    try:
        with av.open(
            io.BytesIO(upload),
            mode="r",
            container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"},
        ) as container:
            if not container.streams.audio:
                raise NoAudioStreamError
            for frame in _frames(container):
                yield from resampler.take(frame)
            yield from resampler.rest()
    except (FFmpegError, ValueError, OverflowError, MemoryError) as error:
        raise UndecodableAudioError from error


def _frames(container: InputContainer) -> Iterator[AudioFrame]:
    # A stream of a codec that is not known has none.
    stream = next((stream for stream in container.streams.audio if stream.codec_context), None)
    if stream is None:
        raise UndecodableAudioError
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


class _Resampler:
    """Frames of any kind to samples of one kind, also where the kind changes in the middle of a file."""

    def __init__(self, channels: Channels) -> None:
        self._channels: Channels = channels
        self._layout = ""
        self._kind: tuple[str, str, int] | None = None
        self._resampler: AudioResampler | None = None

    def take(self, frame: AudioFrame) -> Iterator[tuple[bytes, ...]]:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or kind != self._kind:
            yield from self.rest()
            self._kind, self._resampler = kind, self._resampler_for(frame)
        frame.pts = None  # a gap in the time stamps is no reason to invent silence
        yield from map(_planes, self._resampler.resample(frame))

    def rest(self) -> Iterator[tuple[bytes, ...]]:
        """What is held back of the kind so far."""
        if self._resampler is not None:
            yield from map(_planes, self._resampler.resample(None))

    def _resampler_for(self, frame: AudioFrame) -> AudioResampler:
        if not _LOWEST_RATE_HZ <= frame.sample_rate <= _HIGHEST_RATE_HZ:
            raise UndecodableAudioError("The file's sample rate is no sound's. Send 4 to 768 kHz.")
        count = frame.layout.nb_channels
        if count > _MOST_CHANNELS:
            raise TooManyChannelsError
        if self._channels == "split" and count > _MOST_SPLIT_CHANNELS:
            raise TooManyChannelsError(
                "The file has more than two channels. `split` takes one or two, `mix` up to 8.", "channels"
            )
        if not self._layout:  # the file's first sound decides; what comes later is fitted to it
            self._layout = "stereo" if self._channels == "split" and count == 2 else "mono"
        return AudioResampler(format="s16p", layout=self._layout, rate=RECOGNITION_RATE_HZ)


def _planes(frame: AudioFrame) -> tuple[bytes, ...]:
    return tuple(bytes(plane)[: frame.samples * _BYTES_PER_SAMPLE] for plane in frame.planes)
