"""Webhook messages: signed, at least once, one attempt at a time, tried again within bounds, given up."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from billing.alerts import list_alerts
from billing.deliveries import FIRST_RETRY_MS, MOST_ATTEMPTS, Deliveries, retry_pause
from billing.outbox import WEBHOOK_DISABLED
from billing.targets import WebhookClient
from billing.webhooks import (
    IssuedWebhook,
    add_webhook,
    list_webhooks,
    remove_webhook,
    rotate_secret,
    send_test,
)
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from tests.billing_world import add_account, add_tenant
from tests.receiver import Receiver

TIMEOUT_S = 0.5


class World:
    """A tenant with one webhook at a receiver, and who delivers to it."""

    def __init__(self, pool: Pool, receiver: Receiver, tenant_id: str, issued: IssuedWebhook) -> None:
        self.pool = pool
        self.receiver = receiver
        self.tenant_id = tenant_id
        self.webhook_id = issued.webhook.webhook_id
        self.secret = issued.secret.reveal()
        self.outcomes: Counter[str] = Counter()
        self.deliveries = self.another()

    def another(self, first_retry_ms: int = 10) -> Deliveries:
        client = WebhookClient(private_allowed=True, timeout_s=TIMEOUT_S)
        return Deliveries(self.pool, client, self._count, timeout_s=TIMEOUT_S, first_retry_ms=first_retry_ms)

    async def send(self) -> str:
        return await send_test(self.pool, self.webhook_id, datetime.now(UTC))

    async def drain(self) -> None:
        """Delivers what is due until nothing is pending."""
        async with asyncio.timeout(10):
            while pending := self.rows(
                "SELECT message_id FROM billing.webhook_message WHERE state = 'pending'"
            ):
                for (message_id,) in pending:
                    await self.deliveries.deliver(message_id)
                await asyncio.sleep(0.01)

    def message(self, message_id: str) -> tuple[Any, ...]:
        """Its state, attempts, last status and error."""
        return self.rows(
            "SELECT state, attempts, last_status, last_error FROM billing.webhook_message "
            f"WHERE message_id = '{message_id}'"
        )[0]

    def jobs(self, message_id: str) -> list[datetime | None]:
        """When the message's waiting jobs are scheduled."""
        found = self.rows(
            "SELECT scheduled_at FROM procrastinate.procrastinate_jobs "
            f"WHERE args->>'message_id' = '{message_id}' AND status = 'todo'"
        )
        return [scheduled_at for (scheduled_at,) in found]

    def forget_jobs(self) -> None:
        self.execute("SET search_path = procrastinate; DELETE FROM procrastinate_jobs")

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.pool.conninfo) as connection:
            connection.execute(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.pool.conninfo) as connection:
            return connection.execute(query).fetchall()

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] += 1


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


@pytest.fixture
async def world(pool: Pool, receiver: Receiver) -> World:
    tenant_id = await add_account(pool)
    issued = await add_webhook(pool, tenant_id, receiver.url, private_allowed=True)
    return World(pool, receiver, tenant_id, issued)


async def test_a_message_arrives_signed_in_the_standard_format(world: World) -> None:
    message_id = await world.send()
    await world.deliveries.deliver(message_id)
    (one,) = world.receiver.received
    assert one.id == message_id
    assert one.is_signed_with(world.secret)
    assert one.headers["content-type"] == "application/json"
    assert set(one.message) == {"type", "timestamp", "data"}
    assert (one.message["type"], one.message["data"]["webhook_id"]) == ("webhook.test", world.webhook_id)
    assert world.message(message_id) == ("delivered", 1, 204, None)
    assert world.outcomes == {"delivered": 1}
    await world.deliveries.deliver(message_id)
    assert len(world.receiver.received) == 1


async def test_a_receiver_that_fails_and_recovers_gets_the_same_message_again(world: World) -> None:
    world.receiver.answer = lambda number: (500 if number < 3 else 200, {})
    message_id = await world.send()
    await world.drain()
    assert [one.id for one in world.receiver.received] == [message_id] * 4
    assert len({one.body for one in world.receiver.received}) == 1
    assert all(one.is_signed_with(world.secret) for one in world.receiver.received)
    assert world.message(message_id) == ("delivered", 4, 200, None)
    assert world.outcomes == {"failed": 3, "delivered": 1}
    (listed,) = await list_webhooks(world.pool, world.tenant_id)
    assert (listed.failing_since, listed.last_status, listed.pending) == (None, 200, 0)


