"""What the gateway adds: `python -m tests.bench.gateway`.

Calls a second and latency on one worker with an engine that answers at once, at 1, 32 and 128 clients: a
bare Litestar route in an application without hooks, the key alone, key and limits, the whole path with the
durable charge, and the same for a tenant whose caps in money and in units leave room. The modes take turns,
and each figure is the median over the rounds; ratios are to the bare route of the same round: machines
differ, and so do their moments.
"""

import asyncio
import itertools
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import uvicorn
import uvloop
from litestar import Litestar, post
from litestar.types import ASGIApp, Receive, Scope, Send

from billing.collecting.webhooks import StripeEvents
from billing.documents.typesetter import Typesetter
from billing.ledger import Ledger
from billing.refusals import Refusals
from billing.requests import IdempotentRequests
from gateway.app import add_headers
from gateway.auth import admit, identify
from gateway.bodies import AnyRequest
from gateway.customers import create_customer
from gateway.errors import EXCEPTION_HANDLERS
from gateway.limits import Limits
from gateway.metered import Metered
from gateway.routes.intents import create_intent
from gateway.services import Services, services_of
from gateway.staff_door import StaffDoor
from infra.database import open_pool
from infra.migrations import migrate
from infra.postgres import EmbeddedPostgres
from infra.settings import Settings
from infra.telemetry import Telemetry
from serving.client import ServingClient
from serving.contract import Answered, Catalog, EngineInfo, IntentAnswer, IntentScore, IntentSetInfo
from tenants.api_keys import create_key
from tenants.key_cache import KeyCache
from tenants.last_used import LastUsed
from tests.bench.load import Measured, measure

CLIENTS = (1, 32, 128)
ROUNDS = 5
DURATION_S = 1.0  # of each mode in each round
# What is asked, and whose key asks.
MODES = {
    "bare": ("/bare", "free"),
    "auth only": ("/auth", "free"),
    "auth and limits": ("/door", "free"),
    "charged": ("/v1/intents", "free"),
    "charged, capped tenant": ("/v1/intents", "capped"),
}
ROOMY_CAPS = {"money": 10**15, "intent.calls": 10**12, "asr.audio_ms": 10**12}
BODY = json.dumps({"model": "instant", "text": "where is my parcel?"}).encode()
ANSWER = (IntentAnswer("order_status", 0.9, (IntentScore("order_status", 0.9),), False),)


class InstantEngine:
    """Answers at once: what is left is the gateway."""

    catalog = Catalog(
        (EngineInfo("intent", "instant", "instant", "1"),), (IntentSetInfo("instant", "en", "", (), 0.5),)
    )

    async def classify(self, *_: object, **__: object) -> Answered[Sequence[IntentAnswer]]:
        return Answered(ANSWER, "instant", "instant")


@post("/bare", status_code=200)
async def bare(request: AnyRequest) -> dict[str, str]:
    await request.body()
    return {"intent": "order_status"}


async def only_auth(request: AnyRequest) -> None:
    await identify(services_of(request), request.scope, "intent")


@post("/auth", status_code=200, before_request=only_auth)
async def auth(request: AnyRequest) -> dict[str, str]:
    await request.body()
    return {"intent": "order_status"}


@post("/door", status_code=200, before_request=admit("intent"))
async def door(request: AnyRequest) -> dict[str, str]:
    await request.body()
    return {"intent": "order_status"}


