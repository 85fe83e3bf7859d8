"""The refusal before the work: a call that the worker knows would pass a cap costs no computing."""

import json
import time
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from click.testing import CliRunner

from billing.caps import set_caps
from billing.charges import CapReachedError
from billing.ledger import Ledger
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS, MONEY
from billing.requests import IdempotentRequests
from gateway.cli import main
from gateway.customers import create_customer
from gateway.errors import STATUS_AND_TYPE
from gateway.limits import Limits
from gateway.metered import Metered, Rendered, Served, Work
from infra.database import Pool
from infra.errors import InvalidValueError
from infra.telemetry import Telemetry
from tenants.records import KeyRecord
from tests.billing_world import open_ledger, until


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    async with open_ledger(database_url) as opened:
        yield opened


def refuses(ledger: Ledger, tenant_id: str, meter: str = INTENT_CALLS, key_id: str = "key_1") -> bool:
    try:
        with ledger.hold(tenant_id, key_id, meter):
            return False
    except CapReachedError:
        return True


async def test_a_tenant_at_its_cap_is_refused_without_work_and_a_raised_cap_admits_within_a_second(
    ledger: Ledger, pool: Pool
) -> None:
    tenant = await create_customer(pool, "Test", caps={INTENT_CALLS: 2})
    caller = KeyRecord("key_1", tenant.tenant_id, frozenset({"intent"}), (), None, None)
    requests = IdempotentRequests(pool, ledger.session_id)
    metered = Metered(ledger, requests, Limits(1000, 100, 1), Telemetry.from_environ("test", {}))
    worked = 0

    async def serve() -> Served[str]:
        nonlocal worked
        worked += 1
        return Served("answer", 1, "engine", "model")

    def as_text(served: Served[str], _: UUID) -> Rendered:
        return Rendered(served.value.encode(), "text/plain")

    work = Work(
        caller=caller, product="intent", trace={}, timeout_s=5.0, repeatable=None, units_ahead=1, serve=serve
    )
    for _ in range(2):
        await metered.run(work, as_text)
    for _ in range(50):
        with pytest.raises(CapReachedError):
            await metered.run(work, as_text)
    assert worked <= 3, "the first refusal may come from the charge, those after it come before the work"
    await set_caps(pool, tenant.tenant_id, {INTENT_CALLS: 3})
    raised_at = time.monotonic()
    await until(lambda: not refuses(ledger, tenant.tenant_id))
    assert time.monotonic() - raised_at < 1.0
    await metered.run(work, as_text)


async def test_what_is_in_flight_counts_and_is_given_back(ledger: Ledger, pool: Pool) -> None:
    tenant = await create_customer(pool, "Test")
    await set_caps(pool, tenant.tenant_id, {MONEY: 1_000_000}, "key_1")  # two intent calls, and a bit
    with ledger.hold(tenant.tenant_id, "key_1", INTENT_CALLS):
        pass
    full: list[bool] = []

    def is_full_with_two_in_flight() -> bool:
        with ledger.hold(tenant.tenant_id, "key_1", INTENT_CALLS, 2):
            full.append(refuses(ledger, tenant.tenant_id))
            return full[-1]

    await until(is_full_with_two_in_flight)
    assert not refuses(ledger, tenant.tenant_id)
    assert not refuses(ledger, tenant.tenant_id, key_id="key_2")
    assert not refuses(ledger, tenant.tenant_id, ASR_AUDIO_MS)


def test_a_refusal_is_402() -> None:
    assert STATUS_AND_TYPE[CapReachedError.code][0] == 402


def test_caps_are_set_shown_and_taken_away_on_the_command_line(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)

    def aiaas(*arguments: str) -> dict[str, object]:
        result = CliRunner().invoke(main, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.output)

    tenant_id = str(
        aiaas("tenant", "create", "Acme", "--cap", "25.00", "--cap-units", "intent.calls=5")["tenant_id"]
    )
    key_id = aiaas("key", "create", "--tenant", tenant_id, "--cap", "0.000000001")["key_id"]
    money, units = (
        {"key_id": None, "measure": "money", "at_most": 25 * 10**9, "amount": "25.00 USD"},
        {"key_id": None, "measure": "intent.calls", "at_most": 5, "amount": "5 intent.calls"},
    )
    of_key = {"key_id": key_id, "measure": "money", "at_most": 1, "amount": "0.000000001 USD"}
    assert aiaas("tenant", "show", tenant_id)["caps"] == [money, units, of_key]
    left = aiaas("tenant", "set-cap", tenant_id, "--cap", "none", "--cap-units", "intent.calls=5")["caps"]
    assert left == [units, of_key]
    for bad in ("25,00", "-1", "1e3", "0.0000000001", "99999999999"):
        result = CliRunner().invoke(main, ["tenant", "set-cap", tenant_id, f"--cap={bad}"])
        assert result.exit_code == 1
        assert not isinstance(result.exception, InvalidValueError)
    assert CliRunner().invoke(main, ["tenant", "show", tenant_id]).output.count("\ncap ") == 2
