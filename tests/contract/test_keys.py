"""A key opens what it should, as long as it should, and an error says why when it does not."""

import time

import httpx
import pytest

from tenants import keys
from tests.contract.conftest import TenantOfTest
from tests.stack import Stack


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_each_way_a_key_can_be_wrong_has_its_own_code(stack: Stack, tenant: TenantOfTest) -> None:
    unknown = keys.new_key("live")[1]
    swapped = tenant.key[:-1] + ("A" if tenant.key[-1] != "A" else "B")
    for key, code in [
        (unknown, "unknown_api_key"),
        (swapped, "malformed_api_key"),
        ("sk-x", "malformed_api_key"),
    ]:
        answer = httpx.get(f"{stack.url}/v1/models", headers={"authorization": f"Bearer {key}"})
        assert code_of(answer) == (401, code)
        assert key not in answer.text
    assert code_of(httpx.get(f"{stack.url}/v1/models")) == (401, "missing_api_key")
    basic = httpx.get(f"{stack.url}/v1/models", headers={"authorization": f"Basic {tenant.key}"})
    assert code_of(basic) == (401, "missing_api_key")


@pytest.mark.parametrize("scope", ["asr", "intent", "tts"])
def test_a_key_opens_only_the_products_of_its_scopes(stack: Stack, tenant: TenantOfTest, scope: str) -> None:
    key = stack.cli("key", "create", "--tenant", tenant.tenant_id, "--scope", scope)["key"]
    with stack.http(key) as http:
        statuses = {
            "asr": http.post("/v1/audio/transcriptions", json={}).status_code,
            "intent": http.post("/v1/intents", json={}).status_code,
            "tts": http.post("/v1/audio/speech", json={}).status_code,
        }
        assert http.get("/v1/usage").status_code == 200
    assert [product for product, status in statuses.items() if status != 403] == [scope]


def test_a_revoked_key_is_refused_by_every_worker_within_a_second(stack: Stack, tenant: TenantOfTest) -> None:
    assert all(status == 200 for status in statuses_over_new_connections(stack, tenant.key, 8))
    stack.cli("key", "revoke", tenant.key_id)
    time.sleep(1)
    assert set(statuses_over_new_connections(stack, tenant.key, 16)) == {401}
    assert code_of(httpx.get(f"{stack.url}/v1/models", headers={"authorization": f"Bearer {tenant.key}"}))[
        1
    ] == ("revoked_api_key")


def test_a_rotated_key_works_on_for_its_grace_time_only(stack: Stack, tenant: TenantOfTest) -> None:
    successor = stack.cli("key", "rotate", tenant.key_id)["key"]
    assert statuses_over_new_connections(stack, tenant.key, 2) == [200, 200]
    assert statuses_over_new_connections(stack, successor, 2) == [200, 200]
    second = stack.cli("key", "list", "--tenant", tenant.tenant_id)["keys"][-1]["key_id"]
    stack.cli("key", "rotate", second, "--grace-hours", "0")
    time.sleep(1)
    answer = httpx.get(f"{stack.url}/v1/models", headers={"authorization": f"Bearer {successor}"})
    assert code_of(answer) == (401, "expired_api_key")


def test_a_key_works_only_from_its_networks(stack: Stack, tenant: TenantOfTest) -> None:
    here = stack.cli("key", "create", "--tenant", tenant.tenant_id, "--from", "127.0.0.0/8")["key"]
    elsewhere = stack.cli("key", "create", "--tenant", tenant.tenant_id, "--from", "203.0.113.0/24")["key"]
    assert statuses_over_new_connections(stack, here, 1) == [200]
    assert statuses_over_new_connections(stack, elsewhere, 1) == [403]


def test_the_key_list_holds_no_secret(stack: Stack, tenant: TenantOfTest) -> None:
    listed = stack.run_cli("key", "list", "--json").stdout
    assert tenant.key_id in listed
    assert tenant.key.rsplit("_", 1)[1] not in listed


def test_rate_limit_headers_are_on_every_answer_to_a_key(stack: Stack) -> None:
    with stack.http() as http:
        for answer in (http.get("/v1/models"), http.post("/v1/intents", json={})):
            assert int(answer.headers["x-ratelimit-limit-requests"]) > 0
            assert int(answer.headers["x-ratelimit-remaining-requests"]) >= 0
            assert answer.headers["x-ratelimit-reset-requests"].endswith("s")


def statuses_over_new_connections(stack: Stack, key: str, count: int) -> list[int]:
    """A new connection each time, so that each worker is met."""
    headers = {"authorization": f"Bearer {key}"}
    return [httpx.get(f"{stack.url}/v1/models", headers=headers).status_code for _ in range(count)]
