"""A tenant's owner is told by a signed webhook that a cap fills up, while the calls are made."""

from collections.abc import Iterator

import pytest

from tests.collector import Collector
from tests.contract.conftest import TenantOfTest
from tests.receiver import Received, Receiver
from tests.stack import Stack, wait_until

CALL = {"model": "retail-en", "text": "where is my parcel?"}


REACHED = "cap.threshold_reached"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


def test_calls_that_fill_a_cap_are_told_of_by_a_signed_webhook_that_its_commands_look_after(
    stack: Stack, tenant: TenantOfTest, receiver: Receiver, collector: Collector
) -> None:
    stack.cli("tenant", "set-cap", tenant.tenant_id, "--cap-units", "intent.calls=5")
    added = stack.cli("webhook", "add", "--tenant", tenant.tenant_id, receiver.url)
    with stack.http(tenant.key) as http:
        assert [http.post("/v1/intents", json=CALL).status_code for _ in range(4)] == [200] * 4

    # Slow calls may be told of at 50 % first.
    def at_80() -> list[Received]:
        reached = receiver.of_type(REACHED)
        return [one for one in reached if one.message["data"]["threshold_percent"] == 80]

    assert wait_until(lambda: bool(at_80()), 8)
    (told,) = at_80()
    assert told.is_signed_with(added["secret"])
    data = told.message["data"]
    assert (data["tenant_id"], data["key_id"], data["measure"]) == (tenant.tenant_id, None, "intent.calls")
    assert data["at_most"] == 5
    listed = stack.cli("alert", "list", "--tenant", tenant.tenant_id)["alerts"]
    assert (REACHED, data) in [(one["type"], one["data"]) for one in listed]
    assert wait_until(lambda: "aiaas.webhook.deliveries" in collector.metric_names(), 5)

    rotated = stack.cli("webhook", "rotate", added["webhook_id"])
    message_id = stack.cli("webhook", "test", added["webhook_id"])["message_id"]
    assert wait_until(lambda: bool(receiver.of_type("webhook.test")), 5)
    (one,) = receiver.of_type("webhook.test")
    assert one.id == message_id
    assert one.is_signed_with(added["secret"])
    assert one.is_signed_with(rotated["secret"])
    (shown,) = stack.cli("webhook", "list", "--tenant", tenant.tenant_id)["webhooks"]
    assert (shown["webhook_id"], shown["url"]) == (added["webhook_id"], receiver.url)
    assert "secret" not in shown
    stack.cli("webhook", "remove", added["webhook_id"])
    refused = stack.run_cli("webhook", "test", added["webhook_id"])
    assert (refused.returncode, refused.stderr) == (1, "Error: There is no such webhook.\n")