async def test_a_failed_attempt_leaves_its_trace_and_a_job_for_the_next_one(world: World) -> None:
    world.receiver.answer = lambda _: (503, {})
    message_id = await world.send()
    world.forget_jobs()
    await world.another(first_retry_ms=100_000).deliver(message_id)
    assert world.message(message_id) == ("pending", 1, 503, "http_503")
    (due_at,) = world.jobs(message_id)
    assert due_at is not None
    assert timedelta(seconds=99) < due_at - datetime.now(UTC) <= timedelta(seconds=120)
    (listed,) = await list_webhooks(world.pool)
    assert listed.failing_since is not None
    assert (listed.pending, listed.last_error) == (1, "http_503")


@pytest.mark.parametrize(
    ("answer", "delay_s", "error"),
    [((302, {"location": "http://127.0.0.1:9/"}), 0, "http_302"), ((200, {}), 2 * TIMEOUT_S, "timeout")],
)
async def test_a_redirect_or_a_late_answer_is_a_failure(
    world: World, answer: tuple[int, dict[str, str]], delay_s: float, error: str
) -> None:
    world.receiver.answer, world.receiver.delay_s = lambda _: answer, delay_s
    message_id = await world.send()
    await world.deliveries.deliver(message_id)
    assert world.message(message_id)[3] == error
    assert len(world.receiver.received) == 1


async def test_a_receiver_that_asks_for_a_pause_gets_it(world: World) -> None:
    world.receiver.answer = lambda _: (429, {"retry-after": "600"})
    message_id = await world.send()
    world.forget_jobs()
    await world.deliveries.deliver(message_id)
    (due_at,) = world.jobs(message_id)
    assert due_at is not None
    assert due_at - datetime.now(UTC) > timedelta(seconds=590)


async def test_after_ten_attempts_a_message_is_given_up_and_the_webhook_stays(world: World) -> None:
    world.receiver.answer = lambda _: (500, {})
    world.deliveries = world.another(first_retry_ms=0)
    message_id = await world.send()
    await world.drain()
    assert world.message(message_id) == ("given_up", MOST_ATTEMPTS, 500, "http_500")
    assert len(world.receiver.received) == MOST_ATTEMPTS
    assert (await list_webhooks(world.pool))[0].disabled_at is None


def test_the_attempts_take_about_a_day_and_their_pauses_only_grow() -> None:
    for _ in range(100):
        pauses = [retry_pause(attempts, FIRST_RETRY_MS) for attempts in range(1, MOST_ATTEMPTS)]
        assert pauses == sorted(pauses)
        assert timedelta(hours=20) < sum(pauses, timedelta()) < timedelta(hours=28)


async def test_a_webhook_that_fails_for_days_is_disabled_and_that_is_said(
    world: World, receiver: Receiver
) -> None:
    elsewhere = Receiver()
    other = await add_webhook(world.pool, world.tenant_id, elsewhere.url, private_allowed=True)
    receiver.answer = lambda _: (500, {})
    world.deliveries = world.another(first_retry_ms=0)
    waiting = await world.send()
    world.execute("UPDATE billing.webhook_message SET due_at = now() + interval '1 day'")
    last = await world.send()
    world.execute(
        f"UPDATE billing.webhook SET failing_since = now() - interval '73 hours' "
        f"WHERE webhook_id = '{world.webhook_id}'"
    )
    while world.message(last)[0] == "pending":
        await world.deliveries.deliver(last)
    assert [world.message(one)[0] for one in (waiting, last)] == ["given_up", "given_up"]
    disabled, enabled = await list_webhooks(world.pool, world.tenant_id)
    assert (disabled.disabled_reason, enabled.disabled_at) == ("failing", None)
    (alert,) = await list_alerts(world.pool, world.tenant_id)
    assert (alert.type, alert.data["webhook_id"]) == (WEBHOOK_DISABLED, world.webhook_id)
    await world.drain()
    (said,) = elsewhere.received
    assert said.is_signed_with(other.secret.reveal())
    assert said.message["data"]["message"] == alert.data["message"]
    with pytest.raises(InvalidValueError):
        await world.send()
    elsewhere.close()


async def test_a_receiver_that_is_gone_is_disabled_at_once(world: World) -> None:
    world.receiver.answer = lambda _: (410, {})
    message_id = await world.send()
    await world.deliveries.deliver(message_id)
    assert world.message(message_id) == ("given_up", 1, 410, "http_410")
    assert (await list_webhooks(world.pool))[0].disabled_reason == "gone"


async def test_no_two_workers_deliver_a_message_at_the_same_time(world: World) -> None:
    world.receiver.delay_s = 0.2
    message_id = await world.send()
    workers = [world.another() for _ in range(4)]
    await asyncio.gather(*(worker.deliver(message_id) for worker in workers * 2))
    assert [one.id for one in world.receiver.received] == [message_id]


