"""Promise 3 over HTTP: a hard cap is never overrun, over several workers, and 402 says what to do."""

import concurrent.futures
from collections import Counter

import httpx
import openai
import psycopg
import pytest

from tests.stack import Stack, wait_until

CALL = {"model": "retail-en", "text": "where is my parcel?"}


def make(stack: Stack, *options: str) -> tuple[str, str]:
    tenant_id = stack.cli("tenant", "create", "Capped", *options)["tenant_id"]
    return tenant_id, stack.cli("key", "create", "--tenant", tenant_id)["key"]


def hammer(stack: Stack, key: str, calls: int) -> Counter[int]:
    def call(_: int) -> httpx.Response:
        with stack.http(key) as http:
            return http.post("/v1/intents", json=CALL)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return Counter(answer.status_code for answer in pool.map(call, range(calls)))


@pytest.mark.parametrize("cap", [("--cap-units", "intent.calls=20"), ("--cap", "0.008")])  # 0.0004 a call
def test_a_cap_lets_exactly_its_calls_through_over_all_workers(stack: Stack, cap: tuple[str, str]) -> None:
    tenant_id, key = make(stack, *cap)
    assert hammer(stack, key, 64) == {200: 20, 402: 44}
    usage = stack.cli("usage", "--tenant", tenant_id)["meters"]["intent.calls"]
    assert usage == {"units": 20, "calls": 20}


def test_refused_calls_are_counted_for_the_review_of_invoices(stack: Stack) -> None:
    tenant_id, key = make(stack, "--cap-units", "intent.calls=0")
    assert hammer(stack, key, 3) == {402: 3}
    counted = "SELECT code, sum(calls) FROM billing.refusal_counter WHERE tenant_id = %s GROUP BY code"
    with psycopg.connect(stack.cli("db-url")["url"], autocommit=True) as connection:
        assert wait_until(
            lambda: connection.execute(counted, [tenant_id]).fetchall() == [("insufficient_quota", 3)], 12
        )


def test_a_refused_call_is_not_tried_again_by_the_official_client(stack: Stack) -> None:
    _, key = make(stack, "--cap-units", "tts.characters=5")
    client = stack.openai(key).with_options(max_retries=3)
    with pytest.raises(openai.APIStatusError) as refused:
        client.audio.speech.create(model="tts-1", voice="alloy", input="too long for the cap")
    assert (refused.value.status_code, refused.value.code) == (402, "insufficient_quota")
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_a_lowered_cap_is_in_effect_at_once_and_a_raised_one_within_two_seconds(stack: Stack) -> None:
    tenant_id, key = make(stack, "--cap-units", "intent.calls=0")
    assert hammer(stack, key, 2) == {402: 2}
    stack.cli("tenant", "set-cap", tenant_id, "--cap-units", "intent.calls=3")
    assert wait_until(lambda: hammer(stack, key, 1)[200] == 1, 2)
    stack.cli("tenant", "set-cap", tenant_id, "--cap-units", "intent.calls=none")
    assert wait_until(lambda: hammer(stack, key, 8)[200] == 8, 2)
    stack.cli("tenant", "set-cap", tenant_id, "--cap-units", "intent.calls=0")
    assert hammer(stack, key, 4) == {402: 4}


def test_the_running_system_reconciles(stack: Stack) -> None:
    found = stack.cli("reconcile")
    assert found["usage_rows"] > 0
    assert found["difference"] == 0
