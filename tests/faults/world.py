"""The world of a run: PostgreSQL in the harness's hands, a wire to it, `aiaas up` at the wire's other end.

PostgreSQL is outside of `aiaas up`, as at a customer who runs their own: so that it can be stopped, frozen
and cut off without anybody starting it again, and so that a `kill -9` of everything else leaves it alone.
"""

import os
import shutil
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import httpx
import psutil

from infra.postgres import EmbeddedPostgres
from tests.faults.client import Customer
from tests.faults.wire import Address, DatabaseWire
from tests.stack import Stack, wait_until

_READY_TIMEOUT_S = 60.0
_CUSTOMERS = 3
_MANY = "1000000"


class World:
    """Everything that a round acts upon. Start and stop it on the main thread: PostgreSQL ends with the
    thread that started it.

    Args:
        folder: for all its files; it must be there.
        workers: gateway processes.
        environ: further settings of `aiaas up`.
    """

    def __init__(self, folder: Path, workers: int, environ: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.workers = workers
        self._environ = environ or {}
        self.postgres = EmbeddedPostgres(folder / "database")
        self.database_log = folder / "database" / "postgres" / "server.log"
        self.customers: list[Customer] = []
        self.parts_killed = 0

    def start(self) -> None:
        """Start everything; takes 10 to 20 s."""
        self.postgres.start()
        own = urlsplit(self.postgres.url)
        self.database_url = self.postgres.url
        self.wire = DatabaseWire(lambda: ("127.0.0.1", own.port or 0))
        wired = own._replace(netloc=f"{own.username}:{own.password}@127.0.0.1:{self.wire.port}").geturl()
        limits = {
            "REQUESTS_PER_MINUTE": _MANY,
            "MAX_CONCURRENT_CALLS": _MANY,
        }  # it is faults that are tried here
        environ = {"DATABASE_URL": wired, **limits, **self._environ}
        self.stack = Stack(self.folder / "home", self.workers, environ)
        self.stack.start()
        assert self.stack.cli("db-url")["url"] == wired
        self.customers = [self.new_customer() for _ in range(_CUSTOMERS)]

    def stop(self) -> int:
        """Stop everything; returns the exit status of `aiaas up`."""
        status = self.stack.stop(signal.SIGTERM)
        self.wire.close()
        self.postgres.stop()
        return status

    def url(self) -> str:
        """Where the gateway is now."""
        return self.stack.url

    def address(self) -> Address:
        """The same, as host and port."""
        at = urlsplit(self.stack.url)
        return (at.hostname or "", at.port or 0)

    def new_customer(
        self, tenant_options: tuple[str, ...] = (), key_options: tuple[str, ...] = ()
    ) -> Customer:
        """A tenant and its key, by the command line."""
        tenant_id = self.stack.cli("tenant", "create", "Of a round", *tenant_options)["tenant_id"]
        return self.new_key(tenant_id, key_options)

    def new_key(self, tenant_id: str, options: tuple[str, ...] = ()) -> Customer:
        """A further key of a tenant."""
        made = self.stack.cli("key", "create", "--tenant", tenant_id, *options)
        return Customer(tenant_id, made["key_id"], made["key"])

    def refresh(self) -> None:
        """Start `aiaas up` anew when much was killed: it lets parts that keep dying wait ever longer."""
        if self.parts_killed >= 3:
            self.stack.stop(signal.SIGTERM)
            self.start_up()

    def start_up(self) -> None:
        """Start `aiaas up` where none runs."""
        self.parts_killed = 0
        self.stack.start()

    def signal_worker(self, rng: Random, sign: signal.Signals = signal.SIGKILL) -> psutil.Process:
        """Send a signal to one of the gateway's workers."""
        self.parts_killed += 1
        return _signal(rng.choice(self.stack.workers()), sign)

    def kill_replica(self, rng: Random) -> None:
        """Kill one of Ray's replicas; Ray starts it again."""
        _signal(rng.choice(self.stack.replicas()), signal.SIGKILL)

    def end_postgres(self) -> None:
        """Kill PostgreSQL's first process, as an out-of-memory killer does; the others follow it."""
        family = self._postgres_family()
        _signal(family[0], signal.SIGKILL)
        psutil.wait_procs(family, timeout=_READY_TIMEOUT_S)

    def kill_postgres(self) -> None:
        """Kill PostgreSQL and start it again."""
        self.end_postgres()
        self.postgres.start()

    def restart_postgres(self, pause_s: float = 0) -> None:
        """A fast shutdown, as `pg_ctl restart` does it, and a start."""
        self.postgres.stop()
        time.sleep(pause_s)
        self.postgres.start()

    @contextmanager
    def frozen_postgres(self) -> Generator[None]:
        """PostgreSQL is there, takes connections by its kernel, and says nothing."""
        family = [_signal(process, signal.SIGSTOP) for process in self._postgres_family()]
        try:
            yield
        finally:
            for process in family:
                _signal(process, signal.SIGCONT)

    def kill_up(self, *, everything: bool) -> None:
        """Kill `aiaas up`, alone or with all that it started, and start it again."""
        assert self.stack.process is not None
        rest = self.stack.processes() if everything else []
        self.stack.process.kill()
        for pid in rest:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.stack.process.wait()
        self.start_up()

    def wait_ready(self) -> None:
        """Wait until all workers run and say that they are ready."""
        assert wait_until(self._is_ready, _READY_TIMEOUT_S), "the gateway did not become ready again"

    def _is_ready(self) -> bool:
        if len(self.stack.workers()) != self.workers:
            return False
        return all(self.readiness() == 200 for _ in range(2 * self.workers))

    def readiness(self) -> int | None:
        """The status of `/readyz` over a new connection; None where there is no answer."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.stack.url}/readyz", timeout=15, trust_env=False).status_code
        return None

    def keep_logs(self, folder: Path) -> None:
        """Copy the logs to where they outlive the world."""
        for log in (self.folder / "home.log", self.database_log):
            shutil.copy(log, folder)

    def _postgres_family(self) -> list[psutil.Process]:
        assert self.postgres.pid is not None
        first = psutil.Process(self.postgres.pid)
        return [first, *first.children(recursive=True)]


def _signal(process: psutil.Process, sign: signal.Signals) -> psutil.Process:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(sign)
    return process
