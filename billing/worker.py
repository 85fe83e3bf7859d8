"""`python -m billing.worker`: the process that works on jobs: months, runs, alerts, webhooks, collecting.

`DATABASE_URL` says where PostgreSQL is; its tables must be there. Progress goes to stdout as JSON lines, as
`serving.host` does it: one when ready, or one that says why not. It stays until SIGTERM or SIGINT, through
any absence of the database. Any number of these processes may run over one database.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec
from procrastinate.exceptions import ConnectorException
from psycopg import Error

from billing import accounts, alerts, closing, drafts, requests, retention, sealing
from billing.collecting.comparing import compare
from billing.collecting.listing import COMPARED_DAYS
from billing.collecting.switch import Collecting, open_collecting
from billing.deliveries import Deliveries
from billing.jobs import PeriodicJob, open_app, run_jobs
from billing.runs import due_runs
from billing.store.jobs import COLLECT, DELIVER, has_tables
from billing.targets import WebhookClient
from infra.database import Pool, connect, open_pool, unreachable
from infra.errors import StartupError, UnavailableError
from infra.logs import event, set_up_logs
from infra.settings import Settings, load_settings
from infra.telemetry import Telemetry

_NAME: Final = "aiaas-billing"
_POOL_SIZE: Final = 8
_PAUSE_S: Final = 1.0


class BillingWorker:
    """The work of one process. One event loop."""

    def __init__(self, settings: Settings, database_url: str, telemetry: Telemetry) -> None:
        self._settings = settings
        self._database_url = database_url
        self._count = telemetry.count_webhook_delivery
        self._client = WebhookClient(
            private_allowed=settings.webhooks_may_reach_private_addresses,
            timeout_s=settings.webhook_timeout_s,
        )

    async def run(self) -> None:
        """Work until cancelled; begin anew, with new connections, when the database was away."""
        while True:
            await self._until_reachable()
            with suppress(ConnectorException, Error, OSError, StartupError, UnavailableError):
                await self._work_while_connected()
            event("billing", logging.WARNING, "jobs_interrupted", {"again_after_s": _PAUSE_S})
            await asyncio.sleep(_PAUSE_S)

    async def _until_reachable(self) -> None:
        """Ask once a second: a pool would ask less and less often."""
        while True:
            with suppress(Error, OSError):
                await (await connect(self._database_url, _NAME)).close()
                return
            await asyncio.sleep(_PAUSE_S)

    async def _work_while_connected(self) -> None:
        pool = await open_pool(self._database_url, _POOL_SIZE, _NAME)
        try:
            await accounts.open_periods(pool, datetime.now(UTC))
            deliveries = Deliveries(
                pool, self._client, self._count, timeout_s=self._settings.webhook_timeout_s
            )
            periodic = _periodic_jobs(pool, deliveries, self._settings.alerts_every_s)
            tasks: dict[str, Callable[[str], Awaitable[None]]] = {DELIVER: deliveries.deliver}
            async with open_collecting(pool, self._settings) as collecting:
                if collecting:
                    tasks[COLLECT] = collecting.collector.collect
                    periodic += _collecting_jobs(pool, collecting)
                async with open_app(self._database_url, tasks, periodic) as app:
                    await run_jobs(app)
        finally:
            await pool.close()


def _periodic_jobs(pool: Pool, deliveries: Deliveries, alerts_every_s: int) -> list[PeriodicJob]:
    """All that is done by the clock."""

    async def open_periods() -> None:
        await accounts.open_periods(pool, datetime.now(UTC))

    async def evaluate_alerts() -> None:
        await alerts.evaluate(pool, datetime.now(UTC))

    async def close_ended_months() -> None:
        await closing.close_ended_months(pool, datetime.now(UTC))
        await sealing.seal_closed_months(pool)

    async def work_on_runs() -> None:
        if await due_runs(pool):
            await close_ended_months()
            await drafts.work_on_due_runs(pool)

    async def make_partitions() -> None:
        await retention.make_partitions(pool)

    async def forget_requests() -> None:
        await requests.forget_expired(pool)

    return [
        PeriodicJob("billing.open_periods", "0 * * * *", open_periods),
        PeriodicJob("billing.close_ended_months", "*/10 * * * *", close_ended_months),
        PeriodicJob("billing.work_on_runs", "* * * * * */2", work_on_runs, alone=True),
        PeriodicJob("billing.make_partitions", "20 * * * *", make_partitions),
        PeriodicJob("billing.forget_requests", "* * * * *", forget_requests),
        PeriodicJob("billing.evaluate_alerts", f"* * * * * */{alerts_every_s}", evaluate_alerts),
        PeriodicJob("billing.take_up_overdue", "* * * * * */2", deliveries.take_up_overdue),
        PeriodicJob("billing.forget_old_messages", "30 3 * * *", deliveries.forget_old),
    ]


def _collecting_jobs(pool: Pool, collecting: Collecting) -> list[PeriodicJob]:
    """What is done by the clock where invoices are collected through Stripe."""

    async def compare_both_sides() -> None:
        await compare(pool, collecting.api, collecting.collector, datetime.now(UTC), COMPARED_DAYS)

    return [
        PeriodicJob("billing.take_up_collections", "* * * * * */2", collecting.collector.take_up_due),
        PeriodicJob("billing.compare_collections", "10 4 * * *", compare_both_sides),
        PeriodicJob("billing.forget_stripe_events", "40 3 * * *", collecting.collector.forget_events),
    ]


def main() -> int:
    """Work until SIGTERM or SIGINT. Returns the exit status."""
    try:
        settings = load_settings(os.environ)
        set_up_logs(settings.log_level)
        if settings.database_url is None:
            raise StartupError("DATABASE_URL is not set: a worker is told where PostgreSQL is.")
        asyncio.run(_work(settings, settings.database_url.reveal()))
    except StartupError as error:
        _report({"part": "billing", "state": "failed", "error": str(error)})
        return 1
    except asyncio.CancelledError:
        return 0
    return 0


async def _work(settings: Settings, database_url: str) -> None:
    _cancel_on_signals()
    await _check_database(database_url)
    telemetry = Telemetry.from_environ(_NAME, os.environ)
    try:
        _report({"part": "billing", "state": "ready", "pid": os.getpid()})
        await BillingWorker(settings, database_url, telemetry).run()
    finally:
        telemetry.close()


async def _check_database(database_url: str) -> None:
    try:
        async with await connect(database_url, _NAME) as connection:
            if not await has_tables(connection):
                raise StartupError("The database has not all tables of this version. Run `aiaas migrate`.")
    except Error as error:
        raise unreachable(error) from None


def _cancel_on_signals() -> None:
    task = asyncio.current_task()
    assert task is not None
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, task.cancel)


def _report(line: dict[str, object]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
