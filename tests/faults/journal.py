"""What the clients saw, written down as it happened: append-only, flushed line by line.

A *request* is what a customer wants once. It may be sent several times: each time is an *attempt*, with
a line when it was sent and a line when it ended.
"""

import threading
import time
from pathlib import Path
from typing import Literal

import msgspec

Outcome = Literal["answered", "refused", "broken"]


class Sent(msgspec.Struct, frozen=True, kw_only=True, tag="sent"):
    """An attempt began.

    Attributes:
        attempt: counts up within a journal.
        request: what it is an attempt of.
        meter: what the client expects to be charged for, and how many `units`.
        is_retried: whether the request is sent again until it is answered, be it by the client's library.
    """

    at_s: float
    attempt: int
    request: str
    tenant_id: str
    key_id: str
    meter: str
    units: int
    is_retried: bool = False


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """An attempt ended: with a complete success, with a complete error, or with neither.

    Attributes:
        status: None where no status line came.
        call_id: 32 hexadecimal digits, where the header came.
        meter: what the answer says was charged, and how many `units`.
        code: the error's code.
        digest: of the body, where it is JSON.
        is_replay: the answer says that it was kept from an earlier attempt.
    """

    at_s: float
    attempt: int
    outcome: Outcome
    status: int | None = None
    call_id: str | None = None
    meter: str | None = None
    units: int | None = None
    code: str | None = None
    retry_after: str | None = None
    digest: str | None = None
    is_replay: bool = False


class Mark(msgspec.Struct, frozen=True, kw_only=True, tag="mark"):
    """What was done to the system, and how many attempts were under way just then."""

    at_s: float
    what: str
    in_flight: int


Entry = Sent | Ended | Mark
_DECODER = msgspec.json.Decoder(Entry)


class Journal:
    """One round's journal. Any thread may write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("xb")
        self._lock = threading.Lock()
        self._attempts = 0
        self._in_flight = 0
        self._answered = 0

    @property
    def in_flight(self) -> int:
        """Attempts that were sent and have not ended."""
        return self._in_flight

    @property
    def answered(self) -> int:
        """Attempts that were answered."""
        return self._answered

    def sent(
        self,
        *,
        request: str,
        tenant_id: str,
        key_id: str,
        meter: str,
        units: int,
        is_retried: bool = False,
    ) -> int:
        """Write an attempt's beginning; returns its number."""
        with self._lock:
            self._attempts += 1
            self._in_flight += 1
            entry = Sent(
                at_s=time.time(),
                attempt=self._attempts,
                request=request,
                tenant_id=tenant_id,
                key_id=key_id,
                meter=meter,
                units=units,
                is_retried=is_retried,
            )
            self._write(entry)
            return self._attempts

    def ended(self, entry: Ended) -> None:
        """Write an attempt's end."""
        with self._lock:
            self._in_flight -= 1
            self._answered += entry.outcome == "answered"
            self._write(entry)

    def mark(self, what: str) -> Mark:
        """Write down what is about to be done to the system."""
        with self._lock:
            entry = Mark(at_s=time.time(), what=what, in_flight=self._in_flight)
            self._write(entry)
            return entry

    def close(self) -> None:
        self._file.close()

    def _write(self, entry: Entry) -> None:
        self._file.write(msgspec.json.encode(entry) + b"\n")
        self._file.flush()


def read(path: Path) -> list[Entry]:
    """A journal's entries; a line that a killed writer left half written is no entry."""
    return [
        _DECODER.decode(line) for line in path.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"
    ]
