"""A really running `aiaas up`, for tests that stand where a user stands."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import psycopg

from infra.processes import left_behind

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
AIAAS = [str(Path(sys.executable).parent / "aiaas")]


def wait_until(holds: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it holds within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return False


class Stack:
    """`aiaas up` on a free port, over a home folder of its own."""

    def __init__(self, home: Path, workers: int = 1, environ: dict[str, str] | None = None) -> None:
        self.home = home
        self._workers = workers
        self._environ = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("OPENAI_", "AIAAS_"))
            },
            "AIAAS_HOME": str(home),
            **(environ or {}),
        }
        self._log = home.parent / f"{home.name}.log"
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.progress: list[dict[str, Any]] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [*AIAAS, "up", "--json", "--port", "0", "--workers", str(self._workers)],
                env=self._environ,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._lines = queue.SimpleQueue()
        threading.Thread(target=self._read, args=[self.process, self._lines], daemon=True).start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            line = self._lines.get(timeout=max(0.1, deadline - time.monotonic()))
            if not line:
                raise AssertionError(f"aiaas up ended while starting:\n{self.log()[-3000:]}")
            self.progress.append(json.loads(line))
            if "url" in self.progress[-1]:
                self.url = self.progress[-1]["url"]
                return

    def stop(self, sign: signal.Signals = signal.SIGINT) -> int:
        """Stop it as Ctrl-C does; returns its exit status."""
        assert self.process is not None
        self.process.send_signal(sign)
        return self.process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """`kill -9` of `aiaas up` itself."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)

    def processes(self) -> list[int]:
        """Every living process that this home's `aiaas up` started, itself excepted."""
        return [process.pid for process in left_behind(self.home)]

    def workers(self) -> list[psutil.Process]:
        """Its gateway workers, the oldest first."""
        return self.processes_named("gateway.worker")

    def replicas(self) -> list[psutil.Process]:
        """The processes in which Ray Serve runs its engines."""
        return self.processes_named("ray::ServeReplica")

    def processes_named(self, word: str) -> list[psutil.Process]:
        """Those that have the word in one of their arguments, the oldest first."""
        found: list[psutil.Process] = []
        for process in left_behind(self.home):
            with contextlib.suppress(psutil.Error):
                if any(word in part for part in process.cmdline()):
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def log(self) -> str:
        """All that it wrote to stderr."""
        return self._log.read_text()

    def demo_environ(self) -> dict[str, str]:
        """What `demo.env` sets."""
        lines = (self.home / "demo.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    @property
    def key(self) -> str:
        return self.demo_environ()["OPENAI_API_KEY"]

    def openai(self, key: str | None = None) -> openai.OpenAI:
        """The official client, with nothing set but the base URL and the key; it does not retry by itself."""
        return openai.OpenAI(
            base_url=self.demo_environ()["OPENAI_BASE_URL"],
            api_key=key or self.key,
            max_retries=0,
            timeout=60,
        )

    def http(self, key: str | None = None) -> httpx.Client:
        """A plain client, bearing the demo key unless told another."""
        return httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {key or self.key}"}, timeout=60
        )

    def cli(self, *arguments: str) -> Any:
        """Run a command with `--json`; returns what it printed."""
        done = self.run_cli(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def run_cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command; returns how it ended."""
        return subprocess.run(
            [*AIAAS, *arguments], env=self._environ, capture_output=True, text=True, timeout=60, check=False
        )

    def database(self) -> psycopg.Connection[Any]:
        """A connection to its database."""
        return psycopg.connect(self.cli("db-url")["url"], autocommit=True)

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: "queue.SimpleQueue[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")
