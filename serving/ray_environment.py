"""How Ray is set up. Ray reads its settings from the environment when it is first imported."""

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from infra.errors import StartupError
from infra.settings import Settings

# Linux keeps 108 bytes for the path of a Unix socket, the last of them a zero (unix(7)); Ray's longest is
# "<folder>/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store".
_LONGEST_SOCKET_PATH = 107
_SOCKET_SUFFIX = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")

_LARGEST_MESSAGE_BYTES = 64 * 1024 * 1024
_HEAD_ABSENCE_S = 24 * 3600

_SETTINGS = {
    # One handle call 1 ms quicker: calls go over gRPC, user code and router run on the caller's own loop.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # That transport takes 4 MB unless told; an upload is 25 MB at most.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(_LARGEST_MESSAGE_BYTES),
    # It would also open an HTTP port per replica.
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    # Workers run at niceness 15 by default: engines would wait for everything else on the machine.
    "RAY_worker_niceness": "0",
    # Ray renames its processes, and would wipe their environment from the process table with it: that is
    # where the mark is by which `infra.processes` knows what a killed run left behind.
    "SPT_NOENV": "1",
    # There is no other node to drain to.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    # No copy of the working tree for workers when a run was started by `uv run`.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}

_LOCAL_SETTINGS = {
    # A driver ends itself this long after the head is gone: here the supervisor has it end before, its calls
    # answered. On a cluster of others it is Ray's own minute, after which whoever watches starts it anew.
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(_HEAD_ABSENCE_S),
    "RAY_AUTH_MODE": "token",
    # Ray's switch for "one machine, loopback only", which macOS and Windows have by default.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


def prepare_ray_environment(settings: Settings, environ: MutableMapping[str, str]) -> None:
    """Set the variables that Ray needs: in every process of ours, before Ray is first imported in it.

    For a local Ray that includes the token which every connection must show. A cluster that `RAY_ADDRESS`
    names keeps its own authentication and addresses. Raises nothing; `make_ray_folder` makes the token.
    """
    environ.update(_SETTINGS)
    if settings.ray_address is None:
        environ.update(_LOCAL_SETTINGS)
        environ["RAY_AUTH_TOKEN_PATH"] = str(ray_folder(settings) / "auth_token")
        environ.pop("RAY_AUTH_TOKEN", None)


def ray_folder(settings: Settings) -> Path:
    """Where the token, the log of the host and, where the path is short enough, Ray's sessions live."""
    return settings.home / "ray"


def make_ray_folder(settings: Settings) -> None:
    """Make the folder, open to its owner only, and a fresh token in it.

    Raises:
        StartupError: the folder cannot be written.
    """
    folder = ray_folder(settings)
    token = folder / "auth_token"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        token.unlink(missing_ok=True)
        with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except OSError as error:
        reason = error.strerror or error
        raise StartupError(
            f"{folder} cannot be written: {reason}. Set AIAAS_HOME to a folder that can."
        ) from None


def session_folder(settings: Settings) -> Path:
    """Where Ray keeps its sessions: sockets, logs, spilled objects.

    Sockets need a short path: where `AIAAS_HOME` is too deep for them, a folder of this home's own in the
    system's temporary folder, that nobody else can enter.

    Raises:
        StartupError: the temporary folder is there already, and belongs to somebody else.
    """
    outer = ray_folder(settings)
    if _is_too_deep(settings):
        outer = _short_folder(settings)
        _claim(outer)
    folder = outer / "tmp"  # Ray opens this one to everybody: the one around it keeps them out
    folder.mkdir(exist_ok=True)
    return folder


def clear_short_folder(settings: Settings) -> None:
    """After a clean end, leave nothing outside `AIAAS_HOME`."""
    if _is_too_deep(settings):
        shutil.rmtree(_short_folder(settings), ignore_errors=True)


def _is_too_deep(settings: Settings) -> bool:
    return len(os.fsencode(ray_folder(settings) / "tmp")) + _SOCKET_SUFFIX > _LONGEST_SOCKET_PATH


def _short_folder(settings: Settings) -> Path:
    digest = hashlib.sha256(os.fsencode(settings.home)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"aiaas-{digest}"


def _claim(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise StartupError(
            f"{folder} cannot be made: {error.strerror}. Set TMPDIR, or a shorter AIAAS_HOME."
        ) from None
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise StartupError(f"{folder} is not ours alone. Remove it, or set a shorter AIAAS_HOME.")
