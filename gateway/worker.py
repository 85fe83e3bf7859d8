"""`python -m gateway.worker`: one gateway process.

Under `aiaas up` it serves on the supervisor's socket, whose file descriptor it is given, and is told where
Ray is. In a container it stands alone: it listens on `AIAAS_HOST` and `AIAAS_PORT` by itself, joins the
cluster that `RAY_ADDRESS` names, and ends when that is lost, to be started again. Both set `DATABASE_URL`.
Progress goes to stdout as JSON lines, as `serving.host` does it: one when ready, or one that says why not.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import msgspec
import uvicorn
import uvloop
from litestar import Litestar

from gateway.app import create_app
from gateway.listener import listening
from gateway.services import Services
from infra.errors import DomainError, StartupError
from infra.logs import set_up_logs
from infra.settings import Settings, load_settings
from serving.errors import EngineUnavailableError

DRAIN_TIMEOUT_S = 30
_KEEP_ALIVE_S = 75
_LINGER_S = 1.0
_MAX_CONNECTIONS = 4096


def main() -> int:
    """Serve until SIGTERM or SIGINT, then finish the calls in hand."""
    arguments = _parser().parse_args()
    try:
        settings = load_settings(os.environ)
        set_up_logs(settings.log_level)
        if settings.database_url is None:
            raise StartupError("DATABASE_URL is not set: a worker is told where PostgreSQL is.")
        app = create_app(settings, settings.database_url.reveal(), _ray_address(arguments.ray, settings))
        with (
            _listener(arguments.fd, settings) as listener,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_serve(app, listener, is_alone=arguments.fd is None))
    except (StartupError, DomainError) as error:
        _report({"part": "gateway", "state": "failed", "error": str(error)})
        return 1
    except asyncio.CancelledError:
        return 0
    return 0


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: it would raise the signal again before the drain ends.

    And with a drain that loses no request: one may lie unread on a connection that looks idle, so every
    connection has a second to be answered on, and is told to close, before the idle ones are closed.
    """

    def __init__(self, config: uvicorn.Config, app: Litestar) -> None:
        super().__init__(config)
        self._app = app

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self._app.state["is_draining"] = True
        if self.server_state.connections:
            await asyncio.sleep(_LINGER_S)
        await super().shutdown(sockets)


async def _serve(app: Litestar, listener: socket.socket, *, is_alone: bool) -> None:
    config = uvicorn.Config(
        app,
        lifespan="off",  # entered here, so that a failure is an exception and not a log entry
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
    )
    server = _Server(config, app)
    _on_stop_signals(asyncio.current_task().cancel)  # type: ignore[union-attr]
    async with app.lifespan():
        _on_stop_signals(lambda: setattr(server, "should_exit", True))
        _report({"part": "gateway", "state": "ready", "pid": os.getpid()})
        watch = asyncio.create_task(_stop_when_lost(app, server)) if is_alone else None
        await server.serve([listener])
        is_lost = watch is not None and not watch.cancel()
    if is_lost:
        raise EngineUnavailableError("The raylet beside this gateway is gone, and the cluster with it.")


async def _stop_when_lost(app: Litestar, server: uvicorn.Server) -> None:
    services: Services = app.state["services"]
    await services.serving.until_lost()
    server.should_exit = True


def _on_stop_signals(stop: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gateway.worker")
    parser.add_argument("--fd", type=int, help="the listening socket [default: one on AIAAS_HOST:AIAAS_PORT]")
    parser.add_argument("--ray", help="the Ray cluster, as host:port [default: RAY_ADDRESS]")
    return parser


def _listener(inherited: int | None, settings: Settings) -> AbstractContextManager[socket.socket]:
    return listening(settings) if inherited is None else socket.socket(fileno=inherited)


def _ray_address(given: str | None, settings: Settings) -> str:
    address = given or settings.ray_address
    if address is None:
        raise StartupError("RAY_ADDRESS is not set: a worker is told where Ray is, as host:port.")
    return address


def _report(line: dict[str, object]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
