"""What the host says of its parts, as JSON lines, and how it says why one cannot start."""

import re
from contextlib import suppress
from typing import IO, Any

import msgspec

_EXCEPTION_NAME = re.compile(r"^[\w.]+(Error|Exception): ")


class PartError(Exception):
    """A part failed: the message is one line for people."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


class Report:
    """Where progress goes: one line per part that is ready or failed, and now and then while one starts."""

    def __init__(self, output: IO[str]) -> None:
        self._output = output

    def ready(self, part: str, **facts: Any) -> None:
        """The part runs."""
        self._line({"part": part, "state": "ready", **facts})

    def starting(self, part: str, note: str) -> None:
        """The part is on its way still; `note` may say what it waits for."""
        self._line({"part": part, "state": "starting", "note": note})

    def failed(self, part: str, error: str) -> None:
        """The part cannot run."""
        self._line({"part": part, "state": "failed", "error": error})

    def _line(self, line: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # whoever watched is gone; its end is for it to tell us
            self._output.write(msgspec.json.encode(line).decode() + "\n")
            self._output.flush()


def first_line(error: BaseException) -> str:
    """What an exception says first."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def last_line(message: str) -> str:
    """The last line of a traceback says what happened."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return _EXCEPTION_NAME.sub("", lines[-1]).rstrip(".") if lines else "no reason was given"