def build(database_url: str) -> Litestar:
    """The gateway's own routes and hooks over an engine that answers at once."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncGenerator[None, None]:
        telemetry = Telemetry.from_environ("bench", {})
        pool = await open_pool(database_url, 4, "bench")
        keys, last_used, ledger = (
            KeyCache(pool, database_url),
            LastUsed(pool),
            Ledger(database_url, telemetry),
        )
        for part in (keys, last_used, ledger):
            await part.start()
        limits = Limits(requests_per_minute=10**9, max_concurrent_calls=10**6, workers=1)
        requests = IdempotentRequests(pool, ledger.session_id)
        requests.start()
        metered = Metered(ledger, requests, limits, telemetry)
        serving = cast(ServingClient, InstantEngine())
        app.state["services"] = Services(
            Settings(),
            pool,
            keys,
            last_used,
            Refusals(pool),
            ledger,
            requests,
            serving,
            limits,
            metered,
            telemetry,
            StaffDoor(pool, workers=1),
            asyncio.Semaphore(1),
            Typesetter(),
            StripeEvents(pool, []),
        )
        yield
        await ledger.close()
        await requests.close()
        await last_used.close()
        await keys.close()
        await pool.close()

    return Litestar(
        [auth, door, create_intent],
        exception_handlers=EXCEPTION_HANDLERS,
        before_send=[add_headers],
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
    )


def beside_bare(gateway: Litestar) -> ASGIApp:
    """The gateway, and the bare route in an application of its own, in one server."""
    plain = Litestar([bare], openapi_config=None, logging_config=None)

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        await (plain if scope["path"] == "/bare" else gateway)(scope, receive, send)

    return either


async def serve(database_url: str, handle: int) -> None:
    """The worker under load, in a process of its own."""
    app = build(database_url)
    config = uvicorn.Config(
        beside_bare(app),  # type: ignore[arg-type]
        lifespan="off",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    async with app.lifespan():
        await uvicorn.Server(config).serve([socket.socket(fileno=handle)])


async def prepare(database_url: str) -> dict[str, str]:
    """A key of a tenant without caps, and one of a capped tenant."""
    await migrate(database_url)
    pool = await open_pool(database_url, 2, "bench")
    keys: dict[str, str] = {}
    for name, caps in (("free", None), ("capped", ROOMY_CAPS)):
        tenant = await create_customer(pool, name, caps=caps)
        keys[name] = (await create_key(pool, tenant.tenant_id)).text.reveal()
    await pool.close()
    return keys


def request_bytes(path: str, key: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    return head.encode() + BODY


def main() -> None:
    """Start PostgreSQL and a worker, measure every mode, print the table."""
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(sys.argv[2], int(sys.argv[3])))
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0), backlog=512) as listener,
    ):
        postgres = EmbeddedPostgres(Path(folder))
        postgres.start()
        keys = asyncio.run(prepare(postgres.url))
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.gateway", "serve", postgres.url, str(listener.fileno())],
            pass_fds=[listener.fileno()],
        )
        try:
            port = listener.getsockname()[1]
            results: dict[tuple[str, int], list[Measured]] = {}
            for clients, _, mode in itertools.product(CLIENTS, range(ROUNDS), MODES):
                path, whose = MODES[mode]
                got = uvloop.run(
                    measure("127.0.0.1", port, request_bytes(path, keys[whose]), clients, DURATION_S)
                )
                results.setdefault((mode, clients), []).append(got)
        finally:
            worker.terminate()
            worker.wait(30)
            postgres.stop()
    sys.stdout.write(table(results))


def table(results: dict[tuple[str, int], list[Measured]]) -> str:
    """Markdown, ratios first."""
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, one worker, an instant engine, medians of {ROUNDS} rounds",
        "",
        "| clients | mode | calls/s to bare | ms above bare | calls/s | median ms | p95 ms | refused |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (mode, clients), rounds in results.items():
        beside = list(zip(rounds, results["bare", clients], strict=True))
        ratio = statistics.median(got.calls_per_s / bare.calls_per_s for got, bare in beside)
        above_ms = statistics.median(got.median_ms - bare.median_ms for got, bare in beside)
        calls_per_s = _median(rounds, lambda got: got.calls_per_s)
        median_ms, p95_ms = (
            _median(rounds, lambda got: got.median_ms),
            _median(rounds, lambda got: got.p95_ms),
        )
        refused = sum(got.refused for got in rounds)
        measured = f"{calls_per_s:.0f} | {median_ms:.2f} | {p95_ms:.2f} | {refused}"
        lines.append(f"| {clients} | {mode} | {ratio:.2f} | {above_ms:.2f} | {measured} |")
    return "\n".join(lines) + "\n"


def _median(rounds: Sequence[Measured], figure: Callable[[Measured], float]) -> float:
    return statistics.median(figure(got) for got in rounds)


if __name__ == "__main__":
    main()
