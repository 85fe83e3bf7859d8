"""A recogniser in a process of its own, for engines that hold the interpreter lock or may crash."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, cast

import msgspec

from serving.contract import EngineInfo, Recognised, RecognitionRequest, Sound
from serving.engines.pocketsphinx import INFO, PocketsphinxRecogniser
from serving.errors import EngineUnavailableError, UnsupportedLanguageError, UnsupportedTaskError
from serving.pipes import receive, send

_MODULE = "serving.engines.isolated"


_REFUSALS = (UnsupportedLanguageError, UnsupportedTaskError)


class _Reply(msgspec.Struct, frozen=True):
    """`refusal` is the code of one of `_REFUSALS` and its message."""

    recognised: tuple[Recognised, ...] = ()
    refusal: tuple[str, str] | None = None


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
        self.recognise([Sound(b"", RecognitionRequest())])

    def recognise(self, sounds: Sequence[Sound]) -> tuple[Recognised, ...]:
        """See `Recogniser.recognise`.

        Raises:
            UnsupportedLanguageError, UnsupportedTaskError: as the engine does.
            EngineUnavailableError: the process ended while it worked.
        """
        child = self._living_child()
        to_child, from_child = cast(IO[bytes], child.stdin), cast(IO[bytes], child.stdout)
        try:
            send(to_child, msgspec.msgpack.encode(sounds))
            message = receive(from_child)
        except (OSError, ValueError):  # ValueError: the pipe was closed by `stop`
            message = None
        if message is None:
            self.stop()
            raise EngineUnavailableError
        reply = msgspec.msgpack.decode(message, type=_Reply)
        if reply.refusal is not None:
            code, message = reply.refusal
            raise next(refusal for refusal in _REFUSALS if refusal.code == code)(message)
        return reply.recognised

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


def main() -> None:
    """Answer requests on standard input until it ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a C library prints must not mix with replies
    recogniser = PocketsphinxRecogniser()
    while (message := receive(sys.stdin.buffer)) is not None:
        sounds = msgspec.msgpack.decode(message, type=list[Sound])
        try:
            reply = _Reply(recogniser.recognise(sounds))
        except _REFUSALS as error:
            reply = _Reply(refusal=(error.code, error.message))
        send(replies, msgspec.msgpack.encode(reply))


if __name__ == "__main__":
    main()
