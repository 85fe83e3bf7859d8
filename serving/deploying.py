"""The applications brought to Serve, watched until they run, and taken back."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from infra.settings import Settings
from serving.head import cores
from serving.progress import PartError, Report, last_line

_DESCRIBE_S = 30.0
_STATUS_POLL_S = 0.25
_TELL_EVERY_S = 10.0
_TAKE_BACK_S = 15.0
_REFUSED = "StartupError: "
_PARTS = ("intent", "asr", "tts", "media")


def deploy(settings: Settings, report: Report, log: Path) -> None:
    """Deploy every application to the Ray that was joined, and report each part when it runs.

    Raises:
        PartError: one of them cannot run.
    """
    import ray
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from serving.applications import applications

    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(proxy_location="Disabled", logging_config=quiet)
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    parts = applications(settings, cores(), local=settings.ray_address is None, has_gpu=has_gpu)
    serve.run_many(
        [
            serve.RunTarget(application, name=part, route_prefix=None, logging_config=quiet)
            for part, application in parts.items()
        ],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    try:
        for part in _as_they_come_up(set(parts), settings.serving_start_timeout_s, report):
            report.ready(part, **asyncio.run(_facts(part)))
    except PartError as error:
        raise PartError(error.part, f"{error.part} could not start: {error}. See {log.parent}.") from None


def _as_they_come_up(waiting: set[str], timeout_s: float, report: Report) -> Iterator[str]:
    """Each part when it runs; tells of those that take long.

    Raises:
        PartError: one does not run, and will not by itself, or not in time.
    """
    from ray import serve

    began = told = time.monotonic()
    while waiting:
        applications = serve.status().applications
        for part in sorted(waiting & applications.keys()):
            message = _message(applications[part])
            if applications[part].status == "RUNNING":
                waiting.discard(part)
                yield part
            # A model that cannot be had stays so: Serve would start the replica twice more to find out.
            elif _REFUSED in message or applications[part].status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise PartError(part, last_line(message))
        if time.monotonic() - began > timeout_s:
            note = _note(applications, late := min(waiting))
            limit = f"not up within {timeout_s:.0f} s (SERVING_START_TIMEOUT_S)"
            raise PartError(late, f"{limit}: {note}" if note else limit)
        if time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            for part in sorted(waiting):
                report.starting(part, _note(applications, part))
        time.sleep(_STATUS_POLL_S)


def _note(applications: Mapping[str, Any], part: str) -> str:
    message = _message(applications[part]) if part in applications else ""
    return last_line(message) if message else ""


def _message(application: Any) -> str:
    """What Serve says of it: nothing, that no node has room for it, or a replica's traceback."""
    details = [deployment.message for deployment in application.deployments.values()]
    return "\n".join([application.message, *details]).strip()


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


def take_back() -> None:
    """Take the applications back from a cluster that others own, and leave it.

    What is in hand is finished, within `_TAKE_BACK_S`; what takes longer, the cluster lets finish by itself.
    """
    import ray
    from ray import serve

    if not ray.is_initialized():  # Serve would start a Ray of its own to delete from
        return
    with suppress(Exception):  # the cluster may be what is away
        for part in _PARTS:
            serve.delete(part, _blocking=False)
        deadline = time.monotonic() + _TAKE_BACK_S
        while set(_PARTS) & serve.status().applications.keys() and time.monotonic() < deadline:
            time.sleep(_STATUS_POLL_S)
    ray.shutdown()
