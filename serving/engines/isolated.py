"""A recogniser in a process of its own, for engines that hold the interpreter lock or may crash."""

import os
import struct
import subprocess
import sys
import threading
from typing import IO, cast

import msgspec

from serving.contract import EngineInfo, Segment
from serving.engines.pocketsphinx import INFO, PocketsphinxRecogniser
from serving.errors import EngineUnavailableError, UnsupportedLanguageError

_LENGTH = struct.Struct("<I")
_MODULE = "serving.engines.isolated"


class _Request(msgspec.Struct, frozen=True):
    pcm: bytes
    language: str | None


class _Reply(msgspec.Struct, frozen=True):
    """`refusal` is the message of an UnsupportedLanguageError."""

    segments: tuple[Segment, ...] = ()
    refusal: str | None = None


class IsolatedRecogniser:
    """Pocketsphinx behind two pipes; blocks its caller, but not the interpreter.

    Requests and replies are msgpack behind a 4-byte length. The child ends when its input does, so it
    does not outlive its parent. One caller at a time; `stop` may come from another thread and makes the
    work in hand fail. A child that ended is started again by the next call.
    """

    info: EngineInfo = INFO

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._child = self._start()

    def warm_up(self) -> None:
        """Return when the model is loaded."""
        self.recognise(b"", None)

    def recognise(self, pcm: bytes, language: str | None) -> tuple[Segment, ...]:
        """See `Recogniser.recognise`.

        Raises:
            UnsupportedLanguageError: the engine does not know `language`.
            EngineUnavailableError: the process ended while it worked.
        """
        child = self._living_child()
        to_child, from_child = cast(IO[bytes], child.stdin), cast(IO[bytes], child.stdout)
        try:
            _send(to_child, msgspec.msgpack.encode(_Request(pcm, language)))
            message = _receive(from_child)
        except (OSError, ValueError):  # ValueError: the pipe was closed by `stop`
            message = None
        if message is None:
            self.stop()
            raise EngineUnavailableError
        reply = msgspec.msgpack.decode(message, type=_Reply)
        if reply.refusal is not None:
            raise UnsupportedLanguageError(reply.refusal)
        return reply.segments

    def ensure_started(self) -> None:
        """Start the process again if it has ended."""
        self._living_child()

    def stop(self) -> None:
        """End the process and the work in hand."""
        with self._guard:
            self._child.kill()
            self._child.wait()

    def _living_child(self) -> subprocess.Popen[bytes]:
        with self._guard:
            if self._child.poll() is not None:
                self._child = self._start()
            return self._child

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", _MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=True
        )


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(_LENGTH.pack(len(message)) + message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """The next message, or None at the end of the pipe."""
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(header)
    message = pipe.read(length)
    return message if len(message) == length else None


def main() -> None:
    """Answer requests on standard input until it ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a C library prints must not mix with replies
    recogniser = PocketsphinxRecogniser()
    while (message := _receive(sys.stdin.buffer)) is not None:
        request = msgspec.msgpack.decode(message, type=_Request)
        try:
            reply = _Reply(recogniser.recognise(request.pcm, request.language))
        except UnsupportedLanguageError as error:
            reply = _Reply(refusal=error.message)
        _send(replies, msgspec.msgpack.encode(reply))


if __name__ == "__main__":
    main()
