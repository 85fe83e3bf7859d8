"""The decoder in processes of its own, which can be ended: a crafted file may crash one or keep it busy."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, cast

import msgspec

from serving.contract import Channels, Window
from serving.errors import (
    AudioTooLongError,
    EmptyAudioError,
    EngineUnavailableError,
    MediaError,
    NoAudioStreamError,
    TooManyChannelsError,
    UndecodableAudioError,
)
from serving.pipes import receive, send

_MODULE = "serving.media.isolated"
_REFUSALS = (
    EmptyAudioError,
    UndecodableAudioError,
    NoAudioStreamError,
    AudioTooLongError,
    TooManyChannelsError,
)
_IDLE_KEPT = 8  # of 25 MB each; another takes 0.2 s to start
_WINDOW_CPU_S = 5  # what lasts 30 s takes 0.03 s
_UPLOAD_CPU_S = 180
_LARGEST_BYTES = 1 << 30  # of address space; 0.2 GB of it is Python, numpy and FFmpeg
# Whoever ends a process from outside does it by these, the kernel that is short of memory included.
_ENDED_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)


class _Request(msgspec.Struct, frozen=True):
    upload: bytes
    channels: Channels


class _Reply(msgspec.Struct, frozen=True):
    """A window, or the end: then `refusal` is the code, the message and the parameter of a `MediaError`."""

    window: Window | None = None
    refusal: tuple[str, str, str | None] | None = None


class Decoders:
    """One process for each upload in hand; a process that has done is used again.

    Args:
        most: how many uploads may be in hand.
        window_cpu_s, upload_cpu_s: how many seconds of computing a process may take to a window, and to all
            of an upload; the kernel ends one that takes more.
    """

    def __init__(
        self, most: int, window_cpu_s: int = _WINDOW_CPU_S, upload_cpu_s: int = _UPLOAD_CPU_S
    ) -> None:
        self._threads = ThreadPoolExecutor(most, "decode")
        self._limits = (str(window_cpu_s), str(upload_cpu_s))
        self._idle = [_Decoder(self._limits)]

    async def windows(self, upload: bytes, channels: Channels = "mix") -> AsyncGenerator[Window, None]:
        """See `serving.media.decode.windows`; a window is decoded when the one before was taken.

        Whoever closes it, or is cancelled while it waits, ends the decoding at once.

        Raises:
            MediaError: as `windows` does; `UndecodableAudioError` also where the decoder crashed or took
                more computing than it may.
            EngineUnavailableError: the process was ended from outside, or could not be started.
        """
        loop = asyncio.get_running_loop()
        decoder = await loop.run_in_executor(self._threads, self._ready)
        try:
            await loop.run_in_executor(self._threads, decoder.begin, upload, channels)
            while (window := await loop.run_in_executor(self._threads, decoder.next)) is not None:
                yield window
        finally:
            if decoder.is_done and len(self._idle) < _IDLE_KEPT:
                self._idle.append(decoder)
            else:
                decoder.stop()

    def stop(self) -> None:
        """End the processes that wait for work."""
        while self._idle:
            self._idle.pop().stop()
        self._threads.shutdown(wait=False)

    def _ready(self) -> "_Decoder":
        while self._idle:
            decoder = self._idle.pop()
            if decoder.is_alive:
                decoder.is_done = False
                return decoder
            decoder.stop()
        return _Decoder(self._limits)


class _Decoder:
    """A process behind two pipes; blocks its caller. `stop` may come from another thread.

    Messages are msgpack behind a 4-byte length. The process ends when its input does, or the reader of its
    output, so it does not outlive its parent.
    """

    def __init__(self, limits: tuple[str, str]) -> None:
        self.is_done = False
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", _MODULE, *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                close_fds=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise EngineUnavailableError from error

    @property
    def is_alive(self) -> bool:
        return self._child.poll() is None

    def begin(self, upload: bytes, channels: Channels) -> None:
        try:
            send(cast(IO[bytes], self._child.stdin), msgspec.msgpack.encode(_Request(upload, channels)))
        except (OSError, ValueError):  # ValueError: the pipe was closed by `stop`
            raise self._ended() from None

    def next(self) -> Window | None:
        try:
            message = receive(cast(IO[bytes], self._child.stdout))
        except (OSError, ValueError):
            message = None
        if message is None:
            raise self._ended()
        reply = msgspec.msgpack.decode(message, type=_Reply)
        self.is_done = reply.window is None
        if reply.refusal is not None:
            code, message, param = reply.refusal
            raise next(refusal for refusal in _REFUSALS if refusal.code == code)(message, param)
        return reply.window

    def stop(self) -> None:
        self._child.kill()
        self._child.wait()

    def _ended(self) -> UndecodableAudioError | EngineUnavailableError:
        """What it means that the process is no more."""
        if self._child.wait() in _ENDED_FROM_OUTSIDE:
            return EngineUnavailableError()
        return UndecodableAudioError()


def _replies(request: _Request) -> Iterator[_Reply]:
    from serving.media.decode import windows

    try:
        for window in windows(request.upload, request.channels):
            yield _Reply(window)
    except MediaError as error:
        yield _Reply(refusal=(error.code, error.message, error.param))
    else:
        yield _Reply()


def _limit_cpu(window_s: int, upload_ends_s: float) -> None:
    """Have the kernel end this process when it computes that much longer; whole seconds are its measure."""
    soft = min(time.process_time() + window_s, upload_ends_s)
    resource.setrlimit(resource.RLIMIT_CPU, (int(soft) + 1, resource.RLIM_INFINITY))


def main() -> None:
    """Answer requests on standard input until it ends."""
    import serving.media.decode  # noqa: F401  # loaded before there is work

    window_cpu_s, upload_cpu_s = map(int, sys.argv[1:])
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a C library prints must not mix with replies
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_LARGEST_BYTES, _LARGEST_BYTES))
    while (message := receive(sys.stdin.buffer)) is not None:
        request = msgspec.msgpack.decode(message, type=_Request)
        del message
        upload_ends_s = time.process_time() + upload_cpu_s
        _limit_cpu(window_cpu_s, upload_ends_s)
        for reply in _replies(request):
            send(replies, msgspec.msgpack.encode(reply))
            _limit_cpu(window_cpu_s, upload_ends_s)


if __name__ == "__main__":
    main()
