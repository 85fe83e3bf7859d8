"""The billing worker as a process: many of them, killed, stopped, and with PostgreSQL gone for a while."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from billing.accounts import current_period
from billing.webhooks import add_webhook, send_test
from infra.database import Pool, open_pool
from infra.migrations import migrate
from infra.postgres import EmbeddedPostgres
from infra.processes import die_with_parent
from tests.billing_world import NOON, add_account
from tests.receiver import Receiver
from tests.stack import wait_until

WORKERS = "SELECT count(*) FROM procrastinate.procrastinate_workers WHERE %s <> ''"


class Worker:
    """`python -m billing.worker` with short times."""

    def __init__(self, database_url: str, log: Path, environ: dict[str, str] | None = None) -> None:
        self._log = log
        given = {
            "DATABASE_URL": database_url,
            "ALERTS_EVERY_S": "1",
            "WEBHOOK_TIMEOUT_S": "1",
            "WEBHOOKS_MAY_REACH_PRIVATE_ADDRESSES": "true",
            **(environ or {}),
        }
        with log.open("a") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "billing.worker"],
                env={**os.environ, **given},
                stdout=subprocess.PIPE,
                stderr=stderr,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    def wait_ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(10)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


async def eventually(holds: Any, timeout_s: float = 15) -> bool:
    return await asyncio.to_thread(wait_until, holds, timeout_s)


async def test_workers_share_messages_survive_each_other_and_make_months(
    database_url: str, pool: Pool, receiver: Receiver, tmp_path: Path
) -> None:
    tenant_id = await add_account(pool, now=NOON)
    issued = await add_webhook(pool, tenant_id, receiver.url, private_allowed=True)
    workers = [Worker(database_url, tmp_path / "log") for _ in range(2)]
    assert [worker.wait_ready()["state"] for worker in workers] == ["ready", "ready"]

    async def send() -> str:
        return await send_test(pool, issued.webhook.webhook_id, datetime.now(UTC))

    receiver.delay_s = 0.1
    sent = [await send() for _ in range(30)]
    assert await eventually(lambda: pending(database_url) == 0)
    assert sorted(one.id for one in receiver.received) == sorted(sent)
    assert all(one.is_signed_with(issued.secret.reveal()) for one in receiver.received)

    month = (await current_period(pool, tenant_id, datetime.now(UTC))).label
    assert await eventually(lambda: month in months(database_url, tenant_id))

    receiver.received.clear()
    receiver.delay_s = 0.9
    message_id = await send()
    assert await eventually(lambda: len(receiver.received) == 1)
    for worker in workers:
        worker.process.kill()
        worker.process.wait(5)
    receiver.delay_s = 0
    newcomer = await add_account(pool, now=NOON)
    heir = Worker(database_url, tmp_path / "log")
    assert await eventually(lambda: month in months(database_url, newcomer))
    assert await eventually(lambda: pending(database_url) == 0)
    assert [one.id for one in receiver.received] == [message_id] * 2
    assert set(receiver.most_at_once.values()) == {1}
    assert heir.stop() == 0
    assert "whsec_" not in heir.log()


async def test_a_worker_rides_through_an_absence_of_postgres(tmp_path: Path, receiver: Receiver) -> None:
    server = EmbeddedPostgres(tmp_path)
    server.start()
    await migrate(server.url)
    worker = Worker(server.url, tmp_path / "log")
    assert worker.wait_ready()["state"] == "ready"
    assert await eventually(lambda: one(server.url, WORKERS) == 1)
    server.stop()
    assert await eventually(lambda: "jobs_interrupted" in worker.log())
    assert worker.process.poll() is None
    server.start()
    pool = await open_pool(server.url, 2, "test")
    tenant_id = await add_account(pool, now=NOON)
    issued = await add_webhook(pool, tenant_id, receiver.url, private_allowed=True)
    message_id = await send_test(pool, issued.webhook.webhook_id, datetime.now(UTC))
    assert await eventually(lambda: [one.id for one in receiver.received] == [message_id])
    await pool.close()
    assert worker.stop() == 0
    server.stop()


def test_a_database_without_tables_or_that_does_not_answer_is_named(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    empty_url = postgres.url.rsplit("/", 1)[0] + "/postgres"
    for url, word in ((empty_url, "aiaas migrate"), ("postgresql://u:hunter2@127.0.0.1:9/x", "DATABASE_URL")):
        worker = Worker(url, tmp_path / "log")
        line = worker.wait_ready()
        assert (line["part"], line["state"]) == ("billing", "failed")
        assert word in line["error"]
        assert worker.process.wait(10) == 1
        assert "hunter2" not in worker.log() + line["error"]


def pending(database_url: str) -> int:
    return one(
        database_url, "SELECT count(*) FROM billing.webhook_message WHERE state = 'pending' AND %s <> ''"
    )


def months(database_url: str, tenant_id: str) -> list[str]:
    return one(
        database_url,
        "SELECT array_agg(DISTINCT period) FROM billing.period_counter WHERE tenant_id = %s",
        tenant_id,
    )


def one(database_url: str, query: str, value: str = "x") -> Any:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(query, [value]).fetchone()
    assert row is not None
    return row[0]
