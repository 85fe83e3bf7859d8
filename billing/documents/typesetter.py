"""Documents are set in processes of their own: few at once, each bounded in time and memory.

A process can be ended where a thread cannot, and takes its memory with it. What customers wrote reaches it as
JSON on its standard input.
"""

import asyncio
import sys
import unicodedata
from collections import Counter
from contextlib import suppress
from datetime import datetime
from typing import Final, cast

import msgspec

from billing.documents.paper import Paper
from infra.errors import RetryLaterError

_AT_ONCE: Final = 2
_INSIDE: Final = 24
_INSIDE_EACH: Final = 6
_TIMEOUT_S: Final = 30.0
_RETRY_AFTER_S: Final = 5.0


class DocumentsBusyError(RetryLaterError):
    """Too many documents are being made, or this one took too long."""

    code = "documents_busy"


class DocumentError(Exception):
    """A document could not be set: a defect, whose trace is in `args`."""


class Typesetter:
    """Sets documents, `at_once` at the same time.

    Args:
        inside: how many may be set or wait; who comes after is told to come again.
        inside_each: how many of them may be of one reader, so that one tenant does not keep others out.
        timeout_s: for waiting and setting together.
    """

    def __init__(
        self,
        at_once: int = _AT_ONCE,
        inside: int = _INSIDE,
        inside_each: int = _INSIDE_EACH,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._room = asyncio.Semaphore(at_once)
        self._most, self._most_each = inside, inside_each
        self._timeout_s = timeout_s
        self._inside: Counter[str] = Counter()

    async def pdf(self, paper: Paper, created_at: datetime, reader: str) -> bytes:
        """A document as PDF/A-2u; the same bytes for the same paper and moment.

        Raises:
            DocumentsBusyError: too many wait already, or it took longer than the limit.
            DocumentError: it cannot be set.
        """
        if self._inside.total() >= self._most or self._inside[reader] >= self._most_each:
            raise DocumentsBusyError(
                "Too many documents are being made. Try again shortly.", retry_after_s=_RETRY_AFTER_S
            )
        self._inside[reader] += 1
        try:
            async with asyncio.timeout(self._timeout_s), self._room:
                paper_json = msgspec.json.encode(_plain(msgspec.to_builtins(paper)))
                return await _set(paper_json, int(created_at.timestamp()))
        except TimeoutError:
            raise DocumentsBusyError(
                "The document took too long. Try again shortly.", retry_after_s=_RETRY_AFTER_S
            ) from None
        finally:
            self._inside[reader] -= 1
            self._inside += Counter()  # drops readers with nothing inside


async def _set(paper_json: bytes, created_unix_s: int) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "billing.documents.typeset",
        str(created_unix_s),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        made, trace = await process.communicate(paper_json)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    if process.returncode:
        raise DocumentError(trace.decode(errors="replace")[-2000:])
    return made


def _plain(value: object) -> object:
    """A document's texts without what cannot be printed."""
    match value:
        case str():
            return printable(value)
        case dict():
            return {name: _plain(one) for name, one in cast("dict[str, object]", value).items()}
        case list():
            return [_plain(one) for one in cast("list[object]", value)]
        case _:
            return value


def printable(text: str) -> str:
    """The text in one line: white space as spaces; without control characters, marks that turn the direction
    of writing, and code points that are no characters."""
    spaced = " ".join(text.split())
    return "".join(one for one in spaced if unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