async def test_a_message_whose_worker_died_is_delivered_again_under_its_id(world: World) -> None:
    world.receiver.delay_s = 0.2
    message_id = await world.send()
    world.forget_jobs()
    dying = asyncio.create_task(world.deliveries.deliver(message_id))
    while not world.receiver.received:
        await asyncio.sleep(0.01)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    assert world.message(message_id)[:2] == ("pending", 1)
    await world.deliveries.deliver(message_id)
    assert len(world.receiver.received) == 1, "it may still be under way: nobody tries before that is over"
    assert await world.deliveries.take_up_overdue() == 0
    world.execute("UPDATE billing.webhook_message SET due_at = due_at - interval '10 seconds'")
    assert await world.deliveries.take_up_overdue() == 1
    assert await world.deliveries.take_up_overdue() == 1
    assert world.jobs(message_id) == [None]
    await world.drain()
    assert [one.id for one in world.receiver.received] == [message_id] * 2


async def test_a_late_end_of_an_attempt_changes_nothing_of_a_later_one(world: World) -> None:
    world.receiver.answer = lambda number: (500 if number == 0 else 200, {})
    world.receiver.delay_s = 0.2
    message_id = await world.send()
    world.forget_jobs()
    first = asyncio.create_task(world.deliveries.deliver(message_id))
    while not world.receiver.received:
        await asyncio.sleep(0.01)
    world.receiver.delay_s = 0.4
    world.execute("UPDATE billing.webhook_message SET due_at = now()")
    second = asyncio.create_task(world.another().deliver(message_id))
    await first
    assert world.message(message_id) == ("pending", 2, None, None)
    assert world.jobs(message_id) == []
    await second
    assert world.message(message_id) == ("delivered", 2, 200, None)


async def test_a_rotated_secret_signs_along_with_the_old_one_for_a_day(world: World) -> None:
    new = (await rotate_secret(world.pool, world.webhook_id)).secret.reveal()
    await world.send()
    await world.drain()
    assert world.receiver.received[0].is_signed_with(world.secret)
    assert world.receiver.received[0].is_signed_with(new)
    world.execute("UPDATE billing.webhook SET previous_secret_until = now() - interval '1 second'")
    await world.send()
    await world.drain()
    assert not world.receiver.received[1].is_signed_with(world.secret)
    assert world.receiver.received[1].is_signed_with(new)


async def test_a_removed_webhook_gets_nothing_more(world: World) -> None:
    message_id = await world.send()
    await remove_webhook(world.pool, world.webhook_id)
    await world.deliveries.deliver(message_id)
    assert world.receiver.received == []
    with pytest.raises(NotFoundError):
        await remove_webhook(world.pool, world.webhook_id)


async def test_where_private_addresses_are_not_allowed_nothing_is_sent_to_one(world: World) -> None:
    client = WebhookClient(private_allowed=False, timeout_s=TIMEOUT_S)
    message_id = await world.send()
    await Deliveries(world.pool, client, world.outcomes.update, timeout_s=TIMEOUT_S).deliver(message_id)
    assert world.message(message_id) == ("pending", 1, None, "address_refused")
    assert world.receiver.received == []


async def test_webhooks_are_bounded_and_of_tenants_with_an_account(world: World) -> None:
    async def add(tenant_id: str) -> IssuedWebhook:
        return await add_webhook(world.pool, tenant_id, world.receiver.url, private_allowed=True)

    added = await asyncio.gather(*(add(world.tenant_id) for _ in range(12)), return_exceptions=True)
    assert sum(isinstance(one, InvalidValueError) for one in added) == 3
    assert len(await list_webhooks(world.pool, world.tenant_id)) == 10
    with pytest.raises(NotFoundError):
        await add(await add_tenant(world.pool))


async def test_a_secret_shows_in_nothing_but_the_signature(world: World) -> None:
    listed = await list_webhooks(world.pool)
    message_id = await world.send()
    await world.deliveries.deliver(message_id)
    issued = await rotate_secret(world.pool, world.webhook_id)
    shown = f"{listed!r} {issued!r} {world.receiver.received[0].headers} {world.receiver.received[0].body!r}"
    assert "whsec_" not in shown


async def test_messages_done_with_long_ago_are_forgotten_and_pending_ones_never(world: World) -> None:
    old, pending = await world.send(), await world.send()
    await world.deliveries.deliver(old)
    world.execute("UPDATE billing.webhook_message SET created_at = now() - interval '91 days'")
    assert await world.deliveries.forget_old() == 1
    assert world.rows("SELECT message_id FROM billing.webhook_message") == [(pending,)]
