"""`GET /healthz` and `GET /readyz`: for probes, without a key."""

import asyncio

from litestar import Response, get

from gateway.bodies import AnyRequest
from gateway.services import Services, services_of
from infra.database import borrow
from infra.errors import UnavailableError
from openapi.endpoint import Endpoint
from openapi.wire import HealthBody, ReadyBody

_DATABASE_TIMEOUT_S = 1.0
HEALTH = Endpoint(
    operation_id="readHealth", tag="Health", answer={"application/json": HealthBody}, access="open", errors=()
)
READINESS = Endpoint(
    operation_id="readReadiness",
    tag="Health",
    answer={"application/json": ReadyBody},
    access="open",
    errors=(),
)


@get("/healthz", opt={"endpoint": HEALTH})
async def get_health() -> HealthBody:
    """Liveness.

    The process answers. It says nothing of what it leans on: see `/readyz`.
    """
    return HealthBody()


@get("/readyz", opt={"endpoint": READINESS})
async def get_readiness(request: AnyRequest) -> Response[ReadyBody]:
    """Readiness.

    Whether calls can be answered now: 200 when they can; 503, with the same body, when a part is away.
    """
    services = services_of(request)
    database, engines = await asyncio.gather(_database_answers(services), services.serving.check())
    parts = {"database": database, **engines}
    ready = all(parts.values())
    return Response(ReadyBody(ready, parts), status_code=200 if ready else 503)


async def _database_answers(services: Services) -> bool:
    try:
        async with borrow(
            services.pool, borrow_timeout_s=_DATABASE_TIMEOUT_S, use_timeout_s=_DATABASE_TIMEOUT_S
        ) as connection:
            await connection.execute("SELECT 1")
    except UnavailableError:
        return False
    return True
