"""A part: a child process that says on its stdout, in JSON lines, how its start goes."""

import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from infra.errors import StartupError
from infra.processes import die_with_parent, marked_environ

Progress = dict[str, Any]


class Part:
    """One child process of `aiaas up`.

    Args:
        name: how people know it.
        command: what is run.
        home: marks the child, so that a later start finds it if this one is killed.
        environ: variables on top of this process's own.
        pass_fds: file descriptors that the child keeps.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        home: Path,
        environ: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self._progress: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env={**marked_environ(home), **(environ or {})},
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops parts in order
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 (it only calls prctl)
        )
        threading.Thread(target=self._read, daemon=True).start()

    def next_progress(self, timeout_s: float) -> Progress:
        """The next line of progress.

        Raises:
            StartupError: the part failed, ended, or said nothing in time.
        """
        try:
            line = self._progress.get(timeout=timeout_s)
        except queue.Empty:
            raise StartupError(f"{self.name} said nothing for {timeout_s:.0f} s while starting.") from None
        if line is None:
            raise StartupError(f"{self.name} ended while starting; its log is above.")
        if line.get("state") == "failed":
            raise StartupError(str(line.get("error")))
        return line

    def has_died(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def ask_to_stop(self) -> None:
        """Send SIGTERM; does not wait."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def wait_until_stopped(self, timeout_s: float) -> None:
        """Wait for the end; kill the process when it takes longer than `timeout_s`."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(msgspec.DecodeError):
                self._progress.put(msgspec.json.decode(line, type=dict[str, Any]))
        self._progress.put(None)


def wait_ready(part: Part, expected: set[str], timeout_s: float) -> list[Progress]:
    """Wait until each of the `expected` names has reported ready; returns their reports, first first.

    Raises:
        StartupError: one failed, or not all were ready within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    reports: list[Progress] = []
    missing = set(expected)
    while missing:
        line = part.next_progress(max(0.1, deadline - time.monotonic()))
        if line.get("state") == "ready":
            missing.discard(str(line.get("part")))
            reports.append(line)
    return reports
