"""A storage for `limits` in one event loop's memory.

The bundled memory storage is made for threads: it takes a lock a count, and starts a thread a hundred times
a second to find what has ended, which cost a request 50 microseconds here. One event loop needs neither.
"""

import time

import msgspec
from limits.storage import Storage

_SCHEME = "loop-memory"
_SWEEP_EVERY_S = 60.0
LOOP_MEMORY_URI = f"{_SCHEME}://"


class _Window(msgspec.Struct):
    count: int
    ends_s: float  # monotonic: a clock that is set must not make a window last


class LoopMemoryStorage(Storage):
    """Counts in fixed windows, for callers in one thread; what has ended is dropped within two minutes.

    It is as large as there were names in that time. `gateway.limits` counts those who were authenticated, and
    nobody else; `gateway.attempts`, which counts strangers, looks at its size. Registered with
    `limits` by its scheme, as its guide to storages says.
    """

    STORAGE_SCHEME = [_SCHEME]  # noqa: RUF012

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, **_: str) -> None:
        super().__init__(uri, wrap_exceptions)
        self._windows: dict[str, _Window] = {}
        self._next_sweep_s = 0.0

    def hit(self, window: str, seconds: int) -> tuple[int, float]:
        """Count a request; how many there are in the window now, and the seconds left of it."""
        now_s = time.monotonic()
        held = self._windows.get(window)
        if held is None or held.ends_s <= now_s:
            self._sweep(now_s)
            held = self._windows[window] = _Window(0, now_s + seconds)
        held.count += 1
        return held.count, held.ends_s - now_s

    @property
    def size(self) -> int:
        """How many windows are held, those that ended a moment ago too."""
        return len(self._windows)

    # What `limits` asks of every storage.

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        self.hit(key, expiry)
        self._windows[key].count += amount - 1
        return self._windows[key].count

    def get(self, key: str) -> int:
        held = self._windows.get(key)
        return held.count if held and held.ends_s > time.monotonic() else 0

    def get_expiry(self, key: str) -> float:
        held = self._windows.get(key)
        return time.time() + (max(0.0, held.ends_s - time.monotonic()) if held else 0.0)

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        held = len(self._windows)
        self._windows.clear()
        return held

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)

    def _sweep(self, now_s: float) -> None:
        """Drop what has ended, once a minute."""
        if now_s >= self._next_sweep_s:
            self._next_sweep_s = now_s + _SWEEP_EVERY_S
            self._windows = {key: window for key, window in self._windows.items() if window.ends_s > now_s}
