"""Ray's head on this machine, with the least that Serve needs; it ends with the process that owns it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from infra.errors import StartupError
from infra.processes import die_with_parent, marked_environ
from infra.settings import Settings
from serving.progress import PartError
from serving.ray_environment import ray_folder, session_folder

_OBJECT_STORE_BYTES = 256 * 1024 * 1024
_RAY_START_S = 60.0
_POLL_S = 0.05


def start_head(settings: Settings) -> subprocess.Popen[bytes]:
    """Start Ray with the least that Serve needs: no dashboard, no autoscaler, no log monitor, no client port.

    The head ends with this process, also when that is killed.
    """
    sessions = _clear_sessions(settings)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    options = {
        "port": 0,
        "node-ip-address": "127.0.0.1",
        "num-cpus": max(1, cores()),
        "object-store-memory": _OBJECT_STORE_BYTES,
        "temp-dir": sessions,
        "include-dashboard": "false",
        "include-log-monitor": "false",
        "dashboard-agent-listen-port": 0,
    }
    command += [f"--{name}={value}" for name, value in options.items()]
    command += ["--no-monitor", "--disable-usage-stats"]
    return subprocess.Popen(
        command,
        env={**marked_environ(settings.home), "RAY_START_HOOK": "serving.head.bare_head"},
        stdin=subprocess.DEVNULL,
        preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 (no thread was started yet)
        start_new_session=True,  # Ctrl-C in a terminal is for us alone to act upon
    )


def bare_head(head_parameters: Any, _is_head: bool) -> None:
    """Called by `ray start` in its own process: leaves out what it would start whatever its options say.

    These are the server for Ray's remote client, and the dashboard, of which `--include-dashboard=false`
    leaves a process that does nothing, yet is waited for.
    """
    from ray._private.node import Node

    def no_dashboard(self: Node, *, include_dashboard: bool | None, raise_on_failure: bool) -> None:
        self._webui_url = ""

    head_parameters.ray_client_server_port = None
    Node.start_api_server = no_dashboard


def _clear_sessions(settings: Settings) -> Path:
    """The folder for Ray's sessions, with the last one left in it for whoever wants to read its logs."""
    try:
        sessions = session_folder(settings)
    except StartupError as error:
        raise PartError("ray", str(error)) from None
    for session in sorted(sessions.glob("session_2*"))[:-1]:
        shutil.rmtree(session, ignore_errors=True)
    (sessions / "ray_current_cluster").unlink(missing_ok=True)
    return sessions


def await_head(settings: Settings, head: subprocess.Popen[bytes]) -> str:
    """The head's address, which it writes down when it is up."""
    address_file = session_folder(settings) / "ray_current_cluster"
    log = ray_folder(settings) / "host.log"
    deadline = time.monotonic() + _RAY_START_S
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            if address := address_file.read_text().strip():
                return address
        if head.poll() is not None:
            raise PartError("ray", f"Ray's head ended with status {head.returncode}. See {log}.")
        time.sleep(_POLL_S)
    raise PartError("ray", f"Ray's head was not up within {_RAY_START_S:.0f} s. See {log}.")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
