"""A real redis-server on a free port of loopback, that keeps nothing on disk."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from infra.settings import Secret

PASSWORD = "hunter2"
_DEADLINE_S = 10.0


class RedisServer:
    """Start, kill and start again; the port stays."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            # `make test` wants nothing but Python, make and a compiler; CI, which installs it, must have it.
            give_up = pytest.fail if os.environ.get("CI") else pytest.skip
            give_up("There is no redis-server. Get it with `apt-get install redis-server`.")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        options = {"port": self.port, "bind": "127.0.0.1", "requirepass": PASSWORD, "dir": folder}
        self._command = [binary, "--save", "", "--appendonly", "no"]
        for name, value in options.items():
            self._command += [f"--{name}", str(value)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> Secret:
        return Secret(f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0")

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + _DEADLINE_S
        while not self._listens():
            assert self._process.poll() is None, "redis-server ended at once."
            assert time.monotonic() < deadline, "redis-server does not listen."
            time.sleep(0.01)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The server takes connections, by its kernel, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> Any:
        with redis.Redis("127.0.0.1", self.port, password=PASSWORD) as client:
            return client.execute_command(*words)

    def refused_writes(self) -> int:
        """How many commands were refused because this server may not write."""
        return int(self.command("INFO", "errorstats").get("errorstat_READONLY", {}).get("count", 0))
