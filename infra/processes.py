"""The processes that one `aiaas up` starts, and those that a killed one left behind."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

HOME_MARK = "AIAAS_UP_HOME"
_PR_SET_PDEATHSIG = 1


def die_with_parent(sign: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn` that has the kernel send `sign` to the child when its parent dies (Linux, prctl(2)).

    Elsewhere it does nothing, and a killed run is cleared up at the next start.
    """
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl  # resolved before the fork: little is safe between fork and exec

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, sign.value)

    return ask_kernel


def marked_environ(home: Path) -> dict[str, str]:
    """This process's environment with the mark by which `left_behind` knows a child of this home."""
    return {**os.environ, HOME_MARK: str(home)}


def left_behind(home: Path) -> list[psutil.Process]:
    """Processes that carry this home's mark, this one and its ancestors excepted."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.pid not in own and process.environ().get(HOME_MARK) == str(home):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def end(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Ask processes to end, kill those that have not within `timeout_s`; returns those still alive."""
    for process in processes:
        _send(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    for process in alive:
        _send(process, signal.SIGKILL)
    _, alive = psutil.wait_procs(alive, timeout=5)
    return alive


def end_left_behind(home: Path, timeout_s: float = 5.0) -> int:
    """End what a killed run of this home left; returns how many processes there were.

    Looks again until nothing is found: a process that was just being forked is missed by one look.
    """
    ended = 0
    deadline = time.monotonic() + timeout_s * 3
    while (found := left_behind(home)) and time.monotonic() < deadline:
        end(found, timeout_s)
        ended += len(found)
    return ended


def _send(process: psutil.Process, sign: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(sign)
