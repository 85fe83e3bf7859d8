"""One running stack for all contract tests; each test makes a tenant of its own where counts matter."""

from collections.abc import Iterator

import pytest

from tests.collector import Collector
from tests.elsewhere import Elsewhere
from tests.fake_stripe import WEBHOOK_SECRET
from tests.stack import Stack


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    receiving = Collector()
    yield receiving
    receiving.close()


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Elsewhere]:
    """The stack's remote endpoint, to which nothing goes unless a tenant's placement lets it."""
    listening = Elsewhere()
    yield listening
    listening.close()


@pytest.fixture(scope="session")
def stack(
    tmp_path_factory: pytest.TempPathFactory, collector: Collector, elsewhere: Elsewhere
) -> Iterator[Stack]:
    environ = {
        **collector.environ(),
        **elsewhere.environ(),
        "ALERTS_EVERY_S": "1",
        "WEBHOOKS_MAY_REACH_PRIVATE_ADDRESSES": "true",
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
    }
    running = Stack(tmp_path_factory.mktemp("stack") / "home", workers=2, environ=environ)
    running.start()
    yield running
    assert running.stop() == 0


@pytest.fixture
def tenant(stack: Stack) -> "TenantOfTest":
    made = stack.cli("tenant", "create", "Test tenant")
    key = stack.cli("key", "create", "--tenant", made["tenant_id"])
    return TenantOfTest(made["tenant_id"], key["key_id"], key["key"])


class TenantOfTest:
    """A fresh tenant with one key."""

    def __init__(self, tenant_id: str, key_id: str, key: str) -> None:
        self.tenant_id = tenant_id
        self.key_id = key_id
        self.key = key
