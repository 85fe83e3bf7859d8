"""`aiaas up`: everything on one machine, started in order, watched, restarted, stopped in order."""

import asyncio
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from gateway.demo_tenant import ensure_demo_tenant
from gateway.listener import listening
from gateway.parts import Part, Progress, wait_ready
from gateway.worker import DRAIN_TIMEOUT_S
from infra.errors import StartupError
from infra.migrations import migrate
from infra.postgres import EmbeddedPostgres
from infra.processes import end_left_behind
from infra.settings import Settings

Report = Callable[[Progress], None]

_SERVING_PARTS = {"ray", "media", "asr", "intent", "tts"}
_SERVING_SILENCE_S = 120.0  # it tells of its progress, and keeps its time itself
_WORKER_TIMEOUT_S = 60.0
_BILLING_TIMEOUT_S = 60.0
_BILLING_STOP_S = 15.0
_SERVING_STOP_S = 20.0
_WATCH_EVERY_S = 0.2
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0


class _StopRequested(BaseException):
    """SIGINT or SIGTERM came; raised wherever the supervisor is."""


def run_up(settings: Settings, report: Report) -> None:
    """Start everything and stay until SIGINT or SIGTERM; then stop everything.

    Args:
        report: called with each step of progress, such as `{"part": "ray", "state": "ready"}`.

    Raises:
        StartupError: a part cannot start; everything that had started is stopped again.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with _only_one(settings.home), listening(settings) as listener:
        stack = _Stack(settings, listener, report)
        signal.signal(signal.SIGINT, _request_stop)
        signal.signal(signal.SIGTERM, _request_stop)
        try:
            stack.start()
            stack.watch()
        except _StopRequested:
            report({"part": "aiaas", "state": "stopping"})
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            stack.stop()
        report({"part": "aiaas", "state": "stopped"})


class _Stack:
    """All parts of one run: PostgreSQL, the billing worker, the engines on Ray, the gateway workers."""

    def __init__(self, settings: Settings, listener: socket.socket, report: Report) -> None:
        self._settings = settings
        self._home = settings.home
        self._listener = listener
        self._report = report
        self._started = time.monotonic()
        self._postgres = None if settings.database_url else EmbeddedPostgres(self._home)
        self._serving: Part | None = None
        self._billing: Part | None = None
        self._ray_address = ""
        self._workers: list[Part] = []
        self._pause_s = _FIRST_PAUSE_S

    def start(self) -> None:
        """Start everything; engines load while the database is made ready."""
        if self._postgres:
            self._postgres.end_orphan()
        if ended := end_left_behind(self._home):
            self._say("aiaas", "ready", note=f"ended {ended} processes that a killed run left behind")
        self._serving = self._start_serving()
        self._start_database()
        self._billing = self._start_billing()
        self._wait_for_serving()
        self._workers = [self._start_worker() for _ in range(self._settings.aiaas_workers)]
        self._wait_for_billing()
        for worker in self._workers:
            wait_ready(worker, {"gateway"}, _WORKER_TIMEOUT_S)
        self._say("gateway", "ready", note=_count(len(self._workers), "worker"))
        self._report(
            {"part": "aiaas", "state": "ready", "url": _url(self._listener), "home": str(self._home)}
        )

    def watch(self) -> None:
        """Stay; start again what died, with growing pauses while it keeps dying."""
        steady_since = time.monotonic()
        while True:
            time.sleep(_WATCH_EVERY_S)
            dead = self._dead_part()
            if dead is None:
                if time.monotonic() - steady_since > _STEADY_S:
                    self._pause_s = _FIRST_PAUSE_S
                continue
            self._report(
                {"part": dead, "state": "died", "note": f"starting it again in {self._pause_s:.1f} s"}
            )
            time.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
            with _reported(dead, self._report):
                self._revive()
            steady_since = time.monotonic()

    def stop(self) -> None:
        """Stop in the order of a call: the gateway finishes what is in hand, then the rest, then database."""
        for worker in self._workers:
            worker.ask_to_stop()
        for worker in self._workers:
            worker.wait_until_stopped(DRAIN_TIMEOUT_S + 10)
        for part, stop_s in ((self._billing, _BILLING_STOP_S), (self._serving, _SERVING_STOP_S)):
            if part:
                part.ask_to_stop()
                part.wait_until_stopped(stop_s)
        if self._postgres:
            self._postgres.stop()
        end_left_behind(self._home)

    def _dead_part(self) -> str | None:
        if self._postgres and self._postgres.has_died():
            return "postgres"
        if self._serving is None or self._serving.has_died():
            return "ray"
        if self._billing is None or self._billing.has_died():
            return "billing"
        return "gateway" if any(worker.has_died() for worker in self._workers) else None

    def _revive(self) -> None:
        if self._postgres and self._postgres.has_died():
            self._postgres.start()
            self._say("postgres", "ready")
        if self._serving is None or self._serving.has_died():
            self._restart_serving()
        if self._billing is None or self._billing.has_died():
            self._billing = self._start_billing()
            self._wait_for_billing()
        for place, worker in enumerate(self._workers):
            if worker.has_died():
                self._workers[place] = self._start_worker()
                wait_ready(self._workers[place], {"gateway"}, _WORKER_TIMEOUT_S)
                self._say("gateway", "ready")

    def _restart_serving(self) -> None:
        """A new head has a new address: the workers are drivers of the old one and start anew with it."""
        for worker in self._workers:
            worker.ask_to_stop()
        for worker in self._workers:
            worker.wait_until_stopped(DRAIN_TIMEOUT_S + 10)
        self._serving = self._start_serving()
        self._wait_for_serving()

    def _start_database(self) -> None:
        if self._postgres:
            self._postgres.start()
        applied = asyncio.run(migrate(self._database_url))
        self._say("postgres", "ready", note=f"{_count(len(applied), 'migration')} applied" if applied else "")
        ensure_demo_tenant(self._database_url, self._home / "demo.env", _url(self._listener) + "/v1")

    @property
    def _database_url(self) -> str:
        if self._postgres:
            return self._postgres.url
        assert self._settings.database_url is not None
        return self._settings.database_url.reveal()

    def _start_serving(self) -> Part:
        return Part("serving", [sys.executable, "-m", "serving.host"], self._home)

    def _wait_for_serving(self) -> None:
        assert self._serving is not None
        missing = set(_SERVING_PARTS)
        while missing:
            line = self._serving.next_progress(_SERVING_SILENCE_S)
            if line.get("state") != "ready":
                self._say(str(line["part"]), str(line["state"]), note=str(line.get("note", "")))
                continue
            missing.discard(str(line["part"]))
            self._ray_address = line.get("address", self._ray_address)
            self._say(str(line["part"]), "ready", note=str(line.get("engine", "")))

    def _start_billing(self) -> Part:
        environ = {"DATABASE_URL": self._database_url}
        return Part("billing", [sys.executable, "-m", "billing.worker"], self._home, environ)

    def _wait_for_billing(self) -> None:
        assert self._billing is not None
        wait_ready(self._billing, {"billing"}, _BILLING_TIMEOUT_S)
        self._say("billing", "ready")

    def _start_worker(self) -> Part:
        handle = self._listener.fileno()
        command = [sys.executable, "-m", "gateway.worker", "--fd", str(handle), "--ray", self._ray_address]
        environ = {
            "DATABASE_URL": self._database_url,
            "AIAAS_HOME": str(self._home),
            "AIAAS_WORKERS": str(self._settings.aiaas_workers),
        }
        return Part("gateway", command, self._home, environ, pass_fds=[handle])

    def _say(self, part: str, state: str, note: str = "") -> None:
        after_s = time.monotonic() - self._started
        self._report({"part": part, "state": state, "after_s": round(after_s, 1), "note": note})


@contextmanager
def _reported(part: str, report: Report) -> Generator[None, None, None]:
    """A part that cannot be started again is reported; the watch goes on and tries later."""
    try:
        yield
    except StartupError as error:
        report({"part": part, "state": "failed", "note": str(error)})


@contextmanager
def _only_one(home: Path) -> Generator[None, None, None]:
    """Hold the home's lock, which the kernel lets go of when this process ends, however it ends."""
    with (home / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise StartupError(
                f"`aiaas up` runs already in {home} (process {lock.read().strip()})."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{reachable}:{port}"


def _request_stop(_: int, __: FrameType | None) -> Any:
    raise _StopRequested


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
