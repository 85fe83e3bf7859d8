"""The worker's jobs: what runs when, over the job library.

Jobs are kept in PostgreSQL, so that any number of workers share them, each job to one worker and each tick of
a periodic job once. A job is but a reason to look: what it works on is safe to do again, and nothing depends
on a job not being lost.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import msgspec
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import UniqueViolation
from procrastinate.jobs import DeleteJobCondition, Status

from billing.store.jobs import SCHEMA
from infra.database import ALIVE, Connection

_CONCURRENCY: Final = 8
_CONNECTIONS: Final = 4
_OPEN_TIMEOUT_S: Final = 5.0
_BORROW_TIMEOUT_S: Final = 2.0
_MADE_UP_FOR_S: Final = 86_400.0
_HEARTBEAT_S: Final = 5.0
_DEAD_AFTER_S: Final = 30.0
_FINISH_TIMEOUT_S: Final = 5.0
_AHEAD_OF_DELIVERIES: Final = 1


class PeriodicJob(msgspec.Struct, frozen=True):
    """Work for one of the workers at each tick.

    Attributes:
        name: as it is known in the database.
        cron: five fields, or six with seconds as the last (croniter). In UTC.
        work: safe to run twice, and at the same time as another run of it.
        alone: it may take long: one at a time, over all workers.
    """

    name: str
    cron: str
    work: Callable[[], Awaitable[object]]
    alone: bool = False


@asynccontextmanager
async def open_app(
    database_url: str, tasks: Mapping[str, Callable[[str], Awaitable[None]]], periodic: Sequence[PeriodicJob]
) -> AsyncGenerator[App]:
    """The library's application, connected.

    A tick of the last day that no worker was there for is made up for when one starts.

    Args:
        tasks: by name, what is done about the one thing whose id it is given; see `billing.store.jobs`.

    Raises:
        procrastinate.exceptions.ConnectorException, TimeoutError: the database is away.
    """
    connector = PsycopgConnector(
        conninfo=database_url,
        min_size=1,
        max_size=_CONNECTIONS,
        timeout=_BORROW_TIMEOUT_S,
        configure=_find_tables,
        kwargs={"application_name": "aiaas-billing-jobs", **ALIVE},
    )
    app = App(connector=connector, periodic_defaults={"max_delay": _MADE_UP_FOR_S})
    for name, work in tasks.items():
        app.task(name=name)(work)
    for job in (*periodic, _put_back_orphans(app)):
        _register(app, job)
    try:
        async with asyncio.timeout(_OPEN_TIMEOUT_S):
            await app.open_async()
        yield app
    finally:
        await app.close_async()


async def run_jobs(app: App) -> None:
    """Work on jobs until cancelled; then those in hand have a few seconds to finish.

    It ends by itself, in one way or another, when the database is away.

    Raises:
        procrastinate.exceptions.ConnectorException: the database is away.
    """
    await app.run_worker_async(
        concurrency=_CONCURRENCY,
        delete_jobs=DeleteJobCondition.ALWAYS,
        install_signal_handlers=False,
        shutdown_graceful_timeout=_FINISH_TIMEOUT_S,
        update_heartbeat_interval=_HEARTBEAT_S,
        stalled_worker_timeout=_DEAD_AFTER_S,
    )


def _register(app: App, job: PeriodicJob) -> None:
    async def run(timestamp: int) -> None:
        await job.work()

    # One at most is waiting: ticks do not pile up behind slow work.
    task = app.task(
        name=job.name,
        queueing_lock=job.name,
        lock=job.name if job.alone else None,
        priority=_AHEAD_OF_DELIVERIES,
    )(run)
    app.periodic(cron=job.cron)(cast(Any, task))


def _put_back_orphans(app: App) -> PeriodicJob:
    """Jobs of workers that died go back into their queue."""

    async def work() -> None:
        for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=_DEAD_AFTER_S):
            try:
                await app.job_manager.retry_job(job)
            except UniqueViolation:  # the same one is waiting already
                await app.job_manager.finish_job(job, Status.FAILED, delete_job=True)

    return PeriodicJob("billing.put_back_orphans", "* * * * * */10", work)


async def _find_tables(connection: Connection) -> None:
    await connection.set_autocommit(True)
    await connection.execute("SELECT set_config('search_path', %(schema)s, false)", {"schema": SCHEMA})
